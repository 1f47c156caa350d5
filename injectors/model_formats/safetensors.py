"""safetensors: a little-endian u64 N, N bytes of JSON (name -> dtype, shape, data_offsets), then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

import json

from .layout import HEADER_LIMIT, Layout, Piece, Source, Tensor, Unreadable, plain, within

LEAST = 8


def read(source: Source) -> Layout:
    """Of a file that has more than LEAST bytes. Raises Unreadable."""
    start = source.read(0, LEAST)
    length = int.from_bytes(start, "little")
    if not 2 <= length <= HEADER_LIMIT:
        raise Unreadable(f"this is no safetensors file: its first 8 bytes, as a header length, say {length}")
    header = source.read(LEAST, length)
    if len(header) < length:
        raise Unreadable(f"the header is cut off: {len(header)} of {length} bytes are there")
    tensors = _tensors(header, LEAST + length)
    end = max([tensor.offset + tensor.size for tensor in tensors] + [LEAST + length])
    if end != source.size:
        raise Unreadable(f"the file has {source.size} bytes and its header describes {end}; it is damaged already")
    broken = Piece(7, start[7:], bytes([start[7] | 0x80]))
    return within(Layout("safetensors", source.size, LEAST + length, tensors, broken))


def _tensors(header: bytes, data_start: int) -> tuple[Tensor, ...]:
    try:
        listed = json.loads(header.decode("utf-8"))
        found = [
            Tensor(
                str(name),
                str(entry["dtype"]),
                tuple(int(n) for n in entry["shape"]),
                data_start + int(entry["data_offsets"][0]),
                int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                plain(str(entry["dtype"])),
            )
            for name, entry in listed.items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as problem:
        raise Unreadable(f"this is no safetensors file: its header cannot be read ({type(problem).__name__})") from None
    return tuple(sorted(found, key=lambda tensor: tensor.offset))
