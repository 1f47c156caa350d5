"""Thinning, strips and scales: what the picture shows is what was there."""

import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from blackstart.drills.measure.values import LaneInfo, LaneReport, Probe
from blackstart.reports.exposure import latency_s
from blackstart.reports.scales import LogScale, TimeAxis
from blackstart.reports.strips import strip
from blackstart.reports.thinning import marks
from blackstart.tests.unit import report_fixture as runs
from hypothesis import given, settings
from hypothesis import strategies as st

INFO = LaneInfo("fresh", "fresh", "http://127.0.0.1/", 0.1)
LANE = LaneReport(INFO, 0, 0, 0, 0, {}, 0.002, 0.003, None, 0.05, (), 0, 0.1)


def probe(at_s: float, took_s: float = 0.002, outcome: str = "ok") -> Probe:
    return Probe("fresh", 0, at_s, at_s, None, at_s + took_s, outcome, 200, "", 0, 0.0, "")


def test_few_answers_are_all_drawn() -> None:
    run = runs.passed()
    lanes = {lane.info.name: lane for lane in run.measurement.lanes}
    assert len(marks(run.probes, lanes, (0, 60), 10_000)) == len(run.probes)


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(1e-4, 10), st.sampled_from(["ok", "ok", "refused", "timeout", "wrong-answer"])),
        max_size=400,
    ),
    st.integers(60, 300),
)
def test_thinning_keeps_extremes_and_every_bad_answer_within_the_budget(found: list[tuple[float, float, str]], most: int) -> None:
    probes = [probe(*one) for one in sorted(found)]
    drawn = marks(probes, {"fresh": LANE}, (0, 100), most)
    assert len(drawn) <= most
    bad = Counter(p.outcome for p in probes if p.outcome != "ok")
    kept: Counter[str] = Counter()
    for mark in drawn:
        if mark.probe.outcome != "ok":
            kept[mark.probe.outcome] += mark.number
    # Signs may share a cell (refused, timeout: both `failed`), so only the sums can be told apart by sign.
    assert kept["wrong-answer"] == bad["wrong-answer"]
    assert kept.total() == bad.total()
    good = [latency_s(p, "fresh") for p in probes if p.outcome == "ok" and latency_s(p, "fresh") <= LANE.slow_limit_s]
    shown = [mark.latency_s for mark in drawn if mark.sign == "good"]
    if good:
        assert (min(shown), max(shown)) == (min(good), max(good))


def test_fastest_and_slowest_survive_heavy_thinning() -> None:
    took = [0.002 + 0.001 * math.sin(n) for n in range(5_000)]
    took[1_234], took[4_321] = 0.0001, 0.0499
    drawn = marks([probe(n / 50, one) for n, one in enumerate(took)], {"fresh": LANE}, (0, 100), 90)
    assert len(drawn) <= 90
    shown = [mark.latency_s for mark in drawn]
    assert (min(shown), max(shown)) == (pytest.approx(0.0001), pytest.approx(0.0499))


def test_bad_answers_are_merged_only_beyond_the_budget() -> None:
    probes = [probe(n / 100, outcome="refused") for n in range(5_000)]
    drawn = marks(probes, {"fresh": LANE}, (0, 50), 200)
    assert len(drawn) <= 200
    assert sum(mark.number for mark in drawn) == 5_000
    few = marks(probes[:100], {"fresh": LANE}, (0, 50), 200)
    assert [mark.number for mark in few] == [1] * 100


def test_cut_stream_stands_where_it_was_cut() -> None:
    cut = probe(1.0, 4.0, "truncated")
    (mark,) = marks([cut], {"fresh": LANE}, (0, 10), 100)
    assert (mark.at_s, mark.sign) == (5.0, "cut")
    assert marks([cut], {"fresh": LANE}, (4.0, 6.0), 100) == [mark]  # though it began before the window


def states(probes: list[Probe]) -> list[tuple[str, float, float]]:
    return [(c.state, round(c.start_s, 3), round(c.end_s, 3)) for c in strip(LANE, probes, (0.0, 10.0), 100)]


def test_strip_shows_good_bad_and_unknown() -> None:
    probes = [probe(n / 10, outcome="refused" if 30 <= n < 40 else "ok") for n in range(60)]
    found = states(probes)
    assert [state for state, *_ in found] == ["good", "bad", "good", "unknown"]
    assert found[1][1:] == pytest.approx((3.0, 4.1), abs=0.11)
    assert found[3] == ("unknown", pytest.approx(6.1, abs=0.11), 10.0)


def test_one_bad_answer_among_good_ones_is_seen() -> None:
    probes = sorted([probe(n / 10) for n in range(100)] + [probe(5.05, outcome="timeout")])
    assert "bad" in [state for state, *_ in states(probes)]


def test_void_probes_leave_the_state_unknown() -> None:
    probes = [probe(n / 10, outcome="void" if 30 <= n < 60 else "ok") for n in range(100)]
    assert [state for state, *_ in states(probes)] == ["good", "unknown", "good"]


@pytest.mark.parametrize(("waited_s", "sign", "state"), [(0.003, "void", "good"), (0.2, "failed", "bad")])
def test_a_question_asked_right_before_the_end_is_no_failure(waited_s: float, sign: str, state: str) -> None:
    """What was sent 3 ms before the stop had no time to be answered; what had waited for longer than a healthy answer hung."""
    lane = replace(LANE, overdue_s=0.05)
    probes = [*(probe(n / 10) for n in range(100)), probe(10.0 - waited_s, waited_s, "unanswered")]
    probes.sort(key=lambda one: one.sent_s)
    assert marks(probes, {"fresh": lane}, (0, 10), 1000)[-1].sign == sign
    assert strip(lane, probes, (0.0, 10.0), 100)[-1].state == state


def test_stream_is_bad_when_it_breaks_not_when_it_began() -> None:
    lane = replace(LANE, info=replace(INFO, kind="stream"))
    cut, whole = probe(2.0, 4.0, "truncated"), probe(6.5, 2.0)
    cells = strip(lane, [cut._replace(first_s=2.01), whole._replace(first_s=6.51)], (0.0, 10.0), 100)
    found = [(cell.state, round(cell.start_s, 1)) for cell in cells]
    assert found == [("unknown", 0.0), ("good", 2.0), ("bad", 6.0), ("unknown", 6.1), ("good", 6.5), ("unknown", 8.6)]


def test_late_answers_are_slow() -> None:
    assert [state for state, *_ in states([probe(n / 10, 0.06) for n in range(100)])] == ["slow"]


@settings(deadline=None)  # the machine may be busy
@given(st.floats(0, 1e5), st.floats(0.5, 1e5), st.floats(-10, 10))
def test_ticks_are_few_round_and_within(start: float, span: float, offset: float) -> None:
    axis = TimeAxis(start, start + span, start + offset, datetime(2026, 11, 22, 23, 59, 30, tzinfo=UTC))
    ticks = axis.ticks()
    assert len(ticks) <= 13
    assert all(axis.start_s - 1e-6 * span <= at_s <= axis.end_s + 1e-6 * span for at_s, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)
    assert all(moment.microsecond == 0 for _, moment in axis.wall_ticks())
    assert all(0 <= axis.x(at_s) <= 100 for at_s, _ in axis.wall_ticks())


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.floats(0, 1e3), max_size=20))
def test_log_scale_holds_every_value(values: list[float]) -> None:
    scale = LogScale.over(values, 200.0, 0.0)
    assert scale.decades()
    for value in values:
        assert -1e-6 <= scale.y(value) <= 200 + 1e-6
    assert scale.y(scale.highest) == pytest.approx(0.0)
    assert math.isclose(scale.y(scale.lowest), 200.0)
