"""One lane over time as a strip: each cell shows the worst answer within it, and what nobody looked at stays unknown."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..drills.measure.values import LaneReport, Probe
from .exposure import sign
from .thinning import LONGEST_ANSWER_S, within

_WORSE = {"unknown": 0, "good": 1, "slow": 2, "bad": 3}
_STATES = {"good": "good", "slow": "slow", "failed": "bad", "cut": "bad", "wrong": "bad"}


@dataclass(frozen=True)
class Cell:
    """Neighbouring cells of one state, from `start_s` to `end_s`."""

    state: str
    start_s: float
    end_s: float


def strip(lane: LaneReport, probes: Sequence[Probe], window: tuple[float, float], cells: int) -> list[Cell]:
    """The lane's states within `window`. `probes` are the lane's own. A right answer speaks until the next one was due,
    half a period of grace included; after that, where the prober itself failed, and where an answer was not yet due, the state is unknown.
    """
    start_s, end_s = window
    width = (end_s - start_s) / cells
    states = ["unknown"] * cells
    for at_s, state, until_s in _told(lane, probes, window):
        first = min(cells - 1, math.floor((at_s - start_s) / width))
        if first >= 0 and _WORSE[state] > _WORSE[states[first]]:
            states[first] = state
        for cell in range(max(0, first + 1), min(cells, int((until_s - start_s) / width) + 1)):
            if _WORSE[state] > _WORSE[states[cell]]:
                states[cell] = state
    return _joined(states, start_s, width)


def _told(lane: LaneReport, probes: Sequence[Probe], window: tuple[float, float]) -> Iterator[tuple[float, str, float]]:
    """What each answer says about the lane, from when and until when. A stream is good until it ends or breaks."""
    start_s, end_s = window
    streamed = lane.info.kind == "stream"
    near = within(probes, start_s - (LONGEST_ANSWER_S if streamed else 2 * lane.info.period_s), end_s)
    signs = [(probe, sign(probe, lane)) for probe in near if probe.sent_s <= end_s]
    seen = [(probe, _STATES[found]) for probe, found in signs if found != "void"]
    for number, (probe, state) in enumerate(seen):
        if not streamed:
            following = seen[number + 1][0].sent_s if number + 1 < len(seen) else end_s
            yield probe.sent_s, state, min(following, max(probe.sent_s + 1.5 * lane.info.period_s, probe.end_s))
            continue
        yield probe.sent_s, "good" if state == "bad" else state, max(probe.end_s, probe.sent_s + lane.info.period_s)
        if state == "bad":
            yield probe.end_s, state, probe.end_s


def _joined(states: list[str], start_s: float, width: float) -> list[Cell]:
    found: list[Cell] = []
    for number, state in enumerate(states):
        begin = start_s + number * width
        if found and found[-1].state == state:
            begin = found.pop().start_s
        found.append(Cell(state, begin, start_s + (number + 1) * width))
    return found
