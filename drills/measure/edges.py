"""When an outage began and ended, as intervals that hold the truth.

Impact lies after the send of the last good probe before the run, and before the first proof: the end of a failed probe, or the
moment by which a healthy service would have answered. Recovery lies after the send of the last failed probe (or the first late
answer less the time that a backlog may take to drain), and before the completion of the first good one of those that held.

Where only a part of all answers fails (one of two replicas is dead), a single good answer proves nothing: it may have come from
the healthy part. As many good answers in a row as were seen, or as chance allows, while the outage was on are set aside at each edge.
Where a lone failure lies just before or after an outage, both readings are kept and the interval covers them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .classify import Grade, Limits
from .lane_state import ONSET_PROBES, ONSET_S, Run
from .values import Interval, Outage, Probe

CLOCK_RATE = 50e-6  # CLOCK_MONOTONIC may run so much faster or slower than true time
CHANCE = 0.001  # of good answers hiding an edge of a partial outage
CLEAN_PROBES = 10  # good ones in a row that a half-dead service gives by chance once in a thousand times


@dataclass(frozen=True)
class Track:
    """A lane's non-void probes in order of their sends, with their grades."""

    lane: str
    probes: Sequence[Probe]
    grades: Sequence[Grade]
    limits: Limits


def outage(track: Track, run: Run) -> Outage:
    """The run as an outage with bounded edges; `end` is None where it was not over when watching ended."""
    stop = len(track.probes) if run.back is None else run.back
    start = _impact(track, run.first, stop)
    end = None if run.back is None else not_before(start, _recovery(track, run.first, run.back))
    classes = Counter(
        track.probes[at].outcome if track.grades[at] is Grade.BAD else "slow"
        for at in range(run.first, stop)
        if track.grades[at] is not Grade.GOOD
    )
    return Outage(track.lane, start, end, None if end is None else duration(start, end), dict(classes), run.flaps)


def duration(start: Interval, end: Interval) -> Interval:
    """From one moment to a later one, with the clock's own uncertainty."""
    plain = end.minus(start)
    return Interval(plain.lo_s * (1 - CLOCK_RATE), plain.hi_s * (1 + CLOCK_RATE))


def not_before(start: Interval, end: Interval) -> Interval:
    """Nothing ends before it began: where a backlog may take longer to drain than the outage lasted, its start bounds the end."""
    lo_s = max(start.lo_s, end.lo_s)
    return Interval(lo_s, max(lo_s, end.hi_s))


def _impact(track: Track, first: int, stop: int) -> Interval:
    probes, grades = track.probes, track.grades
    onset = _onset(track, first, stop)
    step = _hidden(track, onset, _first_clean(track, onset, stop))
    last_good, in_a_row = first, 0
    for at in range(first - 1, -1, -1):
        last_good = at
        in_a_row = in_a_row + 1 if grades[at] is Grade.GOOD else 0
        if in_a_row > step:
            break
    window_s = probes[onset].sent_s + ONSET_S
    proofs: list[float] = []
    for at in range(onset, stop):
        if probes[at].sent_s > window_s and proofs:
            break
        if grades[at] is not Grade.GOOD:
            proofs.append(min(probes[at].end_s, probes[at].sent_s + track.limits.silence_s))
    lo_s = probes[last_good].sent_s
    return Interval(lo_s, max(lo_s, min(proofs)))


def _onset(track: Track, first: int, stop: int) -> int:
    """The first bad probe of the onset window from which on at least half are bad at every point: not a lone one before."""
    grades, probes = track.grades, track.probes
    end = first
    while end < stop and (end - first < ONSET_PROBES or probes[end].sent_s - probes[first].sent_s < ONSET_S):
        end += 1
    for onset in range(first, end):
        if grades[onset] is not Grade.GOOD and _half_bad(grades[onset:end]):
            return onset
    return first


def _half_bad(grades: Sequence[Grade]) -> bool:
    bad = 0
    for count, grade in enumerate(grades, start=1):
        bad += grade is not Grade.GOOD
        if bad * 2 < count:
            return False
    return True


def _recovery(track: Track, first: int, back: int) -> Interval:
    probes, grades = track.probes, track.grades
    last_bad = max((at for at in range(first, back) if grades[at] is not Grade.GOOD), default=first)
    opening = _last_clean(track, first, last_bad)
    ended = _ended(track, opening, last_bad)
    step = _hidden(track, opening, last_bad + 1)
    slack_s = track.limits.slack_s
    lo_s = -math.inf
    for at in range(first, ended + 1):
        if grades[at] is Grade.BAD:
            lo_s = max(lo_s, probes[at].sent_s)
        elif grades[at] is Grade.SLOW:
            lo_s = max(lo_s, min(probes[at].sent_s, probes[at].end_s - slack_s))
    good: list[float] = []
    in_a_row = 0
    for at in range(last_bad + 1, len(probes)):
        in_a_row = in_a_row + 1 if grades[at] is Grade.GOOD else 0
        if grades[at] is Grade.GOOD:
            good.append(probes[at].end_s)
        if in_a_row > step:
            break
    hi_s = max(good, default=probes[-1].end_s)
    if step == 0 and last_bad == ended:
        hi_s = min(hi_s, _drained(track, opening, last_bad, lo_s))
    return Interval(min(lo_s, hi_s), hi_s)


def _ended(track: Track, opening: int, last_bad: int) -> int:
    """The last bad probe up to which, looking back, at least half are bad at every point: not a lone one afterwards."""
    probes, grades = track.probes, track.grades
    start = last_bad
    while start > opening and (last_bad - start < ONSET_PROBES - 1 or probes[last_bad].sent_s - probes[start].sent_s < ONSET_S):
        start -= 1
    for at in range(last_bad, start - 1, -1):
        if grades[at] is not Grade.GOOD and _half_bad(grades[start : at + 1][::-1]):
            return at
    return last_bad


def _drained(track: Track, opening: int, last_bad: int, lo_s: float) -> float:
    """When all answers that were held back came out together: the service answered again, though late. Else infinite."""
    late = [track.probes[at] for at in range(opening, last_bad + 1) if track.grades[at] is Grade.SLOW]
    first_s = min((probe.end_s for probe in late if probe.end_s >= lo_s), default=math.inf)
    waiting = [probe for probe in late if probe.sent_s < first_s <= probe.end_s]
    if len(waiting) < 3:
        return math.inf
    sends_s, ends_s = waiting[-1].sent_s - waiting[0].sent_s, max(probe.end_s for probe in waiting) - first_s
    return first_s if ends_s <= sends_s / 4 and sends_s > track.limits.slack_s else math.inf


def _streak_is_clean(track: Track, start: int, end: int) -> bool:
    return end - start >= CLEAN_PROBES and track.probes[end - 1].sent_s - track.probes[start].sent_s >= ONSET_S


def _first_clean(track: Track, onset: int, stop: int) -> int:
    """Where the first stretch of right answers begins that counts as a return, or `stop`."""
    start = None
    for at in range(onset, stop):
        if track.grades[at] is not Grade.GOOD:
            start = None
        else:
            start = at if start is None else start
            if _streak_is_clean(track, start, at + 1):
                return start
    return stop


def _last_clean(track: Track, first: int, last_bad: int) -> int:
    """Where the outage's last part begins: the first bad probe after the last stretch of right answers inside."""
    end = None
    for at in range(last_bad, first - 1, -1):
        if track.grades[at] is not Grade.GOOD:
            end = None
        else:
            end = at + 1 if end is None else end
            if _streak_is_clean(track, at, end):
                return end
    return first


def _hidden(track: Track, start: int, stop: int) -> int:
    """How many right answers in a row may hide an edge of an outage that spares a part of all answers."""
    streaks: list[int] = []
    length = bad = 0
    for at in range(start, stop):
        if track.grades[at] is Grade.GOOD:
            length += 1
            continue
        bad += 1
        if length:
            streaks.append(length)
        length = 0
    if not streaks:
        return 0
    if len(streaks) >= 3 and max(streaks) - min(streaks) <= 1:
        return max(streaks)  # taking turns
    good = sum(streaks)
    return max(*streaks, math.ceil(math.log(CHANCE) / math.log(good / (good + bad))))
