"""The ability to run something of ours beside a service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Post:
    """What an outpost runs: `command` is one of its programs with arguments. It ends by itself after `longest_s`, and runs elsewhere
    than on the nodes `away_from`, if it can be helped.
    """

    run: str
    image: str
    programs: Mapping[str, bytes]
    command: Sequence[str]
    longest_s: float
    away_from: Sequence[str] = ()


class Line(Protocol):
    """The standard input and output of a program somewhere else."""

    def send(self, data: bytes) -> None:
        """To its input. Raises PlatformError when the connection is gone."""

    def line(self, limit_s: float) -> str | None:
        """The next line of its output; None when it ended or said nothing more in time."""

    def close(self) -> None:
        """Ends its input, too."""


class Outposts(Protocol):
    """The ability to run programs of ours beside the service: a process of its own, apart from every target, one for each run; and a crowd
    of more such, each known by its index from 0, which is what an `index` below means.

    Programs lie in the working folder under their names and are started by these; /tmp can be written to.
    """

    def outpost_begin(self, post: Post) -> None:
        """Start it; returns when it runs. Raises PlatformError."""

    def crowd_begin(self, post: Post, number: int) -> None:
        """Start so many more of it; returns when all of them run. Raises PlatformError."""

    def outpost_line(self, run: str, command: Sequence[str], index: int | None = None) -> Line:
        """Start another program in there. Raises PlatformError."""

    def outpost_lost(self, run: str, index: int | None = None) -> str:
        """Why it runs no more, by the platform's own word; empty: it does, or nobody can say."""

    def outpost_end(self, run: str) -> bool:
        """Remove all of it, from any process, as often as wished; whether there was something. Raises PlatformError."""
