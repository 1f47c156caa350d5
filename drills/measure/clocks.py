"""How the clock of a prober on another machine stands to the drill's own, from questions about its time.

The drill asks at `asked`, the prober's clock shows `shown`, the answer is here at `heard`: so at some moment between the two the
prober's clock showed just that (Cristian, "Probabilistic clock synchronization", 1989). Both clocks are CLOCK_MONOTONIC, whose
rates differ by a bounded share; so each exchange bounds the difference at every other moment, too, and all of them hold at once.

Probes keep the moments of the clock that they were taken with, so that what lies between two of them (an outage, a recovery time) is as
sharp as it is where prober and drill share a clock. What the journal tells is moved to that clock instead, as an interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .values import Interval

RATE = 1e-3  # Linux lets NTP speed a clock up or slow it down by 500 ppm at most (adjtimex(2)), and here are two


@dataclass(frozen=True)
class Exchange:
    """`asked` and `heard` are seconds on the drill's clock, `shown` on the prober's."""

    asked_s: float
    shown_s: float
    heard_s: float

    @property
    def round_trip_s(self) -> float:
        return self.heard_s - self.asked_s

    def ahead(self, moment_s: float) -> Interval:
        """How far the prober's clock is ahead at a moment of the drill's."""
        return Interval(
            self.shown_s - self.heard_s - RATE * abs(moment_s - self.heard_s),
            self.shown_s - self.asked_s + RATE * abs(moment_s - self.asked_s),
        )


@dataclass(frozen=True)
class Clocks:
    """All exchanges of a drill in their order; none where prober and drill share a clock."""

    exchanges: Sequence[Exchange] = ()

    def there(self, moment_s: float) -> Interval:
        """What the prober's clock showed at a moment of the drill's."""
        if not self.exchanges:
            return Interval(moment_s, moment_s)
        bounds = [exchange.ahead(moment_s) for exchange in self.exchanges]
        lo_s, hi_s = max(bound.lo_s for bound in bounds), min(bound.hi_s for bound in bounds)
        return Interval(moment_s + min(lo_s, hi_s), moment_s + max(lo_s, hi_s))

    def uncertainty(self, moments_s: Sequence[float]) -> float:
        """Half the width of the widest interval, in seconds, that one of these moments becomes."""
        return max((self.there(moment_s).width_s / 2 for moment_s in moments_s), default=0.0)

    def contradiction(self) -> str:
        """Why no pair of clocks could have shown this: one of them was set, or its machine stood still. Empty: they could."""
        known = Interval(float("-inf"), float("inf"))
        last_s = 0.0
        for exchange in self.exchanges:
            aged_s = RATE * max(0.0, exchange.heard_s - last_s)
            bound = exchange.ahead(exchange.heard_s)
            known = Interval(max(known.lo_s - aged_s, bound.lo_s), min(known.hi_s + aged_s, bound.hi_s))
            last_s = exchange.heard_s
            if known.lo_s > known.hi_s:
                jump_s = known.lo_s - known.hi_s
                return f"the prober's clock jumped against the drill's by {jump_s * 1000:.0f} ms or more at {last_s:.1f} s"
        return ""
