"""Values with a unit: durations, sizes, shares, rates, and comparisons with them.

Every quantity reads what it shows, exactly. `parse` raises ValueError with what to write instead.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from ...injectors.values import Rate, Share, Size

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,30})?"
_BARE = re.compile(r"-?[0-9]+(?:\.[0-9]+)?|-?\.[0-9]+")
LONGEST_DURATION = timedelta(days=3650)
MOST_BYTES = 10**15
LOWEST_RATE = 1e-6  # a lower one could not be written back within the digits that are read


@dataclass(frozen=True)
class Quantity:
    """How one type is written. `pattern` is a regular expression for the whole text, valid in Python and ECMAScript."""

    type: type
    name: str
    units: str
    example: str
    pattern: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str]


# Durations

_UNITS_OF_TIME = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000}  # microseconds
_DURATION_TEXT = "".join(rf"(?:({_NUMBER}){unit})?" for unit in _UNITS_OF_TIME)
_DURATION = re.compile(_DURATION_TEXT)
_DURATION_PATTERN = f"(?=[0-9]){_DURATION_TEXT}"
_WORDS_OF_TIME = (
    (re.compile(r"(?:milliseconds?|millis|msecs?)\b"), "ms"),
    (re.compile(r"(?:seconds?|secs?)\b"), "s"),
    (re.compile(r"(?:minutes?|mins?)\b"), "m"),
    (re.compile(r"(?:hours?|hrs?)\b"), "h"),
    (re.compile(r"days?\b"), "d"),
)


def _duration(text: str) -> timedelta | None:
    match = _DURATION.fullmatch(text)
    if not match or not text:
        return None
    parts = zip(match.groups(), _UNITS_OF_TIME.values(), strict=True)
    return timedelta(microseconds=float(sum(Decimal(part) * unit for part, unit in parts if part)))


def parse_duration(text: str) -> timedelta:
    """`250ms`, `10s`, `5m`, `1h30m`, `2d`; down to a microsecond, at most 3650 days."""
    try:
        duration = _duration(text)
    except OverflowError:
        raise ValueError("write at most `3650d`") from None
    if duration is None:
        raise ValueError(_instead(text, "s", _nearby_duration(text), "write it with its unit: `250ms`, `10s`, `5m`, `1h30m`"))
    if duration > LONGEST_DURATION:
        raise ValueError("write at most `3650d`")
    return duration


def _nearby_duration(text: str) -> str | None:
    near = text.lower().replace(" ", "")
    for word, unit in _WORDS_OF_TIME:
        near = word.sub(unit, near)
    return near if _DURATION.fullmatch(near) else None


def show_duration(value: timedelta) -> str:
    rest = value // timedelta(microseconds=1)
    text = ""
    for unit, size in _UNITS_OF_TIME.items():
        if unit == "ms":
            text += f"{_plain(Decimal(rest) / 1000)}ms" if rest else ""
        else:
            whole, rest = divmod(rest, size)
            text += f"{whole}{unit}" if whole else ""
    return text or "0s"


# Sizes

_UNITS_OF_SIZE = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE_TEXT = rf"({_NUMBER})(B|[KMGT]B|[KMGT]iB)"
_SIZE = re.compile(_SIZE_TEXT)


def parse_size(text: str) -> Size:
    """`4096B`, `10MB` (decimal), `512MiB`, `2GiB` (binary); a whole number of bytes."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(_instead(text, "MiB", _nearby_size(text), "write it with its unit: `512MiB`, `2GiB`, `10MB`, `4096B`"))
    size = Decimal(match[1]) * _UNITS_OF_SIZE[match[2]]
    if size != int(size):
        raise ValueError("write a whole number of bytes")
    if size >= MOST_BYTES:
        raise ValueError("write less than `1000TB`")
    return Size(size)


def _nearby_size(text: str) -> str | None:
    match = re.fullmatch(rf"({_NUMBER}) *([kmgt])?(i)?b?(?:ytes?)?", text, re.IGNORECASE)
    if not match or not (match[2] or not match[3]) or _BARE.fullmatch(text):
        return None
    # A bare letter is Kubernetes' or the shell's way; both count memory by 1024 more often than not.
    ending = "" if not match[2] else match[2].upper() + ("B" if text.lower().endswith("b") and not match[3] else "iB")
    return match[1] + (ending or "B")


def show_size(value: Size) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % _UNITS_OF_SIZE[unit] == 0:
            return f"{value // _UNITS_OF_SIZE[unit]}{unit}"
    return f"{int(value)}B"


# Shares

_SHARE_TEXT = rf"({_NUMBER})%"
_SHARE = re.compile(_SHARE_TEXT)


def parse_share(text: str) -> Share:
    """`80%`, `99.95%`; 0% to 100%."""
    match = _SHARE.fullmatch(text)
    if not match:
        near = _plain(Decimal(text) * 100) if re.fullmatch(r"0?\.[0-9]+", text) else text.replace(" ", "")
        raise ValueError(_instead(text, "%", f"{near}%" if _BARE.fullmatch(near) else near, "write it in percent: `80%`", _SHARE))
    share = Decimal(match[1]) / 100
    if share > 1:
        raise ValueError("write `0%` to `100%`")
    return Share(share)


def show_share(value: float) -> str:
    return f"{_plain(Decimal(repr(float(value))) * 100)}%"


# Rates

_UNITS_OF_RATE = {"s": 1, "m": 60, "h": 3600}
_RATE_TEXT = rf"({_NUMBER})/([smh])"
_RATE = re.compile(_RATE_TEXT)


def parse_rate(text: str) -> Rate:
    """`20/s`, `30/m`, `6/h`; at most 10000 in one second."""
    match = _RATE.fullmatch(text)
    if not match:
        near = re.sub(r" *(?:rps|qps|hz|/ ?sec(?:ond)?)$", "/s", text, flags=re.IGNORECASE)
        near = re.sub(r" *(?:rpm|/ ?min(?:ute)?)$", "/m", near, flags=re.IGNORECASE).replace(" ", "")
        raise ValueError(_instead(text, "/s", near, "write how many in which time: `20/s`, `30/m`", _RATE))
    rate = Rate(Decimal(match[1]) / _UNITS_OF_RATE[match[2]])
    if rate > 10_000:
        raise ValueError("write at most `10000/s`")
    if 0 < rate < LOWEST_RATE:
        raise ValueError("write `0/s`, or at least `1/h`")
    return rate


def show_rate(value: Rate) -> str:
    return f"{_plain(Decimal(repr(float(value))))}/s"


def _plain(number: Decimal) -> str:
    """Without an exponent and without zeros at the end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _instead(text: str, unit: str, near: str | None, general: str, valid: re.Pattern[str] | None = None) -> str:
    """What to write instead: the same value with a unit, the nearest valid text, or the general rule."""
    if len(text) > 40:
        return general
    if text.startswith("-"):
        return f"it cannot be negative; {general}"
    if near and near != text and (valid is None or valid.fullmatch(near)):
        return f"write `{near}`"
    return f"add the unit, e.g. `{text}{unit}`" if _BARE.fullmatch(text) else general


DURATION: Final = Quantity(
    timedelta, "a duration", "ms, s, m, h, d; at most 3650d", "30s", _DURATION_PATTERN, parse_duration, show_duration
)
SIZE: Final = Quantity(Size, "a size", "B, KB, MB, GB, TB, KiB, MiB, GiB, TiB", "512MiB", _SIZE_TEXT, parse_size, show_size)
SHARE: Final = Quantity(Share, "a share", "%, from 0% to 100%", "80%", _SHARE_TEXT, parse_share, show_share)
RATE: Final = Quantity(Rate, "a rate", "/s, /m, /h", "20/s", _RATE_TEXT, parse_rate, show_rate)
