"""gpu-health-signal: a GPU is reported ill and works on, so that whoever watches over GPUs is heard."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from .base import Differs, Evidence, Injector, NotYet, Privilege, Refusal, Undo
from .device_needs import device_problems
from .devices import accelerators, own_gpu
from .lifecycle import end_agent
from .means import XID_TOLD, Means
from .platforms.abilities import Dcgm
from .platforms.base import Platform, Target
from .values import JSON

# What DCGM makes of XIDs is from its sources, github.com/NVIDIA/DCGM: DCGM 4 reads the kernel's log (dcgmlib/src/DcgmKmsgReader.cpp) and keeps
# what it read as it keeps other samples (DcgmCacheManager.cpp); its health watches forget none (modules/health/DcgmHealthWatch.cpp).
LOST = 79  # NVIDIA's XID catalogue: GPU has fallen off the bus
KEPT = (LOST, 120)  # what DCGM 4 reads in the kernel's log and keeps; BLINDS as well, which is refused there
BLINDS = 119  # read in the kernel's log, it makes DCGM 4 call the driver no more (ReadEnvForFatalXids, m_skipDriverCalls)
LOG = "the kernel's log, as another process reads it"
DCGM = "DCGM's host engine, as another client reads it"


@dataclass(frozen=True)
class GpuHealthSignal(Injector):
    """Let an agent report an XID of each target's own GPU where monitors look: in the kernel's log, in DCGM, or in both."""

    kernel_log: Annotated[
        bool,
        "consent that a false line of the driver goes into this machine's kernel log, stays there, and is acted on by whoever reads it; "
        "DCGM 4 does, and keeps XIDs 79 and 120 as it would real ones",
    ] = False
    dcgm: Annotated[
        bool,
        "consent that a false XID goes into the cache of DCGM's host engine on this machine and is acted on by whoever reads DCGM; where its "
        "health watches are set, they keep it until that engine starts again",
    ] = False
    xid: Annotated[int, "which of the driver's errors is reported; 79: the GPU has fallen off the bus", range(1, 1000)] = LOST
    device: Annotated[str | None, "the target's own GPU by its UUID, needed where it has several"] = None

    kind: ClassVar[str] = "gpu-health-signal"
    summary: ClassVar[str] = "the target's own GPU is reported as ill (an XID) to monitors, on consent; it works on"
    certifies: ClassVar[str] = (
        "detection: that an alert, and what follows from it, comes of an XID in the kernel's log (`kernel_log`), or of one that readers of "
        "DCGM find there (`dcgm`); not recovery, since the GPU works on, nor detection by NVML, which knows of nothing, nor that DCGM hears of "
        "a real XID. The line has the facility of a user's program, as Linux wants of /dev/kmsg: a monitor that asks for the kernel's own misses it"
    )
    done_by: ClassVar[Means] = XID_TOLD
    proven_by: ClassVar[str] = (
        "the kernel's log: another process than the one that wrote the line reads it there; DCGM: another of its clients reads the sample, "
        "from the same host engine, since nobody else has it"
    )
    undone_by: ClassVar[str] = (
        "nothing takes a line back; another one says that the drill is over and that the first was none of the driver's. After "
        "`kernel_log` alone DCGM 4, which reads that log, goes on reporting XID 79 or 120 until its host engine starts again. With `dcgm` it gets a "
        "sample of 0, of which its policies hear as of an XID, and never over another XID that came meanwhile; a real one of the same number "
        "cannot be told from the drill's. What DCGM's health watches remember goes when its host engine starts again"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"process"})
    privilege: ClassVar[Privilege] = Privilege.HELPER
    patience: ClassVar[timedelta] = timedelta(seconds=10)
    example: ClassVar[Mapping[str, Any]] = {"kernel_log": True}

    def problems(self) -> tuple[str, ...]:
        if not (self.kernel_log and self.xid == BLINDS):
            return device_problems(self.device)
        why = (
            "DCGM 4, which reads that log, asks the driver nothing more until its host engine starts again, and no undo ends that"
        )
        return (
            f"`xid` is {BLINDS} in the kernel's log: {why}; write another number, or `dcgm: true` without `kernel_log`",
            *device_problems(self.device),
        )

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        if not (self.kernel_log or self.dcgm):
            raise Refusal(
                "not injecting: gpu-health-signal says something false of a GPU to whoever watches over this machine, who acts on it; where that "
                "may be, say `kernel_log: true` (a line in the kernel's log), `dcgm: true` (a sample in DCGM's cache), or both"
            )
        signals: dict[str, JSON] = {}
        for target in targets:
            seen = accelerators(platform).accelerators(target, "", opencl=False)
            gpu = own_gpu(seen, target, set(platform.pids(target)), self.device)
            if self.kernel_log:
                _refuse_unlogged(gpu, seen)
            number = _dcgm_number(gpu, platform) if self.dcgm else None
            signals[target.name] = {"device": gpu["uuid"], "pci": gpu["pci"], "hardware": gpu["hardware"], "dcgm": number}
        if self.dcgm and len({signal["device"] for signal in signals.values()}) < len(signals):
            raise Refusal(
                "not injecting: several targets share a GPU, of which DCGM keeps one newest XID; take one of them (count: 1)"
            )
        return Undo(targets, {"signals": signals})

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            line = self._line(undo, target) if self.kernel_log else None
            sample = {"uuid": undo.prior["signals"][target.name]["device"], "xid": self.xid} if self.dcgm else None
            request = {"line": line, "over": _over(undo, target), "dcgm": sample}
            platform.agent_begin(undo.fault, target, "log-xid", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        facts: JSON = {}
        for target in undo.targets:
            seen, line = self._seen(undo, target, platform), self._line(undo, target)
            if seen.get("line", line) != line:
                what = seen["line"] or "nothing of this drill"
                raise NotYet(f"the kernel's log does not have the line of {target.name}'s GPU last, but {what}")
            if seen.get("xid", self.xid) != self.xid:
                raise NotYet(f"DCGM has {_named(seen['xid'])} as the newest of {target.name}'s GPU, not {self.xid}")
            facts[target.name] = {**undo.prior["signals"][target.name], **seen}
        return _evidence(undo, facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            end_agent(undo, target, platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        facts: JSON = {}
        for target in undo.targets:
            seen = self._seen(undo, target, platform)
            if seen.get("line") not in (None, "", _over(undo, target)):
                raise Differs(f"the kernel's log says of {target.name}'s GPU last: {seen['line']}")
            if seen.get("xid"):
                raise Differs(f"DCGM has {_named(seen['xid'])} as the newest of {target.name}'s GPU")
            facts[target.name] = {**undo.prior["signals"][target.name], **seen}
        return _evidence(undo, facts, _stays(self.dcgm, self.xid))

    def _seen(self, undo: Undo, target: Target, platform: Platform) -> JSON:
        """What is read where the fault reports: `line`, this fault's last in the kernel's log or none; `dcgm`, DCGM's number of the GPU now, and
        `xid`, its newest or 0.
        """
        seen: JSON = {}
        if self.kernel_log:
            seen["line"] = _logged(undo, target, platform)
        if self.dcgm:
            seen.update(_newest(undo, target, platform))
        return seen

    def _line(self, undo: Undo, target: Target) -> str:
        """As the driver writes it (NVSentinel's and gpud's patterns take it), with the drill's name behind."""
        what = "GPU has fallen off the bus." if self.xid == LOST else "as a drill has it."
        return f"NVRM: Xid (PCI:{undo.prior['signals'][target.name]['pci']}): {self.xid}, pid='<unknown>', name=<unknown>, {what} {_mark(undo, target)}"


def _refuse_unlogged(gpu: JSON, seen: JSON) -> None:
    if seen["unwritable"]:
        raise Refusal(
            f"not injecting: {seen['unwritable']}; run blackstart as root on the machine itself, or say `dcgm: true` without `kernel_log`"
        )
    if gpu["pci"] is None:
        raise Refusal(f"not injecting: NVML does not tell where {gpu['uuid']} is on the bus, by which the driver names it")


def _dcgm_number(gpu: JSON, platform: Platform) -> int:
    """DCGM's own number of that GPU, of which it must have no XID. Raises Refusal.

    One that it has would be hidden during the drill; and put back it would have a new stamp, by which monitors take it for a new error.
    """
    if gpu["parent"]:
        raise Refusal(f"not injecting: {gpu['uuid']} is a slice of {gpu['parent']}, and dcgmi injects into whole GPUs only")
    told = _dcgm(platform).dcgm(gpu["uuid"])
    if told["why"]:
        raise Refusal(
            f"not injecting: {told['why']}; `dcgm` needs dcgmi in PATH and a standalone host engine (nv-hostengine) on this machine that has that GPU"
        )
    if told["xid"]:
        raise Refusal(
            f"not injecting: DCGM has XID {told['xid']} of {gpu['uuid']} already, which a drill must not cover; once somebody has seen to it, "
            "start the host engine (nv-hostengine) again, since it forgets none before"
        )
    number: int = told["gpu"]
    return number


def _dcgm(platform: Platform) -> Dcgm:
    if not isinstance(platform, Dcgm):
        raise Refusal(f"not injecting: DCGM cannot be asked on platform {platform.name}")
    return platform


def _newest(undo: Undo, target: Target, platform: Platform) -> JSON:
    """`xid`, the newest that DCGM has of the target's GPU, or 0; `dcgm`, its number there. Raises Differs where it does not tell."""
    told = _dcgm(platform).dcgm(undo.prior["signals"][target.name]["device"])
    if told["why"]:
        raise Differs(str(told["why"]))
    return {"dcgm": told["gpu"], "xid": told["xid"]}


def _stays(dcgm: bool, xid: int) -> str:
    """What DCGM has of the XID after the undo, until its host engine starts again; empty: nothing."""
    if dcgm:
        return f" (its health watches, where set, remember XID {xid} until the host engine starts again)"
    alone = f" (DCGM 4, where it reads this log, goes on reporting XID {xid} until its host engine starts again)"
    return alone if xid in KEPT else ""


def _named(xid: int) -> str:
    return f"XID {xid}" if xid else "no XID"


def _mark(undo: Undo, target: Target) -> str:
    return f"[blackstart {undo.fault} {target.name}]"


def _over(undo: Undo, target: Target) -> str:
    where = undo.prior["signals"][target.name]["pci"]
    return f"blackstart: the drill is over; the XID of PCI:{where} before was a drill's and none of the driver's {_mark(undo, target)}"


def _logged(undo: Undo, target: Target, platform: Platform) -> str:
    """The last of what the kernel's log says of this fault at that target; empty: nothing. Raises Differs where it cannot be read."""
    said: list[str] | None = accelerators(platform).accelerators(target, undo.fault, opencl=False)["logged"]
    if said is None:
        raise Differs("the kernel's log (/dev/kmsg) cannot be read by this user; recover as the user that drilled")
    return next((line for line in reversed(said) if _mark(undo, target) in line), "")


def _evidence(undo: Undo, facts: JSON, stays: str = "") -> Evidence:
    """`stays`: what else there is to say where DCGM was told, or where a line was written without that."""
    hardware = next(iter(undo.prior["signals"].values()))["hardware"]
    alone = "" if any("xid" in fact for fact in facts.values()) else stays
    lines = [fact["line"] + alone if fact["line"] else "nothing of this drill" for fact in facts.values() if "line" in fact]
    samples = [
        f"DCGM has {_named(fact['xid'])} as the newest of its GPU {fact['dcgm']}{stays}"
        for fact in facts.values()
        if "xid" in fact
    ]
    source = "; ".join(word for word, told in ((LOG, lines), (DCGM, samples)) if told)
    return Evidence(source, f"{'; '.join([*lines, *samples])}; hardware: {hardware}", {"hardware": hardware, "targets": facts})
