"""Steers the prober's process. Where that runs: channel.py and distant.py; what it probes: lanes.py; what right answers are: golden.py."""

import contextlib
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ...injectors.values import JSON
from .channel import Channel, Process
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
        self._channel: Channel | None = None
        self._configured = False
        self.missing = ""  # what of the samples could not be had, once it was stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        return self._channel.pid if self._channel else None

    def begin(self, channel: Channel | Path) -> None:
        """Takes a process that waits for its configuration, or starts one here whose samples go to that folder.

        Called early, the time that this takes is not waited for.
        """
        self._channel = Process(channel) if isinstance(channel, Path) else channel

    def start(self, config: JSON) -> None:
        """Starts probing; returns when the first probes are due. Raises ProbingError."""
        if self._channel is None:
            self.begin(Path(config["folder"]))
        try:
            channel = self._running()
            channel.tell(json.dumps(channel.configured(config)))
            self._configured = True
            self._await("ready", READY_S, channel)
        except ProbingError:
            self.stop()
            raise

    def alive(self) -> bool:
        """Whether it is still probing."""
        return self._channel is not None and self._channel.alive()

    def read_back(self, timeout_s: float) -> dict[str, int]:
        """Ends the ledger's writes and reads all of them back; the number of writes by what became of them."""
        channel = self._running()
        channel.tell("read-back")
        counts: dict[str, int] = self._await("read-back-done", timeout_s, channel)["counts"]
        return counts

    def move(self, component: str, url: str) -> None:
        """The lanes of that replica ask there from now on: it was replaced by one with another address."""
        self._running().tell("move " + json.dumps({"component": component, "url": url}))

    def stop(self, timeout_s: float = STOP_S) -> JSON | None:
        """Ends it: in order within the time given, or by force. Returns what it said at the end, None if nothing."""
        channel, self._channel = self._channel, None
        if channel is None:
            return None
        said: JSON | None = None
        with contextlib.suppress(ProbingError):
            if self._configured:
                channel.tell("stop")
                said = self._await("stopped", timeout_s, channel)
        self.missing = channel.close(orderly=said is not None)
        return said

    def _running(self) -> Channel:
        if self._channel is None:
            raise ProbingError("the prober has not been started, or has been stopped")
        return self._channel

    @staticmethod
    def _await(event: str, timeout_s: float, channel: Channel) -> JSON:
        deadline = time.monotonic() + timeout_s + channel.patience_s
        while (left_s := deadline - time.monotonic()) > 0:
            line = channel.hear(left_s)
            said: JSON = json.loads(line) if line else {}
            if said.get("event") == event:
                return said
        raise ProbingError(f"the prober has not said `{event}` for {timeout_s:g} s")
