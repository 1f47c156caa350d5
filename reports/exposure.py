"""What users got while the service was interrupted: a partial outage must not be told as a total one, nor the other way round."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..drills.finished import FinishedRun
from ..drills.measure.classify import LEAST_TYPICAL_S, overdue
from ..drills.measure.values import LaneReport, Probe

USER_KINDS = ("semantic", "workload", "fresh", "reuse")
WRONG = frozenset({"wrong-answer", "wrong-model", "malformed", "empty", "error-in-200"})
CUT = frozenset({"stall", "truncated"})
_Z = 1.645  # one-sided 95 %


@dataclass(frozen=True)
class Exposure:
    """Answers on one lane that users' requests stand for, all sent while the service was down. Those that say nothing are not counted."""

    lane: str
    sent: int
    failed: int
    late: int  # also those that came only once the service was back, long after a healthy answer would have
    wrong: int  # part of `failed`: answered with 200, but not the right answer
    spared: "Exposure | None" = None  # where this lane got nothing: the one of the lanes that were hit which got most

    @property
    def right(self) -> int:
        return self.sent - self.failed - self.late

    @property
    def total(self) -> bool:
        """Nobody got a right answer in time."""
        return not self.right and self.spared is None


@dataclass(frozen=True)
class _Window:
    """When what was sent counts; only answers that came by `back_s` were got during the interruption."""

    start_s: float
    end_s: float
    back_s: float = math.inf


def latency_s(probe: Probe, kind: str) -> float:
    """How long the user of a lane waited: for a stream until its first token, else until the answer was complete."""
    if kind == "stream" and probe.first_s is not None:
        return probe.first_s - probe.sent_s
    return probe.end_s - probe.sent_s


def sign(probe: Probe, lane: LaneReport) -> str:
    """What an answer was to its user: `good`, `slow`, `failed`, `cut`, `wrong`, or `void`, which says nothing: the prober's own
    fault, or a question asked so shortly before watching ended that no healthy answer was due.
    """
    if probe.outcome == "ok":
        return "slow" if latency_s(probe, lane.info.kind) > lane.slow_limit_s else "good"
    if probe.outcome == "void" or (probe.outcome == "unanswered" and not overdue(probe, lane.overdue_s)):
        return "void"
    if probe.outcome in WRONG:
        return "wrong"
    return "cut" if probe.outcome in CUT else "failed"


def exposure(run: FinishedRun) -> Exposure | None:
    """The worst lane's share; None where no lane of users saw any failure.

    A lane that stayed untouched (a model list that a hung engine still serves) says nothing about those who asked the
    model, so only lanes with failures count. The worst is the one of which most is surely bad: of few requests, a share says
    little. If it got nothing and another one that was hit got right answers through, the outage was partial, and both are
    told. Without an interruption, each lane speaks for the time in which it was degraded.
    """
    recovery = run.measurement.recovery
    if recovery.impact is None:
        windows = {
            lane.info.name: [_Window(one.start_s, one.end_s) for one in lane.stretches if one.state == "degraded"]
            for lane in run.measurement.lanes
        }
        return _worst(_by_lane(run, windows))
    back = recovery.recovered
    window = _Window(recovery.impact.hi_s, back.lo_s if back else run.ended_s, back.lo_s if back else run.ended_s)
    if window.end_s <= window.start_s and back:
        # So short that no moment is known to lie within it: what came right may have come before or after.
        window = _Window(recovery.impact.lo_s, back.hi_s, -math.inf)
    return _worst(_by_lane(run, {lane.info.name: [window] for lane in run.measurement.lanes}))


def interruptions(run: FinishedRun) -> int:
    """How many interruptions users saw after the first injection; what overlaps on several lanes is one."""
    began = min((fault.injecting_s for fault in run.faults if fault.injecting_s is not None), default=None)
    users = {lane.info.name for lane in run.measurement.lanes if lane.info.kind in USER_KINDS}
    spans = sorted(
        (outage.start.lo_s, outage.end.hi_s if outage.end else run.ended_s)
        for outage in run.measurement.outages
        if outage.lane in users and began is not None and outage.start.hi_s >= began
    )
    number, until = 0, float("-inf")
    for start, end in spans:
        number += start > until
        until = max(until, end)
    return number


def _worst(found: list[Exposure]) -> Exposure | None:
    hit = [one for one in found if one.failed + one.late]
    if not hit:
        return None
    worst = max(hit, key=lambda one: (_surely_bad(one), one.sent))
    spared = max(hit, key=lambda one: one.right)
    return replace(worst, spared=spared) if not worst.right and spared.right else worst


def _surely_bad(one: Exposure) -> float:
    """Wilson's lower bound of the share: it only ranks lanes, and the exact one takes seconds for an hour of answers."""
    share, spread = (one.failed + one.late) / one.sent, _Z**2 / one.sent
    return (share + spread / 2 - math.sqrt(spread * share * (1 - share) + spread**2 / 4)) / (1 + spread)


def _by_lane(run: FinishedRun, windows: Mapping[str, Sequence[_Window]]) -> list[Exposure]:
    reports = {lane.info.name: lane for lane in run.measurement.lanes if lane.info.kind in USER_KINDS and windows[lane.info.name]}
    signs: dict[str, Counter[str]] = {name: Counter() for name in reports}
    for probe in run.probes:
        lane = reports.get(probe.lane)
        window = lane and next((one for one in windows[probe.lane] if one.start_s <= probe.sent_s <= one.end_s), None)
        if lane and window:
            signs[probe.lane][_received(probe, lane, window)] += 1
    return [
        Exposure(name, seen.total() - seen["void"], seen["failed"] + seen["cut"] + seen["wrong"], seen["slow"], seen["wrong"])
        for name, seen in signs.items()
    ]


def _received(probe: Probe, lane: LaneReport, window: _Window) -> str:
    """Its sign to a user who needed the answer while the service was down.

    An answer that came once it was back had been held back if a healthy one would have come long before, whatever the lane's own
    limit allows; of one that was under way in the ordinary course of things nobody knows what would have become of it.
    """
    found = sign(probe, lane)
    if found != "good" or probe.end_s <= window.back_s:
        return found
    usual_s = LEAST_TYPICAL_S if lane.latency_median_s is None else max(LEAST_TYPICAL_S, 10 * lane.latency_median_s)
    return "slow" if probe.end_s - probe.sent_s > usual_s else "void"
