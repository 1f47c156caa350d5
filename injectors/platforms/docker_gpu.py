"""GPUs of containers in which no agent can work: a container of ours beside the target, which the engine gives that one GPU as well.

Whose it is, is looked at before a fault and after it by another one, which is given all GPUs, changes nothing and lasts for seconds.
Either sees the processes of the engine's machine, since NVML tells their pids in whatever container it is asked, and the target's among
them by their control group. It has an ordinary user, no capability and no network, and ends by itself: at the deadline, or once the
agent in it has let go. With it ends the agent, and the driver takes back what that had. The target's death does not end it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ..values import JSON
from .base import PlatformError, Target, Unsupported
from .docker_exec import Room
from .docker_find import parts_of
from .docker_outpost import NOBODY
from .docker_rooms import EngineRooms
from .own_rooms import ALL, CUDA_ORDER, CUDA_VISIBLE, NEEDED, VISIBLE, BesideGpu, Wanted, given

NVIDIA, CDI, CDI_KIND = "nvidia", "cdi", "nvidia.com/gpu="


@dataclass
class GpuRooms(EngineRooms, BesideGpu[Room]):
    """Those of one service; a `BesideSite`. `grant`: how a target that may be gone got its GPUs, as `accelerators` told when it was planned."""

    grant: JSON | None = None

    outlives: ClassVar[bool] = True  # a container that starts again keeps its GPU
    purpose: ClassVar[str] = "gpu"

    def knowing(self, device: JSON) -> "GpuRooms":
        return replace(self, grant=device.get("grant"))

    def _way(self, target: Target, device: str) -> JSON:
        if device == ALL and self.grant:
            return self.grant
        container = self._container(target)
        if container is None:
            raise PlatformError(f"{target.name} ({target.identity}) is gone, and nothing tells how its containers get a GPU")
        return granted(container, device)

    def _begun(self, wanted: Wanted) -> Room:
        host = {"PidMode": "host", **wanted.way["HostConfig"]}
        body = {"User": NOBODY, "Env": wanted.way["Env"], "HostConfig": host}
        return self._began(wanted, body, "has a GPU and sees the processes of the engine's machine")

    def _number(self, target: Target) -> str:
        container = self._container(target)
        return str(container["Id"]) if container else parts_of(target.identity)[0]

    def _shown(self, target: Target, way: JSON) -> JSON:
        container = self._container(target)
        return {"environment": {"container": shown(container)} if container else {}, "grant": way}

    def _blind(self, target: Target, why: str) -> str:
        return (
            f"a container of image {self.helpers.image} that asks for GPUs as {target.name} does sees none: {why}; NVIDIA's runtime may be told "
            f"to ignore {VISIBLE} of unprivileged containers"
        )


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
