"""The picture of a drill: one time axis for phases, faults, every answer, every lane, and what was noticed when.

Places along the time axis are percentages, so that one drawing fits a wide screen, a phone and a sheet of paper; heights are
pixels. Signs are told apart by shape first, by colour second.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..drills.finished import FinishedRun
from ..drills.measure.anatomy import struck
from ..drills.measure.values import LaneReport, Probe
from . import digest_rows, rows
from .exposure import USER_KINDS
from .scales import TimeAxis
from .strips import Cell, strip
from .svg import Drawing, tag
from .thinning import marks

DOT_KINDS = (*USER_KINDS, "stream")
STRIP_ORDER = ("semantic", "workload", "stream", "fresh", "reuse", "replica", "health", "ledger")
MOST_MARKS = 2000
_MOST_STRIPS = 14
_STRIP_MARKS = 500
_CLOSE_UP_BELOW = 1 / 10  # an interruption shorter than this part of the drill gets a picture of its own
_ROOM_FOR_MARK = 0.45  # the line of the missed objective is drawn if it lies at most this part of the drill beyond its end


@dataclass(frozen=True)
class Picture:
    """A drawing with what its caption must say. `beyond_s`: the objective's line lies outside, so long after impact."""

    drawing: Drawing
    axis: TimeAxis
    zero: str
    marks: int
    answers: int
    merged: bool
    beyond_s: float | None


def pictures(run: FinishedRun) -> list[Picture]:
    """The whole drill and, where the interruption would be too small to see in it, that alone. At most 2,000 marks in all."""
    if not run.probes:
        return []
    by_lane: dict[str, list[Probe]] = defaultdict(list)
    for probe in run.probes:
        by_lane[probe.lane].append(probe)
    whole, near = _whole(run), _close_up(run)
    if near is None:
        return [_picture(run, by_lane, whole, MOST_MARKS - _STRIP_MARKS)]
    share = (MOST_MARKS - _STRIP_MARKS) // 2
    return [_picture(run, by_lane, axis, share) for axis in (whole, near)]


def zero(run: FinishedRun) -> tuple[float, str]:
    """What times are told from: the impact, else the fault, else the drill's start."""
    if run.measurement.recovery.impact is not None:
        return run.measurement.recovery.impact.middle_s, "impact"
    moment = struck(run.faults)
    return (moment.middle_s, "the fault") if moment else (0.0, "the drill's start")


def missed_at(run: FinishedRun) -> float | None:
    """The moment from which the recovery would have missed its objective."""
    impact = run.measurement.recovery.impact
    rto = next((judged for judged in run.judgement.objectives if judged.name == "rto"), None)
    return None if impact is None or rto is None else impact.lo_s + rto.target


def _whole(run: FinishedRun) -> TimeAxis:
    start = min(run.measurement.baseline.start_s, run.probes[0].sent_s)
    end = max(run.ended_s, run.probes[-1].sent_s, start + 1)
    line = missed_at(run)
    if line is not None and end < line <= end + (end - start) * _ROOM_FOR_MARK:
        end = line + (line - start) * 0.02
    return TimeAxis(start, end, zero(run)[0], datetime.fromisoformat(run.started_wall))


def _close_up(run: FinishedRun) -> TimeAxis | None:
    recovery, whole = run.measurement.recovery, _whole(run)
    if recovery.impact is None or recovery.recovered is None:
        return None
    length = recovery.recovered.hi_s - recovery.impact.lo_s
    if length > whole.span_s * _CLOSE_UP_BELOW:
        return None
    start = max(whole.start_s, recovery.impact.lo_s - 0.5 * length - 0.2)
    return TimeAxis(start, min(whole.end_s, recovery.recovered.hi_s + 1.2 * length + 0.2), whole.zero_s, whole.wall)


def _picture(run: FinishedRun, by_lane: dict[str, list[Probe]], axis: TimeAxis, most: int) -> Picture:
    window = (axis.start_s, min(axis.end_s, max(run.ended_s, run.probes[-1].sent_s)))
    reports = {lane.info.name: lane for lane in run.measurement.lanes}
    dotted = {name: lane for name, lane in reports.items() if lane.info.kind in DOT_KINDS}
    found = marks(run.probes, dotted, window, most)
    strips = _strips(_chosen(list(reports.values())), by_lane, window)
    line = missed_at(run)
    blocks: list[Callable[[float], rows.Row]] = [
        lambda y: rows.wall_axis(axis, y),
        lambda y: rows.phases(run, axis, y),
        lambda y: rows.faults(run, axis, y),
        lambda y: rows.answers(run, axis, found, y),
        lambda y: rows.lanes(axis, strips, window[1], y),
        lambda y: digest_rows.rows(run, axis, y),
        lambda y: rows.detections(run, axis, y),
    ]
    drawn, y = [], 0.0
    for block in blocks:
        row = block(y)
        drawn.append(row.drawing)
        y += row.height
    behind = rows.backdrop(run, axis, y, line)
    drawing = _frame(run, axis, Drawing("\n".join([behind, *drawn, rows.zero_axis(axis, y).drawing])), y + rows.AXIS_HEIGHT)
    cells = sum(len(cells) for _, cells in strips)
    answers = sum(mark.number for mark in found)
    merged = any(mark.number > 1 for mark in found) or answers < sum(len(by_lane[name]) for name in dotted if name in by_lane)
    beyond = line - axis.zero_s if line is not None and not axis.holds(line) else None
    return Picture(drawing, axis, zero(run)[1], len(found) + cells, answers, merged, beyond)


def _chosen(reports: list[LaneReport]) -> list[LaneReport]:
    """Lanes worth a strip, users' first; too many replicas: those that saw trouble."""
    known = [lane for lane in reports if lane.info.kind in STRIP_ORDER]
    if len(known) > _MOST_STRIPS:
        known = sorted(known, key=lambda lane: -lane.bad)[:_MOST_STRIPS]
    return sorted(known, key=lambda lane: (STRIP_ORDER.index(lane.info.kind), lane.info.name))


def _strips(
    chosen: list[LaneReport], by_lane: dict[str, list[Probe]], window: tuple[float, float]
) -> list[tuple[LaneReport, list[Cell]]]:
    """Strips as fine as the budget of marks allows."""
    fineness = 320
    while True:
        found = [(lane, strip(lane, by_lane[lane.info.name], window, fineness)) for lane in chosen]
        if sum(len(cells) for _, cells in found) <= _STRIP_MARKS // 2 or fineness <= _MOST_STRIPS:
            return found
        fineness //= 2


def _frame(run: FinishedRun, axis: TimeAxis, inner: Drawing, height: float) -> Drawing:
    told = f"Every answer of the drill over time, in seconds since {zero(run)[1]}. The tables below give the same figures."
    attributes: dict[str, str | float] = {
        "class": "picture",
        "width": "100%",
        "height": height,
        "role": "img",
        "aria-label": told,
        # What the reader's pointer is translated with; the page is whole without it.
        "data-start": f"{axis.start_s:.6f}",
        "data-end": f"{axis.end_s:.6f}",
        "data-zero": f"{axis.zero_s:.6f}",
        "data-wall": f"{axis.wall.timestamp():.3f}",
    }
    return tag("svg", attributes, inner)


def symbols() -> Drawing:
    """The signs, defined once for the page."""
    paths: Sequence[tuple[str, str]] = (
        ("failed", "M-3.2-3.2 3.2 3.2M-3.2 3.2 3.2-3.2"),
        ("wrong", "M0-4.6 4.6 0 0 4.6-4.6 0Z"),
        ("cut", "M-4.2-3.6H4.2L0 4.2Z"),
        ("slow", "M-3.1 0a3.1 3.1 0 1 0 6.2 0a3.1 3.1 0 1 0-6.2 0"),
        ("void", "M0-4V4"),
    )
    shapes = [tag("path", {"id": f"s-{name}", "d": d, "class": f"sign {name}"}) for name, d in paths]
    line = tag("path", {"d": "M0 8 8 0M-2 2 2-2M6 10 10 6", "class": "hatch-line"})
    hatch = tag("pattern", {"id": "hatch", "width": 8.0, "height": 8.0, "patternUnits": "userSpaceOnUse"}, line)
    defs = tag("defs", {}, *shapes, hatch)
    return tag("svg", {"width": 0.0, "height": 0.0, "class": "symbols", "aria-hidden": "true"}, defs)
