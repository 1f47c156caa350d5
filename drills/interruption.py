"""Signals as facts that the engine looks at, not as exceptions that may strike in the middle of an undo."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interruption:
    """Which signals came. The first asks for an orderly stop with undo; a second one gives up everything but the undo."""

    signals: list[str] = field(default_factory=list)
    _woken: threading.Event = field(default_factory=threading.Event)

    @property
    def requested(self) -> bool:
        return bool(self.signals)

    @property
    def insisted(self) -> bool:
        return len(self.signals) > 1

    def note(self, number: int) -> None:
        self.signals.append(signal.Signals(number).name)
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Let time pass, or a signal come. After the first signal it lets time pass undisturbed."""
        if self._woken.wait(seconds):
            self._woken.clear()


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catch SIGINT, SIGTERM and SIGHUP while inside; what was set before comes back after."""
    interruption = Interruption()

    def note(number: int, _frame: FrameType | None) -> None:
        interruption.note(number)

    before = {number: signal.signal(number, note) for number in WATCHED}
    try:
        yield interruption
    finally:
        for number, action in before.items():
            signal.signal(number, action)
