"""Of all milestones that the platform recorded, those of a recovery: the way of each slot that was hit out of service and back."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ...injectors.platforms.base import STEPS
from .edges import duration, not_before
from .observed import Observed
from .values import Interval, Milestone

Way = tuple[Milestone, ...]
IN_ROTATION, REMOVED, ADDED = "in-rotation", "endpoint-removed", "endpoint-added"


def ways(observed: Observed) -> dict[str, Way]:
    """By slot, in order of time. A step that never came is absent.

    A slot is hit when a fault names it; where none of them does (a whole node failed), every slot that something became of.
    """
    # A replacement that came before its victim had gone stood in a slot of its own at first.
    slot_of = {one.identity: one.name for one in observed.milestones}
    known = [replace(one, name=slot_of[one.identity]) for one in observed.milestones if one.what in STEPS]
    after = [one for one in known if _after_fault(observed, one)]
    slots = dict.fromkeys(one.name for one in after)
    hit = _victims(observed) & slots.keys() or slots.keys()
    return {slot: _way([one for one in after if one.name == slot], observed) for slot in slots if slot in hit}


def _after_fault(observed: Observed, one: Milestone) -> bool:
    return observed.window.fault_s is not None and one.at.hi_s >= observed.window.fault_s


def _victims(observed: Observed) -> set[str]:
    """Slots of the faults' targets; a process inside a pod is named `replica-0/engine`."""
    struck = [fault for fault in observed.faults if fault.injecting_s is not None]
    return {str(target["name"]).partition("/")[0] for fault in struck for target in fault.targets}


def _way(found: list[Milestone], observed: Observed) -> Way:
    """One of each step, of the pod that stands there in the end and of its last start; only the removal is the first one."""
    found = sorted(found, key=_in_time)
    removed = _first(found, REMOVED)
    back = [one for one in found if one.what != REMOVED]
    back = [one for one in back if one.identity == back[-1].identity]
    started = next((one for one in reversed(back) if one.what == "started"), None)
    before = back if started is None else [one for one in back if one.at.hi_s <= started.at.hi_s]
    after = back if started is None else [one for one in back if one.at.hi_s >= started.at.lo_s]
    chosen = [
        removed,
        *(_first(back, step) for step in ("created", "scheduled")),
        _first(before[::-1], "pulled"),  # of several containers the last one's
        started,
        _first(after, "ready"),
        _added(back, after, {one.service for one in found if one.what == REMOVED}),
    ]
    since_s = observed.window.fault_s or 0.0
    return tuple(sorted((_not_before(one, since_s) for one in chosen if one is not None), key=_in_time))


def _in_time(one: Milestone) -> tuple[float, int]:
    """By when it was known at the latest: a watch is quick as a rule, while reads say little about changes close to each other."""
    return one.at.hi_s, STEPS.index(one.what)


def _first(found: Iterable[Milestone], step: str) -> Milestone | None:
    return next((one for one in found if one.what == step), None)


def _added(back: list[Milestone], after: list[Milestone], lost: set[str]) -> Milestone | None:
    """The pod is back when the last of its Services sends it requests again; None while one that took it out does not.

    Some Services take pods that are not ready, also before their containers ran.
    """
    first: dict[str, Milestone] = {}
    for one in (*after, *back):
        if one.what == ADDED:
            first.setdefault(one.service, one)
    return None if lost - first.keys() else max(first.values(), key=_in_time, default=None)


def _not_before(one: Milestone, since_s: float) -> Milestone:
    """An effect cannot precede its cause."""
    return replace(one, at=Interval(max(one.at.lo_s, since_s), max(one.at.hi_s, since_s)))


def endpoint_removal(impact: Interval | None, observed: Observed, found: Mapping[str, Way]) -> dict[str, Interval | None]:
    """From the impact until a victim was taken out of its Service, as `endpoint-removed`; None: none of them was.

    Empty where no Service sent requests to a victim: there was nothing to notice it by. As with other signs, one before the impact
    took no time.
    """
    victims, since_s = _victims(observed) | found.keys(), observed.window.fault_s
    before = [one for one in observed.milestones if one.what in {IN_ROTATION, ADDED} and one.name in victims]
    if since_s is None or not any(one.at.lo_s <= since_s for one in before):
        return {}
    moments = [one.at for way in found.values() for one in way if one.what == REMOVED]
    if impact is None or not moments:
        return {REMOVED: None}
    first = Interval(min(at.lo_s for at in moments), min(at.hi_s for at in moments))
    return {REMOVED: duration(impact, not_before(impact, first))}
