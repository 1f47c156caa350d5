"""What faults of files leave beside them where a person closes their run before they are undone: their records, and what the files held."""

import posixpath
from collections.abc import Iterable, Iterator

from . import caches, file_agent
from .base import Refusal, Undo
from .model_formats.layout import Unreadable
from .platforms.base import Platform, PlatformError, Target
from .seen_files import seen_by


def left_beside(undos: Iterable[Undo], platform: Platform | None) -> list[str]:
    """Told of each path that is there, and of every one that may be where nobody can look. None: nobody can."""
    found = []
    for undo in undos:
        for target, folder, starts in _kept(undo):
            where = folder if platform and platform.name == "process" else f"{target.name}: {folder}"
            names, why = _named(target, folder, undo, platform)
            if why:
                found += [f"may stay: {where}/{start} ({why})" for start in starts]
            found += [f"stays: {where}/{name}" for name in names if any(_begins(name, start) for start in starts)]
    return found


def _kept(undo: Undo) -> Iterator[tuple[Target, str, list[str]]]:
    """A target, a folder that it sees, and how all is called, or begins, that is kept there beside files: each file once, as they are changed."""
    seen = set()
    for target in undo.targets:
        folders: dict[str, list[str]] = {}
        for whose, beside in _files(undo, target):
            if whose not in seen:
                folder, start = posixpath.split(beside)
                folders.setdefault(folder, []).append(start)
            seen.add(whose)
        for folder, starts in folders.items():
            yield target, folder, starts


def _files(undo: Undo, target: Target) -> list[tuple[str, str]]:
    """Which file it is, and where its undo record lies."""
    if undo.kind == caches.CacheWipe.kind:
        cache = undo.prior[target.name]
        return [(cache["id"], caches.beside(undo, cache))]
    parts = undo.prior.get("files", {}).get(target.name, {}).get("parts", ())
    changed = [part for part in parts if "do" in part]  # nothing is done to one that is only slow to read
    return [(part["id"], file_agent.beside(part["real"], undo.fault)) for part in changed]


def _named(target: Target, folder: str, undo: Undo, platform: Platform | None) -> tuple[list[str], str]:
    """What lies in the folder, and why that cannot be told."""
    if platform is None:
        return [], "it could not be looked for"
    try:
        platform.recall(undo.targets)
        return sorted(seen_by(platform.current(target.name) or target, platform).listing(folder)), ""
    except (PlatformError, Unreadable, Refusal) as error:
        return [], f"it could not be looked for: {error}"


def _begins(name: str, start: str) -> bool:
    """Not so the tenth fault's of a run where the first one's are sought."""
    return name == start or name.startswith(f"{start}.")
