"""Folders that are nobody's cache, and so are never wiped: the system's, a target's own, its model's, ours."""

import posixpath
from collections.abc import Iterable, Iterator

from .model_formats import folders
from .platforms.abilities import OwnFolders
from .platforms.base import Platform, PlatformError, Target
from .platforms.container_files import FIRST
from .seen_files import seen_by

# With all that lies in them: Filesystem Hierarchy Standard 3.0 (https://refspecs.linuxfoundation.org/FHS_3.0/fhs-3.0.html), and what macOS adds.
SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/nix", "/snap"),
    *("/usr/bin", "/usr/include", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/sbin", "/usr/src"),
    *("/var/lib/apt", "/var/lib/containerd", "/var/lib/docker", "/var/lib/dpkg", "/var/lib/kubelet", "/var/log", "/var/spool"),
    *("/System", "/Library", "/private/etc"),
)
MEMORY = "/dev/shm"  # noqa: S108 - the one place below /dev where people keep files
# Themselves alone: a cache has a folder of its own in them.
SHARED = (
    *("/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr", "/var", MEMORY),  # noqa: S108 - named to be refused
    *("/usr/local", "/usr/share", "/usr/local/lib", "/usr/local/share", "/var/cache", "/var/lib", "/var/opt", "/var/tmp"),  # noqa: S108
    *("/Applications", "/Users", "/private", "/private/tmp", "/private/var", "/private/var/folders"),
)
HOMES = ("/home", "/Users")
JOURNAL = "journal.jsonl"  # of a run's folder
HUB = "models--"  # huggingface_hub, src/huggingface_hub/constants.py and file_download.py (repo_folder_name): a cache of what was fetched
ENVIRONMENT_LIMIT = 1 << 20
ADVICE = "name the folder of the cache alone"


def why_kept(target: Target, real: str, model: str | None, platform: Platform) -> str:
    """Why the folder with that real path must stay as it is, and what to do; empty: by where it lies it may be wiped."""
    if whose := _systems(real, platform.name):
        return f"{real} is {whose}, and no cache; {ADVICE}"
    for path, what in _own(target, platform):
        if _holds(real, path):
            return f"{real} {'is' if real == path else 'holds'} {what}{'' if real == path else f' ({path})'}; {ADVICE}"
    return _models(target, real, model, platform) if model else ""


def records_in(real: str, names: Iterable[str]) -> str:
    """The same by what lies in it."""
    held = next((name for name in names if posixpath.basename(name) == JOURNAL), "")
    return f"{real} holds the records of a drill ({held}); {ADVICE}" if held else ""


def _systems(real: str, platform: str) -> str:
    """Whose it is by its name alone."""
    in_system = any(_holds(each, real) for each in SYSTEM) and not real.startswith(f"{MEMORY}/")
    if in_system or real in SHARED or any(_holds(real, each) for each in SYSTEM):
        return "a folder of the system"
    if posixpath.dirname(real) in HOMES:
        return "somebody's home folder"
    if platform == "process" and posixpath.dirname(real) == "/":  # in a container a volume is often mounted there
        return "a folder of the whole machine"
    return ""


def _own(target: Target, platform: Platform) -> Iterator[tuple[str, str]]:
    """Folders of the target and of ours, and what each is; those that the system does not tell are left out."""
    for pid in platform.pids(target) if platform.name == "process" else (FIRST,):
        cwd = f"/proc/{pid}/cwd"
        if (real := _real(target, cwd, platform)) != cwd:
            yield real, f"the working folder of {target.name}"
        try:
            environment = platform.read_file(target, f"/proc/{pid}/environ", ENVIRONMENT_LIMIT)
        except PlatformError:
            continue
        homes = [each[5:] for each in environment.split(b"\0") if each.startswith(b"HOME=/")]
        if homes:
            yield _real(target, homes[0].decode("utf-8", "surrogateescape"), platform), f"the home folder of {target.name}"
    if isinstance(platform, OwnFolders):
        for path in platform.own_folders():
            yield path, "where blackstart works or keeps its records"


def _models(target: Target, real: str, model: str, platform: Platform) -> str:
    """A cache of what was fetched may hold the model; where nothing says that it is one, the model was put there."""
    path = _real(target, model, platform)
    fetched = _holds(real, path) and f"/{HUB}" in path[len(real) :]
    is_folder = folders.is_folder(seen_by(target, platform), path)
    folder = path if is_folder else posixpath.dirname(path)
    if (_holds(real, folder) and not fetched) or (is_folder and _holds(folder, real)):
        return (
            f"{real} holds the model of {target.name} ({model}), or is a part of it, and so is no cache; {ADVICE}, or damage the model by "
            "model-corrupt (delete, missing-shard)"
        )
    return ""


def _real(target: Target, path: str, platform: Platform) -> str:
    try:
        return str(platform.file(target, path)["real"])
    except PlatformError:
        return path


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
