"""The wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding), as far as finding fields takes it."""

from collections.abc import Iterator
from typing import NamedTuple

from .layout import BreaksOff, Cursor, Source

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10
NAME_LIMIT = 4 << 10
FEW = 1 << 10  # bytes of packed numbers; a tensor has a handful of dimensions


class Field(NamedTuple):
    """`value` of a number, or where the bytes lie."""

    number: int
    wire: int
    value: int
    offset: int
    length: int


def varint(cursor: Cursor) -> int:
    found = shift = 0
    for _ in range(LONGEST_VARINT):
        byte = cursor.take(1)[0]
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found
        shift += 7
    raise BreaksOff(cursor.position, "a number does not end")


def fields(source: Source, start: int, end: int) -> Iterator[Field]:
    """The fields of a message, one after another; what lies inside them is passed over. Raises Unreadable."""
    cursor = Cursor(source, start, end)
    while cursor.left:
        tag = varint(cursor)
        number, wire = tag >> 3, tag & 7
        if not number or wire not in {VARINT, FIXED64, BYTES, FIXED32}:
            raise BreaksOff(cursor.position, f"{tag} is no field of a protocol buffer")
        value = varint(cursor) if wire == VARINT else 0
        length = {VARINT: 0, FIXED64: 8, FIXED32: 4}[wire] if wire != BYTES else varint(cursor)
        yield Field(number, wire, value, cursor.position, length)
        cursor.skip(length)


def text(source: Source, field: Field) -> str:
    if field.length > NAME_LIMIT:
        raise BreaksOff(field.offset, f"{field.length} bytes where a name belongs")
    return source.read(field.offset, field.length).decode("utf-8", "replace")


def packed(source: Source, field: Field) -> tuple[int, ...]:
    """The numbers of a repeated field, packed or one alone."""
    if field.wire != BYTES:
        return (field.value,)
    if field.length > FEW:
        raise BreaksOff(field.offset, f"{field.length} bytes where a few numbers belong")
    cursor, found = Cursor(source, field.offset, field.offset + field.length), []
    while cursor.left:
        found.append(varint(cursor))
    return tuple(found)
