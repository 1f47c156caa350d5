"""Folders of models: which file is the model, what belongs together (shards and their index, splits, adapters), and what is newest
among checkpoints.
"""

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .layout import HEADER_LIMIT, Source, Unreadable

INDEX = ".index.json"
SINGLES = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin", "model.onnx", "model.pt")
WEIGHTS = (".safetensors", ".gguf", ".onnx", ".bin", ".pt", ".pth", ".ckpt")
SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)")
STEP = re.compile(r"(?:checkpoint|global_step|iter|step|epoch)[-_]?0*(\d+)", re.IGNORECASE)
POINTERS = ("latest", "latest_checkpointed_iteration.txt")  # in which DeepSpeed and Megatron name the newest


class Files(Protocol):
    """Where a model lies: on this machine, or as a target sees it."""

    def listing(self, folder: str) -> Mapping[str, int | None]:
        """Names in a folder with sizes in bytes, None of a folder. Raises Unreadable where it is none."""

    def source(self, path: str) -> Source:
        """Raises Unreadable where there is no such file."""


@dataclass(frozen=True)
class Model:
    """`path`: the file that stands for it. `shards`: all files that make it up, by path. `where`: tensor -> path, from an index."""

    path: str
    shards: tuple[str, ...]
    where: Mapping[str, str] = field(default_factory=dict)
    index: str | None = None


def is_folder(files: Files, path: str) -> bool:
    """By the listing of what it lies in, which is needed for its neighbours anyway, or by its own."""
    name = posixpath.basename(path)
    try:
        there = files.listing(posixpath.dirname(path) or ".")
        if name and there.get(name) is not None:
            return False
        files.listing(path)
    except Unreadable:
        return False
    return True


def model_at(files: Files, path: str) -> Model:
    """What belongs to a file, an index or a folder of a model. Raises Unreadable."""
    if not path.endswith(INDEX) and is_folder(files, path):
        path = main_file(files, path)
    folder = posixpath.dirname(path)
    if path.endswith(INDEX):
        return _indexed(files, path)
    split = SPLIT.fullmatch(posixpath.basename(path))
    if split is None:
        return Model(path, (path,))
    there = files.listing(folder or ".")
    names = [f"{split[1]}-{number + 1:05}-of-{split[3]}{split[4]}" for number in range(min(int(split[3]), 10_000))]
    if missing := [name for name in names if name not in there]:
        raise Unreadable(f"{missing[0]} is not beside {path}; the set is damaged already")
    return Model(path, tuple(posixpath.join(folder, name) for name in names))


def main_file(files: Files, folder: str) -> str:
    """The index, the usual name, or the only file of weights in a folder. Raises Unreadable, naming what is there instead."""
    there = files.listing(folder)
    indexes = sorted(name for name in there if name.endswith(INDEX))
    usual = [name for name in (*indexes, *SINGLES) if name in there]
    weights = sorted(name for name, size in there.items() if size is not None and name.endswith(WEIGHTS))
    if not usual:
        splits = {match[1]: match[0] for name in reversed(weights) if (match := SPLIT.fullmatch(name))}
        usual = list(splits.values()) if splits else weights
        if len(usual) != 1:
            names = ", ".join(sorted(there)[:10]) or "nothing"
            raise Unreadable(f"which file in {folder} is the model? give `file`; there is {names}")
    return posixpath.join(folder, usual[0])


def document(files: Files, path: str) -> Any:
    """A JSON file. Raises Unreadable."""
    source = files.source(path)
    if source.size > HEADER_LIMIT:
        raise Unreadable(f"{path} has {source.size} bytes; at most {HEADER_LIMIT} of JSON are read")
    try:
        return json.loads(source.read(0, source.size))
    except (ValueError, RecursionError) as problem:
        raise Unreadable(f"{path} is no JSON that can be read ({type(problem).__name__})") from None


def _indexed(files: Files, path: str) -> Model:
    found, folder = document(files, path), posixpath.dirname(path)
    mapped = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(mapped, dict) or not mapped or not all(isinstance(name, str) for name in mapped.values()):
        raise Unreadable(f"{path} has no `weight_map` of tensors and files")
    shards, there = sorted(set(mapped.values())), files.listing(folder or ".")
    for name in shards:
        if posixpath.basename(name) != name:
            raise Unreadable(f"{path} names the shard {name!r}, which is no file beside it")
        if name not in there:
            raise Unreadable(f"the shard {name} that {path} names is not there; the set is damaged already")
    where = {tensor: posixpath.join(folder, name) for tensor, name in mapped.items()}
    paths = tuple(posixpath.join(folder, name) for name in shards)
    return Model(paths[0], paths, where, path)


def newest_checkpoint(files: Files, folder: str) -> str:
    """The folder or file of the newest checkpoint: what a pointer file names, else the highest step, else the folder itself."""
    there = files.listing(folder)
    for pointer in POINTERS:
        if there.get(pointer) is not None:
            said = files.source(posixpath.join(folder, pointer)).read(0, 1024).decode("utf-8", "replace").strip()
            for name in (said, f"iter_{said:>07}", f"global_step{said}"):
                if name and name in there and name != pointer:
                    return posixpath.join(folder, name)
            raise Unreadable(f"{posixpath.join(folder, pointer)} names {said!r}, and there is no such checkpoint in {folder}")
    steps = {name: int(match[1]) for name in there if (match := STEP.match(name)) and int(match[1]) < 1 << 62}
    return posixpath.join(folder, max(steps, key=lambda name: (steps[name], name))) if steps else folder


def largest(files: Files, path: str) -> str:
    """The largest file of a checkpoint, folders in it included: its weights or its optimizer's state. Raises Unreadable."""
    if not is_folder(files, path):
        return path
    sizes: dict[str, int] = {}
    folders = [path]
    while folders and len(sizes) < 100_000:
        folder = folders.pop()
        for name, size in files.listing(folder).items():
            inside = posixpath.join(folder, name)
            if size is None:
                folders.append(inside)
            else:
                sizes[inside] = size
    if not sizes or not max(sizes.values()):
        raise Unreadable(f"{path} holds no file with anything in it")
    return max(sizes, key=lambda name: (sizes[name], name))
