"""Whole drills as a person starts them: the installed command, in its own process, on a real service."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.loading import load_service
from blackstart.drills.measure.probing import await_right

COMMAND = [sys.executable, "-m", "blackstart"]
FAILED, INCONCLUSIVE = 1, 3
TRIES = 5
CHANCE = ("void by its own fault", "the interval straddles the target", "could have gone unseen between two probes")
SHORT = ("steady_state.hold=3s", "settle=3s", "observe=20s")


def until(what: str, look: Callable[[], Any], within_s: float = 30.0) -> Any:
    """Wait for something true; says what was awaited and last seen when it does not come."""
    limit = time.monotonic() + within_s
    while True:
        last = time.monotonic() > limit  # a look that began before may have been held up itself
        if seen := look():
            return seen
        if last:
            raise AssertionError(f"waited {within_s:g} s for {what}; last seen: {seen!r}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, both streams, and the newest run's folder."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        path = self.folder / "result.json"
        assert path.exists(), f"exit {self.code} and no result:\n{self.out}\n{self.err}"
        return json.loads(path.read_text(encoding="utf-8"))

    def codes(self) -> set[str]:
        return {reason["code"] for reason in self.result["reasons"]}

    def told_nothing(self, wanted: str, calm: tuple[str, ...] = (), by: str = "") -> bool:
        """Whether chance decided that, and the drill says so: the machine was too busy for a prober, or for the service before or at the fault;
        or what it saw is too coarse for the target; or of four streams none was open on the replica that was hit, one time in sixteen. A failure
        where a pass is `wanted` as well, if the prober was not trusted: what it saw may be its own machine's. Whatever it found, where a
        lane that begins with one of `calm` was late and no worse: that is the machine, and what is asked of it is that nothing becomes of it;
        and where the objective is open `by` which the service is to be judged, though another one failed.
        """
        if calm and any(each["lane"].startswith(calm) and set(each["classes"]) == {"slow"} for each in self.result["outages"]):
            return True
        if self.code not in {FAILED, INCONCLUSIVE}:
            return False
        if any(one["name"] == by and one["verdict"] == "inconclusive" for one in self.result["objectives"]):
            return True
        texts = [reason["text"] for reason in self.result["reasons"]]
        if any("already down when the first fault was injected" in text for text in texts):
            return True
        if self.code == FAILED:
            return wanted == "passed" and "prober-untrusted" in self.codes()
        streams = self.result["measurements"]["streams"] or {}
        chance = any(words in text for words in CHANCE for text in texts)
        return chance or bool({"prober-untrusted", "not-steady"} & self.codes()) or streams.get("at_stake") == 0


@dataclass(frozen=True)
class Blackstart:
    """Runs the command in an empty folder of its own."""

    folder: Path
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.folder / "blackstart-runs"

    def __call__(self, *arguments: str | Path, within_s: float = 110.0, **environment: str) -> Done:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr, self.newest())

    def telling(
        self,
        *arguments: str | Path,
        within_s: float = 110.0,
        wanted: str = "",
        calm: tuple[str, ...] = (),
        by: str = "",
        **environment: str,
    ) -> Done:
        """A drill, which is made again where it told nothing; `wanted` is the verdict that it should have, if there is one, `by` an objective;
        with `calm` begin the lanes on which nothing should be seen.
        """
        for _ in range(TRIES):
            done = self(*arguments, within_s=within_s, **environment)
            if not done.told_nothing(wanted, calm, by):
                break
        return done

    def newest(self) -> Path:
        link = self.runs / "latest"
        return link.resolve() if link.exists() else self.runs

    def started(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def in_fault(
        self, scenario: Path, service: Path, number: int = 1, within_s: float = 30.0
    ) -> tuple["subprocess.Popen[str]", Path]:
        """A drill under way, once so many faults are in effect, and its folder."""
        return self.under_way("run", scenario, "--service", service, "--yes", number=number, within_s=within_s)

    def under_way(
        self, *words: str | Path, event: str = "effective", number: int = 1, within_s: float = 30.0, runs: Path | None = None
    ) -> tuple["subprocess.Popen[str]", Path]:
        """A drill under way, once its journal tells of such an event so often, and its folder (in `runs`, where that is not the usual place);
        begun again where the service was not steady before any fault.
        """
        said: object = ""
        for _ in range(TRIES):
            process, folder = self._as_far_as(event, number, within_s, runs or self.runs, *words)
            if process.poll() is None:
                return process, folder
            said = process.communicate()
            assert "not-steady" in events(folder), said
        raise AssertionError(said)

    def _as_far_as(
        self, event: str, number: int, within_s: float, runs: Path, *words: str | Path
    ) -> tuple["subprocess.Popen[str]", Path]:
        known = set(runs.glob("2*"))
        process = self.started(*words)

        def come_so_far() -> Path | None:
            folder = next((each for each in runs.glob("2*") if each not in known), None)
            if process.poll() is not None:
                return folder or runs  # it ended before it had one
            return folder if folder and events(folder).count(event) == number else None

        return process, until(f"{number} times {event}", come_so_far, within_s)

    def end(self) -> None:
        """Stop what a failed test left running, with its undo."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                process.send_signal(signal.SIGCONT)  # the test may have stopped it
                process.wait(timeout=60)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


@contextmanager
def another_machine(folder: Path) -> Iterator[Blackstart]:
    """blackstart where nothing is known of what was run here; it has its own place in that folder."""
    own = folder / "another-machine"
    own.mkdir()
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("BLACKSTART_STATE_DIR", str(own / "state"))
        yield Blackstart(own)


def events(folder: Path) -> list[str]:
    journal = folder / "journal.jsonl"
    if not journal.exists():
        return []
    return [json.loads(line)["event"] for line in journal.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def proven_by(folder: Path) -> list[dict[str, Any]]:
    """The evidence of each fault in effect, by the journal."""
    told = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    return [each["evidence"] for each in told if each["event"] == "effective"]


def short(*more: str) -> list[str]:
    return [word for setting in (*SHORT, *more) for word in ("--set", setting)]


def kill_quietly(process: "subprocess.Popen[str]", number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate(timeout=60)


def await_well(service_file: Path) -> None:
    """What an earlier drill did to a service with flaws (an overload that outlives it) is no part of the next one."""
    profile = load_service(service_file)

    def answers_quickly() -> bool:
        began = time.monotonic()
        return await_right(profile, (), 30.0) and time.monotonic() - began < 2.0

    for _ in range(3):
        until("the service to be well", answers_quickly, 120)
