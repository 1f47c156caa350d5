"""The digest that every replica's model must have, by a manifest (`model.manifest`), where that manifest cannot tell it, and what to say
where replicas have different ones before a fault.
"""

import hashlib
import posixpath
from collections.abc import Collection, Mapping, Sequence

from ..injectors.model_files import named
from ..injectors.model_formats.manifest import NAME, Unfit, stored
from ..injectors.platforms.base import Target
from ..injectors.values import first_of
from .service import Service

SHOWN = 5  # names of files
NOT_SINGLE = (
    "before the fault the digest lane does not tell one digest of all replicas (nor of prefill and decode workers){files}; is one of them "
    "another model's? Where roles have different ones by design, compare those of one: `digest.role`"
)


def path_of(target: Target, service: Service) -> str:
    """Where that replica finds its model."""
    assert service.model is not None
    return named(str(service.folder / service.model.path), target)


def whole(files: Mapping[str, str]) -> str:
    """One digest for all files of a model: of a single one its own, else that of the list of them."""
    known = {name: digest for name, digest in files.items() if posixpath.basename(name) != NAME}
    if len(known) == 1:
        return f"sha256:{next(iter(known.values()))}"
    listed = "".join(f"{name} {digest}\n" for name, digest in sorted(known.items()))
    return f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"


def not_single(replicas: Sequence[Mapping[str, str]]) -> str:
    """Why there is no drill, of replicas by the SHA-256 of each of their files: the first files that not all of them have alike."""
    every = {name for each in replicas for name in each}
    apart = sorted(name for name in every if len({each.get(name) for each in replicas}) > 1)
    return NOT_SINGLE.format(files=f": different are {first_of(apart, SHOWN)}" if apart else "")


def manifest_of(service: Service, replicas: Sequence[Target]) -> str:
    """The digest that the manifest says of the model of all of them; empty where none is named. Raises Unfit."""
    files = _files(service)
    if not files:
        return ""
    own = {target.name: whole(_of_the_model(files, path_of(target, service))) for target in replicas}
    if len(set(own.values())) > 1:
        raise Unfit(
            f"it says different digests of the files of {', '.join(own)}; they must have one model, or leave `model.manifest` out"
        )
    return next(iter(own.values()), whole(files))


def misfit(target: Target, service: Service, there: Collection[str]) -> str:
    """Why the manifest can never tell the digest of what that replica has, which are these files, and what to do; empty: it can."""
    path = path_of(target, service)
    known = {name for name in _of_the_model(_files(service), path) if posixpath.basename(name) != NAME}
    if not known or known == set(there) or len(known) == len(there) == 1:
        return ""
    assert service.model is not None
    lacks, more = first_of(sorted(set(there) - known), SHOWN), first_of(sorted(known - set(there)), SHOWN)
    what = "; ".join(
        [*([f"it lacks {lacks}"] if lacks else []), *([f"it has {more}, which {target.name} has not"] if more else [])]
    )
    manifest = service.folder / str(service.model.manifest)
    return f"{manifest} does not fit the model of {target.name} ({path}): {what}; write one of the right model: blackstart manifest {path}"


def _files(service: Service) -> dict[str, str]:
    """File -> its SHA-256; nothing where no manifest is named. Raises Unfit."""
    if service.model is None or service.model.manifest is None:
        return {}
    return {name: each["sha256"] for name, each in stored(service.folder / service.model.manifest)["files"].items()}


def _of_the_model(files: Mapping[str, str], path: str) -> Mapping[str, str]:
    """Of the manifest of a folder the one entry of a model that is a file in it; all, where the model is no file that it knows."""
    entries = [name for name in files if path == name or path.endswith(f"/{name}")]
    return {name: files[name] for name in [max(entries, key=len)]} if entries else files
