"""From seconds and milliseconds to places on the page."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from .figures import MINUS

_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)


@dataclass(frozen=True)
class TimeAxis:
    """Seconds on the drill's clock, from left to right. `zero_s` is what times are told from, `wall` the time of second 0."""

    start_s: float
    end_s: float
    zero_s: float
    wall: datetime

    @property
    def span_s(self) -> float:
        return self.end_s - self.start_s

    def x(self, at_s: float) -> float:
        """In percent of the width, held within the picture."""
        return min(100.0, max(0.0, 100 * (at_s - self.start_s) / self.span_s))

    def holds(self, at_s: float) -> bool:
        return self.start_s <= at_s <= self.end_s

    def ticks(self, most: int = 11) -> list[tuple[float, str]]:
        """Moments at round distances from zero, with `+10 s`."""
        step = self._step(most)
        first = math.ceil((self.start_s - self.zero_s) / step)
        last = math.floor((self.end_s - self.zero_s) / step + 1e-9)
        return [(self.zero_s + n * step, _signed(n * step, step)) for n in range(first, last + 1)]

    def wall_ticks(self, most: int = 8) -> Iterator[tuple[float, datetime]]:
        """Moments at round wall times."""
        step = max(1.0, self._step(most))
        begin = self.wall + timedelta(seconds=self.start_s)
        midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0)
        n = math.ceil((begin - midnight).total_seconds() / step)
        while (at_s := (midnight + timedelta(seconds=n * step) - self.wall).total_seconds()) <= self.end_s:
            yield at_s, midnight + timedelta(seconds=n * step)
            n += 1

    def _step(self, most: int) -> float:
        return next((step for step in _STEPS_S if self.span_s / step <= most), self.span_s / most)


def _signed(seconds: float, step: float) -> str:
    if abs(seconds) < step / 2:
        return "0"
    sign = "+" if seconds > 0 else MINUS
    if step >= 60:
        return f"{sign}{abs(seconds) / 60:g} min"
    return f"{sign}{abs(seconds):.{1 if step < 1 else 0}f} s"


@dataclass(frozen=True)
class LogScale:
    """Seconds of latency, logarithmic, from `bottom` up to `top` (y in pixels, growing downward)."""

    lowest: float
    highest: float
    bottom: float
    top: float

    @classmethod
    def over(cls, values: list[float], bottom: float, top: float) -> "LogScale":
        """From the decade or half decade below the least value to that above the greatest; at least one decade."""
        least = max(1e-4, min(values, default=0.001))
        low = 10 ** (math.floor(math.log10(least) * 2) / 2)
        high = 10 ** (math.ceil(math.log10(max([*values, low * 10]) * 1.05) * 2) / 2)
        return cls(low, high, bottom, top)

    def y(self, value: float) -> float:
        part = math.log(max(value, self.lowest) / self.lowest) / math.log(self.highest / self.lowest)
        return self.bottom - min(1.0, part) * (self.bottom - self.top)

    def decades(self) -> list[float]:
        """The powers of ten within."""
        first, last = math.ceil(math.log10(self.lowest) - 1e-9), math.floor(math.log10(self.highest) + 1e-9)
        return [10.0**n for n in range(first, last + 1)]
