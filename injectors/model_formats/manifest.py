"""Digests of a model: SHA-256 of every file and of every tensor in it, in one pass over each file and with bounded memory."""

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import file_agent
from ..platforms import model_sight
from ..values import first_of
from . import read
from .layout import HEADER_LIMIT, FileSource, Tensor, Unreadable

SCHEMA = "blackstart.manifest/v1"
NAME = model_sight.MANIFEST
CHUNK = 1 << 20
HELD = model_sight.HELD
Progress = Callable[[str, int, int], None]  # file, bytes of all files read so far, bytes of all files


class Unfit(Exception):
    """There is nothing that a manifest could be made of, or be held against; the message says why and what to do."""


@dataclass(frozen=True)
class Difference:
    """What is not as the manifest says: `file`, what is wrong with it, and the tensors that differ."""

    file: str
    what: str
    tensors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" + (f"; tensors: {first_of(self.tensors, 5)}" if self.tensors else "")


def measured(folder: Path, progress: Progress, leave_out: Path | None = None) -> dict[str, Any]:
    """The manifest of a folder as it is now, of one file alone where it is one. Raises Unfit."""
    names = sorted(_names(folder, leave_out))
    if not names:
        raise Unfit(f"{folder} holds no files; name the folder that the model lies in")
    try:
        files = _files(folder if folder.is_dir() else folder.parent, names, progress)
    except OSError as problem:
        raise Unfit(f"{problem.filename or folder} cannot be read: {problem.strerror}") from problem
    return {"schema": SCHEMA, "algorithm": "sha256", "files": files}


def _files(base: Path, names: list[str], progress: Progress) -> dict[str, Any]:
    total, done = sum((base / name).stat().st_size for name in names), 0
    listed, files = _tensors(base, names), {}
    for name in names:
        before = done

        def read_so_far(count: int, name: str = name, before: int = before) -> None:
            progress(name, before + count, total)

        files[name] = _measured(base / name, listed.get(name, {}), read_so_far)
        done += files[name]["size"]
    return files


def _names(folder: Path, leave_out: Path | None) -> Iterator[str]:
    """Every regular file of the model below the folder, by links as well. Raises Unfit where one leads nowhere, or a fault is held on it."""
    if not folder.exists():
        raise Unfit(f"{folder}: there is no such file or folder")
    if not folder.is_dir():
        if not folder.is_file():
            raise Unfit(f"{folder} is neither a folder nor a regular file; name what the model lies in")
        _refuse_held(folder)
        yield folder.name
        return
    try:
        paths = [Path(found) for found in model_sight.below(str(folder))]
    except OSError as problem:
        raise Unfit(f"{problem.filename}: {problem.strerror}") from problem
    for path in paths:
        if path.name.startswith(".") and HELD in path.name:
            raise _left(path)
        if path.is_symlink():
            _refuse_held(path)
        if path.is_file() and not (leave_out and leave_out.exists() and path.samefile(leave_out)):
            yield path.relative_to(folder).as_posix()


def _refuse_held(path: Path) -> None:
    """What a fault keeps lies beside the file itself, wherever a link to it stands."""
    real = path.resolve()
    try:
        kept = [each for each in real.parent.iterdir() if each.name.startswith(f".{real.name}{HELD}")]
    except OSError as problem:
        raise Unfit(f"{real.parent}: {problem.strerror}; whether a fault holds {path} cannot be seen") from problem
    if kept:
        raise _left(kept[0])


def _left(path: Path) -> Unfit:
    return Unfit(f"{path} is left by a fault that is held or was not undone; {file_agent.undo_first(path.name)}")


def _tensors(base: Path, names: list[str]) -> dict[str, dict[str, Tensor]]:
    """File -> the tensors that lie in it, by name; those of ONNX may lie in another one than lists them."""
    found: dict[str, dict[str, Tensor]] = {}
    for name in names:
        try:
            layout = read(FileSource(base / name))
        except (Unreadable, OSError):  # a tokenizer, a configuration: its digest is all there is
            continue
        for tensor in layout.tensors:
            holder = posixpath.normpath(posixpath.join(posixpath.dirname(name), tensor.file)) if tensor.file else name
            found.setdefault(holder, {})[tensor.name] = tensor
    return found


def _measured(path: Path, tensors: Mapping[str, Tensor], progress: Callable[[int], None]) -> dict[str, Any]:
    whole, ranges = hashlib.sha256(), sorted(tensors.values(), key=lambda tensor: tensor.offset)
    finished: dict[str, Any] = {}
    open_: list[tuple[Tensor, Any]] = []
    position, waiting = 0, 0
    with path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        buffer = memoryview(bytearray(CHUNK))
        while got := file.readinto(buffer):
            data = buffer[:got]
            whole.update(data)
            while waiting < len(ranges) and ranges[waiting].offset < position + got:
                open_.append((ranges[waiting], hashlib.sha256()))
                waiting += 1
            for tensor, digest in open_:
                digest.update(data[max(0, tensor.offset - position) : max(0, tensor.offset + tensor.size - position)])
            position += got
            finished |= {t.name: _entry(t, digest) for t, digest in open_ if t.offset + t.size <= position}
            open_ = [(t, digest) for t, digest in open_ if t.offset + t.size > position]
            progress(position)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or position != before.st_size:
        raise Unfit(f"{path} was changed while it was read; try again when nobody writes there")
    named = {"size": position, "sha256": whole.hexdigest()}
    return {**named, "tensors": {name: finished[name] for name in sorted(finished)}} if finished else named


def _entry(tensor: Tensor, digest: Any) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "sha256": digest.hexdigest()}


def write(path: Path, manifest: Mapping[str, Any]) -> None:
    """Whole, or not at all."""
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(manifest, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as problem:
        beside.unlink(missing_ok=True)
        raise Unfit(f"{path} could not be written: {problem.strerror}; say where it may be with --file") from problem


def stored(path: Path) -> dict[str, Any]:
    """A manifest that was written before, without the bookkeeping that older ones hold. Raises Unfit."""
    try:
        if path.stat().st_size > 4 * HEADER_LIMIT:
            raise Unfit(f"{path} has {path.stat().st_size} bytes, which is no manifest")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise Unfit(f"{path}: {problem.strerror}; write one first: blackstart manifest {path.parent}") from problem
    except (ValueError, RecursionError) as problem:
        raise Unfit(f"{path} is no JSON: {problem}") from problem
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict) or found.get("schema") != SCHEMA:
        raise Unfit(f"{path} is no manifest of blackstart ({SCHEMA}); write one: blackstart manifest {path.parent}")
    for name, entry in found["files"].items():
        if malformed := _malformed(entry):
            raise Unfit(f"{path}: files/{name}{malformed}; write it anew: blackstart manifest {path.parent}")
    return {**found, "files": {name: each for name, each in found["files"].items() if not model_sight.is_bookkeeping(name)}}


def _malformed(entry: Any) -> str:
    """Where in a file's entry what is wrong, as a path and words; empty: nothing is."""
    if not isinstance(entry, dict):
        return " is no object"
    size, tensors = entry.get("size"), entry.get("tensors", {})
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return "/size is no number of bytes"
    if not _is_digest(entry.get("sha256")):
        return "/sha256 is no SHA-256 (64 hexadecimal digits)"
    if not isinstance(tensors, dict):
        return "/tensors is no object"
    wrong = next(
        (name for name, each in tensors.items() if not isinstance(each, dict) or not _is_digest(each.get("sha256"))), None
    )
    return "" if wrong is None else f"/tensors/{wrong} has no SHA-256 (64 hexadecimal digits)"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """In the order of the files' names."""
    before, after, found = then["files"], now["files"], []
    for name in sorted({*before, *after}):
        if name not in after:
            found.append(Difference(name, "is not there"))
        elif name not in before:
            found.append(Difference(name, "is not in the manifest"))
        elif before[name]["sha256"] != after[name]["sha256"]:
            found.append(_difference(name, before[name], after[name]))
    return found


def _difference(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Difference:
    sizes = "" if then["size"] == now["size"] else f", {now['size']} bytes instead of {then['size']}"
    if then.get("tensors") and not now.get("tensors"):
        return Difference(name, f"has another digest{sizes}; its tensors cannot be read any more")
    before, after = then.get("tensors", {}), now.get("tensors", {})
    changed = tuple(each for each in sorted({*before, *after}) if before.get(each) != after.get(each))
    return Difference(name, f"has another digest{sizes}", changed)
