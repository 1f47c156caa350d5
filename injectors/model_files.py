"""Damage to the model files that replicas read: named, seeded mutations that are put back byte for byte.

Random byte flips are a placebo; these few are what loaders miss or trip over, by the layout of safetensors
(https://github.com/huggingface/safetensors#format). `file_agent.py` does the work beside the file and holds the originals.
"""

import json
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from . import file_agent
from .base import Differs, Evidence, ForeignChange, Injector, NotYet, Overcome, Privilege, Refusal, Undo
from .lifecycle import end_agent
from .platforms.base import Platform, PlatformError, Target, Unavailable
from .values import JSON, OneOf

MODEL_FILE = "model.safetensors"  # what is meant where the model is a folder
MAPS_LIMIT = 16 << 20  # bytes of /proc/PID/maps
RECORD_LIMIT = 1 << 20
NAMED = "exponent-msb"  # the one mutation that may name its tensor
MUTATIONS = OneOf(tuple(f"{name}[:TENSOR]" if name == NAMED else name for name in file_agent.IN_PLACE + file_agent.RENAMING))
DIGEST = "sha256 of the file, read by the platform"


def mapped(target: Target, path: str, platform: Platform) -> bool | None:
    """Whether the target, or a process below it, has that file mapped into memory; None where the system does not say."""
    name, told = os.fsencode(platform.file(target, path)["real"]), None
    for pid in platform.pids(target):
        try:
            maps = platform.read_file(target, f"/proc/{pid}/maps", MAPS_LIMIT)
        except PlatformError:
            continue
        told = any(line.endswith(b" " + name) for line in maps.splitlines())
        if told:
            return True
    return told


def when_it_bites(mutation: str, load: str | None, in_memory: bool | None) -> Literal["now", "on-restart"]:
    """A header is read once and a new name is another file: both show on restart. Bytes in place show now where they are mapped.

    What the system says about the mapping overrides what the service file says; where neither says anything it is on restart.
    """
    name = mutation.partition(":")[0]
    if name == "header" or name not in file_agent.IN_PLACE:
        return "on-restart"
    return "now" if (load == "mmap" if in_memory is None else in_memory) else "on-restart"


def check_layout(target: Target, path: str, mutation: str, platform: Platform) -> None:
    """Refuse what the agent would refuse, as far as the header tells, before the drill."""
    name, _, tensor = mutation.partition(":")
    try:
        length = file_agent.header_length(platform.read_file(target, path, 8))
        tensors = file_agent.tensors_of(platform.read_file(target, path, 8 + length)[8:], length)
        if name in {"nan-one", NAMED}:
            file_agent.choose(tensors, tensor)
    except file_agent.Refused as error:
        raise Refusal(f"not injecting: {path}: {error}") from error


def path_of(target: Target, model: str | None, file: str | None, platform: Platform) -> str:
    """The file that is meant for this target: `file` beside or inside `model`, or the model's own file."""
    name = target.name.partition("/")[0]
    model, wanted = (model or "").replace("{name}", name), (file or "").replace("{name}", name)
    if posixpath.isabs(wanted) or not model:
        return wanted
    inside = posixpath.join(model, wanted or MODEL_FILE)
    try:
        platform.read_file(target, inside, 1)
    except PlatformError:  # the model is a file itself
        return posixpath.join(posixpath.dirname(model), wanted) if wanted else model
    return inside


def _source(target: Target, path: str, source: str | None) -> str:
    stem, suffix = posixpath.splitext(path)
    return (source or f"{stem}-stale{suffix}").replace("{name}", target.name.partition("/")[0])


@dataclass(frozen=True)
class ModelCorrupt(Injector):
    mutation: Annotated[str, "how the file is damaged", MUTATIONS]
    file: Annotated[
        str | None,
        "relative to the service's model, or absolute; {name} stands for the target's name; by default the model itself",
    ] = None
    seed: Annotated[int, "which element is hit"] = 0
    source: Annotated[str | None, "stale-version: the older file; by default NAME-stale.safetensors beside the model"] = None
    model: str | None = field(default=None, metadata={"yaml": False})
    load: str | None = field(default=None, metadata={"yaml": False})

    kind: ClassVar[str] = "model-corrupt"
    summary: ClassVar[str] = "damages the model file that a replica reads, in a way that loaders miss or trip over"
    certifies: ClassVar[str] = (
        "that a damaged, missing or outdated model file is noticed before users get its answers, for this one mutation; not that "
        "every damage is noticed"
    )
    proven_by: ClassVar[str] = "the file's digest or mode, read by another process than the one that changed it"
    undone_by: ClassVar[str] = "the agent that keeps the originals puts them back, byte for byte; the digest is compared"
    bites_when: ClassVar[str] = "at once where the target has the file mapped, otherwise when it starts again: add a restart"
    example: ClassVar[Mapping[str, Any]] = {"mutation": "header"}
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC

    def with_model(self, path: str, load: str) -> "ModelCorrupt":
        """The same fault, knowing the service's model: its path (`{name}` allowed) and `mmap` or `at-start`."""
        return replace(self, model=path, load=load)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        files = {target.name: self._look(target, platform) for target in targets}
        _refuse_shared(self, targets, files, platform)
        return Undo(targets, {"files": files})

    def bites(self, undo: Undo) -> str:
        files = undo.prior["files"].values()
        if all(file["bites"] == "now" for file in files):
            return "now"
        return "on-restart" if all(file["outlives"] for file in files) else "never"

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target, prior in _once(undo):
            parameters = {
                "path": prior["path"],
                "mutation": self.mutation,
                "seed": self.seed,
                "source": prior["source"],
                "reader": target.details.get("pid"),
                "expected": prior["digest"],
            }
            platform.agent_begin(undo.fault, target, "mutate-file", parameters, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        facts, told = {}, []
        for target, prior in _once(undo):
            at = _standing(target, platform)
            now, mode = _digest(at, prior["path"], platform), _file(at, prior["path"], platform)["mode"]
            if now == prior["digest"] and (self.mutation != "permission" or mode != 0):
                # The agent's record goes with its own undo: while it is there, somebody else put the file back.
                mended = _record(at, file_agent.beside(prior["real"], undo.fault), platform)
                replaced = at.identity != target.identity and not prior["outlives"]
                kind = Overcome if mended or replaced else NotYet
                raise kind(f"{prior['path']} has digest {now}, as before the fault")
            facts[target.name] = {"path": prior["path"], "digest_before": prior["digest"], "digest_after": now, "mode": mode}
            told.append(f"{prior['path']}: {prior['digest'][:23]} became {now[:40]}" + (", mode 000" if mode == 0 else ""))
        return Evidence(DIGEST, "; ".join(told), facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        """Put every file back; then whatever started while it was damaged, and so may hold the damage in memory, starts again."""
        foreign, put_back = [], {}
        for target, prior in _once(undo):
            beside = (file_agent.beside(prior["real"], undo.fault),) if prior["outlives"] else ()
            try:
                put_back[prior["id"]] = end_agent(undo, target, platform, beside).get("restored") not in file_agent.UNTOUCHED
            except ForeignChange as error:
                foreign.append(str(error))
        for target in undo.targets:
            prior = undo.prior["files"][target.name]
            now = platform.current(target.name)
            if put_back.get(prior["id"]) and now and now.identity != target.identity and _started_damaged(now, prior, platform):
                platform.restart(now)
        if foreign:
            raise ForeignChange("; ".join(foreign))

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        facts, told = {}, []
        for target, prior in _once(undo):
            path, at = prior["path"], _standing(target, platform)
            left = file_agent.beside(prior["real"], undo.fault)
            first = _record(at, left, platform), _digest(at, path, platform)
            if first[0] is None and first[1] == prior["digest"] and self._readable(at, prior, platform):
                facts[target.name] = {"path": path, "digest": prior["digest"], "mode": prior["mode"]}
                told.append(f"{path}: {prior['digest'][:23]} again")
                continue
            second = _record(at, left, platform), _digest(at, path, platform)
            _raise_what_differs(prior, _file(at, path, platform)["mode"], first, second)
        return Evidence(DIGEST, "; ".join(told), facts)

    def _readable(self, target: Target, prior: JSON, platform: Platform) -> bool:
        """A service that put the file back itself may have given it another mode; that is its own affair, unless it was ours."""
        return self.mutation != "permission" or platform.file(target, prior["path"])["mode"] == prior["mode"]

    def _look(self, target: Target, platform: Platform) -> JSON:
        if self.model is None and self.file is None:
            raise Refusal("not injecting: which file is the model? give `file`, or `model: {path: ...}` in the service file")
        path = path_of(target, self.model, self.file, platform)
        try:
            found = platform.file(target, path)
            if found.get("unfit"):
                raise Refusal(f"not injecting: {path} {found['unfit']}")
            if self.mutation.partition(":")[0] in file_agent.IN_PLACE:
                check_layout(target, path, self.mutation, platform)
            digest = platform.digest(target, path)
        except PlatformError as error:
            raise Refusal(f"not injecting: {error}") from error
        in_memory = mapped(target, path, platform)
        bites = when_it_bites(self.mutation, self.load, in_memory)
        source = _source(target, path, self.source) if self.mutation == "stale-version" else None
        about = {key: found[key] for key in ("real", "id", "outlives")}
        before = {"path": path, "digest": digest, "mode": found["mode"]}
        return {**before, "mapped": in_memory, "bites": bites, "source": source, **about}


def _refuse_shared(injector: ModelCorrupt, targets: tuple[Target, ...], files: dict[str, JSON], platform: Platform) -> None:
    """Whoever else reads a file would be hit as well, beyond what the scenario says that it hits."""
    names = {target.name for target in targets}
    everybodys = injector.file is None and "{name}" not in (injector.model or "")
    for other in platform.find():
        if other.name in names or any(name.startswith(f"{other.name}/") for name in names):
            continue
        for path, whose in {(file["path"], file["id"]) for file in files.values()}:
            peer = everybodys and other.role == targets[0].role
            if (peer or mapped(other, path, platform)) and platform.file(other, path)["id"] == whose:
                raise Refusal(f"not injecting: {other.name} reads {path} as well; make it a target, or give each its own file")


def _once(undo: Undo) -> list[tuple[Target, JSON]]:
    """Each file once, by the first of the targets that read it."""
    found: dict[str, tuple[Target, JSON]] = {}
    for target in undo.targets:
        prior = undo.prior["files"][target.name]
        found.setdefault(prior["id"], (target, prior))
    return list(found.values())


def _started_damaged(now: Target, prior: JSON, platform: Platform) -> bool:
    """Whether it started before the file was put back."""
    started_s, changed_s = platform.started_s(now), _file(now, prior["path"], platform).get("changed_s")
    return started_s is not None and changed_s is not None and started_s < changed_s


def _standing(target: Target, platform: Platform) -> Target:
    """What stands under the target's name now, and sees what its volumes kept; the target itself where nothing does."""
    return platform.current(target.name) or target


def _file(target: Target, path: str, platform: Platform) -> JSON:
    """What is seen of the file; a folder that cannot be looked into is an observation here."""
    try:
        return platform.file(target, path)
    except Unavailable:
        raise
    except PlatformError:
        return {"exists": False, "mode": None}


def _digest(target: Target, path: str, platform: Platform) -> str:
    """The digest, or why there is none: a missing or unreadable file is an observation here."""
    try:
        return platform.digest(target, path)
    except Unavailable:
        raise
    except PlatformError as error:
        return f"none ({error})"


def _record(target: Target, path: str, platform: Platform) -> JSON | None:
    """The undo record that the agent keeps beside the file, without its unchanging parts; None when there is none."""
    try:
        record: JSON = json.loads(platform.read_file(target, path, RECORD_LIMIT))
    except PlatformError:
        return None
    return {key: record["record"][key] for key in ("phase", "digest_after", "mutation")}


def _raise_what_differs(prior: JSON, mode: int | None, first: tuple[JSON | None, str], second: tuple[JSON | None, str]) -> None:
    """Two looks at the same: what changes between them is still being undone, and only what stands still can be foreign."""
    path, (record, digest) = prior["path"], second
    if first != second or (record and (record["phase"] != "effective" or digest in {record["digest_after"], prior["digest"]})):
        raise Differs(f"{path} has digest {digest} and not {prior['digest']}: the damage is still held or just being undone")
    if record and record["digest_after"] is None:  # missing, permission: the file as it is left has no digest
        raise Differs(f"{path}: {digest}; the {record['mutation']} is still held")
    raise ForeignChange(f"{path} has digest {digest} and mode {mode}, before {prior['digest']} and {prior['mode']}: not by us")
