"""From lanes to the service: it is down while any lane is down that asks what users ask. Lanes are never averaged.

Required are `fresh` (can a new client get in), `semantic` and `workload` (does the model answer, and rightly). For the service
the edges follow by logic alone: it went down when the first of them did, and is back when the last of them is. So the other lanes
narrow the interval only from the side on which they prove something: a port that refuses bounds the impact from above and the
recovery from below, and one that accepts says nothing about the model behind it. An impact cannot precede its cause: the moment
at which the first injection began bounds it from below.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...injectors.platforms.base import WORKERS
from ..finished import InjectedFault
from ..scenario import Fault, Scenario
from .edges import duration, not_before
from .lane import Lane, by_kind, longest_doubt
from .observed import Observed
from .values import Interval, LaneInfo, Outage, Recovery

REQUIRED_KINDS = ("fresh", "semantic", "workload")


def required(lanes: Sequence[Lane]) -> list[Lane]:
    """The lanes that say whether users are served."""
    return by_kind(lanes, *REQUIRED_KINDS)


@dataclass(frozen=True)
class Interruption:
    """The service was down. `end` None: it was not back for good when watching ended; `returned_s`: right answers since then."""

    start: Interval
    end: Interval | None
    lanes: tuple[str, ...]
    brief: bool
    returned_s: float | None = None

    @property
    def worst_s(self) -> float:
        return float("inf") if self.end is None else self.end.hi_s - self.start.lo_s


def interruptions(lanes: Sequence[Lane], since_s: float, hold_s: float) -> tuple[Interruption, ...]:
    """The union of the required lanes' outages that were not over at `since_s`, in order.

    What comes back and fails again within `hold_s` had not recovered: the clock runs on from the first onset. Interruptions too
    short for a lane to count as down join others only where they overlap.
    """
    found = [_single(lane, at, one) for lane in required(lanes) for at, one in enumerate(lane.outages)]
    single = sorted((one for one in found if one.end is None or one.end.hi_s > since_s), key=lambda one: one.start.lo_s)
    merged: list[Interruption] = []
    for one in single:
        last = merged[-1] if merged else None
        grace_s = 0.0 if last is None or last.brief or one.brief else hold_s
        if last is not None and (last.end is None or one.start.lo_s <= last.end.hi_s + grace_s):
            merged[-1] = _union(last, one)
        else:
            merged.append(one)
    return tuple(merged)


def _single(lane: Lane, at: int, found: Outage) -> Interruption:
    run = lane.state.runs[at]
    returned_s = None if run.returned is None else lane.track.probes[run.returned].sent_s
    return Interruption(found.start, found.end, (lane.info.name,), run.brief, returned_s)


def _union(a: Interruption, b: Interruption) -> Interruption:
    start = Interval(min(a.start.lo_s, b.start.lo_s), min(a.start.hi_s, b.start.hi_s))
    end = None if a.end is None or b.end is None else Interval(max(a.end.lo_s, b.end.lo_s), max(a.end.hi_s, b.end.hi_s))
    # Right answers are back for as long as every lane that is still unsettled has them.
    open_ends = [one for one in (a, b) if one.end is None]
    returns = [one.returned_s for one in open_ends if one.returned_s is not None]
    returned_s = max(returns) if returns and len(returns) == len(open_ends) else None
    return Interruption(start, end, tuple(dict.fromkeys((*a.lanes, *b.lanes))), a.brief and b.brief, returned_s)


@dataclass(frozen=True)
class ServiceState:
    """`recovery` is of the longest interruption since the first injection began; `all` are those. `why_not` explains a missing time."""

    recovery: Recovery
    all: tuple[Interruption, ...]
    why_not: str = ""


def service_state(scenario: Scenario, observed: Observed, lanes: Sequence[Lane]) -> ServiceState:
    """The service's own outages after the first injection began, and the recovery from the longest one."""
    window, needed = observed.window, required(lanes)
    if window.fault_s is None:
        return ServiceState(Recovery(), (), "nothing was injected")
    if not needed:
        return ServiceState(Recovery(), (), "no lane asked what users ask")
    after = []
    for one in interruptions(lanes, window.fault_s, scenario.settle.total_seconds()):
        if one.start.hi_s >= window.fault_s:
            start = Interval(max(one.start.lo_s, window.fault_s), one.start.hi_s)
            after.append(replace(one, start=start, end=one.end and not_before(start, one.end)))
        elif not one.brief:
            return ServiceState(Recovery(), (), f"{', '.join(one.lanes)}: already down when the first fault was injected")
    doubt_s = max(longest_doubt(lane, window.fault_s, window.end_s) for lane in needed)
    if not after:
        degraded_s = max(sum(_share_of(stretch, window.fault_s) for stretch in lane.state.degraded) for lane in needed)
        return ServiceState(Recovery(masked=degraded_s == 0, longest_gap_s=doubt_s, degraded_s=degraded_s), ())
    return _of_longest(scenario, observed, tuple(after), doubt_s)


def _share_of(stretch: tuple[float, float], since_s: float) -> float:
    return max(0.0, stretch[1] - max(stretch[0], since_s))


def _of_longest(scenario: Scenario, observed: Observed, after: tuple[Interruption, ...], doubt_s: float) -> ServiceState:
    worst = max(after, key=lambda one: one.worst_s)
    base = Recovery(
        impact=worst.start,
        recovered=worst.end,
        longest_gap_s=doubt_s,
        follows=follows(observed.faults, worst.start.hi_s),
        revived=any(fault.undo_revives and _is_instant(scenario, fault) for fault in observed.faults),
    )
    if worst.end is None:
        rto = scenario.objectives.rto
        if worst.returned_s is not None and (rto is None or _since(worst.start, worst.returned_s) <= rto.total_seconds()):
            held_s = observed.window.end_s - worst.returned_s
            why = f"right answers came back at {worst.returned_s:.1f} s, but only {held_s:.1f} s were watched to see whether they hold"
            return ServiceState(base, after, why)
        return ServiceState(replace(base, censored_after_s=_since(worst.start, observed.window.end_s)), after)
    effective = min((fault.effective for fault in observed.faults if fault.effective), default=None)
    from_fault = None if effective is None else duration(Interval(*effective), worst.end)
    held = _held_until(scenario, observed.faults, worst)
    if held is not None and worst.end.lo_s >= held:
        return ServiceState(replace(base, censored_after_s=_since(worst.start, held)), after)
    if held is not None and worst.end.hi_s > held:
        rto, least_s = scenario.objectives.rto, _since(worst.start, worst.end.lo_s)
        if rto is not None and least_s > rto.total_seconds():  # too late, whoever brought the answers back
            return ServiceState(replace(base, recovered=None, censored_after_s=least_s), after)
        return ServiceState(base, after, "right answers came back about when the fault ended: whether by themselves is not known")
    return ServiceState(replace(base, recovery_time=duration(worst.start, worst.end), from_fault=from_fault), after)


def _since(start: Interval, end_s: float) -> float:
    return max(0.0, end_s - start.hi_s)


def _held_until(scenario: Scenario, faults: Sequence[InjectedFault], worst: Interruption) -> float | None:
    """When the first fault ended that should have been survived: it was undone, or its deadline ended it at the site.

    A fault without `for` lasts until the service has recovered or `observe` is over: what comes back only after the undo
    has not recovered from it. One with `for` that lasted so long was over by plan. A kill has nothing to hold; but where only the undo starts its
    target again, what comes back after it did not recover either.
    """
    ended: list[float] = []
    for fault in faults:
        written = scenario.faults[fault.index] if fault.index < len(scenario.faults) else None
        if written is None or fault.recovering_s is None or _lasted(fault, written):
            continue
        if written.injector.instant and not fault.undo_revives:
            continue
        if fault.injecting_s is None:
            continue
        ended_s = fault.recovering_s
        if fault.undo and not written.injector.instant:
            ended_s = min(ended_s, fault.injecting_s + fault.undo["deadline_s"])
        if fault.injecting_s <= worst.start.hi_s <= ended_s:
            ended.append(ended_s)
    return min(ended, default=None)


def _is_instant(scenario: Scenario, fault: InjectedFault) -> bool:
    return fault.index < len(scenario.faults) and scenario.faults[fault.index].injector.instant


def _lasted(fault: InjectedFault, written: Fault) -> bool:
    """Whether it had a `for` and lasted so long."""
    return written.for_ is not None and (fault.recovering_s or 0.0) >= (fault.injecting_s or 0.0) + written.for_.total_seconds()


def follows(faults: Sequence[InjectedFault], moment_s: float) -> str:
    """The latest thing that was done before the moment: `fault 0 effective`, `fault 0 undone`."""
    events = [(fault.injecting_s, f"fault {fault.index} effective") for fault in faults if fault.injecting_s is not None]
    events += [(fault.recovering_s, f"fault {fault.index} undone") for fault in faults if fault.recovering_s is not None]
    return max((event for event in events if event[0] <= moment_s), default=(0.0, ""))[1]


class Redundancy(NamedTuple):
    """`time`: from the first fault's effect until the last replica answered again by itself. Else `why_not`, and the least it took."""

    time: Interval | None
    why_not: str = ""
    longer_than_s: float | None = None


def unasked(hit: Iterable[tuple[str, str]], lanes: Iterable[LaneInfo]) -> list[str]:
    """Workers among what was hit (name and role of the component of each) that no lane asks by itself."""
    asked = {info.component or info.name for info in lanes if info.kind == "replica"}
    return sorted({name for name, role in hit if role in WORKERS} - asked)


def _part(target: Mapping[str, Any]) -> tuple[str, str]:
    """Name and role of the component that a target of the journal is, or is a process inside of."""
    return target["name"].partition("/")[0], target.get("details", {}).get("component_role", target["role"])


def redundancy(observed: Observed, lanes: Sequence[Lane]) -> Redundancy:
    """How long the service had fewer replicas than before."""
    effective = min((fault.effective for fault in observed.faults if fault.effective), default=None)
    replicas = by_kind(lanes, "replica")
    if effective is None:
        return Redundancy(None, "no fault was proven")
    if not replicas:
        return Redundancy(None, "no lane asks the replicas one by one")
    since_s = observed.window.fault_s or effective[0]
    hit = [(lane, found) for lane in replicas for found in lane.outages if found.start.hi_s >= since_s]
    missing = sorted({lane.info.component or lane.info.name for lane, found in hit if found.end is None})
    if missing:
        why_not = f"{', '.join(missing)} had not come back for good when watching ended"
        return Redundancy(None, why_not, observed.window.end_s - effective[1])
    struck = [_part(each) for fault in observed.faults if fault.injecting_s is not None for each in fault.targets]
    if unseen := unasked(struck, [lane.info for lane in replicas]):
        return Redundancy(None, f"nobody asks {', '.join(unseen)} by itself, so when it was back is not known")
    ends = [found.end for _, found in hit if found.end is not None]
    if not ends:
        return Redundancy(None, "no replica was seen down")
    last = Interval(max(end.lo_s for end in ends), max(end.hi_s for end in ends))
    return Redundancy(duration(Interval(*effective), last))
