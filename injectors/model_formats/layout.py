"""What a reader of a format tells: where each tensor's numbers lie in its file, and what a loader looks at first.

Readers take headers and offsets only, never the tensors themselves, so that a file of 100 GB costs what its header does.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

BLOCK = 256 << 10  # bytes that a cursor reads at once
HEADER_LIMIT = 16 << 20  # bytes of a header, index or pickle that are read whole; those of real models are below 2 MiB


class Unreadable(Exception):
    """Of no format that is known here, or damaged already; the message says what was found."""


class BreaksOff(Unreadable):
    """Of a known format as far as that byte."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(f"byte {at}: {why}")


class Source(Protocol):
    """A file that can be read from the middle, here or inside a pod."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Fewer bytes only where the file ends."""


class FileSource:
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(f"{path} is not a regular file")
        self.path, self.size = path, found.st_size

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), max(0, min(length, self.size - offset)), offset)


class Nearby:
    """Keeps the block that was read last: what lies close together is asked for once, also where each question is a journey."""

    def __init__(self, source: Source, block: int = 64 << 10) -> None:
        self.source, self.size, self.block = source, source.size, block
        self._start, self._held = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        end = max(offset, min(offset + length, self.size))
        if not self._start <= offset <= end <= self._start + len(self._held):
            self._start, self._held = offset, self.source.read(offset, max(length, self.block))
        return self._held[offset - self._start : end - self._start]


class LocalFiles:
    """Folders and files of this machine."""

    def listing(self, folder: str) -> Mapping[str, int | None]:
        try:
            return {each.name: each.stat().st_size if each.is_file() else None for each in Path(folder).iterdir()}
        except OSError as problem:
            raise Unreadable(f"{folder}: {problem.strerror}") from problem

    def source(self, path: str) -> FileSource:
        try:
            return FileSource(Path(path))
        except OSError as problem:
            raise Unreadable(f"{path}: {problem.strerror}") from problem


@dataclass(frozen=True)
class Number:
    """The floating-point numbers of a tensor: of `kind` (F16, ...), one every `stride` bytes, `at` bytes into each stride.

    Of a plain tensor that is each element; of a quantised one the scale of each block.
    """

    kind: str
    stride: int
    at: int = 0


FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}  # what can be damaged, and its width


def plain(dtype: str) -> Number | None:
    """Of a tensor that is not quantised; None where it holds no floating-point numbers."""
    return Number(dtype, FLOATS[dtype]) if dtype in FLOATS else None


class Checksum(NamedTuple):
    """A CRC-32 that the file keeps of `size` bytes from `offset` on, as 4 bytes little-endian at each of `places`."""

    offset: int
    size: int
    places: tuple[int, ...]


class Tensor(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # of the first byte, in its file
    size: int  # bytes
    number: Number | None
    file: str = ""  # where the format keeps it in a file beside this one: that file's name
    hint: str = ""  # what else tells its part in the model
    checksum: Checksum | None = None


class Piece(NamedTuple):
    """A few bytes at an offset, as they are and as a mutation makes them."""

    offset: int
    before: bytes
    after: bytes


class Text(NamedTuple):
    """A text of the file, where it lies; `escaped`: as JSON writes it."""

    offset: int
    length: int
    value: str
    escaped: bool = False


@dataclass(frozen=True)
class Layout:
    """One file. `data_start`: where its header ends; `header`: the smallest damage that every loader of the format refuses."""

    format: str
    size: int
    data_start: int
    tensors: tuple[Tensor, ...]
    header: Piece
    templates: tuple[Text, ...] = ()  # the chat templates, where the file itself holds any
    vocabulary: Piece | None = None  # damage after which the tokenizer is not found in the file

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files beside it that hold tensors."""
        return tuple(sorted({tensor.file for tensor in self.tensors if tensor.file}))


def within(layout: Layout) -> Layout:
    """The same, once every tensor lies inside the file. Raises Unreadable."""
    if not layout.tensors:
        raise Unreadable("the file holds no tensors")
    for tensor in layout.tensors:
        if tensor.file:
            continue
        if tensor.offset < layout.data_start or tensor.size < 0 or tensor.offset + tensor.size > layout.size:
            raise Unreadable(
                f"{tensor.name} lies at bytes {tensor.offset} to {tensor.offset + tensor.size} of a file of {layout.size}; "
                "it is damaged already"
            )
    return layout


class Cursor:
    """Reads on through a source, or a part of it, one block at a time. Raises Unreadable where it ends too early."""

    def __init__(self, source: Source, position: int = 0, end: int | None = None) -> None:
        self.source, self.position = source, position
        self.end = source.size if end is None else end
        self._block, self._start = b"", 0

    @property
    def left(self) -> int:
        return self.end - self.position

    def take(self, length: int) -> bytes:
        self._demand(length, HEADER_LIMIT)
        inside = self.position - self._start
        if not 0 <= inside <= inside + length <= len(self._block):
            self._block = self.source.read(self.position, max(BLOCK, length))
            self._start, inside = self.position, 0
        found = self._block[inside : inside + length]
        if len(found) < length:
            raise Unreadable(f"the file is cut off at byte {self._start + len(self._block)}")
        self.position += length
        return found

    def skip(self, length: int) -> None:
        self._demand(length, self.left)
        self.position += length

    def whole(self, length: int) -> int:
        """A little-endian unsigned number of so many bytes."""
        return int.from_bytes(self.take(length), "little")

    def _demand(self, length: int, limit: int) -> None:
        if length < 0 or length > self.left:
            raise BreaksOff(self.position, f"{length} bytes are announced and {max(0, self.left)} are left")
        if length > limit:
            raise BreaksOff(self.position, f"{length} bytes of header in one piece; more than {limit} are not read")
