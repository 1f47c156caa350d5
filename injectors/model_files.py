"""Damage to the model files that replicas read: named, seeded mutations that are put back byte for byte.

Random byte flips are a placebo; these few are what loaders miss or trip over, by the layout of each format (model_formats/).
`file_agent.py` does the work beside the file and holds the originals.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from .artefacts import FileFault, seen_by
from .base import Refusal
from .model_formats import folders
from .model_formats.mutations import IMPOSSIBLE, MUTATIONS, NAMED, Job, Request, jobs
from .platforms.base import Platform, Target
from .values import OneOf

WORDS = OneOf(tuple(f"{name}[:TENSOR]" if name == NAMED else name for name in (*MUTATIONS, *IMPOSSIBLE)))


def named(text: str | None, target: Target) -> str:
    """A path with the target's name in place of {name}."""
    return (text or "").replace("{name}", target.name.partition("/")[0])


def path_of(target: Target, model: str | None, file: str | None, files: folders.Files) -> str:
    """The file or folder that is meant for this target: `file` beside or inside `model`, or the model itself."""
    model, wanted = named(model, target), named(file, target)
    if posixpath.isabs(wanted) or not model:
        return wanted
    if folders.is_folder(files, model):
        return posixpath.join(model, wanted) if wanted else model
    return posixpath.join(posixpath.dirname(model), wanted) if wanted else model


@dataclass(frozen=True)
class ModelCorrupt(FileFault):
    mutation: Annotated[str, "how the model is damaged", WORDS]
    file: Annotated[
        str | None,
        "relative to the service's model, or absolute; {name} stands for the target's name; by default the model itself",
    ] = None
    seed: Annotated[int, "which element, tensors or shard are hit"] = 0
    source: Annotated[str | None, "stale-version: the older file; by default NAME-stale.SUFFIX beside the model"] = None
    model: str | None = field(default=None, metadata={"yaml": False})
    load: str | None = field(default=None, metadata={"yaml": False})

    kind: ClassVar[str] = "model-corrupt"
    summary: ClassVar[str] = "damages the model that a replica reads, in a way that loaders miss or trip over"
    certifies: ClassVar[str] = (
        "that a damaged, missing or outdated model file is noticed before users get its answers, for this one mutation; not that "
        "every damage is noticed"
    )
    bites_when: ClassVar[str] = "at once where the target has the file mapped, otherwise when it starts again: add a restart"
    example: ClassVar[Mapping[str, Any]] = {"mutation": "header"}

    def problems(self) -> tuple[str, ...]:
        why = IMPOSSIBLE.get(self.mutation)
        return (f"`mutation` is {self.mutation}: {why}",) if why else ()

    def with_model(self, path: str, load: str) -> "ModelCorrupt":
        """The same fault, knowing the service's model: its path (`{name}` allowed) and `mmap` or `at-start`."""
        return replace(self, model=path, load=load)

    def jobs(self, target: Target, platform: Platform) -> list[Job]:
        if self.model is None and self.file is None:
            raise Refusal("not injecting: which file is the model? give `file`, or `model: {path: ...}` in the service file")
        files = seen_by(target, platform)
        path = path_of(target, self.model, self.file, files)
        return jobs(Request(self.mutation, path, self.seed, named(self.source, target) or None), files)

    def word(self) -> str:
        return self.mutation

    def sampled(self) -> int:
        return self.seed

    def everybodys(self) -> bool:
        return self.file is None and "{name}" not in (self.model or "")
