"""Where the time of a recovery went: the way from the fault to full redundancy, cut at the moments that are known."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from ...injectors.platforms.base import STEPS
from ..finished import InjectedFault
from .edges import duration
from .service_state import REQUIRED_KINDS
from .values import Interval, Measurement, Milestone, Part
from .ways import REMOVED

# Where what is known of two moments does not tell them apart, they come in this order.
ORDER = ("impact", "detected", *STEPS, "first-answer", "answered", "undo", "recovered", "redundancy")
ASIDE = ("detected", "first-answer", "answered")  # told only where they are moments of their own
SHORTEST_S = 0.001


class Moment(NamedTuple):
    """What ended a part of the recovery: `what` is one of ORDER, `of` whose moment it was."""

    what: str
    of: str
    at: Interval


def struck(faults: Sequence[InjectedFault]) -> Interval | None:
    """The moment the first fault was proven to be in effect."""
    moments = [fault.effective for fault in faults if fault.effective is not None]
    return Interval(*min(moments)) if moments else None


def anatomy(found: Measurement, faults: Sequence[InjectedFault]) -> tuple[Part, ...]:
    """The parts from the fault's effect on; empty where fewer than two are known or users never had right answers again.

    The parts are cut in the middle of what is known of each moment, so that their shares add up to one; `length` holds the truth.
    """
    proven, recovery = struck(faults), found.recovery
    if proven is None or (recovery.impact is not None and recovery.recovered is None):
        return ()
    known = moments(found, faults, proven)
    # A fault was in effect before the first that followed from it, however late it was proven.
    start = Interval(proven.lo_s, max(proven.lo_s, min([proven.hi_s, *(one.at.hi_s for one in known)])))
    ends = [Moment("effective", "", start), *known]
    edges = list(accumulate((end.at.middle_s for end in ends), max))
    whole_s = edges[-1] - edges[0]
    if len(ends) < 3 or whole_s <= 0:
        return ()
    return tuple(
        Part(end.what, end.of, a, b, duration(before.at, end.at), (b - a) / whole_s)
        for before, end, a, b in zip(ends, ends[1:], edges, edges[1:], strict=False)
    )


def moments(found: Measurement, faults: Sequence[InjectedFault], start: Interval) -> list[Moment]:
    """What ends each part, in order of time."""
    recovery = found.recovery
    known: list[Moment] = []
    if recovery.impact is not None:
        known += [Moment("impact", "", recovery.impact), *_detected(found, recovery.impact)]
    if recovery.impact is not None and recovery.recovered is not None:
        known += [Moment("recovered", "", recovery.recovered), *_first_answer(found, recovery.impact, recovery.recovered)]
        if recovery.censored_after_s is not None:
            # The service came back only once the fault was taken away, so that moment is a milestone.
            known += [Moment("undo", "", Interval(f.recovering_s, f.recovering_s)) for f in faults if f.recovering_s is not None]
    known += _answered(found, start)
    known = [one for one in known if one.what not in ASIDE or not any(_same(one, other) for other in known)]
    way = [Moment(one.what, one.name, one.at) for one in last_way(found)]  # is in order, also where the middles are not
    placed = [
        *zip(accumulate((one.at.middle_s for one in way), max), way, strict=True),
        *((one.at.middle_s, one) for one in known),
    ]
    return [one for _, one in sorted(placed, key=lambda pair: (pair[0], ORDER.index(pair[1].what)))]


def _same(one: Moment, other: Moment) -> bool:
    return other.what not in ASIDE and abs(one.at.middle_s - other.at.middle_s) <= SHORTEST_S


def last_way(found: Measurement) -> tuple[Milestone, ...]:
    """Of several replicas that were hit, the steps of the one that was last to be ready, or never was."""

    def lateness(way: tuple[Milestone, ...]) -> tuple[bool, float]:
        return all(one.what != "ready" for one in way), way[-1].at.middle_s

    return max(found.ways.values(), key=lateness, default=())


def _detected(found: Measurement, impact: Interval) -> list[Moment]:
    """The first source that noticed. An endpoint's removal is a step of its replica's way."""
    seen = [(gap, source) for source, gap in found.time_to_detect.items() if gap is not None and source != REMOVED]
    if not seen:
        return []
    gap, source = min(seen, key=lambda one: one[0].middle_s)
    return [Moment("detected", source, Interval(impact.lo_s + gap.lo_s, impact.hi_s + gap.hi_s))]


def _first_answer(found: Measurement, impact: Interval, recovered: Interval) -> list[Moment]:
    """Where the lanes on which users ask came back one after another, the first of them."""
    asked = {lane.info.name for lane in found.lanes if lane.info.kind in REQUIRED_KINDS}
    back = [
        (one.end, one.lane)
        for one in found.outages
        if one.lane in asked and one.end is not None and one.start.hi_s >= impact.lo_s and one.end.hi_s < recovered.lo_s
    ]
    if not back:
        return []
    end, lane = min(back, key=lambda one: one[0].middle_s)
    return [Moment("first-answer", lane, end)]


def _answered(found: Measurement, start: Interval) -> list[Moment]:
    """The first and the last replica that answered again, each on its own lane; with the last one redundancy is restored."""
    components = {lane.info.name: lane.info.component for lane in found.lanes if lane.info.kind == "replica"}
    back = sorted(
        ((one.end, components[one.lane]) for one in found.outages if one.lane in components and one.end),
        key=lambda one: one[0].middle_s,
    )
    back = [one for one in back if one[0].middle_s > start.middle_s]
    moments = [Moment("answered", name or "a replica", end) for end, name in back[:1] + back[1:][-1:]]
    if moments and found.recovery.redundancy is not None:
        moments[-1] = moments[-1]._replace(what="redundancy")
    return moments
