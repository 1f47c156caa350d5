"""Who has a volume or a folder of the engine's machine that files of a service lie on, and is no part of the service."""

from collections.abc import Sequence

from ..values import JSON
from .base import Target
from .docker_api import at
from .docker_find import Finder, mount_of, name_of, standing
from .docker_helpers import OURS
from .volume_paths import joined, lies_in, touch


def strangers(finder: Finder, files: Sequence[tuple[Target, str]]) -> str:
    """The first of them, in words; empty: there is none. A paused one counts, and one that does not run has nothing to lose now."""
    held = _held(finder, files)
    if not held:
        return ""
    mine = {container["Id"] for _, _, container in finder.everything()}
    for listed in finder.api.get("/containers/json"):
        if listed["Id"] in mine or OURS in listed["Labels"]:
            continue
        container = finder.api.there(at("containers", listed["Id"], "json"))
        if container is None or not container["State"]["Running"]:
            continue
        for target, path, mount in held:
            if found := next((each for each in container.get("Mounts") or [] if _same(mount, path, each)), None):
                return f"container {name_of(container)} has {_named(found)}, and so {path} of {target.name}"
    return ""


def _held(finder: Finder, files: Sequence[tuple[Target, str]]) -> list[tuple[Target, str, JSON]]:
    """Those that lie where others may have them as well, each with the mount that holds it."""
    containers: dict[str, JSON] = {}
    found = []
    for target, path in files:
        if target.identity not in containers:
            containers[target.identity] = standing(finder, target)
        mount = mount_of(containers[target.identity], path)
        if mount and mount["Type"] != "tmpfs":
            found.append((target, path, mount))
    return found


def _same(mine: JSON, path: str, other: JSON) -> bool:
    """Volumes are told by their names, all else by folders of the engine's machine. Who is given all of the engine's own folders, as who
    watches or backs up the machine, has no volume by that.
    """
    if mine["Type"] == other["Type"] == "volume":
        return bool(mine["Name"] == other["Name"])
    if not mine.get("Source") or not other.get("Source"):
        return False
    whole, theirs = joined(mine["Source"]), joined(other["Source"])
    file = joined(whole, path[len(mine["Destination"].rstrip("/")) :])
    return touch(file, theirs) and (mine["Type"] != "volume" or lies_in(theirs, whole))


def _named(mount: JSON) -> str:
    return f"volume {mount['Name']}" if mount["Type"] == "volume" else f"{mount['Source']} of the engine's machine"
