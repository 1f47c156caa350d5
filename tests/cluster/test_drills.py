"""Whole drills on a real cluster: the shipped scenarios' verdicts, and that nothing is left behind, whatever dies."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from blackstart.commands.demo_kubernetes import deployed
from blackstart.injectors.platforms.base import PlatformError
from blackstart.injectors.platforms.kube_agents import look
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_exec import Container
from blackstart.tests.cluster.conftest import DEVKUBE, volumes_of
from blackstart.tests.command import Blackstart, await_well, events, kill_quietly, until
from blackstart.tests.drills.expected import EXPECTED, contradiction

SHORT = ("steady_state.hold=4s", "settle=4s")
HEAD = "apiVersion: blackstart/v1\nkind: Scenario\nname: held\nobjectives: {rto: 60s}\nsteady_state: {hold: 4s}\nsettle: 3s\nobserve: 60s\n"
HANG = "{kind: process-hang, role: engine, target: {names: [replica-0]}, for: 50s}"
OURS = "app.kubernetes.io/managed-by=blackstart,app.kubernetes.io/part-of!=blackstart-demo"


# A hardened engine that hangs is replaced: there is nothing to undo, to end or to recover.
plain = pytest.mark.parametrize("kind", ["plain"], indirect=True)


@pytest.fixture(scope="module", params=["plain", "hardened"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def service(api: KubeApi, cluster: Path, image: str, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The service file of a demo that runs for the tests of this file; each drill must leave it as it was."""
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(cluster)
    with (
        volumes_of(api, tmp_path_factory.mktemp("volumes")) as storage_class,
        deployed(api, image, hardened=kind == "hardened", tell=print, storage_class=storage_class) as file,
    ):
        yield file
    os.environ.pop("KUBECONFIG") if before is None else os.environ.update(KUBECONFIG=before)


def left(api: KubeApi) -> list[str]:
    """What blackstart has in the cluster, apart from the demo service itself."""
    found = []
    for path in (
        place("configmaps"),
        place("pods"),
        place("leases", group="coordination.k8s.io/v1"),
        place("jobs", group="batch/v1"),
    ):
        found += [f"{path}: {each['metadata']['name']}" for each in api.items(path, labels=OURS)[0]]
    return found


@pytest.fixture(autouse=True)
def well(service: Path) -> None:
    await_well(service)


@pytest.mark.timeout(360)
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_scenario(blackstart: Blackstart, service: Path, api: KubeApi, kind: str, name: str) -> None:
    words = [word for setting in (*SHORT, *EXPECTED[name].settings) for word in ("--set", setting)]
    done = blackstart("run", name, *words, "--service", service, "--yes", within_s=200.0)
    wrong = contradiction(name, kind, done.result if done.folder != blackstart.runs else None)
    assert not wrong, f"{wrong}\n{done.out}\n{done.err}"
    assert left(api) == []


def in_hang(blackstart: Blackstart, service: Path) -> tuple["subprocess.Popen[str]", Path]:
    path = blackstart.folder / "held.yaml"
    path.write_text(f"{HEAD}faults:\n  - {HANG}\n", encoding="utf-8")
    process = blackstart.started("run", path, "--service", service, "--yes")
    folder = blackstart.only_run()

    def effective() -> bool:
        assert process.poll() is None, process.communicate()
        return "effective" in events(folder)

    until("the fault to be in effect", effective, 60)
    return process, folder


def stopped(api: KubeApi, folder: Path) -> bool:
    """Whether the process that the drill stopped is stopped, by the kernel's word."""
    record = next(json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines() if '"undo-recorded"' in line)
    (process,) = record["undo"]["prior"]["processes"]
    pod, _, inside = process["identity"].removeprefix("pod:").partition("@")[0].partition("/")[2], "", process["identity"]
    namespace = process["identity"].removeprefix("pod:").partition("/")[0]
    identity = "pid:" + inside.rpartition("/pid:")[2]
    with suppress(PlatformError):
        states = look(api, Container(namespace, pod, process["details"]["container"]), "states", {"identities": [identity]})[
            "states"
        ]
        return states[identity] == "stopped"
    return False


@pytest.mark.timeout(360)
@plain
def test_sigkill_is_recovered_from_another_machine(
    blackstart: Blackstart, service: Path, api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, folder = in_hang(blackstart, service)
    second = tmp_path / "second"
    second.mkdir()
    monkeypatch.setenv("BLACKSTART_STATE_DIR", str(tmp_path / "other-machine"))
    refused = Blackstart(second)("run", "replica-kill-midstream", "--service", service, "--yes")
    assert refused.code == 2
    assert f"is being drilled by {folder.name}" in refused.err
    kill_quietly(process)
    assert stopped(api, folder)
    assert left(api)
    done = Blackstart(second)("recover", "--all", within_s=110)
    assert done.code == 0, done.out + done.err
    assert "process-hang: undone" in done.out
    assert not stopped(api, folder)
    assert left(api) == []
    monkeypatch.undo()
    assert blackstart("recover", "--all").code == 0


@pytest.mark.timeout(360)
@plain
def test_sigkill_ends_the_fault_at_the_site_by_itself(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    process, folder = in_hang(blackstart, service)
    kill_quietly(process)
    assert stopped(api, folder)
    until("the engine to go on without anybody's help", lambda: not stopped(api, folder), 90)
    assert blackstart("recover", "--all").code == 0
    assert left(api) == []


@pytest.mark.timeout(120)
@plain
def test_an_interrupt_undoes_and_leaves_nothing(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    process, folder = in_hang(blackstart, service)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 4, err
    assert "undo-verified" in events(folder)
    assert not stopped(api, folder)
    assert left(api) == []


@pytest.mark.timeout(360)
@plain
def test_an_api_server_that_is_away_for_a_while_ends_no_fault(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    if api.context != "devkube":
        pytest.skip("only devkube's API server can be stopped")
    process, folder = in_hang(blackstart, service)
    status = subprocess.run([DEVKUBE, "status"], capture_output=True, text=True, check=True).stdout
    server = int(re.findall(r"kube-apiserver\s+(\d+)", status)[0])
    os.kill(server, signal.SIGSTOP)
    since = time.monotonic()
    try:
        until("20 s to be over", lambda: time.monotonic() > since + 20)
    finally:
        os.kill(server, signal.SIGCONT)
    assert stopped(api, folder), "the fault outlasts the outage of the API server"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert "undo-verified" in events(folder)
    assert not stopped(api, folder)
    assert left(api) == []
