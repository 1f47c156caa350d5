"""Objectives and the parts of a recovery as bars. Places are percentages of the width, as in the picture."""

import math
from collections.abc import Sequence

from ..drills.measure.values import Part
from ..drills.verdict import Judged, Verdict
from . import figures
from .anatomy import until
from .svg import Drawing, percent, tag

_FAR = 100.0  # beyond this ratio a linear bar would hide one of the two
_POINT = 1.4  # percent: an interval narrower than this is drawn as a point
_ROOM, _ROOM_ON_PHONE = 0.025, 0.07  # shares of the bar that hold a number of two digits
_LAST = 97.0  # percent: nothing is drawn closer to the right edge


class _Scale:
    """From a measured value to percent of the bar: linear, logarithmic across large ratios, or a share's last stretch."""

    def __init__(self, judged: Judged) -> None:
        lo, hi = figures.bounds(judged) or (judged.target, judged.target)
        values = [judged.target, lo, lo if math.isinf(hi) else hi]
        positive = [value for value in values if value > 0]
        self.log = len(positive) == len(values) and max(values) / min(values) > _FAR
        if judged.unit == "share":
            self.left, self.right = max(0.0, min(values) - max(0.02, 1.2 * (1 - min(values)))), 1.0
        elif self.log:
            self.left, self.right = min(values) / 3, max(values) * 1.3
        else:
            self.left, self.right = 0.0, (max(values) or 1.0) * 1.25

    def x(self, value: float) -> float:
        if math.isinf(value):
            return 100.0
        if self.log:
            part = math.log(max(value, self.left) / self.left) / math.log(self.right / self.left)
        else:
            part = (value - self.left) / (self.right - self.left)
        return _LAST * min(1.0, max(0.0, part))


def objective_bar(judged: Judged) -> Drawing:
    """The measured interval on a line with the objective's mark; the side that is allowed is tinted."""
    scale, edges = _Scale(judged), figures.bounds(judged)
    mark = scale.x(judged.target)
    allowed = (mark, 100.0 - mark) if judged.relation.startswith(">") else (0.0, mark)
    inner = [
        tag("rect", {"x": "0%", "y": 11.0, "width": "100%", "height": 10.0, "class": "track"}),
        tag("rect", {"x": percent(allowed[0]), "y": 11.0, "width": percent(allowed[1]), "height": 10.0, "class": "allowed"}),
    ]
    if edges is not None:
        inner += _measured(judged, scale.x(edges[0]), scale.x(edges[1]))
    inner.append(tag("line", {"x1": percent(mark), "x2": percent(mark), "y1": 4.0, "y2": 28.0, "class": "mark"}))
    side = "end" if mark > 60 else "start"
    label = f"objective {figures.demanded(judged)}" + (" (log scale)" if scale.log else "")
    inner.append(tag("text", {"x": percent(mark), "y": 40.0, "class": f"mark-label {side}"}, label))
    told = f"{figures.name(judged)}: {figures.measured(judged)}, objective {figures.demanded(judged)}"
    return tag("svg", {"class": "bar", "width": "100%", "height": 44.0, "role": "img", "aria-label": told}, *inner)


def _measured(judged: Judged, left: float, right: float) -> list[Drawing]:
    kind = {Verdict.PASSED: "pass", Verdict.FAILED: "fail"}.get(judged.verdict, "open")
    drawn = []
    if not judged.relation.startswith(">"):
        drawn.append(tag("rect", {"x": "0%", "y": 14.5, "width": percent(left), "height": 3.0, "class": f"stem {kind}"}))
    if right - left < _POINT:
        point: dict[str, str | float] = {"cx": percent((left + right) / 2), "cy": 16.0, "r": 6.5, "class": f"measured {kind}"}
        return [*drawn, tag("circle", point)]
    place: dict[str, str | float] = {"x": percent(left), "width": percent(right - left), "y": 9.5, "height": 13.0}
    drawn.append(tag("rect", {**place, "rx": 2.0, "class": f"measured {kind}"}))
    return drawn


def anatomy_bar(parts: Sequence[Part], worst: Part) -> Drawing:
    """The parts of the recovery side by side, numbered as in the list below."""
    drawn, left = [], 0.0
    for number, part in enumerate(parts, 1):
        kind = "part longest" if part is worst else f"part part-{number % 2}"
        box = tag("rect", {"width": "100%", "height": 34.0})
        inner = [box]
        if part.share > _ROOM:
            kind_of_number = "part-number" if part.share > _ROOM_ON_PHONE else "part-number odd"
            inner.append(tag("text", {"x": "50%", "y": 22.0, "class": kind_of_number}, str(number)))
        place: dict[str, str | float] = {"x": percent(left), "width": percent(100 * part.share), "height": 34.0, "class": kind}
        drawn.append(tag("svg", place, *inner))
        left += 100 * part.share
    told = "; ".join(f"until {until(part)} {part.length_s:.2f} s" for part in parts)
    return tag("svg", {"class": "anatomy", "width": "100%", "height": 34.0, "role": "img", "aria-label": told}, *drawn)
