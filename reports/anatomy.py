"""The anatomy of a recovery (drills/measure/anatomy.py) in words."""

from collections.abc import Sequence

from ..drills.finished import FinishedRun
from ..drills.measure.anatomy import last_way
from ..drills.measure.values import Interval, Part
from . import figures
from .cleaning import one_line

_UNTIL = {
    "impact": "users noticed",
    "detected": "{of} noticed",
    "endpoint-removed": "the endpoint of {of} was removed",
    "created": "a replacement for {of} was created",
    "scheduled": "{of} was scheduled",
    "pulled": "the volumes and the image of {of} were there",  # in this order: no image is pulled before they are mounted
    "started": "the containers of {of} ran",
    "ready": "{of} was ready",
    "endpoint-added": "the endpoint of {of} was added",
    "first-answer": "lane {of} had its first right answer",
    "answered": "{of} answered by itself again",
    "undo": "the undo began",
    "recovered": "users had right answers again",
    "redundancy": "{of} answered by itself, which restored redundancy",
}
_SHORT = {
    "pulled": "volumes and image",
    "recovered": "right answers",
    "detected": "{of} noticed",
    "first-answer": "lane {of} answered",
    "answered": "{of} answered",
}
_MOST_WAYS = 3


def until(part: Part) -> str:
    """What ended it: `users noticed`."""
    return _UNTIL[part.until].format(of=part.of)


def longest(parts: Sequence[Part]) -> Part:
    """The part that is worth shortening first."""
    return max(parts, key=lambda part: part.length_s)


def in_a_line(parts: Sequence[Part]) -> str:
    """The parts that are not too short to matter: `/ready noticed 1.20 s (15 %), pulled 2.07 s (25 %)`."""
    shown = [part for part in parts if round(part.share, 2)]
    return ", ".join(f"{_short(part)} {part.length_s:.2f} s ({figures.share(round(part.share, 2))})" for part in shown)


def _short(part: Part) -> str:
    return one_line(_SHORT.get(part.until, part.until.replace("-", " ")).format(of=part.of), 40)


def of_last(run: FinishedRun) -> str:
    """Whose steps the parts show, where several replicas were hit; empty: only one was."""
    ways, last = run.measurement.ways, last_way(run.measurement)
    return f"{last[0].name} was the last of {len(ways)} replicas to be ready; its steps are shown." if len(ways) > 1 else ""


def steps(run: FinishedRun) -> list[tuple[str, Interval]]:
    """The steps of every replica that was hit, or of the last one where there are too many to read."""
    ways = run.measurement.ways.values() if len(run.measurement.ways) <= _MOST_WAYS else [last_way(run.measurement)]
    return [(_UNTIL[one.what].format(of=one.name), one.at) for way in ways for one in way]
