"""What two real mlservers with an ONNX model do in a cluster when a worker dies or hangs and when one starts with a damaged model.

The service file names the engine and nothing that its profile supplies. The first process lives on in each of these, so that the kubelet,
which asks KServe's own health endpoints, starts nothing again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi
from blackstart.tests.cluster import mlserver
from blackstart.tests.cluster.conftest import volumes_of
from blackstart.tests.cluster.mlserver import all_stand, restarts
from blackstart.tests.cluster.steps import everything_ours, namespace_of
from blackstart.tests.command import Blackstart, until
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
from blackstart.tests.servers.mlservers import PORT, check_known

ONE, ON_ONE = "mlserver-0", "target: {names: [mlserver-0]}"


def address(pod: dict[str, Any]) -> str:
    return f"http://{pod['status']['podIP']}:{PORT}"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volumes")


@pytest.fixture(scope="module")
def standing(api: KubeApi, image: str, volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with (
        volumes_of(api, volumes) as storage_class,
        mlserver.running(api, image, storage_class, tmp_path_factory.mktemp("mlserver")) as file,
    ):
        yield file


@pytest.fixture
def service(standing: Path, api: KubeApi) -> Iterator[Path]:
    """Both are well, also what an earlier drill has replaced; and nothing of ours is left afterwards."""
    until("both mlservers to be well", lambda: all_stand(api, namespace_of(standing)), 90)
    yield standing
    assert everything_ours(api, standing) == []


def test_init_and_doctor_know_it(blackstart: Blackstart, service: Path) -> None:
    written = blackstart("init", "first", "--from-cluster", "statefulset/mlserver", "--namespace", namespace_of(service))
    assert written.code == 0, written.err
    check_known(blackstart, blackstart.folder / "first" / "service.yaml", "mlserver-0", "pod")


def test_damage_while_they_serve_does_nothing_and_is_refused_alone(
    blackstart: Blackstart, service: Path, volumes: Path, api: KubeApi
) -> None:
    """Of all files: which pod has which is the scheduler's affair."""
    check_refused_alone(blackstart, service, ONE)
    before, addresses = restarts(api, namespace_of(service)), [address(pod) for pod in mlserver.pods(api, namespace_of(service))]
    files = sorted(volumes.glob("*/small/model.onnx"))
    assert len(files) == len(addresses) == mlserver.REPLICAS
    for file in files:
        for url in addresses:
            check_unmoved(file, url, service)
    assert restarts(api, namespace_of(service)) == before


@pytest.mark.timeout(240)
def test_a_killed_worker_is_replaced_and_its_pod_stays_ready(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    before = restarts(api, namespace_of(service))
    faults = [f"{{kind: process-kill, role: worker, {ON_ONE}}}"]
    killed = drill(blackstart.folder, "worker-kill", faults, "{rto: 40s, quality_loss: 0}")
    done = blackstart.telling("run", killed, *quick("41s"), "--service", service, "--yes", wanted="passed")
    assert (done.result["verdict"], done.code) == ("passed", 0), done.out + done.err
    (fault,) = done.result["faults"]
    assert len(fault["evidence"]["facts"]["gone"]) == 1
    assert f"replica:{ONE}" in {lane["name"] for lane in done.result["lanes"]}
    assert never_noticed(done.result)
    assert restarts(api, namespace_of(service)) == before


@pytest.mark.timeout(240)
def test_hung_workers_are_noticed_by_nobody_and_stay_behind_the_service(
    blackstart: Blackstart, service: Path, api: KubeApi
) -> None:
    """Of both: which one a question meets is chance."""
    before = restarts(api, namespace_of(service))
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
    assert {"semantic", "workload", f"replica:{ONE}"} <= down(done.result)
    assert "endpoint-removed" in done.result["measurements"]["time_to_detect"]
    assert never_noticed(done.result)
    assert restarts(api, namespace_of(service)) == before


@pytest.mark.timeout(240)
def test_a_pod_that_starts_with_damaged_weights_serves_them_although_others_serve_meanwhile(
    blackstart: Blackstart, service: Path, api: KubeApi
) -> None:
    """Users are served by the other one before it is back: the damage is held until it has answered as well."""
    before = restarts(api, namespace_of(service))
    faults = [f"{{kind: model-corrupt, mutation: exponent-msb, {ON_ONE}}}", f"{{kind: replica-kill, {ON_ONE}, at: 1s}}"]
    damaged = drill(blackstart.folder, "silent-damage", faults, "{quality_loss: 0}")
    done = blackstart.telling("run", damaged, *quick("45s"), "--service", service, "--yes", within_s=200)
    check_damage_was_served(done, f"replica:{ONE}")
    until("the pod that was replaced to be ready", lambda: all_stand(api, namespace_of(service)), 90)
    after = restarts(api, namespace_of(service))
    assert after[ONE][0] != before[ONE][0]
    assert after["mlserver-1"] == before["mlserver-1"]
    (pod,) = (each for each in mlserver.pods(api, namespace_of(service)) if each["metadata"]["name"] == ONE)
    until("right answers", lambda: right(address(pod), service))
