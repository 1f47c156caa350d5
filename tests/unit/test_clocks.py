"""Two clocks: whatever offset, drift and lopsided round trips there are, the intervals hold the truth."""

import random
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from blackstart.drills.measure.clocks import RATE, Clocks, Exchange
from blackstart.drills.measure.measurement import measure
from blackstart.drills.measure.observed import on_the_probers_clock
from blackstart.drills.measure.values import Interval
from blackstart.tests.unit.measure_simulation import (
    CONTROL,
    FRESH,
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

USUAL = (FRESH, SEMANTIC, CONTROL)
seeds = st.integers(0, 10_000)


@dataclass(frozen=True)
class Wanderer:
    """A clock that was `offset_s` ahead of the drill's at its start; `rates`: how much faster it runs in each second."""

    offset_s: float
    rates: tuple[float, ...]

    def shows(self, moment_s: float) -> float:
        whole = int(moment_s)
        return moment_s + self.offset_s + sum(self.rates[:whole]) + self.rates[whole] * (moment_s - whole)

    def exchange(self, asked_s: float, there_s: float, back_s: float) -> Exchange:
        return Exchange(asked_s, self.shows(asked_s + there_s), asked_s + there_s + back_s)


def wanderer(dice: random.Random, rate: float, seconds: int = 60) -> Wanderer:
    return Wanderer(dice.uniform(-0.01, 0.01), tuple(dice.uniform(-rate, rate) for _ in range(seconds)))


def exchanged(clock: Wanderer, dice: random.Random, gap: tuple[float, float] = (0.0, 0.0), until_s: float = 50.0) -> Clocks:
    """About one a second, each way taking 1 ms to 50 ms; none while the connection is cut."""
    found, moment_s = [], 0.0
    while moment_s < until_s:
        if not gap[0] <= moment_s < gap[1]:
            found.append(clock.exchange(moment_s, 0.001 + dice.expovariate(200), 0.001 + dice.expovariate(50)))
        moment_s += dice.uniform(0.9, 1.1)
    return Clocks(found)


def holds(interval: Interval | None, truth: float) -> bool:
    return interval is not None and interval.lo_s <= truth <= interval.hi_s


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(0, 30))
def test_a_moment_there_is_known_within_its_interval(seed: int, cut_s: float) -> None:
    """Also in and around a time in which nothing could be asked, and with rates as far apart as they can be."""
    dice = random.Random(seed)
    clock = wanderer(dice, RATE)
    clocks = exchanged(clock, dice, (12.0, 12.0 + cut_s))
    assert not clocks.contradiction()
    for moment_s in [dice.uniform(0, 50) for _ in range(40)]:
        there = clocks.there(moment_s)
        assert holds(there, clock.shows(moment_s))
        assert there.width_s <= 0.12 + 2 * RATE * (cut_s + 2)


def test_the_best_exchange_of_all_decides_as_long_as_it_is_fresh() -> None:
    slow, quick = Exchange(0.0, 5.04, 0.1), Exchange(1.0, 6.001, 1.002)
    there = Clocks((slow, quick)).there(1.0)
    assert there.width_s == pytest.approx(0.002, abs=1e-4)
    assert holds(there, 6.0)
    assert Clocks((slow, quick)).there(3.0).width_s == pytest.approx(0.002 + 2 * RATE * 2, abs=1e-4)


def test_prober_and_drill_on_one_machine_share_their_clock() -> None:
    assert Clocks().there(7.25) == Interval(7.25, 7.25)
    assert Clocks().contradiction() == ""
    seen = observed(USUAL, Simulation((), 1).probes(*USUAL))
    assert on_the_probers_clock(seen) == seen


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(0.25, 100), st.booleans())
def test_a_clock_that_jumped_is_told(seed: int, jump_s: float, back: bool) -> None:
    dice = random.Random(seed)
    clock = wanderer(dice, RATE)
    jumped = replace(clock, offset_s=clock.offset_s + (-jump_s if back else jump_s))
    clocks = exchanged(clock, dice).exchanges
    after = exchanged(jumped, dice).exchanges
    mixed = [*(one for one in clocks if one.heard_s < 20), *(one for one in after if one.asked_s > 20)]
    assert all(a.heard_s < b.asked_s for a, b in pairwise(mixed))
    assert "jumped against" in Clocks(mixed).contradiction()
    simulated = Simulation((Trouble(10.3, 13, "refuse"),), 1).probes(*USUAL)
    found = measure(scenario(), on_the_probers_clock(observed(USUAL, simulated, clocks=Clocks(mixed))))
    assert not found.prober.trusted


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0.001, 1), st.floats(1.5, 8), st.sampled_from(["refuse", "503", "hang"]))
def test_figures_across_two_machines_hold_the_truth(seed: int, delay_s: float, length_s: float, mode: str) -> None:
    """The fault strikes by the drill's clock, right before its effect; probes have the prober's."""
    dice = random.Random(seed)
    clock = wanderer(dice, 40e-6)  # as NTP keeps them
    struck_s = 10.0
    troubled = Trouble(clock.shows(struck_s + delay_s), clock.shows(struck_s + delay_s + length_s), mode)
    probes = Simulation((troubled,), seed).probes(*USUAL)
    clocks = exchanged(clock, dice)
    proven = fault(struck_s - 0.001, effective=(struck_s - 0.001, struck_s + 0.001))
    seen = observed(USUAL, probes, window(40.0, struck_s - 0.001), faults=(proven,), clocks=clocks)
    found = measure(scenario(), on_the_probers_clock(seen))
    recovery = found.recovery
    assert holds(recovery.impact, troubled.start)
    assert holds(recovery.recovered, troubled.end)
    assert holds(recovery.recovery_time, length_s)
    assert holds(recovery.from_fault, delay_s + length_s)
    assert recovery.follows == "fault 0 effective"
    assert 0 < found.prober.clock_uncertainty_s < 0.1
    assert found.prober.trusted


def test_a_fault_begins_at_its_earliest_and_its_undo_at_its_latest_moment() -> None:
    """The prober's clock is 30 ms behind: taken as they are, an outage could precede its cause."""
    clock = Wanderer(-0.03, (0.0,) * 60)
    clocks = Clocks([clock.exchange(float(second), 0.002, 0.002) for second in range(40)])
    held = fault(10.0, effective=(10.0, 10.05), recovering_s=20.0, undone=(20.0, 20.1))
    (moved,) = on_the_probers_clock(observed(USUAL, (), window(), faults=(held,), clocks=clocks)).faults
    assert moved.injecting_s is not None
    assert moved.effective is not None
    assert moved.recovering_s is not None
    assert moved.undone is not None
    assert 9.965 < moved.injecting_s <= 9.97 <= moved.effective[1]
    assert moved.effective == (pytest.approx(9.97, abs=0.004), pytest.approx(10.02, abs=0.004))
    assert moved.undone[0] <= 19.97 <= moved.recovering_s < 19.975
