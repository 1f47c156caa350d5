"""Fewer marks than answers: an hour at 50 Hz must still open at once, and must not hide what went wrong."""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ..drills.measure.values import LaneReport, Probe
from .exposure import latency_s, sign

LONGEST_ANSWER_S = 600.0  # a stream that began so long before a window may be cut within it
_BAD_SHARE = 0.6  # of the marks: the rest stays for good answers, or nobody sees what was normal


class Mark(NamedTuple):
    """One answer as it is drawn, or `number` like ones that lie so close together that they would cover each other."""

    at_s: float
    latency_s: float
    sign: str
    kind: str  # the lane's
    probe: Probe
    number: int = 1


def within(probes: Sequence[Probe], start_s: float, end_s: float) -> Sequence[Probe]:
    """Those due between two moments; they are sorted by that."""
    first = bisect_left(probes, start_s, key=lambda probe: probe.intended_s)
    return probes[first : bisect_right(probes, end_s, lo=first, key=lambda probe: probe.intended_s)]


def marks(probes: Sequence[Probe], lanes: dict[str, LaneReport], window: tuple[float, float], most: int) -> list[Mark]:
    """At most `most` marks for the answers within `window` on `lanes`. The lowest and highest latency survive, and so does
    every answer that was not good; where those alone are too many, neighbours of one sign, lane and latency become one
    mark with a count.
    """
    good: dict[str, list[Mark]] = defaultdict(list)
    bad: list[Mark] = []
    start_s, end_s = window
    for probe in within(probes, start_s - LONGEST_ANSWER_S, end_s):
        lane = lanes.get(probe.lane)
        if lane is None:
            continue
        kind = sign(probe, lane)
        # A cut stream stands where it was cut: that is the moment its user noticed.
        at_s = probe.end_s if kind == "cut" else probe.sent_s
        if not start_s <= at_s <= end_s:
            continue
        mark = Mark(at_s, latency_s(probe, lane.info.kind), kind, lane.info.kind, probe)
        (good[probe.lane] if kind == "good" else bad).append(mark)
    drawn = _clustered(bad, window, int(most * _BAD_SHARE))
    return _thinned(good, window, most - len(drawn)) + drawn


def _clustered(bad: list[Mark], window: tuple[float, float], most: int) -> list[Mark]:
    columns = 1024
    found = bad
    while len(found) > most and columns >= 1:
        cells: dict[tuple[str, str, int, int], list[Mark]] = defaultdict(list)
        width = (window[1] - window[0]) / columns
        for mark in bad:
            column = int((mark.at_s - window[0]) / width)
            row = int(math.log10(max(mark.latency_s, 1e-5)) * 6)
            cells[mark.sign, mark.probe.lane, column, row].append(mark)
        found = [cell[len(cell) // 2]._replace(number=len(cell)) for cell in cells.values()]
        columns //= 2
    return found


def _thinned(good: dict[str, list[Mark]], window: tuple[float, float], most: int) -> list[Mark]:
    """All, or of each lane and stretch of time the fastest, the slowest and the middle one."""
    if sum(map(len, good.values())) <= most:
        return [mark for found in good.values() for mark in found]
    stretches = max(1, most // (3 * len(good)))
    width = (window[1] - window[0]) / stretches
    kept: list[Mark] = []
    for found in good.values():
        if len(found) <= 3 * stretches:
            kept += found
            continue
        cells: dict[int, list[Mark]] = defaultdict(list)
        for mark in found:
            cells[min(stretches - 1, int((mark.at_s - window[0]) / width))].append(mark)
        for cell in cells.values():
            cell.sort(key=lambda mark: mark.latency_s)
            kept += {id(mark): mark for mark in (cell[0], cell[len(cell) // 2], cell[-1])}.values()
    return kept
