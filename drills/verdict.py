"""Measurement against objectives -> Judgement. What could not be measured never passes; the worst verdict wins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

from .measure.values import Measurement
from .objectives import Judged, Verdict, objectives
from .scenario import Scenario

if TYPE_CHECKING:  # finished.py holds a Judgement
    from .finished import InjectedFault

__all__ = ["Ended", "ExitCode", "Judged", "Judgement", "Reason", "Verdict", "judge", "worst"]


class ExitCode(IntEnum):
    """What the command returns."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    ABORTED = 4
    DIRTY = 5
    INTERNAL = 70


@dataclass(frozen=True)
class Reason:
    """Why: `code` is stable for scripts, `text` is for people."""

    code: str
    text: str


@dataclass(frozen=True)
class Judgement:
    """The drill's verdict with everything it stands on."""

    verdict: Verdict
    exit_code: ExitCode
    reasons: tuple[Reason, ...]
    objectives: tuple[Judged, ...]


@dataclass(frozen=True)
class Ended:
    """How the run ended, from its journal. `dirty`: what is still broken, each with the command that undoes it."""

    aborted: str | None = None
    internal: str | None = None
    dirty: tuple[str, ...] = ()
    no_fault: str | None = None  # why a fault did not come about
    too_little_load: tuple[str, ...] = ()  # pods that did not give their share, and why
    changed: tuple[str, ...] = ()  # parts of the record that are not as the drill wrote them


def judge(scenario: Scenario, measurement: Measurement, faults: Sequence["InjectedFault"], ended: Ended) -> Judgement:
    """The verdict with its reasons, the worst first. An objective that looks met is not judged where the drill itself is in doubt."""
    doubts = _doubts(measurement, faults, ended)
    judged = objectives(scenario, measurement)
    if not judged:
        doubts.append(Reason("no-objective", "no objective was given: there is nothing to be judged by"))
    cause = ended.aborted or (doubts[0].text if doubts else None)
    if cause is not None:
        judged = [_unjudged(one, cause) for one in judged]
    reasons = [
        *(Reason("undo-incomplete", text) for text in _still_broken(faults, ended)),
        *([Reason("internal-error", ended.internal)] if ended.internal else []),
        *([Reason("aborted", ended.aborted)] if ended.aborted else []),
        *(Reason("objective-missed", one.text) for one in judged if one.verdict is Verdict.FAILED),
        *doubts,
        *(Reason("objective-unclear", one.text) for one in judged if one.verdict is Verdict.INCONCLUSIVE and cause is None),
        *(Reason("objective-met", one.text) for one in judged if one.verdict is Verdict.PASSED),
    ]
    found = {_VERDICT_OF.get(reason.code, Verdict.INCONCLUSIVE) for reason in reasons}
    verdict = min(found, key=WORST_FIRST.index)
    return Judgement(verdict, ExitCode[verdict.name], tuple(reasons), tuple(judged))


WORST_FIRST = (Verdict.DIRTY, Verdict.INTERNAL, Verdict.ABORTED, Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED)
_VERDICT_OF = {  # every other reason leaves it open
    "undo-incomplete": Verdict.DIRTY,
    "internal-error": Verdict.INTERNAL,
    "aborted": Verdict.ABORTED,
    "objective-missed": Verdict.FAILED,
    "objective-met": Verdict.PASSED,
}


def _still_broken(faults: Sequence["InjectedFault"], ended: Ended) -> list[str]:
    left = [fault for fault in faults if fault.injecting_s is not None and not fault.undo_verified]
    named = [f"{fault.kind}: {fault.undo_problem or 'its undo was never proven'}; run: blackstart recover" for fault in left]
    return list(ended.dirty) or named


def _doubts(measurement: Measurement, faults: Sequence["InjectedFault"], ended: Ended) -> list[Reason]:
    """What puts the whole drill in doubt, whatever its figures."""
    changed = [Reason("record-changed", what) for what in ended.changed]
    found = [Reason("not-steady", f"not steady before the fault: {why}") for why in measurement.baseline.why_not]
    unproven = [fault for fault in faults if fault.effective is None]
    first = next((fault for fault in unproven if fault.problem), None)
    for fault in unproven if not found else ():  # an unsteady service is not harmed: that no fault came is no second reason
        why = (
            fault.problem
            or (f"it was not tried, since fault {first.index} did not come about" if first and fault.injecting_s is None else "")
            or ended.no_fault
            or ("it was never injected" if fault.injecting_s is None else "no evidence that it took effect")
        )
        found.append(Reason("fault-not-proven", f"fault {fault.index}, {fault.kind}: {why}"))
    for fault in faults:
        if fault.lapsed:
            text = f"fault {fault.index}, {fault.kind}: it was no longer proven when it was to be undone: {fault.lapsed}"
            found.append(Reason("fault-lapsed", text))
    if not faults and not found:
        found.append(Reason("fault-not-proven", ended.no_fault or "nothing was injected"))
    elif ended.no_fault and not found:
        found.append(Reason("prober-untrusted", ended.no_fault))
    found += [Reason("prober-untrusted", why) for why in measurement.prober.why_not]
    found += [Reason("load-not-given", f"the load that was asked for was not given: {why}") for why in ended.too_little_load]
    return changed + found


def _unjudged(one: Judged, cause: str) -> Judged:
    if one.verdict is not Verdict.PASSED:
        return one
    return replace(one, verdict=Verdict.INCONCLUSIVE, text=f"{one.text} Not judged: {cause}")


def worst(codes: Sequence[ExitCode]) -> ExitCode:
    """The exit code of several drills: dirty, internal, aborted, failed, inconclusive, passed, in this order."""
    order = (ExitCode.DIRTY, ExitCode.INTERNAL, ExitCode.ABORTED, ExitCode.FAILED, ExitCode.INCONCLUSIVE, ExitCode.PASSED)
    return min(codes, key=order.index)
