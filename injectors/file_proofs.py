"""What is seen of a file that a fault changes: that it is changed by us, that it is as before, and whether it was ever touched."""

import json
import posixpath

from . import file_agent
from .base import Differs, ForeignChange, NotYet, Overcome, Undo
from .platforms.base import Platform, PlatformError, Target, Unavailable
from .values import JSON

RECORD_LIMIT = 1 << 20
TAKEN = {
    ("remove", None): "none (it is not there)",
    ("chmod", 0): "none (nobody may read it)",
}  # by what a reader says of its mode


def changed(undo: Undo, target: Target, at: Target, part: JSON, platform: Platform) -> JSON:
    """What the platform sees of the change, which is ours while our record lies beside it and says so. Raises NotYet, or Overcome where the
    service has put the file back; PlatformError where nothing could be read: that proves nothing.
    """
    path, op, mode = part["path"], part["do"]["op"], platform.file(at, part["path"])["mode"]
    taken = TAKEN.get((op, mode))
    now, record = taken or platform.digest(at, path), _record(at, part, undo, platform)
    if record is None or (not taken and now != record["digest_after"]):
        # The agent's record goes with its own undo: while it is there, somebody else put the file back.
        mended = record is not None and now == part["digest"]
        replaced = at.identity != target.identity and not part["outlives"]
        kind = Overcome if mended or replaced else NotYet
        ours = "no record of the fault lies beside it" if record is None else "that is not what the fault made of it"
        raise kind(
            f"{path} has digest {now}, as before the fault" if now == part["digest"] else f"{path} has digest {now}, and {ours}"
        )
    return {"path": path, "digest_before": part["digest"], "digest_after": now, "mode": mode}


def as_before(undo: Undo, at: Target, part: JSON, platform: Platform) -> None:
    """Raises Differs. A service that put the file back itself may have given it another mode; that is its own affair, unless it was ours."""
    path = part["path"]
    first = _record(at, part, undo, platform), _digest(at, path, platform)
    readable = part["do"]["op"] != "chmod" or platform.file(at, path)["mode"] == part["mode"]
    if first[0] is None and first[1] == part["digest"] and readable:
        return
    second = _record(at, part, undo, platform), _digest(at, path, platform)
    _raise_what_differs(part, _file(at, path, platform)["mode"], first, second)


def marks_of(file: JSON, folder: JSON) -> list[list[object]]:
    """What no change of a file, or of a name in its folder, leaves as it was: times that only the kernel sets. An undo brings back bytes and
    names, and never these.
    """
    return [[each.get("inode"), each.get("changed_s")] for each in (file, folder)]


def was_changed(answer: JSON, target: Target, prior: JSON, platform: Platform) -> bool:
    """Whether an undo, this one or an earlier, had something to put back. An agent that was told to undo says so; where nothing was left it
    may have refused, or have undone it by itself.
    """
    if "restored" in answer:
        return answer["restored"] not in file_agent.UNTOUCHED
    at, parts = standing(target, platform), prior["parts"]
    now = [[_file(at, path, platform) for path in (part["real"], posixpath.dirname(part["real"]))] for part in parts]
    return [marks_of(*each) for each in now] != [part.get("marks") for part in parts]


def started_damaged(now: Target, prior: JSON, platform: Platform) -> bool:
    """Whether it started before the last of its files was put back."""
    started_s = platform.started_s(now)
    times_s = [_file(now, part["path"], platform).get("changed_s") for part in prior["parts"]]
    return started_s is not None and any(each is not None and started_s < each for each in times_s)


def standing(target: Target, platform: Platform) -> Target:
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


def _record(target: Target, part: JSON, undo: Undo, platform: Platform) -> JSON | None:
    """The undo record that the agent keeps beside the file, without its unchanging parts; None when there is none. Raises PlatformError
    where that cannot be seen.
    """
    path = file_agent.beside(part["real"], undo.fault)
    try:
        body: JSON = json.loads(platform.read_file(target, path, RECORD_LIMIT))
    except PlatformError:
        if platform.file(target, path)["mode"] is None:
            return None
        raise
    after = next((each["digest_after"] for each in body["records"] if each["path"] == part["real"]), None)
    return {"phase": body["phase"], "mutation": body["mutation"], "digest_after": after}


def _raise_what_differs(part: JSON, mode: int | None, first: tuple[JSON | None, str], second: tuple[JSON | None, str]) -> None:
    """Two looks at the same: what changes between them is still being undone, and only what stands still can be foreign."""
    path, (record, digest) = part["path"], second
    if first != second or (record and (record["phase"] != "effective" or digest in {record["digest_after"], part["digest"]})):
        raise Differs(f"{path} has digest {digest} and not {part['digest']}: the damage is still held or just being undone")
    if record and record["digest_after"] is None:  # deleted, or without permissions: the file as it is left has no digest
        raise Differs(f"{path}: {digest}; the {record['mutation']} is still held")
    raise ForeignChange(f"{path} has digest {digest} and mode {mode}, before {part['digest']} and {part['mode']}: not by us")
