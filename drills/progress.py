"""What a drill tells while it runs. The engine speaks to this; the command line draws it or prints lines."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Protocol


class Phase(StrEnum):
    """Where a drill is; written identically in progress, journal and reports."""

    STARTING = "starting"
    BASELINE = "baseline"
    INJECTING = "injecting"
    OBSERVING = "observing"
    UNDOING = "undoing"
    SETTLING = "settling"
    READING_BACK = "reading-back"
    JUDGING = "judging"


class Quieted:
    """A progress that may fail (a closed pipe, a lost terminal) must never fail the drill: after its first error it is silent."""

    def __init__(self, progress: "Progress") -> None:
        self._progress: Progress | None = progress

    def phase(self, phase: Phase, longest_s: float | None, detail: str = "") -> None:
        with self._quietly() as progress:
            if progress:
                progress.phase(phase, longest_s, detail)

    def lanes(self, now_s: float, states: Mapping[str, str]) -> None:
        with self._quietly() as progress:
            if progress:
                progress.lanes(now_s, states)

    def note(self, text: str) -> None:
        with self._quietly() as progress:
            if progress:
                progress.note(text)

    @contextmanager
    def _quietly(self) -> "Iterator[Progress | None]":
        try:
            yield self._progress
        except (OSError, ValueError):
            self._progress = None


class Progress(Protocol):
    """Called from the drill's own thread; must return quickly."""

    def phase(self, phase: Phase, longest_s: float | None, detail: str = "") -> None:
        """A phase began; it takes at most so many seconds, where that is known."""

    def lanes(self, now_s: float, states: Mapping[str, str]) -> None:
        """The state of each lane now."""

    def note(self, text: str) -> None:
        """One line worth keeping: a fault in effect, an undo proven."""
