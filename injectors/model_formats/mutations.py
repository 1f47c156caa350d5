"""What a mutation does to which files: byte ranges found by the format's layout, for file_agent.py to carry out.

A job holds until its file's digest is another one: the agent refuses a file that is not the one which was looked at.
"""

import posixpath
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .. import file_agent
from ..values import JSON
from . import folders, read, selection, texts
from .layout import Layout, Piece, Text, Unreadable

NAMED = "exponent-msb"  # the one mutation that may name its tensor
MUTATIONS = (
    "header",
    "truncate",
    "zero-tail",
    "nan-one",
    NAMED,
    "swap-tensors",
    "swap-shards",
    "missing-shard",
    "stale-version",
    "lfs-pointer",
    "html-page",
    "drop-tokenizer",
    "wrong-chat-template",
    "chmod-000",
    "delete",
)
POINTER = "version https://git-lfs.github.com/spec/v1\noid {digest}\nsize {size}\n"
PAGE = (
    "<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head>\n"
    "<body><h1>Service Unavailable</h1><p>The server is temporarily unable to service your request.</p></body></html>\n"
)


@dataclass(frozen=True)
class Job:
    """One file and what is done to it. `at_once`: who reads it through a mapping sees that without starting again."""

    path: str
    do: JSON
    at_once: bool = False


@dataclass(frozen=True)
class Request:
    """A mutation of the model at `path`, a file or a folder. `source`: of stale-version, the older file."""

    mutation: str
    path: str
    seed: int = 0
    source: str | None = None

    @property
    def name(self) -> str:
        return self.mutation.partition(":")[0]

    @property
    def wanted(self) -> str:
        return self.mutation.partition(":")[2]


def jobs(request: Request, files: folders.Files) -> list[Job]:
    """Raises Unreadable where the mutation cannot be done to this model, with what is missing."""
    if request.name not in MUTATIONS or (request.wanted and request.name != NAMED):
        raise Unreadable(f"mutation {request.mutation} is not known; there are {', '.join(MUTATIONS)}")
    return PLANS[request.name](request, files)


def of_any_file(request: Request, files: folders.Files) -> list[Job]:
    """The same for one file of whatever format: a cut or a tail of zeros needs no layout."""
    size = files.source(request.path).size
    if request.name == "truncate":
        return [Job(request.path, {"op": "cut", "offset": size - size // 3})]
    if request.name == "zero-tail":
        return [Job(request.path, {"op": "zero", "offset": size - size // 8})]
    return jobs(request, files)


def _one(request: Request, files: folders.Files) -> str:
    """The file itself, or one of the shards, which the seed decides."""
    model = folders.model_at(files, request.path)
    if request.path not in model.shards and len(model.shards) > 1:
        return random.Random(request.seed).choice(model.shards)  # noqa: S311 - repeatable, not secret
    return request.path if request.path in model.shards else model.path


def _looked(path: str, files: folders.Files) -> Layout:
    try:
        return read(files.source(path))
    except Unreadable as problem:
        held = file_agent.held(path, files.listing(posixpath.dirname(path) or "."))
        why = (
            f"it is held by a fault already: {min(held)} lies beside it; {file_agent.undo_first(min(held))}"
            if held
            else str(problem)
        )
        raise Unreadable(why if why.startswith(path) else f"{path}: {why}") from None


def _heaviest(path: str, layout: Layout) -> str:
    """Where most of the tensors' bytes lie: the file, or one beside it."""
    held: dict[str, int] = {}
    for tensor in layout.tensors:
        held[tensor.file] = held.get(tensor.file, 0) + tensor.size
    return _beside(path, max(held, key=lambda name: (held[name], name)))


def _beside(path: str, name: str) -> str:
    return posixpath.join(posixpath.dirname(path), name) if name else path


def _edit(path: str, pieces: Sequence[Piece]) -> Job:
    return Job(path, {"op": "edit", "pieces": [[piece.offset, piece.before.hex(), piece.after.hex()] for piece in pieces]})


def _header(request: Request, files: folders.Files) -> list[Job]:
    path = _one(request, files)
    return [_edit(path, [_looked(path, files).header])]


def _cut(request: Request, files: folders.Files) -> list[Job]:
    """The last third of the file, as a transfer that broke off leaves it."""
    path = _one(request, files)
    path = _heaviest(path, _looked(path, files))
    size = files.source(path).size
    return [Job(path, {"op": "cut", "offset": size - size // 3}, at_once=True)]


def _zero(request: Request, files: folders.Files) -> list[Job]:
    """The last eighth of what follows the header, as a transfer leaves it that reserves the file and then breaks off."""
    path = _one(request, files)
    layout = _looked(path, files)
    heaviest = _heaviest(path, layout)
    size, start = (layout.size, layout.data_start) if heaviest == path else (files.source(heaviest).size, 0)
    return [Job(heaviest, {"op": "zero", "offset": size - (size - start) // 8}, at_once=True)]


def _best(request: Request, files: folders.Files, rate: Callable[[Layout], selection.Rank]) -> tuple[str, Layout]:
    """The shard where the mutation does most: by what an index says of each, else by a look into all. `rate` raises Unreadable."""
    model = folders.model_at(files, request.path)
    if request.wanted and model.where:
        if request.wanted not in model.where:
            near = selection.nearest(request.wanted, list(model.where))
            raise Unreadable(f"no tensor is named {request.wanted} in {model.index}{near}")
        return (path := model.where[request.wanted]), _looked(path, files)
    names = sorted(model.where, key=selection.rank_of_name, reverse=True)
    found, problem = [], Unreadable(f"{request.path} holds no tensors")
    for path in dict.fromkeys([*(model.where[name] for name in names), *model.shards]):
        layout = _looked(path, files)
        try:
            found.append((rate(layout), path, layout))
        except Unreadable as why:
            problem = Unreadable(f"{path}: {why}")
        if found and model.where:
            break
    if not found:
        raise problem
    _, path, layout = max(found, key=lambda each: each[0])
    return path, layout


def _element(request: Request, files: folders.Files) -> list[Job]:
    path, layout = _best(request, files, lambda each: selection.rank(selection.choose(each.tensors, request.wanted)))
    tensor = selection.choose(layout.tensors, request.wanted)
    number = tensor.number
    assert number is not None
    do: JSON = {
        "op": "element",
        "how": request.name,
        "offset": tensor.offset + number.at,
        "stride": number.stride,
        "count": tensor.size // number.stride,
        "number": number.kind,
        "about": {"tensor": tensor.name, "dtype": tensor.dtype},
    }
    if tensor.checksum:
        do["checksum"] = list(tensor.checksum)
    return [Job(_beside(path, tensor.file), do, at_once=True)]


def _swap_tensors(request: Request, files: folders.Files) -> list[Job]:
    path, layout = _best(request, files, lambda each: selection.rank(selection.pair(each.tensors, request.seed)[0]))
    first, second = selection.pair(layout.tensors, request.seed)
    pairs = [[first.offset, second.offset, first.size]]
    if first.checksum and second.checksum:  # a zip file keeps one of each, and readers compare
        pairs += [[one, other, 4] for one, other in zip(first.checksum.places, second.checksum.places, strict=True)]
    about = {"tensors": [first.name, second.name], "dtype": first.dtype}
    return [Job(_beside(path, first.file), {"op": "exchange", "pairs": pairs, "about": about}, at_once=True)]


def _set(request: Request, files: folders.Files, least: int) -> list[str]:
    """The files that a model is kept in, in the order that the seed decides."""
    model = folders.model_at(files, request.path)
    found = list(model.shards)
    if len(found) == 1:
        layout = _looked(found[0], files)
        found = [_beside(found[0], name) for name in layout.files]
    if len(found) < least:
        raise Unreadable(
            f"{request.path} is kept in {len(found) or 1} file(s), so there is no shard to {'take' if least == 1 else 'swap'}"
        )
    random.Random(request.seed).shuffle(found)  # noqa: S311 - repeatable, not secret
    return found


def _swap_shards(request: Request, files: folders.Files) -> list[Job]:
    first, second = sorted(_set(request, files, 2)[:2])
    return [Job(first, {"op": "replace", "other": 1}), Job(second, {"op": "replace", "other": 0})]


def _missing_shard(request: Request, files: folders.Files) -> list[Job]:
    return [Job(_set(request, files, 1)[0], {"op": "remove"})]


def _stale(request: Request, files: folders.Files) -> list[Job]:
    path = _one(request, files)
    stem, suffix = posixpath.splitext(path)
    source = request.source or f"{stem}-stale{suffix}"
    now = None
    try:
        now = read(files.source(path))
    except Unreadable:  # no model: a tokenizer's file, a configuration
        files.source(source)
    if now and (older := _looked(source, files)).format != now.format:
        raise Unreadable(f"{source} is {older.format} and {path} {now.format}; a stale version loads")
    return [Job(path, {"op": "replace", "source": source, "about": {"source": source}})]


def _whole(do: JSON) -> Callable[[Request, folders.Files], list[Job]]:
    def plan(request: Request, files: folders.Files) -> list[Job]:
        path = _one(request, files)
        files.source(path)
        return [Job(path, do)]

    return plan


def _home(request: Request, files: folders.Files) -> tuple[str, str]:
    """(folder, GGUF file or empty) that the tokenizer of this model lies in: GGUF holds its own, in the first file of a set."""
    if not folders.is_folder(files, request.path):
        path = folders.model_at(files, request.path).shards[0]
        return posixpath.dirname(path), path if path.endswith(".gguf") else ""
    there = files.listing(request.path)
    if any(name in there for name in (*texts.VOCABULARIES, texts.TEMPLATE_FILE, *texts.TEMPLATE_KEYS)):
        return request.path, ""
    path = folders.model_at(files, request.path).shards[0]
    return request.path, path if path.endswith(".gguf") else ""


def _drop_tokenizer(request: Request, files: folders.Files) -> list[Job]:
    folder, path = _home(request, files)
    if not path:
        return [Job(found, {"op": "remove"}) for found in texts.vocabularies(files, folder)]
    layout = _looked(path, files)
    if layout.vocabulary is None:
        raise Unreadable(f"{path} holds no tokenizer (tokenizer.ggml.tokens)")
    return [_edit(path, [layout.vocabulary])]


def _wrong_template(request: Request, files: folders.Files) -> list[Job]:
    folder, path = _home(request, files)
    found: Mapping[str, Sequence[Text]]
    found = {path: _looked(path, files).templates} if path else texts.templates(files, folder)
    if not any(found.values()):
        where = path or f"{folder or '.'} ({', '.join((texts.TEMPLATE_FILE, *texts.TEMPLATE_KEYS, texts.TEMPLATES))})"
        raise Unreadable(f"there is no chat template in {where}")
    return [Job(at, texts.replaced(each)) for at, each in found.items() if each]


PLANS: dict[str, Callable[[Request, folders.Files], list[Job]]] = {
    "header": _header,
    "truncate": _cut,
    "zero-tail": _zero,
    "nan-one": _element,
    NAMED: _element,
    "swap-tensors": _swap_tensors,
    "swap-shards": _swap_shards,
    "missing-shard": _missing_shard,
    "stale-version": _stale,
    "lfs-pointer": _whole({"op": "replace", "text": POINTER}),
    "html-page": _whole({"op": "replace", "text": PAGE}),
    "drop-tokenizer": _drop_tokenizer,
    "wrong-chat-template": _wrong_template,
    "chmod-000": _whole({"op": "chmod"}),
    "delete": _whole({"op": "remove"}),
}
