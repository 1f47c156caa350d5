"""One lane over the whole drill: its probes graded, its states, its outages, its report."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..scenario import Scenario
from .classify import MODEL_KINDS, Grade, Limits, Stalls, grade, limits, overdue, stalls
from .edges import Track, outage
from .lane_state import DEGRADED_SHARE, LaneState, Windows, windows
from .observed import Observed
from .statistics import quantile, share_upper_bound
from .values import LaneInfo, LaneReport, Outage, Probe, Stretch

UNKNOWN_S = 0.5  # without an observation for so long, or three periods, nobody knows how the lane was
WAITING_KINDS = frozenset({"stream"})  # the next request follows the last answer


@dataclass(frozen=True)
class Lane:
    """`probes` and `grades` are all of the lane's, `track` the non-void ones, each by send. `outages` go with `state.runs`."""

    info: LaneInfo
    probes: Sequence[Probe]
    grades: Sequence[Grade]
    track: Track
    state: LaneState
    outages: tuple[Outage, ...]


def lane_windows(info: LaneInfo, limit: Limits, baseline: Sequence[Probe], scenario: Scenario) -> Windows:
    """The lane's windows; what is degraded is measured by the baseline's own share of answers that were not good."""
    known = [mark for probe in baseline if (mark := grade(probe, info, limit, Stalls())) is not Grade.VOID]
    bad = sum(mark is not Grade.GOOD for mark in known)
    degraded = max(DEGRADED_SHARE, share_upper_bound(bad, len(known))) if known else DEGRADED_SHARE
    bound = scenario.steady_state.success
    return windows(info.kind, info.period_s, scenario.settle.total_seconds(), bound.limit if bound else 0.99, degraded)


def build_lanes(scenario: Scenario, observed: Observed) -> tuple[Lane, ...]:
    """Every lane of the drill, in the order in which the prober was told of them."""
    stalled = stalls(observed.lanes, observed.probes)
    by_lane: dict[str, list[Probe]] = {info.name: [] for info in observed.lanes}
    for probe in observed.probes:
        by_lane[probe.lane].append(probe)
    found = []
    for info in observed.lanes:
        probes = sorted(by_lane[info.name], key=lambda probe: probe.sent_s)
        found.append(_lane(info, probes, stalled, scenario, observed))
    return tuple(found)


def _lane(info: LaneInfo, probes: Sequence[Probe], stalled: Stalls, scenario: Scenario, observed: Observed) -> Lane:
    baseline = in_baseline(probes, observed)
    limit = limits(info, baseline, scenario)
    probes = [probe for probe in probes if probe.outcome != "unanswered" or overdue(probe, limit.slow_s)]
    grades = [grade(probe, info, limit, stalled) for probe in probes]
    state = LaneState(lane_windows(info, limit, baseline, scenario))
    known: list[Probe] = []
    marks: list[Grade] = []
    for probe, mark in zip(probes, grades, strict=True):
        if mark is not Grade.VOID:
            known.append(probe)
            marks.append(mark)
            state.feed(probe.sent_s, mark)
    state.finish()
    track = Track(info.name, known, marks, limit)
    return Lane(info, probes, grades, track, state, tuple(outage(track, run) for run in state.runs))


def in_baseline(probes: Sequence[Probe], observed: Observed) -> list[Probe]:
    """Those that were sent and answered within the baseline."""
    start_s, end_s = observed.window.baseline_start_s, observed.window.baseline_end_s
    return [probe for probe in probes if start_s <= probe.sent_s and probe.end_s <= end_s]


def by_kind(found: Sequence[Lane], *kinds: str) -> list[Lane]:
    """The lanes of these kinds that have probes."""
    return [lane for lane in found if lane.info.kind in kinds and lane.probes]


def report(lane: Lane, observed: Observed) -> LaneReport:
    """Counts over the whole drill, latencies of the baseline, stretches of states."""
    right = [probe for probe in in_baseline(lane.probes, observed) if probe.outcome == "ok"]
    took = [probe.end_s - probe.sent_s for probe in right]
    firsts = [probe.first_s - probe.sent_s for probe in right if probe.first_s is not None]
    counts = Counter(lane.grades)
    limit, window = lane.track.limits, observed.window
    return LaneReport(
        info=lane.info,
        good=counts[Grade.GOOD],
        slow=counts[Grade.SLOW],
        bad=counts[Grade.BAD],
        void=counts[Grade.VOID],
        classes=dict(Counter(p.outcome for p, mark in zip(lane.probes, lane.grades, strict=True) if mark is Grade.BAD)),
        latency_median_s=quantile(took, 0.5),
        latency_p95_s=quantile(took, 0.95),
        first_token_p95_s=quantile(firsts, 0.95) if lane.info.kind in MODEL_KINDS else None,
        slow_limit_s=limit.slow_s if limit.first_token_s is None else limit.first_token_s,
        stretches=stretches(lane, window.baseline_start_s, window.end_s),
        blips=lane.state.blips,
        longest_gap_s=max(end - start for start, end in _gaps(lane, window.baseline_start_s, window.end_s) or [(0.0, 0.0)]),
        hold_s=lane.state.windows.hold_s,
        hold_scaled=lane.state.windows.scaled,
        overdue_s=limit.slow_s,
    )


def _gaps(lane: Lane, start_s: float, end_s: float) -> list[tuple[float, float]]:
    """The stretches between observations: from one send to the next, or, where a lane waits for each answer, from its end."""
    waits = lane.info.kind in WAITING_KINDS
    gaps, last_s = [], start_s
    for probe in lane.track.probes:
        if probe.sent_s > end_s:
            break
        if probe.sent_s > last_s:
            gaps.append((last_s, probe.sent_s))
        last_s = max(last_s, probe.end_s if waits else probe.sent_s)
    if end_s > last_s:
        gaps.append((last_s, end_s))
    return gaps


def longest_doubt(lane: Lane, start_s: float, end_s: float) -> float:
    """The longest interruption within [start, end] that this lane cannot rule out: from a good probe's send to the next one's end."""
    longest, last_s = 0.0, start_s
    for probe, mark in zip(lane.track.probes, lane.track.grades, strict=True):
        if mark is not Grade.GOOD or probe.end_s < start_s:
            continue
        if probe.sent_s > end_s:
            break
        longest = max(longest, probe.end_s - last_s)
        last_s = max(last_s, probe.sent_s)
    return max(longest, end_s - last_s)


def stretches(lane: Lane, start_s: float, end_s: float) -> tuple[Stretch, ...]:
    """From `start_s` to `end_s` without a hole: up, down, recovering, degraded, and unknown where nothing was observed."""
    least_s = max(UNKNOWN_S, 3 * lane.info.period_s)
    layers: list[tuple[str, float, float]] = [("degraded", start, end) for start, end in lane.state.degraded]
    layers += [("down", found.start.hi_s, end_s if found.end is None else found.end.hi_s) for found in lane.outages]
    layers += [("recovering", start, end) for start, end in lane.state.recovering]
    layers += [("unknown", start, end) for start, end in _gaps(lane, start_s, end_s) if end - start > least_s]
    cuts = sorted({start_s, end_s, *(cut for _, a, b in layers for cut in (a, b) if start_s < cut < end_s)})
    painted: list[Stretch] = []
    for a, b in itertools.pairwise(cuts):
        state = next((name for name, start, end in reversed(layers) if start <= a and b <= end), "up")
        if painted and painted[-1].state == state:
            painted[-1] = Stretch(state, painted[-1].start_s, b)
        else:
            painted.append(Stretch(state, a, b))
    return tuple(painted)
