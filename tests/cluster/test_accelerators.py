"""Faults of accelerators in pods: the whole contract, and a drill that is killed; the driver is simulated."""

import functools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors import testing
from blackstart.injectors.base import Injector
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.accelerators import FakeGpus
from blackstart.tests.cluster.steps import everything_ours, in_fault
from blackstart.tests.cluster.web import APPS, NOBODY, PORT, opened
from blackstart.tests.command import Blackstart, events, kill_quietly, until

FOLDER, SLOT = "/gpu", "web-0"
OWN_MIB = 556  # a context and what the victim allocates
BESIDE = f"target: {{names: [{SLOT}]}}, for: 60s"
FAULTS = (f"{{kind: gpu-saturate, duty: 50%, {BESIDE}}}", f"{{kind: gpu-memory-fill, leave: 1GiB, {BESIDE}}}")
CASES: dict[str, tuple[Injector, Callable[[FakeGpus], bool]]] = {
    "gpu-saturate": (GpuSaturate(duty=Share(0.5)), lambda gpus: gpus.share(0) > 10),
    "gpu-memory-fill": (GpuMemoryFill(leave=Size(256 << 20)), lambda gpus: gpus.used_mib(0) > 3000),
}


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> FakeGpus:
    return FakeGpus(tmp_path_factory.mktemp("driver") / "gpu")


def pod(gpus: FakeGpus, image: str) -> dict[str, Any]:
    """A replica on WHOLE that has the simulated driver of this machine, which the cluster's nodes share."""
    command, environment = gpus.victim(FOLDER, PORT)
    container = {
        "name": "gpu",
        "image": image,
        "command": command,
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
        "securityContext": {"runAsUser": NOBODY, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "driver", "mountPath": FOLDER}],
    }
    volume = {"name": "driver", "hostPath": {"path": str(gpus.folder)}}
    return {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [volume]}


@pytest.fixture(scope="module")
def namespace(api: KubeApi, image: str, gpus: FakeGpus) -> Iterator[str]:
    if api.context != "devkube":
        pytest.skip("only devkube's nodes share a folder with this machine")
    name = f"blackstart-test-{secrets.token_hex(2)}"
    api.create(place("namespaces"), {"metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}})
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod(gpus, image)}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    api.create(place("deployments", name, "", APPS), {"metadata": {"name": "web"}, "spec": spec})
    ports = {"selector": {"app": "web"}, "ports": [{"port": PORT}], "type": "NodePort"}
    api.create(place("services", name), {"metadata": {"name": "web"}, "spec": ports})
    try:
        where = place("deployments", name, "web", APPS)
        until("the replica to be ready", lambda: api.get(where)["status"].get("readyReplicas") == 1, 90)
        yield name
    finally:
        api.delete(place("namespaces", name=name))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", CASES)
def test_the_whole_contract(namespace: str, cluster: Path, gpus: FakeGpus, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "SETTLE_S", 8.0)  # half of it is the deadline of what is killed while it is held
    injector, effect = CASES[kind]
    check_injector(injector, functools.partial(opened, str(cluster), namespace), (SLOT,), effect=lambda: effect(gpus))
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
    """Both at once, and with blackstart dies the agent that holds the memory."""
    service = written(blackstart.folder, namespace, image)
    process, folder = in_fault(blackstart, service, "\n  - ".join(FAULTS), 2)
    assert gpus.used_mib(0) >= 3000
    assert gpus.share(0) > 10
    kill_quietly(process)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
            if folder.name.encode() in (words := path.read_bytes()) and b"fill-gpu" in words:
                os.kill(int(path.parent.name), 9)
    monkeypatch.setenv("BLACKSTART_STATE_DIR", str(tmp_path / "other-machine"))
    second = tmp_path / "second"
    second.mkdir()
    done = Blackstart(second)("recover", folder.name, within_s=170)
    assert done.code == 0, done.out + done.err
    assert "gpu-saturate: undone" in done.out
    assert "gpu-memory-fill: undone" in done.out
    told = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {each["evidence"]["facts"]["hardware"] for each in told if each["event"] == "effective"} == {"simulated"}
    assert events(second / "blackstart-runs" / folder.name).count("undo-verified") == 2
    assert everything_ours(api, service) == []
    assert gpus.used_mib(0) == OWN_MIB


def written(folder: Path, namespace: str, image: str) -> Path:
    """A service file of that one replica."""
    whole = {"apiVersion": "blackstart/v1", "kind": "Service", "name": "gpu", "platform": "kubernetes"}
    whole |= {"kubernetes": {"namespace": namespace, "workload": "deployment/web"}, "probe": {"rate": "20/s", "image": image}}
    path = folder / "service.yaml"
    path.write_text(json.dumps({**whole, "endpoint": {"service": "web", "port": PORT, "protocol": "http"}}), encoding="utf-8")
    return path
