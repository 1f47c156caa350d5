"""Faults of accelerators: gpu-saturate, gpu-memory-fill."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from .base import Evidence, Injector, NotYet, Privilege, Refusal, Undo
from .compute import Meter
from .device_needs import HOTTEST_C, Needs, device_problems, memory_problems, short_of
from .devices import devices_of, site_of
from .gpu_duty import kept, worked
from .gpu_proof import (
    DRM,
    EVENTS,
    LEAST_DEMAND,
    LEAST_RESIDENT,
    beside,
    by_driver,
    hardware,
    held_by_drm,
    inside,
    is_opencl_gpu,
    measured,
    nothing_left,
    on_gpu,
    teller,
    worked_by_drm,
)
from .means import GPU_AGENT, Means
from .opencl_devices import OPENCL
from .platforms.abilities import SiteBeside, end_agents
from .platforms.base import Platform, Target, Unsupported
from .values import JSON, Share, Size

KERNEL = "kernel accounting"
SLACK = 64 << 20  # bytes by which more may be free than was to be left (a driver's granularity); at most half of what is held
LEAVE = 256 << 20
LEAST_DUTY = 0.01
LOWER = "write less as `leave` or `leave_share`, or take gpu-saturate"
LEAST_TAKEN = 16 << 20  # less shows nothing
DEVICE = (
    "the target's own GPU or slice of one (MIG) by its UUID, AMD's as GPU-UNIQUE_ID or PCI-ADDRESS, needed where it has several; or "
    "opencl:N, a processor by OpenCL, or a GPU of which neither CUDA nor HIP is here"
)
SHARED = "whether others that are on the device as well may be hit along with the target"
HOTTEST = "degrees Celsius beyond which the agent lets go by itself"
WATTS = "watts beyond which the agent lets go by itself; without it a tenth more than the device's own limit, where it tells its power"


class OnDevice(Injector):
    """What an agent holds on each target's own device: in the target's container where it can work there, else in one of ours beside it."""

    done_by: ClassVar[Means] = GPU_AGENT
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "docker", "kubernetes"})
    privilege: ClassVar[Privilege] = Privilege.EXEC  # in the target's container
    patience: ClassVar[timedelta] = timedelta(seconds=20)
    looks_from_beside: ClassVar[bool] = True

    def lives_inside(self, undo: Undo) -> frozenset[str]:
        return inside(undo)

    def way(self, undo: Undo) -> str:
        return "; ".join(f"an agent in a container of ours beside {name}, since {why}" for name, why in beside(undo).items())

    def privilege_of(self, undo: Undo, platform: str) -> Privilege:
        return Privilege.HELPER if beside(undo) else self.privilege_on(platform)

    def takes(self) -> frozenset[str]:
        return frozenset({"room"})

    def takes_for(self, undo: Undo) -> frozenset[str]:
        return self.takes() if beside(undo) else frozenset()

    def recover(self, undo: Undo, platform: Platform) -> None:
        devices = undo.prior["devices"]
        end_agents(undo.fault, [(site_of(devices[target.name], platform), target) for target in undo.targets])

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        return nothing_left(undo, platform)


@dataclass(frozen=True)
class GpuSaturate(OnDevice):
    """Let an agent compute on each target's own device."""

    duty: Annotated[Share, "how much of the time the device is kept at work"] = Share(1.0)
    kernels: Annotated[
        Literal["auto", "fma", "tensor"], "what is computed: multiply-adds, on tensor cores, or (auto) both where there are any"
    ] = "auto"
    device: Annotated[str | None, DEVICE] = None
    shared: Annotated[bool, SHARED] = False
    hottest: Annotated[int, HOTTEST, range(30, 111)] = HOTTEST_C
    watts: Annotated[int | None, WATTS, range(1, 3001)] = None

    kind: ClassVar[str] = "gpu-saturate"
    summary: ClassVar[str] = "another process computes on the target's own GPU for a part of the time"
    certifies: ClassVar[str] = (
        "that the service stays within its objectives beside a noisy neighbour on its GPU, by time slices; not that it survives a GPU "
        "that is slow, hot or lost, nor (as opencl-cpu or simulated) anything about a GPU"
    )
    proven_by: ClassVar[str] = (
        "NVML, or of AMD's GPUs the kernel (amdkfd, amdgpu): the agent's process on the target's GPU, its utilisation; on OpenCL the "
        "runtime's event times, and of a GPU the kernel's account of who has it open. Right before the undo the device's own events have to show "
        "the duty within 5 points, over 5 s to 10 s: how long the agent's kernels were on it, slices of time that others got between included; of "
        "what is no real GPU the agent's waiting for a core makes up for what is missing"
    )
    undone_by: ClassVar[str] = "the agent ends, and the driver takes back its context"

    def problems(self) -> tuple[str, ...]:
        found = device_problems(self.device)
        return (
            found
            if self.duty >= LEAST_DUTY
            else (f"`duty` is {self.duty * 100:g}%, of which nothing would be seen; write 1% or more", *found)
        )

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        needs = Needs(self.shared, self.hottest, self.watts, self.kernels == "tensor")
        return Undo(targets, {"devices": devices_of(targets, platform, self.device, needs)})

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            device = undo.prior["devices"][target.name]
            limits = {"hottest_c": self.hottest, "most_w": self.watts, "device": device["device"]}
            request = {**limits, "duty": float(self.duty), "kernels": self.kernels}
            site_of(device, platform).agent_begin(undo.fault, target, "saturate-gpu", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        facts = {target.name: self._proven(undo, target, platform) for target in undo.targets}
        shown = "; ".join(
            f"{fact['device']} {worked(fact)} beside {name}" + (f", {by_driver(fact)}" if "pid" in fact else "")
            for name, fact in facts.items()
        )
        devices = [fact["device"] for fact in facts.values()]
        on_drm = f"{EVENTS} and {DRM}" if any("engine_s" in fact for fact in facts.values()) else EVENTS
        source = next((teller(device) for device in devices if not device.startswith(OPENCL)), on_drm)
        detail = f"{shown}; {self.duty:.0%} asked for; hardware: {hardware(undo)}"
        return Evidence(source, detail, {"hardware": hardware(undo), "targets": facts})

    def _proven(self, undo: Undo, target: Target, platform: Platform) -> JSON:
        """By the device's events, and past them by NVML or the kernel's drivers, or for a processor by the kernel's account of the agent."""
        seen, prior = measured(undo, target, platform), undo.prior["devices"][target.name]
        device: str = prior["device"]
        fact: JSON = {"device": device, **kept(seen.get("marks", []), float(self.duty), prior), "kernels": seen["kinds"]}
        if is_opencl_gpu(prior):
            return {**fact, **worked_by_drm(undo, target, platform, seen["marks"][-1][1])}
        if device.startswith(OPENCL):
            used = platform.agent_usage(undo.fault, target) if isinstance(platform, Meter) else None
            demand = (used.cpu_s + (used.waited_s or 0.0)) / used.age_s if used and used.age_s > 0 else 0.0
            if demand < LEAST_DEMAND * self.duty:
                raise NotYet(
                    f"the agent beside {target.name} has {demand:.2f} cores in demand, of {float(self.duty):.2f} at least"
                )
            return {**fact, "cores_in_demand": demand}
        gpu, mine = on_gpu(undo, target, platform)
        told = mine["sm"] if mine["sm"] is not None else gpu["utilisation"]
        if told is not None and told < LEAST_DEMAND * 100 * self.duty:
            raise NotYet(f"{device} is at {told} % by {teller(device)}, of {self.duty:.0%} asked for")
        words = ("utilisation", "power_w", "sm_mhz", "temperature_c", "used_bytes")
        return {**fact, "pid": mine["pid"], "sm": mine["sm"], **{word: gpu[word] for word in words}}


@dataclass(frozen=True)
class GpuMemoryFill(OnDevice):
    """Let an agent hold what is free of each target's own device."""

    leave: Annotated[
        Size | None, "how much of the device's memory stays free, 256MiB where `leave_share` is not given either"
    ] = None
    leave_share: Annotated[Share | None, "the same as a part of the device's whole memory, instead of `leave`"] = None
    device: Annotated[str | None, DEVICE] = None
    shared: Annotated[bool, SHARED] = False
    hottest: Annotated[int, HOTTEST, range(30, 111)] = HOTTEST_C
    watts: Annotated[int | None, WATTS, range(1, 3001)] = None

    kind: ClassVar[str] = "gpu-memory-fill"
    summary: ClassVar[str] = "another process holds the memory of the target's own GPU, down to a reserve"
    certifies: ClassVar[str] = (
        "that a replica that finds its GPU's memory taken is noticed and replaced or told of; not that the service bears it at once where "
        "it had its memory before, nor (as opencl-cpu or simulated) anything about a GPU"
    )
    proven_by: ClassVar[str] = (
        "NVML, or of AMD's GPUs the kernel (amdkfd, amdgpu): bytes in use and the agent's among them; on OpenCL the allocation that fails, "
        "or resident memory"
    )
    undone_by: ClassVar[str] = "the agent frees what it took and ends"
    bites_when: ClassVar[str] = (
        "at once; when it starts again where the target holds most of the device already, or nobody tells how much "
        "(on Kubernetes refused then)"
    )

    def problems(self) -> tuple[str, ...]:
        return memory_problems(self.leave, self.leave_share, self.device)

    @property
    def _needs(self) -> Needs:
        return Needs(self.shared, self.hottest, self.watts)

    @property
    def _leave_bytes(self) -> int:
        return int(LEAVE if self.leave is None else self.leave)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        devices = devices_of(targets, platform, self.device, self._needs)
        for target in targets:
            each = devices[target.name]
            if each["ends_with_target"] and _has_most(each):
                each = devices[target.name] = self._outliving(each, target, platform)
            leave = self._leave_bytes if self.leave_share is None else int(self.leave_share * each["total_bytes"])
            free = each["total_bytes"] - (each["used_bytes"] or 0)
            if free - leave < LEAST_TAKEN:
                raise Refusal(
                    f"not injecting: {each['device']} has {free >> 20} MiB free, and {leave >> 20} MiB are to be left; {LOWER}"
                )
            if each.get("on_host_memory") and (why := short_of(free - leave, target, platform)):
                raise Refusal(f"not injecting: {each['device']} uses the machine's own memory: {why}")
        return Undo(targets, {"devices": devices})

    def _outliving(self, device: JSON, target: Target, platform: Platform) -> JSON:
        """The same one as a container of ours has it, in which an agent outlives the target's. Raises Refusal where there can be none."""
        why = f"{target.name} may hold most of {device['device']} already, so it would be hit only when it starts again"
        if isinstance(platform, SiteBeside) and not platform.beside_accelerators.outlives:
            raise Refusal(
                f"not injecting: {why}, and on platform {platform.name} what starts again may be given another GPU, and this one somebody "
                "else; drill it on Docker or as a process, take gpu-saturate, or give the target less"
            )
        why = f"{why}, and an agent in its container would end with it"
        try:
            return devices_of((target,), platform, device["device"], self._needs, beside=why)[target.name]
        except Unsupported as error:
            raise Refusal(f"not injecting: {error}; take gpu-saturate, or give the target less") from error

    def bites(self, undo: Undo) -> str:
        """What a server allocated when it started (vLLM does) it keeps. Of several targets the last to be hit counts."""
        return "on-restart" if any(map(_has_most, undo.prior["devices"].values())) else "now"

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            device = undo.prior["devices"][target.name]
            limits = {"hottest_c": self.hottest, "most_w": self.watts, "device": device["device"]}
            share = None if self.leave_share is None else float(self.leave_share)
            request = {**limits, "leave_bytes": self._leave_bytes, "leave_share": share}
            site_of(device, platform).agent_begin(undo.fault, target, "fill-gpu", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        proven = {target.name: self._proven(undo, target, platform) for target in undo.targets}
        shown = "; ".join(f"{fact['held_bytes'] >> 20} MiB of {fact['device']} {said}" for said, fact, _ in proven.values())
        facts = {name: fact for name, (_, fact, _) in proven.items()}
        detail = f"{shown}; hardware: {hardware(undo)}"
        return Evidence(next(iter(proven.values()))[2], detail, {"hardware": hardware(undo), "targets": facts})

    def _proven(self, undo: Undo, target: Target, platform: Platform) -> tuple[str, JSON, str]:
        """What is shown of it, the facts, and who told."""
        seen, prior = measured(undo, target, platform), undo.prior["devices"][target.name]
        fact: JSON = {"device": prior["device"], **{key: seen[key] for key in ("held_bytes", "total_bytes", "leave_bytes")}}
        if is_opencl_gpu(prior):
            fact |= held_by_drm(undo, target, platform, seen)
            told = "an unknown part" if fact["agent_bytes"] is None else f"{fact['agent_bytes'] >> 20} MiB"
            refused = fact["next_allocation"] or "not refused"
            return f"are held by pid {fact['pid']}, by {DRM} {told}; the next allocation: {refused}", fact, f"OpenCL and {DRM}"
        if prior["device"].startswith(OPENCL):
            fact["next_allocation"] = (
                seen["next_allocation"] or "not refused: this driver does not hold itself to the device's size"
            )
            used = platform.agent_usage(undo.fault, target) if isinstance(platform, Meter) else None
            fact["resident_bytes"] = used.resident_bytes if used else 0
            if fact["resident_bytes"] < LEAST_RESIDENT * seen["held_bytes"]:
                raise NotYet(f"{fact['resident_bytes']} of {seen['held_bytes']} bytes are resident beside {target.name}")
            source = "OpenCL and kernel accounting" if seen["next_allocation"] else KERNEL
            return f"are resident; the next allocation: {fact['next_allocation']}", fact, source
        gpu, mine = on_gpu(undo, target, platform)
        free = gpu["total_bytes"] - gpu["used_bytes"]
        by, held = teller(prior["device"]), seen["held_bytes"]
        if free > seen["leave_bytes"] + min(SLACK, held // 2):
            raise NotYet(f"{free} bytes of {prior['device']} are free by {by}, and {seen['leave_bytes']} were to be left")
        own = gpu["used_bytes"] if mine["bytes"] is None else mine["bytes"]
        if own < LEAST_RESIDENT * held:
            whose = "are in use" if mine["bytes"] is None else f"are pid {mine['pid']}'s"
            raise NotYet(f"{own} bytes of {prior['device']} {whose} by {by}, and the agent says that it has taken {held}")
        fact |= {"pid": mine["pid"], "agent_bytes": mine["bytes"], "free_bytes": free}
        fact |= {"used_bytes": [prior["used_bytes"], gpu["used_bytes"]]}
        return f"are held beside {target.name}; {by} tells {free >> 20} MiB free", fact, by


def _has_most(device: JSON) -> bool:
    """Whether the target may have more than half of it: where its own part is not told, all that is in use may be its."""
    own = device["target_bytes"] if device["target_bytes"] is not None else device["used_bytes"]
    return own is None or bool(own > device["total_bytes"] / 2)
