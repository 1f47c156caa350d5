"""A prober's standard input and output, wherever it runs, and its samples, which lie in the run's folder in any case."""

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Protocol

from ...injectors.values import JSON
from . import prober
from .lanes import ProbingError


class Channel(Protocol):
    """One prober's process, which waits for its configuration at first."""

    pid: int | None  # on this machine
    patience_s: float  # how long it may be out of reach before it counts as gone

    def configured(self, config: JSON) -> JSON:
        """The configuration as it must be told there."""

    def tell(self, line: str) -> None:
        """A line to its standard input. Raises ProbingError when it has ended."""

    def hear(self, limit_s: float) -> str | None:
        """The next line of its standard output; None: nothing within that time. Raises ProbingError when it has ended."""

    def alive(self) -> bool:
        """Whether it is still probing, as far as is known."""

    def close(self, *, orderly: bool) -> str:
        """End it, by force unless it ended orderly. What of its samples is missing here, in words; empty: nothing."""


class Process:
    """A prober on this machine, which writes into the run's folder itself."""

    patience_s = 0.0

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log, self._heard = folder / "prober.log", b""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", prober.__file__, "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # an interrupt at the terminal is the engine's business: it goes on measuring the undo
            )
        self.pid: int | None = self._process.pid

    def configured(self, config: JSON) -> JSON:
        """Tied to this process, where this is the thread that lasts as long as it does: Linux ends the prober with that thread."""
        tie = {"parent": os.getpid()} if threading.current_thread() is threading.main_thread() else {}
        return {**config, **tie}

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def hear(self, limit_s: float) -> str | None:
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._heard:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._process.stdout], [], [], left_s)[0]:
                return None
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise self._ended()
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self, *, orderly: bool) -> str:
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0 if orderly else 0.0)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()
        return ""

    def _ended(self) -> ProbingError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        log = self._log.read_text(errors="replace").strip() if self._log.exists() else ""
        return ProbingError(f"the prober has ended (status {self._process.returncode}): {log[-500:] or 'without a word'}")
