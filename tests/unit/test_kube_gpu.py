"""What a pod of ours beside a target's GPU is made of, and the rights that it takes."""

from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from blackstart.drills.plan import means
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms.base import Means, Target, Unsupported
from blackstart.injectors.platforms.kube_gpu import GpuPods
from blackstart.injectors.platforms.kube_rights import needed
from blackstart.tests.unit.test_docker_gpu import R0, Contained
from blackstart.tests.unit.test_gpu_evidence import UUID

TARGET = Target("pod:models/llm-0@u", "llm-0", "replica", {"node": "n1", "runtime": "nvidia", "container": "llm"})


class Refusing:
    """An API server that has nothing; `created` is what it was asked to make."""

    def __init__(self) -> None:
        self.created: list[tuple[str, Any]] = []

    def create(self, path: str, body: Any) -> Any:
        self.created.append((path, body))
        return body

    def items(self, *_: object, **__: object) -> Any:
        running = {"name": "gpu", "state": {"running": {}}, "ready": True}
        return [
            {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "gpu"}]}, "status": {"containerStatuses": [running]}}
        ], ""


def pods(api: Refusing, image: str | None = "tools:1") -> GpuPods:
    begin: Any = SimpleNamespace(begin=lambda *_: {"event": "effective"})
    finder: Any = SimpleNamespace(spec=SimpleNamespace(namespace="models"))
    return GpuPods(api, finder, begin, image, Event())  # type: ignore[arg-type]


def test_its_pod_stands_on_the_targets_node_has_that_gpu_alone_and_sees_the_nodes_processes() -> None:
    api = Refusing()
    pods(api).agent_begin("run.0", TARGET, "fill-gpu", {"device": UUID}, 60.0)
    (tried, _), (_, job) = api.created
    spec = job["spec"]["template"]["spec"]
    assert tried.endswith("?dryRun=All")
    assert (spec["nodeName"], spec["runtimeClassName"], spec["hostPID"], spec["restartPolicy"]) == ("n1", "nvidia", True, "Never")
    (container,) = spec["containers"]
    assert {each["name"]: each["value"] for each in container["env"]}["NVIDIA_VISIBLE_DEVICES"] == UUID
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert job["metadata"]["annotations"] == {"blackstart/gpu-for": "run"}


def test_without_an_image_it_is_refused_before_anything_is_made() -> None:
    api = Refusing()
    with pytest.raises(Unsupported, match=r"name an image with python3: probe\.image"):
        pods(api, None).agent_begin("run.0", TARGET, "fill-gpu", {"device": UUID}, 60.0)
    assert api.created == []


def test_rights_for_a_pod_of_ours_are_needed_only_where_there_is_one() -> None:
    """A Role has them, since nobody has looked yet."""
    for injector, fit, takes in ((GpuSaturate(), True, False), (GpuSaturate(), False, True), (GpuMemoryFill(), True, True)):
        undo = injector.plan((R0,), Contained(fit=fit))
        scenario: Any = SimpleNamespace(faults=[SimpleNamespace(injector=injector)], digest=None)
        service: Any = SimpleNamespace(probe=SimpleNamespace(beside=False))
        planned: Any = SimpleNamespace(index=0, injector=injector, undo=undo)
        assert ("gpu" in means(scenario, service, [planned]).changes) is takes
        assert "gpu" in means(scenario, service).changes
    needs = {(right.resource, right.verbs) for right in needed(Means(inside=True, ends=False, changes=frozenset({"gpu"})))}
    assert {("jobs", ("create", "delete")), ("pods", ("create",))} <= needs
    assert not any(resource in {"roles", "serviceaccounts"} for resource, _ in needs)
