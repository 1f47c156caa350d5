"""The live view, fed in order of completion as a drill goes on."""

from collections.abc import Sequence

import pytest
from blackstart.drills.measure.live import LiveView
from blackstart.drills.measure.measurement import measure
from blackstart.drills.measure.values import LaneInfo, Probe
from blackstart.tests.unit.measure_simulation import CONTROL, FRESH, READY, SEMANTIC, Simulation, Trouble, observed, scenario

USUAL = (FRESH, SEMANTIC, CONTROL, READY)
REPLICA = LaneInfo("replica:r0", "replica", "http://r0", 1.0, "r0")
TICK_S = 0.1


class Watch:
    """Plays probes to a view as the clock goes on."""

    def __init__(
        self, troubles: Sequence[Trouble], lanes: Sequence[LaneInfo] = USUAL, settle_s: float = 2.0, **parts: object
    ) -> None:
        self.view = LiveView(scenario(settle_s), lanes)
        self.probes: list[Probe] = Simulation(troubles, 1, **parts).probes(*lanes)
        self.fed, self.now_s = 0, 0.0

    def until(self, moment_s: float) -> LiveView:
        while self.now_s < moment_s:
            self.now_s = min(moment_s, self.now_s + TICK_S)
            first = self.fed
            while self.fed < len(self.probes) and self.probes[self.fed].end_s <= self.now_s:
                self.fed += 1
            self.view.feed(self.probes[first : self.fed])
        return self.view

    def recovered_at(self, since_s: float, limit_s: float) -> float | None:
        while self.now_s < limit_s:
            if self.until(self.now_s + TICK_S).recovered(since_s, self.now_s):
                return self.now_s
        return None


def test_nothing_seen_is_unknown() -> None:
    view = LiveView(scenario(), USUAL)
    assert set(view.states().values()) == {"unknown"}
    assert view.success_share(10, 10) is None
    assert not view.recovered(0, 100)
    assert not view.impact_seen()


@pytest.mark.parametrize("mode", ["refuse", "503", "hang", "never", "wrong"])
def test_an_outage_is_followed_to_its_end(mode: str) -> None:
    watch = Watch([Trouble(12, 16, mode)])
    assert set(watch.until(11.9).states().values()) == {"up"}
    assert not watch.view.impact_seen()
    if mode != "hang":  # until a held answer is late, nothing is known
        assert watch.until(14).states()["fresh"] == "down"
    assert not watch.until(15.9).recovered(12, 15.9)
    back_s = watch.recovered_at(12, 30)
    assert back_s is not None
    assert 17.9 <= back_s <= 21.5  # questions that still hang keep it from being well until their clients give up
    assert watch.view.impact_seen()
    assert set(watch.until(22).states().values()) == {"up"}


def test_where_the_live_view_saw_a_recovery_the_measurement_does_too() -> None:
    for mode in ("refuse", "hang", "never"):
        watch = Watch([Trouble(12, 16, mode)])
        back_s = watch.recovered_at(12, 30)
        assert back_s is not None
        seen = watch.probes[: watch.fed]
        when = observed(USUAL, seen).window
        found = measure(scenario(), observed(USUAL, seen, type(when)(0.0, 9.5, 10.0, back_s)))
        assert found.recovery.recovered is not None
        assert found.recovery.recovered.lo_s <= 16 <= found.recovery.recovered.hi_s


def test_a_masked_fault_is_over_after_settle() -> None:
    watch = Watch([])
    watch.until(12)
    back_s = watch.recovered_at(12, 20)
    assert back_s == pytest.approx(14, abs=0.2)
    assert not watch.view.impact_seen()


def test_silence_is_no_recovery() -> None:
    """The prober's answers stop coming altogether."""
    watch = Watch([], end_s=14)
    watch.until(30)
    assert not watch.view.recovered(12, 30)


def test_a_lane_whose_questions_all_hang_is_not_well() -> None:
    """Nothing of it is known before its clients give up, 5 s later."""
    watch = Watch([Trouble(12, 99, "never", kinds=("semantic",))])
    watch.until(12)
    assert watch.recovered_at(12, 16.9) is None


def test_one_lane_down_is_enough() -> None:
    watch = Watch([Trouble(12, 99, "503", kinds=("semantic",))])
    view = watch.until(25)
    assert view.states()["fresh"] == "up"
    assert view.states()["semantic"] == "down"
    assert not view.recovered(12, 25)


def test_a_lane_that_users_do_not_ask_does_not_matter() -> None:
    assert Watch([Trouble(12, 99, "503", kinds=("health",))]).until(25).recovered(12, 25)


def test_who_must_see_each_replica_back_waits_for_the_slowest() -> None:
    """The others serve its users meanwhile."""
    slow = Watch([Trouble(12, 20, "503", kinds=("replica",))], (*USUAL, REPLICA))
    assert slow.until(18).recovered(12, 18)
    assert not slow.view.recovered(12, 18, replicas=True)
    assert slow.until(29).recovered(12, 29, replicas=True)


def test_the_share_of_right_answers_is_the_models() -> None:
    view = Watch([Trouble(20, 99, "503", kinds=("semantic",))]).until(30)
    assert view.success_share(5, 30) == 0.0
    assert view.success_share(20, 30) == pytest.approx(0.5, abs=0.06)
    assert view.success_share(5, 99) is None
    assert Watch([Trouble(20, 99, "503")], (FRESH,)).until(30).success_share(5, 30) == 0.0


def test_counts_are_by_lane_and_grade() -> None:
    counts = Watch([Trouble(12, 13, "refuse")]).until(20).counts()
    assert counts["fresh"]["bad"] == pytest.approx(50, abs=2)
    assert counts["fresh"]["good"] == pytest.approx(950, abs=5)
    assert counts["control"]["bad"] == 0


def test_what_was_late_before_it_was_known_what_late_is_counts_too() -> None:
    """Slow answers after the baseline are slow by the baseline's measure."""
    assert Watch([Trouble(12, 20, "slow")]).until(18).states()["fresh"] == "down"
