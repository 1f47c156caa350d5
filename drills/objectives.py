"""Each objective of a scenario held against what was measured. What could not be measured never passes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

from .measure.lanes import given_up_after_s
from .measure.values import DataLoss, Interval, Measurement, Range, Recovery, format_interval, noticed_by
from .scenario import Bound, Scenario

ENOUGH_WRITES = 10


class Verdict(StrEnum):
    """What a drill showed. The worst wins."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ABORTED = "aborted"
    INTERNAL = "internal"
    DIRTY = "dirty"


@dataclass(frozen=True)
class Judged:
    """One objective held against what was measured. `value` is an interval in seconds, a range of counts or a plain number, by `unit`."""

    name: str  # rto, rpo, quality_loss, availability, time_to_detect, streams_cut, stream_gap
    target: float
    relation: str  # <= or >=, <, >
    unit: str  # s, count, share
    measured: str  # the name of the measurement: recovery_time, data_loss, ...
    value: Interval | Range | float | None
    verdict: Verdict
    text: str
    censored: bool = False  # value is a lower bound only: "> x s"


def objectives(scenario: Scenario, found: Measurement) -> list[Judged]:
    """Each objective that the scenario has, held against what was measured."""
    judges: dict[str, Callable[[Measurement, Any], Judged]] = {
        "rto": _rto,
        "rpo": _rpo,
        "quality_loss": _quality_loss,
        "availability": _availability,
        "time_to_detect": _time_to_detect,
        "time_to_redundancy": _time_to_redundancy,
        "streams_cut": _streams_cut,
        "stream_gap": _stream_gap,
        "time_to_single_digest": _time_to_single_digest,
        "mixed_answers": _mixed_answers,
    }
    wanted = {name: getattr(scenario.objectives, name) for name in judges}
    return [
        judges[name](found, value.total_seconds() if isinstance(value, timedelta) else value)
        for name, value in wanted.items()
        if value is not None
    ]


def _held_against(value: Interval, target_s: float) -> Verdict:
    if value.hi_s <= target_s:
        return Verdict.PASSED
    return Verdict.FAILED if value.lo_s > target_s else Verdict.INCONCLUSIVE


def _not_had(one: Judged, found: Measurement, figure: str) -> Judged:
    why = found.missing.get(figure, "it could not be measured")
    return replace(one, value=None, verdict=Verdict.INCONCLUSIVE, text=f"{one.text} is not known: {why}.")


def _rto(found: Measurement, target_s: float) -> Judged:
    one = Judged("rto", target_s, "<=", "s", "recovery_time", None, Verdict.INCONCLUSIVE, "The recovery time")
    recovery, allowed = found.recovery, f"up to {target_s:g} s were allowed"
    if recovery.censored_after_s is not None:
        return _not_recovered(one, recovery, recovery.censored_after_s)
    if recovery.recovery_time is not None:
        verdict = _held_against(recovery.recovery_time, target_s)
        straddles = " (the interval straddles the target)" if verdict is Verdict.INCONCLUSIVE else ""
        text = f"Users were interrupted for {format_interval(recovery.recovery_time)}; {allowed}{straddles}."
        return replace(one, value=recovery.recovery_time, verdict=verdict, text=text)
    uninterrupted = recovery.impact is None and (recovery.masked or recovery.degraded_s > 0)
    if not uninterrupted:
        return _not_had(one, found, "recovery_time")
    value = Interval(0.0, recovery.longest_gap_s)
    text = f"No interruption longer than {recovery.longest_gap_s:.2g} s was seen; {allowed}"
    text += f"; for {recovery.degraded_s:.1f} s a part of the answers was bad" if recovery.degraded_s else ""
    if value.hi_s > target_s:
        return replace(one, value=value, text=f"{text}, and a shorter one could have gone unseen between two probes.")
    return replace(one, value=value, verdict=Verdict.PASSED, text=f"{text}.")


def _not_recovered(one: Judged, recovery: Recovery, least_s: float) -> Judged:
    after_undo = "; it came back only after the fault was undone" if recovery.recovered is not None else ""
    text = f"Not recovered: users were interrupted for more than {least_s:.1f} s{after_undo}; up to {one.target:g} s were allowed"
    one = replace(one, value=Interval(least_s, least_s), censored=True)
    if recovery.revived:
        return replace(one, verdict=Verdict.FAILED, text=f"{text}, and nothing but the undo started it again.")
    if least_s <= one.target:
        told = "let `observe` be longer, or `settle` where answers that came by chance passed for a recovery"
        return replace(one, text=f"{text}, so watching ended before this could be judged: {told}.")
    return replace(one, verdict=Verdict.FAILED, text=f"{text}.")


def _rpo(found: Measurement, target_s: float) -> Judged:
    one = Judged("rpo", target_s, "<=", "s", "data_loss", None, Verdict.INCONCLUSIVE, "Data loss")
    loss = found.data_loss
    if loss is None:
        return _not_had(one, found, "data_loss")
    gone = loss.lost + loss.corrupt
    if not gone:
        return _nothing_lost(one, loss)
    count = f"{gone} of {loss.acknowledged} acknowledged writes were lost" + (
        f", {loss.corrupt} of them corrupt" if loss.corrupt else ""
    )
    if loss.oldest_lost is None:
        verdict = Verdict.FAILED if target_s == 0 else Verdict.INCONCLUSIVE
        return replace(one, verdict=verdict, text=f"{count}; how old the oldest was is not known, since no fault was proven.")
    verdict = Verdict.FAILED if target_s == 0 else _held_against(loss.oldest_lost, target_s)
    text = f"{count}, the oldest {format_interval(loss.oldest_lost)} before the fault; {_may_be_lost(target_s)}"
    if verdict is Verdict.INCONCLUSIVE:
        text += " (the interval straddles the target)"
    elif verdict is Verdict.PASSED and (why := _why_unsure(loss)):
        verdict, text = Verdict.INCONCLUSIVE, f"{text}, but {why}"
    return replace(one, value=loss.oldest_lost, verdict=verdict, text=f"{text}.")


def _nothing_lost(one: Judged, loss: DataLoss) -> Judged:
    text = f"None of {loss.acknowledged} acknowledged writes was seen lost; {_may_be_lost(one.target)}"
    if why := _why_unsure(loss):
        return replace(one, value=None, text=f"{text}, but {why}.")
    return replace(one, value=0.0, verdict=Verdict.PASSED, text=f"{text}.")


def _may_be_lost(target_s: float) -> str:
    return f"up to {target_s:g} s may be lost" if target_s else "none may be lost"


def _why_unsure(loss: DataLoss) -> str:
    if loss.unread:
        return f"{loss.unread} could not be read back"
    if loss.before_fault < ENOUGH_WRITES:
        return f"only {loss.before_fault} were acknowledged shortly before the fault, {ENOUGH_WRITES} are needed"
    if loss.reaches_back:
        return "nothing older survived, so the loss may reach back further than the ledger"
    return ""


def _quality_loss(found: Measurement, most: int) -> Judged:
    one = Judged("quality_loss", most, "<=", "count", "quality_loss", None, Verdict.INCONCLUSIVE, "Quality loss")
    loss = found.quality_loss
    if loss is None:
        return _not_had(one, found, "quality_loss")
    if loss.wrong_answers > most:
        text = f"{loss.wrong_answers} of {loss.checked} answers were wrong though served as right; {most} may be."
        return replace(one, value=float(loss.wrong_answers), verdict=Verdict.FAILED, text=text)
    if not loss.checked:
        return replace(one, text="Quality loss is not known: no answer came after the fault, so none could be checked.")
    text = f"{loss.wrong_answers} of {loss.checked} answers were wrong; {most} may be."
    return replace(one, value=float(loss.wrong_answers), verdict=Verdict.PASSED, text=text)


def _availability(found: Measurement, bound: Bound) -> Judged:
    one = Judged("availability", bound.limit, bound.relation, "share", "availability", None, Verdict.INCONCLUSIVE, "Availability")
    seen = found.availability
    if seen is None:
        return _not_had(one, found, "availability")
    text = f"{seen.requests:.2%} of {seen.requests_total} requests were answered right; {bound.relation} {bound.limit:.4g} is demanded"
    needed = 1 / (1 - bound.limit) if bound.limit < 1 else 1
    bad = (1 - seen.requests) * seen.requests_total
    if seen.requests_total >= needed or bad > (1 - bound.limit) * needed + 1e-9:
        verdict = Verdict.PASSED if bound.holds(seen.requests) else Verdict.FAILED
        return replace(one, value=seen.requests, verdict=verdict, text=f"{text}.")
    return replace(one, value=seen.requests, text=f"{text}, which takes at least {needed:.0f} requests to tell.")


def _time_to_detect(found: Measurement, target_s: float) -> Judged:
    one = Judged("time_to_detect", target_s, "<=", "s", "time_to_detect", None, Verdict.INCONCLUSIVE, "The time to detect")
    if not found.time_to_detect:
        return _not_had(one, found, "time_to_detect")
    if found.recovery.impact is None:
        if found.recovery.masked:
            return replace(one, verdict=Verdict.PASSED, text="There was nothing to detect: users saw no interruption.")
        return replace(one, text="The time to detect is not known: it counts from an interruption, and none was seen.")
    seen = {source: gap for source, gap in found.time_to_detect.items() if gap is not None}
    if not seen:
        return replace(
            one,
            verdict=Verdict.FAILED,
            text=f"Not detected by {', '.join(map(noticed_by, found.time_to_detect))}; {target_s:g} s were allowed.",
        )
    first = min(seen, key=lambda source: seen[source].hi_s)
    value = Interval(min(gap.lo_s for gap in seen.values()), seen[first].hi_s)
    verdict = _held_against(value, target_s)
    straddles = " (the interval straddles the target)" if verdict is Verdict.INCONCLUSIVE else ""
    return replace(
        one,
        value=value,
        verdict=verdict,
        text=f"{noticed_by(first)} noticed after {format_interval(value)}; {target_s:g} s were allowed{straddles}.",
    )


def _time_to_redundancy(found: Measurement, target_s: float) -> Judged:
    one = Judged(
        "time_to_redundancy", target_s, "<=", "s", "time_to_redundancy", None, Verdict.INCONCLUSIVE, "The time to redundancy"
    )
    seen, allowed = found.recovery, f"{target_s:g} s were allowed"
    if seen.redundancy is not None:
        verdict = _held_against(seen.redundancy, target_s)
        straddles = " (the interval straddles the target)" if verdict is Verdict.INCONCLUSIVE else ""
        text = f"Every replica answered again {format_interval(seen.redundancy)} after the fault; {allowed}{straddles}."
        return replace(one, value=seen.redundancy, verdict=verdict, text=text)
    least_s = seen.not_redundant_s
    if least_s is None or least_s <= target_s:
        return _not_had(one, found, "time_to_redundancy")
    text = f"A replica was still missing {least_s:.1f} s after the fault; {allowed}."
    return replace(one, value=Interval(least_s, least_s), censored=True, verdict=Verdict.FAILED, text=text)


def _streams_cut(found: Measurement, most: int) -> Judged:
    one = Judged("streams_cut", most, "<=", "count", "streams", None, Verdict.INCONCLUSIVE, "The number of streams cut")
    seen = found.streams
    if seen is None:
        return _not_had(one, found, "streams")
    if not seen.opened:
        return replace(one, text="The number of streams cut is not known: no stream was open after the fault.")
    one = replace(one, value=float(seen.cut), text=f"{seen.cut} of {seen.opened} streams were cut; {most} may be.")
    if seen.cut > most:
        return replace(one, verdict=Verdict.FAILED)
    if seen.at_stake == 0:
        return replace(one, text=f"{one.text} But none was open on a target when it was hit, so none could be: let more be open.")
    return replace(one, verdict=Verdict.PASSED)


def _stream_gap(found: Measurement, target_s: float) -> Judged:
    one = Judged("stream_gap", target_s, "<=", "s", "streams", None, Verdict.INCONCLUSIVE, "The longest silence in a stream")
    seen = found.streams
    if seen is None:
        return _not_had(one, found, "streams")
    if not seen.opened:
        return replace(one, text=f"{one.text} is not known: no stream was open after the fault.")
    gap_s, given_up = seen.longest_gap_s, seen.longest_gap_s >= given_up_after_s(target_s)
    more = "more than " if given_up else ""
    text = f"{one.text} was {more}{gap_s:.2g} s, of {seen.opened} that were open; {one.target:g} s were allowed."
    one = replace(one, value=Interval(gap_s, gap_s), censored=given_up, text=text)
    if gap_s > one.target:
        return replace(one, verdict=Verdict.FAILED)
    if seen.at_stake is None:
        return replace(
            one, text=f"{text} But no answer says of which replica it is, so perhaps none was on a target (x-served-by)."
        )
    if seen.at_stake == 0:
        return replace(
            one, text=f"{text} But none was open on a target when it was hit, so none could fall silent: let more be open."
        )
    return replace(one, verdict=Verdict.PASSED)


def _time_to_single_digest(found: Measurement, target_s: float) -> Judged:
    name = "time_to_single_digest"
    one = Judged(name, target_s, "<=", "s", name, None, Verdict.INCONCLUSIVE, "The time to a single digest")
    seen, allowed = found.digests, f"{target_s:g} s were allowed"
    if seen is None or seen.skew is None:
        return _not_had(one, found, name)
    if seen.single_again is not None:
        verdict = _held_against(seen.single_again, target_s)
        straddles = " (the interval straddles the target)" if verdict is Verdict.INCONCLUSIVE else ""
        text = f"Replicas had different models for {format_interval(seen.single_again)}; {allowed}{straddles}."
        return replace(one, value=seen.single_again, verdict=verdict, text=text)
    least_s = seen.longer_than_s or 0.0
    one = replace(one, value=Interval(least_s, least_s), censored=True)
    text = f"Replicas still had different models after {least_s:.1f} s, when watching ended or the fault was undone; {allowed}"
    if least_s <= target_s:
        return replace(one, text=f"{text}, so this could not be judged: let `observe` be longer.")
    return replace(one, verdict=Verdict.FAILED, text=f"{text}.")


def _mixed_answers(found: Measurement, most: int) -> Judged:
    one = Judged("mixed_answers", most, "<=", "count", "mixed_answers", None, Verdict.INCONCLUSIVE, "The number of mixed answers")
    seen = found.digests.mixed if found.digests else None
    if seen is None:
        return _not_had(one, found, "mixed_answers")
    if not seen.answers:
        return replace(one, text=f"{one.text} is not known: no answer came while replicas had different models.")
    number = Range(seen.lo, seen.hi)
    one = replace(one, value=number)
    text = f"{number} of {seen.answers} answers came from a replica with another model than it should have; {most} may"
    if number.lo > most:
        return replace(one, verdict=Verdict.FAILED, text=f"{text}.")
    if number.hi > most:
        better = "say `model.served` in the service file, or let `digest.every` be shorter"
        return replace(one, text=f"{text}, and it is not known better: {better}.")
    return replace(one, verdict=Verdict.PASSED, text=f"{text}.")
