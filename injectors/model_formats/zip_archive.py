"""The central directory of a zip file (APPNOTE.TXT 6.3.10), with the 64-bit fields: where each stored entry's bytes and CRC lie."""

from typing import NamedTuple

from .layout import HEADER_LIMIT, BreaksOff, Source, Unreadable

END, END64, LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
ENTRY, LOCAL, DESCRIPTOR = b"PK\1\2", b"PK\3\4", b"PK\7\x08"
COMMENT_LIMIT = 0xFFFF
FULL32, FULL16 = 0xFFFFFFFF, 0xFFFF
CRC_FOLLOWS = 8  # flag: the CRC stands after the data


class Entry(NamedTuple):
    name: str
    stored: bool
    flags: int
    size: int
    header: int  # offset of its local header
    crc_place: int  # offset of its CRC in the central directory


class Directory(NamedTuple):
    end: int  # offset of the end record, by which everything else is found
    entries: tuple[Entry, ...]


def directory(source: Source) -> Directory:
    """Raises Unreadable."""
    span = min(source.size, 22 + COMMENT_LIMIT)
    tail = source.read(source.size - span, span)
    found = tail.rfind(END)
    if found < 0 or len(tail) < found + 22:
        raise Unreadable("this zip file has no end record; it is cut off")
    end = source.size - span + found
    count, size, offset = (_whole(tail, found + at, width) for at, width in ((10, 2), (12, 4), (16, 4)))
    if FULL32 in {size, offset} or count == FULL16:
        count, size, offset = _wide(source, end)
    if size > HEADER_LIMIT or offset + size > end:
        raise Unreadable(f"the directory of this zip file is said to have {size} bytes at {offset}, before byte {end}")
    return Directory(end, tuple(_entries(source.read(offset, size), offset, count)))


def _whole(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "little")


def _wide(source: Source, end: int) -> tuple[int, int, int]:
    locator = source.read(max(0, end - 20), 20)
    place = _whole(locator, 8, 8)
    record = source.read(place, 56) if locator[:4] == LOCATOR64 and place + 56 <= end else b""
    if record[:4] != END64:
        raise Unreadable("this zip file says that it is large, and its 64-bit end record is not there")
    return _whole(record, 32, 8), _whole(record, 40, 8), _whole(record, 48, 8)


def _entries(data: bytes, offset: int, count: int) -> list[Entry]:
    found, at = [], 0
    for _ in range(min(count, len(data) // 46)):
        if data[at : at + 4] != ENTRY:
            raise BreaksOff(offset + at, "no entry of a zip directory")
        flags, method, crc_place = _whole(data, at + 8, 2), _whole(data, at + 10, 2), offset + at + 16
        sizes = {"size": _whole(data, at + 24, 4), "packed": _whole(data, at + 20, 4), "header": _whole(data, at + 42, 4)}
        lengths = [_whole(data, at + where, 2) for where in (28, 30, 32)]
        name = data[at + 46 : at + 46 + lengths[0]].decode("utf-8", "replace")
        _widen(sizes, data[at + 46 + lengths[0] : at + 46 + lengths[0] + lengths[1]])
        found.append(Entry(name, method == 0 and not flags & 1, flags, sizes["size"], sizes["header"], crc_place))
        at += 46 + sum(lengths)
    if len(found) != count:
        raise Unreadable(f"{count} entries are announced in a zip directory of {len(data)} bytes")
    return found


def _widen(sizes: dict[str, int], extra: bytes) -> None:
    """Take what does not fit into 32 bits from the extra field of ZIP64."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = _whole(extra, at, 2), _whole(extra, at + 2, 2)
        inside = at + 4
        for key in sizes if kind == 1 else ():
            if sizes[key] == FULL32 and inside + 8 <= at + 4 + length:
                sizes[key] = _whole(extra, inside, 8)
                inside += 8
        at += 4 + length


def data_of(source: Source, entry: Entry) -> int:
    """Offset of its first byte: behind its local header, whose length only that header tells."""
    head = source.read(entry.header, 30)
    if head[:4] != LOCAL or len(head) < 30:
        raise Unreadable(f"{entry.name} has no header at byte {entry.header}; the file is damaged already")
    start = entry.header + 30 + _whole(head, 26, 2) + _whole(head, 28, 2)
    if start + entry.size > source.size:
        raise Unreadable(f"{entry.name} lies beyond the end of the file; it is damaged already")
    return start


def crc_places(source: Source, entry: Entry, start: int) -> tuple[int, ...]:
    """Where the file keeps the CRC of that entry, whose data begins at `start`."""
    if not entry.flags & CRC_FOLLOWS:
        return entry.crc_place, entry.header + 14
    follows = start + entry.size
    named = source.read(follows, 4) == DESCRIPTOR
    return entry.crc_place, follows + (4 if named else 0)
