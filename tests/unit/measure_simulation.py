"""A service with outages of known edges, and probers of it, on paper: what the tests of measuring hold figures against."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from blackstart.drills.finished import InjectedFault
from blackstart.drills.measure.observed import Observed, Window
from blackstart.drills.measure.values import LaneInfo, Probe, ReadBack, Write
from blackstart.drills.scenario import Bound, Objectives, Scenario, SteadyState

URL = "http://127.0.0.1:8000"
FRESH = LaneInfo("fresh", "fresh", URL + "/v1/models", 0.02)
SEMANTIC = LaneInfo("semantic", "semantic", URL + "/v1/completions", 0.5)
CONTROL = LaneInfo("control", "control", URL, 0.05)
READY = LaneInfo("ready", "health", URL + "/ready", 0.5)
FAST = ("refuse", "503", "wrong")
HELD = ("hang", "never", "slow")


@dataclass(frozen=True)
class Trouble:
    """From `start` to `end` requests meet `mode`: refuse, 503, hang, never, slow, wrong; only every `part`-th one, or by `chance`."""

    start: float
    end: float
    mode: str
    part: int = 1
    chance: float = 1.0
    kinds: tuple[str, ...] = ()  # of lanes; empty: all

    def strikes(self, kind: str, turn: int, dice: random.Random) -> bool:
        if self.kinds and kind not in self.kinds:
            return False
        return turn % self.part == 0 and (self.chance >= 1 or dice.random() < self.chance)


@dataclass
class Simulation:
    """`late(intended)` says how late a tick comes. Latency is lognormal around `latency_s`; a semantic answer takes `answer_s`."""

    troubles: Sequence[Trouble] = ()
    seed: int = 0
    end_s: float = 40.0
    latency_s: float = 0.002
    answer_s: float = 0.04
    timeout_s: float = 1.0
    jitter_s: float = 0.0005
    starved: Sequence[tuple[float, float]] = ()  # the prober stands still
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def probes(self, *lanes: LaneInfo) -> list[Probe]:
        ticks = []
        for lane in (lane for lane in lanes if lane.period_s > 0):
            phase = self.dice.random() * lane.period_s
            count = int((self.end_s - phase) / lane.period_s)
            ticks += [(phase + number * lane.period_s, number, lane) for number in range(count)]
        turns = itertools.count()
        found = []
        for intended, number, lane in sorted(ticks, key=lambda tick: tick[0]):
            sent = self._awake(intended + self.dice.expovariate(1 / self.jitter_s))
            found.append(self._ask(lane, number, intended, sent, next(turns)))
        return sorted(found, key=lambda probe: probe.end_s)

    def _awake(self, moment: float) -> float:
        return next((end for start, end in self.starved if start <= moment < end), moment)

    def _ask(self, lane: LaneInfo, number: int, intended: float, sent: float, turn: int) -> Probe:
        typical = self.answer_s if lane.kind in {"semantic", "replica", "workload"} else self.latency_s
        took = typical * min(2.5, self.dice.lognormvariate(0, 0.2))
        outcome, end = "ok", sent + took
        for trouble in self.troubles:
            arrives = sent + 0.0001
            if (
                lane.kind != "control"
                and trouble.start < end
                and arrives < trouble.end
                and trouble.strikes(lane.kind, turn, self.dice)
            ):
                outcome, end = self._trouble(trouble, sent, end, took)
                break
        timeout = self.timeout_s * (5 if typical == self.answer_s else 1)
        if end > sent + timeout:
            outcome, end = "timeout", sent + timeout
        end = self._awake(end)
        first = sent + (end - sent) * 0.8 if outcome in {"ok", "wrong-answer", "status-5xx"} else None
        status = {"ok": 200, "wrong-answer": 200, "status-5xx": 503}.get(outcome, 0)
        return Probe(lane.name, number, intended, sent, first, end, outcome, status, f"r{turn % 2}", 0, 0.0, "")

    def _trouble(self, trouble: Trouble, sent: float, end: float, took: float) -> tuple[str, float]:
        begun = sent + 0.0001 < trouble.start  # under way when the trouble came
        match trouble.mode:
            case "refuse":
                return ("reset", trouble.start) if begun else ("refused", sent + self.dice.uniform(0.0002, 0.001))
            case "503":
                return ("ok", end) if begun else ("status-5xx", sent + took / 2)
            case "wrong":
                return ("ok", end) if begun else ("wrong-answer", end)
            case "hang":
                return "ok", trouble.end + self.dice.uniform(0, 0.03) + took
            case "never":
                return "timeout", sent + 1e9
            case _:
                return ("ok", end) if begun else ("ok", sent + 80 * took)  # the slow limit is 30 x the median


def window(end_s: float = 40.0, fault_s: float | None = 10.0, baseline: tuple[float, float] = (0.0, 9.5)) -> Window:
    return Window(baseline[0], baseline[1], fault_s, end_s)


def scenario(settle_s: float = 2.0, **parts: object) -> Scenario:
    given: dict[str, object] = {
        "name": "simulated", "faults": (), "objectives": Objectives(rto=timedelta(seconds=60)), "settle": timedelta(seconds=settle_s),
        "steady_state": SteadyState(hold=timedelta(seconds=9)),
    }  # fmt: skip
    return Scenario(**(given | parts))


def fault(injecting: float | None = 10.0, index: int = 0, **parts: object) -> InjectedFault:
    """A proven and undone one."""
    effective = None if injecting is None else (injecting, injecting + 0.05)
    base = InjectedFault(
        index, "replica-kill", ({"identity": "pid 1", "name": "r0", "role": "replica"},), "", "now", injecting, effective,
        {"source": "/proc", "detail": "gone", "facts": {}}, 35.0, (35.0, 35.1), True, {"source": "/proc", "detail": "back", "facts": {}},
        undo={"kind": "replica-kill", "deadline_s": 600.0},
    )  # fmt: skip
    return replace(base, **parts)


def observed(lanes: Sequence[LaneInfo], probes: Sequence[Probe], when: Window | None = None, **parts: object) -> Observed:
    moments = when or window()
    clock = tuple((float(t), 1.7e9 + t) for t in range(int(moments.end_s) + 1))
    faults = () if moments.fault_s is None else (fault(moments.fault_s),)
    given: dict[str, object] = {"writes": (), "read_back": (), "clock": clock, "faults": faults}
    return Observed(lanes=lanes, probes=probes, window=moments, **(given | parts))


def writes(count: int, start: float, step: float, outcome: str = "acked") -> list[Write]:
    acked = outcome == "acked"
    return [Write(f"w{n}", start + n * step, start + n * step + 0.003 if acked else None, outcome) for n in range(count)]


def read_back(entries: Sequence[Write], **found: Sequence[str]) -> list[ReadBack]:
    """All present but for those named: `lost=["w3"]`."""
    what = {name: kind for kind, names in found.items() for name in names}
    return [ReadBack(entry.id, what.get(entry.id, "present")) for entry in entries if entry.outcome == "acked"]


AT_LEAST_99 = Bound(">=", 0.99)
