"""Values with a unit: what is read, what is refused and with which advice, and that what is shown reads as the same value."""

from datetime import timedelta

import pytest
from blackstart.drills.language.comparisons import BOUNDS, CONDITION
from blackstart.drills.language.nodes import NotANumber, core
from blackstart.drills.language.quantities import DURATION, RATE, SHARE, SIZE
from blackstart.drills.scenario import Bound, Condition
from blackstart.injectors.values import Share
from hypothesis import given
from hypothesis import strategies as st

SHARE_BOUND, TIME_BOUND = BOUNDS[Share], BOUNDS[timedelta]


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        (DURATION, "250ms", timedelta(milliseconds=250)),
        (DURATION, "0s", timedelta(0)),
        (DURATION, "1h30m", timedelta(minutes=90)),
        (DURATION, "2d", timedelta(days=2)),
        (DURATION, "1.5s", timedelta(milliseconds=1500)),
        (DURATION, "0.001ms", timedelta(microseconds=1)),
        (SIZE, "4096B", 4096),
        (SIZE, "2KB", 2000),
        (SIZE, "2KiB", 2048),
        (SIZE, "10MB", 10_000_000),
        (SIZE, "1.5GiB", 3 * 2**29),
        (SHARE, "80%", 0.8),
        (SHARE, "99.95%", 0.9995),
        (RATE, "20/s", 20.0),
        (RATE, "30/m", 0.5),
        (SHARE_BOUND, ">= 99%", Bound(">=", 0.99)),
        (SHARE_BOUND, "<20%", Bound("<", 0.2)),
        (TIME_BOUND, "<= 1m", Bound("<=", 60.0)),
        (CONDITION, "< 20% for 30s", Condition(Bound("<", 0.2), timedelta(seconds=30))),
    ],
)
def test_a_quantity_is_read_with_its_unit(quantity, text, value):
    assert quantity.parse(text) == value


@pytest.mark.parametrize(
    ("quantity", "text", "advice"),
    [
        (DURATION, "30", "`30s`"),
        (DURATION, "30 s", "`30s`"),
        (DURATION, "30sec", "`30s`"),
        (DURATION, "5min", "`5m`"),
        (DURATION, "1 hour 30 minutes", "`1h30m`"),
        (DURATION, "-5s", "negative"),
        (DURATION, "30m1h", "its unit"),
        (DURATION, "", "its unit"),
        (DURATION, "4000d", "`3650d`"),
        (DURATION, "999999999999999d", "`3650d`"),
        (DURATION, "٣s", "its unit"),
        (SIZE, "512", "`512MiB`"),
        (SIZE, "2Gi", "`2GiB`"),
        (SIZE, "2G", "`2GiB`"),
        (SIZE, "2gb", "`2GB`"),
        (SIZE, "2 MiB", "`2MiB`"),
        (SIZE, "0.5B", "whole number"),
        (SIZE, "1000TB", "less than"),
        (SHARE, "0.8", "`80%`"),
        (SHARE, "80", "`80%`"),
        (SHARE, "80 %", "`80%`"),
        (SHARE, "101%", "`100%`"),
        (RATE, "20", "`20/s`"),
        (RATE, "20rps", "`20/s`"),
        (RATE, "20 / min", "`20/m`"),
        (RATE, "10001/s", "`10000/s`"),
        (SHARE_BOUND, "99%", '">= 99%"'),
        (SHARE_BOUND, "= 99%", "comparison"),
        (SHARE_BOUND, ">= 1s", "percent"),
        (TIME_BOUND, "1s", '"<= 1s"'),
        (TIME_BOUND, "<= 1", "`1s`"),
        (CONDITION, "< 20%", "for how long"),
        (CONDITION, "< 20% for 30", "`30s`"),
    ],
)
def test_what_is_not_a_quantity_is_refused_with_what_to_write(quantity, text, advice):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the advice is checked below, without being a regular expression
        quantity.parse(text)

    assert advice in str(caught.value)


@given(st.timedeltas(timedelta(0), timedelta(days=3650)))
def test_any_duration_reads_as_it_is_shown(value):
    assert DURATION.parse(DURATION.show(value)) == value


@given(st.integers(0, 10**15 - 1))
def test_any_size_reads_as_it_is_shown(value):
    assert SIZE.parse(SIZE.show(value)) == value


@given(st.from_regex(r"\A(?:[0-9]{1,2}(?:\.[0-9]{1,12})?|100)%\Z"))
def test_any_share_that_is_read_reads_as_it_is_shown(text):
    share = SHARE.parse(text)

    assert SHARE.parse(SHARE.show(share)) == share
    assert SHARE_BOUND.parse(SHARE_BOUND.show(Bound(">", share))) == Bound(">", share)


@given(st.from_regex(r"\A[0-9]{1,3}(?:\.[0-9]{1,6})?/[sm]\Z").filter(lambda text: not 0 < float(text[:-2]) < 1e-4))
def test_any_rate_that_is_read_reads_as_it_is_shown(text):
    rate = RATE.parse(text)

    assert RATE.parse(RATE.show(rate)) == rate


@given(st.timedeltas(timedelta(0), timedelta(days=365)))
def test_any_bound_on_a_duration_reads_as_it_is_shown(limit):
    bound = Bound("<=", limit.total_seconds())

    assert TIME_BOUND.parse(TIME_BOUND.show(bound)) == bound


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("-12", -12),
        ("1e3", 1000.0),
        ("+.5", 0.5),
        ("-", "-"),
        (".", "."),
        ("<<", "<<"),
    ],
)
def test_plain_values_mean_what_yaml_1_2_says(text, value):
    assert core(text) == value
    assert type(core(text)) is type(value)


@pytest.mark.parametrize("text", [".inf", "-.Inf", ".NaN", "1e999", "9" * 41])
def test_a_number_that_json_cannot_hold_is_none(text):
    with pytest.raises(NotANumber):
        core(text)
