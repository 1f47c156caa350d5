"""The state machine of one lane, fed by hand: G good, S slow, B bad, V void."""

from collections.abc import Iterable

import pytest
from blackstart.drills.measure.classify import Grade
from blackstart.drills.measure.lane_state import LaneState, Windows, windows

MARKS = {"G": Grade.GOOD, "S": Grade.SLOW, "B": Grade.BAD, "V": Grade.VOID}


def fed(marks: Iterable[str], period_s: float = 0.02, hold_s: float = 2.0, probes: int = 5, degraded: float = 0.01) -> LaneState:
    state = LaneState(Windows(hold_s, probes, 0.99, degraded))
    for number, mark in enumerate(marks):
        state.feed(number * period_s, MARKS[mark])
    return state


def test_nothing_is_known_before_the_first_probe() -> None:
    assert fed("").shown == "unknown"
    assert fed("VVV").shown == "unknown"
    assert fed("G").shown == "up"


def test_one_bad_probe_is_suspect_then_a_blip() -> None:
    assert fed("GGGGB").shown == "suspect"
    state = fed("GGGGB" + "G" * 20)
    assert (state.shown, state.blips, state.runs) == ("up", 1, [])


def test_an_outage_is_dated_back_to_its_first_probe() -> None:
    state = fed("G" * 10 + "B" * 20)
    assert state.shown == "down"
    assert state.runs[0].first == 10


def test_voids_say_nothing() -> None:
    state = fed("G" * 10 + "V" * 100 + "G" * 10)
    assert (state.shown, state.blips, state.runs) == ("up", 0, [])
    assert fed("G" * 10 + "BVVB" * 10).runs[0].first == 10


def test_a_return_must_hold_and_is_dated_back() -> None:
    assert fed("G" * 10 + "B" * 50 + "G" * 10).shown == "down"  # not 250 ms yet
    assert fed("G" * 10 + "B" * 50 + "G" * 50).shown == "recovering"
    state = fed("G" * 10 + "B" * 50 + "G" * 103)
    assert state.shown == "up"
    assert state.runs[0].back == 60
    assert state.held_since_s == pytest.approx(60 * 0.02)


def test_a_false_recovery_does_not_stop_the_clock() -> None:
    state = fed("G" * 10 + "B" * 50 + "G" * 50 + "B" * 50 + "G" * 200)
    assert len(state.runs) == 1
    assert (state.runs[0].first, state.runs[0].back, state.runs[0].flaps) == (10, 160, 1)


def test_lone_failures_within_a_recovery_are_forgiven_up_to_one_percent() -> None:
    state = fed("G" * 10 + "B" * 50 + ("G" * 60 + "B") + "G" * 200, hold_s=3.0)
    assert (state.runs[0].back, state.runs[0].flaps) == (60, 0)
    state = fed("G" * 10 + "B" * 50 + ("G" * 30 + "B") * 4 + "G" * 300, hold_s=3.0)
    assert state.runs[0].back is not None
    assert state.runs[0].back > 120  # moved on to where it was 99 %


def test_three_bad_in_a_row_are_a_relapse_and_two_late_ones_are_not() -> None:
    assert fed("G" * 10 + "B" * 50 + "G" * 30 + "BBB" + "G" * 300).runs[0].flaps == 1
    assert fed("G" * 10 + "B" * 50 + "G" * 60 + "SS" + "G" * 300, hold_s=5.0).runs[0].flaps == 0


def test_flaps_are_counted() -> None:
    state = fed("G" * 50 + ("B" * 20 + "G" * 25) * 5 + "G" * 200)
    assert len(state.runs) == 1
    assert state.runs[0].flaps == 4


def test_a_short_interruption_is_kept_with_its_edges_but_does_not_hold_up_the_lane() -> None:
    state = fed("G" * 20 + "SSB" + "G" * 60)
    assert state.shown == "up"  # nor does it make the lane degraded: it is told apart
    assert [(run.first, run.back, run.brief) for run in state.runs] == [(20, 23, True)]


def test_a_blip_just_before_does_not_hide_the_outage_after_it() -> None:
    state = fed("G" * 20 + "B" + "G" * 9 + "B" * 50)
    assert state.runs[-1].first in {20, 30}
    assert state.shown == "down"


@pytest.mark.parametrize(("period_s", "count"), [(0.02, 400), (0.1, 200), (0.5, 100)])
def test_every_other_answer_bad_is_down_at_any_rate(period_s: float, count: int) -> None:
    """One of two replicas is dead behind a round robin; also at 2 Hz it must be seen."""
    state = fed("G" * 20 + "BG" * (count // 2), period_s)
    assert state.shown == "down"
    assert (state.runs[0].first, len(state.runs), state.runs[0].flaps) == (20, 1, 0)


def test_every_third_answer_bad_is_degraded() -> None:
    state = fed("G" * 300 + "BGG" * 150)
    assert state.shown == "degraded"
    assert state.runs == []
    assert fed("G" * 300 + "BGG" * 150 + "G" * 300).shown == "up"


def test_degraded_is_measured_by_the_baselines_own_bound() -> None:
    marks = "G" * 300 + ("B" + "G" * 49) * 12
    assert fed(marks, degraded=0.01).shown == "degraded"
    assert fed(marks, degraded=0.03).shown == "up"


def test_the_end_of_watching_decides_what_is_open() -> None:
    state = fed("G" * 10 + "BB")
    state.finish()
    assert state.runs[0].first == 10
    state = fed("G" * 10 + "B" * 50 + "G" * 95)  # 1.88 s of 2 s: the probes under way at the end may be missing
    state.finish()
    assert state.runs[0].back == 60
    state = fed("G" * 10 + "B" * 50 + "G" * 60)
    state.finish()
    assert (state.runs[0].back, state.runs[0].returned) == (None, 60)


def test_a_recovery_that_ends_with_one_bad_answer_too_many_has_not_begun_anew() -> None:
    state = fed("G" * 5 + "B" * 5 + "G" * 7 + "B", period_s=0.5, hold_s=3.8)
    assert state.state == "recovering"
    state.finish()
    (run,) = state.runs
    assert (run.back, run.returned) == (None, None)


def test_a_fork_does_not_feed_its_origin() -> None:
    state = fed("G" * 10 + "B" * 50 + "G" * 30)
    twin = state.fork()
    for number in range(200):
        twin.feed(2 + number * 0.02, Grade.GOOD)
    assert (twin.shown, state.shown) == ("up", "recovering")
    assert state.runs[0].back is None


def test_windows_follow_settle_and_say_when_it_is_short() -> None:
    assert windows("fresh", 0.02, 10, 0.99, 0.01).hold_s == 10
    assert windows("fresh", 0.1, 10, 0.99, 0.01).hold_s == 30  # 300 probes
    assert windows("semantic", 0.5, 10, 0.99, 0.01).hold_s == 15  # 30 probes
    short = windows("semantic", 0.5, 2, 0.95, 0.01)
    assert (short.hold_s, short.hold_probes, short.good_share, short.scaled) == (2.5, 5, 0.95, True)
    assert not windows("fresh", 0.02, 10, 0.99, 0.01).scaled


def test_a_hundred_thousand_good_probes_are_no_outage() -> None:
    state = fed(("G" * 997 + "SGB") * 100 + "G" * 50)
    state.finish()
    assert state.runs == []
    assert state.blips == 200
