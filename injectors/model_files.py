"""Damage to the model files that replicas read, and to what they come from: named, seeded, and put back byte for byte.

Random byte flips are a placebo; these few are what loaders miss or trip over, by the layout of each format (model_formats/).
`file_agent.py` does the work beside the file. What it takes away lies beside the file as well, on the same volume; elsewhere are the record with
offsets and digests and, where only a few bytes change, these bytes.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Self

from . import file_agent, secret_values, slow_reads
from .artefacts import FileFault, ids_of
from .base import Evidence, Privilege, Refusal, Undo
from .means import OF_FILES, Means
from .model_formats import folders
from .model_formats.layout import Unreadable
from .model_formats.mutations import MUTATIONS, NAMED, Job, Request, jobs, of_any_file
from .network import NetworkPartition
from .platforms.base import Platform, Target
from .seen_files import seen_by
from .slow_reads import SLOW
from .values import OneOf

OLDER = "stale-version"  # the one mutation that has a source

WORDS = OneOf((*(f"{name}[:TENSOR]" if name == NAMED else name for name in MUTATIONS), SLOW))

CHECKPOINT_MUTATIONS = ("truncate", "zero-tail", "header", "nan-one", "exponent-msb[:TENSOR]", "html-page", "delete")


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


@dataclass(frozen=True, kw_only=True)
class ModelFault(FileFault):
    """A fault of the files that the service's model is kept in; which these are, only the service file knows."""

    file: Annotated[
        str | None,
        "relative to the service's model, or absolute; {name} stands for the target's name; by default the model itself",
    ] = None
    model: str | None = field(default=None, metadata={"yaml": False})
    load: str | None = field(default=None, metadata={"yaml": False})

    def with_model(self, path: str, load: str) -> Self:
        """The same fault, knowing the service's model: its path (`{name}` allowed) and `mmap` or `at-start`."""
        return replace(self, model=path, load=load)

    def path(self, target: Target, files: folders.Files) -> str:
        """The file or folder that is meant. Raises Refusal where nobody says which."""
        if self.model is None and self.file is None:
            raise Refusal("not injecting: which file is the model? give `file`, or `model: {path: ...}` in the service file")
        return path_of(target, self.model, self.file, files)

    def everybodys(self) -> bool:
        return self.file is None and "{name}" not in (self.model or "")


@dataclass(frozen=True)
class ModelCorrupt(ModelFault):
    mutation: Annotated[str, "how the model is damaged", WORDS]
    seed: Annotated[int, "which element, tensors or shard are hit"] = 0
    source: Annotated[str | None, "stale-version: the older file; by default NAME-stale.SUFFIX beside the model"] = None
    delay: Annotated[
        timedelta | None,
        "slow-read: how much longer each opening of the file and each read from it takes; 20ms to 10s, by default 1s",
    ] = None

    kind: ClassVar[str] = "model-corrupt"
    summary: ClassVar[str] = "damages the model that a replica reads, in a way that loaders miss or trip over"
    certifies: ClassVar[str] = (
        "that a damaged, missing or outdated model file is noticed before users get its answers (slow-read: that replicas which load "
        "slowly are waited for), for this one mutation; not that every damage is noticed"
    )
    bites_when: ClassVar[str] = (
        "at once where the target reads its weights through a mapping (`load: mmap`), otherwise when it starts again: add a restart"
    )
    example: ClassVar[Mapping[str, Any]] = {"mutation": "header"}
    done_by: ClassVar[Means] = OF_FILES
    proven_by: ClassVar[str] = (
        f"{FileFault.proven_by}; of slow-read, the kernel's list of marked files, and how long another process takes to read"
    )
    undone_by: ClassVar[str] = f"{FileFault.undone_by}; of slow-read, the agent ends, and the kernel lets everybody read on"

    def privilege_on(self, platform: str) -> Privilege:
        return Privilege.HELPER if self.mutation == SLOW and platform != "process" else self.privilege

    def takes(self) -> frozenset[str]:
        return frozenset({"room"} if self.mutation == SLOW else ())

    def holds_up(self, undo: Undo) -> frozenset[str]:
        return frozenset(ids_of(undo) if self.mutation == SLOW else ())

    def problems(self) -> tuple[str, ...]:
        if self.delay is not None and self.mutation != SLOW:
            return (f"`delay` is of {SLOW} alone; leave it out",)
        if self.source is not None and self.mutation != OLDER:
            return (f"`source` is of {OLDER} alone; leave it out",)
        if self.source == "":
            return ("`source` is empty; name the older file, or leave it out",)
        return tuple(filter(None, [slow_reads.problem(self.delay or slow_reads.DELAY)]))

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        if self.mutation == SLOW:
            return slow_reads.planned(self, targets, self.delay or slow_reads.DELAY, platform)
        return super().plan(targets, platform)

    def inject(self, undo: Undo, platform: Platform) -> None:
        return (slow_reads.inject if self.mutation == SLOW else super().inject)(undo, platform)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        return (slow_reads.verify if self.mutation == SLOW else super().verify)(undo, platform)

    def recover(self, undo: Undo, platform: Platform) -> None:
        return (slow_reads.recover if self.mutation == SLOW else super().recover)(undo, platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        return (slow_reads.verify_recovered if self.mutation == SLOW else super().verify_recovered)(undo, platform)

    def jobs(self, target: Target, platform: Platform) -> list[Job]:
        files = seen_by(target, platform)
        if self.mutation == SLOW:
            return slow_reads.jobs(self.path(target, files), files)
        return jobs(Request(self.mutation, self.path(target, files), self.seed, named(self.source, target) or None), files)

    def word(self) -> str:
        return self.mutation

    def sampled(self) -> int:
        return self.seed


@dataclass(frozen=True)
class CheckpointCorrupt(FileFault):
    """The newest checkpoint in a folder of them, as a save that was cut off or a disk that lied leaves it."""

    path: Annotated[str, "the folder of checkpoints, as the target sees it; {name} stands for the target's name"]
    mutation: Annotated[str, "how it is damaged", OneOf(CHECKPOINT_MUTATIONS)] = "truncate"
    file: Annotated[str | None, "which file of the newest checkpoint; by default its largest"] = None
    seed: Annotated[int, "which element is hit"] = 0

    kind: ClassVar[str] = "checkpoint-corrupt"
    summary: ClassVar[str] = "damages the newest checkpoint: who starts again must notice, and take an older one"
    certifies: ClassVar[str] = (
        "that a job which starts again does not go on from a damaged checkpoint, for this one mutation; how much work an older one "
        "loses is measured by the job itself"
    )
    bites_when: ClassVar[str] = "when the target starts again and looks for its last checkpoint: add a restart"
    example: ClassVar[Mapping[str, Any]] = {"path": "/checkpoints/run-1"}
    depends_on: ClassVar[str] = "`path`"
    default_role: ClassVar[str] = "trainer"

    def problems(self) -> tuple[str, ...]:
        return () if self.path else ("`path` is empty; name the folder that the checkpoints lie in",)

    def jobs(self, target: Target, platform: Platform) -> list[Job]:
        files = seen_by(target, platform)
        newest = folders.newest_checkpoint(files, named(self.path, target))
        inside = posixpath.join(newest, named(self.file, target)) if self.file else folders.largest(files, newest)
        return [replace(job, at_once=False) for job in of_any_file(Request(self.mutation, inside, self.seed), files)]

    def inject(self, undo: Undo, platform: Platform) -> None:
        """What was newest when this was planned may be an older one by now, which nobody would look at."""
        for target in undo.targets:
            planned, now = undo.prior["files"][target.name]["path"], self.jobs(target, platform)[0].path
            if planned != now:
                raise Refusal(
                    f"not injecting: {now} is the newest checkpoint by now, and {planned} was planned for; run the drill again"
                )
        super().inject(undo, platform)

    def word(self) -> str:
        return self.mutation

    def sampled(self) -> int:
        return self.seed

    def everybodys(self) -> bool:
        return "{name}" not in self.path


@dataclass(frozen=True)
class CredentialExpire(FileFault):
    """A credential in a file, with which models are fetched or stores are asked, is good for nothing any more."""

    path: Annotated[str, "the file that holds it, as the target sees it; {name} stands for the target's name"]
    source: Annotated[str | None, "a file with one that has expired; by default what is secret in it is made worthless"] = None
    secret: Annotated[bool, "on Kubernetes: the Secret itself is changed that the kubelet writes this file from"] = False

    kind: ClassVar[str] = "credential-expire"
    summary: ClassVar[str] = "the credential in a file is refused from now on: it has expired, or nobody issued it"
    certifies: ClassVar[str] = (
        "that the service goes on with what it has loaded, and says why it cannot start again; not that it renews a credential in time"
    )
    bites_when: ClassVar[str] = "when the target reads the file again, at the latest when it starts again: add a restart"
    example: ClassVar[Mapping[str, Any]] = {"path": "/run/secrets/hub-token"}
    depends_on: ClassVar[str] = "`path`"

    proven_by: ClassVar[str] = f"{FileFault.proven_by}; of a Secret, the digest of the file that the kubelet writes from it"
    undone_by: ClassVar[str] = (
        f"{FileFault.undone_by}; a Secret by blackstart, or its guard in the cluster, from another Secret that keeps what it was"
    )
    patience: ClassVar[timedelta] = timedelta(seconds=180)  # a kubelet writes a Secret anew within two minutes or so

    def problems(self) -> tuple[str, ...]:
        if self.secret and self.source:
            return ("`source` is a file, and what takes a Secret's place is made up; leave one of `secret` and `source` out",)
        return () if self.path else ("`path` is empty; name the file that holds the credential",)

    def takes(self) -> frozenset[str]:
        return frozenset({"secret"} if self.secret else ())

    def bites(self, undo: Undo) -> str:
        return "on-restart" if self.secret else super().bites(undo)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        if not self.secret:
            return super().plan(targets, platform)
        try:
            paths = {target.name: named(self.path, target) for target in targets}
            return secret_values.planned(targets, paths, platform, file_agent.expired_bytes)
        except file_agent.Refused as why:
            raise Refusal(f"not injecting: {self.path}: {why}") from why

    def inject(self, undo: Undo, platform: Platform) -> None:
        if self.secret:
            return secret_values.inject(undo, platform, file_agent.expired_bytes)
        return super().inject(undo, platform)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        return secret_values.verify(undo, platform) if self.secret else super().verify(undo, platform)

    def recover(self, undo: Undo, platform: Platform) -> None:
        return secret_values.recover(undo, platform) if self.secret else super().recover(undo, platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        return secret_values.verify_recovered(undo, platform) if self.secret else super().verify_recovered(undo, platform)

    def jobs(self, target: Target, platform: Platform) -> list[Job]:
        path, source = named(self.path, target), named(self.source, target)
        found = seen_by(target, platform).source(path)
        if source:
            return [Job(path, {"op": "replace", "source": source})]
        try:
            file_agent.expired_bytes(found.read(0, file_agent.CREDENTIAL_LIMIT + 1))  # what comes of it is not kept
        except file_agent.Refused as why:
            raise Unreadable(f"{path}: {why}; give `source`") from why
        return [Job(path, {"op": "expire"})]

    def word(self) -> str:
        return "expire"

    def everybodys(self) -> bool:
        return "{name}" not in self.path


@dataclass(frozen=True)
class ModelStoreOutage(NetworkPartition):
    """The store that models are fetched from goes silent for the targets."""

    peers: Annotated[tuple[str, ...], "the store: its role or component name; in containers also HOST:PORT, that whole host"] = (
        "model-store",
    )

    kind: ClassVar[str] = "model-store-outage"
    summary: ClassVar[str] = "the targets get no answer from the store that models come from"
    certifies: ClassVar[str] = (
        "that replicas go on with the model that they have, and that one which starts again waits, falls back or says what it lacks; "
        "not that what a store answers wrongly is noticed"
    )
    bites_when: ClassVar[str] = "when the target fetches its model, so when it starts again: add a restart"

    def problems(self) -> tuple[str, ...]:
        return () if self.peers else ("`peers` is empty, which would be everybody; name the store, or leave it out",)

    def bites(self, undo: Undo) -> str:
        del undo
        return "on-restart"
