"""`recover RUN` where only the engine knows the run, or not all of it can be given up: what can be is undone, and no more is claimed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from blackstart.commands.recovering import recover
from blackstart.drills import recovery
from blackstart.drills.journal import NAME, read_journal
from blackstart.drills.verdict import ExitCode
from blackstart.injectors.platforms import docker_left
from blackstart.injectors.platforms.base import PlatformError
from blackstart.tests.unit.test_stored_runs import stored


@pytest.mark.parametrize(
    ("scenario", "patience_s"), [("observe: 150s\n", 150.0), ("observe: 10s\n", 60.0), ("a: kind\nof: yesterday\n", 60.0)]
)
def test_an_undo_has_the_time_that_the_drill_would_have_given_it(tmp_path: Path, scenario: str, patience_s: float) -> None:
    """A model that loads for minutes must not be called lost; a scenario that is not read any more must not keep a fault in place."""
    head = "apiVersion: blackstart/v1\nkind: Scenario\nname: slow\nobjectives: {rto: 60s}\nfaults: [{kind: replica-kill}]\n"
    (tmp_path / "scenario.yaml").write_text(head + scenario, encoding="utf-8")
    assert recovery.patience_s(tmp_path) == patience_s


class Left:
    """Of one run; `problem`: why it cannot be undone."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem

    def runs(self) -> Mapping[str, list[str]]:
        return {"run-1": ["blackstart-net-1"]}

    def end(self, run: str) -> list[str]:
        if self.problem:
            raise PlatformError(self.problem)
        return [f"removed what {run} had"]


@pytest.mark.parametrize(
    ("problem", "said"),
    [("", "no more than that was undone"), ("it is frozen", "STILL BROKEN: it is frozen")],
)
def test_a_run_without_its_folder_is_not_said_to_be_well(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problem: str,
    said: str,
) -> None:
    @contextmanager
    def opened_left(_: Mapping[str, str]) -> Iterator[Left]:
        yield Left(problem)

    monkeypatch.setattr(docker_left, "opened_left", opened_left)
    for name, value in {"DOCKER_HOST": "unix:///nowhere", "BLACKSTART_STATE_DIR": str(tmp_path), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert recover("run-1", tmp_path, everything=False, accept=False) is ExitCode.DIRTY
    assert said in capsys.readouterr().out


def test_a_run_that_is_closed_on_a_persons_word_is_swept_also_where_not_all_could_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, swept = stored(tmp_path / "run-1", {}), list[str]()

    def refused(run: str) -> None:
        raise PlatformError(f"this login may not list what {run} left")

    @contextmanager
    def opened(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(abandon=refused, sweep=swept.append)

    monkeypatch.setattr(recovery, "open_platform", opened)
    recovery.accept("run-1", folder, {"BLACKSTART_STATE_DIR": str(tmp_path / "state")})
    assert swept == ["run-1"]
    assert read_journal(folder / NAME)[0][-1].event == "accepted"
