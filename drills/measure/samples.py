"""Reads what the prober wrote (`samples/` of a run's folder), whole or as it grows.

The prober may have been killed at any byte: a torn last record or line is not there yet, never an error.
"""

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...injectors.values import JSON
from .clocks import Clocks, Exchange
from .prober import OUTCOMES, RECORD
from .values import LaneInfo, Probe, ReadBack, Write

RAW_FILES = ("lanes.json", "texts.jsonl", "probes.bin", "ledger.jsonl", "clock.jsonl")
EXCHANGES = "exchanges.jsonl"  # with a prober on another machine: what its clock showed between two moments of the drill's
READ_BACK_EVENTS = ("present", "lost", "corrupt", "duplicated", "unread")


@dataclass(frozen=True)
class Samples:
    """All samples of a run; empty where the prober never started. Moments are seconds on the prober's clock, which is the drill's own
    where `clocks` has no exchanges.
    """

    lanes: tuple[LaneInfo, ...]
    probes: tuple[Probe, ...]  # by the moment at which they were intended
    writes: tuple[Write, ...]  # by the moment at which they were sent
    read_back: tuple[ReadBack, ...]
    clock: tuple[tuple[float, float], ...]  # (prober's clock, epoch), one each second
    clocks: Clocks
    digest: str  # sha256 of the raw files' contents, the same before and after they are compressed


def read_samples(folder: Path) -> Samples:
    """The samples in `folder`, compressed or not. Raises ValueError where a file that is there is not the prober's."""
    raw = {name: _content(folder / name) for name in RAW_FILES}
    lanes = _lanes(raw["lanes.json"])
    texts = _texts(raw["texts.jsonl"])
    whole = len(raw["probes.bin"]) // RECORD.size * RECORD.size
    probes = _probes(raw["probes.bin"][:whole], lanes, texts)
    probes.sort(key=lambda probe: probe.intended_s)
    writes, read_back = _ledger(_lines(raw["ledger.jsonl"]))
    clock = tuple((float(line["t"]), float(line["wall"])) for line in _lines(raw["clock.jsonl"]))
    if exchanged := _content(folder / EXCHANGES):
        raw[EXCHANGES] = exchanged
    clocks = Clocks(tuple(Exchange(line["asked"], line["shown"], line["heard"]) for line in _lines(exchanged)))
    digest = hashlib.sha256()
    for name, content in raw.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return Samples(lanes, tuple(probes), writes, read_back, clock, clocks, digest.hexdigest())


class SampleTail:
    """What has come since the last look, for a live view; in order of completion."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lanes: tuple[LaneInfo, ...] = ()
        self._texts = [""]
        self._text_offset = 0
        self._offset = 0

    def new(self) -> list[Probe]:
        """The probes that were written since the last call."""
        if not self._lanes:
            self._lanes = _lanes(_content(self._folder / "lanes.json"))
            if not self._lanes:
                return []
        records = _content(self._folder / "probes.bin", self._offset)
        records = records[: len(records) // RECORD.size * RECORD.size]
        if not records:
            return []
        # The prober writes texts before the records that name them, so they are read after.
        lines = _content(self._folder / "texts.jsonl", self._text_offset)
        lines = lines[: lines.rfind(b"\n") + 1]
        self._texts += [json.loads(line) for line in lines.splitlines()]
        self._text_offset += len(lines)
        self._offset += len(records)
        return _probes(records, self._lanes, self._texts)


def raw_lines(path: Path) -> tuple[list[JSON], str]:
    """The lines of a file of samples, compressed or not, and the sha256 of its content; no lines where there is none."""
    content = _content(path)
    return _lines(content), hashlib.sha256(content).hexdigest()


def _content(path: Path, offset: int = 0) -> bytes:
    """A file from `offset` on, from its .gz where it has been compressed; nothing where there is neither."""
    for file, opened in ((path, open), (path.with_name(path.name + ".gz"), gzip.open)):
        try:
            with opened(file, "rb") as stream:
                stream.seek(offset)
                return bytes(stream.read())
        except FileNotFoundError:
            continue
    return b""


def _lines(content: bytes) -> list[JSON]:
    """The whole lines; a torn one may also sit where a full disk cut it off, and is passed over."""
    found = []
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _lanes(content: bytes) -> tuple[LaneInfo, ...]:
    return tuple(LaneInfo(**lane) for lane in json.loads(content)) if content else ()


def _texts(content: bytes) -> list[str]:
    """By number: 0 is no text."""
    return ["", *(json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines())]


def _probes(records: bytes, lanes: tuple[LaneInfo, ...], texts: list[str]) -> list[Probe]:
    names = [lane.name for lane in lanes]
    count = len(texts)
    make = Probe._make
    return [
        make(
            (
                names[lane],
                sequence,
                intended,
                intended + sent,
                None if first != first else intended + sent + first,  # noqa: PLR0124  NaN: no first byte
                intended + sent + end,
                OUTCOMES[outcome],
                status,
                texts[backend] if backend < count else "",
                tokens,
                gap,
                texts[text] if text < count else "",
            )
        )
        for lane, outcome, status, sequence, intended, sent, first, end, backend, tokens, gap, text in RECORD.iter_unpack(records)
    ]


def _ledger(lines: list[JSON]) -> tuple[tuple[Write, ...], tuple[ReadBack, ...]]:
    """A write without an outcome is indeterminate. Of several findings for one id the last one counts."""
    invoked: dict[str, float] = {}
    outcomes: dict[str, tuple[str, float]] = {}
    found: dict[str, str] = {}
    for line in lines:
        key, event, at = line["id"], line["event"], line["at"]
        if event == "invoked":
            invoked[key] = at
        elif event in READ_BACK_EVENTS:
            found[key] = event
        else:
            outcomes[key] = (event, at)
    return tuple(_write(key, at, outcomes.get(key)) for key, at in invoked.items()), tuple(map(ReadBack, found, found.values()))


def _write(key: str, invoked_s: float, ended: Any) -> Write:
    outcome, at = ended or ("indeterminate", None)
    return Write(key, invoked_s, at if outcome == "acked" else None, outcome)
