"""One replica serves another revision of the model than the others: version skew."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from .base import Refusal
from .model_files import ModelFault, named
from .model_formats import folders
from .model_formats.layout import Unreadable
from .model_formats.manifest import HELD
from .model_formats.mutations import Job, Request, jobs
from .platforms.base import Platform, Target
from .seen_files import seen_by

STALE = "-stale"


@dataclass(frozen=True)
class VersionSkew(ModelFault):
    source: Annotated[
        str | None,
        "the other revision, a file or a folder as the target sees it; {name} stands for the target's name; by default NAME-stale.SUFFIX, "
        "or the folder NAME-stale, beside the model",
    ] = None

    kind: ClassVar[str] = "version-skew"
    summary: ClassVar[str] = "a replica has another revision of the model than the others"
    certifies: ClassVar[str] = (
        "that a replica with another revision of the model is noticed, and answers no users, or is put right; not that one is noticed whose "
        "settings differ and not its files"
    )
    bites_when: ClassVar[str] = "when the target starts again and reads the other revision: add a restart"
    example: ClassVar[Mapping[str, Any]] = {}

    def problems(self) -> tuple[str, ...]:
        return ("`source` is empty; name the other revision, or leave it out",) if self.source == "" else ()

    def jobs(self, target: Target, platform: Platform) -> list[Job]:
        files = seen_by(target, platform)
        path, source = self.path(target, files), named(self.source, target)
        if not folders.is_folder(files, path):
            return jobs(Request("stale-version", path, source=source or None), files)
        other = source or f"{path.rstrip('/')}{STALE}"
        return [
            Job(posixpath.join(path, name), {"op": "replace", "source": posixpath.join(other, name), "about": {"source": other}})
            for name in _changed(target, platform, (path, other))
        ]

    def word(self) -> str:
        return "stale-version"


def _changed(target: Target, platform: Platform, paths: tuple[str, str]) -> list[str]:
    """Files of a model's folder that the other revision has otherwise; both must have the same ones, since none is added or taken away."""
    now, then = (
        {name: size for name, size in seen_by(target, platform).listing(path).items() if size is not None} for path in paths
    )
    ours = {name for name in now if HELD not in name}
    if ours != then.keys():
        odd = ", ".join(sorted(ours ^ then.keys())[:5])
        raise Unreadable(f"{paths[0]} and {paths[1]} do not have the same files ({odd}); give a `source` that has")
    digest = platform.digest
    found = [
        name
        for name in sorted(ours)
        if now[name] != then[name]
        or digest(target, posixpath.join(paths[0], name)) != digest(target, posixpath.join(paths[1], name))
    ]
    if not found:
        raise Refusal(f"not injecting: {paths[1]} is the same revision as {paths[0]}; give another `source`")
    return found
