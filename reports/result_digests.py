"""What result.json says of the digest lane."""

from typing import Any

from ..drills.finished import FinishedRun
from ..drills.measure.values import Interval

_DIGITS = 6


def measured_digests(run: FinishedRun) -> dict[str, Any]:
    """Its figures; none where the lane was off."""
    found = run.measurement.digests
    if found is None:
        return {}
    single = found.single_again
    time: dict[str, Any] | None = None
    if single is not None:
        time = {"lo_s": _number(single.lo_s), "hi_s": _number(single.hi_s), "censored": False}
    elif found.longer_than_s is not None:
        time = {"lo_s": _number(found.longer_than_s), "hi_s": None, "censored": True}
    mixed = found.mixed
    return {
        "time_to_single_digest": time,
        "mixed_answers": None if mixed is None else {"answers": mixed.answers, "lo": mixed.lo, "hi": mixed.hi},
    }


def told_digests(run: FinishedRun) -> dict[str, Any] | None:
    """What each replica had, and which deviated; None where the lane was off."""
    found = run.measurement.digests
    if found is None:
        return None
    skew = found.skew
    return {
        "reference": dict(found.reference),
        "seen": dict(found.seen),
        "skew": None if skew is None else {"start_s": _moment(skew[0]), "end_s": _moment(skew[1])},
        "replicas": [
            {
                "kind": row.kind,
                "replica": row.replica,
                "looks": row.looks,
                "unknown": row.unknown,
                "longest_gap_s": _number(row.longest_gap_s),
                "stretches": [
                    {"state": each.state, "digest": each.digest, "start_s": _number(each.start_s), "end_s": _number(each.end_s)}
                    for each in row.stretches
                ],
            }
            for row in found.rows
        ],
        "deviations": [
            {
                "kind": each.kind,
                "replica": each.replica,
                "digest": each.digest,
                "since_s": _moment(each.since),
                "differs": list(each.what),
            }
            for each in found.deviations
        ],
    }


def _number(value: float) -> float:
    return round(value, _DIGITS)


def _moment(moment: Interval | None) -> list[float] | None:
    return None if moment is None else [_number(moment.lo_s), _number(moment.hi_s)]
