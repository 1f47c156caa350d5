"""What several reports say in the same words: the verdict's sign, a fault's targets, whether it was proven and undone."""

from collections.abc import Mapping
from typing import Any

from ..drills.finished import FinishedRun, InjectedFault
from ..drills.measure.values import Interval
from ..drills.verdict import Verdict
from ..drills.watched import load_told
from ..injectors.values import first_of
from . import figures
from .cleaning import one_line

SIGNS = {
    Verdict.PASSED: "✓",
    Verdict.FAILED: "✗",
    Verdict.INCONCLUSIVE: "?",
    Verdict.ABORTED: "■",
    Verdict.INTERNAL: "!",
    Verdict.DIRTY: "⚠",
}


def heading(run: FinishedRun) -> str:
    """What the drill is called: its title, or its name."""
    return one_line(run.scenario.title or run.scenario.name, 160)


def targets(fault: InjectedFault) -> str:
    """The names of what was hit."""
    return first_of((one_line(str(target["name"]), 60) for target in fault.targets), 8) or "nothing"


def evidence(fault: InjectedFault) -> str:
    """What proved the fault, and who said so."""
    if fault.evidence is not None:
        return _proof(fault.evidence)
    if fault.injecting_s is None:
        return "it was never injected"
    return f"none: {one_line(fault.problem or 'nothing showed that it took effect', 300)}"


def still(fault: InjectedFault) -> str:
    """What proved it once more right before its undo; empty: nothing did."""
    if fault.still is None:
        return ""
    return "the same" if fault.evidence and fault.still["detail"] == fault.evidence["detail"] else _proof(fault.still)


def _proof(evidence: Mapping[str, Any]) -> str:
    return f"{one_line(str(evidence['detail']), 300)} (source: {one_line(str(evidence['source']), 100)})"


def undo(fault: InjectedFault) -> str:
    """Whether the fault is gone, and what proved that."""
    if fault.injecting_s is None and not fault.undo_problem:
        return "nothing to undo"
    if fault.undo_verified:
        told = f": {_proof(fault.undo_evidence)}" if fault.undo_evidence else ""
        fallen = f"; {', '.join(fault.fallen)} had ended by the end of the drill and stands again" if fault.fallen else ""
        return f"undone and proven{told}{fallen}"
    return f"NOT proven: {one_line(fault.undo_problem or 'nothing showed that it was undone', 300)}"


def not_had(run: FinishedRun) -> dict[str, str]:
    """Figures that could not be had, with the reason."""
    return {one_line(name, 60): one_line(why, 300) for name, why in sorted(run.measurement.missing.items())}


def load(run: FinishedRun) -> str:
    """How much of the load that was asked for several pods gave; empty where the prober gave all of it."""
    given = run.load
    if given is None:
        return ""
    told = []
    if given.asked:
        good = "" if given.good_share is None else f", {figures.share(given.good_share)} answered right and in time"
        told.append(f"{given.sent:,} of {given.asked:,} requests sent{good}")
    if given.streams_opened:
        told.append(f"{given.streams_cut:,} of {figures.count(given.streams_opened, 'stream')} cut")
    return f"{load_told(run.scenario.load)}: {'; '.join(told) or 'nothing was sent'}"


def detection(gap: Interval | None) -> str:
    """How long a source took to notice; that it did not is told as such, never as zero."""
    return "not detected" if gap is None else figures.interval(gap)
