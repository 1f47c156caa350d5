"""Each probe is GOOD (right and in time), SLOW (right, too late), BAD (the rest) or VOID (the prober's own fault).

L, the longest time that a healthy answer takes, is max(10 ms, 10 x the median of the baseline); the slow limit is
max(3 L, 50 ms), or for first tokens the scenario's own `first_token_p95`. A probe whose tick came late says nothing about
the service; neither does one that looks late only because this machine stood still while it was under way.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ..scenario import Scenario
from .statistics import quantile
from .values import LaneInfo, Probe

MODEL_KINDS = frozenset({"semantic", "workload", "replica", "stream"})  # these wait for a model's first token
CLOSED_KINDS = frozenset({"stream"})  # one after another: what is late there is late because of the service
WITNESSES = frozenset({"fresh", "control"})  # a late tick of these is a stall of the prober and of nothing else
LATE_S = 0.02
LEAST_TYPICAL_S = 0.01
LEAST_SLOW_S = 0.05
LEAST_SLACK_S = 0.04
LATENESS = 0.99  # of the ticks of a lane
UNKNOWN_TYPICAL_S = 1 / 3  # without one right answer in the baseline there is no scale: slow is what takes over a second


class Grade(IntEnum):
    GOOD = 0
    SLOW = 1
    BAD = 2
    VOID = 3


@dataclass(frozen=True)
class Limits:
    """What is late on one lane, all in seconds. `slack` is how long a backlog may take to drain after a recovery: four healthy
    answers, or four times what this machine itself was late in the baseline, since a service that wakes up waits for a processor too.
    """

    typical_s: float = UNKNOWN_TYPICAL_S
    slow_s: float = 3 * UNKNOWN_TYPICAL_S
    first_token_s: float | None = None
    lateness_s: float = 0.0

    @property
    def slack_s(self) -> float:
        return max(4 * self.typical_s, 4 * self.lateness_s, LEAST_SLACK_S)

    @property
    def silence_s(self) -> float:
        """How long after its send an unanswered probe proves that something is wrong."""
        proven = min(self.typical_s, self.slow_s)
        return proven if self.first_token_s is None else min(proven, self.first_token_s)


def limits(info: LaneInfo, baseline: Iterable[Probe], scenario: Scenario) -> Limits:
    """From the right answers among `baseline`, which are this lane's probes before any fault."""
    streamed = info.kind == "stream"
    baseline = tuple(baseline)
    late_s = quantile([probe.sent_s - probe.intended_s for probe in baseline], LATENESS) or 0.0
    took = [
        (probe.first_s if streamed and probe.first_s is not None else probe.end_s) - probe.sent_s
        for probe in baseline
        if probe.outcome == "ok"
    ]
    bound = scenario.steady_state.first_token_p95
    first_token_s = bound.limit if bound is not None and info.kind in MODEL_KINDS else None
    median = quantile(took, 0.5)
    typical_s = UNKNOWN_TYPICAL_S if median is None else max(LEAST_TYPICAL_S, 10 * median)
    return Limits(typical_s, max(3 * typical_s, LEAST_SLOW_S), first_token_s, late_s)


@dataclass(frozen=True)
class Stalls:
    """When this machine, not the service, stood still: disjoint stretches in order."""

    starts: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()

    def within(self, start_s: float, end_s: float) -> float:
        """Seconds of stalling between two moments."""
        found = 0.0
        for place in range(bisect.bisect_right(self.ends, start_s), len(self.starts)):
            if self.starts[place] >= end_s:
                break
            found += min(end_s, self.ends[place]) - max(start_s, self.starts[place])
        return found


def stalls(lanes: Sequence[LaneInfo], probes: Iterable[Probe]) -> Stalls:
    """From ticks that came late and from echoes that dawdled on this machine's own loopback."""
    kinds = {lane.name: lane.kind for lane in lanes}
    found = []
    for probe in probes:
        kind = kinds[probe.lane]
        if kind in WITNESSES:
            if probe.sent_s - probe.intended_s > LATE_S:
                found.append((probe.intended_s, probe.sent_s))
            if kind == "control" and probe.end_s - probe.sent_s > LATE_S:
                found.append((probe.sent_s, probe.end_s))
    found.sort()
    starts: list[float] = []
    ends: list[float] = []
    for start_s, end_s in found:
        if ends and start_s <= ends[-1]:
            ends[-1] = max(ends[-1], end_s)
        else:
            starts.append(start_s)
            ends.append(end_s)
    return Stalls(tuple(starts), tuple(ends))


def grade(probe: Probe, info: LaneInfo, limit: Limits, stalled: Stalls) -> Grade:
    """What one probe says about the service."""
    if probe.outcome == "void":
        return Grade.VOID
    late_s = probe.sent_s - probe.intended_s
    if late_s > LATE_S and late_s > info.period_s / 2 and info.kind not in CLOSED_KINDS:
        return Grade.VOID
    if probe.outcome == "ok":
        if not _slow(probe, info, limit, 0.0):
            return Grade.GOOD
        excused_s = stalled.within(probe.sent_s, probe.end_s)
        return Grade.SLOW if excused_s <= 0 or _slow(probe, info, limit, excused_s) else Grade.VOID
    if probe.outcome in {"timeout", "stall", "unanswered"}:
        excused_s = stalled.within(probe.sent_s, probe.end_s)
        # Silence is the service's only where the service had the time to break it.
        if excused_s > 0 and probe.end_s - probe.sent_s - excused_s <= limit.slow_s:
            return Grade.VOID
    return Grade.BAD


def overdue(probe: Probe, slow_s: float) -> bool:
    """Whether a probe that was still waiting when watching ended had waited longer than a healthy answer takes."""
    return probe.end_s - probe.sent_s > slow_s


def _slow(probe: Probe, info: LaneInfo, limit: Limits, excused_s: float) -> bool:
    took_s = probe.end_s - probe.sent_s - excused_s
    if info.kind == "stream":
        # The whole answer takes as long as it is long; only its beginning can be late, silences inside are stalls.
        if probe.first_s is None:
            return False
        first_s = probe.first_s - probe.sent_s - excused_s
        return first_s > (limit.slow_s if limit.first_token_s is None else limit.first_token_s)
    if limit.first_token_s is None:
        return took_s > limit.slow_s
    first_s = took_s if probe.first_s is None else probe.first_s - probe.sent_s - excused_s
    return first_s > limit.first_token_s or took_s > max(limit.first_token_s, limit.slow_s)
