"""Steers the prober's process. What it probes: lanes.py; what right answers are: golden.py."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ...injectors.values import JSON
from . import prober
from .golden import await_right, record_golden
from .lanes import ProbingError, probe_config

__all__ = ["Prober", "ProbingError", "await_right", "probe_config", "record_golden"]

READY_S = 30.0  # two Python processes start; on a machine at its limit that takes seconds
STOP_S = 10.0


class Prober:
    """The prober's process, from `start` to `stop`; a context manager that always stops it.

    One use each. Start it from a thread that outlives the drill: Linux ends the prober with the thread that started it,
    which is wanted of the main thread only, so from another one that second tie is left out.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._log: Path | None = None
        self._configured = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def begin(self, folder: Path) -> None:
        """Starts the process, which waits for its configuration: called early, the time that this takes is not waited for."""
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "prober.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", prober.__file__, "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # an interrupt at the terminal is the engine's business: it goes on measuring the undo
            )

    def start(self, config: JSON) -> None:
        """Starts probing; returns when the first probes are due. Raises ProbingError."""
        if self._process is None:
            self.begin(Path(config["folder"]))
        tie = {"parent": os.getpid()} if threading.current_thread() is threading.main_thread() else {}
        try:
            self._tell(json.dumps({**config, **tie}))
            self._configured = True
            self._await("ready", READY_S)
        except ProbingError:
            self.stop()
            raise

    def alive(self) -> bool:
        """Whether it is still probing."""
        return self._process is not None and self._process.poll() is None

    def read_back(self, timeout_s: float) -> dict[str, int]:
        """Ends the ledger's writes and reads all of them back; the number of writes by what became of them."""
        self._tell("read-back")
        counts: dict[str, int] = self._await("read-back-done", timeout_s)["counts"]
        return counts

    def move(self, component: str, url: str) -> None:
        """The lanes of that replica ask there from now on: it was replaced by one with another address."""
        self._tell("move " + json.dumps({"component": component, "url": url}))

    def stop(self, timeout_s: float = STOP_S) -> JSON | None:
        """Ends it: in order within the time given, or by force. Returns what it said at the end, None if nothing."""
        process, self._process = self._process, None
        if process is None:
            return None
        said: JSON | None = None
        with contextlib.suppress(ProbingError):
            if self._configured:
                self._tell("stop", process)
                said = self._await("stopped", timeout_s, process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0 if said else 0.0)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if self._log is not None and self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()
        return said

    def _tell(self, line: str, process: subprocess.Popen[bytes] | None = None) -> None:
        process = process or self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            raise self._ended(process) from error

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProbingError("the prober has not been started, or has been stopped")
        return self._process

    def _await(self, event: str, timeout_s: float, process: subprocess.Popen[bytes] | None = None) -> JSON:
        process = process or self._running()
        assert process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while True:
            while b"\n" in self._heard:
                line, _, self._heard = self._heard.partition(b"\n")
                said: JSON = json.loads(line)
                if said["event"] == event:
                    return said
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise ProbingError(f"the prober has not said `{event}` for {timeout_s:g} s")
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                raise self._ended(process)
            self._heard += data

    def _ended(self, process: subprocess.Popen[bytes]) -> ProbingError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        log = self._log.read_text(errors="replace").strip() if self._log and self._log.exists() else ""
        return ProbingError(f"the prober has ended (status {process.returncode}): {log[-500:] or 'without a word'}")
