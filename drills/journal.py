"""The drill's append-only record: what `recover`, measurement and reports read.

One JSON object a line: `seq`, `t_s` (seconds on the drill's monotonic clock), `wall` (ISO 8601 with zone), `event`, the
event's own fields, and `prev`, the SHA-256 of the line before (64 zeros for the first), so that a line changed, added or
taken out later shows. Every line is flushed to the disk before `append` returns: an undo record is durable before its fault.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from .finished import Record

FIRST = "0" * 64
NAME = "journal.jsonl"


@dataclass(frozen=True)
class DrillClock:
    """Seconds since the drill's start on CLOCK_MONOTONIC, and the wall clock beside it."""

    origin: float
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    @classmethod
    def starting_now(cls) -> "DrillClock":
        return cls(time.monotonic())

    def now(self) -> float:
        return self.monotonic() - self.origin

    def wall_text(self) -> str:
        return datetime.fromtimestamp(self.wall(), UTC).astimezone().isoformat(timespec="milliseconds")


@dataclass
class Journal:
    """Opened for appending; continues the chain of an existing file."""

    path: Path
    clock: DrillClock
    _seq: int = field(default=0, init=False)
    _prev: str = field(default=FIRST, init=False)
    _file: int = field(default=-1, init=False)

    def __enter__(self) -> Self:
        if self.path.exists():
            text = self.path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            lines = whole.splitlines()
            self._seq = len(lines)
            self._prev = digest_of(lines[-1]) if lines else FIRST
            if whole != text:  # the line that was being written when the run died
                os.truncate(self.path, len(whole))
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def append(self, event: str, **fields: Any) -> float:
        """Write one record through to the disk; returns its moment on the drill's clock, in seconds."""
        moment = round(self.clock.now(), 6)
        record = {"seq": self._seq, "t_s": moment, "wall": self.clock.wall_text(), "event": event, **fields, "prev": self._prev}
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
        written = os.write(self._file, line + b"\n")
        if written != len(line) + 1:
            raise OSError(f"{self.path}: only {written} of {len(line) + 1} bytes could be written")
        os.fsync(self._file)
        self._seq += 1
        self._prev = digest_of(line)
        return moment


def digest_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def read_journal(path: Path) -> tuple[tuple[Record, ...], bool]:
    """All records, and whether the chain is intact. A torn last line (the run died writing it) is left out."""
    text = path.read_bytes()
    records: list[Record] = []
    intact, prev = True, FIRST
    for line in text[: text.rfind(b"\n") + 1].splitlines():
        try:
            fields = json.loads(line)
            record = Record(
                fields.pop("seq"), fields.pop("t_s"), fields.pop("wall"), fields.pop("event"), fields, digest_of(line)
            )
        except (ValueError, KeyError, AttributeError):
            intact = False
            continue
        intact = intact and fields.pop("prev", None) == prev and record.seq == len(records)
        prev = record.digest
        records.append(record)
    return tuple(records), intact
