"""Finished runs made by hand, as the reports get them: one of each verdict, a masked and a partial one, and a long one.

All moments are seconds on the drill's clock. Randomness is seeded: the same run comes out every time.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blackstart.drills.finished import FinishedRun, InjectedFault, Record
from blackstart.drills.measure import values as v
from blackstart.drills.measure.anatomy import anatomy
from blackstart.drills.scenario import Bound, Objectives, RunbookStep, Scenario
from blackstart.drills.service import Endpoint, Service
from blackstart.drills.verdict import ExitCode, Judged, Judgement, Reason, Verdict

STARTED = datetime(2026, 11, 22, 10, 15, 0, 250_000, tzinfo=UTC)
IMPACT, RECOVERED = 13.43, 16.36
TOKEN_LANES = ("semantic", "stream", "workload")


@dataclass(frozen=True)
class Trouble:
    """From `start` to `end` a lane answers with `outcome`, in `share` of all cases, after `after_s`."""

    start: float
    end: float
    outcome: str
    share: float = 1.0
    after_s: float = 0.0006
    text: str = ""


@dataclass(frozen=True)
class Lane:
    name: str
    kind: str
    period_s: float
    latency_s: float
    troubles: tuple[Trouble, ...] = ()
    url: str = "http://127.0.0.1:8000/v1/models"
    component: str = ""

    def info(self) -> v.LaneInfo:
        return v.LaneInfo(self.name, self.kind, self.url, self.period_s, self.component)

    def probes(self, until_s: float, seed: int) -> list[v.Probe]:
        """One probe per period; while in trouble twice as many, as the prober does."""
        chance, found, at, number = random.Random(f"{seed}/{self.name}"), [], 2.0 + self.period_s / 3, 0
        while at < until_s:
            trouble = next((t for t in self.troubles if t.start <= at < t.end and chance.random() < t.share), None)
            sent, took = at + chance.uniform(0, 0.0008), self.latency_s * chance.lognormvariate(0, 0.18)
            outcome, text = (trouble.outcome, trouble.text) if trouble else ("ok", "")
            took = trouble.after_s * chance.uniform(0.9, 1.1) if trouble and trouble.after_s else took
            status = {"status-5xx": 503, "refused": 0, "reset": 0, "timeout": 0}.get(outcome, 200)
            first = sent + took * 0.8 if status else None
            tokens = 24 if self.kind == "stream" else 0
            backend = self.component or ("r0", "r1")[number % 2]
            found.append(v.Probe(self.name, number, at, sent, first, sent + took, outcome, status, backend, tokens, 0.02, text))
            at += self.period_s / (2 if trouble else 1)
            number += 1
        return found


def lane_report(lane: Lane, probes: list[v.Probe], ended_s: float) -> v.LaneReport:
    classes = Counter(p.outcome for p in probes if p.outcome != "ok")
    good = sum(p.outcome == "ok" for p in probes)
    down = [v.Stretch("down", t.start, min(t.end, ended_s)) for t in lane.troubles]
    return v.LaneReport(
        lane.info(), good, 0, sum(classes.values()), 0, dict(classes), lane.latency_s, lane.latency_s * 1.35,
        lane.latency_s * 0.8 if lane.kind in TOKEN_LANES else None, max(0.05, lane.latency_s * 3),
        (v.Stretch("up", 2.0, down[0].start_s if down else ended_s), *down), 0, lane.period_s,
    )  # fmt: skip


def lanes(down: tuple[Trouble, ...], replicas: Mapping[str, tuple[Trouble, ...]], rate: float = 20.0) -> tuple[Lane, ...]:
    """The usual lanes before a service with replicas; `down` is what users see, `replicas` what each replica does."""
    slow = tuple(replace(t, after_s=max(t.after_s, 0.004)) for t in down)
    cut = tuple(replace(t, outcome="truncated", after_s=0.9, end=min(t.end, t.start + 1.2)) for t in down)
    return (
        Lane("fresh", "fresh", 1 / rate, 0.0034, down),
        Lane("reuse", "reuse", 1 / 7.3, 0.0021, tuple(replace(t, outcome="reset") if t.outcome == "refused" else t for t in down)),
        Lane("semantic", "semantic", 0.5, 0.084, slow, "http://127.0.0.1:8000/v1/completions"),
        Lane("stream", "stream", 0.8, 0.61, cut, "http://127.0.0.1:8000/v1/completions"),
        *(Lane(f"replica-{name}", "replica", 1.0, 0.081, t, "http://127.0.0.1:8001/v1/completions", name) for name, t in replicas.items()),
        Lane("health-ready", "health", 0.5, 0.0019, tuple(replace(t, start=t.start + 1.05) for t in down if t.end - t.start > 1.1)),
        Lane("control", "control", 0.1, 0.0003),
    )  # fmt: skip


PROBER = v.ProberHealth(0.05, 0.0002, 0.0019, 0.0112, 1.0, 0.0, 0.0, True)
SCENARIO = Scenario(
    name="all-replicas-kill", faults=(), title="Every replica dies at once, while streams are open",
    objectives=Objectives(rto=timedelta(seconds=60), rpo=timedelta(0), quality_loss=0, availability=Bound(">=", 0.9)),
    rehearses=("https://status.example.org/incidents/recovery-stampede",),
    certifies="A pass shows that supervised replicas come back by themselves; it says nothing about the loss of a whole host.",
    runbook=(RunbookStep("Acknowledge the page", "on-call"),), lessons="Warm the page cache before traffic is let in.",
)  # fmt: skip
SERVICE = Service("llm", "process", Endpoint(url="http://127.0.0.1:8000", protocol="openai", model="tiny"), health=("/ready",))
RTO = Judged("rto", 60.0, "<=", "s", "recovery_time", v.Interval(2.91, 2.95), Verdict.PASSED, "Users were back within 60 s.")
OBJECTIVES = (
    RTO,
    Judged("rpo", 0.0, "<=", "s", "data_loss", 0.0, Verdict.PASSED, "No acknowledged write was lost."),
    Judged("quality_loss", 0.0, "<=", "count", "quality_loss", 0.0, Verdict.PASSED, "No wrong answer was served."),
    Judged("availability", 0.9, ">=", "share", "availability", 0.937, Verdict.PASSED, "93.7 % of requests were answered right."),
)
TARGETS = tuple(
    {"identity": f"pid {pid} started {start}", "name": name, "role": "replica", "details": {"port": port}}
    for name, pid, start, port in (("r0", 41207, 913_346, 8001), ("r1", 41209, 913_351, 8002))
)
FAULT = InjectedFault(
    0, "replica-kill", TARGETS, "A supervisor replaces dead replicas. It does not show that a lost host is survived.", "now",
    13.402, (13.41, 13.436),
    {"source": "/proc", "detail": "both processes are gone; their ports refuse connections", "facts": {"pids_gone": [41207, 41209], "ports_refusing": 2}},
    15.9, (16.2, 21.52), True,
    {"source": "the service's own answers", "detail": "two replicas with new identities answer the golden question",
     "facts": {"before": {"r0": "pid 41207", "r1": "pid 41209"}, "after": {"r0": "pid 41311", "r1": "pid 41312"}}},
)  # fmt: skip


def journal(entries: list[tuple[float, str, dict[str, object]]]) -> tuple[Record, ...]:
    return tuple(
        Record(i, t, (STARTED + timedelta(seconds=t)).isoformat(), event, fields, f"sha256:{i:02x}{'5e' * 31}")
        for i, (t, event, fields) in enumerate(entries)
    )


JOURNAL = journal([
    (0.0, "started", {"seed": 71}), (0.4, "planned", {"targets": 2}), (12.0, "steady", {"probes": 480}),
    (13.38, "undo-recorded", {"fault": 0}), (13.402, "injecting", {"fault": 0}), (13.436, "effective", {"fault": 0}),
    (15.9, "recovering", {"fault": 0}), (16.2, "undone", {"fault": 0}), (21.52, "undo-verified", {"fault": 0}),
    (58.9, "judged", {"verdict": "passed"}), (59.0, "ended", {}),
])  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The parts of a measurement that differ between runs."""

    recovery: v.Recovery
    ended_s: float = 59.0
    detect: Mapping[str, v.Interval | None] = field(default_factory=lambda: {"/ready": v.Interval(1.0, 1.5)})
    data: v.DataLoss | None = v.DataLoss(412, 0, 0, 0, 3, 0, None, v.Interval(0.02, 0.06))
    quality: v.QualityLoss | None = v.QualityLoss(118, 0)
    missing: Mapping[str, str] = field(default_factory=dict)
    steady: v.Baseline = v.Baseline(2.0, 12.0, True)
    ways: Mapping[str, tuple[v.Milestone, ...]] = field(default_factory=dict)


def build(
    all_lanes: tuple[Lane, ...], parts: Measured, judgement: Judgement, faults: tuple[InjectedFault, ...] = (FAULT,)
) -> FinishedRun:
    by_lane = {lane.name: lane.probes(parts.ended_s, 7) for lane in all_lanes}
    reports = tuple(lane_report(lane, by_lane[lane.name], parts.ended_s) for lane in all_lanes)
    outages = tuple(
        v.Outage(lane.name, v.Interval(t.start - 0.01, t.start + 0.01),
                 None if t.end >= parts.ended_s else v.Interval(t.end - 0.01, t.end + 0.01),
                 None if t.end >= parts.ended_s else v.Interval(t.end - t.start - 0.02, t.end - t.start + 0.02),
                 {t.outcome: sum(p.outcome == t.outcome for p in by_lane[lane.name])})
        for lane in all_lanes if lane.kind != "stream" for t in lane.troubles
    )  # fmt: skip
    measurement = v.Measurement(
        parts.steady, parts.recovery, parts.detect, dict(parts.detect), parts.data, parts.quality,
        v.Availability(0.935, 0.937, 0.941, 1904), v.Streams(58, 54, 4, 61, 0.94), reports, outages, PROBER, parts.missing,
        parts.ways,
    )  # fmt: skip
    measurement = replace(measurement, anatomy=anatomy(measurement, faults))
    probes = sorted((p for found in by_lane.values() for p in found), key=lambda p: p.intended_s)
    run = "20261122T101500-all-replicas-kill-7f3a"
    return FinishedRun(
        Path("blackstart-runs") / run, run, SCENARIO, "name: all-replicas-kill\n", "sha256:" + "4f" * 32, SERVICE, {"seed": 71},
        JOURNAL, True, faults, tuple(probes), (), (), measurement, judgement, STARTED.isoformat(), parts.ended_s, "none",
        {"blackstart": "0.1.0", "python": "3.11.2", "platform": "Linux 6.1 x86_64"},
    )  # fmt: skip


def judgement(verdict: Verdict, objectives: tuple[Judged, ...], *reasons: tuple[str, str]) -> Judgement:
    return Judgement(verdict, ExitCode[verdict.name], tuple(Reason(*r) for r in reasons), objectives)


BACK = v.Recovery(
    v.Interval(13.42, 13.44), v.Interval(16.35, 16.37), v.Interval(2.91, 2.95), v.Interval(2.914, 2.96),
    v.Interval(8.06, 8.14), longest_gap_s=0.21, follows="fault 0 effective",
)  # fmt: skip
REFUSED = (Trouble(IMPACT, RECOVERED, "refused", text="connection refused"),)
SHORT = lanes(REFUSED, {"r0": REFUSED, "r1": (replace(REFUSED[0], end=21.5),)})
MET = ("objective-met", "Recovery time 2.93 s [2.91, 2.95] is within 60 s.")


def passed() -> FinishedRun:
    return build(SHORT, Measured(BACK), judgement(Verdict.PASSED, OBJECTIVES, MET))


def hour() -> FinishedRun:
    """3,600 s at 50 Hz, about 230,000 answers, the same 2.93 s outage in the middle of nowhere and a second, flapping one."""
    flapping = tuple(Trouble(s, s + 2.0, "status-5xx", 0.5, 0.003) for s in range(1200, 1800, 4))
    return build(lanes((*REFUSED, *flapping), {"r0": REFUSED, "r1": ()}, 50.0), Measured(BACK, 3600.0), passed().judgement)


def way(slot: str, at_s: float, **steps: float) -> tuple[v.Milestone, ...]:
    """Steps by name, each so long after `at_s`, known to a quarter of a second."""
    found = [(step.replace("_", "-"), at_s + after_s) for step, after_s in steps.items()]
    identity = f"pod:models/{slot}-new@uid-of-{slot}"
    return tuple(v.Milestone(step, slot, identity, "llm", v.Interval(t - 0.23, t + 0.02)) for step, t in found)


def on_kubernetes() -> FinishedRun:
    """Both replicas are killed, and the cluster brings them back one after the other; r1 has to be pulled."""
    r0 = way(
        "r0", 13.43, endpoint_removed=0.05, created=0.12, scheduled=0.14, pulled=0.9, started=1.6, ready=2.7, endpoint_added=2.75
    )
    r1 = way(
        "r1", 13.43, endpoint_removed=0.07, created=0.13, scheduled=0.16, pulled=5.1, started=5.9, ready=8.2, endpoint_added=8.24
    )
    removed = v.Interval(0.0, 0.06)
    run = build(
        SHORT,
        Measured(BACK, detect={"/ready": v.Interval(1.0, 1.5), "endpoint-removed": removed}, ways={"r0": r0, "r1": r1}),
        passed().judgement,
    )
    return replace(run, service=replace(run.service, platform="kubernetes"))


def failed() -> FinishedRun:
    """Never recovered, wrong answers from one replica, acknowledged writes lost."""
    wrong = Trouble(20.0, 75.0, "wrong-answer", 0.6, 0.08, 'ĠĠthe the<script>alert("x")</script> the')
    down = (Trouble(IMPACT, 75.0, "status-5xx", 0.93, 0.0031, "503 Service Unavailable"),)
    objectives = (
        replace(RTO, value=v.Interval(61.5, 61.5), target=30.0, censored=True, verdict=Verdict.FAILED, text="Not recovered within 61.5 s; 30 s were allowed."),
        replace(OBJECTIVES[1], value=v.Interval(1.21, 1.32), verdict=Verdict.FAILED, text="5 acknowledged writes were lost."),
        replace(OBJECTIVES[2], value=23.0, verdict=Verdict.FAILED, text="23 wrong answers were served as right ones."),
        replace(OBJECTIVES[3], value=0.312, verdict=Verdict.FAILED, text="31.2 % of requests were answered right; 90 % were demanded."),
        Judged("time_to_detect", 30.0, "<=", "s", "time_to_detect", None, Verdict.FAILED, "No health endpoint noticed within 61.5 s."),
    )  # fmt: skip
    parts = Measured(
        v.Recovery(v.Interval(13.42, 13.44), censored_after_s=61.5, longest_gap_s=0.21, follows="fault 0 effective"), 75.0,
        {"/ready": None}, v.DataLoss(412, 5, 1, 0, 3, 0, v.Interval(1.21, 1.32), v.Interval(0.4, 0.6), ("w-0201", "w-0202", "w-0203")),
        v.QualityLoss(118, 23, 20.1, 74.6, " Paris, which is", wrong.text, ("r1",)),
    )  # fmt: skip
    liars = {"replica-r1": (wrong,), "semantic": (replace(wrong, start=IMPACT, share=0.4), *down)}
    all_lanes = tuple(replace(x, troubles=liars.get(x.name, x.troubles)) for x in lanes(down, {"r0": down, "r1": ()}))
    reasons = [("objective-missed", o.text) for o in objectives]
    return build(all_lanes, parts, judgement(Verdict.FAILED, objectives, *reasons))


def masked() -> FinishedRun:
    fine = judgement(
        Verdict.PASSED,
        (replace(RTO, value=v.Interval(0.0, 0.21)),),
        ("objective-met", "No interruption longer than 0.21 s was seen."),
    )
    parts = Measured(v.Recovery(masked=True, longest_gap_s=0.21), detect={})
    return build(lanes((), {"r0": REFUSED, "r1": ()}), parts, fine)


def degraded() -> FinishedRun:
    """No interruption, but for ten seconds every twelfth answer fails."""
    some = (Trouble(14.0, 24.0, "status-5xx", 0.08, 0.003),)
    run = build(
        lanes(some, {"r0": (), "r1": ()}),
        Measured(v.Recovery(longest_gap_s=0.21, degraded_s=10.0), detect={}),
        masked().judgement,
    )
    shown = tuple(replace(x, stretches=(v.Stretch("degraded", 14.0, 24.0),)) for x in run.measurement.lanes)
    return replace(run, measurement=replace(run.measurement, lanes=shown, outages=()))


def partial() -> FinishedRun:
    """One of two replicas hangs: about half of all requests time out, the others are fine."""
    half = (Trouble(IMPACT, 25.0, "timeout", 0.5, 0.5, "nothing before the first byte"),)
    value = v.Interval(11.53, 11.61)
    parts = Measured(replace(BACK, recovered=v.Interval(24.97, 25.03), recovery_time=value, from_fault=value))
    return build(
        lanes(half, {"r0": (replace(half[0], share=1.0),), "r1": ()}),
        parts,
        judgement(Verdict.PASSED, (replace(RTO, value=value),), MET),
    )


def inconclusive() -> FinishedRun:
    """Not steady before the fault: nothing was injected, nothing could be measured."""
    why = "the service was not steady before the fault: 91.2 % of answers on lane semantic were right, 99 % were demanded"
    unknown = "nothing was injected"
    missing = dict.fromkeys(("recovery_time", "data_loss", "availability"), unknown)
    parts = Measured(v.Recovery(), 13.0, {}, None, None, missing, v.Baseline(2.0, 12.0, False, (why,)))
    objectives = tuple(replace(o, value=None, verdict=Verdict.INCONCLUSIVE, text=unknown) for o in OBJECTIVES)
    shaky = (Trouble(2.0, 12.0, "status-5xx", 0.09, 0.003),)
    return build(lanes(shaky, {"r0": (), "r1": ()}), parts, judgement(Verdict.INCONCLUSIVE, objectives, ("not-steady", why)), ())


def aborted() -> FinishedRun:
    why = "success stayed below 20 % for 5 s, the scenario's abort condition"
    fault = replace(FAULT, recovering_s=18.6, undone=(18.7, 19.9))
    objectives = tuple(replace(o, verdict=Verdict.INCONCLUSIVE, text="the drill was aborted") for o in OBJECTIVES[1:])
    return build(SHORT, Measured(BACK, 25.0), judgement(Verdict.ABORTED, objectives, ("abort-condition", why)), (fault,))


def dirty() -> FinishedRun:
    fault = replace(
        FAULT, undone=None, undo_verified=False, undo_evidence=None, undo_problem="r1: pid 41312 is stopped (state T)"
    )
    return build(
        SHORT, Measured(BACK), judgement(Verdict.DIRTY, OBJECTIVES, ("undo-incomplete", "r1 was not put back"), MET), (fault,)
    )


def internal() -> FinishedRun:
    return replace(inconclusive(), judgement=judgement(Verdict.INTERNAL, (), ("internal-error", "ZeroDivisionError in edges.py")))


KINDS: Mapping[str, Callable[[], FinishedRun]] = {
    "passed": passed, "kubernetes": on_kubernetes, "failed": failed, "masked": masked, "degraded": degraded, "partial": partial, "inconclusive": inconclusive,
    "aborted": aborted, "dirty": dirty, "internal": internal,
}  # fmt: skip
