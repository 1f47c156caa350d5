"""The rows of the picture, top to bottom. Each is drawn at a height `y` and says how much of it it took."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from ..drills.finished import FinishedRun, InjectedFault
from ..drills.measure.values import Interval, LaneReport
from . import figures
from .cleaning import one_line
from .dots import dots
from .scales import LogScale, TimeAxis
from .strips import Cell
from .svg import Drawing, group, percent, tag
from .thinning import Mark

AXIS_HEIGHT = 44.0
_PLOT = 236.0
_BRACKET = 34.0
_PITCH = 25.0
_FAULT_PITCH = 29.0
_MOST_FAULTS = 6
# Widths of a letter and of the plot on a desk and on a phone, in pixels: a label that would not fit its box is left out.
_LETTER, _WIDE, _NARROW = 6.4, 880.0, 300.0


class Row(NamedTuple):
    """A finished row."""

    drawing: Drawing
    height: float


def wall_axis(axis: TimeAxis, y: float) -> Row:
    """Wall times at round moments, in the drill's zone; a script may rewrite them in the reader's."""
    drawn = []
    for number, (at_s, moment) in enumerate(axis.wall_ticks()):
        # The zone's name stands left of the axis: a label close to an edge must neither cover it nor be cut.
        place = axis.x(at_s)
        kind = "wall start" if place < 4 else "wall end" if place > 96 else "wall"
        kind += " odd" if number % 2 else ""
        label = tag(
            "text",
            {"x": place_of(axis, at_s), "y": y + 12, "class": kind, "data-epoch": moment.timestamp()},
            f"{moment:%H:%M:%S}",
        )
        drawn += [label, tag("line", {**_vertical(axis, at_s, y + 16, y + 20), "class": "tick"})]
    zone = tag("text", {"x": "0", "y": y + 12, "class": "lane-label", "data-zone": "1"}, zone_name(axis.wall))
    return Row(group("wall-axis", zone, *drawn), 24)


def zone_name(moment: datetime) -> str:
    """`UTC` or `UTC+08:00`."""
    offset = moment.utcoffset() or timedelta(0)
    minutes = int(offset.total_seconds() // 60)
    return f"UTC{'+' if minutes > 0 else figures.MINUS}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}" if minutes else "UTC"


def zero_axis(axis: TimeAxis, y: float) -> Row:
    """Seconds since impact at the foot of the picture."""
    drawn = [tag("line", {"x1": "0%", "x2": "100%", "y1": y, "y2": y, "class": "axis"})]
    for number, (at_s, label) in enumerate(axis.ticks()):
        kind = "since odd" if number % 2 and label != "0" else "since"
        drawn.append(tag("line", {**_vertical(axis, at_s, y, y + 5), "class": "tick"}))
        drawn.append(tag("text", {"x": place_of(axis, at_s), "y": y + 18, "class": kind}, label))
    return Row(group("zero-axis", *drawn), AXIS_HEIGHT)


def phases(run: FinishedRun, axis: TimeAxis, y: float) -> Row:
    """What the drill was doing: baseline, waiting for its random moment, fault and recovery, settling."""
    measurement = run.measurement
    injected = min((fault.injecting_s for fault in run.faults if fault.injecting_s is not None), default=None)
    recovered = measurement.recovery.recovered
    edges = [("baseline", measurement.baseline.start_s)]
    if injected is not None:
        edges += [("random wait", measurement.baseline.end_s), ("fault and recovery", injected)]
    if recovered is not None:
        edges.append(("settling", recovered.hi_s))
    elif measurement.recovery.masked and injected is not None:
        edges[-1] = ("fault, masked", injected)
    drawn = [
        _box(axis, (start, end), y, f"phase phase-{number % 2}", label)
        for number, ((label, start), end) in enumerate(zip(edges, [e for _, e in edges[1:]] + [run.ended_s], strict=True))
        if end > axis.start_s and start < axis.end_s and end > start
    ]
    if axis.end_s > run.ended_s + 0.01 * axis.span_s:
        drawn.append(_box(axis, (run.ended_s, axis.end_s), y, "phase unwatched", "not watched"))
    return Row(group("phases", lane_label("phases", y + 10), *drawn), 34)


def _box(axis: TimeAxis, span: tuple[float, float], y: float, kind: str, label: str) -> Drawing:
    left, right = axis.x(span[0]), axis.x(span[1])
    need, width = len(label) * _LETTER + 10, (right - left) / 100
    box = tag("rect", {"width": "100%", "height": 19.0})
    inner = [box]
    if width * _WIDE >= need:
        inner.append(tag("text", {"x": 6.0, "y": 13.5, "class": "in-box" if width * _NARROW >= need else "in-box odd"}, label))
    place: dict[str, str | float] = {"x": percent(left), "y": y, "width": percent(right - left), "height": 19.0, "class": kind}
    return tag("svg", place, *inner)


def faults(run: FinishedRun, axis: TimeAxis, y: float) -> Row:
    """Each fault's window: injected, proven, undone."""
    drawn: list[Drawing] = []
    shown = [fault for fault in run.faults if fault.injecting_s is not None]
    for number, fault in enumerate(shown[:_MOST_FAULTS]):
        drawn += _fault(run, axis, fault, y + number * _FAULT_PITCH)
    if len(shown) > _MOST_FAULTS:
        drawn.append(lane_label(f"+ {len(shown) - _MOST_FAULTS} more", y + _MOST_FAULTS * _FAULT_PITCH + 10))
    return Row(group("faults", *drawn), _FAULT_PITCH * min(len(shown), _MOST_FAULTS + 1) + (4 if shown else 0))


def _fault(run: FinishedRun, axis: TimeAxis, fault: InjectedFault, y: float) -> list[Drawing]:
    begin = fault.injecting_s or 0.0
    end = fault.undone[1] if fault.undone else run.ended_s
    left, right = axis.x(begin), axis.x(end)
    kind = "fault-bar" if fault.undone else "fault-bar open"
    drawn = [
        lane_label(fault.kind, y + 9),
        tag("rect", {"x": percent(left), "y": y + 4, "width": percent(max(0.15, right - left)), "height": 9.0, "class": kind}),
    ]
    moments = [("injected", begin, "M-4.5-8H4.5L0 0Z")]
    if fault.effective:
        moments.append(("proven to be in effect", sum(fault.effective) / 2, "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0"))
    if fault.undone:
        proof = "undone, proven" if fault.undo_verified else "undone, not proven"
        moments.append((proof, sum(fault.undone) / 2, "M-4-4H4V4H-4Z"))
    for name, at_s, path in moments:
        if axis.holds(at_s):
            title = tag("title", {}, f"{fault.kind} {name}: {since(axis, at_s)}")
            shape = tag("path", {"d": path, "class": f"moment {name.split()[0].rstrip(',')}"}, title)
            drop = 4.0 if name == "injected" else 8.5
            drawn.append(tag("svg", {"x": place_of(axis, at_s), "y": y + drop, "class": "at"}, shape))
    return drawn


def answers(run: FinishedRun, axis: TimeAxis, found: Sequence[Mark], y: float) -> Row:
    """Every answer at its moment and latency, below the bracket from impact to recovery."""
    top, bottom = y + _BRACKET, y + _BRACKET + _PLOT
    scale = LogScale.over([mark.latency_s for mark in found], bottom - 8, top + 6)
    decades = [(scale.y(value), figures.latency(value).replace(".0 ms", " ms").replace(".00", "")) for value in scale.decades()]
    lines = [tag("line", {"x1": "0%", "x2": "100%", "y1": place, "y2": place, "class": "grid"}) for place, _ in decades]
    labels = [tag("text", {"x": "0", "y": place, "class": "y-label"}, told) for place, told in decades]
    return Row(
        group("answers", *lines, *_bracket(run, axis, y + 22, bottom), dots(axis, scale, found), *labels), _BRACKET + _PLOT + 12
    )


def _bracket(run: FinishedRun, axis: TimeAxis, y: float, bottom: float) -> list[Drawing]:
    recovery = run.measurement.recovery
    if recovery.impact is None:
        return []
    end = recovery.recovered.middle_s if recovery.recovered else run.ended_s
    left, right = axis.x(recovery.impact.middle_s), axis.x(end)
    if recovery.recovery_time is not None:
        told = figures.interval(recovery.recovery_time)
    elif recovery.censored_after_s is not None:
        why = "back only after the undo" if recovery.recovered else "not recovered"
        told = f"> {figures.at_least(recovery.censored_after_s)}, {why}"
    else:
        told = "length not known"
    drawn = [
        tag("rect", {"x": percent(left), "y": y, "width": percent(right - left), "height": bottom - y, "class": "interruption"}),
        *(_doubt(axis, moment, y) for moment in (recovery.impact, recovery.recovered) if moment is not None),
        tag("line", {"x1": percent(left), "x2": percent(right), "y1": y, "y2": y, "class": "bracket"}),
        tag("line", {**_vertical(axis, recovery.impact.middle_s, y, bottom), "class": "bracket edge"}),
    ]
    if recovery.recovered is not None:
        drawn.append(tag("line", {**_vertical(axis, end, y, bottom), "class": "bracket edge"}))
    middle = (left + right) / 2
    anchor = "start" if middle < 18 else "end" if middle > 82 else "middle"
    place = {"start": left, "end": right, "middle": middle}[anchor]
    drawn.append(tag("text", {"x": percent(place), "y": y - 7, "class": f"length {anchor}"}, told))
    return drawn


def _doubt(axis: TimeAxis, moment: Interval, y: float) -> Drawing:
    """Between which bounds an end of the bracket lies."""
    width = axis.x(moment.hi_s) - axis.x(moment.lo_s)
    return tag("rect", {"x": place_of(axis, moment.lo_s), "y": y - 3, "width": percent(width), "height": 6.0, "class": "doubt"})


def lanes(axis: TimeAxis, strips: Sequence[tuple[LaneReport, list[Cell]]], until_s: float, y: float) -> Row:
    """A strip per lane. Good is a thin line, slow a half, bad a whole block; unknown is hatched."""
    heights = {"good": 3.0, "slow": 7.0, "bad": 13.0, "unknown": 13.0}
    drawn: list[Drawing] = []
    for number, (lane, cells) in enumerate(strips):
        middle = y + number * _PITCH + 8
        drawn.append(lane_label(_lane_name(lane), middle))
        for cell in cells:
            height = heights[cell.state]
            end = min(cell.end_s, until_s)
            place: dict[str, str | float] = {
                "x": place_of(axis, cell.start_s),
                "width": percent(axis.x(end) - axis.x(cell.start_s)),
            }
            told = f"{lane.info.name}: {cell.state} from {since(axis, cell.start_s)} to {since(axis, end)}"
            box: dict[str, str | float] = {**place, "y": middle - height / 2, "height": height, "class": f"cell {cell.state}"}
            drawn.append(tag("rect", box, tag("title", {}, told)))
    return Row(group("lanes", *drawn), _PITCH * len(strips) + (6 if strips else 0))


def detections(run: FinishedRun, axis: TimeAxis, y: float) -> Row:
    """From impact to the moment that each source noticed; those that never did share a row."""
    impact = run.measurement.recovery.impact
    if impact is None or not run.measurement.time_to_detect:
        return Row(Drawing(""), 0)
    noticed = [(gap, source) for source, gap in run.measurement.time_to_detect.items() if gap is not None]
    noticed.sort(key=lambda item: item[0].middle_s)
    blind = sorted(source for source, gap in run.measurement.time_to_detect.items() if gap is None)
    drawn: list[Drawing] = []
    for number, (gap, source) in enumerate(noticed[:_MOST_FAULTS]):
        middle, at_s = y + number * _PITCH + 8, impact.middle_s + gap.middle_s
        line: dict[str, str | float] = {
            "x1": place_of(axis, impact.middle_s),
            "x2": place_of(axis, at_s),
            "y1": middle,
            "y2": middle,
        }
        drawn += [lane_label(source, middle), tag("line", {**line, "class": "noticing"})]
        if axis.holds(at_s):
            drawn.append(tag("circle", {"cx": place_of(axis, at_s), "cy": middle, "r": 4.5, "class": "noticed"}))
        right = axis.x(at_s) > 70  # percent: the text goes where there is room for it
        place: dict[str, str | float] = {"x": place_of(axis, at_s), "y": middle + (-7 if right else 4)}
        drawn.append(
            tag("text", {**place, "class": f"told {'end' if right else 'start'}"}, f"noticed after {figures.interval(gap)}")
        )
    rows = min(len(noticed), _MOST_FAULTS) + bool(blind)
    if blind:
        middle = y + (rows - 1) * _PITCH + 8
        told = one_line(", ".join(blind), 40 if noticed else 60)
        drawn += [lane_label("never noticed", middle), tag("text", {"x": "0", "y": middle + 4, "class": "blind"}, told)]
    return Row(group("detections", *drawn), _PITCH * rows + 6)


def backdrop(run: FinishedRun, axis: TimeAxis, height: float, missed_s: float | None) -> Drawing:
    """What runs through all rows: the fault's window, time that nobody watched, the line where the objective is missed."""
    drawn: list[Drawing] = []
    for fault in run.faults[:_MOST_FAULTS]:
        if fault.injecting_s is None:
            continue
        end = fault.undone[1] if fault.undone else run.ended_s
        left, width = axis.x(fault.injecting_s), axis.x(end) - axis.x(fault.injecting_s)
        drawn.append(
            tag("rect", {"x": percent(left), "y": 24.0, "width": percent(width), "height": height - 24, "class": "fault-window"})
        )
    if axis.end_s > run.ended_s + 0.01 * axis.span_s:
        left = axis.x(run.ended_s)
        drawn.append(
            tag("rect", {"x": percent(left), "y": 43.0, "width": percent(100 - left), "height": height - 43, "class": "beyond"})
        )
    if missed_s is not None and axis.holds(missed_s):
        place = axis.x(missed_s)
        side = "end" if place > 50 else "start"
        told = f"RTO missed from +{missed_s - (run.measurement.recovery.impact or Interval(0, 0)).lo_s:g} s"
        drawn.append(tag("line", {**_vertical(axis, missed_s, 24, height + 38), "class": "missed-line"}))
        drawn.append(tag("text", {"x": percent(place), "y": height + 36, "class": f"missed {side}"}, told))
    return group("backdrop", *drawn)


def since(axis: TimeAxis, at_s: float) -> str:
    """`+2.93 s`, from the axis' zero."""
    return figures.signed(at_s - axis.zero_s)


def _lane_name(lane: LaneReport) -> str:
    """Short, since there is little room: what sort of lane it is shows in what follows the component's name."""
    if not lane.info.component or lane.info.kind not in {"replica", "health"}:
        return lane.info.name
    return lane.info.component if lane.info.kind == "replica" else lane.info.name.removeprefix("health:")


def lane_label(text: str, middle: float) -> Drawing:
    short = one_line(text, 17)
    title = [tag("title", {}, text)] if short != text else []
    return tag("text", {"x": "0", "y": middle + 4, "class": "lane-label"}, short, *title)


def place_of(axis: TimeAxis, at_s: float) -> str:
    return percent(axis.x(at_s))


def _vertical(axis: TimeAxis, at_s: float, top: float, bottom: float) -> dict[str, str | float]:
    return {"x1": place_of(axis, at_s), "x2": place_of(axis, at_s), "y1": top, "y2": bottom}
