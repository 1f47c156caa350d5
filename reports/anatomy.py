"""Where the time of a recovery went: the way from the fault to full redundancy, cut at the moments that are known."""

from dataclasses import dataclass
from itertools import pairwise

from ..drills.finished import FinishedRun
from ..drills.measure.values import Interval

# Of moments that were seen by different lanes, the later may be dated a sampling period before the earlier.
_SHORTEST_S = 0.001


@dataclass(frozen=True)
class Part:
    """One stretch of the recovery. `share` is of the whole way; `until` says what ended it."""

    until: str
    start_s: float
    end_s: float
    share: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


def struck(run: FinishedRun) -> Interval | None:
    """The moment the first fault was proven to be in effect."""
    moments = [fault.effective for fault in run.faults if fault.effective is not None]
    return Interval(*min(moments)) if moments else None


def milestones(run: FinishedRun) -> list[tuple[str, Interval]]:
    """What ended each part, in order of time, and when."""
    recovery, found = run.measurement.recovery, []
    start = struck(run)
    if recovery.impact is not None:
        found.append(("users noticed", recovery.impact))
        detected = {source: gap for source, gap in run.measurement.time_to_detect.items() if gap is not None}
        if detected:
            source, gap = min(detected.items(), key=lambda item: item[1].middle_s)
            found.append((f"{source} noticed", _later(recovery.impact, gap)))
    found.extend(_replacements(run, start))
    if recovery.recovered is not None and recovery.censored_after_s is not None:
        # The service came back only once the fault was taken away, so that moment is a milestone.
        found += [("the undo began", Interval(f.recovering_s, f.recovering_s)) for f in run.faults if f.recovering_s is not None]
    if recovery.recovered is not None:
        found.append(("users had right answers again", recovery.recovered))
    if start is not None and recovery.redundancy is not None:
        found.append(("full redundancy was back", _later(start, recovery.redundancy)))
    return sorted(found, key=lambda item: item[1].middle_s)


def anatomy(run: FinishedRun) -> tuple[Part, ...]:
    """The parts from the fault's effect on; empty where fewer than two are known or users never had answers again."""
    start, known = struck(run), milestones(run)
    if start is None or run.measurement.recovery.recovered is None:
        return ()
    edges = [("", start.middle_s)]
    for until, moment in known:
        if moment.middle_s > edges[-1][1] + _SHORTEST_S:
            edges.append((until, moment.middle_s))
    whole = edges[-1][1] - edges[0][1]
    if len(edges) < 3:
        return ()
    return tuple(Part(until, a, b, (b - a) / whole) for (_, a), (until, b) in pairwise(edges))


def longest(parts: tuple[Part, ...]) -> Part:
    """The part that is worth shortening first."""
    return max(parts, key=lambda part: part.length_s)


def _later(moment: Interval, gap: Interval) -> Interval:
    return Interval(moment.lo_s + gap.lo_s, moment.hi_s + gap.hi_s)


def _replacements(run: FinishedRun, start: Interval | None) -> list[tuple[str, Interval]]:
    """The first and the last replica that answered again, each on its own lane."""
    components = {lane.info.name: lane.info.component for lane in run.measurement.lanes if lane.info.kind == "replica"}
    back = sorted(
        ((outage.end, components[outage.lane]) for outage in run.measurement.outages if outage.lane in components and outage.end),
        key=lambda item: item[0].middle_s,
    )
    back = [item for item in back if start is not None and item[0].middle_s > start.middle_s]
    ends = back[:1] + back[1:][-1:]
    return [(f"{name or 'a replica'} answered by itself again", moment) for moment, name in ends]
