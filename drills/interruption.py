"""Signals as facts that the engine looks at, not as exceptions that may strike in the middle of an undo."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interruption:
    """Which signals came since it was armed. The first asks for an orderly stop with undo; a second one gives up all but the undo."""

    signals: list[str] = field(default_factory=list)
    _pipe: tuple[int, int] = field(default_factory=os.pipe)

    @property
    def requested(self) -> bool:
        return bool(self.signals)

    @property
    def insisted(self) -> bool:
        return len(self.signals) > 1

    def arm(self) -> None:
        """From here on signals are noted, until the context that made this ends."""
        os.set_blocking(self._pipe[1], False)
        for number in WATCHED:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Runs between any two instructions of the main thread, so it takes no lock: a list and a pipe are all it touches."""
        self.signals.append(signal.Signals(number).name)
        with suppress(BlockingIOError):
            os.write(self._pipe[1], b"!")

    def wake(self) -> None:
        """From another thread: end a `wait` now."""
        with suppress(OSError):
            os.write(self._pipe[1], b".")

    def wait(self, seconds: float) -> None:
        """Let time pass, or a signal or `wake` come. After the first signal it lets time pass undisturbed."""
        ready, _, _ = select.select([self._pipe[0]], [], [], max(0.0, seconds))
        if ready:
            os.read(self._pipe[0], 4096)

    def close(self) -> None:
        for end in self._pipe:
            os.close(end)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """An Interruption to arm; what SIGINT, SIGTERM and SIGHUP did before comes back after."""
    interruption = Interruption()
    before = {number: signal.getsignal(number) for number in WATCHED}
    try:
        yield interruption
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        interruption.close()
