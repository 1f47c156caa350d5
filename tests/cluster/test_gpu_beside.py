"""Faults of accelerators beside pods without python3, whose server is one static program; the driver is simulated."""

import functools
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blackstart.injectors import gpu_agent, testing
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms.base import Unsupported
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.accelerators import WHOLE, FakeGpus, compiled
from blackstart.tests.cluster.gpu_replica import OWN_MIB, SLOT, pod, standing
from blackstart.tests.cluster.gpu_webhook import giving
from blackstart.tests.cluster.steps import in_fault, recovered_elsewhere
from blackstart.tests.cluster.web import PORT, opened, profile_of
from blackstart.tests.command import Blackstart, kill_quietly, proven_by, until

PROGRAMS = "/programs"
FILL = GpuMemoryFill(leave=Size(256 << 20))


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> FakeGpus:
    found = FakeGpus(tmp_path_factory.mktemp("driver") / "gpu")
    (found.folder / "state").chmod(0o666)  # whoever a container runs as
    shutil.copy(compiled("gpu_server.c", "-static"), found.folder / "gpu_server")
    return found


@pytest.fixture(scope="module")
def namespace(api: KubeApi, image: str, gpus: FakeGpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where commands are looked for in it, there is no python3: an empty volume lies over those folders."""
    command = [f"{PROGRAMS}/gpu_server", str(PORT), WHOLE, "256"]
    folders = {PROGRAMS: gpus.folder, "/usr/bin": None, "/usr/local/bin": None}
    certificate = tmp_path_factory.mktemp("webhook")
    replica = pod(image, command, {"NVIDIA_VISIBLE_DEVICES": WHOLE}, folders)
    with standing(api, replica, lambda name: giving(api, name, gpus.folder, certificate)) as name:
        yield name


@pytest.mark.timeout(240)
def test_the_whole_contract(namespace: str, cluster: Path, gpus: FakeGpus, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "SETTLE_S", 16.0)  # half of it is the deadline of what is killed while it is held
    platform = functools.partial(opened, str(cluster), namespace, image)
    check_injector(FILL, platform, (SLOT,), effect=lambda: gpus.used_mib(0) > 3000)
    assert (gpus.used_mib(0), gpus.used_mib(1)) == (OWN_MIB, 0)


@pytest.mark.timeout(240)
def test_a_killed_drill_is_recovered_from_another_machine(
    blackstart: Blackstart, api: KubeApi, namespace: str, gpus: FakeGpus, image: str
) -> None:
    service = profile_of(namespace, image, blackstart.folder)
    fault = f"{{kind: gpu-saturate, duty: 50%, target: {{names: [{SLOT}]}}, for: 60s}}"
    process, folder = in_fault(blackstart, service, fault)
    until("work", lambda: gpus.share(0) > 10)
    (made,) = api.items(place("pods", namespace), labels="blackstart-gpu")[0]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": WHOLE} in made["spec"]["containers"][0]["env"]
    kill_quietly(process)
    recovered_elsewhere(blackstart, api, service, folder, fault)
    assert [each["source"] for each in proven_by(folder)] == ["NVML"]
    assert gpus.used_mib(0) == OWN_MIB


def test_the_agent_goes_with_the_targets_pod(namespace: str, cluster: Path, gpus: FakeGpus, image: str) -> None:
    """Whose GPU may be a stranger's next. That the pod is gone proves nothing by itself: its node is looked at."""
    injector, fault = GpuSaturate(duty=Share(0.5)), "gone.0"
    with closing(opened(str(cluster), namespace, image)) as platform:
        target = until("the replica", lambda: platform.current(SLOT), 30)
        undo = injector.plan((target,), platform).stamped(fault, injector.kind, {}, 60.0)
        assert injector.lives_inside(undo) == {SLOT}
        injector.inject(undo, platform)
        try:
            until("work", lambda: gpus.share(0) > 10)
            platform.kill(target)
            until("the agent to let go", lambda: fault not in gpu_agent.agents().values(), 40)
        finally:
            injector.recover(undo, platform)
        assert "NVML" in injector.verify_recovered(undo, platform).source
        until("another replica", lambda: (now := platform.current(SLOT)) and now.details["ready"], 60)
    assert gpus.used_mib(0) == OWN_MIB


def test_where_the_namespace_takes_no_pod_that_sees_its_nodes_processes_it_is_refused(
    api: KubeApi, namespace: str, cluster: Path, image: str
) -> None:
    labels = {"op": "replace", "path": "/metadata/labels/pod-security.kubernetes.io~1enforce"}
    where = place("namespaces", name=namespace)
    api.patch(where, [{**labels, "value": "baseline"}])
    try:
        with closing(opened(str(cluster), namespace, image)) as platform:
            target = platform.current(SLOT)
            assert target is not None
            with pytest.raises(
                Unsupported, match=r"has no python3.*a pod of ours on node \S+ that sees its processes is not taken"
            ):
                GpuSaturate(duty=Share(0.5)).plan((target,), platform)
    finally:
        api.patch(where, [{**labels, "value": "privileged"}])
