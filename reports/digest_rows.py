"""The digest lane in the picture and in words: what model each replica had, and which deviated."""

from typing import Any

from ..drills.finished import FinishedRun
from ..drills.measure.digest_values import HAS, SERVES, Deviation, DigestRow, Digests
from . import figures
from .cleaning import one_line
from .rows import Row, lane_label, place_of, since
from .scales import TimeAxis
from .svg import Drawing, group, percent, tag

_PITCH = 25.0
_MOST_ROWS = 12
_HEIGHTS = {"good": 3.0, "bad": 13.0, "unknown": 13.0}
_MEANS = {HAS: "on disk", SERVES: "served"}
_SHORT = 19  # of a digest: sha256: and twelve digits


def rows(run: FinishedRun, axis: TimeAxis, y: float) -> Row:
    """A strip per replica and kind: thin where it has what it should, a whole block where it has another, hatched where nobody knows."""
    found = run.measurement.digests
    shown = _chosen(found) if found else []
    drawn: list[Drawing] = []
    for number, row in enumerate(shown):
        middle = y + number * _PITCH + 8
        drawn.append(lane_label(f"{row.replica} {_MEANS[row.kind]}", middle))
        for each in row.stretches:
            start, end = max(each.start_s, axis.start_s), min(each.end_s, axis.end_s)
            if end <= start:
                continue
            told = f"{row.replica} {_MEANS[row.kind]}: {_named(each.digest)} from {since(axis, start)} to {since(axis, end)}"
            height = _HEIGHTS[each.state]
            width = percent(axis.x(end) - axis.x(start))
            box: dict[str, str | float] = {"x": place_of(axis, start), "width": width, "y": middle - height / 2, "height": height}
            drawn.append(tag("rect", {**box, "class": f"cell {each.state}"}, tag("title", {}, told)))
    return Row(group("digests", *drawn), _PITCH * len(shown) + (6 if shown else 0))


def _chosen(found: Digests) -> list[DigestRow]:
    """All, or where these are too many those that saw trouble first."""
    if len(found.rows) <= _MOST_ROWS:
        return list(found.rows)
    return sorted(found.rows, key=lambda row: -sum(each.state != "good" for each in row.stretches))[:_MOST_ROWS]


def _named(digest: str) -> str:
    return one_line(digest[:_SHORT], 40) if digest else "unknown"


def in_a_line(run: FinishedRun) -> str:
    """What the lane saw, for text; empty where it was off."""
    found = run.measurement.digests
    if found is None:
        return ""
    kinds = " and ".join(f"{figures.count(number, 'digest')} {_MEANS[kind]}" for kind, number in sorted(found.seen.items()))
    told = [f"{figures.count(len({row.replica for row in found.rows}), 'replica')} had {kinds or 'nothing that could be read'}"]
    told += [f"{each.replica} had another {_MEANS[each.kind]} ({_named(each.digest)})" for each in found.deviations[:4]]
    if found.single_again is not None:
        told.append(f"all the same again after {figures.interval(found.single_again)}")
    elif found.longer_than_s is not None:
        told.append(f"not the same again within {figures.at_most(found.longer_than_s)}")
    if unknown := [f"{row.replica} {_MEANS[row.kind]} {row.unknown} of {row.looks}" for row in found.rows if row.unknown]:
        told.append(f"looks that told nothing: {', '.join(unknown[:6])}")
    return one_line("; ".join(told), 500)


def section(run: FinishedRun, zero_s: float) -> dict[str, Any] | None:
    """Rows and deviations for the page, in seconds since `zero_s`; None where the lane was off."""
    found = run.measurement.digests
    if found is None:
        return None
    return {
        "told": in_a_line(run),
        "reference": [(_MEANS[kind], digest) for kind, digest in sorted(found.reference.items())],
        "rows": [
            {
                "replica": row.replica,
                "kind": _MEANS[row.kind],
                "looks": row.looks,
                "unknown": row.unknown,
                "gap": figures.latency(row.longest_gap_s),
                "digests": figures.count(len({each.digest for each in row.stretches if each.digest}), "digest"),
            }
            for row in found.rows
        ],
        "deviations": [_deviation(each, zero_s) for each in found.deviations],
        "mixed": found.mixed,
    }


def _deviation(each: Deviation, zero_s: float) -> dict[str, Any]:
    return {
        "replica": each.replica,
        "kind": _MEANS[each.kind],
        "digest": each.digest,
        "since": f"{figures.signed(each.since.middle_s - zero_s)} ± {figures.latency(each.since.width_s / 2)}",
        "differs": ", ".join(one_line(name, 80) for name in each.what) or "not known",
    }
