"""Edges against outages of known length: the interval must hold the truth, and be no wider than it has to be."""

import random
from datetime import timedelta

import pytest
from blackstart.drills.measure.classify import Grade
from blackstart.drills.measure.lane import Lane, build_lanes
from blackstart.drills.measure.values import Interval, LaneInfo, Outage
from blackstart.drills.scenario import Bound, SteadyState
from blackstart.tests.unit.measure_simulation import FAST, FRESH, HELD, SEMANTIC, Simulation, Trouble, observed, scenario, window
from hypothesis import example, given, settings
from hypothesis import strategies as st

MODES = st.sampled_from([*FAST, *HELD])
LENGTHS = st.floats(0.0, 1.0).map(lambda share: 0.05 * 400**share)  # log-uniform, 50 ms to 20 s
SEEDS = st.integers(0, 2**32)


def lane_of(simulation: Simulation, info: LaneInfo, settle_s: float = 3.0) -> Lane:
    (lane,) = build_lanes(scenario(settle_s), observed([info], simulation.probes(info), window(simulation.end_s)))
    return lane


def seen_by(info: LaneInfo, trouble: Trouble, seed: int, **parts: object) -> tuple[Lane, Outage | None]:
    """The lane and its longest outage."""
    lane = lane_of(Simulation([trouble], seed, end_s=trouble.end + 7, **parts), info)
    return lane, max(lane.outages, key=lambda one: one.duration.hi_s if one.duration else float("inf"), default=None)


def holds(interval: Interval | None, truth: float) -> bool:
    return interval is not None and interval.lo_s <= truth <= interval.hi_s


def check(outage: Outage, trouble: Trouble) -> None:
    assert holds(outage.start, trouble.start), (outage.start, trouble)
    assert holds(outage.end, trouble.end), (outage.end, trouble)
    assert holds(outage.duration, trouble.end - trouble.start)


@settings(max_examples=150, deadline=None)
@given(MODES, LENGTHS, SEEDS)
def test_whole_outages_are_seen_and_bounded_at_fifty_hertz(mode: str, length: float, seed: int) -> None:
    start = 10 + random.Random(seed).random()
    trouble = Trouble(start, start + length, mode)
    lane, outage = seen_by(FRESH, trouble, seed)
    if outage is None:
        assert length <= 2 * FRESH.period_s + lane.track.limits.slow_s
        return
    check(outage, trouble)
    assert outage.duration is not None
    limits = lane.track.limits
    drained_s = limits.slack_s if mode in {"hang", "slow"} else 0.0
    held_s = limits.silence_s if mode in HELD else 0.0
    # One period at each edge, what a silent probe leaves open at the onset, what a backlog does at the recovery, late ticks.
    assert outage.duration.width_s <= 2 * FRESH.period_s + held_s + drained_s + 0.045


@settings(max_examples=100, deadline=None)
@example("slow", 19.3100567624629, 201520118)  # answers that are late one by one are not a backlog that drains
@given(MODES, LENGTHS, SEEDS)
def test_whole_outages_are_bounded_at_two_hertz(mode: str, length: float, seed: int) -> None:
    start = 10 + random.Random(seed).random()
    trouble = Trouble(start, start + length, mode)
    lane, outage = seen_by(SEMANTIC, trouble, seed)
    if outage is None:
        assert length <= 2 * SEMANTIC.period_s + lane.track.limits.slow_s
    else:
        check(outage, trouble)


@settings(max_examples=100, deadline=None)
@given(MODES, LENGTHS, SEEDS)
def test_one_of_two_replicas(mode: str, length: float, seed: int) -> None:
    """Half of all answers fail, in turn: the last good one before and the first one after prove nothing by themselves."""
    start = 10 + random.Random(seed).random()
    trouble = Trouble(start, start + length, mode, part=2)
    lane, outage = seen_by(FRESH, trouble, seed)
    if outage is None:
        assert length <= ONSET_S + lane.track.limits.slow_s
    elif length > ONSET_S or mode not in HELD:
        assert holds(outage.start, start)
        assert holds(outage.duration, length) or mode == "slow"


ONSET_S = 0.3


@pytest.mark.parametrize(("info", "length"), [(FRESH, 2.0), (FRESH, 12.0), (SEMANTIC, 16.0)])
def test_half_of_all_answers_by_chance(info: LaneInfo, length: float) -> None:
    """Chance hides an edge for longer than was set aside once in a thousand times at a steady rate, more often in short outages."""
    held = 0
    for seed in range(60):
        mode = ("refuse", "503", "never", "wrong")[seed % 4]
        _, outage = seen_by(info, Trouble(10.3, 10.3 + length, mode, chance=0.5), seed)
        held += outage is not None and holds(outage.duration, length)
    assert held >= 57


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["refuse", "503", "hang", "never"]), st.floats(0.3, 6), st.floats(-0.4, 0.2), st.booleans(), SEEDS)
def test_a_starved_prober_widens_the_interval(mode: str, length: float, offset: float, at_start: bool, seed: int) -> None:
    """It stands still for 0.3 s across an edge: the interval must hold the truth all the same."""
    trouble = Trouble(10.5, 10.5 + length, mode)
    edge = trouble.start if at_start else trouble.end
    gap = (edge + offset, edge + offset + 0.3)
    _, outage = seen_by(FRESH, trouble, seed, starved=[gap])
    if outage is not None:
        check(outage, trouble)
    else:
        assert length < 0.8


def test_the_starved_interval_is_as_wide_as_the_gap() -> None:
    trouble = Trouble(10.5, 13.5, "refuse")
    _, calm = seen_by(FRESH, trouble, 3)
    _, starved = seen_by(FRESH, trouble, 3, starved=[(10.4, 10.7)])
    assert calm is not None
    assert starved is not None
    assert calm.start.width_s < 0.03
    assert starved.start.width_s > 0.25


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_service_has_no_outage(seed: int) -> None:
    lane = lane_of(Simulation((), seed, end_s=400, jitter_s=0.003), FRESH)
    assert lane.outages == ()


def test_standing_still_by_oneself_is_no_outage() -> None:
    """The whole prober stops for 0.4 s, twenty times: every probe that looks late for it is void."""
    starved = [(12.0 + 1.013 * n, 12.4 + 1.013 * n) for n in range(20)]  # at any phase of the ticks
    lane = lane_of(Simulation((), 1, end_s=40, latency_s=0.004, starved=starved), FRESH)
    assert lane.outages == ()
    assert lane.grades.count(Grade.VOID) > 200
    assert Grade.SLOW not in lane.grades  # answers that lay unread meanwhile


@settings(max_examples=60, deadline=None)
@example(0.7, 1)
@given(st.floats(0.3, 3.0), SEEDS)
def test_nothing_ends_before_it_began(length: float, seed: int) -> None:
    """Late is what takes over 0.2 s, and a backlog may take 1.6 s to drain: longer than the outage."""
    start = 10 + random.Random(seed).random()
    trouble = Trouble(start, start + length, "hang")
    demand = SteadyState(hold=timedelta(seconds=9), first_token_p95=Bound("<=", 0.2))
    probes = Simulation([trouble], seed, end_s=trouble.end + 7).probes(SEMANTIC)
    (lane,) = build_lanes(scenario(3.0, steady_state=demand), observed([SEMANTIC], probes, window(trouble.end + 7)))
    for outage in lane.outages:
        check(outage, trouble)
        assert outage.end is not None
        assert outage.start.lo_s <= outage.end.lo_s <= outage.end.hi_s


def test_a_hang_whose_answers_all_come_is_seen() -> None:
    """No probe fails: a patient client hides it from whoever counts errors."""
    trouble = Trouble(10.5, 11.4, "hang")
    lane, outage = seen_by(FRESH, trouble, 1)
    assert Grade.BAD not in lane.grades
    assert outage is not None
    assert set(outage.classes) == {"slow"}
    check(outage, trouble)


def test_flapping_is_one_outage_with_its_flaps() -> None:
    """Half a second down, half a second up: at two Hertz and at fifty it is an outage until it stops."""
    troubles = [Trouble(10 + n, 10.5 + n, "refuse") for n in range(10)]
    lane = lane_of(Simulation(troubles, 1, end_s=30), FRESH)
    (outage,) = lane.outages
    assert holds(outage.start, 10.0)
    assert holds(outage.end, 19.5)
    assert outage.flaps == 9


def test_a_lone_failure_before_or_after_does_not_move_an_edge_out() -> None:
    troubles = [Trouble(10.40, 10.42, "503"), Trouble(10.5, 12.5, "503"), Trouble(12.59, 12.61, "503")]
    for seed in range(20):
        lane = lane_of(Simulation(troubles, seed, end_s=20), FRESH)
        outage = max(lane.outages, key=lambda one: one.duration.hi_s if one.duration else 0)
        assert holds(outage.start, 10.5)
        assert holds(outage.end, 12.5)


def test_an_outage_that_does_not_end_has_no_end() -> None:
    lane = lane_of(Simulation([Trouble(10.5, 99, "refuse")], 1, end_s=30), FRESH)
    (outage,) = lane.outages
    assert outage.end is None
    assert outage.duration is None
    assert holds(outage.start, 10.5)
