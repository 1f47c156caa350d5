"""What two real mlservers with an ONNX model do in containers when a worker dies or hangs, and with a model that is damaged.

The service file names the engine and nothing that its profile supplies; questions are asked on the service's own network.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.injectors.platforms.docker_api import DockerApi
from blackstart.tests.command import Blackstart, until
from blackstart.tests.docker.mlserver import PROJECT, healthy, name, running
from blackstart.tests.docker.victims import container, helpers, processes, root
from blackstart.tests.servers.kserve import (
    check_damage_was_served,
    check_refused_alone,
    check_unmoved,
    down,
    drill,
    never_noticed,
    quick,
    right,
)
from blackstart.tests.servers.mlservers import MODELS, PORT, check_known

SPAWNED = "multiprocessing.spawn"
ONE, ON_ONE = "mlserver-1", "target: {names: [mlserver-1]}"


@pytest.fixture(scope="module")
def standing(api: DockerApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with running(api, tmp_path_factory.mktemp("mlserver")) as file:
        yield file


@pytest.fixture
def service(standing: Path, api: DockerApi) -> Iterator[Path]:
    """Both are well, also what an earlier drill has started again; and nothing of ours is left afterwards."""
    until("both mlservers to be well", lambda: healthy(api, 1) and healthy(api, 2), 60)
    yield standing
    assert helpers(api) == []


def workers(api: DockerApi) -> list[int]:
    return processes(api, SPAWNED, name(1))


def started(api: DockerApi) -> str:
    return str(container(api, name(1))["State"]["StartedAt"])


def test_init_doctor_and_plan_know_it(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    written = blackstart("init", "first", "--from-docker", name(2))
    assert written.code == 0, written.err
    assert "one container's own address, which hides what the others do" in written.err
    assert "take `url: http://mlserver:8080` (on network blackstart-mlserver) with `probe: {from: in-network}`" in written.err
    check_known(blackstart, blackstart.folder / "first" / "service.yaml", "mlserver-1", "container")


def address(api: DockerApi) -> str:
    return str(container(api, name(1))["NetworkSettings"]["Networks"][PROJECT]["IPAddress"])


def test_damage_while_it_serves_does_nothing_and_is_refused_alone(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    check_refused_alone(blackstart, service, ONE)
    before = workers(api)
    check_unmoved(root(api, name(1)) / MODELS[1:] / "small" / "model.onnx", f"http://{address(api)}:{PORT}", service)
    assert workers(api) == before


@pytest.mark.timeout(240)
def test_a_killed_worker_is_replaced_and_its_container_goes_on(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    before, (worker,) = started(api), workers(api)
    killed = drill(
        blackstart.folder, "worker-kill", [f"{{kind: process-kill, role: worker, {ON_ONE}}}"], "{rto: 40s, quality_loss: 0}"
    )
    done = blackstart.telling("run", killed, *quick("41s"), "--service", service, "--yes", wanted="passed")
    assert (done.result["verdict"], done.code) == ("passed", 0), done.out + done.err
    (fault,) = done.result["faults"]
    assert len(fault["evidence"]["facts"]["gone"]) == 1
    assert fault["undo_verified"]
    assert never_noticed(done.result)
    assert started(api) == before
    until("another worker", lambda: workers(api) not in ([], [worker]))


@pytest.mark.timeout(240)
def test_hung_workers_are_noticed_by_nobody_and_nothing_is_started_again(
    blackstart: Blackstart, service: Path, api: DockerApi
) -> None:
    """Of both: which one a question meets is up to the engine's resolver."""
    before = started(api)
    hung = drill(
        blackstart.folder,
        "worker-hang",
        ["{kind: process-hang, role: worker, target: {count: 2}, for: 4s}"],
        "{rto: 15s, quality_loss: 0, time_to_detect: 10s}",
    )
    done = blackstart.telling("run", hung, *quick("15s"), "--service", service, "--yes")
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    missed = {one["name"] for one in done.result["objectives"] if one["verdict"] == "failed"}
    assert missed == {"time_to_detect"}
    assert done.result["clock"]["measured_from"] == "in-network"
    assert {"semantic", "workload", f"replica:{ONE}"} <= down(done.result)
    assert never_noticed(done.result)
    assert started(api) == before


@pytest.mark.timeout(300)
def test_a_worker_that_died_comes_back_with_the_damage_and_its_container_goes_for_it(
    blackstart: Blackstart, service: Path, api: DockerApi
) -> None:
    """Another worker within seconds, with wrong answers and 200; the undo starts the container again, since the worker holds the damage."""
    before, (worker,) = started(api), workers(api)
    faults = [
        f"{{kind: model-corrupt, mutation: exponent-msb, {ON_ONE}}}",
        f"{{kind: process-kill, role: worker, {ON_ONE}, at: 1s}}",
    ]
    damaged = drill(blackstart.folder, "worker-damage", faults, "{quality_loss: 0}")
    done = blackstart.telling("run", damaged, *quick("12s"), "--service", service, "--yes", within_s=160)
    check_damage_was_served(done, f"replica:{ONE}")
    _, killed = done.result["faults"]
    assert len(killed["evidence"]["facts"]["gone"]) == 1
    assert started(api) != before
    until("a worker that has read the whole file", lambda: workers(api) not in ([], [worker]))
    until("right answers", lambda: right(f"http://{address(api)}:{PORT}", service))


@pytest.mark.timeout(300)
def test_a_container_that_starts_with_damaged_weights_serves_them(blackstart: Blackstart, service: Path, api: DockerApi) -> None:
    """With 200, until the undo has put the file back and started it again."""
    before = started(api)
    faults = [f"{{kind: model-corrupt, mutation: exponent-msb, {ON_ONE}}}", f"{{kind: replica-kill, {ON_ONE}, at: 1s}}"]
    damaged = drill(blackstart.folder, "start-damaged", faults, "{quality_loss: 0}")
    done = blackstart.telling("run", damaged, *quick("30s"), "--service", service, "--yes", within_s=160)
    check_damage_was_served(done, f"replica:{ONE}")
    assert started(api) != before
    until("right answers", lambda: right(f"http://{address(api)}:{PORT}", service))
