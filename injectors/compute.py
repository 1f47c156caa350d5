"""Faults that take processor time or memory away: cpu-stress, memory-stress."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, runtime_checkable

from . import agent
from .base import Differs, Evidence, Injector, NotYet, Privilege, Refusal, Undo
from .lifecycle import end_agent
from .means import AGENT, Means
from .platforms.base import Platform, Target
from .values import Share, Size

KERNEL = "kernel accounting"
LEAST_DEMAND = 0.5  # of what was asked for: the workers computed, or stood in line for a core
LEAST_LOOK_S = 0.5  # ticks of CPU time are 10 ms; over less time they prove nothing
LEAST_RESIDENT = 0.95


class Usage(Protocol):
    """What processes have used since they began, by the kernel's account. `waited_s`: ready to run without a core."""

    @property
    def cpu_s(self) -> float: ...
    @property
    def waited_s(self) -> float | None: ...
    @property
    def age_s(self) -> float: ...
    @property
    def resident_bytes(self) -> int: ...


@runtime_checkable
class Meter(Protocol):
    """The ability of a platform to read what agents and targets use, past the agents themselves."""

    def agent_usage(self, fault: str, target: Target) -> Usage | None:
        """Of the agent that holds this fault at that target, with its children; None when none of them lives."""

    def target_usage(self, target: Target) -> Usage | None:
        """Of the target with all that belongs to it."""

    def memory_available(self, target: Target) -> int | None:
        """Bytes of memory that the target could still get; None where nobody says."""

    def cores(self, target: Target) -> int:
        """Of the machine that the target runs on."""


@dataclass(frozen=True)
class CpuStress(Injector):
    """Let an agent compute beside each target."""

    workers: Annotated[int, "processes that compute beside each target; 0: as many as the machine has cores", range(1025)] = 0
    share: Annotated[Share, "how much of the time each of them computes"] = Share(1.0)

    kind: ClassVar[str] = "cpu-stress"
    summary: ClassVar[str] = "other processes compete with the target for processor time"
    certifies: ClassVar[str] = (
        "that the service stays within its objectives on a machine that is that busy, or in a pod whose own CPU limit is used up; not "
        "that a process on this machine does within a limit of its own, since the agent runs beside it"
    )
    done_by: ClassVar[Means] = AGENT
    proven_by: ClassVar[str] = "the kernel's account of the time that the agent's workers computed or waited for a core"
    undone_by: ClassVar[str] = "the agent and its workers end"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC

    def problems(self) -> tuple[str, ...]:
        return () if self.share else ("`share` is 0%, so nothing would compute; write more, or leave it out",)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        meter = _meter(platform)
        before = {target.name: used.waited_s for target in targets if (used := meter.target_usage(target))}
        workers = {target.name: self.workers or meter.cores(target) for target in targets}
        return Undo(targets, {"workers": workers, "target_waited_s": before})

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            parameters = {"workers": undo.prior["workers"][target.name], "share": float(self.share)}
            platform.agent_begin(undo.fault, target, "burn-cpu", parameters, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        """The workers' own CPU time, with what they waited for a core: on a full machine they get less and press no less."""
        meter, facts = _meter(platform), {}
        for target in undo.targets:
            asked = undo.prior["workers"][target.name] * float(self.share)
            used, victim = meter.agent_usage(undo.fault, target), meter.target_usage(target)
            if used is None:
                raise NotYet(f"no agent computes beside {target.name}")
            demand = (used.cpu_s + (used.waited_s or 0.0)) / used.age_s if used.age_s > 0 else 0.0
            if used.age_s < LEAST_LOOK_S or demand < LEAST_DEMAND * asked:
                raise NotYet(
                    f"{target.name}: {demand:.2f} cores are in demand after {used.age_s:.1f} s, of {asked:.2f} asked for"
                )
            facts[target.name] = {
                "cpu_s": used.cpu_s,
                "waited_s": used.waited_s,
                "age_s": used.age_s,
                "target_waited_s": [undo.prior["target_waited_s"].get(target.name), victim.waited_s if victim else None],
            }
        shown = "; ".join(f"beside {name} {fact['cpu_s']:.2f} s of CPU in {fact['age_s']:.2f} s" for name, fact in facts.items())
        return Evidence(KERNEL, f"{shown}; {sum(undo.prior['workers'].values()) * float(self.share):g} cores asked for", facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            end_agent(undo, target, platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        return no_agent_left(undo, platform)


@dataclass(frozen=True)
class MemoryStress(Injector):
    """Let an agent hold memory, every page of it touched."""

    size: Annotated[Size, "how much is held beside each target"] = Size(1 << 30)

    kind: ClassVar[str] = "memory-stress"
    summary: ClassVar[str] = "memory of the machine is taken, down to a reserve"
    certifies: ClassVar[str] = (
        "that the service works with that much less memory on its machine; not what happens when memory runs out, since a reserve "
        "of 10 % and 512 MiB is kept, nor within a memory limit of the target's own"
    )
    done_by: ClassVar[Means] = AGENT
    proven_by: ClassVar[str] = "the kernel's account of what the agent holds in memory"
    undone_by: ClassVar[str] = "the agent ends, and its memory with it"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC

    def problems(self) -> tuple[str, ...]:
        return () if self.size else ("`size` is 0B, which takes nothing; write more, or leave it out",)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        free = {target.name: _meter(platform).memory_available(target) for target in targets}
        for name, available in free.items():
            most = None if available is None else available - agent.memory_reserve(available)
            if most is not None and self.size * len(targets) > most:
                raise Refusal(
                    f"not injecting: {self.size * len(targets)} bytes are to be held, and {name} has {available} available, of which "
                    f"{max(0, most)} can be taken: 10 % and 512 MiB stay free"
                )
        return Undo(targets, {"available_bytes": free})

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            platform.agent_begin(undo.fault, target, "hold-memory", {"bytes": int(self.size)}, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        meter, facts, shown = _meter(platform), {}, []
        for target in undo.targets:
            used = meter.agent_usage(undo.fault, target)
            if used is None or used.resident_bytes < LEAST_RESIDENT * self.size:
                raise NotYet(f"{target.name}: {used.resident_bytes if used else 0} of {self.size} bytes are resident")
            available = [undo.prior["available_bytes"][target.name], meter.memory_available(target)]
            facts[target.name] = {"resident_bytes": used.resident_bytes, "available_bytes": available}
            shown.append(f"{used.resident_bytes >> 20} MiB resident beside {target.name}")
        return Evidence(KERNEL, "; ".join(shown), facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            end_agent(undo, target, platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        return no_agent_left(undo, platform)


def _meter(platform: Platform) -> Meter:
    if not isinstance(platform, Meter):
        raise Refusal(f"not injecting: platform {platform.name} cannot read what an agent uses, so the fault could not be proven")
    return platform


def no_agent_left(undo: Undo, platform: Platform) -> Evidence:
    """By the kernel's process table, whatever became of the agents' records. Raises Differs."""
    for target in undo.targets:
        if (used := _meter(platform).agent_usage(undo.fault, target)) is not None:
            raise Differs(f"an agent still uses {used.resident_bytes} bytes beside {target.name}")
    return Evidence(KERNEL, f"no agent is left beside {', '.join(target.name for target in undo.targets)}")
