"""Whether the prober itself can be trusted: did it keep its schedule, was it at fault, did the clock step, did its own echo fail."""

import itertools
from collections.abc import Sequence

from .classify import CLOSED_KINDS, Grade
from .lane import Lane, by_kind
from .observed import Observed
from .service_state import Interruption
from .statistics import quantile
from .values import ProberHealth

LEAST_COVERAGE = 0.995
MOST_VOID = 0.01
MOST_STEP_S = 0.01
TAIL_S = 15.0  # at the end of watching, requests may still be under way for so long
NEAR_S = 0.5  # around an edge


def prober_health(observed: Observed, lanes: Sequence[Lane], downs: Sequence[Interruption]) -> ProberHealth:
    """Over the whole watch; `why_not` says in words what makes the figures untrustworthy."""
    scheduled = _scheduled(lanes)
    late = [max(0.0, probe.sent_s - probe.intended_s) for lane in scheduled for probe in lane.probes]
    coverage, void_share = kept_schedule(observed, lanes)
    step_s = clock_step(observed.clock)
    finest = min((lane.info.period_s for lane in by_kind(lanes, "fresh") or scheduled), default=0.0)
    why_not = [f"prober: {why}" for why in neglected(coverage, void_share)]
    if step_s > MOST_STEP_S:
        why_not.append(f"clock: stepped by {step_s * 1000:.0f} ms, at most {MOST_STEP_S * 1000:.0f} ms may be")
    if jump := observed.clocks.contradiction():
        why_not.append(f"clock: {jump}")
    why_not += _control(lanes, downs)
    return ProberHealth(
        period_s=finest,
        late_p50_s=quantile(late, 0.5) or 0.0,
        late_p99_s=quantile(late, 0.99) or 0.0,
        late_max_s=max(late, default=0.0),
        coverage=coverage,
        void_share=void_share,
        clock_step_s=step_s,
        trusted=not why_not,
        why_not=tuple(why_not),
        clock_uncertainty_s=observed.clock_uncertainty_s,
    )


def _scheduled(lanes: Sequence[Lane]) -> list[Lane]:
    """The ledger stops of itself when it is read back."""
    return [lane for lane in lanes if lane.info.kind not in CLOSED_KINDS | {"ledger"} and lane.info.period_s > 0]


def kept_schedule(observed: Observed, lanes: Sequence[Lane]) -> tuple[float, float]:
    """(Share of the probes due that were made, share of those made that were void by the prober's own fault)."""
    scheduled = _scheduled(lanes)
    due = [_due(lane, observed.window.baseline_start_s, observed.window.end_s) for lane in scheduled]
    expected, kept = sum(ticks for ticks, _ in due), sum(made for _, made in due)
    graded = sum(len(lane.grades) for lane in scheduled)
    void_share = sum(mark is Grade.VOID for lane in scheduled for mark in lane.grades) / graded if graded else 0.0
    return kept / expected if expected else 0.0, void_share


def neglected(coverage: float, void_share: float) -> list[str]:
    """What of it is more than a prober may be forgiven."""
    why_not = []
    if coverage < LEAST_COVERAGE:
        why_not.append(f"{coverage:.1%} of the planned probes were made, {LEAST_COVERAGE:.1%} are needed")
    if void_share > MOST_VOID:
        why_not.append(f"{void_share:.1%} of the probes were void by its own fault, at most {MOST_VOID:.0%} may be")
    return why_not


def _due(lane: Lane, start_s: float, end_s: float) -> tuple[int, int]:
    """(Ticks that were due, ticks that were kept) of one lane, by the holes between its intended moments."""
    period_s = lane.info.period_s
    moments = sorted(probe.intended_s for probe in lane.probes if start_s <= probe.intended_s <= end_s)
    if not moments:
        return max(1, int((end_s - start_s) / period_s)), 0
    missed = sum(max(0, round((b - a) / period_s) - 1) for a, b in itertools.pairwise(moments))
    missed += max(0, int((moments[0] - start_s) / period_s) - 1)
    tail_s = end_s - moments[-1]
    if tail_s > TAIL_S:
        missed += int(tail_s / period_s)
    return len(moments) + missed, len(moments)


def clock_step(clock: Sequence[tuple[float, float]]) -> float:
    """The largest lasting jump, in seconds, of the wall clock against the drill's own.

    A pair whose two readings were torn apart by a stall looks like a jump there and back: only what stays is a step.
    """
    offsets = [wall - moment for moment, wall in clock]
    largest = 0.0
    for at in range(1, len(offsets)):
        before, after = offsets[max(0, at - 2) : at], offsets[at : at + 2]
        largest = max(largest, min(abs(b - a) for a in before for b in after))
    return largest


def _control(lanes: Sequence[Lane], downs: Sequence[Interruption]) -> list[str]:
    """A loopback echo that fails around an edge puts the edge in doubt."""
    edges = [edge for one in downs for edge in (one.start, one.end) if edge is not None]
    for lane in by_kind(lanes, "control"):
        for probe, mark in zip(lane.track.probes, lane.track.grades, strict=True):
            if mark is Grade.BAD:
                for edge in edges:
                    if probe.sent_s <= edge.hi_s + NEAR_S and probe.end_s >= edge.lo_s - NEAR_S:
                        return [
                            f"control: the echo on the prober's own machine failed ({probe.outcome}) at {probe.sent_s:.1f} s, at an edge of the outage"
                        ]
    return []
