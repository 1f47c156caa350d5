"""What torch.save writes: a zip file of stored entries, ROOT/data.pkl and the bytes of each storage as ROOT/data/KEY
(https://pytorch.org/docs/stable/notes/serialization.html). The pickle is never unpickled.
"""

from . import pickle_names, zip_archive
from .layout import FLOATS, HEADER_LIMIT, Checksum, Layout, Piece, Source, Tensor, Unreadable, plain, within

MAGIC = zip_archive.LOCAL
WIDTHS = {**FLOATS, "I64": 8, "I32": 4, "I16": 2}  # bytes of an element; of all others one


def read(source: Source) -> Layout:
    """Raises Unreadable."""
    found = zip_archive.directory(source)
    entries = {entry.name: entry for entry in found.entries}
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise Unreadable("this zip file is no PyTorch file: it holds no data.pkl")
    root, pickle = pickles[0].rpartition("data.pkl")[0], entries[pickles[0]]
    if not pickle.stored or pickle.size > HEADER_LIMIT:
        raise Unreadable(
            f"its data.pkl is packed or has {pickle.size} bytes; torch.save stores it, and at most {HEADER_LIMIT} are read"
        )
    if f"{root}byteorder" in entries and b"big" in _content(source, entries[f"{root}byteorder"]):
        raise Unreadable("its numbers are big-endian")
    tensors, places = [], {}
    for named in pickle_names.tensors(_content(source, pickle)):
        entry = entries.get(f"{root}data/{named.storage.key}")
        if entry is None or not entry.stored:
            raise Unreadable(f"the storage data/{named.storage.key} of {named.name} is not there as it is")
        if entry.name not in places:
            start = zip_archive.data_of(source, entry)
            places[entry.name] = Checksum(start, entry.size, zip_archive.crc_places(source, entry, start))
        tensors.append(_tensor(named, places[entry.name]))
    mark = source.read(found.end, 1)
    broken = Piece(found.end, mark, bytes([mark[0] | 0x80]))
    ordered = tuple(sorted(tensors, key=lambda tensor: tensor.offset))
    return within(Layout("pytorch", source.size, 0, ordered, broken))


def _content(source: Source, entry: zip_archive.Entry) -> bytes:
    return source.read(zip_archive.data_of(source, entry), min(entry.size, HEADER_LIMIT))


def _tensor(named: pickle_names.Named, checksum: Checksum) -> Tensor:
    dtype = named.storage.dtype
    width = WIDTHS.get(dtype, 1)
    size = named.elements * width
    if (named.first + named.elements) * width > checksum.size:
        raise Unreadable(f"{named.name} lies beyond the end of its storage; the file is damaged already")
    return Tensor(named.name, dtype, named.shape, checksum.offset + named.first * width, size, plain(dtype), checksum=checksum)
