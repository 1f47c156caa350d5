"""Damage the files of a model beside its reader, hold the damage, and put every byte back whatever becomes of the asker.

    file_agent.py mutate-file REQUEST    REQUEST is JSON, or @FILE; standard input stays open for as long as the fault is to hold
    file_agent.py look REQUEST           the same as far as its first write: `refused` is why it would be refused, or empty; ends when
                                         standard input closes
    file_agent.py undo @RECORD           from any process, as often as wished: end that agent and restore what it left

The protocol is agent.py's: REQUEST has `fault`, `state` (path of the undo record), `deadline_s`, `lease_s` (or null); the fault
ends when standard input closes (unless `detached`), the lease lapses (a line `renew` renews it), the deadline passes, or on SIGTERM, SIGINT, SIGHUP.
The deadline counts from the first write: what comes before, reading all of a model and copying what will be taken away, can take minutes.
Lines on standard output have `event`: preparing (every few seconds until that write), effective, undone, refused (exit 3), failed (1), foreign (4).

The verb's own fields: `mutation` (its name, for people); `seed`; `reader` (chmod: pid of the process that is to lose the file, or
null); `readers` (pids of the targets, with all below them: whoever else has a file open or mapped, under whatever name, is a
reason to refuse; null: not looked at, nor for [1], a container's first process, where that only holds a namespace which several
containers share); `jobs`, one for each file: `path`, `expected` (`sha256:...` that the file must have, or null) and `do`. Where the
bytes lie is told in `do`: whoever asks has read the layout (model_formats/), and `expected` holds this to the very file that was
read.

    {op: edit, pieces: [[OFFSET, BEFORE, AFTER], ...]}           a few bytes, as hexadecimals (in place)
    {op: fill, places: [[OFFSET, LENGTH, TEXT], ...]}            chat templates, filled up with comments (in place)
    {op: element, how: nan-one | exponent-msb, offset, stride, count, number, about, checksum}     one of many numbers (in place)
    {op: cut | zero, offset}                                     all from there on (in place)
    {op: exchange, pairs: [[OFFSET, OFFSET, LENGTH], ...]}       ranges that take each other's place (in place)
    {op: replace, source: PATH | text: TEXT | other: JOB}        another file under its name (rename)
    {op: expire}                                                 a credential with all that is secret in it made worthless (rename)
    {op: remove}                                                 moved aside (rename)
    {op: chmod}                                                  takes all permissions away (chmod 000)
    {op: empty}                                                  of a folder: all that it holds is moved aside in it (rename)

The undo record is on disk twice before the first write: in `state`, and beside each file as `.NAME.blackstart-FAULT`; `undo` takes either.
It holds offsets, digests, size, mode, times and inode, and of the original content only the few bytes that `edit` (and what becomes
an `edit`: `fill`, `element`) changes. All else that was there lies beside the file alone, on its volume (`.tail`: ranges; `.original`: the
whole file or folder), so that no second disk needs room for a model. Losing the folder of `state` loses nothing; whoever loses the
model's own folder has lost the originals with it. A file that somebody else has changed in the meantime is left alone (`foreign`); one
that is already as it was
counts as restored. Memory stays at a few MiB; holes in sparse files are kept.

One file, Python 3.8 and the standard library only, and so longer than others: like the agent it is piped whole into containers
that have nothing but python3.
"""
# Python 3.8 and plain system calls: what is done to a file must be seen step by step.
# ruff: noqa: PTH100, PTH101, PTH102, PTH104, PTH105, PTH106, PTH108, PTH110, PTH112, PTH114, PTH115, PTH116, PTH118, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import itertools
import json
import math
import mmap
import os
import random
import re
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import zlib
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Callable, Dict, Iterable, Iterator  # noqa: UP035 - Python 3.8

UNCHANGED, AS_BEFORE = UNTOUCHED = ("it had not been changed", "it was as before already")
NAMED_BACK, MODE_BACK = "the original was put back under its name", "its mode was set back"
LINUX = sys.platform.startswith("linux")
CHUNK = 1 << 20  # bytes read or written at once
WIPED = "wiped"  # what stands for a folder's content in the names of what lies beside it
ROOM_RESERVE = 16 << 20  # bytes that stay free beside a copy
BLOCK = 4096  # bytes of a file system that a file takes at least
BEGUN = 0o400  # mode of an undo record of which the undo has begun, where there was no room to write that into it
SLOWEST = 50 << 20  # bytes a second at which an undo is assumed to read, for how long others wait for it
TELL_S = 5.0  # between two words to who waits for the first write
RECORD_LIMIT = 900 << 10  # bytes of an undo record; those who fetch one out of a container take little more
MOST_ENTRIES = 1_000_000  # of a folder that are looked through for those that a stranger has open
NOWHERE = ("", 0)  # device and inode of what cannot be told
UNDO_S = 10.0  # how long an undo may take before another process does it instead, for a small file
SAMPLED = 4096  # elements among which the one with the largest effect is chosen
IN_PLACE = ("edit", "fill", "element", "cut", "zero", "exchange")
FLOATS = {"F64": (8, "<d"), "F32": (4, "<f"), "F16": (2, "<e"), "BF16": (2, ""), "F8_E4M3": (1, ""), "F8_E5M2": (1, "")}
NANS = {
    "F64": b"\0\0\0\0\0\0\xf8\x7f",
    "F32": b"\0\0\xc0\x7f",
    "F16": b"\0\x7e",
    "BF16": b"\xc0\x7f",
    "F8_E4M3": b"\x7f",
    "F8_E5M2": b"\x7e",
}
Record = Dict[str, Any]  # noqa: UP006 - evaluated by Python 3.8


class Refused(Exception):
    """Nothing was changed, and the message says why."""


class Failed(Exception):
    """The fault could not be held, or not be undone."""


class Foreign(Exception):
    """Somebody else changed what the fault had changed; it was left alone, and the record stays until a person has looked."""


class Ended(Exception):
    """The fault has to end before it was wholly in effect."""


# --- numbers --------------------------------------------------------------------------------------------------------------


def small(kind: str, raw: bytes) -> float:
    """An 8-bit float, by its exponent's bits; E4M3 has no infinity."""
    bits, mantissa = (4, 3) if kind == "F8_E4M3" else (5, 2)
    sign = -1.0 if raw[0] & 0x80 else 1.0
    exponent, fraction = (raw[0] & 0x7F) >> mantissa, raw[0] & ((1 << mantissa) - 1)
    if kind == "F8_E4M3" and raw[0] & 0x7F == 0x7F:
        return math.nan
    if kind == "F8_E5M2" and exponent == 31:
        return math.nan if fraction else sign * math.inf
    bias = (1 << (bits - 1)) - 1
    if not exponent:
        return sign * math.ldexp(fraction, 1 - bias - mantissa)
    return sign * math.ldexp((1 << mantissa) + fraction, exponent - bias - mantissa)


def value(kind: str, raw: bytes) -> float:
    if len(raw) == 1:
        return small(kind, raw)
    number: float = struct.unpack("<f", b"\0\0" + raw)[0] if kind == "BF16" else struct.unpack(FLOATS[kind][1], raw)[0]
    return number


def flipped(raw: bytes) -> bytes:
    """The top exponent bit lies below the sign, in the last byte, in every IEEE format, in bfloat16 and in both of 8 bits."""
    return raw[:-1] + bytes([raw[-1] ^ 0x40])


def flip_harm(kind: str, raw: bytes) -> float:
    """How large the number becomes; one that becomes infinite or NaN ranks below every finite one."""
    after = abs(value(kind, flipped(raw)))
    return after if math.isfinite(after) else 0.0


def nan_harm(kind: str, raw: bytes) -> float:
    return -1.0 if math.isnan(value(kind, raw)) else 0.0


HARM = {"nan-one": nan_harm, "exponent-msb": flip_harm}


def pick(handle: int, do: Record, seed: int) -> tuple[int, int, bytes]:
    """(index, offset, bytes) of the number with the most harm among a seeded sample."""
    kind, count, stride = do["number"], do["count"], do["stride"]
    width, harm = FLOATS[kind][0], HARM[do["how"]]
    indices = range(count) if count <= SAMPLED else random.Random(seed).sample(range(count), SAMPLED)  # noqa: S311 - repeatable
    order = list(indices)
    random.Random(seed).shuffle(order)  # noqa: S311 - equally harmful numbers: the seed decides
    best: tuple[float, int, int, bytes] = (-1.0, 0, 0, b"")
    for index in order[:SAMPLED]:
        offset = do["offset"] + index * stride
        raw = os.pread(handle, width, offset)
        score = harm(kind, raw) if len(raw) == width else -1.0
        if score > best[0]:
            best = score, index, offset, raw
    if best[0] < 0:
        raise Refused(f"no number of {do['about'].get('tensor')} can be damaged this way")
    return best[1], best[2], best[3]


# --- files ----------------------------------------------------------------------------------------------------------------


def fsync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_whole(path: str, body: Record) -> None:
    """The file is whole on disk, or as it was before."""
    try:
        with opened(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as handle:
            write_at(handle, json.dumps(body).encode("utf-8"), 0)
            os.fsync(handle)
        os.replace(path + ".new", path)
        fsync_folder(path)
    except OSError as problem:  # the kernel names no file where a write or an fsync fails
        raise OSError(problem.errno, problem.strerror, path) from None


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    handle = os.open(path, flags, 0o600)
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


def outside(data: memoryview, position: int, ranges: list[list[int]]) -> Iterator[memoryview]:
    """What of these bytes lies in none of the ranges, which are in order."""
    end = position + len(data)
    at = position
    for offset, length in ranges:
        if at < min(offset, end):
            yield data[at - position : min(offset, end) - position]
        at = max(at, min(offset + length, end))
    if at < end:
        yield data[at - position :]


def digests(handle: int, ranges: list[list[int]], change: Change, go_on: Callable[[], None]) -> tuple[str, str, str]:
    """In one pass, of the file, of what lies outside the ranges, and of the file as `change(position, bytes)` makes it."""
    before, position = hashlib.sha256(), ranges[0][0]
    for data in chunks(handle, go_on, 0, position):
        before.update(data)
    beyond, changed = before.copy(), before.copy()
    for data in chunks(handle, go_on, position):
        before.update(data)
        changed.update(change(position, data))
        for part in outside(data, position, ranges):
            beyond.update(part)
        position += len(data)
    return name_of(before), name_of(beyond), name_of(changed)


def copy_range(source: tuple[int, int], sink: tuple[int, int], size: int, go_on: Callable[[], None]) -> None:
    """Copy `size` bytes from (handle, offset) to (handle, offset); holes are not written."""
    (reader, start), (writer, target) = source, sink
    for position, length in extents(reader, start, start + size):
        go_on()
        data = os.pread(reader, length, position)
        if len(data) < length:
            raise Failed("the file became shorter while it was copied")
        write_at(writer, data, target + position - start)


def copy_whole(source: int, sink: int, digest: Any, go_on: Callable[[], None]) -> None:
    """Copy all of a file into an empty one and hash what was copied. Zeros are not written: holes stay holes."""
    position, zeros = 0, bytes(CHUNK)
    for piece in chunks(source, go_on):
        data = bytes(piece)
        digest.update(data)
        if data != zeros[: len(data)]:
            write_at(sink, data, position)
        position += len(data)
    os.ftruncate(sink, position)


# --- the mutation: look, then do ------------------------------------------------------------------------------------------


def beside(path: str, fault: str) -> str:
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.blackstart-{fault.replace('/', '_')}")


def held(path: str, names: Iterable[str]) -> list[str]:
    """Which of the names in its folder a fault keeps beside that file."""
    return [name for name in names if name.startswith(os.path.basename(beside(path, "")))]


def undo_first(left: str) -> str:
    """What to do about what lies beside a file. Its name tells the run: one that a person has closed is not among those that all are."""
    run = left.rpartition(".blackstart-")[2].partition(".")[0]
    return f"undo it first: blackstart recover {run}; where that run is closed (--accept), delete what lies there once you have looked at it"


def regular(path: str) -> os.stat_result:
    try:
        found = os.stat(path)
    except OSError as problem:
        raise Refused(f"{path}: {problem.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path} is not a regular file")
    return found


def prepare(request: Record, go_on: Callable[[], None]) -> list[Record]:
    """All that undo needs of each file, without a change to anything. Raises Refused."""
    records = [prepare_file(request, job, go_on) for job in request["jobs"]]
    if len({record["path"] for record in records}) < len(records):
        raise Refused("the same file is meant twice")
    for record in records:
        if record["how"] == "swap" and record["other"] is not None:
            record["digest_after"] = records[record["other"]]["digest_before"]
        if record["digest_after"] == record["digest_before"]:
            same = f": {record['do']['source']} is the same; give another `source`" if record["do"].get("source") else ""
            raise Refused(f"{request['mutation']} would change nothing in {record['path']}{same}")
    if LINUX and request.get("readers") is not None and not (request["readers"] == [1] and shared_processes()):
        refuse_foreign({record["path"]: record["how"] == "folder" for record in records}, set(request["readers"]), go_on)
    if (long := len(json.dumps(records))) > RECORD_LIMIT:
        raise Refused(f"the undo record of {request['mutation']} would have {long} bytes and may have {RECORD_LIMIT}")
    for folder in sorted({os.path.dirname(record["beside"]) for record in records}):
        refuse_narrow(folder, request["mutation"], [each for each in records if os.path.dirname(each["beside"]) == folder], long)
    return records


def refuse_narrow(folder: str, mutation: str, records: list[Record], long: int) -> None:
    """Where there is no room for the copies and the undo records, of `long` bytes each, while the next ones are written."""
    space = os.statvfs(folder)
    if not space.f_blocks:
        return  # a file system that has no limit, or tells none
    room, needed = space.f_bavail * space.f_frsize, sum(record["needs"] for record in records)
    if needed and needed + ROOM_RESERVE > room:
        raise Refused(f"the copy of what {mutation} takes away needs {needed} bytes in {folder}; {room} are free")
    if (needed := 2 * len(records) * (long + BLOCK)) > room:
        raise Refused(f"the undo record of {mutation} needs {needed} bytes in {folder}; {room} are free")


def refuse_foreign(paths: dict[str, bool], targets: Any, go_on: Callable[[], None]) -> None:
    """Whoever has a file open or mapped and is no target would be harmed as well, or is just writing it. Our own parents only look.

    `paths`: whether each is a folder, of which all that lies in it counts. Files are told by device and inode, since another mount
    namespace has them under other names, and by their names where that is all that the system tells.
    """
    others = strangers(set(targets))
    among = {number for pid in others for _, (_, number) in in_use_by(pid)} if any(paths.values()) else set()
    sought: dict[tuple[str, int], str] = {}
    for path, folder in paths.items():
        for each in (path, *(found_below(path, among, go_on) if folder else ())):
            sought.update(dict.fromkeys(names_of(each), each))
    for pid in others:
        go_on()
        used: dict[str, str] = {}
        for shown, what in in_use_by(pid):
            if what in sought:
                used[sought[what]] = shown
            elif any(shown == path or (folder and shown.startswith(path + "/")) for path, folder in paths.items()):
                used[shown] = shown
        if used:
            path = min(used)
            named = "" if used[path] == path else f" as {used[path]}"
            with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as text:
                command = " ".join(text.read(200).replace(b"\0", b" ").decode("utf-8", "replace").split())
                raise Refused(f"{path} is in use by process {pid} ({command}){named}, which is no target; end that first")


def strangers(targets: set[int]) -> list[int]:
    """All processes but the targets, those below them, this one and those above it."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as text:
                parents[int(name)] = int(text.read().rpartition(b")")[2].split()[1])
    known, pid = set(targets), os.getpid()
    while pid:
        known.add(pid)
        pid = parents.get(pid, 0)
    below = set(targets)
    while below:
        below = {pid for pid, parent in parents.items() if parent in below and pid not in known}
        known |= below
    return sorted(set(parents) - known)


def shared_processes() -> bool:
    """Whether the first process here only keeps a namespace for several containers: which of the others are the target's nobody can say."""
    with suppress(OSError), open("/proc/1/comm", encoding="utf-8") as text:
        return text.read().strip() == "pause"
    return False


def in_use_by(pid: int) -> Iterator[tuple[str, tuple[str, int]]]:
    """What a process has open or mapped, as far as we may see that: its name there, its device and inode."""
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                shown = os.readlink(f"/proc/{pid}/fd/{name}")
                yield shown, device_and_inode(f"/proc/{pid}/fd/{name}") if shown.startswith("/") else NOWHERE
    with suppress(OSError), open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if "/" in line:
                _, _, _, device, inode, shown = line.rstrip("\n").split(" ", 5)
                yield shown.strip(), (device, int(inode))


def device_and_inode(path: str) -> tuple[str, int]:
    """As the kernel writes them in maps; NOWHERE where that cannot be told."""
    try:
        found = os.stat(path)
    except OSError:
        return NOWHERE
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", found.st_ino


def names_of(path: str) -> set[tuple[str, int]]:
    """Device and inode of what is there, as stat tells them and as maps do: on btrfs and overlayfs these differ."""
    found = {device_and_inode(path)} - {NOWHERE}
    with suppress(OSError, ValueError):
        if stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would take part in it
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ):
                found.update(what for shown, what in in_use_by(os.getpid()) if shown == path)
    return found


def found_below(folder: str, among: set[int], go_on: Callable[[], None]) -> Iterator[str]:
    """What lies in a folder, and in those below it, and has one of these inodes on whatever device. Raises Refused where too much lies there."""
    seen, left = 0, [folder] if among else []
    while left:
        go_on()
        with suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > MOST_ENTRIES:
                    raise Refused(
                        f"{folder} holds more than {MOST_ENTRIES} entries, too many to tell whether a stranger has one open"
                    )
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    if not entry.is_symlink() and entry.stat(follow_symlinks=False).st_ino in among:
                        yield entry.path


def prepare_file(request: Record, job: Record, go_on: Callable[[], None]) -> Record:
    path, do = os.path.realpath(job["path"]), job["do"]
    if do["op"] == "empty":
        return prepare_folder(request, path)
    if do["op"] not in PREPARE:
        raise Refused(f"{do['op']} is nothing that can be done to a file; there are {', '.join([*PREPARE, 'empty'])}")
    found = regular(path)
    folder = os.path.dirname(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refused(f"{folder} may not be written to; the undo record of {path} would have to lie there, beside it")
    kept = held(path, os.listdir(folder))
    if kept:
        raise Refused(f"{path} is held by a fault already: {kept[0]} lies beside it; {undo_first(kept[0])}")
    if do["op"] in (*IN_PLACE, "chmod") and found.st_nlink > 1:
        raise Refused(f"{path} has {found.st_nlink} names (hard links); what is done to it in place would hit the others as well")
    record: Record = {
        "path": path,
        "beside": beside(path, request["fault"]),
        "size": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "atime_ns": found.st_atime_ns,
        "mtime_ns": found.st_mtime_ns,
        "inode": found.st_ino,
        "digest_after": None,
        "needs": 0,
        "facts": do.get("about", {}),
    }
    record.update(PREPARE[do["op"]](request, path, do, go_on))
    if job.get("expected") and record["digest_before"] != job["expected"]:
        raise Refused(f"{path} is not the file that was planned for: its digest has changed")
    return record


def filled(text: str, length: int) -> bytes:
    """A template of exactly so many bytes: the rest is a comment of its own language, or blanks where that does not fit."""
    rest = length - len(text)
    return (text + ("{#" + " " * (rest - 4) + "#}" if rest >= 4 else " " * rest)).encode("ascii")


def prepare_edit(request: Record, path: str, do: Record, go_on: Callable[[], None]) -> Record:
    """Bytes in place, so few that the record itself keeps what they were."""
    facts: Record = dict(do.get("about", {}))
    with opened(path, os.O_RDWR) as handle:  # refused here where it could not be written later
        size = os.fstat(handle).st_size
        if do["op"] == "element":
            pieces = [element(request, handle, do, facts)]
            pieces += checksums(handle, do["checksum"], pieces[0], go_on) if do.get("checksum") else []
        elif do["op"] == "fill":
            pieces = [[at, os.pread(handle, length, at).hex(), filled(text, length).hex()] for at, length, text in do["places"]]
        else:
            pieces = [list(piece) for piece in do["pieces"]]
        ranges = sorted([offset, len(after) // 2] for offset, _, after in pieces)
        for offset, before, after in pieces:
            whole = len(before) == len(after) and offset + len(after) // 2 <= size
            if not whole or os.pread(handle, len(before) // 2, offset).hex() != before:
                raise Refused(f"{path} does not hold at byte {offset} what was planned for; it was changed since")
        both = digests(handle, ranges, lambda position, data: overlaid(pieces, position, data), go_on)
    named = {"digest_before": both[0], "digest_outside": both[1], "digest_after": both[2]}
    return {"how": "bytes", "do": {"op": "edit", "pieces": pieces}, "ranges": ranges, "facts": facts, **named}


def element(request: Record, handle: int, do: Record, facts: Record) -> list[Any]:
    index, offset, before = pick(handle, do, request.get("seed") or 0)
    after = flipped(before) if do["how"] == "exponent-msb" else NANS[do["number"]]
    facts.update(element=index, value_before=repr(value(do["number"], before)), value_after=repr(value(do["number"], after)))
    return [offset, before.hex(), after.hex()]


def checksums(handle: int, checksum: list[Any], piece: list[Any], go_on: Callable[[], None]) -> list[list[Any]]:
    """The CRC-32 as it must be once the piece is changed, at every place where the file keeps it."""
    offset, size, places = checksum
    found = 0
    for position, data in pieces_of(handle, offset, offset + size):
        go_on()
        found = zlib.crc32(overlaid([piece], position, memoryview(data)), found)
    after = struct.pack("<I", found).hex()
    return [[place, os.pread(handle, 4, place).hex(), after] for place in places]


def pieces_of(handle: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start < end:
        data = os.pread(handle, min(CHUNK, end - start), start)
        if not data:
            raise Failed("the file became shorter while it was read")
        yield start, data
        start += len(data)


def overlaid(pieces: list[list[Any]], position: int, data: memoryview) -> bytes:
    """These bytes with all pieces in place that fall among them."""
    found = None
    for offset, _, after in pieces:
        new = bytes.fromhex(after)
        low, high = max(offset, position), min(offset + len(new), position + len(data))
        if low < high:
            found = bytearray(data) if found is None else found
            found[low - position : high - position] = new[low - offset : high - offset]
    return bytes(data) if found is None else bytes(found)


def prepare_tail(request: Record, path: str, do: Record, go_on: Callable[[], None]) -> Record:
    """All from an offset on, cut off or zeroed."""
    del request
    with opened(path, os.O_RDWR) as handle:
        size, offset = os.fstat(handle).st_size, do["offset"]
        if not 0 <= offset < size:
            raise Refused(f"{path} has {size} bytes, too few to take some away from byte {offset} on")
        cut, ranges = do["op"] == "cut", [[offset, size - offset]]
        stored = sum(length for _, length in extents(handle, offset, size))
        both = digests(handle, ranges, lambda _, data: b"" if cut else bytes(len(data)), go_on)
    named = {"digest_before": both[0], "digest_outside": both[1], "digest_after": both[2]}
    facts = {"offset": offset, "bytes": size - offset}
    return {"how": "bytes", "do": do, "ranges": ranges, "needs": stored, "facts": facts, **named}


def partners(pairs: list[list[int]]) -> dict[int, tuple[int, int]]:
    """Offset of each range -> (its length, offset of the one that it is exchanged for)."""
    found = {}
    for first, second, length in pairs:
        found[first], found[second] = (length, second), (length, first)
    return found


def prepare_exchange(request: Record, path: str, do: Record, go_on: Callable[[], None]) -> Record:
    """Equal ranges of one file that take each other's place."""
    del request
    joined = partners(do["pairs"])
    ranges = sorted([offset, length] for offset, (length, _) in joined.items())
    with opened(path, os.O_RDWR) as handle:
        size = os.fstat(handle).st_size
        ends = [0] + [offset + length for offset, length in ranges]
        if any(offset < end for (offset, _), end in zip(ranges, ends)) or ends[-1] > size:  # noqa: B905 - Python 3.8
            raise Refused(f"{path}: the ranges to exchange overlap, or lie beyond its {size} bytes")

        def exchanged(position: int, data: memoryview) -> bytes:
            changed = bytearray(data)
            for offset, length in ranges:
                low, high = max(offset, position), min(offset + length, position + len(data))
                if low < high:
                    changed[low - position : high - position] = os.pread(handle, high - low, joined[offset][1] + low - offset)
            return bytes(changed)

        both = digests(handle, ranges, exchanged, go_on)
    needs = sum(length for _, length in ranges)
    named = {"digest_before": both[0], "digest_outside": both[1], "digest_after": both[2]}
    return {"how": "bytes", "do": do, "ranges": ranges, "needs": needs, **named}


def prepare_remove(request: Record, path: str, do: Record, go_on: Callable[[], None]) -> Record:
    del request, do
    return {"how": "swap", "do": {"op": "remove"}, "other": None, "digest_before": digest_of(path, go_on)}


def prepare_replace(request: Record, path: str, do: Record, go_on: Callable[[], None]) -> Record:
    """Another file under this name: a copy of `source`, a `text`, or what the job number `other` has."""
    del request
    record: Record = {"how": "swap", "do": do, "other": do.get("other"), "digest_before": digest_of(path, go_on)}
    if do.get("source"):
        source = os.path.realpath(do["source"])
        record.update(do={**do, "source": source}, needs=regular(source).st_size, digest_after=digest_of(source, go_on))
    elif do.get("text"):
        text = do["text"].replace("{digest}", record["digest_before"]).replace("{size}", str(os.stat(path).st_size))
        record.update(do={**do, "text": text}, digest_after=name_of(hashlib.sha256(text.encode("utf-8"))))
    return record


CASES = ("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
SECRET = re.compile(
    r"""(?P<key>["']?[\w.-]*(?:token|secret|passw(?:or)?d|api[_-]?key|access[_-]?key|credentials?)["']?\s*[:=]\s*["']?)(?P<value>[^\s"',}]+)""",
    re.IGNORECASE,
)
SIGNED = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")  # a JSON Web Token
KINDS = ("0123456789", *CASES)
LONG_AGO = 946684800  # 2000-01-01, in UNIX time
CREDENTIAL_LIMIT = 1 << 20


def worthless(text: str) -> str:
    """Any letter and digit becomes one of its kind by lot: as long, of the same look, and nobody's. What tells the kind (`hf_`) stays.

    The lot knows nothing of the text but its look, so that nobody who logs a refused credential has logged the true one; it falls the same
    each time, because it is drawn once for the record and once for the file.
    """
    kind = re.match(r"[A-Za-z]{1,8}[_-]", text)
    start, lot = kind[0] if kind else "", random.Random(len(text))  # noqa: S311 - it hides nothing, the true one is not in it
    drawn = [next((lot.choice(row) for row in KINDS if c in row), c) for c in text[len(start) :]]
    return start + "".join(drawn)


def expired(content: str) -> str:
    """Signed tokens that ended long ago, every secret that a key names; without either the whole, where it is one word. Raises Refused."""

    def ended(found: Any) -> str:
        head, body, signature = found[0].split(".")
        try:
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            claims.update(exp=LONG_AGO + 3600, iat=LONG_AGO)
        except (ValueError, AttributeError):
            return worthless(found[0])
        packed = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode("utf-8"))
        return f"{head}.{packed.decode('ascii').rstrip('=')}.{signature}"

    def refused(found: Any) -> str:
        key, value = str(found["key"]), str(found["value"])
        return key + (value if SIGNED.fullmatch(value) else worthless(value))

    if SIGNED.search(content) or SECRET.search(content):
        return SECRET.sub(refused, SIGNED.sub(ended, content))
    if len(content.split()) == 1:
        return worthless(content)
    raise Refused(
        "no credential is recognised in it (a signed token, a key named token, secret, password or the like, or one word)"
    )


def expired_bytes(content: bytes) -> bytes:
    """Raises Refused for what is no credential."""
    if len(content) > CREDENTIAL_LIMIT:
        raise Refused(f"it has more than {CREDENTIAL_LIMIT} bytes, so it is no credential")
    try:
        return expired(content.decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        raise Refused("it is no text, so no credential is recognised in it") from None


def prepare_expire(request: Record, path: str, do: Record, go_on: Callable[[], None]) -> Record:
    """What is secret stays in the file: no record of ours holds it, and none holds what takes its place."""
    del request
    with opened(path, os.O_RDONLY) as handle:
        after = expired_bytes(os.pread(handle, CREDENTIAL_LIMIT + 1, 0))
    both = {"digest_before": digest_of(path, go_on), "digest_after": name_of(hashlib.sha256(after))}
    return {"how": "swap", "do": do, "other": None, **both}


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


def prepare_mode(request: Record, path: str, do: Record, go_on: Callable[[], None]) -> Record:
    del do
    if ignores_modes(request.get("reader")):
        raise Refused("the reader runs as root (or may read everything): chmod 000 does not stop it")
    found = regular(path)
    if found.st_uid != os.geteuid() and not ignores_modes(None):
        raise Refused(f"{path} belongs to uid {found.st_uid}; only its owner can take its permissions away")
    return {"how": "mode", "do": {"op": "chmod"}, "digest_before": digest_of(path, go_on)}


PREPARE = {
    "edit": prepare_edit,
    "fill": prepare_edit,
    "element": prepare_edit,
    "cut": prepare_tail,
    "zero": prepare_tail,
    "exchange": prepare_exchange,
    "expire": prepare_expire,
    "remove": prepare_remove,
    "replace": prepare_replace,
    "chmod": prepare_mode,
}


def kept_in(body: Record) -> list[str]:
    """Every file that the undo record is in."""
    return [body["state"], *(record["beside"] for record in body["records"])]


def keep(body: Record, phase: str) -> None:
    body["phase"] = phase
    for path in kept_in(body):
        write_whole(path, body)


def apply(body: Record, ending: Ending) -> Record:
    """Do it. Both records are on disk; whatever is needed to undo is on disk, too, before the first byte changes."""
    records, go_on = body["records"], ending.go_on
    for record in records:
        if record["how"] == "bytes" and record["do"]["op"] != "edit":
            set_aside(record, go_on)
        elif record["how"] == "swap" and record["do"]["op"] != "remove" and record["other"] is None:
            write_other(record, go_on)
    for record in records:
        if record["how"] != "folder":
            refuse_changed(record, os.stat(record["path"]))
    keep(body, "writing")
    ending.begin_deadline()
    for record in records:
        go_on()
        DO[record["how"]](record, records, go_on)
    keep(body, "effective")
    first = records[0]
    named = {key: first[key] for key in ("path", "digest_before", "digest_after", "size", "inode")}
    return {"mutation": body["mutation"], "files": len(records), **named, **first["facts"]}


def refuse_changed(record: Record, found: os.stat_result) -> None:
    if (found.st_ino, found.st_mtime_ns) != (record["inode"], record["mtime_ns"]):
        record["untouched"] = True
        raise Failed(f"{record['path']} was changed by somebody else just now; it was left alone")


def set_aside(record: Record, go_on: Callable[[], None]) -> None:
    """A copy of every range that is about to change, one behind another."""
    try:
        with fresh(record["beside"] + ".tail") as copy, opened(record["path"], os.O_RDONLY) as file:
            at = 0
            for offset, length in record["ranges"]:
                copy_range((file, offset), (copy, at), length, go_on)
                at += length
            os.ftruncate(copy, at)
            os.fsync(copy)
    except OSError as problem:
        raise Refused(f"what is taken away from {record['path']} could not be kept: {problem.strerror}") from None


def kept_at(record: Record) -> dict[int, int]:
    """Offset of each range -> where its copy begins."""
    found, at = {}, 0
    for offset, length in record["ranges"]:
        found[offset] = at
        at += length
    return found


def write_other(record: Record, go_on: Callable[[], None]) -> None:
    """The file that takes this one's name, complete, under another one; with the mode and owner of the one it replaces."""
    do, what, digest = record["do"], record["do"].get("source") or "what takes its place", hashlib.sha256()
    try:
        with fresh(record["beside"] + ".copy") as copy:
            if do.get("source"):
                with opened(do["source"], os.O_RDONLY) as source:
                    copy_whole(source, copy, digest, go_on)
            else:
                content = other_content(record)
                digest.update(content)
                write_at(copy, content, 0)
            os.fchmod(copy, record["mode"])
            owner = os.stat(record["path"])
            with suppress(PermissionError):
                os.fchown(copy, owner.st_uid, owner.st_gid)
            os.fsync(copy)
    except OSError as problem:
        raise Refused(f"the copy of {what} could not be written: {problem.strerror}") from None
    if name_of(digest) != record["digest_after"]:  # or the undo would take our own copy for somebody else's
        better = (
            "give a `source` that nobody writes to" if do.get("source") else f"{record['path']} was changed just now; try again"
        )
        raise Refused(f"{what} is not what it was when it was looked at; {better}")


def other_content(record: Record) -> bytes:
    if record["do"]["op"] != "expire":
        return str(record["do"]["text"]).encode("utf-8")
    with opened(record["path"], os.O_RDONLY) as handle:
        return expired_bytes(os.pread(handle, CREDENTIAL_LIMIT + 1, 0))


def do_bytes(record: Record, records: list[Record], go_on: Callable[[], None]) -> None:
    del records
    do = record["do"]
    with opened(record["path"], os.O_RDWR) as handle:
        refuse_changed(record, os.fstat(handle))  # of what another file of that name held there would be no copy
        if do["op"] == "edit":
            for offset, _, after in do["pieces"]:
                write_at(handle, bytes.fromhex(after), offset)
        elif do["op"] == "cut":
            os.ftruncate(handle, do["offset"])
        elif do["op"] == "zero":
            for position, length in extents(handle, do["offset"], record["size"]):
                go_on()
                write_at(handle, bytes(length), position)
        else:
            places, joined = kept_at(record), partners(do["pairs"])
            with opened(record["beside"] + ".tail", os.O_RDONLY) as copy:
                for offset, (length, partner) in sorted(joined.items()):
                    rewrite((copy, places[partner]), (handle, offset), length, go_on)
        os.fsync(handle)


def rewrite(source: tuple[int, int], sink: tuple[int, int], size: int, go_on: Callable[[], None]) -> None:
    """As `copy_range`, over bytes that are there: the holes of the source become zeros."""
    (reader, start), (writer, target) = source, sink
    for position, data in pieces_of(reader, start, start + size):
        go_on()
        write_at(writer, data, target + position - start)


def do_swap(record: Record, records: list[Record], go_on: Callable[[], None]) -> None:
    del go_on
    path, aside = record["path"], record["beside"]
    if record["do"]["op"] == "remove":
        os.rename(path, aside + ".original")
    else:
        if record["other"] is not None:
            other = records[record["other"]]
            moved = other["beside"] + ".original"
            try:
                os.link(moved if os.path.exists(moved) else other["path"], aside + ".copy")
            except OSError as problem:
                raise Refused(f"{path}: files that take each other's place need hard links: {problem.strerror}") from None
        try:
            os.link(path, aside + ".original")
        except OSError:  # a file system without hard links: for a moment nothing is there
            os.rename(path, aside + ".original")
        os.replace(aside + ".copy", path)
    fsync_folder(path)


def do_mode(record: Record, records: list[Record], go_on: Callable[[], None]) -> None:
    del records, go_on
    os.chmod(record["path"], 0)


# --- a folder that is emptied: what it holds is moved aside inside it, so that a mount point can be emptied as well -------


def prepare_folder(request: Record, path: str) -> Record:
    try:
        found, names = os.stat(path), sorted(os.listdir(path))
    except OSError as problem:
        raise Refused(f"{path}: {problem.strerror}") from None
    kept = held(os.path.join(path, WIPED), names)
    if kept:
        raise Refused(f"{path} is held by a fault already: {kept[0]} lies in it; {undo_first(kept[0])}")
    if not names:
        raise Refused(f"{path} is empty already")
    if not os.access(path, os.W_OK | os.X_OK):
        raise Refused(f"{path} may not be written to, so nothing in it can be moved")
    for name in names:
        inside = os.path.join(path, name)
        if os.lstat(inside).st_dev != found.st_dev or os.path.ismount(inside):
            raise Refused(f"{inside} is a file system of its own, which cannot be moved aside")
    return {
        "how": "folder",
        "do": {"op": "empty"},
        "path": path,
        "beside": beside(os.path.join(path, WIPED), request["fault"]),
        "size": 0,
        "inode": found.st_ino,
        "atime_ns": found.st_atime_ns,
        "mtime_ns": found.st_mtime_ns,
        "digest_before": None,
        "digest_after": "",
        "needs": 0,
        "facts": {"entries": len(names)},
    }


def do_folder(record: Record, records: list[Record], go_on: Callable[[], None]) -> None:
    del records
    aside, mine = record["beside"] + ".original", os.path.basename(record["beside"])
    os.mkdir(aside, 0o700)
    for name in sorted(os.listdir(record["path"])):
        if not name.startswith(mine):
            go_on()
            os.rename(os.path.join(record["path"], name), os.path.join(aside, name))
    fsync_folder(os.path.join(aside, "."))
    fsync_folder(aside)


def restore_folder(body: Record, record: Record) -> str:
    """All back under its name, also where something of that name was made anew meanwhile; what is new by name stays."""
    del body
    aside = record["beside"] + ".original"
    if not os.path.isdir(aside):
        return AS_BEFORE
    anew = merge(aside, record["path"])
    os.rmdir(aside)
    fsync_folder(record["beside"])
    return "what it held was moved back" + (f", in the place of {anew} that had been made anew under their names" if anew else "")


def merge(source: str, sink: str) -> int:
    """Move all entries; how many took the place of one that had been made anew."""
    anew = 0
    for name in os.listdir(source):
        old, new = os.path.join(source, name), os.path.join(sink, name)
        if not os.path.lexists(new):
            os.rename(old, new)
        elif os.path.isdir(old) and os.path.isdir(new) and not os.path.islink(old) and not os.path.islink(new):
            anew += merge(old, new)
            os.rmdir(old)
        else:
            anew += 1
            if os.path.isdir(new) and not os.path.islink(new):
                shutil.rmtree(new)
            elif os.path.isdir(old) and not os.path.islink(old):
                os.unlink(new)
            os.replace(old, new)
    fsync_folder(os.path.join(sink, "."))
    return anew


DO = {"bytes": do_bytes, "swap": do_swap, "mode": do_mode, "folder": do_folder}


# --- the undo: from the record alone --------------------------------------------------------------------------------------


def restore(body: Record) -> Record:
    """Put every file back, prove it by its digest, take away all that lies beside it. Raises Foreign or Failed, after the last."""
    told, foreign, failed = [], [], []
    for record in body["records"]:
        try:
            untouched = body["phase"] == "preparing" or record.get("untouched")
            told.append(UNCHANGED if untouched else RESTORE[record["how"]](body, record))
        except Foreign as problem:
            foreign.append(str(problem))
        except (Failed, OSError) as problem:
            named = getattr(problem, "filename", record["path"])  # the kernel names no file where a write fails
            failed.append(str(problem) if named else f"{record['path']}: {problem}")
    if failed:
        raise Failed("; ".join(failed + foreign))
    if foreign:
        raise Foreign("; ".join(foreign))
    for name in (".tail", ".copy", ".original", ".new", ""):
        for record in reversed(body["records"]):  # whoever comes after a kill looks for the first one's record
            with suppress(FileNotFoundError):
                os.unlink(record["beside"] + name)
    for record in body["records"]:
        if record["how"] == "folder":  # its own time was changed by all that was moved
            with suppress(OSError):
                os.utime(record["path"], ns=(record["atime_ns"], record["mtime_ns"]))
    first = body["records"][0]
    restored = next((each for each in told if each not in UNTOUCHED), told[0])
    return {"path": first["path"], "digest": first["digest_before"], "restored": restored}


def never() -> None:
    """An undo runs to its end."""


def foreign(record: Record, found: str) -> Foreign:
    left = [record["beside"] + name for name in (".tail", ".original") if os.path.exists(record["beside"] + name)]
    kept = f"what it held before lies in {left[0]} and {record['beside']}" if left else f"the undo record is {record['beside']}"
    return Foreign(f"{record['path']} {found}: somebody else changed it, so it was left alone; {kept}")


def half_done(body: Record, record: Record) -> bool:
    """Whether our own change of that file may have been cut off, or its undo."""
    return cut_off(body) or bool(record.get("restoring"))


def cut_off(body: Record) -> bool:
    """Whether the fault had not come to be wholly in effect when its undo began."""
    return bool(body.get("undone_from", body["phase"]) != "effective")


def note_restoring(body: Record, record: Record) -> None:
    """On the disk before anything comes back: the next undo, should this one be killed, knows who put it back."""
    body.setdefault("undone_from", body["phase"])
    record["restoring"] = True
    body["phase"] = "restoring"
    for path in kept_in(body):
        try:
            write_whole(path, body)
        except OSError:  # no full disk, and no folder that is lost, keeps a file from being put back
            with suppress(OSError):
                os.chmod(path, BEGUN)


@contextmanager
def found_at(path: str, flags: int) -> Iterator[int | None]:
    """What lies there, open: whatever is renamed over it meanwhile, this stays the same file. None: nothing lies there."""
    handle = None
    with suppress(FileNotFoundError):
        handle = os.open(path, flags)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def mark_of(found: os.stat_result) -> tuple[int, ...]:
    """What changes when somebody writes to a file or puts another in its place."""
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def refuse_another(record: Record, handle: int | None, mark: tuple[int, ...] | None = None) -> None:
    """Raises Foreign unless that very file still lies under its name; with a `mark`, as it was then."""
    there = None
    with suppress(FileNotFoundError):
        there = os.stat(record["path"])
    if there is None or handle is None:
        raise foreign(record, "is gone")
    if not os.path.samestat(there, os.fstat(handle)) or mark not in (None, mark_of(there)):
        raise foreign(record, "was replaced or written to while it was being put back")


def look(body: Record, record: Record, handle: int | None) -> tuple[str, Any]:
    """`before`, `after`, `between` (our own change, half done or half undone), `else` or `gone`; and the hash up to our change."""
    if handle is None:
        return "gone", None
    ranges = record["ranges"] if record["how"] == "bytes" else [[0, 0]]
    unsure = record["how"] == "bytes" and half_done(body, record)
    position, whole = ranges[0][0], hashlib.sha256()
    for data in chunks(handle, never, 0, position):
        whole.update(data)
    prefix, beyond = whole.copy(), whole.copy()
    for data in chunks(handle, never, position):
        whole.update(data)
        for part in outside(data, position, ranges) if unsure else ():
            beyond.update(part)
        position += len(data)
    size = os.fstat(handle).st_size
    if name_of(whole) == record["digest_before"]:
        return "before", prefix
    if name_of(whole) == record["digest_after"]:
        return "after", prefix
    least = record["do"]["offset"] if record["do"]["op"] == "cut" else record["size"]
    ours = unsure and name_of(beyond) == record["digest_outside"] and least <= size <= record["size"]
    return "between" if ours else "else", prefix


def restore_bytes(body: Record, record: Record) -> str:
    with found_at(record["path"], os.O_RDONLY) as seen:
        mark = None if seen is None else mark_of(os.fstat(seen))
        found, digest = look(body, record, seen)
        if seen is None or found == "else":
            raise foreign(record, "is gone" if seen is None else "has another digest than the damage left")
        if found == "before":
            return with_times(record, seen) if record.get("restoring") else AS_BEFORE
        with found_at(record["path"], os.O_RDWR) as handle:
            refuse_another(record, handle, mark)
            assert handle is not None
            note_restoring(body, record)
            write_back(record, handle)
            for data in chunks(
                handle, never, record["ranges"][0][0]
            ):  # nobody wrote to what lies before, and it was read just now
                digest.update(data)
            refuse_another(record, handle)
        if name_of(digest) != record["digest_before"]:
            raise Failed(f"{record['path']} was restored and has digest {name_of(digest)}, not {record['digest_before']}")
        return with_times(record, seen)


def write_back(record: Record, handle: int) -> None:
    if record["do"]["op"] == "edit":
        for offset, before, _ in record["do"]["pieces"]:
            write_at(handle, bytes.fromhex(before), offset)
    else:
        back = rewrite if record["do"]["op"] == "exchange" else copy_range  # where zeros were written, holes had been zeros
        with opened(record["beside"] + ".tail", os.O_RDONLY) as copy:
            for offset, at in kept_at(record).items():
                back((copy, at), (handle, offset), dict(record["ranges"])[offset], never)
        os.ftruncate(handle, record["size"])
    os.fsync(handle)


def with_times(record: Record, handle: int) -> str:
    """The last step of writing bytes back, also where an undo that was cut off had come so far."""
    if os.fstat(handle).st_ino == record["inode"]:
        os.utime(handle, ns=(record["atime_ns"], record["mtime_ns"]))
    return "its bytes were written back"


def restore_name(body: Record, record: Record) -> str:
    path, original = record["path"], record["beside"] + ".original"
    with found_at(path, os.O_RDONLY) as seen:
        mark = None if seen is None else mark_of(os.fstat(seen))
        found, _ = look(body, record, seen)
        if found == "before":
            return NAMED_BACK if record.get("restoring") else AS_BEFORE
        ours_to_miss = record["do"]["op"] == "remove" or cut_off(body)
        if not os.path.exists(original) or found == "else" or (found == "gone" and not ours_to_miss):
            raise foreign(record, "is gone" if found == "gone" else "has another digest than the damage left")
        note_restoring(body, record)
        if found == "after":
            refuse_another(record, seen, mark)
            os.replace(original, path)
        else:
            link_back(record, original)
    fsync_folder(path)
    found_now = digest_of(path, never)
    if found_now != record["digest_before"]:
        raise Failed(f"{path} was put back and has digest {found_now}, not {record['digest_before']}")
    return NAMED_BACK


def link_back(record: Record, original: str) -> None:
    """To where nothing lies. A link fails, rather than replaces, where somebody puts a file there in this moment."""
    try:
        os.link(original, record["path"])
    except FileExistsError:
        raise foreign(record, "is there again") from None
    except OSError:  # a file system without hard links, as object stores that are mounted have it
        if os.path.lexists(record["path"]):
            raise foreign(record, "is there again") from None
        os.rename(original, record["path"])


def restore_mode(body: Record, record: Record) -> str:
    try:
        found = stat.S_IMODE(os.stat(record["path"]).st_mode)
    except FileNotFoundError:
        raise foreign(record, "is gone") from None
    if found == record["mode"]:
        return MODE_BACK if record.get("restoring") else AS_BEFORE
    if found:
        raise foreign(record, f"has mode {found:04o}")
    note_restoring(body, record)
    os.chmod(record["path"], record["mode"])
    return MODE_BACK


RESTORE = {"bytes": restore_bytes, "swap": restore_name, "mode": restore_mode, "folder": restore_folder}


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
        self.deadline_s, self.lease_s = deadline_s, lease_s
        self.deadline: float | None = None  # not begun
        self.lease = now + lease_s if lease_s else None
        self.tell = now + TELL_S
        self.signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)

    def begin_deadline(self) -> None:
        self.deadline = time.monotonic() + self.deadline_s

    def renew(self) -> None:
        if self.lease_s:
            self.lease = time.monotonic() + self.lease_s

    def wait(self, seconds: float | None = None) -> str:
        """Why the fault must end; empty when `seconds` have passed without a reason."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if self.deadline is not None and now >= self.deadline:
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
        if self.deadline is None and time.monotonic() >= self.tell:
            emit("preparing")
            self.tell = time.monotonic() + TELL_S


def emit(event: str, **facts: Any) -> None:
    with suppress(OSError):  # whoever listened may be dead; the fault is undone all the same
        os.write(1, (json.dumps({"event": event, **facts}) + "\n").encode("utf-8"))


def begin(request: Record, ending: Ending) -> Record:
    """Look, refuse or bring both undo records to the disk; the file is not changed yet."""
    state = os.path.abspath(request["state"])
    if os.path.exists(state):
        raise Refused(f"fault {request['fault']} is already held here; its record is {state}")
    records = prepare(request, ending.go_on)
    undo_s = request.get("undo_s") or UNDO_S + 3 * sum(record["size"] for record in records) / SLOWEST
    body = {"fault": request["fault"], "verb": "mutate-file", "agent": identity(os.getpid()), "boot": boot()}
    body.update(state=state, undo_s=undo_s, mutation=request["mutation"], records=records)
    try:
        keep(body, "preparing")
    except OSError:
        for path in kept_in(body):
            for name in (path, path + ".new"):
                with suppress(OSError):
                    os.unlink(name)
        raise
    return body


def end_if_told() -> None:
    """What only looks ends with whoever asked: reading a large file on would load the victim's disk for nobody."""
    if select.select([0], [], [], 0)[0] and not os.read(0, 4096):
        raise Ended("standard input closed")


def look_ahead(request: Record) -> int:
    """Say whether this would be refused. Nothing is changed, and every file is read as it would be before the first write."""
    why = ""
    try:
        prepare(request, end_if_told)
    except Ended:
        return 1  # there is nobody to tell
    except (Refused, OSError) as problem:
        why = str(problem)
    sys.stdout.write(json.dumps({"refused": why}) + "\n")
    return 0


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
        emit("effective", **apply(body, ending))
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
    if (
        body
        and body["boot"] == boot()
        and not any(
            end_agent(body["agent"], number, seconds)
            for number, seconds in ((signal.SIGTERM, body["undo_s"]), (signal.SIGKILL, UNDO_S))
        )
    ):  # it is inside a call to a file system that hangs, and may go on writing
        emit("failed", why=f"could not be undone: {body['agent']} does not end")
        return 1
    folders = sorted({os.path.dirname(record["path"]) for record in body.get("records", ())})
    if missing := [folder for folder in folders if not os.path.isdir(folder)]:
        emit("foreign", why=f"the folder {missing[0]} is gone: somebody else removed it")
        return 4
    if not body:
        emit("undone", reason="nothing was left")
        return 0
    with ExitStack() as locks:  # two of us must not run the same undo at once
        for folder in folders:
            fcntl.flock(locks.enter_context(opened(folder, os.O_RDONLY)), fcntl.LOCK_EX)
        body = load(path)
        if body:
            return put_back(body, "undo")
    emit("undone", reason="nothing was left")
    return 0


def load(path: str) -> Record:
    try:
        with open(path, encoding="utf-8") as text:
            body: Record = json.load(text)
            if stat.S_IMODE(os.fstat(text.fileno()).st_mode) == BEGUN:
                body.setdefault("undone_from", body["phase"])
                for record in body["records"]:
                    record["restoring"] = True
            return body
    except FileNotFoundError:
        return {}


VERBS = {"mutate-file": hold, "look": look_ahead}


def main(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[0] == "undo" and arguments[1].startswith("@"):
        return undo(arguments[1][1:])
    if len(arguments) != 2 or arguments[0] not in VERBS:
        emit("refused", why="usage: file_agent.py mutate-file REQUEST, file_agent.py look REQUEST, or file_agent.py undo @RECORD")
        return 3
    text = arguments[1]
    if text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:
            text = file.read()
    return VERBS[arguments[0]](json.loads(text))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
