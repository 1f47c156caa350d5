"""Caches that a service keeps on its disk: cache-wipe."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

from . import file_agent
from .artefacts import look_ahead, readers_of, refuse_elsewhere
from .base import Differs, Evidence, Injector, NotYet, Overcome, Privilege, Refusal, Undo
from .kept_folders import records_in, why_kept
from .lifecycle import end_agent
from .means import AGENT, Means
from .model_files import named
from .model_formats.layout import Unreadable
from .platforms.base import Platform, PlatformError, Target, alike
from .seen_files import seen_by
from .strangers import refuse_strangers
from .values import JSON

LISTING = "the folder's listing, read by the platform"
ENTRIES = 5000  # about so many are compared one by one, the upper ones first


@dataclass(frozen=True)
class CacheWipe(Injector):
    """All that a folder holds is moved aside inside it, and back; nothing is deleted."""

    path: Annotated[str, "the cache's folder, as the target sees it; {name} stands for the target's name"]
    model: str | None = field(default=None, metadata={"yaml": False})

    kind: ClassVar[str] = "cache-wipe"
    summary: ClassVar[str] = "a cache of models, kernels or compiled graphs is empty when the service looks for it"
    certifies: ClassVar[str] = (
        "that the service comes back without what it had cached, from where that came from; not that it notices a cache that is stale"
    )
    done_by: ClassVar[Means] = AGENT
    proven_by: ClassVar[str] = "the folder's listing, read by another process than the one that changed it"
    undone_by: ClassVar[str] = (
        "all is moved back under its name, in the place of what was made anew there; what is new by name stays"
    )
    bites_when: ClassVar[str] = "when the target starts again: add a restart"
    example: ClassVar[Mapping[str, Any]] = {"path": "/root/.cache/huggingface"}
    depends_on: ClassVar[str] = "`path`"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC

    def problems(self) -> tuple[str, ...]:
        return () if self.path else ("`path` is empty; name the cache's folder",)

    def with_model(self, path: str) -> Self:
        """The same fault, knowing where the service's model lies (`{name}` allowed)."""
        return replace(self, model=path)

    def bites(self, undo: Undo) -> str:
        return "on-restart" if all(prior["outlives"] for prior in undo.prior.values()) else "never"

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        refuse_elsewhere(self, platform)
        names, prior = {target.name for target in targets}, {}
        for target in targets:
            prior[target.name] = found = self._look(target, platform)
            for other in platform.find():
                same = alike(other, target) and platform.file(other, self._path(other))["id"] == found["id"]
                if same and other.name not in names:
                    raise Refusal(f"not injecting: {other.name} has the cache {found['path']} as well; make it a target")
        refuse_strangers([(target, prior[target.name]["real"]) for target in targets], platform)
        undo = Undo(targets, prior)
        look_ahead(_requests(undo, platform), platform)
        return undo

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target, request in _requests(undo, platform):
            platform.agent_begin(undo.fault, target, "mutate-file", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        told, facts = [], {}
        for target, prior in _once(undo):
            at = platform.current(target.name) or target
            aside = _listed(at, beside(undo, prior) + ".original", platform)
            here = _listed(at, prior["path"], platform) or {}
            if aside is None or sorted(aside) != sorted(prior["entries"]):
                back = aside is None and all(name in here for name in prior["entries"])
                kind = Overcome if back and posixpath.basename(beside(undo, prior)) in here else NotYet
                raise kind(f"{prior['path']} holds {len(here)} entries, and {len(aside or ())} were moved aside")
            made = [name for name in here if not name.startswith(".")]
            facts[target.name] = {"path": prior["path"], "moved": len(aside), "made_anew": len(made)}
            told.append(f"{prior['path']}: {len(aside)} entries moved aside, {len(made)} there now")
        return Evidence(LISTING, "; ".join(told), facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target, prior in _once(undo):
            end_agent(undo, target, platform, (beside(undo, prior),) if prior["outlives"] else ())

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        told, facts = [], {}
        for target, prior in _once(undo):
            at = platform.current(target.name) or target
            here = _listed(at, prior["path"], platform) or {}
            left = [name for name in here if name.startswith(posixpath.basename(beside(undo, prior)))]
            now = _tree(at, prior["path"], platform)
            missing = sorted(prior["tree"].keys() - now.keys())
            if left or missing:
                raise Differs(
                    f"{prior['path']}: {', '.join(missing[:3] or left[:3])} {'is not back' if missing else 'is still there'}"
                )
            other = sum(now[name] != size for name, size in prior["tree"].items())
            facts[target.name] = {"path": prior["path"], "entries": len(now), "of_another_size": other}
            told.append(
                f"{prior['path']}: all {len(prior['tree'])} entries again"
                + (f", {other} of another size by now" if other else "")
            )
        return Evidence(LISTING, "; ".join(told), facts)

    def _path(self, target: Target) -> str:
        return named(self.path, target)

    def _look(self, target: Target, platform: Platform) -> JSON:
        path = self._path(target)
        try:
            entries, found = sorted(seen_by(target, platform).listing(path)), platform.file(target, path)
        except (PlatformError, Unreadable) as error:
            raise Refusal(f"not injecting: {error}") from error
        if found.get("unfit"):
            raise Refusal(f"not injecting: {path} {found['unfit']}")
        if not entries:
            raise Refusal(f"not injecting: {path} is empty already")
        kept = why_kept(target, found["real"], named(self.model, target), platform)
        tree = {} if kept else _tree(target, path, platform)
        if why := kept or records_in(found["real"], tree):
            raise Refusal(f"not injecting: {why}")
        about = {key: found[key] for key in ("real", "id", "outlives")}
        return {"path": path, **about, "entries": entries, "tree": tree}


def _tree(target: Target, folder: str, platform: Platform) -> dict[str, int | None]:
    """What lies in a folder and in those below it, as far as ENTRIES of them: path -> bytes, None for a folder."""
    seen, found = seen_by(target, platform), dict[str, int | None]()
    level = [""]
    while level and len(found) < ENTRIES:
        every = seen.contents.listings(target, [posixpath.join(folder, inside) for inside in level])
        here = {
            posixpath.join(inside, name): size
            for inside, there in zip(level, every, strict=True)
            for name, size in sorted((there or {}).items())
        }
        found |= here
        level = [path for path, size in here.items() if size is None]
    return found


def _requests(undo: Undo, platform: Platform) -> list[tuple[Target, JSON]]:
    """What the agents are asked to do."""
    readers, do = readers_of(undo.targets, platform), {"op": "empty"}
    return [
        (target, {"mutation": "wipe", "readers": readers, "jobs": [{"path": prior["path"], "expected": None, "do": do}]})
        for target, prior in _once(undo)
    ]


def _once(undo: Undo) -> list[tuple[Target, JSON]]:
    """Each folder once, by the first of the targets that have it."""
    found: dict[str, tuple[Target, JSON]] = {}
    for target in undo.targets:
        prior = undo.prior[target.name]
        found.setdefault(prior["id"], (target, prior))
    return list(found.values())


def beside(undo: Undo, prior: JSON) -> str:
    return file_agent.beside(posixpath.join(prior["real"], file_agent.WIPED), undo.fault)


def _listed(target: Target, folder: str, platform: Platform) -> Mapping[str, int | None] | None:
    """Names in a folder; None where there is none: an observation here."""
    try:
        return seen_by(target, platform).listing(folder)
    except Unreadable:
        return None
