"""What a pod of ours beside a target's GPU is made of, and the rights that it takes."""

from dataclasses import replace
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from blackstart.drills import doctor
from blackstart.drills.plan import _ended_early, means
from blackstart.injectors.base import Differs, Refusal, Undo
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.lifecycle import ReplicaKill
from blackstart.injectors.platforms.base import Means, PlatformError, Target, Unsupported
from blackstart.injectors.platforms.kube_api import Forbidden
from blackstart.injectors.platforms.kube_gpu import GpuPods
from blackstart.injectors.platforms.kube_rights import needed
from blackstart.injectors.platforms.kubernetes import KubernetesPlatform
from blackstart.tests.unit.test_docker_gpu import R0, Contained
from blackstart.tests.unit.test_gpu_evidence import UUID

TARGET = Target("pod:models/llm-0@u", "llm-0", "replica", {"node": "n1", "runtime": "nvidia", "container": "llm"})


class Refusing:
    """An API server that has nothing but a pod of ours; `created` is what it was asked to make."""

    purpose = "gpu"

    def __init__(self) -> None:
        self.created: list[tuple[str, Any]] = []

    def create(self, path: str, body: Any) -> Any:
        self.created.append((path, body))
        return body

    def items(self, *_: object, **__: object) -> Any:
        running = {"name": self.purpose, "state": {"running": {}}, "ready": True}
        spec = {"containers": [{"name": self.purpose}]}
        return [{"metadata": {"name": "p"}, "spec": spec, "status": {"containerStatuses": [running]}}], ""


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
        assert ("room" in means(scenario, service, [planned]).changes) is takes
        assert "room" in means(scenario, service).changes
    needs = {(right.resource, right.verbs) for right in needed(Means(inside=True, ends=False, changes=frozenset({"room"})))}
    assert {("jobs", ("list", "create", "delete")), ("pods", ("create",))} <= needs
    assert not any(resource in {"roles", "serviceaccounts"} for resource, _ in needs)


# --- the agent goes with the target's pod ---


def test_memory_that_only_a_target_that_starts_again_would_miss_is_refused_where_that_may_get_another_gpu() -> None:
    for fit in (True, False):
        with pytest.raises(
            Refusal,
            match=r"only when it starts again, and on platform kubernetes what starts again may be given another GPU.*on Docker",
        ):
            GpuMemoryFill().plan((R0,), Contained(fit=fit, outlives=False))


@pytest.mark.parametrize(("outlives", "number"), [(True, 0), (False, 1)])
def test_a_fault_beside_a_pod_is_refused_beside_one_that_takes_the_pod_away(outlives: bool, number: int) -> None:
    injector = GpuSaturate()
    undo = injector.plan((R0,), Contained(fit=False, outlives=outlives))
    fault: Any = SimpleNamespace(injector=injector, undo=undo, targets=(R0,), fault=SimpleNamespace(kind="gpu-saturate"))
    kill: Any = SimpleNamespace(
        injector=ReplicaKill(), undo=Undo((R0,)), targets=(R0,), fault=SimpleNamespace(kind="replica-kill")
    )
    why = "not injecting: gpu-saturate goes with the container or pod of r0, which replica-kill would end; drill them apart"
    assert _ended_early([fault, kill]) == [why] * number


def test_its_agent_is_told_the_pod_that_it_goes_with() -> None:
    site, told = pods(Refusing()), []
    site.agents.begin = lambda *words: told.append(words[3])
    site.agent_begin("run.0", TARGET, "fill-gpu", {"device": UUID}, 60.0)
    assert told == [{"device": UUID, "pod": "p", "container": "gpu", "beside_pod": "u"}]


def test_its_pod_bears_what_the_targets_bears_and_no_more() -> None:
    api, taint = Refusing(), {"key": "nvidia.com/gpu", "operator": "Exists"}
    tolerant = replace(TARGET, details={**TARGET.details, "tolerations": [taint]})
    for target in (TARGET, tolerant):
        pods(api).agent_begin("run.0", target, "fill-gpu", {"device": UUID}, 60.0)
    made = [body["spec"]["template"]["spec"]["tolerations"] for _, body in api.created if body["kind"] == "Job"]
    assert made == [[], [taint]]


class Left(Contained):
    """A cluster whose target's pod is gone, and its node or not; `agents` are there by the process table of that."""

    witness = "pods by UID from the API server"

    def __init__(self, *, node: bool, agents: tuple[int, ...] = ()) -> None:
        super().__init__(fit=False, outlives=False)
        site, looked = self.beside_accelerators, []
        found = site.accelerators() | {"agents": agents}
        site.knowing, site.vanished = lambda _: site, lambda _: "" if node else "node n1"
        site.accelerators = lambda *_, **__: looked.append(1) or found
        self.looked = looked

    def state(self, _: Target) -> str:
        return "gone"


def test_a_pod_that_is_gone_is_no_proof_without_a_look_at_its_node_and_a_node_that_is_gone_is_one() -> None:
    injector = GpuSaturate()
    undo = injector.plan((R0,), Contained(fit=False, outlives=False)).stamped("run.0", injector.kind, {}, 60.0)
    there = Left(node=True)
    assert "NVML" in injector.verify_recovered(undo, there).source
    with pytest.raises(Differs, match="pid 7 is an agent of this fault and still there"):
        injector.verify_recovered(undo, Left(node=True, agents=(7,)))
    gone = Left(node=False)
    found = injector.verify_recovered(undo, gone)
    assert (found.source, found.detail) == (Left.witness, f"nothing of ours is on {UUID}, since node n1 is gone")
    assert (there.looked, gone.looked) == ([1], [])


@pytest.mark.parametrize(("there", "gone"), [({"metadata": {}}, ""), (None, "node n1"), (Forbidden("no", 403, "Forbidden"), "")])
def test_a_node_is_gone_only_by_the_api_servers_word(there: Any, gone: str) -> None:
    def asked(_: str) -> Any:
        if isinstance(there, Forbidden):
            raise there
        return there

    api: Any = SimpleNamespace(there=asked)
    assert pods(api).vanished(TARGET) == gone


def test_nothing_is_made_to_look_where_that_takes_more_privilege_than_is_allowed() -> None:
    api = Refusing()
    with pytest.raises(Unsupported, match="takes the privilege helper, and exec is the most that is allowed"):
        replace(pods(api), privilege="exec").accelerators(TARGET, "", opencl=False)
    assert api.created == []


def test_one_thing_that_cannot_be_given_up_keeps_no_other_from_it() -> None:
    asked: list[str] = []

    def failing(name: str, *, fails: bool) -> Any:
        def abandon(run: str) -> None:
            asked.append(f"{name} {run}")
            if fails:
                raise PlatformError(f"this login may not list {name}")

        return SimpleNamespace(abandon=abandon, forget=abandon)

    platform = KubernetesPlatform.__new__(KubernetesPlatform)
    platform.records, platform.guards = failing("records", fails=False), failing("guards", fails=True)
    platform.isolation, platform.beside_accelerators = failing("cuts", fails=True), failing("pods", fails=False)
    platform.slow_site = failing("slow pods", fails=False)
    with pytest.raises(PlatformError, match="may not list guards"):
        platform.abandon("run")
    assert asked == ["records run", "guards run", "cuts run", "pods run", "slow pods run"]


@pytest.mark.parametrize(("protected", "fine"), [(True, None), (False, True)])
def test_doctor_starts_nothing_where_nothing_may_be_touched(protected: bool, fine: bool | None, monkeypatch: Any) -> None:
    monkeypatch.setattr(doctor, "registry", lambda: {"gpu-saturate": GpuSaturate})
    platform, service = Contained(fit=False, outlives=False), SimpleNamespace(platform="kubernetes")
    (found,) = doctor._kinds(service, platform, (R0,), protected=protected)
    assert (found.subject, found.fine) == ("gpu-saturate", fine)
    assert protected == ("nothing may be started there to look; `blackstart plan` tells once it may" in found.text)
