"""What users got while the service was interrupted: a partial outage must not be told as a total one, nor the other way round."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..drills.finished import FinishedRun
from ..drills.measure.values import LaneInfo, Probe

USER_KINDS = ("semantic", "workload", "fresh", "reuse")
WRONG = frozenset({"wrong-answer", "wrong-model", "malformed", "empty", "error-in-200"})
CUT = frozenset({"stall", "truncated"})


@dataclass(frozen=True)
class Exposure:
    """Answers on one lane that users' requests stand for, all sent while the service was down. Void probes are not counted."""

    lane: str
    sent: int
    failed: int
    late: int
    wrong: int  # part of `failed`: answered with 200, but not the right answer

    @property
    def total(self) -> bool:
        """Nobody got a right answer in time."""
        return self.failed + self.late == self.sent


def latency_s(probe: Probe, kind: str) -> float:
    """How long the user of a lane waited: for a stream until its first token, else until the answer was complete."""
    if kind == "stream" and probe.first_s is not None:
        return probe.first_s - probe.sent_s
    return probe.end_s - probe.sent_s


def sign(probe: Probe, info: LaneInfo, slow_limit_s: float) -> str:
    """What an answer was to its user: `good`, `slow`, `failed`, `cut`, `wrong`, or `void` (the prober's own fault)."""
    if probe.outcome == "ok":
        return "slow" if latency_s(probe, info.kind) > slow_limit_s else "good"
    if probe.outcome == "void":
        return "void"
    if probe.outcome in WRONG:
        return "wrong"
    return "cut" if probe.outcome in CUT else "failed"


def exposure(run: FinishedRun) -> Exposure | None:
    """The worst told by the lane that saw most of it; None where no lane of users saw any failure.

    A lane that stayed untouched (a model list that a hung engine still serves) says nothing about those who asked the
    model, so only lanes with failures count. If one of them got right answers through, the outage was partial, and the
    share is that of the lane with the most requests: the others have too few for a percentage. Without an interruption,
    each lane speaks for the time in which it was degraded.
    """
    recovery = run.measurement.recovery
    if recovery.impact is None:
        windows = {
            lane.info.name: [(stretch.start_s, stretch.end_s) for stretch in lane.stretches if stretch.state == "degraded"]
            for lane in run.measurement.lanes
        }
        return _worst(_by_lane(run, windows))
    start, end = recovery.impact.hi_s, recovery.recovered.lo_s if recovery.recovered else run.ended_s
    if end <= start:
        start, end = recovery.impact.lo_s, recovery.recovered.hi_s if recovery.recovered else run.ended_s
    return _worst(_by_lane(run, {lane.info.name: [(start, end)] for lane in run.measurement.lanes}))


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
    partial = [one for one in hit if not one.total]
    return max(partial or hit, key=lambda one: one.sent)


def _by_lane(run: FinishedRun, windows: Mapping[str, Sequence[tuple[float, float]]]) -> list[Exposure]:
    reports = {lane.info.name: lane for lane in run.measurement.lanes if lane.info.kind in USER_KINDS and windows[lane.info.name]}
    signs: dict[str, Counter[str]] = {name: Counter() for name in reports}
    for probe in run.probes:
        lane = reports.get(probe.lane)
        if lane is not None and any(start <= probe.sent_s <= end for start, end in windows[probe.lane]):
            signs[probe.lane][sign(probe, lane.info, lane.slow_limit_s)] += 1
    return [
        Exposure(name, seen.total() - seen["void"], seen["failed"] + seen["cut"] + seen["wrong"], seen["slow"], seen["wrong"])
        for name, seen in signs.items()
    ]
