"""Figures in words: units always, and no more digits than the uncertainty justifies."""

import math
from collections.abc import Iterable

from ..drills.measure.values import Interval, Range
from ..drills.verdict import Judged, Verdict

# Binary fractions: 2.91 * 100 is 291.00000000000006, and a bound must not move outward by a whole digit for that.
_FUZZ = 1e-6

MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"

NAMES = {
    "rto": "Recovery time",
    "rpo": "Data loss",
    "quality_loss": "Wrong answers served",
    "availability": "Availability",
    "time_to_detect": "Time to detect",
    "time_to_redundancy": "Time to redundancy",
    "streams_cut": "Streams cut",
    "stream_gap": "Longest silence in a stream",
}


def _decimals(half_width: float) -> int:
    if half_width <= 0:
        return 3
    return min(3, max(0, math.ceil(-math.log10(half_width) - _FUZZ)))


def down(value: float, decimals: int) -> str:
    """Rounded down, as a lower bound must be."""
    return f"{math.floor(value * 10**decimals + _FUZZ) / 10**decimals:.{decimals}f}"


def up(value: float, decimals: int) -> str:
    """Rounded up, as an upper bound must be."""
    return f"{math.ceil(value * 10**decimals - _FUZZ) / 10**decimals:.{decimals}f}"


def interval(value: Interval) -> str:
    """`2.93 s [2.91, 2.95]`: the middle, with bounds rounded outward so that the truth stays inside; from zero, only the bound."""
    if value.lo_s <= 0 < value.hi_s:
        return f"at most {at_most(value.hi_s)}"
    decimals = _decimals(value.width_s / 2)
    return f"{value.middle_s:.{decimals}f} s [{down(value.lo_s, decimals)}, {up(value.hi_s, decimals)}]"


def signed(seconds: float) -> str:
    """A distance in time, before or after: `+2.93 s`."""
    return f"{'+' if seconds >= 0 else MINUS}{abs(seconds):.2f} s"


def at_least(value_s: float) -> str:
    """A lower bound in seconds: `180 s`, `61.5 s`."""
    return f"{down(value_s, 0 if value_s >= 100 else 1).removesuffix('.0')} s"


def at_most(value_s: float) -> str:
    """An upper bound in seconds, rounded up: `0.06 s`."""
    return f"{up(value_s, 0 if value_s >= 100 else 1 if value_s >= 1 else 2 if value_s >= 0.1 else 3)} s"


def target(value_s: float) -> str:
    """A duration that somebody wrote: `60 s`, `1.5 s`."""
    return f"{value_s:g} s"


def latency(value_s: float | None) -> str:
    """Milliseconds below one second: `12 ms`, `0.8 ms`, `1.24 s`; a dash where there is none."""
    if value_s is None:
        return NONE
    if value_s >= 1:
        return f"{value_s:.2f} s"
    return f"{value_s * 1000:.0f} ms" if value_s >= 0.01 else f"{value_s * 1000:.1f} ms"


def share(value: float) -> str:
    """`99.2 %`; never rounded to 100 % or to 0 % from inside."""
    for decimals in (1, 2, 3, 4):
        percent = round(value * 100, decimals)
        if percent not in (0.0, 100.0) or value in (0.0, 1.0):
            return f"{percent:.{decimals}f}".removesuffix(".0") + " %"
    return "above 99.9999 %" if value > 0.5 else "below 0.0001 %"


def count(number: int, one: str, many: str = "") -> str:
    """`1 stream`, `3 streams`, `1,204 streams`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def joined(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def measured(judged: Judged) -> str:
    """What was measured for an objective, in its unit; without a value, whether it never came, there was nothing to measure, or it is not known."""
    value = judged.value
    if value is None:
        return {Verdict.FAILED: "never seen", Verdict.PASSED: "nothing to measure"}.get(judged.verdict, "not measured")
    if isinstance(value, Interval):
        return f"> {at_least(value.lo_s)}" if judged.censored else interval(value)
    if isinstance(value, Range):
        return str(value)
    if judged.unit == "s":
        return f"> {at_least(value)}" if judged.censored else f"{value:.3g} s"
    return share(value) if judged.unit == "share" else f"{value:,.0f}"


def demanded(judged: Judged) -> str:
    """The objective as written: `≤ 60 s`, `≥ 99 %`, `≤ 0`."""
    sign = {"<=": "≤", ">=": "≥"}.get(judged.relation, judged.relation)
    if judged.unit == "s":
        return f"{sign} {target(judged.target)}"
    return f"{sign} {share(judged.target) if judged.unit == 'share' else format(judged.target, ',.0f')}"


def name(judged: Judged) -> str:
    """The objective's measurement as people call it."""
    return NAMES.get(judged.name, judged.name.replace("_", " ").capitalize())


def bounds(judged: Judged) -> tuple[float, float] | None:
    """Lower and upper bound of what was measured; infinite above where watching ended first; None without a value."""
    value = judged.value
    if value is None:
        return None
    if isinstance(value, Range):
        return float(value.lo), float(value.hi)
    lo, hi = (value.lo_s, value.hi_s) if isinstance(value, Interval) else (value, value)
    return (lo, math.inf if judged.censored else hi)


def margin(judged: Judged) -> str:
    """How far the measurement stayed inside its objective, or by how much it missed, in words."""
    edges = bounds(judged)
    if edges is None:
        return "missed" if judged.verdict is Verdict.FAILED else "no figure"
    lo, hi = edges
    upward = judged.relation.startswith(">")
    spare = (lo - judged.target) if upward else (judged.target - hi)
    missed = (judged.target - hi) if upward else (lo - judged.target)
    if judged.censored and missed <= 0:
        return "watching ended before the objective could be judged"
    if judged.verdict is Verdict.INCONCLUSIVE and (missed > 0 or spare >= 0):
        return "too little was seen to judge it"
    if missed > 0:
        return f"missed by {'more than ' if judged.censored else ''}{_gap(missed, judged.unit)}"
    if spare > 0:
        return f"{_gap(spare, judged.unit)} to spare"
    just = "exactly as demanded" if lo == hi else "nothing to spare"
    return just if spare == 0 else "the interval straddles the objective"


def _gap(size: float, unit: str) -> str:
    if unit == "s":
        return f"{size:.1f} s" if size >= 1 else f"{size:.2f} s"
    if unit == "share":
        return f"{size * 100:.2g} points"
    return f"{size:,.0f}"
