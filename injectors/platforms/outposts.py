"""The ability to run something of ours beside a service."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


class Line(Protocol):
    """The standard input and output of a program somewhere else."""

    def send(self, data: bytes) -> None:
        """To its input. Raises PlatformError when the connection is gone."""

    def line(self, limit_s: float) -> str | None:
        """The next line of its output; None when it ended or said nothing more in time."""

    def close(self) -> None:
        """Ends its input, too."""


class Outposts(Protocol):
    """The ability to run programs of ours beside the service: a process of its own, apart from every target, one for each run.

    Each lies in its working folder under its name and is started by that; /tmp can be written to.
    """

    def outpost_begin(  # noqa: PLR0913 - what it is, how long it is needed, and where it must not be
        self,
        run: str,
        image: str,
        programs: Mapping[str, bytes],
        command: Sequence[str],
        longest_s: float,
        away_from: Sequence[str] = (),
    ) -> None:
        """Start it; `command` is a program with its arguments. Returns when it runs; ends by itself after `longest_s`. It runs elsewhere
        than on the nodes `away_from`, if it can be helped.
        """

    def outpost_line(self, run: str, command: Sequence[str]) -> Line:
        """Start another program in there. Raises PlatformError."""

    def outpost_lost(self, run: str) -> str:
        """Why it runs no more, by the platform's own word; empty: it does, or nobody can say."""

    def outpost_end(self, run: str) -> bool:
        """Remove all of it, from any process, as often as wished; whether there was something. Raises PlatformError."""


@runtime_checkable
class Crowds(Protocol):
    """The rarer ability to run any number of such for one run, each known by its index from 0. They end with the run's own one."""

    def crowd_begin(  # noqa: PLR0913 - as many as are wanted of what an outpost is
        self,
        number: int,
        run: str,
        image: str,
        programs: Mapping[str, bytes],
        command: Sequence[str],
        longest_s: float,
        away_from: Sequence[str] = (),
    ) -> None:
        """Start them; returns when all run. Raises PlatformError."""

    def crowd_line(self, index: int, run: str, command: Sequence[str]) -> Line:
        """Start another program in that one. Raises PlatformError."""

    def crowd_lost(self, index: int, run: str) -> str:
        """Why that one runs no more, by the platform's own word; empty: it does, or nobody can say."""
