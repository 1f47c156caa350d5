"""GGUF, versions 2 and 3: magic, version, counts, key-value pairs, tensor infos, padding, data
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

A quantised tensor is a row of blocks, each with one scale or two: those are the floating-point numbers that a mutation can hit.
"""

import math
from typing import NamedTuple

from .layout import BreaksOff, Cursor, Layout, Number, Piece, Source, Tensor, Text, Unreadable, within

MAGIC = b"GGUF"
VERSIONS = (2, 3)
FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value by its type
STRING, ARRAY = 8, 9
TEMPLATE = b"tokenizer.chat_template"  # and one with .NAME behind it for each that is not the default
NAME_LIMIT = 1 << 10  # ggml's own is 64
TEXT_LIMIT = 1 << 20
MOST_TENSORS = 1 << 17
MOST_VALUES = 1 << 22  # pairs, or texts in one array; vocabularies have a tenth of that
DEEPEST = 4  # arrays in arrays
DEFAULT_ALIGNMENT = 32


class Block(NamedTuple):
    """How a ggml type lays out its numbers: `elements` in `size` bytes; where the scale is, and of which kind."""

    name: str
    elements: int
    size: int
    scale: str = ""
    at: int = 0


BLOCKS = {
    0: Block("F32", 1, 4, "F32"),
    1: Block("F16", 1, 2, "F16"),
    2: Block("Q4_0", 32, 18, "F16"),
    3: Block("Q4_1", 32, 20, "F16"),
    6: Block("Q5_0", 32, 22, "F16"),
    7: Block("Q5_1", 32, 24, "F16"),
    8: Block("Q8_0", 32, 34, "F16"),
    10: Block("Q2_K", 256, 84, "F16", 80),
    11: Block("Q3_K", 256, 110, "F16", 108),
    12: Block("Q4_K", 256, 144, "F16"),
    13: Block("Q5_K", 256, 176, "F16"),
    14: Block("Q6_K", 256, 210, "F16", 208),
    15: Block("Q8_K", 256, 292, "F32"),
    16: Block("IQ2_XXS", 256, 66, "F16"),
    17: Block("IQ2_XS", 256, 74, "F16"),
    18: Block("IQ3_XXS", 256, 98, "F16"),
    19: Block("IQ1_S", 256, 50, "F16"),
    20: Block("IQ4_NL", 32, 18, "F16"),
    21: Block("IQ3_S", 256, 110, "F16"),
    22: Block("IQ2_S", 256, 82, "F16"),
    23: Block("IQ4_XS", 256, 136, "F16"),
    24: Block("I8", 1, 1),
    25: Block("I16", 1, 2),
    26: Block("I32", 1, 4),
    27: Block("I64", 1, 8),
    28: Block("F64", 1, 8, "F64"),
    29: Block("IQ1_M", 256, 56),  # its scale is spread over the block
    30: Block("BF16", 1, 2, "BF16"),
    34: Block("TQ1_0", 256, 54, "F16", 52),
    35: Block("TQ2_0", 256, 66, "F16", 64),
    39: Block("MXFP4", 32, 17),  # its scales are exponents alone
    40: Block("NVFP4", 64, 36),
}


class _Pairs(NamedTuple):
    """What of the key-value pairs matters here."""

    alignment: int
    templates: tuple[Text, ...]
    vocabulary: Piece | None


def read(source: Source) -> Layout:
    """Raises Unreadable."""
    cursor = Cursor(source)
    if cursor.take(4) != MAGIC:
        raise Unreadable("this is no GGUF file: it does not begin with GGUF")
    version = cursor.whole(4)
    if version not in VERSIONS:
        other = "a big-endian one" if version and version % 65536 == 0 else f"version {version}"
        raise Unreadable(f"this GGUF file is {other}; versions 2 and 3, little-endian, can be read")
    count, pairs = cursor.whole(8), cursor.whole(8)
    found = _pairs(cursor, pairs)
    if count > min(MOST_TENSORS, cursor.left // 24):
        raise Unreadable(f"{count} tensors are announced in {cursor.left} bytes")
    infos = [_info(cursor) for _ in range(count)]
    data_start = -(-cursor.position // found.alignment) * found.alignment
    tensors = [tensor._replace(offset=data_start + tensor.offset) for tensor in infos]
    broken = Piece(0, MAGIC[:1], bytes([MAGIC[0] | 0x80]))
    ordered = tuple(sorted(tensors, key=lambda tensor: tensor.offset))
    return within(Layout("gguf", source.size, data_start, ordered, broken, found.templates, found.vocabulary))


def _text(cursor: Cursor, limit: int) -> tuple[int, bytes]:
    """(offset, bytes) of a string; one longer than `limit` is passed over."""
    length = cursor.whole(8)
    offset = cursor.position
    if length > limit:
        cursor.skip(length)
        return offset, b""
    return offset, cursor.take(length)


def _pairs(cursor: Cursor, count: int) -> _Pairs:
    if count > min(MOST_VALUES, cursor.left // 13):  # a key of no bytes, a type, a value of one byte
        raise Unreadable(f"{count} key-value pairs are announced in {cursor.left} bytes")
    alignment, vocabulary = DEFAULT_ALIGNMENT, None
    templates: list[Text] = []
    for _ in range(count):
        start, key = _text(cursor, NAME_LIMIT)
        kind = cursor.whole(4)
        if (key == TEMPLATE or key.startswith(TEMPLATE + b".")) and kind == STRING:
            offset, raw = _text(cursor, TEXT_LIMIT)
            templates += [Text(offset, len(raw), raw.decode("utf-8", "replace"))] if raw else []
            continue
        if key == b"tokenizer.ggml.tokens":
            vocabulary = Piece(start + len(key) - 1, key[-1:], b"_")
        value = _value(cursor, kind, 0)
        if key == b"general.alignment" and value is not None:
            alignment = value
    if not 1 <= alignment <= 1 << 20:
        raise Unreadable(f"the alignment of its data is {alignment}")
    return _Pairs(alignment, tuple(templates), vocabulary)


def _value(cursor: Cursor, kind: int, depth: int) -> int | None:
    """A whole number; None for all else, which is passed over."""
    if kind in FIXED:
        whole = kind not in {6, 7, 12}
        number = cursor.whole(FIXED[kind])
        return number if whole else None
    if kind == STRING:
        _text(cursor, 0)
        return None
    if kind != ARRAY or depth == DEEPEST:
        raise Unreadable(
            f"byte {cursor.position}: {kind} is no type of value" if kind != ARRAY else "arrays lie too deep in arrays"
        )
    inner, count = cursor.whole(4), cursor.whole(8)
    if inner in FIXED:
        cursor.skip(count * FIXED[inner])
        return None
    if count > min(MOST_VALUES, cursor.left // 8):
        raise BreaksOff(cursor.position, f"{count} values are announced in {cursor.left} bytes")
    for _ in range(count):
        _value(cursor, inner, depth + 1)
    return None


def _info(cursor: Cursor) -> Tensor:
    """One tensor, its offset counted from the start of the data."""
    name = _text(cursor, NAME_LIMIT)[1].decode("utf-8", "replace")
    dimensions = cursor.whole(4)
    if dimensions > 8:
        raise Unreadable(f"{name} has {dimensions} dimensions")
    shape = tuple(cursor.whole(8) for _ in range(dimensions))[::-1]  # the fastest comes first in the file
    kind, offset = cursor.whole(4), cursor.whole(8)
    block = BLOCKS.get(kind)
    if block is None:
        raise Unreadable(f"{name} is of ggml type {kind}, which is not known here")
    size = math.prod(shape) // block.elements * block.size
    return Tensor(name, block.name, shape, offset, size, Number(block.scale, block.size, block.at) if block.scale else None)
