"""Whole measurements of simulated drills: the service's clock, partial outages, figures, and what puts them in doubt."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from blackstart.drills.measure.measurement import measure, steady
from blackstart.drills.measure.values import Interval, LaneInfo, Measurement, Probe
from blackstart.drills.scenario import Bound, Fault, Objectives, SteadyState
from blackstart.tests.unit.measure_simulation import (
    CONTROL,
    FRESH,
    READY,
    SEMANTIC,
    Simulation,
    Trouble,
    fault,
    observed,
    scenario,
    window,
)
from hypothesis import given, settings
from hypothesis import strategies as st

USUAL = (FRESH, SEMANTIC, CONTROL, READY)
REPLICAS = tuple(LaneInfo(f"replica:r{n}", "replica", "http://127.0.0.1:9000", 1.0, f"r{n}") for n in (0, 1))
STREAM = LaneInfo("stream", "stream", "http://127.0.0.1:8000", 0.0)


def measured(troubles: Sequence[Trouble], lanes: Sequence[LaneInfo] = USUAL, seed: int = 1, **parts: Any) -> Measurement:
    end_s = parts.pop("end_s", 40.0)
    simulation = Simulation(troubles, seed, end_s=end_s, starved=parts.pop("starved", ()))
    probes = [*simulation.probes(*lanes), *parts.pop("more", ())]
    when = parts.pop("when", window(end_s))
    return measure(parts.pop("scenario", scenario()), observed(lanes, probes, when, **parts))


def holds(interval: Interval | None, truth: float) -> bool:
    return interval is not None and interval.lo_s <= truth <= interval.hi_s


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["refuse", "503", "hang", "never", "wrong"]), st.floats(0.05, 3), st.floats(1.5, 12), st.integers(0, 999))
def test_the_services_clock_holds_the_truth(mode: str, delay: float, length: float, seed: int) -> None:
    start = 10 + delay
    found = measured([Trouble(start, start + length, mode)], seed=seed).recovery
    assert holds(found.impact, start)
    assert holds(found.recovered, start + length)
    assert holds(found.recovery_time, length)
    assert found.follows == "fault 0 effective"
    assert not found.masked


def test_the_service_is_down_until_its_last_lane_is_back() -> None:
    """The port accepts at 13 s, the model answers at 18 s: users are served from 18 s on."""
    found = measured([Trouble(10.3, 13, "refuse"), Trouble(12.9, 18, "503", kinds=("semantic",))]).recovery
    assert holds(found.impact, 10.3)
    assert holds(found.recovered, 18)
    assert found.recovered is not None
    assert found.recovered.lo_s > 17


def test_an_impact_cannot_precede_its_cause() -> None:
    found = measured([Trouble(10.02, 13, "refuse")]).recovery
    assert found.impact is not None
    assert found.impact.lo_s == 10.0
    assert found.impact.hi_s < 10.06


def test_what_comes_back_and_fails_again_within_settle_has_not_recovered() -> None:
    found = measured([Trouble(10.3, 12, "refuse"), Trouble(13, 15, "refuse")], end_s=30).recovery
    assert holds(found.recovery_time, 4.7)


def test_of_separate_interruptions_the_longest_counts_and_says_what_it_follows() -> None:
    faults = (fault(10.0, recovering_s=22.0),)
    found = measured([Trouble(10.3, 11.3, "refuse"), Trouble(22.5, 26.5, "refuse")], faults=faults)
    assert holds(found.recovery.recovery_time, 4.0)
    assert found.recovery.follows == "fault 0 undone"
    assert len([one for one in found.outages if one.lane == "fresh"]) == 2


def test_a_masked_fault_is_bounded_by_what_could_hide_between_probes() -> None:
    found = measured([]).recovery
    assert found.masked
    assert found.impact is None
    assert 0.5 < found.longest_gap_s < 0.8  # the semantic lane's period and answer


@settings(max_examples=40, deadline=None)
@given(st.floats(0.005, 0.6), st.floats(0, 1), st.integers(0, 999))
def test_nothing_longer_than_the_bound_hides_behind_masked(length: float, phase: float, seed: int) -> None:
    found = measured([Trouble(12 + phase, 12 + phase + length, "503", kinds=("semantic",))], seed=seed, end_s=20).recovery
    if found.impact is None:
        assert length <= found.longest_gap_s


def test_starving_widens_what_masked_can_claim() -> None:
    assert measured([], starved=[(20, 22)]).recovery.longest_gap_s > 2


def test_not_recovered_is_a_lower_bound() -> None:
    found = measured([Trouble(10.3, 99, "refuse")]).recovery
    assert found.recovery_time is None
    assert found.recovered is None
    assert found.censored_after_s == pytest.approx(29.7, abs=0.1)


def test_right_answers_that_were_not_watched_for_long_enough_are_no_recovery_and_no_failure() -> None:
    found = measured([Trouble(10.3, 39, "refuse")], scenario=scenario(5.0))
    assert found.recovery.recovery_time is None
    assert found.recovery.censored_after_s is None
    assert "came back" in found.missing["recovery_time"]


class Held:
    """Stands in for an injector that holds its fault until it is undone."""

    instant = False


@pytest.mark.parametrize(("for_s", "instant", "censored"), [(None, False, True), (None, True, False), (10.0, False, False)])
def test_what_came_back_only_through_the_undo_did_not_recover(for_s: float | None, instant: bool, censored: bool) -> None:
    held = Held()
    held.instant = instant
    given_fault = Fault("process-hang", held, for_=None if for_s is None else timedelta(seconds=for_s))  # type: ignore[arg-type]
    faults = (fault(10.0, recovering_s=25.0),)
    found = measured([Trouble(10.3, 25.2, "never")], faults=faults, scenario=scenario(faults=(given_fault,))).recovery
    assert (found.censored_after_s is not None) == censored
    if censored:
        assert found.censored_after_s == pytest.approx(14.7, abs=0.2)
        assert found.recovered is not None
        assert found.recovery_time is None


@pytest.mark.parametrize(("back_s", "censored"), [(18.3, True), (18.0, None), (14.0, False)])
def test_what_came_back_only_when_the_fault_expired_did_not_recover(back_s: float, censored: bool | None) -> None:
    """The site ends the fault 8 s after it began; whoever comes back then, or about then, has not shown that it can."""
    given_fault = Fault("process-hang", Held())  # type: ignore[arg-type]
    faults = (fault(10.0, recovering_s=25.0, undo={"kind": "process-hang", "deadline_s": 8.0}),)
    found = measured([Trouble(10.3, back_s, "never")], faults=faults, scenario=scenario(faults=(given_fault,)))
    assert (found.recovery.censored_after_s is not None) == (censored is True)
    assert (found.recovery.recovery_time is not None) == (censored is False)
    assert censored is not None or "about when the fault ended" in found.missing["recovery_time"]


@pytest.mark.parametrize(("rto_s", "late"), [(60, False), (5, True)])
def test_answers_that_come_back_about_when_the_fault_ends_may_be_too_late_in_any_case(rto_s: float, *, late: bool) -> None:
    given_fault = Fault("process-hang", Held())  # type: ignore[arg-type]
    faults = (fault(10.0, recovering_s=25.0, undo={"kind": "process-hang", "deadline_s": 8.0}),)
    drill = scenario(faults=(given_fault,), objectives=Objectives(rto=timedelta(seconds=rto_s)))
    found = measured([Trouble(10.3, 18.0, "never")], faults=faults, scenario=drill)
    assert found.recovery.recovery_time is None
    assert (found.recovery.censored_after_s is not None) == late
    if late:
        assert found.recovery.censored_after_s == pytest.approx(7.6, abs=0.3)


def test_a_kill_that_only_the_undo_made_good_was_not_recovered_from() -> None:
    held = Held()
    held.instant = True
    faults = (replace(fault(10.0, recovering_s=25.0), undo_revives=True),)
    plan = scenario(faults=(Fault("replica-kill", held),))  # type: ignore[arg-type]
    assert measured([Trouble(10.3, 25.2, "never")], faults=faults, scenario=plan).recovery.recovery_time is None
    assert measured([Trouble(10.3, 14.2, "never")], faults=faults, scenario=plan).recovery.recovery_time is not None


def test_down_before_the_fault_is_said() -> None:
    found = measured([Trouble(9.6, 15, "refuse")])
    assert found.recovery.impact is None
    assert "already down" in found.missing["recovery_time"]


@pytest.mark.parametrize(("lanes", "mode"), [((FRESH,), "503"), (USUAL, "never"), ((SEMANTIC,), "refuse")])
def test_half_of_all_answers_failing_is_an_outage(lanes: tuple[LaneInfo, ...], mode: str) -> None:
    """One of two replicas is dead behind a round robin, for 15 s."""
    found = measured([Trouble(10.3, 25.3, mode, part=2)], lanes)
    assert found.recovery.recovery_time is not None
    assert found.recovery.recovery_time.lo_s <= 15.0 <= found.recovery.recovery_time.hi_s
    assert found.availability is not None
    assert 0.6 < found.availability.requests < 0.9


def test_a_third_failing_is_degraded_and_costs_availability() -> None:
    found = measured([Trouble(15, 30, "503", part=3)], (FRESH,))
    assert not found.recovery.masked
    assert found.recovery.degraded_s == pytest.approx(15, abs=2)
    assert found.availability is not None
    assert found.availability.requests == pytest.approx(1 - 5 / 30, abs=0.02)
    assert "degraded" in {stretch.state for stretch in found.lanes[0].stretches}


def test_availability_three_ways() -> None:
    found = measured([Trouble(20, 30, "refuse")]).availability
    assert found is not None
    assert found.time == pytest.approx(2 / 3, abs=0.02)
    assert found.requests == pytest.approx(2 / 3, abs=0.03)
    assert found.users == pytest.approx(2 / 3, abs=0.02)


def test_probing_faster_while_down_does_not_count_against_the_service() -> None:
    """Four times as many probes while it is down are still the same share of the time."""
    slow = Simulation([Trouble(20, 30, "refuse")], 1).probes(SEMANTIC)
    fast = [
        p for p in Simulation([Trouble(20, 30, "refuse")], 2).probes(replace(SEMANTIC, period_s=0.125)) if 20.5 < p.sent_s < 30
    ]
    both = [*(p for p in slow if not 20.5 < p.sent_s < 30), *fast]
    found = measure(scenario(), observed([SEMANTIC], both)).availability
    assert found is not None
    assert found.requests == pytest.approx(2 / 3, abs=0.03)


def test_stretches_cover_the_watch_without_a_hole() -> None:
    found = measured([Trouble(12, 15, "refuse")], starved=[(20, 23)])
    for lane in found.lanes:
        assert lane.stretches[0].start_s == 0.0
        assert lane.stretches[-1].end_s == 40.0
        assert all(a.end_s == b.start_s for a, b in zip(lane.stretches, lane.stretches[1:], strict=False))
    states = [stretch.state for stretch in found.lanes[0].stretches]
    assert states == ["up", "down", "recovering", "up", "unknown", "up"]


def test_detection_and_honesty() -> None:
    """The model fails from 12 to 20 s, its health endpoint says so from 15 to 20 s."""
    troubles = [Trouble(12, 20, "503", kinds=("semantic", "fresh")), Trouble(15, 20, "503", kinds=("health",))]
    found = measured(troubles)
    assert holds(found.time_to_detect["/ready"], 3.0)
    assert holds(found.health_honesty_gap["/ready"], 3.0)
    lying = measured([Trouble(12, 20, "503", kinds=("semantic", "fresh"))])
    assert lying.time_to_detect["/ready"] is None
    assert holds(lying.health_honesty_gap["/ready"], 8.0)
    early = measured([Trouble(15, 20, "503", kinds=("semantic", "fresh")), Trouble(12, 14, "503", kinds=("health",))])
    assert early.time_to_detect["/ready"] == Interval(0.0, 0.0)
    calm = measured([])
    assert calm.health_honesty_gap["/ready"] == Interval(0.0, 0.0)


@pytest.mark.parametrize(("instant", "replaced", "noticed"), [(True, ("r0",), False), (True, (), True), (False, ("r0",), False)])
def test_what_fails_only_when_the_undo_replaces_the_victim_was_not_noticed(
    *, instant: bool, replaced: tuple[str, ...], noticed: bool
) -> None:
    """The model fails from 12 s; its health endpoint is gone from 25.2 s, while the undo, begun at 25 s, stops what is left of the victim."""
    held = Held()
    held.instant = instant
    troubles = [Trouble(12, 28, "503", kinds=("semantic", "fresh")), Trouble(25.2, 28, "refuse", kinds=("health",))]
    undone = fault(10.0, recovering_s=25.0, replaced=replaced)
    plan = scenario(faults=(Fault("process-kill", held),))  # type: ignore[arg-type]
    found = measured(troubles, faults=(undone,), scenario=plan).time_to_detect
    assert (found["/ready"] is not None) == noticed


@pytest.mark.parametrize(("mode", "noticed"), [("refuse", False), ("never", False), ("503", True)])
def test_a_victim_that_does_not_answer_has_noticed_nothing(mode: str, noticed: bool) -> None:
    """The dead replica's own port refuses: that is the fault. An answer that it is not well is a sign, and so is the other one's."""
    own = LaneInfo("health:r0/health", "health", "http://127.0.0.1:9000/health", 0.5, "r0")
    other = LaneInfo("health:r1/health", "health", "http://127.0.0.1:9001/health", 0.5, "r1")
    found = measured([Trouble(12, 20, mode, kinds=("semantic", "fresh", "health"))], (*USUAL, own, other)).time_to_detect
    assert (found["r0 /health"] is not None) == noticed
    assert found["r1 /health"] is not None
    assert found["/ready"] is not None
    inside = replace(fault(10.0), targets=({"identity": "pid 2", "name": "r0/engine", "role": "engine"},))
    engine = measured([Trouble(12, 20, mode, kinds=("semantic", "fresh", "health"))], (*USUAL, own), faults=(inside,))
    assert (engine.time_to_detect["r0 /health"] is not None) == noticed


def test_an_endpoint_that_never_was_healthy_has_no_honesty() -> None:
    found = measured([Trouble(0, 40, "503", kinds=("health",))])
    assert found.health_honesty_gap["/ready"] is None
    assert "/ready" in found.missing["health_honesty_gap"]


def test_redundancy_is_back_with_the_last_replica() -> None:
    troubles = [Trouble(10.2, 12, "refuse", kinds=("replica",))]
    lanes = (*USUAL, *REPLICAS)
    found = measured([Trouble(10.2, 17, "refuse", kinds=("replica",))], lanes)
    assert found.recovery.masked  # users did not notice
    assert holds(found.recovery.redundancy, 17 - 10.025)
    assert measured([Trouble(10.2, 99, "refuse", kinds=("replica",))], lanes).missing["time_to_redundancy"].startswith("r0, r1")
    assert measured(troubles).missing["time_to_redundancy"] == "no lane asks the replicas one by one"


PREFILL = {"component_role": "prefill"}


@pytest.mark.parametrize("hit", [{"name": "p0", "role": "prefill"}, {"name": "p0/engine", "role": "engine", "details": PREFILL}])
def test_redundancy_is_not_had_where_nobody_asks_the_worker_that_was_hit(hit: dict[str, Any]) -> None:
    """Another one's lane tells nothing of it; but that the other one was still missing fails the drill."""
    lanes = (*USUAL, LaneInfo("replica:d0", "replica", "http://127.0.0.1:9000", 1.0, "d0"))
    struck = (replace(fault(10.0), targets=(hit,)),)
    found = measured([Trouble(10.2, 17, "refuse", kinds=("replica",))], lanes, faults=struck)
    assert found.recovery.redundancy is None
    assert found.missing["time_to_redundancy"] == "nobody asks p0 by itself, so when it was back is not known"
    assert found.recovery.not_redundant_s is None
    assert measured([Trouble(10.2, 99, "refuse", kinds=("replica",))], lanes, faults=struck).recovery.not_redundant_s is not None
    for name, details in (("gateway", {}), ("gateway/worker", {"component_role": "gateway"})):
        gateway = (replace(fault(10.0), targets=({"name": name, "role": name.rpartition("/")[2], "details": details},)),)
        assert measured([Trouble(10.2, 17, "refuse", kinds=("replica",))], lanes, faults=gateway).recovery.redundancy is not None


def test_wrong_answers_are_counted_once_users_got_them() -> None:
    found = measured([Trouble(12, 20, "wrong", kinds=("semantic", "replica"))], (*USUAL, *REPLICAS)).quality_loss
    assert found is not None
    assert found.wrong_answers == pytest.approx(16, abs=1)
    assert found.on_replicas == pytest.approx(16, abs=2)
    assert found.first_s is not None
    assert 12 <= found.first_s <= 12.7
    assert set(found.backends) == {"r0", "r1"}


def stream(number: int, start: float, outcome: str = "ok", tokens: int = 40, first: float | None = 0.1) -> Probe:
    begun = None if first is None else start + first
    return Probe("stream", number, start, start, begun, start + 2, outcome, 200, "r0", tokens, 0.05 * (1 + number), "")


def test_streams() -> None:
    more = [
        *(stream(n, 0.1 + 2 * n) for n in range(4)),
        stream(4, 8.5, "truncated", 10),
        stream(5, 8.6),
        stream(6, 10.6, "refused", 0, None),
        stream(7, 12.6, "error-in-200", 30),
        stream(8, 14.6, "wrong-answer"),
        stream(9, 16.6, "void", 3),
    ]
    found = measured([], (*USUAL, STREAM), more=more)
    assert found.streams is not None
    assert (found.streams.opened, found.streams.completed, found.streams.cut) == (4, 2, 2)
    assert found.streams.tokens_lost == 30 + 10
    assert found.streams.longest_gap_s == pytest.approx(0.45)
    assert found.quality_loss is not None
    assert found.quality_loss.wrong_answers == 1  # an error inside a stream is a cut


@pytest.mark.parametrize(
    ("open_on", "name", "at_stake"),
    [
        (("r0", "r0"), "r0", 2),
        (("r0", "r1"), "r0/engine", 1),
        (("r1", "r1"), "r0", 0),
        (("r1", "r1"), "gateway", None),
        (("r1", "uvicorn"), "r0", None),
    ],
)
def test_streams_at_stake(open_on: tuple[str, ...], name: str, at_stake: int | None) -> None:
    """Those that ended before the fault, began after it or never got a first byte were not there to be cut."""
    others = (stream(1, 7.9), stream(2, 10.2), stream(3, 9.9, first=None))
    there = (stream(number, 8.5)._replace(backend=backend) for number, backend in enumerate(open_on, 4))
    struck = fault(targets=({"identity": "pid 1", "name": name, "role": "replica"},))
    found = measured([], (*USUAL, STREAM, *REPLICAS), more=[*others, *there], faults=(struck,)).streams
    assert found is not None
    assert found.at_stake == at_stake


def test_a_hang_of_the_prober_itself_is_told() -> None:
    found = measured([], starved=[(15 + n, 15.5 + n) for n in range(20)])
    assert not found.prober.trusted
    assert found.prober.void_share > 0.01
    assert found.recovery.masked


def test_missing_probes_are_told() -> None:
    probes = [p for p in Simulation((), 1).probes(*USUAL) if not 20 < p.sent_s < 22]
    found = measure(scenario(), observed(USUAL, probes)).prober
    assert found.coverage == pytest.approx(0.95, abs=0.005)
    assert not found.trusted
    dead = [p for p in Simulation((), 1).probes(*USUAL) if p.sent_s < 22]
    assert not measure(scenario(), observed(USUAL, dead)).prober.trusted


def test_only_a_lasting_jump_is_a_clock_step() -> None:
    torn = [(float(t), 1e9 + t + (0.2 if t == 20 else 0)) for t in range(40)]
    stepped = [(float(t), 1e9 + t + (0.2 if t >= 20 else 0)) for t in range(40)]
    assert measured([], clock=torn).prober.trusted
    told = measured([], clock=stepped).prober
    assert told.clock_step_s == pytest.approx(0.2)
    assert "stepped" in told.why_not[0]


def test_an_echo_that_fails_at_an_edge_puts_it_in_doubt() -> None:
    def echo(at: float) -> Probe:
        return Probe("control", 9999, at, at, None, at + 0.01, "refused", 0, "", 0, 0.0, "")

    trouble = [Trouble(12, 15, "refuse")]
    assert not measured(trouble, more=[echo(12.1)]).prober.trusted
    assert measured(trouble, more=[echo(30.0)]).prober.trusted


def test_steady_needs_samples_of_every_lane() -> None:
    calm = Simulation((), 1, end_s=12).probes(*USUAL)
    assert steady(scenario(), observed(USUAL, calm, window(12, None))).steady
    few = [p for p in calm if p.lane != "semantic" or p.sent_s < 2]
    found = steady(scenario(), observed(USUAL, few, window(12, None)))
    assert found.why_not == ("semantic: 4 answers, at least 10 are needed to know what is normal",)
    assert found.too_few, "more may come"
    assert not steady(scenario(), observed(USUAL, [], window(12, None))).steady
    assert not steady(scenario(), observed([], [], window(12, None))).steady


def test_steady_names_the_part_the_lane_and_the_figures() -> None:
    """The first lie: a steady state that was not met."""
    wrong = Simulation([Trouble(0, 6, "wrong", kinds=("semantic",))], 1, end_s=12).probes(*USUAL)
    found = steady(scenario(), observed(USUAL, wrong, window(12, None)))
    assert not found.steady
    assert found.why_not[0].startswith("semantic: 12 of 19 answers wrong-answer")
    assert not found.too_few
    shaky = Simulation([Trouble(0, 0.5, "refuse")], 1, end_s=12).probes(*USUAL)
    assert not steady(scenario(), observed(USUAL, shaky, window(12, None))).steady


def test_steady_watches_for_as_long_as_demanded() -> None:
    calm = Simulation((), 1, end_s=12).probes(*USUAL)
    found = steady(scenario(), observed(USUAL, calm, window(12, None, (0.0, 5.0))))
    assert found.why_not == ("watched for 5.0 s, 9 s are demanded",)


def test_steady_bounds_the_first_token() -> None:
    demand = SteadyState(hold=timedelta(seconds=9), first_token_p95=Bound("<=", 0.01))
    calm = Simulation((), 1, end_s=12).probes(*USUAL)
    found = steady(scenario(steady_state=demand), observed(USUAL, calm, window(12, None)))
    assert "semantic: 95th percentile of the first token" in found.why_not[0]


@pytest.mark.parametrize(
    ("outcome", "detail", "switch"),
    [
        ("truncated", "no finish_reason", "success: {finish_reason: false}"),
        ("truncated", "no [DONE]", "success: {done: false}"),
        ("empty", "", "success: {text: false}"),
        ("refused", "", None),
    ],
)
def test_a_part_that_every_answer_lacks_names_its_switch(outcome: str, detail: str, switch: str | None) -> None:
    calm = Simulation((), 1, end_s=12).probes(*USUAL)
    lacking = [p._replace(outcome=outcome, text=detail) if p.lane == "semantic" else p for p in calm]
    (why,) = steady(scenario(), observed(USUAL, lacking, window(12, None))).why_not
    assert ("switch it off in the service file: " + switch in why) if switch else ("switch" not in why)


def test_without_a_fault_nothing_is_claimed() -> None:
    found = measured([], when=window(12, None), end_s=12)
    assert found.recovery.impact is None
    assert not found.recovery.masked
    assert (found.availability, found.quality_loss, found.streams) == (None, None, None)
    assert found.missing["recovery_time"] == "nothing was injected"


def test_a_slow_first_token_is_slow_by_the_scenarios_own_bound() -> None:
    demand = SteadyState(hold=timedelta(seconds=9), first_token_p95=Bound("<=", 0.2))
    found = measured([Trouble(12, 20, "slow", kinds=("semantic",))], scenario=scenario(steady_state=demand))
    report = next(lane for lane in found.lanes if lane.info.name == "semantic")
    assert report.slow_limit_s == 0.2
    assert report.slow == pytest.approx(16, abs=1)
    assert holds(found.recovery.impact, 12)


def test_a_long_drill_is_measured_in_seconds() -> None:
    probes = Simulation([Trouble(12, 15, "refuse"), Trouble(500, 600, "503", part=2)], 1, end_s=2800).probes(*USUAL)
    assert len(probes) > 200_000
    begun = time.process_time()
    found = measure(scenario(objectives=Objectives(rto=timedelta(seconds=5))), observed(USUAL, probes, window(2800)))
    assert time.process_time() - begun < 10  # about 1.3 s alone
    assert holds(found.recovery.recovery_time, 100.0)
