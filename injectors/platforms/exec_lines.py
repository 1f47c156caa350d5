"""What a program inside a container says, line by line."""

import time
from abc import ABC, abstractmethod


class Lines(ABC):
    """`said` is what came of its standard output and was not taken yet; `open`: more may come."""

    said: bytearray
    open: bool

    @abstractmethod
    def _take(self, limit_s: float) -> None:
        """What comes next, within that time."""

    def line(self, limit_s: float) -> str | None:
        """The next line of standard output; None when it ended or said nothing more in time."""
        limit = time.monotonic() + limit_s
        while b"\n" not in self.said and self.open and (left := limit - time.monotonic()) > 0:
            self._take(left)
        if b"\n" not in self.said:
            return None
        line, _, rest = bytes(self.said).partition(b"\n")
        self.said = bytearray(rest)
        return line.decode("utf-8", "replace")
