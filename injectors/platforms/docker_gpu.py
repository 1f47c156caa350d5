"""GPUs of containers in which no agent can work: a container of ours beside the target, which the engine gives that one GPU as well.

Whose it is, is looked at before a fault and after it by another one, which is given all GPUs, changes nothing and lasts for seconds.
Either sees the processes of the engine's machine, since NVML tells their pids in whatever container it is asked, and the target's among
them by their control group. It has an ordinary user, no capability and no network, and ends by itself: at the deadline, or once the
agent in it has let go. With it ends the agent, and the driver takes back what that had. The target's death does not end it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

from ..values import JSON
from .abilities import BESIDE
from .agent_programs import program
from .base import PlatformError, Target, Unsupported
from .container_files import DRIVER_S
from .docker_api import DockerApi, EngineError, at
from .docker_exec import Room, RoomDoors
from .docker_find import parts_of
from .docker_helpers import FAULT, LOOK, OURS, RUN, START, TARGET, Helpers, name_of
from .docker_inline import SLACK_S
from .docker_outpost import NOBODY
from .exec_agents import ContainerAgents, look, prefix, told
from .own_rooms import ALL, CUDA_ORDER, CUDA_VISIBLE, MOST, NEEDED, SLEEP, VISIBLE, given, refuse_below, run_of

NVIDIA, CDI, CDI_KIND = "nvidia", "cdi", "nvidia.com/gpu="


@dataclass
class GpuRooms:
    """Those of one service; a `BesideSite`. `standing`: what is in a slot now; `privilege`: the most that is allowed; `grant`: how a target
    that may be gone got its GPUs, as `accelerators` told when it was planned.
    """

    api: DockerApi
    agents: ContainerAgents[Room]
    helpers: Helpers
    standing: Callable[[str], JSON | None]
    privilege: str = MOST
    grant: JSON | None = None

    outlives: ClassVar[bool] = True  # a container that starts again keeps its GPU

    def accelerators(self, target: Target, fault: str, *, opencl: bool) -> JSON:
        """From beside the agent of that fault; without one from a container that is made for it, and sees all GPUs. Raises Unsupported."""
        del opencl  # its devices are drilled beside local processes only
        if not fault:
            refuse_below(self.privilege)
        container = self._container(target)
        number = container["Id"] if container else parts_of(target.identity)[0]
        grant = self.grant or self._granted(container, target, ALL)
        if room := self._holding(fault, target) if fault else None:
            found = self._looked(room, number, fault)
        else:
            found = self._looked_once(number, fault, target, grant)
        if found["nvml"]:
            raise Unsupported(
                f"a container of image {self.helpers.image} that asks for GPUs as {target.name} does sees none: {found['nvml']}; NVIDIA's "
                f"runtime may be told to ignore {VISIBLE} of unprivileged containers"
            )
        environment = {"container": shown(container)} if container else {}
        return {**found, "environment": environment, "where": BESIDE, "grant": grant}

    def knowing(self, device: JSON) -> "GpuRooms":
        return replace(self, grant=device.get("grant"))

    def vanished(self, target: Target) -> str:
        """Never: who is on a machine's GPUs is seen from any container there."""
        del target
        return ""

    def agent_seen(self, fault: str, target: Target) -> JSON | None:
        room = self._holding(fault, target)
        found: JSON | None = look(RoomDoors(self.api), room, "seen", {"prefix": prefix(fault, target)})["seen"] if room else None
        return found

    def agent_begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON:
        number, start = parts_of(target.identity)
        labels = {OURS: "gpu", RUN: run_of(fault), FAULT: fault, TARGET: number, START: start}
        name, grant = _name(fault, target), self._granted(self._container(target), target, parameters["device"])
        self._begun(name, labels, grant, deadline_s + SLACK_S)
        try:
            return self.agents.begin(fault, target, verb, {**parameters, "container": name}, deadline_s)
        except PlatformError:
            with suppress(PlatformError):  # whoever undoes the fault asks again
                self.helpers.end(name)
            raise

    def agent_end(self, fault: str, target: Target, beside: Sequence[str] = ()) -> JSON:
        """From any process, whatever has become of the target. An agent that cannot be told to end ends with its container."""
        del beside  # nothing is changed that could outlive it
        answer: JSON = {"event": "undone", "reason": "nothing was left"}
        if room := self._holding(fault, target):
            try:
                answer = self.agents.end_in(room, fault, target)
            except PlatformError as error:
                answer = {"event": "undone", "reason": f"its container was ended: {error}"}
        self.helpers.end(_name(fault, target))
        return answer

    def _holding(self, fault: str, target: Target) -> Room | None:
        name = _name(fault, target)
        found = self.helpers.there(name)
        return Room(found["Id"], name) if found else None

    def _looked(self, room: Room, number: str, fault: str) -> JSON:
        request = {"container": number, "fault": fault}
        return told(RoomDoors(self.api), room, program("saturate-gpu").name, ("look", request), DRIVER_S)

    def _looked_once(self, number: str, fault: str, target: Target, grant: JSON) -> JSON:
        self.helpers.remove_unstarted()
        name = name_of("gpu-look", f"{target.identity} {os.getpid()} {id(self)}")
        labels = {OURS: LOOK, **({RUN: run_of(fault)} if fault else {})}
        try:
            return self._looked(self._begun(name, labels, grant, SLACK_S), number, fault)
        finally:
            self.helpers.end(name)

    def _begun(self, name: str, labels: Mapping[str, str], grant: JSON, seconds: float) -> Room:
        image = self.helpers.named_image("python3")
        host = {"NetworkMode": "none", "PidMode": "host", **grant["HostConfig"]}
        body = {"User": NOBODY, "Env": grant["Env"], "Cmd": ["-c", SLEEP, str(seconds)], "HostConfig": host}
        try:
            return self.helpers.begin(name, labels, body)
        except EngineError as error:
            raise Unsupported(
                f"a container of image {image} that has a GPU and sees the processes of the engine's machine cannot be started: {error}"
            ) from error

    def _container(self, target: Target) -> JSON | None:
        """The target's, or what stands in its place: it tells how GPUs get in, and by its ID whose processes are the target's."""
        return self.api.there(at("containers", parts_of(target.identity)[0], "json")) or self.standing(target.name)

    def _granted(self, container: JSON | None, target: Target, device: str) -> JSON:
        if container is None:
            raise PlatformError(f"{target.name} ({target.identity}) is gone, and nothing tells how its containers get a GPU")
        return granted(container, device)


def granted(container: JSON, device: str) -> JSON:
    """`HostConfig` and `Env` by which a container gets that GPU (a UUID, or ALL) in the way that this one gets its own.

    Raises Unsupported where that got none from NVIDIA's runtime or by a request.
    """
    host, requests = container["HostConfig"], _requests(container)
    runtime = str(host.get("Runtime") or "")
    env = [f"{name}={value}" for name, value in given(device).items()]
    if requests and requests[0]["Driver"] == CDI:
        return {"Env": env, "HostConfig": {"DeviceRequests": [{"Driver": CDI, "DeviceIDs": [f"{CDI_KIND}{device}"]}]}}
    if requests:
        which = {"Count": -1} if device == ALL else {"DeviceIDs": [device]}
        request = {"Driver": requests[0]["Driver"], "Capabilities": [["gpu", *NEEDED]], **which}
        return {"Env": env, "HostConfig": {"Runtime": runtime, "DeviceRequests": [request]}}
    if NVIDIA in runtime:
        return {"Env": env, "HostConfig": {"Runtime": runtime}}
    raise Unsupported(
        f"it runs by the engine's runtime {runtime or 'runc'} and has requested no GPU, so NVIDIA's runtime gives it none, and would give "
        "none to a container of ours; start it with --gpus or --runtime=nvidia"
    )


def shown(container: JSON) -> Mapping[str, str]:
    """What the engine lets a container see of GPUs, in the variables by which CUDA and NVIDIA's runtime name them; none: nothing."""
    said = dict(each.partition("=")[::2] for each in container["Config"].get("Env") or [])
    requests, runtime = _requests(container), str(container["HostConfig"].get("Runtime") or "")
    if requests:
        said[VISIBLE] = ",".join(map(_asked_for, requests))
    elif NVIDIA not in runtime:
        return {}
    return {name: said[name] for name in (VISIBLE, CUDA_VISIBLE, CUDA_ORDER) if name in said and VISIBLE in said}


def _requests(container: JSON) -> list[JSON]:
    """For GPUs of NVIDIA's: by the engine's own driver for them, or by their names in CDI."""
    found: list[JSON] = container["HostConfig"].get("DeviceRequests") or []
    return [
        each
        for each in found
        if each.get("Driver") == NVIDIA
        or (each.get("Driver") == CDI and all(name.startswith(CDI_KIND) for name in each.get("DeviceIDs") or []))
        or (not each.get("Driver") and any("gpu" in words for words in each.get("Capabilities") or []))
    ]


def _asked_for(request: JSON) -> str:
    """The GPUs of one request as NVIDIA's variable has them; a mere number of them are the first ones (the engine's nvidia driver)."""
    if names := request.get("DeviceIDs"):
        return ",".join(str(name).removeprefix(CDI_KIND) for name in names)
    count = int(request.get("Count") or 0)
    return ALL if count < 0 else ",".join(map(str, range(count)))


def _name(fault: str, target: Target) -> str:
    return name_of("gpu", f"{fault}/{target.name}")
