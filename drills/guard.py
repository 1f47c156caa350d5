"""What stops a drill early: abort conditions, the kill-switch file, signals. Watched every second while a fault is on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .interruption import Interruption
from .measure.live import LiveView
from .scenario import Abort

EVERY_S = 1.0


@dataclass
class Guard:
    """`check` returns why the drill must stop now, or None."""

    abort: Abort
    kill_switches: tuple[Path, ...]
    interruption: Interruption
    view: LiveView
    lost: Callable[[], str] = str  # who has taken the service from this drill; empty: nobody
    fault_s: float | None = None  # abort conditions count from the first fault on
    _next_s: float = field(default=0.0, init=False)

    def check(self, now_s: float) -> str | None:
        if self.interruption.requested:
            return f"stopped by {self.interruption.signals[0]}"
        if now_s < self._next_s:
            return None
        self._next_s = now_s + EVERY_S
        if taken := self.lost():
            return f"the service is this drill's no longer: {taken}"
        for path in self.kill_switches:
            if path.exists():
                return f"the kill switch {path.name} is there"
        return self._condition(now_s)

    def _condition(self, now_s: float) -> str | None:
        condition = self.abort.success
        if condition is None or self.fault_s is None:
            return None
        window_s = condition.window.total_seconds()
        if now_s - self.fault_s < window_s:
            return None
        share = self.view.success_share(window_s, now_s)
        if share is not None and condition.bound.holds(share):
            limit = f"{condition.bound.relation} {condition.bound.limit:.0%} for {window_s:g} s"
            return f"abort condition met: {share:.0%} of answers were right over the last {window_s:g} s (abort at {limit})"
        return None
