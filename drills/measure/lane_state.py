"""The state of one lane, probe by probe in order of their sends; the same machine runs live and over stored samples.

    UP -> SUSPECT at the first probe that is not good
    SUSPECT -> DOWN when at least half of max(3 probes, 250 ms) are not good; else back to UP, and the run is either
        an interruption (two or more in a row out of the blue: it has edges, yet is over) or a blip
    DOWN -> RECOVERING when max(3 probes, 250 ms) in a row are good, dated back to their first
    RECOVERING -> UP when the hold window is as good as steady_state demands (at most 99 %), dated back to its first probe;
        -> DOWN again (a flap) at three BAD in a row, or when at least half of the last max(3 probes, 250 ms) are not good
    DEGRADED lies over UP: more than 1 % (or the baseline's own 99.9 % bound) of the last 5 s are not good, and at least two

With one of two replicas dead behind a round robin every other answer is bad: that is half, so the lane is DOWN. With one of
three dead it is a third: DEGRADED, and the availability says how much.
"""

import copy
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .classify import Grade

State = Literal["unknown", "up", "suspect", "down", "recovering", "degraded"]

ONSET_S, ONSET_PROBES = 0.25, 3
DEGRADED_S = 5.0
DEGRADED_SHARE = 0.01
# Good probes that a hold needs: errors below 1 %, below 10 %; a replica that stands alone is there or not; a short drill.
HELD_LIGHT, HELD_MODEL, HELD_REPLICA, HELD_SHORT = 300, 30, 10, 5
FULL_SETTLE_S = 10.0
LONGEST_HOLD = 3  # times `settle`, however slow a lane is


@dataclass(frozen=True)
class Windows:
    """How long recovery must hold, with how many probes, how good; and what share of bad answers means degraded."""

    hold_s: float
    hold_probes: int
    good_share: float = 0.99
    degraded_share: float = DEGRADED_SHARE

    @property
    def scaled(self) -> bool:
        """Whether a short `settle` shrank the window below what shows an error rate."""
        return self.hold_s < FULL_SETTLE_S


def windows(kind: str, period_s: float, settle_s: float, good_share: float, degraded_share: float) -> Windows:
    """`settle`, stretched to 300 probes (30 on a model's lanes) but not beyond thrice; below 10 s: `settle`, five probes."""
    need = min(0.99, good_share)
    if settle_s < FULL_SETTLE_S:
        return Windows(max(settle_s, HELD_SHORT * period_s), HELD_SHORT, need, degraded_share)
    light = kind in {"fresh", "reuse", "control", "health"}
    wanted_s = (HELD_LIGHT if light else HELD_REPLICA if kind == "replica" else HELD_MODEL) * period_s
    hold_s = max(settle_s, min(wanted_s, LONGEST_HOLD * settle_s))
    return Windows(hold_s, max(HELD_SHORT, int(hold_s / max(period_s, 1e-3) / 2)), need, degraded_share)


@dataclass
class Run:
    """A stretch of probes [first, back) in which the lane was not up; indexes count the lane's non-void probes."""

    first: int
    first_s: float  # its send
    back: int | None = None  # the first probe of the window that held; None: it never did
    returned: int | None = None  # the first probe of right answers that have not held for long enough
    brief: bool = False  # too short for DOWN
    flaps: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    index: int
    sent_s: float
    grade: Grade


@dataclass
class LaneState:
    """Fed with a lane's probes in order of their sends; void ones are skipped. `runs`, `blips` and stretches add up."""

    windows: Windows
    state: State = "unknown"
    runs: list[Run] = field(default_factory=list)
    blips: int = 0
    held_since_s: float | None = None  # since when all has been well; None while it is not
    last_sent_s: float | None = None
    recovering: list[tuple[float, float]] = field(default_factory=list)  # stretches
    degraded: list[tuple[float, float]] = field(default_factory=list)
    _count: int = 0
    _suspects: list[_Seen] = field(default_factory=list)
    _streak: list[_Seen] = field(default_factory=list)  # DOWN: good probes in a row, until they are a clean opening
    _window: deque[_Seen] = field(default_factory=deque)  # RECOVERING: the window that is being held
    _good: int = 0
    _recent: deque[float] = field(default_factory=deque)  # sends of the last 5 s
    _recent_bad: deque[float] = field(default_factory=deque)
    _degraded: bool = False
    _out_of_the_blue: bool = True  # the suspects came while the lane was well

    def feed(self, sent_s: float, grade: Grade) -> None:
        if grade is Grade.VOID:
            return
        seen = _Seen(self._count, sent_s, grade)
        self._count += 1
        self.last_sent_s = sent_s
        self._step(seen)
        self._watch_share(seen)

    def finish(self) -> None:
        """Decide what is open as far as it can be: no more probes will come."""
        while self._suspects:
            self._decide()
        if self.state == "down" and self._streak:
            self.runs[-1].returned = self._streak[0].index
        elif self.state == "recovering":
            # Live and stored views may differ by the probes under way at the end: nine tenths of the hold are enough.
            self._promote(self.windows.hold_s * 0.9, int(self.windows.hold_probes * 0.9))
            if self.state == "recovering" and self._window:  # empty where the last answer was one bad one too many
                self.runs[-1].returned = self._window[0].index
                self.recovering.append((self._window[0].sent_s, self._window[-1].sent_s))
        self._close_degraded()

    def fork(self) -> "LaneState":
        """A copy that can be fed on its own."""
        twin = copy.copy(self)
        for name in ("runs", "recovering", "degraded", "_suspects", "_streak", "_window", "_recent", "_recent_bad"):
            setattr(twin, name, getattr(self, name).copy())
        twin.runs = [copy.copy(run) for run in self.runs]
        return twin

    @property
    def shown(self) -> State:
        """The state for people: degraded where it is up but not well."""
        return "degraded" if self._degraded and self.state in {"up", "suspect"} else self.state

    def _step(self, seen: _Seen) -> None:
        good = seen.grade is Grade.GOOD
        match self.state:
            case "up" | "unknown":
                if good:
                    if self.state == "unknown":
                        self.state, self.held_since_s = "up", seen.sent_s
                else:
                    self.state = "suspect"
                    self._suspects = [seen]
                    self._out_of_the_blue = not self._degraded
            case "suspect":
                if len(self._suspects) >= ONSET_PROBES and seen.sent_s - self._suspects[0].sent_s >= ONSET_S:
                    self._decide()
                    self._step(seen)
                else:
                    self._suspects.append(seen)
            case "down":
                self._step_down(seen, good=good)
            case _:
                self._step_recovering(seen, good=good)

    def _decide(self) -> None:
        """The onset window is over: DOWN, or back to UP with what followed the first run looked at again."""
        suspects, self._suspects = self._suspects, []
        bad = sum(seen.grade is not Grade.GOOD for seen in suspects)
        if bad >= 2 and bad * 2 >= len(suspects):
            self.runs.append(Run(suspects[0].index, suspects[0].sent_s))
            self._fall(suspects)
            return
        length = next((n for n, seen in enumerate(suspects) if seen.grade is Grade.GOOD), len(suspects))
        if length >= 2 and self._out_of_the_blue:
            self.runs.append(Run(suspects[0].index, suspects[0].sent_s, suspects[0].index + length, brief=True))
            self._forget_bad(before_s=suspects[length].sent_s)
        else:
            self.blips += 1
        self.state = "up"
        if self.held_since_s is None:
            self.held_since_s = suspects[-1].sent_s
        for seen in suspects[length:]:
            self._step(seen)

    def _fall(self, latest: Iterable[_Seen]) -> None:
        self._close_degraded()
        self.state, self.held_since_s = "down", None
        self._streak = []
        for seen in latest:
            self._step(seen)

    def _step_down(self, seen: _Seen, *, good: bool) -> None:
        if not good:
            self._streak = []
            return
        self._streak.append(seen)
        if len(self._streak) >= ONSET_PROBES and seen.sent_s - self._streak[0].sent_s >= ONSET_S:
            self.state = "recovering"
            self._window, self._good = deque(self._streak), len(self._streak)
            self._streak = []
            self._promote(self.windows.hold_s, self.windows.hold_probes)

    def _step_recovering(self, seen: _Seen, *, good: bool) -> None:
        self._window.append(seen)
        self._good += good
        if good:
            self._promote(self.windows.hold_s, self.windows.hold_probes)
        elif self._relapsed(seen):
            latest = [entry for entry in self._window if seen.sent_s - entry.sent_s <= ONSET_S]
            self.recovering.append((self._window[0].sent_s, seen.sent_s))
            self.runs[-1].flaps += 1
            self._fall(latest)

    def _relapsed(self, seen: _Seen) -> bool:
        latest: list[_Seen] = []
        for entry in reversed(self._window):
            if len(latest) >= ONSET_PROBES and seen.sent_s - entry.sent_s > ONSET_S:
                break
            latest.append(entry)
        if len(latest) >= 3 and all(entry.grade is Grade.BAD for entry in latest[:3]):
            return True
        whole = seen.sent_s - latest[-1].sent_s >= ONSET_S * 0.9 or len(latest) == len(self._window)
        bad = sum(entry.grade is not Grade.GOOD for entry in latest)
        return whole and bad >= 2 and bad * 2 >= len(latest)

    def _promote(self, hold_s: float, probes: int) -> None:
        """RECOVERING -> UP if the window has held; a window that is long but not good enough moves on."""
        window = self._window
        while window and window[-1].sent_s - window[0].sent_s >= hold_s and len(window) >= probes:
            if self._good >= self.windows.good_share * len(window):
                self.recovering.append((window[0].sent_s, window[-1].sent_s))
                self.state, self.held_since_s = "up", window[0].sent_s
                self.runs[-1].back = window[0].index
                self._forget_bad(before_s=window[0].sent_s)
                self._window, self._good = deque(), 0
                return
            while window and window[0].grade is Grade.GOOD:
                window.popleft()
                self._good -= 1
            while window and window[0].grade is not Grade.GOOD:
                window.popleft()

    def _watch_share(self, seen: _Seen) -> None:
        recent, bad = self._recent, self._recent_bad
        recent.append(seen.sent_s)
        oldest_s = seen.sent_s - DEGRADED_S
        while recent[0] < oldest_s:
            recent.popleft()
        if seen.grade is not Grade.GOOD:
            bad.append(seen.sent_s)
        elif not bad:
            return
        while bad and bad[0] < oldest_s:
            bad.popleft()
        # The suspects may yet turn out to be an outage, which is told apart.
        counted = len(bad) - sum(suspect.grade is not Grade.GOOD for suspect in self._suspects)
        too_many = counted >= 2 and counted > self.windows.degraded_share * len(recent)
        if too_many and self.state in {"up", "suspect"}:
            if not self._degraded:
                self.degraded.append((bad[0], bad[-1]))
                self._degraded = True
            self.degraded[-1] = (self.degraded[-1][0], bad[-1])
        elif not too_many:
            self._close_degraded()

    def _forget_bad(self, before_s: float) -> None:
        """What belongs to an outage does not make the time after it degraded."""
        while self._recent_bad and self._recent_bad[0] < before_s:
            self._recent_bad.popleft()

    def _close_degraded(self) -> None:
        self._degraded = False
