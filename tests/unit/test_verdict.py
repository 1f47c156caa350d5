"""Every row of the verdict table, and the lies that must not pass."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from blackstart.drills.measure.measurement import measure
from blackstart.drills.measure.values import (
    Availability,
    Baseline,
    DataLoss,
    Interval,
    Measurement,
    ProberHealth,
    QualityLoss,
    Recovery,
    Streams,
)
from blackstart.drills.scenario import Bound, Objectives
from blackstart.drills.verdict import Ended, ExitCode, Judgement, Verdict, judge, worst
from blackstart.tests.unit.measure_simulation import FRESH, SEMANTIC, Simulation, Trouble, fault, observed, scenario, window

ALL = Objectives(
    rto=timedelta(seconds=60),
    rpo=timedelta(0),
    quality_loss=0,
    availability=Bound(">=", 0.9),
    time_to_detect=timedelta(seconds=30),
    streams_cut=2,
)
BACK = Recovery(Interval(10.0, 10.1), Interval(12.9, 13.0), Interval(2.8, 3.0), Interval(2.9, 3.0), None, None, longest_gap_s=3.0)
GOOD = Measurement(
    baseline=Baseline(0.0, 10.0, steady=True),
    recovery=BACK,
    time_to_detect={"/ready": Interval(0.5, 1.0)},
    health_honesty_gap={},
    data_loss=DataLoss(200, 0, 0, 0, 1, 0, None, Interval(0.0, 0.1), before_fault=100),
    quality_loss=QualityLoss(100, 0),
    availability=Availability(0.95, 0.95, 0.95, 500),
    streams=Streams(20, 19, 1, 10, 0.5),
    lanes=(),
    outages=(),
    prober=ProberHealth(0.02, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, trusted=True),
)


def judged(objectives: Objectives = ALL, faults: tuple = (fault(),), ended: Ended | None = None, **parts: Any) -> Judgement:
    return judge(scenario(objectives=objectives), replace(GOOD, **parts), faults, ended or Ended())


def row(name: str, found: Judgement) -> tuple[Verdict, str]:
    one = next(one for one in found.objectives if one.name == name)
    return one.verdict, one.text


def test_all_met_is_passed() -> None:
    found = judged()
    assert (found.verdict, found.exit_code) == (Verdict.PASSED, ExitCode.PASSED)
    assert {one.verdict for one in found.objectives} == {Verdict.PASSED}
    assert {reason.code for reason in found.reasons} == {"objective-met"}
    assert len(found.reasons) == 6
    assert found.reasons[0].text == "Users were interrupted for 2.9 s [2.8, 3.0]; up to 60 s were allowed."


def test_with_less_load_than_was_asked_for_nothing_is_passed() -> None:
    short = Ended(too_little_load=("load-1: the pod is gone",))
    found = judged(ended=short)
    assert (found.verdict, found.exit_code) == (Verdict.INCONCLUSIVE, ExitCode.INCONCLUSIVE)
    assert found.reasons[0].code == "load-not-given"
    assert found.reasons[0].text == "the load that was asked for was not given: load-1: the pod is gone"
    missed = judged(replace(ALL, rto=timedelta(seconds=1)), ended=short)
    assert missed.verdict is Verdict.FAILED, "it would not have done better with more"


RTO = Objectives(rto=timedelta(seconds=3))
MASKED = Recovery(masked=True, longest_gap_s=0.6)
CENSORED = Recovery(Interval(10.0, 10.1), censored_after_s=29.9)


@pytest.mark.parametrize(
    ("recovery", "verdict", "words"),
    [
        (replace(BACK, recovery_time=Interval(2.9, 3.0)), "passed", "for 2.95 s [2.90, 3.00]; up to 3 s were allowed."),
        (replace(BACK, recovery_time=Interval(2.9, 3.01)), "inconclusive", "straddles"),
        (replace(BACK, recovery_time=Interval(3.01, 3.2)), "failed", "3.10 s [3.01, 3.20]; up to 3 s were allowed."),
        (CENSORED, "failed", "more than 29.9 s; up to 3 s were allowed."),
        (replace(CENSORED, censored_after_s=2.0), "inconclusive", "let `observe` be longer"),
        (replace(CENSORED, censored_after_s=2.0, revived=True), "failed", "nothing but the undo started it again"),
        (replace(CENSORED, recovered=Interval(40, 41)), "failed", "it came back only after the fault was undone"),
        (MASKED, "passed", "No interruption longer than 0.6 s was seen; up to 3 s were allowed."),
        (replace(MASKED, longest_gap_s=3.1), "inconclusive", "between two probes"),
        (Recovery(longest_gap_s=0.6, degraded_s=8.0), "passed", "for 8.0 s a part of the answers was bad"),
        (Recovery(), "inconclusive", "is not known"),
        (replace(BACK, recovered=None, recovery_time=None), "inconclusive", "is not known"),
    ],
)
def test_rto(recovery: Recovery, verdict: str, words: str) -> None:
    found = judged(RTO, recovery=recovery)
    assert found.verdict == verdict
    assert found.exit_code == ExitCode[verdict.upper()]
    assert words in row("rto", found)[1]
    assert found.objectives[0].censored == (recovery.censored_after_s is not None)


def loss(lost: int = 0, oldest: Interval | None = None, **parts: Any) -> DataLoss:
    return replace(DataLoss(200, lost, 0, 0, 0, 0, oldest, None, before_fault=100), **parts)


@pytest.mark.parametrize(
    ("rpo_s", "data_loss", "verdict", "words"),
    [
        (0, loss(), "passed", "None of 200 acknowledged writes was seen lost; none may be lost."),
        (0, loss(1, Interval(0.0, 0.1)), "failed", "1 of 200 acknowledged writes were lost, the oldest"),
        (0, loss(corrupt=2, oldest_lost=Interval(0.0, 0.1)), "failed", "2 of them corrupt"),
        (5, loss(3, Interval(4.0, 4.9)), "passed", "up to 5 s may be lost."),
        (5, loss(3, Interval(4.0, 5.9)), "inconclusive", "straddles"),
        (5, loss(3, Interval(5.1, 5.9)), "failed", "5.5 s [5.1, 5.9] before the fault"),
        (5, loss(3, Interval(5.1, 5.9), unread=3), "failed", "5.5 s"),
        (5, loss(3, Interval(4.0, 4.9), reaches_back=True), "inconclusive", "further than the ledger"),
        (5, loss(3, Interval(5.1, 5.9), reaches_back=True), "failed", "5.5 s"),
        (0, loss(unread=1), "inconclusive", "1 could not be read back"),
        (0, loss(before_fault=9), "inconclusive", "only 9 were acknowledged"),
        (5, loss(3, Interval(4.0, 4.9), before_fault=9), "inconclusive", "only 9"),
        (5, loss(3), "inconclusive", "not known"),
        (0, loss(3), "failed", "not known"),
        (0, None, "inconclusive", "is not known"),
    ],
)
def test_rpo(rpo_s: int, data_loss: DataLoss | None, verdict: str, words: str) -> None:
    found = judged(Objectives(rpo=timedelta(seconds=rpo_s)), data_loss=data_loss)
    assert found.verdict == verdict
    assert words in row("rpo", found)[1]


@pytest.mark.parametrize(
    ("quality", "verdict"),
    [
        (QualityLoss(100, 3), "passed"),
        (QualityLoss(100, 4), "failed"),
        (QualityLoss(0, 0), "inconclusive"),
        (None, "inconclusive"),
        (QualityLoss(100, 0, on_replicas=50), "passed"),  # users did not get those
    ],
)
def test_quality_loss(quality: QualityLoss | None, verdict: str) -> None:
    assert judged(Objectives(quality_loss=3), quality_loss=quality).verdict == verdict


@pytest.mark.parametrize(
    ("share", "requests", "bound", "verdict"),
    [
        (0.99, 500, Bound(">=", 0.99), "passed"),
        (0.989, 500, Bound(">=", 0.99), "failed"),
        (0.99, 500, Bound(">", 0.99), "failed"),
        (1.0, 99, Bound(">=", 0.99), "inconclusive"),
        (0.5, 20, Bound(">=", 0.99), "failed"),  # ten are too many, whatever the others would have been
        (1.0, 5, Bound(">=", 1.0), "passed"),
    ],
)
def test_availability(share: float, requests: int, bound: Bound, verdict: str) -> None:
    found = judged(Objectives(availability=bound), availability=Availability(share, share, share, requests))
    assert found.verdict == verdict
    assert judged(Objectives(availability=bound), availability=None).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("seen", "recovery", "verdict", "words"),
    [
        ({"/ready": Interval(0.5, 1.0), "/health": None}, BACK, "passed", "/ready noticed after 0.8 s [0.5, 1.0]"),
        ({"/ready": Interval(30.5, 31.0)}, BACK, "failed", "30 s were allowed"),
        ({"/ready": Interval(29.5, 31.0)}, BACK, "inconclusive", "straddles"),
        ({"/ready": None, "/health": None}, BACK, "failed", "Not detected by /ready, /health"),
        ({"/ready": None}, MASKED, "passed", "nothing to detect"),
        ({"/ready": None}, Recovery(degraded_s=3.0), "inconclusive", "not known"),
        ({}, BACK, "inconclusive", "not known"),
    ],
)
def test_time_to_detect(seen: dict[str, Interval | None], recovery: Recovery, verdict: str, words: str) -> None:
    found = judged(Objectives(time_to_detect=timedelta(seconds=30)), time_to_detect=seen, recovery=recovery)
    assert found.verdict == verdict
    assert words in row("time_to_detect", found)[1]


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (Streams(20, 18, 2, 0, 0), "passed"),
        (Streams(20, 18, 2, 0, 0, at_stake=2), "passed"),
        (Streams(20, 20, 0, 0, 0, at_stake=0), "inconclusive"),
        (Streams(20, 17, 3, 0, 0, at_stake=0), "failed"),
        (Streams(20, 17, 3, 0, 0), "failed"),
        (Streams(0, 0, 0, 0, 0), "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_streams_cut(seen: Streams | None, verdict: str) -> None:
    assert judged(Objectives(streams_cut=2), streams=seen).verdict == verdict


@pytest.mark.parametrize(
    ("seen", "verdict", "words"),
    [
        (Streams(20, 20, 0, 0, 3.0, at_stake=2), "passed", "was 3 s, of 20 that were open; 3 s were allowed."),
        (Streams(20, 20, 0, 0, 3.0), "inconclusive", "no answer says of which replica it is"),
        (Streams(20, 18, 2, 0, 3.1, at_stake=1), "failed", "was 3.1 s"),
        (Streams(20, 18, 2, 0, 6.0), "failed", "was more than 6 s"),  # after twice what is allowed a stream is given up
        (Streams(20, 20, 0, 0, 0.1, at_stake=0), "inconclusive", "none was open on a target"),
        (Streams(0, 0, 0, 0, 0), "inconclusive", "no stream was open"),
        (None, "inconclusive", "is not known"),
    ],
)
def test_stream_gap(seen: Streams | None, verdict: str, words: str) -> None:
    found = judged(Objectives(stream_gap=timedelta(seconds=3)), streams=seen)
    assert found.verdict == verdict
    assert words in row("stream_gap", found)[1]
    assert found.objectives[0].censored == ("more than" in words)


MISSED = replace(BACK, recovery_time=Interval(70.0, 71.0))
UNSTEADY = Baseline(0.0, 10.0, steady=False, why_not=("semantic: 12 of 20 answers wrong-answer",))
UNPROVEN = replace(fault(), effective=None, evidence=None, problem="the port still answers")
STARVED = replace(GOOD.prober, trusted=False, why_not=("prober: 90.0% of the planned probes were made, 99.5% are needed",))
BROKEN = replace(fault(), undo_verified=False, undo_problem="pid 7 is stopped")


@pytest.mark.parametrize(
    ("given", "verdict", "code", "words"),
    [
        ({"baseline": UNSTEADY}, "inconclusive", "not-steady", "12 of 20 answers wrong-answer"),
        ({"faults": (UNPROVEN,)}, "inconclusive", "fault-not-proven", "fault 0, replica-kill: the port still answers"),
        ({"faults": (fault(), replace(UNPROVEN, index=1))}, "inconclusive", "fault-not-proven", "fault 1"),
        ({"faults": ()}, "inconclusive", "fault-not-proven", "nothing was injected"),
        (
            {"ended": Ended(no_fault="the prober ended by itself")},
            "inconclusive",
            "prober-untrusted",
            "the prober ended by itself",
        ),
        ({"prober": STARVED}, "inconclusive", "prober-untrusted", "90.0%"),
        ({"objectives": Objectives()}, "inconclusive", "no-objective", "no objective"),
        ({"ended": Ended(aborted="stopped by SIGINT")}, "aborted", "aborted", "stopped by SIGINT"),
        ({"ended": Ended(internal="KeyError: 3")}, "internal", "internal-error", "KeyError: 3"),
        (
            {"ended": Ended(dirty=("r0 is stopped; run: blackstart recover X",))},
            "dirty",
            "undo-incomplete",
            "blackstart recover X",
        ),
        ({"faults": (BROKEN,)}, "dirty", "undo-incomplete", "pid 7 is stopped; run: blackstart recover"),
        ({"recovery": MISSED}, "failed", "objective-missed", "70.5 s [70.0, 71.0]; up to 60 s were allowed"),
    ],
)
def test_the_drills_own_troubles(given: dict[str, Any], verdict: str, code: str, words: str) -> None:
    found = judged(**given)
    assert found.verdict == verdict
    assert found.exit_code == ExitCode[verdict.upper()]
    assert found.reasons[0].code == code
    assert words in found.reasons[0].text
    if verdict in {"inconclusive", "aborted"}:
        assert Verdict.PASSED not in {one.verdict for one in found.objectives}


def test_a_fault_that_was_not_tried_has_not_the_first_ones_cause() -> None:
    later = replace(fault(), index=1, kind="process-hang", injecting_s=None, effective=None, evidence=None)
    found = judged(faults=(UNPROVEN, later), ended=Ended(no_fault="replica-kill is not proven: the port still answers"))
    assert [reason.text for reason in found.reasons if reason.code == "fault-not-proven"] == [
        "fault 0, replica-kill: the port still answers",
        "fault 1, process-hang: it was not tried, since fault 0 did not come about",
    ]


def test_the_worst_wins() -> None:
    """dirty, internal, aborted, failed, inconclusive, passed: take the worst away, and the next one shows."""
    faults: tuple = (BROKEN,)
    ended = Ended(aborted="a", internal="b", dirty=("c",))
    parts: dict[str, Any] = {"recovery": MISSED, "prober": STARVED}
    seen = [judged(faults=faults, ended=ended, **parts)]
    seen.append(judged(ended=replace(ended, dirty=()), **parts))
    seen.append(judged(ended=Ended(aborted="a"), **parts))
    seen.append(judged(**parts))
    seen.append(judged(prober=STARVED))
    seen.append(judged())
    assert [one.verdict for one in seen] == ["dirty", "internal", "aborted", "failed", "inconclusive", "passed"]
    assert [int(one.exit_code) for one in seen] == [5, 70, 4, 1, 3, 0]
    assert worst([one.exit_code for one in seen]) is ExitCode.DIRTY


def test_missing_data_never_passes() -> None:
    nothing = {
        "data_loss": None,
        "quality_loss": None,
        "availability": None,
        "streams": None,
        "time_to_detect": {},
        "recovery": Recovery(),
    }
    found = judged(**nothing, missing={"data_loss": "no write was made"})
    assert found.exit_code == ExitCode.INCONCLUSIVE
    assert {one.verdict for one in found.objectives} == {Verdict.INCONCLUSIVE}
    assert row("rpo", found)[1] == "Data loss is not known: no write was made."


# How the best ones lie: each drill below passes with another tool.

QUICK = Objectives(rto=timedelta(seconds=2))


def drill(troubles: list[Trouble], objectives: Objectives = QUICK, faults: tuple = (fault(),), **parts: Any) -> Judgement:
    probes = Simulation(troubles, 1, **parts).probes(FRESH, SEMANTIC)
    plan = scenario(objectives=objectives)
    return judge(plan, measure(plan, observed([FRESH, SEMANTIC], probes, window(), faults=faults)), faults, Ended())


def test_lie_1_a_steady_state_that_was_not_met() -> None:
    found = drill([Trouble(0, 5, "wrong")])
    assert found.exit_code == ExitCode.INCONCLUSIVE
    assert found.reasons[0].code == "not-steady"


def test_lie_2_every_injection_fails() -> None:
    found = drill([], faults=(UNPROVEN,))
    assert found.exit_code == ExitCode.INCONCLUSIVE
    assert "replica-kill" in found.reasons[0].text


def test_lie_4_an_outage_of_three_seconds() -> None:
    assert drill([Trouble(10.5, 13.5, "refuse")]).exit_code == ExitCode.FAILED
    assert drill([Trouble(10.5, 13.5, "refuse")], Objectives(rto=timedelta(seconds=5))).exit_code == ExitCode.PASSED


def test_lie_7_no_data() -> None:
    plan = scenario(objectives=QUICK)
    found = judge(plan, measure(plan, observed([FRESH, SEMANTIC], [])), (fault(),), Ended())
    assert found.exit_code == ExitCode.INCONCLUSIVE


@pytest.mark.parametrize("mode", ["refuse", "hang", "never"])
def test_lie_8_an_outage_between_two_polls_or_a_hang(mode: str) -> None:
    """A quarter of a second is seen and bounded; what could hide is told; a hang of three seconds fails."""
    found = drill([Trouble(10.7, 10.95, mode)])
    assert found.exit_code == ExitCode.PASSED
    value = found.objectives[0].value
    assert isinstance(value, Interval)
    assert value.lo_s > 0
    assert drill([Trouble(10.7, 13.7, mode)]).exit_code == ExitCode.FAILED


def test_lie_12_a_starved_prober() -> None:
    """The outage falls into a gap of the prober's own: nothing was seen, and nothing is claimed."""
    found = drill([Trouble(20.1, 21.9, "refuse")], starved=[(20, 22)])
    assert found.exit_code == ExitCode.INCONCLUSIVE
    assert "void" in found.reasons[0].text


@pytest.mark.parametrize(
    ("recovery", "verdict", "text"),
    [
        (
            replace(BACK, redundancy=Interval(8.0, 8.4)),
            Verdict.PASSED,
            "Every replica answered again 8.2 s [8.0, 8.4] after the fault",
        ),
        (
            replace(BACK, redundancy=Interval(31.0, 31.4)),
            Verdict.FAILED,
            "31.2 s [31.0, 31.4] after the fault; 30 s were allowed",
        ),
        (replace(BACK, redundancy=Interval(29.8, 30.2)), Verdict.INCONCLUSIVE, "straddles"),
        (replace(BACK, not_redundant_s=45.0), Verdict.FAILED, "still missing 45.0 s after the fault"),
        (replace(BACK, not_redundant_s=12.0), Verdict.INCONCLUSIVE, "is not known"),
        (BACK, Verdict.INCONCLUSIVE, "is not known"),
    ],
)
def test_time_to_redundancy(recovery: Recovery, verdict: Verdict, text: str) -> None:
    found = row("time_to_redundancy", judged(Objectives(time_to_redundancy=timedelta(seconds=30)), recovery=recovery))
    assert found[0] is verdict
    assert text in found[1]
