"""Whole drills on a real engine: the shipped scenarios' verdicts, and that nothing is left behind, whatever dies."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from blackstart.injectors.platforms.docker_api import DockerApi, at
from blackstart.tests.cluster.steps import in_fault
from blackstart.tests.command import Blackstart, another_machine, events, kill_quietly, until
from blackstart.tests.docker.engine import Engine
from blackstart.tests.docker.victims import helpers
from blackstart.tests.drills.expected import EXPECTED, contradiction, verdict_of

SHORT = ("steady_state.hold=4s", "settle=3s")
HANG = "{kind: process-hang, role: engine, target: {names: [replica-1]}, for: 60s}"
CUT = "{kind: network-partition, peers: [gateway], target: {names: [replica-2]}, for: 60s}"
PAUSE = "{kind: process-hang, target: {names: [replica-2]}, for: 60s}"
SHOWN = {  # one for each means but for damaged files, which test_mlserver.py drills; all of them: tests/drills/all_scenarios.py --on docker
    "plain": ("control-plane-and-dns-down", "engine-hang-zombie", "store-loss"),
    "hardened": ("replica-kill-midstream", "rollout-drain", "router-worker-partition"),
}
UNDER_LOAD = {"rollout-drain", "router-worker-partition"}  # what they find hangs on how quickly the demo answers

plain = pytest.mark.parametrize("kind", ["plain"])


@pytest.fixture
def service(request: pytest.FixtureRequest, kind: str) -> Path:
    return request.getfixturevalue(f"{kind}_demo")


def containers(api: DockerApi, service: Path) -> dict[str, dict]:
    project = json.loads(service.read_text(encoding="utf-8"))["docker"]["compose"]["project"]
    listed = api.get("/containers/json", all=1, filters={"label": [f"com.docker.compose.project={project}"]})
    found = [api.get(at("containers", each["Id"], "json")) for each in listed]
    return {each["Name"].rpartition(f"{project}-")[2]: each for each in found}


def stopped(api: DockerApi, service: Path) -> list[str]:
    """Processes of the demo that are stopped, and containers that are paused, by the kernel's and the engine's word."""
    found = []
    for name, each in containers(api, service).items():
        if each["State"]["Paused"]:
            found.append(name)
        for path in Path("/proc").glob("[0-9]*"):
            try:
                here, state = (path / "cgroup").read_text(), (path / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if each["Id"] in here and state in "Tt":
                found.append(f"{name} {path.name}")
    return found


def tables(api: DockerApi, service: Path) -> list[str]:
    """nft tables of ours in any container's network."""
    found = []
    for name, each in containers(api, service).items():
        if pid := each["State"]["Pid"]:
            command = ["nsenter", "-t", str(pid), "-n", "nft", "list", "tables"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found += [f"{name}: {line}" for line in done.stdout.splitlines() if "blackstart" in line]
    return found


def anything_left(api: DockerApi, service: Path) -> list[str]:
    return [*helpers(api), *stopped(api, service), *tables(api, service)]


@pytest.mark.timeout(240)
@plain
def test_sigkill_leaves_nothing(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    """Of a paused container at once; of what an agent holds inside or in a network when nobody renews its lease."""
    process, folder = in_fault(blackstart, service, f"{HANG}\n  - {CUT}\n  - {PAUSE.replace('replica-2', 'store-1')}", 3)
    assert len(stopped(api, service)) >= 2
    assert tables(api, service)
    kill_quietly(process)
    until("the pause to end", lambda: not containers(api, service)["store-1"]["State"]["Paused"], 15)
    until("everything to end by itself", lambda: not anything_left(api, service), 90)
    done = blackstart("recover", folder.name)
    assert done.code == 0, done.out + done.err
    assert done.out.count("undone") >= 3


@pytest.mark.timeout(240)
@plain
def test_recover_ends_what_a_killed_drill_holds(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    process, folder = in_fault(blackstart, service, f"{HANG}\n  - {CUT}", 2)
    kill_quietly(process)
    assert anything_left(api, service)
    refused = blackstart("run", "replica-kill-midstream", "--service", service, "--yes")
    assert refused.code == 2
    assert f"blackstart recover {folder.name}" in refused.err
    done = blackstart("recover", "--all")
    assert done.code == 0, done.out + done.err
    assert anything_left(api, service) == []


@pytest.mark.timeout(240)
@plain
def test_helpers_tell_of_a_run_whose_folder_is_elsewhere(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    process, folder = in_fault(blackstart, service, CUT)
    kill_quietly(process)
    with another_machine(blackstart.folder) as second:
        assert folder.name in second("recover", "--all").err
        done = second("recover", folder.name)
    assert done.code == 5, done.out + done.err  # what else the run left cannot be seen from here
    assert "partition on replica-2: undone" in done.out
    assert "no more than that was undone" in done.out
    assert anything_left(api, service) == []
    assert blackstart("recover", "--all").code == 0


@pytest.mark.timeout(180)
@plain
@pytest.mark.parametrize("word", ["", "--accept"])
def test_what_is_in_a_network_is_undone_also_where_its_container_is_gone_or_a_person_closes_the_run(
    blackstart: Blackstart, service: Path, api: DockerApi, word: str
) -> None:
    process, folder = in_fault(blackstart, service, CUT)
    kill_quietly(process)
    if not word:
        for name in helpers(api):
            api.delete(at("containers", name), force="true")
    assert tables(api, service)
    done = blackstart("recover", folder.name, *filter(None, [word]))
    assert done.code == 0, done.out + done.err
    assert anything_left(api, service) == []


@pytest.mark.timeout(180)
@plain
def test_an_interrupt_undoes_and_leaves_nothing(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    process, folder = in_fault(blackstart, service, f"{PAUSE}\n  - {HANG}", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 4, err
    assert "undo-verified" in events(folder)
    assert anything_left(api, service) == []


@pytest.mark.timeout(240)
@plain
def test_an_engine_that_restarts_in_mid_fault_leaves_nothing(
    blackstart: Blackstart, service: Path, api: DockerApi, engine: Engine
) -> None:
    both = f"{HANG}\n  - {CUT}".replace("60s", "30s")  # longer than the engine needs, which takes its containers along
    process, folder = in_fault(blackstart, service, both, 2)
    engine.stop()
    engine.start()
    out, err = process.communicate(timeout=150)
    assert process.returncode not in {0, 70}, out + err
    done = blackstart("recover", folder.name)
    assert done.code == 0, done.out + done.err
    assert anything_left(api, service) == []


@pytest.mark.timeout(180)
@plain
def test_measured_from_a_container_on_the_service_s_network(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    profile = json.loads(service.read_text(encoding="utf-8"))
    gateway = containers(api, service)["gateway-1"]["Name"].lstrip("/")
    profile["endpoint"]["url"] = f"http://{gateway}:8000"
    profile["probe"] = {**profile["probe"], "from": "in-network"}
    within = blackstart.folder / "within.yaml"
    within.write_text(json.dumps(profile), encoding="utf-8")
    words = [word for setting in (*SHORT, "observe=20s") for word in ("--set", setting)]
    done = blackstart.telling("run", "replica-kill-midstream", *words, "--service", within, "--yes")
    assert done.code == 0, done.out + done.err
    assert done.result["clock"]["measured_from"] == "in-network"
    assert anything_left(api, service) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=pytest.mark.alone if name in UNDER_LOAD else ())
        for kind, names in SHOWN.items()
        for name in names
    ],
)
def test_scenario(blackstart: Blackstart, service: Path, api: DockerApi, kind: str, name: str) -> None:
    words = [word for setting in (*SHORT, *EXPECTED[name].settings) for word in ("--set", setting)]
    wanted = verdict_of(name, kind)
    done = blackstart.telling(
        "run", name, *words, "--service", service, "--yes", within_s=200.0, wanted=wanted, by=EXPECTED[name].objective
    )
    wrong = contradiction(name, kind, done.result)
    assert not wrong, f"{wrong}\n{done.out}\n{done.err}"
    assert anything_left(api, service) == []
