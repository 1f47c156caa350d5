"""What the drill under way looks like: enough to decide when to go on and when to stop, never the figures of the result."""

import bisect
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from ..scenario import Scenario
from .classify import LATE_S, WITNESSES, Grade, Limits, Stalls, grade, limits, stalls
from .lane import lane_windows
from .lane_state import LaneState
from .service_state import REQUIRED_KINDS, unasked
from .values import LaneInfo, Probe

SETTLED_S = 12.0  # answers come in out of order by no more than a request's longest time; later ones are taken as they come
KEPT_S = 3600.0  # of answers, for abort conditions
SILENT_S = 0.5  # beside two periods and the time of a healthy answer: a lane without newer answers hangs


@dataclass
class _LiveLane:
    """Probes in order of their sends: those that can still be overtaken wait in `tail`, the others went into `settled`."""

    info: LaneInfo
    limit: Limits
    settled: LaneState
    tail: list[tuple[float, Grade]] = field(default_factory=list)
    counts: Counter[Grade] = field(default_factory=Counter)
    newest_s: float | None = None  # send of the newest answer
    next_sequence: int = 0  # of the newest probe that was answered, and one
    waiting: dict[int, float] = field(default_factory=dict)  # probes that others overtook -> sent before this moment

    def take(self, probe: Probe, mark: Grade) -> None:
        self.counts[mark] += 1
        self.waiting.pop(probe.sequence, None)
        for sequence in range(self.next_sequence, probe.sequence):
            self.waiting[sequence] = probe.sent_s
        self.next_sequence = max(self.next_sequence, probe.sequence + 1)
        if mark is Grade.VOID:
            return
        self.newest_s = max(self.newest_s or probe.sent_s, probe.sent_s)
        bisect.insort(self.tail, (probe.sent_s, mark))
        keep = bisect.bisect_left(self.tail, (probe.end_s - SETTLED_S, Grade.GOOD))
        for sent_s, done in self.tail[:keep]:
            self.settled.feed(sent_s, done)
        del self.tail[:keep]

    def answered(self, until_s: float) -> bool:
        waiting = any(sent_s < until_s for sent_s in self.waiting.values())
        return not waiting and self.newest_s is not None and self.newest_s + self.info.period_s >= until_s

    def now(self) -> LaneState:
        state = self.settled.fork()
        for sent_s, mark in self.tail:
            state.feed(sent_s, mark)
        return state


@dataclass
class LiveView:
    """Fed with probes in order of completion. What is slow is learnt from the first `steady_state.hold` of probes."""

    scenario: Scenario
    lanes: Sequence[LaneInfo]
    _live: dict[str, _LiveLane] = field(init=False)
    _answers: deque[tuple[float, bool]] = field(default_factory=deque, init=False)
    _learning: list[Probe] | None = field(default_factory=list, init=False)
    _learnt_s: float = field(default=0.0, init=False)
    _late: list[Probe] = field(default_factory=list, init=False)
    _stalled: Stalls = field(default_factory=Stalls, init=False)

    def __post_init__(self) -> None:
        self._live = {info.name: self._lane(info, ()) for info in self.lanes}
        model = {info.name for info in self.lanes if info.kind in {"semantic", "workload", "stream"}}
        self._asked = model or {info.name for info in self.lanes if info.kind == "fresh"}

    def feed(self, probes: Iterable[Probe]) -> None:
        """Take in what has been answered since the last call."""
        for probe in probes:
            self._notice_stall(probe)
            self._take(probe)
            if probe.lane in self._asked and probe.outcome != "void":
                self._answers.append((probe.end_s, probe.outcome == "ok"))
                while self._answers[0][0] < probe.end_s - KEPT_S:
                    self._answers.popleft()
            if self._learning is not None:
                self._learning.append(probe)
                if probe.end_s - self._learning[0].sent_s >= self.scenario.steady_state.hold.total_seconds():
                    self._learn(self._learning)

    def states(self) -> dict[str, str]:
        """Each lane's state now: unknown, up, suspect, down, recovering, degraded."""
        return {name: lane.now().shown for name, lane in self._live.items()}

    def recovered(self, since_s: float, now_s: float, *, replicas: bool = False, hit: Collection[tuple[str, str]] = ()) -> bool:
        """Whether users are served: every required lane up, its recovery held, for `settle` since `since_s`, by recent answers.

        With `replicas`, or an objective for them, every replica answers by itself as well; where none can be asked, or a worker that was
        `hit` (name and role of each) cannot, nobody knows.
        """
        replicas = replicas or self.scenario.objectives.time_to_redundancy is not None
        kinds = (*REQUIRED_KINDS, "replica") if replicas else REQUIRED_KINDS
        needed = [lane for lane in self._live.values() if lane.info.kind in kinds]
        # Sooner than a healthy answer takes, a question that hangs cannot be told from one that is being answered.
        least_s = max([self.scenario.settle.total_seconds(), *(lane.limit.silence_s for lane in needed)])
        if replicas and (unasked(hit, self.lanes) or not any(lane.info.kind == "replica" for lane in needed)):
            return False
        if not needed or now_s - since_s < least_s:
            return False
        return all(self._well(lane, since_s, now_s) for lane in needed)

    def answered(self, until_s: float) -> bool:
        """Whether every question asked before that moment has been answered; a lane without a schedule has no such moment."""
        return all(lane.answered(until_s) for lane in self._live.values() if lane.info.period_s and lane.info.kind != "ledger")

    def impact_seen(self) -> bool:
        """Whether any required lane has been interrupted since the baseline."""
        return any(
            run.first_s >= self._learnt_s
            for lane in self._live.values()
            if lane.info.kind in REQUIRED_KINDS
            for run in lane.now().runs
        )

    def success_share(self, window_s: float, now_s: float) -> float | None:
        """Share of right answers among those of the last `window_s`, over semantic, workload and stream lanes; None: no answers."""
        right = total = 0
        for end_s, ok in reversed(self._answers):
            if end_s < now_s - window_s:
                break
            total += 1
            right += ok
        return right / total if total else None

    def counts(self) -> dict[str, dict[str, int]]:
        """By lane: how many probes were good, slow, bad, void."""
        return {name: {mark.name.lower(): lane.counts[mark] for mark in Grade} for name, lane in self._live.items()}

    def _lane(self, info: LaneInfo, baseline: Sequence[Probe]) -> _LiveLane:
        limit = limits(info, baseline, self.scenario)
        return _LiveLane(info, limit, LaneState(lane_windows(info, limit, baseline, self.scenario)))

    def _take(self, probe: Probe) -> None:
        lane = self._live[probe.lane]
        lane.take(probe, grade(probe, lane.info, lane.limit, self._stalled))

    def _notice_stall(self, probe: Probe) -> None:
        info = self._live[probe.lane].info
        if info.kind in WITNESSES and max(probe.sent_s - probe.intended_s, probe.end_s - probe.sent_s) > LATE_S:
            self._late = [*(old for old in self._late if old.end_s > probe.end_s - SETTLED_S), probe]
            self._stalled = stalls(self.lanes, self._late)

    def _learn(self, baseline: list[Probe]) -> None:
        """From here on it is known what is slow: what came so far is looked at again."""
        self._learning = None
        self._learnt_s = baseline[-1].end_s
        by_lane: dict[str, list[Probe]] = {info.name: [] for info in self.lanes}
        for probe in baseline:
            by_lane[probe.lane].append(probe)
        self._live = {info.name: self._lane(info, by_lane[info.name]) for info in self.lanes}
        for probe in baseline:
            self._take(probe)

    def _well(self, lane: _LiveLane, since_s: float, now_s: float) -> bool:
        """Up, by recent answers to what was asked since then, and no question hangs: half-dead services answer the other half in time.

        Of a question that no answer overtook nothing is known yet, but by the lane's period that it was asked.
        """
        silent_s = SILENT_S + 2 * lane.info.period_s + lane.limit.silence_s
        if any(now_s - sent_s > lane.limit.silence_s for sent_s in lane.waiting.values()):
            return False
        newest_s = lane.newest_s
        return newest_s is not None and newest_s >= max(since_s, now_s - silent_s) and lane.now().shown == "up"
