"""Troubles of accelerators themselves: gpu-throttle; and, in families of their own, gpu-lost and gpu-health-signal."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

from .base import Differs, Evidence, Injector, NotYet, Privilege, Refusal, Undo
from .device_needs import device_problems
from .devices import accelerators, others_on, own_gpu
from .gpu_proof import NVML, shown_units
from .lifecycle import end_agent
from .means import AGENT, Means
from .opencl_devices import OPENCL
from .platforms.base import Platform, Target
from .values import JSON, Share

LIMITS = ("power_set_w", "power_limit_w")  # the one that can be set, and the one in force: the least of all that there are


@dataclass(frozen=True)
class GpuThrottle(Injector):
    """Let an agent hold a lower limit of power on each target's own GPU."""

    power: Annotated[Share, "the limit of power, as a part of the present one; no less than the GPU allows"] = Share(0.6)
    device: Annotated[str | None, "the target's own GPU by its UUID, needed where it has several"] = None

    kind: ClassVar[str] = "gpu-throttle"
    summary: ClassVar[str] = "the target's own GPU gets a lower limit of power, as one that is derated has"
    certifies: ClassVar[str] = (
        "recovery: that the service stays within its objectives with one slower GPU; not detection: whether a monitor sees a GPU that is "
        "throttled by heat is another matter"
    )
    done_by: ClassVar[Means] = AGENT
    proven_by: ClassVar[str] = (
        "NVML, in another process: the limit that is set and the one in force; with them clocks, power and why the clocks are lower"
    )
    undone_by: ClassVar[str] = (
        "the agent sets the limit that was set before, never over one that somebody else has set since; that it is set again is proven, "
        "whatever other limit is in force"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"process"})
    privilege: ClassVar[Privilege] = Privilege.HELPER
    patience: ClassVar[timedelta] = timedelta(seconds=20)

    def problems(self) -> tuple[str, ...]:
        found = device_problems(self.device)
        return (
            found
            if 0 < self.power < 1
            else (f"`power` is {self.power:.0%}, which throttles nothing or stops all; write 60%", *found)
        )

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        if self.device and self.device.startswith(OPENCL):
            raise Refusal(f"not injecting: {self.device} has no limit of power that could be set; NVML has, of NVIDIA's GPUs")
        limits: dict[str, JSON] = {}
        for target in targets:
            seen, pids = accelerators(platform).accelerators(target, "", opencl=False), set(platform.pids(target))
            gpu = own_gpu(seen, target, pids, self.device)
            limits[target.name] = self._limit(gpu, seen, pids)
        if len({limit["device"] for limit in limits.values()}) < len(limits):
            raise Refusal("not injecting: several targets share a GPU; take one of them (count: 1)")
        return Undo(targets, {"limits": limits})

    def _limit(self, gpu: JSON, seen: JSON, pids: set[int]) -> JSON:
        uuid, now, before, least = gpu["uuid"], gpu["power_limit_w"], gpu["power_set_w"], gpu["power_least_w"]
        if gpu["parent"]:
            raise Refusal(f"not injecting: {uuid} is a slice of {gpu['parent']}, and only a whole GPU has a limit of power")
        if now is None or before is None or least is None:
            raise Refusal(f"not injecting: NVML tells no limits of power of {uuid}, so none can be set")
        if not seen["root"]:
            raise Refusal(f"not injecting: only root may set the limit of power of {uuid}; run blackstart as root")
        if others := others_on(gpu, pids):
            raise Refusal(f"not injecting: {uuid} is also used by pid {', '.join(others)}, no target's")
        wanted = round(max(least, now * self.power))
        if wanted >= now:
            raise Refusal(f"not injecting: {uuid} is limited to {now:g} W, and {least:g} W is the least that can be set")
        return {"device": uuid, "hardware": gpu["hardware"], "before_w": before, "limit_w": wanted}

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            limit = undo.prior["limits"][target.name]
            request = {"device": limit["device"], "limit_w": limit["limit_w"]}
            platform.agent_begin(undo.fault, target, "limit-gpu", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        facts: JSON = {}
        for target, limit, gpu in self._gpus(undo, platform):
            if gpu is None or any(gpu[word] is None or gpu[word] > limit["limit_w"] for word in LIMITS):
                raise NotYet(f"{limit['device']} {_limited(gpu)}, not to {limit['limit_w']} W")
            told = {word: gpu[word] for word in (*LIMITS, "power_w", "sm_mhz", "slowed_by", "utilisation", "temperature_c")}
            facts[target.name] = {**limit, **told}
        shown = "; ".join(f"{each['device']} is limited to {each['power_limit_w']:g} W{_at(each)}" for each in facts.values())
        return self._evidence(undo, shown, facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            end_agent(undo, target, platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        """By the limit that is set: the one in force may be another limiter's, which came or went meanwhile."""
        facts: JSON = {}
        shown = []
        for target, limit, gpu in self._gpus(undo, platform):
            if gpu is None or gpu["power_set_w"] != limit["before_w"]:
                raise Differs(f"{limit['device']} {_limited(gpu)}, and was to {limit['before_w']:g} W before")
            facts[target.name] = {"device": limit["device"], "power_set_w": [limit["before_w"], gpu["power_set_w"]]}
            facts[target.name]["power_limit_w"] = gpu["power_limit_w"]
            shown.append(f"{limit['device']} {_limited(gpu)}")
        return self._evidence(undo, "; ".join(shown), facts)

    def _gpus(self, undo: Undo, platform: Platform) -> list[tuple[Target, JSON, JSON | None]]:
        """Each target with its limit and with what another process's NVML tells of its GPU now."""
        found = []
        for target in undo.targets:
            limit, look = undo.prior["limits"][target.name], accelerators(platform).accelerators(target, "", opencl=False)
            found.append((target, limit, next((gpu for gpu in look["gpus"] if gpu["uuid"] == limit["device"]), None)))
        return found

    def _evidence(self, undo: Undo, shown: str, facts: JSON) -> Evidence:
        hardware = next(iter(undo.prior["limits"].values()))["hardware"]
        return Evidence(NVML, f"{shown}; hardware: {hardware}", {"hardware": hardware, "targets": facts})


def _limited(gpu: JSON | None) -> str:
    """To what it is set, and what is in force where that is another."""
    if gpu is None:
        return "is not there"
    given, in_force = (gpu[word] for word in LIMITS)
    if given is None:
        return "tells no limit of power"
    if in_force is None:
        return f"is limited to {given:g} W, and tells no limit in force"
    return f"is limited to {given:g} W" + ("" if in_force == given else f" ({in_force:g} W in force)")


def _at(told: JSON) -> str:
    units = shown_units(told)
    return f", at {', '.join(units)}" if units else ""
