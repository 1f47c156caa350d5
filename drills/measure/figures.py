"""What users got: availability, wrong answers, streams, and what the service's own health endpoints said meanwhile."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from .classify import Grade
from .edges import duration, not_before
from .lane import Lane, by_kind
from .observed import Observed
from .service_state import Interruption
from .statistics import quantile
from .values import Availability, Interval, Probe, QualityLoss, Streams

USER_KINDS = ("fresh", "reuse", "semantic", "workload")
WRONG = frozenset({"wrong-answer", "wrong-model", "empty", "error-in-200"})
# Once a stream has begun, an error object is the only honest way to say that it breaks off: that is a cut, not a wrong answer.
WRONG_IN_STREAM = WRONG - {"error-in-200"}
NOT_WELL = 300  # the first HTTP status above 2xx; 0 is no answer
LONGEST_STAND_S = 1.0  # for which one probe speaks at most


def availability(observed: Observed, lanes: Sequence[Lane], downs: Sequence[Interruption]) -> Availability | None:
    """From the first injection to the end of watching; None without a fault or requests. Late answers are not right ones."""
    since_s, end_s = observed.window.fault_s, observed.window.end_s
    asked = by_kind(lanes, "semantic", "workload") or by_kind(lanes, "fresh", "reuse")
    if since_s is None or end_s <= since_s:
        return None
    right = total = 0.0
    count = 0
    for lane in asked:
        for probe, mark, weight in _weighted(lane, since_s, end_s):
            del probe
            count += 1
            total += weight
            right += weight * (mark is Grade.GOOD)
    if not count:
        return None
    down_s = sum((end_s if one.end is None else one.end.middle_s) - one.start.middle_s for one in downs)
    up = all_of = 0.0
    for lane in by_kind(lanes, *USER_KINDS):
        good_s, known_s = _stood(lane, since_s, end_s)
        up += good_s
        all_of += known_s
    users = up / all_of if all_of else right / total
    return Availability(max(0.0, 1 - down_s / (end_s - since_s)), right / total, users, count)


def _weighted(lane: Lane, since_s: float, end_s: float) -> list[tuple[Probe, Grade, float]]:
    """Probes with the share of a regular one that each stands for: while a lane is down it asks more often than users do."""
    period_s = lane.info.period_s
    found = [
        (probe, mark)
        for probe, mark in zip(lane.track.probes, lane.track.grades, strict=True)
        if since_s <= probe.sent_s <= end_s
    ]
    if not found or lane.info.kind == "workload" or period_s <= 0:
        return [(probe, mark, 1.0) for probe, mark in found]
    nexts = [probe.intended_s for probe, _ in found[1:]] + [float("inf")]
    return [
        (probe, mark, min(1.0, max(0.0, after - probe.intended_s) / period_s))
        for (probe, mark), after in zip(found, nexts, strict=True)
    ]


def _stood(lane: Lane, since_s: float, end_s: float) -> tuple[float, float]:
    """(Seconds well, seconds known): each probe stands for the time until the next one, as a user who tried then."""
    good_s = known_s = 0.0
    probes, grades = lane.track.probes, lane.track.grades
    most_s = max(LONGEST_STAND_S, 2 * lane.info.period_s)
    for at, probe in enumerate(probes):
        if not since_s <= probe.sent_s <= end_s:
            continue
        until_s = probes[at + 1].sent_s if at + 1 < len(probes) else probe.sent_s + lane.info.period_s
        stood_s = min(most_s, until_s - probe.sent_s)
        known_s += stood_s
        good_s += stood_s * (grades[at] is Grade.GOOD)
    return good_s, known_s


def quality_loss(observed: Observed, lanes: Sequence[Lane]) -> QualityLoss | None:
    """Wrong answers that were served as right ones from the first injection on; None without a fault or a lane that looks."""
    since_s = observed.window.fault_s
    watched = by_kind(lanes, "semantic", "workload", "stream")
    if since_s is None or not watched:
        return None
    wrong: list[Probe] = []
    checked = 0
    for lane in watched:
        kinds = WRONG_IN_STREAM if lane.info.kind == "stream" else WRONG
        answers = [probe for probe in lane.probes if probe.end_s >= since_s and (probe.outcome == "ok" or probe.outcome in kinds)]
        checked += len(answers)
        wrong += [probe for probe in answers if probe.outcome != "ok"]
    wrong.sort(key=lambda probe: probe.end_s)
    on_replicas = sum(
        probe.end_s >= since_s and probe.outcome in WRONG for lane in by_kind(lanes, "replica") for probe in lane.probes
    )
    return QualityLoss(
        checked=checked,
        wrong_answers=len(wrong),
        first_s=wrong[0].end_s if wrong else None,
        last_s=wrong[-1].end_s if wrong else None,
        example=next((probe.text for probe in wrong if probe.text), ""),
        backends=tuple(sorted({probe.backend for probe in wrong if probe.backend})),
        on_replicas=on_replicas,
    )


def streams(observed: Observed, lanes: Sequence[Lane]) -> Streams | None:
    """Long streamed answers that were open at the first injection or later; None without a fault or such a lane.

    `cut` ones had begun and did not end as they should. `tokens_lost` are those that a whole answer, by the median of the whole
    ones, would still have brought.
    """
    since_s = observed.window.fault_s
    asked = [probe for lane in by_kind(lanes, "stream") for probe in lane.probes]
    if since_s is None or not asked:
        return None
    whole = quantile([float(probe.tokens) for probe in asked if probe.outcome == "ok"], 0.5) or 0.0
    opened = [
        probe
        for probe in asked
        if probe.end_s >= since_s and probe.outcome != "void" and (probe.first_s is not None or probe.outcome == "ok")
    ]
    outcomes = Counter("ok" if probe.outcome == "ok" or probe.outcome in WRONG_IN_STREAM else "cut" for probe in opened)
    cut = [probe for probe in opened if probe.outcome != "ok" and probe.outcome not in WRONG_IN_STREAM]
    return Streams(
        opened=len(opened),
        completed=outcomes["ok"],
        cut=outcomes["cut"],
        tokens_lost=int(sum(max(0.0, whole - probe.tokens) for probe in cut)),
        longest_gap_s=max((probe.gap_s for probe in opened), default=0.0),
        at_stake=_at_stake(observed, lanes, [probe for probe in opened if probe.first_s is not None]),
    )


def _at_stake(observed: Observed, lanes: Sequence[Lane], begun: Sequence[Probe]) -> int | None:
    """How many streams had an answer from a target, and no end yet, at some moment between the order to hit it and the proof of the hit.

    Without one, no stream could be cut, so that none was says nothing. None where that cannot be told.
    """
    replicas = {lane.info.component for lane in by_kind(lanes, "replica")}
    found: set[tuple[str, int]] = set()
    for fault in observed.faults:
        if fault.injecting_s is None:
            continue
        struck = {_component(target) for target in fault.targets}
        until_s = fault.injecting_s if fault.effective is None else fault.effective[1]
        meanwhile = [probe for probe in begun if probe.end_s >= fault.injecting_s and (probe.first_s or 0.0) <= until_s]
        if not struck <= replicas or not {probe.backend for probe in meanwhile} <= replicas:
            return None
        found |= {(probe.lane, probe.sequence) for probe in meanwhile if probe.backend in struck}
    return len(found)


def _component(target: Mapping[str, Any]) -> str:
    return str(target["name"]).partition("/")[0]  # r0/engine is inside r0


def source(lane: Lane) -> str:
    """What a health lane is called in results: `/ready`, or `r0 /ready` on one component."""
    path = urlsplit(lane.info.url).path or "/"
    return f"{lane.info.component} {path}" if lane.info.component else path


def time_to_detect(impact: Interval | None, observed: Observed, lanes: Sequence[Lane]) -> dict[str, Interval | None]:
    """By health endpoint, from the impact to its first answer that is not 2xx; None: none was seen until the end of watching.

    A sign between the fault and the impact took no time at all: what users did not notice yet was noticed. A victim that is dead, hangs or is cut off does not answer on its own port: that is the fault, and nobody's notice of it.
    An undo that put another process in a target's place first stopped what was left of that: a sign from then on is the undo's.
    """
    found: dict[str, Interval | None] = {}
    struck = [fault for fault in observed.faults if fault.injecting_s is not None]
    replacing = [fault.recovering_s for fault in struck if fault.replaced and fault.recovering_s is not None]
    end_s = min([observed.window.end_s, *replacing])
    victims = {_component(target) for fault in struck for target in fault.targets}
    for lane in by_kind(lanes, "health"):
        answered = lane.info.component in victims
        since_s = None if impact is None else min(impact.lo_s, observed.window.fault_s or impact.lo_s)
        sign = None if since_s is None else _first_sign(lane, since_s, end_s, answered=answered)
        found[source(lane)] = None if impact is None or sign is None else duration(impact, not_before(impact, sign))
    return found


def _first_sign(lane: Lane, since_s: float, end_s: float, *, answered: bool = False) -> Interval | None:
    """When the endpoint first did not say 2xx; `answered`: in an answer, so that silence is no sign."""
    lo_s = since_s
    for probe, mark in zip(lane.track.probes, lane.track.grades, strict=True):
        if probe.end_s < since_s or probe.sent_s > end_s:
            continue
        if mark is Grade.BAD and (not answered or probe.status >= NOT_WELL):
            proven_s = min(probe.end_s, probe.sent_s + lane.track.limits.silence_s)
            return Interval(min(lo_s, proven_s), max(since_s, proven_s))
        lo_s = max(lo_s, probe.sent_s)
    return None


def honesty_gap(observed: Observed, lanes: Sequence[Lane], downs: Sequence[Interruption]) -> dict[str, Interval | None]:
    """By health endpoint, the longest time that it still said 2xx while right answers failed: its own replica's, or the service's."""
    replicas = {lane.info.component: lane for lane in by_kind(lanes, "replica") if lane.info.component}
    found: dict[str, Interval | None] = {}
    since_s, end_s = observed.window.fault_s, observed.window.end_s
    for lane in by_kind(lanes, "health"):
        if since_s is None or not any(
            mark is Grade.GOOD for probe, mark in zip(lane.track.probes, lane.track.grades, strict=True) if probe.sent_s < since_s
        ):
            found[source(lane)] = None
            continue
        asked = replicas.get(lane.info.component)
        ours = [(one.start, one.end) for one in downs] if asked is None else [(o.start, o.end) for o in asked.outages]
        gaps = [_gap(lane, start, end, end_s) for start, end in ours if start.hi_s >= since_s]
        found[source(lane)] = max(gaps, key=lambda gap: gap.hi_s, default=Interval(0.0, 0.0))
    return found


def _gap(lane: Lane, start: Interval, end: Interval | None, end_s: float) -> Interval:
    over = end or Interval(end_s, end_s)
    sign = _first_sign(lane, start.lo_s, over.hi_s)
    return duration(start, over if sign is None else Interval(min(sign.lo_s, over.lo_s), min(sign.hi_s, over.hi_s)))
