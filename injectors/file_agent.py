"""Damage one model file beside its reader, hold the damage, and put the file back byte for byte whatever becomes of the asker.

    file_agent.py mutate-file REQUEST    REQUEST is JSON, or @FILE; standard input stays open for as long as the fault is to hold
    file_agent.py undo @RECORD           from any process, as often as wished: end that agent and restore what it left

The protocol is agent.py's: REQUEST has `fault`, `state` (path of the undo record), `deadline_s`, `lease_s` (or null); the fault
ends when standard input closes (unless `detached`), the lease lapses (a line `renew` renews it), the deadline passes, or on SIGTERM, SIGINT, SIGHUP.
Lines on standard output have `event`: effective, undone, refused (exit 3), failed (1), foreign (4).

The verb's own fields: `path`; `mutation`; `seed`; `source` (stale-version: the older file); `reader` (permission: pid of the
process that is to lose the file, or null); `expected` (`sha256:...` that the file must have, or null).

    header            sets the top bit of the safetensors header length (in place)
    truncate          cuts the last third of the file (in place)
    zero-tail         zeroes the last eighth of the tensor data (in place)
    nan-one           writes NaN into one element (in place)
    exponent-msb[:T]  flips the top exponent bit of one element of tensor T (in place)
    missing           moves the file aside (rename)
    stale-version     puts a copy of `source` in its place (rename)
    permission        takes all permissions away (chmod 000)

The undo record (offsets, original bytes or the name of their copy, digests, size, mode, times, inode) is on disk twice before
the first write: in `state`, and beside the file as `.NAME.blackstart-FAULT`, so that losing either folder loses nothing; `undo`
takes either. A file that somebody else has changed in the meantime is left alone (`foreign`); one that is already as it was
counts as restored. Memory stays below a few MiB beyond the file's own header; holes in sparse files are kept.

Layout of safetensors: a little-endian u64 N, N bytes of JSON (name -> dtype, shape, data_offsets), then the tensors' bytes
(https://github.com/huggingface/safetensors#format). One file, Python 3.8 and the standard library only, and so longer than
others: like the agent it is piped whole into containers that have nothing but python3.
"""
# Python 3.8 and plain system calls: what is done to a file must be seen step by step.
# ruff: noqa: PTH100, PTH101, PTH104, PTH105, PTH108, PTH110, PTH112, PTH116, PTH118, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import difflib
import errno
import fcntl
import hashlib
import itertools
import json
import math
import os
import random
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import Any, Callable, Dict, Iterator, NamedTuple  # noqa: UP035 - Python 3.8

UNCHANGED, AS_BEFORE = UNTOUCHED = ("it had not been changed", "it was as before already")
LINUX = sys.platform.startswith("linux")
CHUNK = 1 << 20  # bytes read or written at once
HEADER_LIMIT = 100_000_000  # bytes; the safetensors library refuses longer headers as well
ROOM_RESERVE = 16 << 20  # bytes that stay free beside a copy
SLOWEST = 50 << 20  # bytes a second at which an undo is assumed to read, for how long others wait for it
UNDO_S = 10.0  # how long an undo may take before another process does it instead, for a small file
SAMPLED = 4096  # elements among which the one with the largest effect is chosen
IN_PLACE = ("header", "truncate", "zero-tail", "nan-one", "exponent-msb")
RENAMING = ("missing", "stale-version", "permission")
FLOATS = {"F64": (8, "<d"), "F32": (4, "<f"), "F16": (2, "<e"), "BF16": (2, "")}
NANS = {"F64": b"\0\0\0\0\0\0\xf8\x7f", "F32": b"\0\0\xc0\x7f", "F16": b"\0\x7e", "BF16": b"\xc0\x7f"}
# A single flip destroys a model in an MLP or norm weight and is masked nearly everywhere else.
STRONG = re.compile(r"mlp|ffn|feed_?forward|hidden|intermediate|c_fc|fc\d|(up|down|gate)_proj", re.IGNORECASE)
NORM = re.compile(r"norm|(^|[._])ln", re.IGNORECASE)
Record = Dict[str, Any]  # noqa: UP006 - evaluated by Python 3.8


class Refused(Exception):
    """Nothing was changed, and the message says why."""


class Failed(Exception):
    """The fault could not be held, or not be undone."""


class Foreign(Exception):
    """Somebody else changed what the fault had changed; it was left alone, and the record stays until a person has looked."""


class Ended(Exception):
    """The fault has to end before it was wholly in effect."""


# --- safetensors ----------------------------------------------------------------------------------------------------------


class Tensor(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # of the first byte, in the file
    size: int  # bytes


def header_length(start: bytes) -> int:
    """N of a file that begins with these bytes (8 at least). Raises Refused for what is no safetensors file."""
    if len(start) < 8:
        raise Refused(f"the file has {len(start)} bytes; a safetensors file begins with 8 bytes of header length")
    if start[:4] == b"GGUF" or start[:2] == b"PK":
        raise Refused(f"only safetensors files can be edited in place; this is {'GGUF' if start[:1] == b'G' else 'a zip file'}")
    length: int = struct.unpack("<Q", start[:8])[0]
    if not 2 <= length <= HEADER_LIMIT:
        raise Refused(f"this is no safetensors file: its first 8 bytes, as a header length, say {length}")
    return length


def tensors_of(header: bytes, length: int) -> list[Tensor]:
    """Every tensor that a header of `length` bytes lists. Raises Refused for a truncated or foreign header."""
    if len(header) < length:
        raise Refused(f"the header is cut off: {len(header)} of {length} bytes are there")
    try:
        listed = json.loads(header.decode("utf-8"))
        found = [
            Tensor(
                name,
                entry["dtype"],
                tuple(int(n) for n in entry["shape"]),
                8 + length + int(entry["data_offsets"][0]),
                int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
            )
            for name, entry in listed.items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as problem:
        raise Refused(f"this is no safetensors file: its header cannot be read ({type(problem).__name__})") from None
    return sorted(found, key=lambda tensor: tensor.offset)


def layout(handle: int) -> tuple[int, list[Tensor]]:
    """(offset of the data, the tensors) of an open file whose length agrees with its header."""
    size = os.fstat(handle).st_size
    length = header_length(os.pread(handle, 8, 0))
    found = tensors_of(os.pread(handle, length, 8), length)
    end = max([tensor.offset + tensor.size for tensor in found] + [8 + length])
    if end != size:
        raise Refused(f"the file has {size} bytes and its header describes {end}; it is damaged already")
    if not found:
        raise Refused("the file holds no tensors")
    return 8 + length, found


def choose(tensors: list[Tensor], wanted: str) -> Tensor:
    """The named tensor; without a name an MLP weight, else a norm's, else the largest matrix, else the largest there is."""
    usable = [tensor for tensor in tensors if tensor.dtype in FLOATS and tensor.size >= FLOATS[tensor.dtype][0]]
    if wanted:
        for tensor in usable:
            if tensor.name == wanted:
                return tensor
        near = difflib.get_close_matches(wanted, [tensor.name for tensor in usable], 1, 0.0)
        raise Refused(f"no floating-point tensor is named {wanted}" + (f"; the nearest is {near[0]}" if near else ""))
    if not usable:
        raise Refused("no tensor holds F16, BF16, F32 or F64 numbers")

    def rank(tensor: Tensor) -> tuple[bool, bool, bool, int]:
        matrix = len(tensor.shape) == 2
        strong = matrix and bool(STRONG.search(tensor.name)) and "embed" not in tensor.name.lower()
        norm = bool(NORM.search(tensor.name)) and not tensor.name.endswith("bias")
        return strong, norm, matrix, tensor.size

    return max(usable, key=rank)


def value(dtype: str, raw: bytes) -> float:
    number: float = struct.unpack("<f", b"\0\0" + raw)[0] if dtype == "BF16" else struct.unpack(FLOATS[dtype][1], raw)[0]
    return number


def flipped(raw: bytes) -> bytes:
    """The top exponent bit lies below the sign, in the last byte, in every IEEE format and in bfloat16."""
    return raw[:-1] + bytes([raw[-1] ^ 0x40])


def pick(handle: int, tensor: Tensor, seed: int, harm: Callable[[str, bytes], float]) -> tuple[int, bytes]:
    """(index, bytes) of the element with the most harm among a seeded sample."""
    width = FLOATS[tensor.dtype][0]
    count = tensor.size // width
    indices = range(count) if count <= SAMPLED else random.Random(seed).sample(range(count), SAMPLED)  # noqa: S311 - repeatable
    order = list(indices)
    random.Random(seed).shuffle(order)  # noqa: S311 - equally harmful elements: the seed decides
    best: tuple[float, int, bytes] = (-1.0, 0, b"")
    for index in order[:SAMPLED]:
        raw = os.pread(handle, width, tensor.offset + index * width)
        score = harm(tensor.dtype, raw)
        if score > best[0]:
            best = score, index, raw
    if best[0] < 0:
        raise Refused(f"no element of {tensor.name} can be damaged this way")
    return best[1], best[2]


def flip_harm(dtype: str, raw: bytes) -> float:
    """How large the number becomes; one that becomes infinite or NaN ranks below every finite one."""
    after = abs(value(dtype, flipped(raw)))
    return after if math.isfinite(after) else 0.0


def nan_harm(dtype: str, raw: bytes) -> float:
    return -1.0 if math.isnan(value(dtype, raw)) else 0.0


# --- files ----------------------------------------------------------------------------------------------------------------


def fsync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_whole(path: str, body: Record) -> None:
    """The file is whole on disk, or as it was before."""
    handle = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, json.dumps(body).encode("utf-8"))
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(path + ".new", path)
    fsync_folder(path)


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def fresh(path: str) -> Iterator[int]:
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as handle:
        os.fchmod(handle, 0o600)
        yield handle


def write_at(handle: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def extents(handle: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of at most CHUNK bytes each, over what is stored between the two offsets; holes are passed over."""
    position = start
    while position < end:
        stop = end
        if hasattr(os, "SEEK_DATA"):
            try:
                position = os.lseek(handle, position, os.SEEK_DATA)
                stop = min(end, os.lseek(handle, position, os.SEEK_HOLE))
            except OSError as problem:
                if problem.errno == errno.ENXIO:  # nothing but a hole from here on
                    return
        while position < min(stop, end):
            size = min(CHUNK, stop - position)
            yield position, size
            position += size


def chunks(handle: int, go_on: Callable[[], None], start: int = 0, end: int | None = None) -> Iterator[memoryview]:
    """What the file holds between two offsets, in pieces of at most CHUNK bytes; each is overwritten by the next.

    Holes are not read, since that would fill the page cache with zeros and drive the model itself out of it.
    """
    size = os.fstat(handle).st_size
    end = size if end is None else min(end, size)
    buffer, zeros = memoryview(bytearray(CHUNK)), memoryview(bytes(CHUNK))
    with open(handle, "rb", buffering=0, closefd=False) as file:
        for position, length in itertools.chain(extents(handle, start, end), [(end, 0)]):
            while start < position:
                go_on()
                piece = zeros[: position - start]
                start += len(piece)
                yield piece
            file.seek(position)
            while start < position + length:
                go_on()
                got = file.readinto(buffer[: position + length - start])
                if not got:
                    return  # it has become shorter meanwhile
                start += got
                yield buffer[:got]


def name_of(digest: Any) -> str:
    return f"sha256:{digest.hexdigest()}"


def digest_of(path: str, go_on: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with opened(path, os.O_RDONLY) as handle:
        for data in chunks(handle, go_on):
            digest.update(data)
    return name_of(digest)


Change = Callable[[int, memoryview], bytes]


def digests(handle: int, offset: int, change: Change, go_on: Callable[[], None]) -> tuple[str, str, str]:
    """In one pass, of the file, of its first `offset` bytes, and of the file as `change(position, bytes)` makes it from there on."""
    before, position = hashlib.sha256(), offset
    for data in chunks(handle, go_on, 0, offset):
        before.update(data)
    prefix, changed = before.copy(), before.copy()
    for data in chunks(handle, go_on, offset):
        before.update(data)
        changed.update(change(position, data))
        position += len(data)
    return name_of(before), name_of(prefix), name_of(changed)


def copy_range(source: tuple[int, int], sink: tuple[int, int], size: int, go_on: Callable[[], None]) -> None:
    """Copy `size` bytes from (handle, offset) to (handle, offset); holes are not written."""
    (reader, start), (writer, target) = source, sink
    for position, length in extents(reader, start, start + size):
        go_on()
        data = os.pread(reader, length, position)
        if len(data) < length:
            raise Failed("the file became shorter while it was copied")
        write_at(writer, data, target + position - start)


# --- the mutation: look, then do ------------------------------------------------------------------------------------------


def beside(path: str, fault: str) -> str:
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.blackstart-{fault.replace('/', '_')}")


def regular(path: str) -> os.stat_result:
    try:
        found = os.stat(path)
    except OSError as problem:
        raise Refused(f"{path}: {problem.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path} is not a regular file")
    return found


def prepare(request: Record, go_on: Callable[[], None]) -> Record:
    """All that undo needs, without a change to anything. Raises Refused."""
    name, _, wanted = request["mutation"].partition(":")
    if name not in IN_PLACE + RENAMING or (wanted and name != "exponent-msb"):
        raise Refused(f"mutation {request['mutation']} is not known; there are {', '.join(IN_PLACE + RENAMING)}")
    path = os.path.realpath(request["path"])
    found = regular(path)
    held = [entry for entry in os.listdir(os.path.dirname(path)) if entry.startswith(f".{os.path.basename(path)}.blackstart-")]
    if held:
        raise Refused(f"{path} is held by a fault already: {held[0]} lies beside it; recover that one first")
    if name in IN_PLACE and found.st_nlink > 1:
        raise Refused(f"{path} has {found.st_nlink} names (hard links); an edit in place would damage the others as well")
    record: Record = {
        "path": path,
        "mutation": request["mutation"],
        "beside": beside(path, request["fault"]),
        "size": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "atime_ns": found.st_atime_ns,
        "mtime_ns": found.st_mtime_ns,
        "inode": found.st_ino,
        "phase": "preparing",
        "digest_after": None,
        "facts": {},
    }
    record.update(PREPARE[name](request, path, go_on))
    expected = request.get("expected")
    if expected and record["digest_before"] != expected:
        raise Refused(f"{path} is not the file that was planned for: its digest has changed")
    if record["digest_after"] == record["digest_before"]:
        raise Refused(f"{request['mutation']} would change nothing in {path}")
    return record


def prepare_edit(request: Record, path: str, go_on: Callable[[], None]) -> Record:
    name, _, wanted = request["mutation"].partition(":")
    with opened(path, os.O_RDWR) as handle:  # refused here where it could not be written later
        _, tensors = layout(handle)
        facts: Record = {}
        if name == "header":
            offset, before = 7, os.pread(handle, 1, 7)
            after = bytes([before[0] | 0x80])
        else:
            tensor = choose(tensors, wanted)
            flip = name == "exponent-msb"
            index, before = pick(handle, tensor, request.get("seed") or 0, flip_harm if flip else nan_harm)
            after = flipped(before) if flip else NANS[tensor.dtype]
            offset = tensor.offset + index * len(before)
            facts = {"tensor": tensor.name, "dtype": tensor.dtype, "element": index}
            facts.update(value_before=repr(value(tensor.dtype, before)), value_after=repr(value(tensor.dtype, after)))

        def edited(position: int, data: memoryview) -> bytes:
            """The first piece begins at the offset, so that the edit never straddles two."""
            return bytes(data) if position > offset else after + bytes(data[len(after) :])

        whole, _, changed = digests(handle, offset, edited, go_on)
    edit = {"offset": offset, "before": before.hex(), "after": after.hex()}
    return {"how": "edit", "edit": edit, "facts": facts, "digest_before": whole, "digest_after": changed}


def prepare_tail(request: Record, path: str, go_on: Callable[[], None]) -> Record:
    with opened(path, os.O_RDWR) as handle:
        data_start, _ = layout(handle)
        size = os.fstat(handle).st_size
        cut = request["mutation"] == "truncate"
        offset = size - (size // 3 if cut else (size - data_start) // 8)
        stored = sum(length for _, length in extents(handle, offset, size))
        whole, prefix, changed = digests(handle, offset, lambda _, data: b"" if cut else bytes(len(data)), go_on)
    space = os.statvfs(os.path.dirname(path))
    room = space.f_bavail * space.f_frsize
    if stored + ROOM_RESERVE > room:
        raise Refused(f"the copy of what {request['mutation']} takes away needs {stored} bytes beside {path}; {room} are free")
    facts = {"offset": offset, "bytes": size - offset}
    both = {"digest_before": whole, "digest_after": changed}
    return {"how": "tail", "offset": offset, "digest_prefix": prefix, "facts": facts, **both}


def prepare_missing(request: Record, path: str, go_on: Callable[[], None]) -> Record:
    del request
    return {"how": "swap", "source": None, "digest_before": digest_of(path, go_on)}


def prepare_stale(request: Record, path: str, go_on: Callable[[], None]) -> Record:
    source = request.get("source")
    if not source:
        raise Refused("stale-version needs `source`, the older file that is put in place")
    source = os.path.realpath(source)
    size = regular(source).st_size
    with opened(path, os.O_RDONLY) as now, opened(source, os.O_RDONLY) as older:
        if path.endswith(".safetensors"):
            layout(now)
            layout(older)  # a damaged file is another mutation; a stale version loads
    space = os.statvfs(os.path.dirname(path))
    if size + ROOM_RESERVE > space.f_bavail * space.f_frsize:
        raise Refused(f"the copy of {source} needs {size} bytes beside {path}; {space.f_bavail * space.f_frsize} are free")
    both = {"digest_before": digest_of(path, go_on), "digest_after": digest_of(source, go_on)}
    return {"how": "swap", "source": source, "facts": {"source": source}, **both}


def ignores_modes(pid: int | None) -> bool:
    """Whether that process (without a pid: this one) reads files whatever their mode says. The euid decides where /proc does not tell."""
    if LINUX:
        with suppress(OSError), open(f"/proc/{pid or 'self'}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) & 0b110)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if pid is None or LINUX:
        return os.geteuid() == 0
    listed = subprocess.run(["ps", "-o", "uid=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return listed.strip() == "0"


def prepare_permission(request: Record, path: str, go_on: Callable[[], None]) -> Record:
    if ignores_modes(request.get("reader")):
        raise Refused("the reader runs as root (or may read everything): chmod 000 does not stop it")
    found = regular(path)
    if found.st_uid != os.geteuid() and not ignores_modes(None):
        raise Refused(f"{path} belongs to uid {found.st_uid}; only its owner can take its permissions away")
    return {"how": "mode", "digest_before": digest_of(path, go_on)}


PREPARE = {
    "header": prepare_edit,
    "nan-one": prepare_edit,
    "exponent-msb": prepare_edit,
    "truncate": prepare_tail,
    "zero-tail": prepare_tail,
    "missing": prepare_missing,
    "stale-version": prepare_stale,
    "permission": prepare_permission,
}


def keep(body: Record, phase: str) -> None:
    body["record"]["phase"] = phase
    write_whole(body["state"], body)
    write_whole(body["record"]["beside"], body)


def apply(body: Record, go_on: Callable[[], None]) -> Record:
    """Do it. Both records are on disk; whatever is needed to undo is on disk, too, before the first byte changes."""
    record = body["record"]
    path, aside = record["path"], record["beside"]
    if record["how"] == "tail":
        set_tail_aside(record, go_on)
    if record["how"] == "swap" and record["source"]:
        copy_stale(record, go_on)
    if identity_of(path) != (record["inode"], record["mtime_ns"]):
        raise Failed(f"{path} was changed by somebody else just now; it was left alone")
    keep(body, "writing")
    if record["how"] == "edit":
        with opened(path, os.O_RDWR) as handle:
            write_at(handle, bytes.fromhex(record["edit"]["after"]), record["edit"]["offset"])
            os.fsync(handle)
    elif record["how"] == "tail":
        cut_tail(record, go_on)
    elif record["how"] == "mode":
        os.chmod(path, 0)
    elif record["source"]:
        os.link(path, aside + ".original")
        os.replace(aside + ".copy", path)
        fsync_folder(path)
    else:
        os.rename(path, aside + ".original")
        fsync_folder(path)
    keep(body, "effective")
    named = {key: record[key] for key in ("path", "mutation", "digest_before", "digest_after", "size", "inode")}
    return {**named, **record["facts"]}


def identity_of(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns


def set_tail_aside(record: Record, go_on: Callable[[], None]) -> None:
    size = record["size"] - record["offset"]
    try:
        with fresh(record["beside"] + ".tail") as copy, opened(record["path"], os.O_RDONLY) as file:
            copy_range((file, record["offset"]), (copy, 0), size, go_on)
            os.ftruncate(copy, size)
            os.fsync(copy)
    except OSError as problem:
        raise Refused(f"what {record['mutation']} takes away could not be kept: {problem.strerror}") from None


def cut_tail(record: Record, go_on: Callable[[], None]) -> None:
    with opened(record["path"], os.O_RDWR) as handle:
        if record["mutation"] == "truncate":
            os.ftruncate(handle, record["offset"])
        else:
            for position, length in extents(handle, record["offset"], record["size"]):
                go_on()
                write_at(handle, bytes(length), position)
        os.fsync(handle)


def copy_stale(record: Record, go_on: Callable[[], None]) -> None:
    """The older file, complete, under another name; with the mode and owner of the one it replaces."""
    try:
        with fresh(record["beside"] + ".copy") as copy, opened(record["source"], os.O_RDONLY) as source:
            size = os.fstat(source).st_size
            copy_range((source, 0), (copy, 0), size, go_on)
            os.ftruncate(copy, size)
            os.fchmod(copy, record["mode"])
            owner = os.stat(record["path"])
            with suppress(PermissionError):
                os.fchown(copy, owner.st_uid, owner.st_gid)
            os.fsync(copy)
    except OSError as problem:
        raise Refused(f"the copy of {record['source']} could not be written: {problem.strerror}") from None


# --- the undo: from the record alone --------------------------------------------------------------------------------------


def restore(body: Record) -> Record:
    """Put the file back, prove it by its digest, take away all that lies beside it. Raises Foreign or Failed."""
    record = body["record"]
    restored = UNCHANGED if record["phase"] == "preparing" else RESTORE[record["how"]](body)
    for name in (".tail", ".copy", ".original", ".new", ""):
        with suppress(FileNotFoundError):
            os.unlink(record["beside"] + name)
    return {"path": record["path"], "digest": record["digest_before"], "restored": restored}


def never() -> None:
    """An undo runs to its end."""


def foreign(record: Record, found: str) -> Foreign:
    left = [record["beside"] + name for name in (".tail", ".original") if os.path.exists(record["beside"] + name)]
    kept = f"what it held before lies in {left[0]} and {record['beside']}" if left else f"the undo record is {record['beside']}"
    return Foreign(f"{record['path']} {found}: somebody else changed it, so it was left alone; {kept}")


def look(record: Record) -> tuple[str, Any]:
    """`before`, `after`, `between` (our own change, half done or half undone), `else` or `gone`; and the hash up to our change."""
    offset = record["offset"] if record["how"] == "tail" else record["edit"]["offset"] if record["how"] == "edit" else 0
    whole = hashlib.sha256()
    try:
        with opened(record["path"], os.O_RDONLY) as handle:
            for data in chunks(handle, never, 0, offset):
                whole.update(data)
            prefix = whole.copy()
            for data in chunks(handle, never, offset):
                whole.update(data)
            size = os.fstat(handle).st_size
    except FileNotFoundError:
        return "gone", None
    if name_of(whole) == record["digest_before"]:
        return "before", prefix
    if name_of(whole) == record["digest_after"]:
        return "after", prefix
    ours = record["how"] == "tail" and record["phase"] != "effective" and name_of(prefix) == record["digest_prefix"]
    return "between" if ours and offset <= size <= record["size"] else "else", prefix


def restore_bytes(body: Record) -> str:
    record = body["record"]
    found, digest = look(record)
    if found in ("gone", "else"):
        raise foreign(record, "is gone" if found == "gone" else "has another digest than the damage left")
    if found == "before":
        return AS_BEFORE
    keep(body, "restoring")
    with opened(record["path"], os.O_RDWR) as handle:
        if record["how"] == "edit":
            offset = record["edit"]["offset"]
            write_at(handle, bytes.fromhex(record["edit"]["before"]), offset)
        else:
            offset = record["offset"]
            with opened(record["beside"] + ".tail", os.O_RDONLY) as copy:
                copy_range((copy, 0), (handle, offset), record["size"] - offset, never)
            os.ftruncate(handle, record["size"])
        os.fsync(handle)
        for data in chunks(handle, never, offset):  # what lies before was read a moment ago, and nobody wrote there
            digest.update(data)
    if name_of(digest) != record["digest_before"]:
        raise Failed(f"{record['path']} was restored and has digest {name_of(digest)}, not {record['digest_before']}")
    os.utime(record["path"], ns=(record["atime_ns"], record["mtime_ns"]))
    return "its bytes were written back"


def restore_name(body: Record) -> str:
    record = body["record"]
    path, original = record["path"], record["beside"] + ".original"
    found, _ = look(record)
    if found == "before":
        return AS_BEFORE
    if not os.path.exists(original) or found == "else" or (found == "gone" and record["source"]):
        raise foreign(record, "is gone" if found == "gone" else "has another digest than the damage left")
    if found == "after":
        os.replace(original, path)
    else:
        try:
            os.link(original, path)  # fails, rather than replaces, where somebody puts a file there in this moment
        except FileExistsError:
            raise foreign(record, "is there again") from None
    fsync_folder(path)
    found_now = digest_of(path, never)
    if found_now != record["digest_before"]:
        raise Failed(f"{path} was put back and has digest {found_now}, not {record['digest_before']}")
    return "the original was put back under its name"


def restore_mode(body: Record) -> str:
    record = body["record"]
    try:
        found = stat.S_IMODE(os.stat(record["path"]).st_mode)
    except FileNotFoundError:
        raise foreign(record, "is gone") from None
    if found == record["mode"]:
        return AS_BEFORE
    if found:
        raise foreign(record, f"has mode {found:04o}")
    os.chmod(record["path"], record["mode"])
    return "its mode was set back"


RESTORE = {"edit": restore_bytes, "tail": restore_bytes, "swap": restore_name, "mode": restore_mode}


# --- processes and holding, as in agent.py --------------------------------------------------------------------------------


def boot() -> str:
    """Start times count from the boot; after another one no recorded process is left."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as text:
        return text.read().strip()
    return ""


def start_of(pid: int) -> str:
    """Start time (clock ticks since the boot; elsewhere than on Linux what ps says); empty when the process is gone."""
    if LINUX:
        try:
            with open(f"/proc/{pid}/stat", "rb") as text:
                fields = text.read().rpartition(b")")[2].decode("ascii").split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    state, _, start = listed.strip().partition(" ")
    return "" if not state or state[0] == "Z" else "-".join(start.split())


def identity(pid: int) -> str:
    return f"pid:{pid}@{start_of(pid)}"


def pid_of(name: str) -> int:
    """The pid of an identity `pid:PID@START`, or 0 when that process is gone (its pid may be another's by now)."""
    pid, _, start = name[len("pid:") :].partition("@")
    return int(pid) if start and start_of(int(pid)) == start else 0


def end_agent(name: str, number: int, seconds: float) -> bool:
    """Signal that very process and wait for its end."""
    pid = pid_of(name)
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)  # one that somebody stopped must hear it too
    limit = time.monotonic() + seconds
    while pid_of(name):
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


class Ending:
    """What ends the fault: a closed standard input, a lapsed lease, the deadline, a signal."""

    def __init__(self, deadline_s: float, lease_s: float | None) -> None:
        now = time.monotonic()
        self.detached, self.inputs = False, [0]
        self.deadline, self.lease_s = now + deadline_s, lease_s
        self.lease = now + lease_s if lease_s else None
        self.signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)

    def renew(self) -> None:
        if self.lease_s:
            self.lease = time.monotonic() + self.lease_s

    def wait(self, seconds: float | None = None) -> str:
        """Why the fault must end; empty when `seconds` have passed without a reason."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if now >= self.deadline:
                return "deadline"
            if self.lease is not None and now >= self.lease:
                return "lease lapsed"
            limits = [limit for limit in (self.deadline, self.lease, until) if limit is not None]
            ready = select.select([*self.inputs, self.signals], [], [], max(0.0, min(limits) - now))[0]
            if self.signals in ready:
                number = os.read(self.signals, 1)[0]
                if number != signal.SIGUSR1:
                    return f"signal {number}"
                self.renew()
            elif 0 in ready:
                said = os.read(0, 4096)
                if not said and not self.detached:
                    return "standard input closed"
                if b"renew" in said:
                    self.renew()
                self.inputs = [0] if said else []
            elif until is not None and time.monotonic() >= until:
                return ""

    def go_on(self) -> None:
        reason = self.wait(0.0)
        if reason:
            raise Ended(reason)


def emit(event: str, **facts: Any) -> None:
    with suppress(OSError):  # whoever listened may be dead; the fault is undone all the same
        os.write(1, (json.dumps({"event": event, **facts}) + "\n").encode("utf-8"))


def begin(request: Record, ending: Ending) -> Record:
    """Look, refuse or bring both undo records to the disk; the file is not changed yet."""
    state = os.path.abspath(request["state"])
    if os.path.exists(state):
        raise Refused(f"fault {request['fault']} is already held here; its record is {state}")
    record = prepare(request, ending.go_on)
    undo_s = request.get("undo_s") or UNDO_S + 3 * record["size"] / SLOWEST
    body = {"fault": request["fault"], "verb": "mutate-file", "agent": identity(os.getpid()), "boot": boot()}
    body.update(state=state, undo_s=undo_s, record=record)
    try:
        keep(body, "preparing")
    except OSError:
        for path in (state, record["beside"]):
            for name in (path, path + ".new"):
                with suppress(OSError):
                    os.unlink(name)
        raise
    return body


def hold(request: Record) -> int:
    """Do it, wait for an ending, undo it. Returns the exit status."""
    ending = Ending(request["deadline_s"], request.get("lease_s"))
    try:
        body = begin(request, ending)
    except Ended as ended:
        emit("undone", reason=str(ended), restored=UNCHANGED)
        return 0
    except (Refused, OSError) as problem:
        emit("refused", why=str(problem))
        return 3
    reason, failure = "", ("", "", 0)
    try:
        emit("effective", **apply(body, ending.go_on))
        ending.detached = bool(request.get("detached"))  # not before: whoever gave up waiting for it must not get it later
        reason = ending.wait()
    except Ended as ended:
        reason = str(ended)
    except Refused as problem:
        failure = ("refused", str(problem), 3)
    except Exception as problem:  # noqa: BLE001 - however the fault failed, what there is of it must be undone
        failure = ("failed", f"{type(problem).__name__}: {problem}", 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # nothing interrupts the undo but SIGKILL, and then the record is still there
    return put_back(body, reason, failure)


def put_back(body: Record, reason: str, failure: tuple[str, str, int] = ("", "", 0)) -> int:
    """Undo from the record, remove it, say so. `failure`: event, why and status of a fault that had failed before."""
    try:
        facts = restore(body)
        for path in (body["state"] + ".new", body["state"]):
            with suppress(FileNotFoundError):
                os.unlink(path)
    except Foreign as problem:
        emit("foreign", why=str(problem))
        return 4
    except Exception as problem:  # noqa: BLE001 - whatever it was, it is said, and the record stays for the next attempt
        emit("failed", why=f"could not be undone: {problem}" + (failure[1] and f"; and before that: {failure[1]}"))
        return 1
    if failure[0]:
        emit(failure[0], why=failure[1])
        return failure[2]
    emit("undone", reason=reason, **facts)
    return 0


def undo(path: str) -> int:
    """End the agent of that record if it lives, and undo what it left. A record that is not there is success."""
    body = load(path)
    if body and body["boot"] == boot() and not end_agent(body["agent"], signal.SIGTERM, body["undo_s"]):
        end_agent(body["agent"], signal.SIGKILL, UNDO_S)
    if body and os.path.isdir(os.path.dirname(body["record"]["path"])):
        with opened(os.path.dirname(body["record"]["path"]), os.O_RDONLY) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two of us must not run the same undo at once
            body = load(path)
            if body:
                return put_back(body, "undo")
    elif body:
        emit("foreign", why=f"the folder of {body['record']['path']} is gone: somebody else removed it")
        return 4
    emit("undone", reason="nothing was left")
    return 0


def load(path: str) -> Record:
    try:
        with open(path, encoding="utf-8") as text:
            body: Record = json.load(text)
            return body
    except FileNotFoundError:
        return {}


def main(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[0] == "undo" and arguments[1].startswith("@"):
        return undo(arguments[1][1:])
    if len(arguments) != 2 or arguments[0] != "mutate-file":
        emit("refused", why="usage: file_agent.py mutate-file REQUEST, or file_agent.py undo @RECORD")
        return 3
    text = arguments[1]
    if text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:
            text = file.read()
    return hold(json.loads(text))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
