"""Faults of accelerators beside pods without python3, whose server is one static program; the driver is simulated."""

import functools
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors import gpu_agent, testing
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms.base import Unsupported
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_gpu import MARK
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.accelerators import WHOLE, FakeGpus, compiled
from blackstart.tests.cluster.gpu_webhook import giving
from blackstart.tests.cluster.steps import everything_ours, in_fault
from blackstart.tests.cluster.test_accelerators import written
from blackstart.tests.cluster.web import APPS, NOBODY, PORT, opened
from blackstart.tests.command import Blackstart, events, kill_quietly, until

SLOT, PROGRAMS = "web-0", "/programs"
OWN_MIB = 556  # a context and what the victim allocates
FILL = GpuMemoryFill(leave=Size(256 << 20))


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> FakeGpus:
    found = FakeGpus(tmp_path_factory.mktemp("driver") / "gpu")
    (found.folder / "state").chmod(0o666)  # whoever a container runs as
    shutil.copy(compiled("gpu_server.c", "-static"), found.folder / "gpu_server")
    return found


def pod(gpus: FakeGpus, image: str) -> dict[str, Any]:
    """A replica on WHOLE with no python3 where commands are looked for: an empty volume lies over that folder."""
    container = {
        "name": "gpu",
        "image": image,
        "command": [f"{PROGRAMS}/gpu_server", str(PORT), WHOLE, "256"],
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": WHOLE}],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
        "securityContext": {"runAsUser": NOBODY, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "programs", "mountPath": PROGRAMS},
            {"name": "nothing", "mountPath": "/usr/bin"},
            {"name": "nothing", "mountPath": "/usr/local/bin"},
        ],
    }
    volumes = [{"name": "programs", "hostPath": {"path": str(gpus.folder)}}, {"name": "nothing", "emptyDir": {}}]
    return {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes}


@pytest.fixture(scope="module")
def namespace(api: KubeApi, image: str, gpus: FakeGpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if api.context != "devkube":
        pytest.skip("only devkube's nodes share a folder with this machine")
    name = f"blackstart-test-{secrets.token_hex(2)}"
    api.create(place("namespaces"), {"metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}})
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod(gpus, image)}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    ports = {"selector": {"app": "web"}, "ports": [{"port": PORT}], "type": "NodePort"}
    with giving(api, name, gpus.folder, tmp_path_factory.mktemp("webhook")):
        try:
            api.create(place("deployments", name, "", APPS), {"metadata": {"name": "web"}, "spec": spec})
            api.create(place("services", name), {"metadata": {"name": "web"}, "spec": ports})
            where = place("deployments", name, "web", APPS)
            until("the replica to be ready", lambda: api.get(where)["status"].get("readyReplicas") == 1, 90)
            yield name
        finally:
            api.delete(place("namespaces", name=name))


@pytest.mark.timeout(240)
def test_the_whole_contract(namespace: str, cluster: Path, gpus: FakeGpus, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "SETTLE_S", 16.0)  # half of it is the deadline of what is killed while it is held
    platform = functools.partial(opened, str(cluster), namespace, image)
    check_injector(FILL, platform, (SLOT,), effect=lambda: gpus.used_mib(0) > 3000)
    assert (gpus.used_mib(0), gpus.used_mib(1)) == (OWN_MIB, 0)


@pytest.mark.timeout(240)
def test_a_killed_drill_is_recovered_from_another_machine(
    blackstart: Blackstart,
    api: KubeApi,
    namespace: str,
    gpus: FakeGpus,
    image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = written(blackstart.folder, namespace, image)
    process, folder = in_fault(blackstart, service, f"{{kind: gpu-saturate, duty: 50%, target: {{names: [{SLOT}]}}, for: 60s}}")
    assert gpus.share(0) > 10
    (made,) = api.items(place("pods", namespace), labels=MARK)[0]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": WHOLE} in made["spec"]["containers"][0]["env"]
    kill_quietly(process)
    monkeypatch.setenv("BLACKSTART_STATE_DIR", str(tmp_path / "other-machine"))
    second = tmp_path / "second"
    second.mkdir()
    done = Blackstart(second)("recover", folder.name, within_s=170)
    assert done.code == 0, done.out + done.err
    assert "gpu-saturate: undone" in done.out
    told = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["evidence"]["source"] for each in told if each["event"] == "effective"] == ["NVML"]
    assert events(second / "blackstart-runs" / folder.name).count("undo-verified") == 1
    assert everything_ours(api, service) == []
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
            until("work", lambda: gpus.share(0) > 10, 10)
            platform.kill(target)
            until("the agent to let go", lambda: fault not in gpu_agent.agents().values(), 10)
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
                Unsupported, match=r"has no python3.*a pod of ours that sees the processes of node \S+ is not taken"
            ):
                GpuSaturate(duty=Share(0.5)).plan((target,), platform)
    finally:
        api.patch(where, [{**labels, "value": "privileged"}])
