"""gpu-health-signal: a GPU is reported ill and works on, so that whoever watches over GPUs is heard."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from .base import Differs, Evidence, Injector, NotYet, Privilege, Refusal, Undo
from .devices import accelerators, own_gpu
from .lifecycle import end_agent
from .means import LOG_LINE, Means
from .platforms.base import Platform, Target
from .values import JSON

LOST = 79  # NVIDIA's XID catalogue: GPU has fallen off the bus
LOG = "the kernel's log, as another process reads it"
DCGM = "DCGM's field injection (dcgmi test --inject) is not reached from here"


@dataclass(frozen=True)
class GpuHealthSignal(Injector):
    """Let an agent write the driver's line about each target's own GPU into the kernel's log."""

    kernel_log: Annotated[
        bool,
        "consent that a false line of the driver goes into this machine's kernel log, stays there, and is acted on by whoever reads it",
    ] = False
    xid: Annotated[int, "which of the driver's errors is reported; 79: the GPU has fallen off the bus", range(1, 1000)] = LOST
    device: Annotated[str | None, "the target's own GPU by its UUID, needed where it has several"] = None

    kind: ClassVar[str] = "gpu-health-signal"
    summary: ClassVar[str] = "the kernel's log reports the target's own GPU as ill (an XID), on consent; it works on"
    certifies: ClassVar[str] = (
        "detection: that an alert, and what follows from it, comes of an XID in the kernel's log; not recovery, since the GPU works on, nor "
        "detection by DCGM or NVML, which know of nothing. The line has the facility of a user's program, as Linux wants of /dev/kmsg: a "
        "monitor that asks for the kernel's own misses it"
    )
    done_by: ClassVar[Means] = LOG_LINE
    proven_by: ClassVar[str] = "the kernel's log: another process than the one that wrote the line reads it there"
    undone_by: ClassVar[str] = (
        "nothing takes a line back; another one says that the drill is over and that the first was none of the driver's"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"process"})
    privilege: ClassVar[Privilege] = Privilege.HELPER
    patience: ClassVar[timedelta] = timedelta(seconds=10)
    example: ClassVar[Mapping[str, Any]] = {"kernel_log": True}

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        if not self.kernel_log:
            raise Refusal(
                "not injecting: gpu-health-signal leaves a false line in this machine's kernel log, on which whatever watches it acts; say "
                f"`kernel_log: true` where that may be. {DCGM}"
            )
        signals: dict[str, JSON] = {}
        for target in targets:
            seen = accelerators(platform).accelerators(target, "", opencl=False)
            gpu = own_gpu(seen, target, set(platform.pids(target)), self.device)
            if seen["unwritable"]:
                raise Refusal(f"not injecting: {seen['unwritable']}; run blackstart as root on the machine itself. {DCGM}")
            if gpu["pci"] is None:
                raise Refusal(
                    f"not injecting: NVML does not tell where {gpu['uuid']} is on the bus, by which the driver names it"
                )
            signals[target.name] = {"device": gpu["uuid"], "pci": gpu["pci"], "hardware": gpu["hardware"]}
        return Undo(targets, {"signals": signals})

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            request = {"line": self._line(undo, target), "over": _over(undo, target)}
            platform.agent_begin(undo.fault, target, "log-xid", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        facts: JSON = {}
        for target in undo.targets:
            found = _logged(undo, target, platform)
            if not found or found[-1] != self._line(undo, target):
                raise NotYet(
                    f"the kernel's log does not have the line of {target.name}'s GPU last, but {found or 'nothing of this drill'}"
                )
            facts[target.name] = {**undo.prior["signals"][target.name], "line": found[-1]}
        return _evidence(undo, facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            end_agent(undo, target, platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        facts: JSON = {}
        for target in undo.targets:
            found = _logged(undo, target, platform)
            if found and found[-1] != _over(undo, target):
                raise Differs(f"the kernel's log says of {target.name}'s GPU last: {found[-1]}")
            facts[target.name] = {**undo.prior["signals"][target.name], "line": found[-1] if found else "nothing of this drill"}
        return _evidence(undo, facts)

    def _line(self, undo: Undo, target: Target) -> str:
        """As the driver writes it (NVSentinel's and gpud's patterns take it), with the drill's name behind."""
        what = "GPU has fallen off the bus." if self.xid == LOST else "as a drill has it."
        return f"NVRM: Xid (PCI:{undo.prior['signals'][target.name]['pci']}): {self.xid}, pid='<unknown>', name=<unknown>, {what} {_mark(undo, target)}"


def _mark(undo: Undo, target: Target) -> str:
    return f"[blackstart {undo.fault} {target.name}]"


def _over(undo: Undo, target: Target) -> str:
    where = undo.prior["signals"][target.name]["pci"]
    return f"blackstart: the drill is over; the XID of PCI:{where} before was a drill's and none of the driver's {_mark(undo, target)}"


def _logged(undo: Undo, target: Target, platform: Platform) -> list[str]:
    """What the kernel's log says of this fault at that target, the oldest first. Raises Differs where it cannot be read."""
    said: list[str] | None = accelerators(platform).accelerators(target, undo.fault, opencl=False)["logged"]
    if said is None:
        raise Differs("the kernel's log (/dev/kmsg) cannot be read by this user; recover as the user that drilled")
    return [line for line in said if _mark(undo, target) in line]


def _evidence(undo: Undo, facts: JSON) -> Evidence:
    hardware = next(iter(undo.prior["signals"].values()))["hardware"]
    shown = "; ".join(fact["line"] for fact in facts.values())
    return Evidence(LOG, f"{shown}; hardware: {hardware}", {"hardware": hardware, "targets": facts})
