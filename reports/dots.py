"""Answers as marks: good ones small and quiet, every other with a sign of its own and its story on hover."""

from collections.abc import Sequence

from . import figures
from .scales import LogScale, TimeAxis
from .svg import Drawing, group, percent, tag
from .thinning import Mark

_HEAVY = ("semantic", "workload", "stream")  # lanes that ask the model itself
_ORDER = ("void", "slow", "failed", "cut", "wrong")


def dots(axis: TimeAxis, scale: LogScale, found: Sequence[Mark]) -> Drawing:
    """All marks, the rarest signs on top."""
    good = [_good(axis, scale, mark) for mark in found if mark.sign == "good"]
    signs = [group(f"signs {sign}", *(_sign(axis, scale, m) for m in found if m.sign == sign)) for sign in _ORDER]
    return Drawing("\n".join([group("good-dots", *good), *signs]))


def _good(axis: TimeAxis, scale: LogScale, mark: Mark) -> Drawing:
    heavy = mark.kind in _HEAVY
    return tag("circle", {"cx": percent(axis.x(mark.at_s)), "cy": scale.y(mark.latency_s), "r": 2.4 if heavy else 1.5})


def _sign(axis: TimeAxis, scale: LogScale, mark: Mark) -> Drawing:
    probe = mark.probe
    told = (
        f"{probe.outcome} after {figures.latency(mark.latency_s)}, lane {probe.lane}, {figures.signed(mark.at_s - axis.zero_s)}"
    )
    if probe.backend:
        told += f", by {probe.backend[:40]}"
    if mark.number > 1:
        told = f"{mark.number} answers close together, one of them: {told}"
    if probe.text and mark.sign != "good":
        told += f": {probe.text[:60]}"
    y = scale.bottom + 2 if mark.sign == "void" else scale.y(mark.latency_s)
    place: dict[str, str | float] = {"href": f"#s-{mark.sign}", "x": percent(axis.x(mark.at_s)), "y": y}
    return tag("use", place, tag("title", {}, told))
