"""Quantiles, intervals and tests against brute force and published figures."""

import itertools
import math
import random

import numpy as np
import pytest
from blackstart.drills.measure.statistics import (
    mann_whitney_greater,
    median_interval,
    quantile,
    share_upper_bound,
    success_run,
)
from blackstart.drills.measure.values import Interval, format_interval
from hypothesis import given
from hypothesis import strategies as st

FLOATS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(FLOATS, st.floats(0.001, 1.0))
def test_quantiles_are_samples_as_numpy_counts_them(values: list[float], share: float) -> None:
    # Guarded against shares that fall on a sample's border only by rounding.
    if abs(share * len(values) - round(share * len(values))) > 1e-6:
        assert quantile(values, share) == np.quantile(values, share, method="inverted_cdf")


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0], 0.95) == 3.0


def test_the_median_interval_takes_the_published_order_statistics() -> None:
    assert median_interval(range(5)) is None
    assert median_interval([6, 5, 4, 3, 2, 1]) == (1, 6)  # 96.9 %
    assert median_interval(range(1, 11)) == (2, 9)  # 97.9 %


def test_the_median_interval_covers_as_often_as_it_says() -> None:
    dice = random.Random(5)
    held = 0
    for _ in range(1000):
        lo, hi = median_interval([dice.lognormvariate(0, 0.5) for _ in range(10)]) or (0, 0)
        held += lo <= 1.0 <= hi
    assert held >= 950


@pytest.mark.parametrize(("passes", "shown"), [(1, 0.05), (5, 0.55), (14, 0.81), (59, 0.95)])
def test_straight_passes_show_what_they_show(passes: int, shown: float) -> None:
    assert success_run(passes) == pytest.approx(shown, abs=0.005)
    assert success_run(0) == 0.0


@given(st.integers(0, 20), st.integers(1, 300), st.sampled_from([0.9, 0.95, 0.999]))
def test_the_upper_bound_of_a_share_is_exact(hits: int, total: int, confidence: float) -> None:
    bound = share_upper_bound(hits, total, confidence)
    if hits >= total:
        assert bound == 1.0
    else:
        at_most = sum(math.comb(total, k) * bound**k * (1 - bound) ** (total - k) for k in range(hits + 1))
        assert at_most == pytest.approx(1 - confidence, rel=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_mann_whitney_counts_what_enumeration_counts(new: list[int], old: list[int]) -> None:
    everything = [*new, *old]

    def wins(chosen: tuple[int, ...]) -> float:
        rest = [everything[i] for i in range(len(everything)) if i not in chosen]
        return sum((everything[i] > other) + 0.5 * (everything[i] == other) for i in chosen for other in rest)

    observed = wins(tuple(range(len(new))))
    ways = [wins(chosen) for chosen in itertools.combinations(range(len(everything)), len(new))]
    assert mann_whitney_greater(new, old) == pytest.approx(sum(way >= observed for way in ways) / len(ways))


def test_the_smallest_designs_that_can_show_a_regression() -> None:
    assert mann_whitney_greater([9.0], [float(n) for n in range(9)]) == pytest.approx(0.1)
    assert mann_whitney_greater([7, 8, 9], [1, 2, 3]) == pytest.approx(0.05)
    assert mann_whitney_greater([math.inf], list(range(19))) == pytest.approx(0.05)  # never recovered ranks last
    assert mann_whitney_greater([], [1.0]) == 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Interval(2.91, 2.95), "2.93 s [2.91, 2.95]"),
        (Interval(2.9101, 2.9469), "2.93 s [2.91, 2.95]"),
        (Interval(12.29, 12.41), "12.35 s [12.29, 12.41]"),
        (Interval(8.2, 9.9), "9.1 s [8.2, 9.9]"),
        (Interval(8.0, 40.2), "24 s [8, 41]"),
        (Interval(0.0, 0.0), "0.000 s [0.000, 0.000]"),
    ],
)
def test_no_more_digits_than_the_half_width_justifies(value: Interval, text: str) -> None:
    assert format_interval(value) == text


@given(st.floats(0, 1e4), st.floats(0, 100))
def test_printed_bounds_still_hold_the_interval(lo: float, width: float) -> None:
    value = Interval(lo, lo + width)
    printed = format_interval(value).split("[")[1].rstrip("]").split(", ")
    assert float(printed[0]) <= value.lo_s + 2e-6
    assert float(printed[1]) >= value.hi_s - 2e-6
