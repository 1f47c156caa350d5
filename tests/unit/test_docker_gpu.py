"""GPUs of containers in which no agent can work: how a container of ours gets the same one, and when it ends."""

import json
from dataclasses import replace
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from blackstart.drills.aiming import aim_again
from blackstart.drills.plan import PlannedFault
from blackstart.injectors.base import Privilege, Refusal, Undo
from blackstart.injectors.devices import where_of
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms import docker_rooms
from blackstart.injectors.platforms.base import PlatformError, Target, Unfit, Unsupported
from blackstart.injectors.platforms.docker_find import identity_of
from blackstart.injectors.platforms.docker_gpu import ALL, GpuRooms, granted, shown
from blackstart.injectors.platforms.docker_helpers import OURS, Helpers
from blackstart.injectors.platforms.docker_left import EngineLeft
from blackstart.tests.unit.small_engine import Workshop, container
from blackstart.tests.unit.test_gpu_evidence import MIB, TARGET, UUID, gpu, process

FAULT = "run.0"
NEEDED = [["gpu", "compute", "utility"]]
BY_FLAG = {"Driver": "", "Count": 0, "DeviceIDs": ["1"], "Capabilities": [["gpu"]]}
BY_CDI = {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1"]}


def asking(runtime: str, *requests: dict[str, Any], **environment: str) -> dict[str, Any]:
    config = {"Image": "llm:1", "Env": [f"{name}={value}" for name, value in environment.items()], "Labels": {}}
    return container(Config=config, HostConfig={"Runtime": runtime, "DeviceRequests": list(requests)})


@pytest.mark.parametrize(
    ("one", "device", "host"),
    [
        (asking("nvidia", NVIDIA_VISIBLE_DEVICES="all"), UUID, {"Runtime": "nvidia"}),
        (
            asking("runc", BY_FLAG),
            UUID,
            {"Runtime": "runc", "DeviceRequests": [{"Driver": "", "Capabilities": NEEDED, "DeviceIDs": [UUID]}]},
        ),
        (
            asking("runc", BY_FLAG),
            ALL,
            {"Runtime": "runc", "DeviceRequests": [{"Driver": "", "Capabilities": NEEDED, "Count": -1}]},
        ),
        (
            asking("runc", BY_CDI),
            UUID,
            {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={UUID}"]}]},
        ),
    ],
)
def test_a_container_of_ours_gets_one_gpu_as_the_target_gets_its_own(
    one: dict[str, Any], device: str, host: dict[str, Any]
) -> None:
    found = granted(one, device)
    assert found["HostConfig"] == host
    assert f"NVIDIA_VISIBLE_DEVICES={device}" in found["Env"]


@pytest.mark.parametrize(
    "one", [asking("runc", NVIDIA_VISIBLE_DEVICES="all"), asking("runc", {"Driver": "cdi", "DeviceIDs": ["amd.com/gpu=0"]})]
)
def test_where_the_engine_gives_no_gpu_none_is_asked_for(one: dict[str, Any]) -> None:
    """What its image says of GPUs nobody heeds then."""
    with pytest.raises(Unsupported, match="it runs by the engine's runtime runc and has requested no GPU"):
        granted(one, ALL)
    assert shown(one) == {}


@pytest.mark.parametrize(
    ("one", "visible"),
    [
        (asking("nvidia", NVIDIA_VISIBLE_DEVICES="GPU-1"), "GPU-1"),
        (asking("runc", BY_FLAG, NVIDIA_VISIBLE_DEVICES="all"), "1"),
        (asking("runc", BY_CDI), "GPU-1"),
        (asking("runc", {**BY_FLAG, "DeviceIDs": None, "Count": -1}), "all"),
        (asking("runc", {**BY_FLAG, "DeviceIDs": None, "Count": 2}), "0,1"),
    ],
)
def test_what_the_engine_lets_a_container_see(one: dict[str, Any], visible: str) -> None:
    assert shown(one) == {"NVIDIA_VISIBLE_DEVICES": visible}


def test_an_index_of_cudas_means_nothing_where_the_runtime_was_asked_for_no_gpu() -> None:
    assert shown(asking("nvidia", CUDA_VISIBLE_DEVICES="0")) == {}


class Agents:
    """One that works, hangs or does not begin."""

    def __init__(self, why: str = "") -> None:
        self.why = why

    def begin(self, *_: Any) -> Any:
        if self.why:
            raise PlatformError(self.why)
        return {"event": "effective"}

    end_in = begin


def rooms(engine: Workshop, why: str = "") -> GpuRooms:
    agents: Any = Agents(why)
    return GpuRooms(engine, agents, Helpers(engine, "tools:1", Event()), lambda _: None)  # type: ignore[arg-type]


def begun(engine: Workshop, site: GpuRooms) -> Target:
    target = Target(identity_of(engine.found["abc"]), "shop-llm-1", "replica")
    site.agent_begin(FAULT, target, "fill-gpu", {"device": UUID}, 60.0)
    return target


@pytest.fixture
def engine() -> Workshop:
    one = Workshop(asking("nvidia", NVIDIA_VISIBLE_DEVICES="all"))
    one.found["tools%3A1"] = {}  # the image, by its name in a path
    return one


def test_its_container_ends_with_a_fault_that_did_not_begin(engine: Workshop) -> None:
    with pytest.raises(PlatformError, match="the driver has hung"):
        begun(engine, rooms(engine, "the driver has hung"))
    assert engine.log == ["made gpu", "ended gpu"]


@pytest.mark.parametrize("why", ["", "it does not end"])
def test_its_container_ends_with_the_fault_whether_or_not_the_agent_does(engine: Workshop, why: str) -> None:
    target = begun(engine, rooms(engine))
    del engine.found["abc"]  # the target may be gone
    assert why in rooms(engine, why).agent_end(FAULT, target)["reason" if why else "event"]
    assert engine.log == ["made gpu", "ended gpu"]


def test_by_the_engine_alone_its_container_is_removed_with_the_run(engine: Workshop) -> None:
    """As where the run's folder is on another machine."""
    begun(engine, rooms(engine))
    for other in ("abc", "tools%3A1"):  # this engine does not tell by labels
        del engine.found[other]
    left = EngineLeft(engine)  # type: ignore[arg-type]
    ((name,),) = left.runs().values()
    assert left.end("run") == [f"removed container {name}"]
    assert engine.log == ["made gpu", "ended gpu"]


def test_a_look_is_made_in_a_container_for_it_and_beside_an_agent_in_the_agents_own(
    engine: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_rooms, "RoomDoors", lambda _: engine)
    engine.answers = {"look": {"nvml": "", "gpus": []}}
    site, target = rooms(engine), Target(identity_of(engine.found["abc"]), "shop-llm-1", "replica")
    assert site.accelerators(target, "", opencl=False)["environment"] == {"container": {"NVIDIA_VISIBLE_DEVICES": "all"}}
    assert engine.log == ["made look", "look", "ended look"]
    begun(engine, site)
    site.accelerators(target, FAULT, opencl=False)
    assert engine.log[3:] == ["made gpu", "look"]
    engine.answers = {"look": {"nvml": "libnvidia-ml.so.1 cannot be loaded", "gpus": []}}
    with pytest.raises(Unsupported, match=r"sees none: libnvidia-ml\.so\.1 cannot be loaded; NVIDIA's runtime may be told"):
        site.accelerators(target, "", opencl=False)


# --- what follows from where the agent is ---


class Contained:
    """A platform whose target has that GPU, and where an agent works inside it, or only beside it."""

    def __init__(self, *, fit: bool, outlives: bool = True) -> None:
        self.name = "docker" if outlives else "kubernetes"
        seen = dict.fromkeys(("nvml", "cuda", "kfd", "hip", "opencl"), "")
        seen |= {
            "gpus": [gpu(process(TARGET, 3000 * MIB), used=3000 * MIB)],
            "broken": [],
            "amd": [],
            "environment": {},
            "pids": [TARGET],
        }
        self.seen, self.fit = seen, fit
        beside = {**seen, "where": "beside"}
        site = SimpleNamespace(accelerators=lambda *_, **__: beside, agent_seen=lambda *_: None, outlives=outlives)
        self.beside_accelerators = site

    def accelerators(self, *_: object, **__: object) -> dict[str, Any]:
        if not self.fit:
            raise Unfit("container llm has no python3")
        return {**self.seen, "where": "inside"}

    def agent_seen(self, *_: object) -> None:
        return None


R0 = Target("container:abc@1", "r0", "replica")


@pytest.mark.parametrize(
    ("fit", "because"),
    [(False, "container llm has no python3"), (True, "r0 may hold most of GPU-0 already, so it would be hit only")],
)
def test_memory_that_a_target_has_already_is_taken_by_an_agent_that_outlives_it(fit: bool, because: str) -> None:
    injector = GpuMemoryFill()
    undo = injector.plan((R0,), Contained(fit=fit))
    assert (injector.bites(undo), injector.lives_inside(undo)) == ("on-restart", frozenset())
    assert injector.privilege_of(undo, "docker") == Privilege.HELPER
    assert injector.way(undo).startswith(f"an agent in a container of ours beside r0, since {because}")


def test_where_no_agent_can_outlive_the_target_its_memory_is_not_taken() -> None:
    platform = Contained(fit=True)
    del platform.beside_accelerators
    with pytest.raises(
        Refusal, match=r"may hold most of GPU-0 already.* would end with it; on platform docker no container of ours is put"
    ):
        GpuMemoryFill().plan((R0,), platform)
    platform.fit = False
    with pytest.raises(
        Unsupported, match="container llm has no python3; on platform docker no container of ours is put beside it"
    ):
        GpuSaturate().plan((R0,), platform)


def test_an_agent_inside_a_target_ends_with_it_and_needs_no_more_than_exec() -> None:
    injector, platform = GpuMemoryFill(), Contained(fit=True)
    platform.seen["gpus"] = [gpu(process(TARGET, 300 * MIB), used=300 * MIB)]
    undo = injector.plan((R0,), platform)
    assert (injector.lives_inside(undo), injector.way(undo)) == ({"r0"}, "")
    assert injector.privilege_of(undo, "docker") == Privilege.EXEC


def planned_as(injector: Any, undo: Undo) -> PlannedFault:
    fault: Any = SimpleNamespace(kind=injector.kind, parameters={})
    bites, privilege = injector.bites(undo), injector.privilege_of(undo, "docker")
    return PlannedFault(0, fault, injector, (R0,), 1, 1.0, None, 60.0, bites, privilege, undo)


def test_a_way_that_takes_more_than_was_planned_is_not_taken() -> None:
    injector, platform = GpuSaturate(), Contained(fit=True)
    platform.current, platform.find = lambda _: R0, lambda: (R0,)
    planned = planned_as(injector, injector.plan((R0,), platform))
    assert aim_again(planned, platform, "run").targets == (R0,)
    platform.fit = False
    with pytest.raises(Refusal, match="the way that is open by now takes more privilege than was planned"):
        aim_again(planned, platform, "run")


def test_a_fault_that_would_bite_later_than_was_planned_is_not_injected() -> None:
    """Else it would be held to its end in a scenario that restarts nothing, and passed by any service."""
    injector, platform = GpuMemoryFill(), Contained(fit=False)
    platform.current, platform.find = lambda _: R0, lambda: (R0,)
    beside = platform.beside_accelerators.accelerators()
    beside["gpus"] = [gpu(process(TARGET, 300 * MIB), used=300 * MIB)]
    planned = planned_as(injector, injector.plan((R0,), platform))
    assert aim_again(planned, platform, "run").bites == "now"
    beside["gpus"] = [gpu(process(TARGET, 3000 * MIB), used=3000 * MIB)]
    with pytest.raises(Refusal, match="by now gpu-memory-fill would bite on-restart, and now was planned"):
        aim_again(planned, platform, "run")


def test_a_fault_that_would_go_with_its_target_only_by_now_is_not_injected() -> None:
    injector, platform = GpuSaturate(), Contained(fit=False)
    platform.current, platform.find = lambda _: R0, lambda: (R0,)
    planned = planned_as(injector, injector.plan((R0,), platform))
    platform.fit = True
    with pytest.raises(Refusal, match="by now gpu-saturate would go with the container or pod of r0, which was not planned"):
        aim_again(planned, platform, "run")


# --- before anything is started, and after the target is gone ---


def looking(engine: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_rooms, "RoomDoors", lambda _: engine)
    engine.answers = {"look": {"nvml": "", "gpus": []}}


def test_nothing_is_started_to_look_where_that_takes_more_privilege_than_is_allowed(
    engine: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking(engine, monkeypatch)
    site, target = rooms(engine), Target(identity_of(engine.found["abc"]), "shop-llm-1", "replica")
    with pytest.raises(Unsupported, match="takes the privilege helper, and ephemeral is the most that is allowed"):
        replace(site, privilege="ephemeral").accelerators(target, "", opencl=False)
    assert engine.log == []
    site.accelerators(target, "", opencl=False)
    assert "made look" in engine.log


def test_a_target_that_is_gone_with_its_slot_is_looked_at_by_what_was_planned(
    engine: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `docker compose down`."""
    looking(engine, monkeypatch)
    site, target = rooms(engine), Target(identity_of(engine.found["abc"]), "shop-llm-1", "replica")
    device = json.loads(json.dumps(site.accelerators(target, "", opencl=False)))
    del engine.found["abc"]
    with pytest.raises(PlatformError, match="is gone, and nothing tells how its containers get a GPU"):
        site.accelerators(target, FAULT, opencl=False)
    engine.log.clear()
    assert site.knowing(device).accelerators(target, FAULT, opencl=False)["environment"] == {}
    assert engine.log == ["made look", "look", "ended look"]
    assert device["grant"]["HostConfig"] == {"Runtime": "nvidia"}


@pytest.mark.parametrize(
    ("purpose", "since", "removed"),
    [
        ("look", "2026-11-26T03:03:00Z", True),
        ("try", "2026-11-26T03:03:00Z", True),
        ("look", "2026-11-26T03:04:55Z", False),  # somebody's who is about to start it
        ("gpu", "2026-11-26T03:03:00Z", False),  # a run's, which `recover` undoes
    ],
)
def test_looks_that_were_never_started_are_removed_before_the_next(
    engine: Workshop, monkeypatch: pytest.MonkeyPatch, purpose: str, since: str, removed: bool
) -> None:
    looking(engine, monkeypatch)
    config = {"Image": "tools:1", "Labels": {OURS: purpose}}
    engine.found["left"] = container(Id="left", Name="/left", Created=since, State={"Running": False}, Config=config)
    rooms(engine).accelerators(Target(identity_of(engine.found["abc"]), "shop-llm-1", "replica"), "", opencl=False)
    assert ("removed left" in engine.log) is removed
    assert "made look" in engine.log


def test_one_agent_that_cannot_be_ended_keeps_no_other_from_being_asked() -> None:
    asked, platform = [], Contained(fit=True)

    def end(_: str, target: Target) -> None:
        asked.append(target.name)
        raise PlatformError(f"{target.name} does not answer")

    platform.agent_end = end
    device = {"where": "inside"}
    undo = Undo((R0, replace(R0, name="r1")), {"devices": {"r0": device, "r1": device}}, FAULT)
    with pytest.raises(PlatformError, match="r0 does not answer"):
        GpuSaturate().recover(undo, platform)
    assert asked == ["r0", "r1"]


@pytest.mark.parametrize(("platform", "where"), [("process", "here"), ("docker", "inside"), ("kubernetes", "inside")])
def test_where_the_agent_was_by_a_record_that_does_not_say(platform: str, where: str) -> None:
    one: Any = SimpleNamespace(name=platform)
    assert where_of({"device": UUID}, one) == where
    assert where_of({"device": UUID, "where": "beside"}, one) == "beside"


def test_a_record_that_does_not_say_where_the_agent_was_is_proven() -> None:
    platform = Contained(fit=True)
    platform.state, platform.witness = lambda _: "gone", "the engine"
    undo = Undo((R0,), {"devices": {"r0": {"device": UUID, "hardware": "real"}}}, FAULT)
    found = GpuSaturate().verify_recovered(undo, platform)
    assert (found.source, found.facts["targets"]["r0"]["gone"]) == ("the engine", R0.identity)
