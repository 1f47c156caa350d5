"""Live progress: drawn on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from ..drills.progress import Phase, Progress

WORDS = {
    Phase.STARTING: "looking at the service",
    Phase.BASELINE: "watching the service before any fault",
    Phase.INJECTING: "injecting",
    Phase.OBSERVING: "watching for impact and recovery",
    Phase.UNDOING: "undoing",
    Phase.SETTLING: "watching on after the undo",
    Phase.READING_BACK: "reading acknowledged writes back",
    Phase.JUDGING: "judging",
}
MARKS = {
    "up": ("●", "green"),
    "down": ("✗", "red"),
    "degraded": ("◐", "yellow"),
    "suspect": ("◌", "yellow"),
    "recovering": ("◑", "cyan"),
}
LANE_SPEAKS_S = 5.0
REDRAWS = 4  # in a second; the prober shares the machine


@contextmanager
def progress_for(stream: TextIO, environment: Mapping[str, str]) -> Iterator[Progress]:
    """A live display when `stream` is a terminal that can move its cursor, else one line for each thing that happens."""
    if not stream.isatty() or environment.get("TERM", "dumb") == "dumb":
        yield Lines(stream)
        return
    from rich.console import Console  # noqa: PLC0415 - rich is loaded only where something is drawn
    from rich.live import Live  # noqa: PLC0415

    live = Live(console=Console(file=stream, highlight=False), refresh_per_second=REDRAWS, transient=True)
    try:
        yield Drawing(live)
    finally:
        live.stop()


@dataclass
class Lines:
    """Plain lines: phases, notes, and a lane's state when it changes."""

    stream: TextIO
    began: float = field(default_factory=time.monotonic)
    states: dict[str, str] = field(default_factory=dict)
    spoken: dict[str, float] = field(default_factory=dict)  # lane -> when its state was last told

    def _line(self, text: str) -> None:
        self.stream.write(f"[{time.monotonic() - self.began:6.1f} s] {text}\n")
        self.stream.flush()

    def phase(self, phase: Phase, longest_s: float | None, detail: str = "") -> None:
        limit = f" (at most {longest_s:g} s)" if longest_s is not None else ""
        self._line(f"{WORDS[phase]}{': ' + detail if detail else ''}{limit}")

    def lanes(self, now_s: float, states: Mapping[str, str]) -> None:
        del now_s
        for lane, state in states.items():
            before, now = self.states.get(lane), time.monotonic()
            quiet = now - self.spoken.get(lane, -LANE_SPEAKS_S) < LANE_SPEAKS_S  # one that flaps must not flood a log
            if before not in {state, None} and {before, state} & {"down", "degraded"} and not quiet:
                self.spoken[lane] = now
                self._line(f"{lane}: {state}")
        self.states = dict(states)

    def note(self, text: str) -> None:
        self._line(text)


@dataclass
class Drawing:
    """One line for the phase with its clock, one for the lanes; notes scroll by above."""

    live: Any
    now: Phase = Phase.STARTING
    detail: str = ""
    longest_s: float | None = None
    began: float = field(default_factory=time.monotonic)
    phase_began: float = field(default_factory=time.monotonic)
    states: Mapping[str, str] = field(default_factory=dict)

    def phase(self, phase: Phase, longest_s: float | None, detail: str = "") -> None:
        self.now, self.longest_s, self.detail, self.phase_began = phase, longest_s, detail, time.monotonic()
        if phase is not Phase.STARTING:  # until then the plan may be shown, and a question asked
            self.live.start()
        self._draw()

    def lanes(self, now_s: float, states: Mapping[str, str]) -> None:
        del now_s
        self.states = dict(states)
        self._draw()

    def note(self, text: str) -> None:
        self.live.console.print(f"  {text}", markup=False, soft_wrap=True)

    def _draw(self) -> None:
        from rich.text import Text  # noqa: PLC0415

        elapsed = time.monotonic() - self.phase_began
        limit = f" of at most {self.longest_s:.0f} s" if self.longest_s is not None else ""
        shown = Text(f"{time.monotonic() - self.began:6.1f} s  ", style="dim")
        shown.append(f"{WORDS[self.now]}{': ' + self.detail if self.detail else ''}", style="bold")
        shown.append(f"  {elapsed:.0f} s{limit}\n", style="dim")
        filled = 0
        for lane, state in self.states.items():
            if lane == "control":
                continue
            mark, style = MARKS.get(state, ("·", "dim"))
            told = f"{mark} {lane}"
            # A line breaks between lanes: rich would also break it between a sign and its lane, at any kind of space.
            if filled and filled + 2 + len(told) > self.live.console.width:
                shown.append("\n")
                filled = 0
            elif filled:
                shown.append("  ")
                filled += 2
            shown.append(told, style=style)
            filled += len(told)
        self.live.update(shown)
