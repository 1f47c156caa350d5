"""Whether a target has a file mapped into memory, and when a change of that file shows."""

import os
from collections.abc import Sequence
from typing import Literal

from .model_formats.mutations import Job
from .platforms.base import Platform, PlatformError, Target

MAPS_LIMIT = 16 << 20  # bytes of /proc/PID/maps


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


def when_it_bites(job: Job, load: str | None, in_memory: bool | None) -> Literal["now", "on-restart"]:
    """A header is read once and a new name is another file: both show on restart. Tensors changed in place show now where they are read
    through a mapping.

    That there is a mapping does not say so: loaders map a file, copy it (onto a GPU, say) and keep the mapping. So `now` takes the word of
    the service file, or of its engine's profile, and no denial by the system.
    """
    return "now" if job.at_once and load == "mmap" and in_memory is not False else "on-restart"


def when_all_bite(jobs: Sequence[Job], load: str | None, in_memory: Sequence[bool | None]) -> Literal["now", "on-restart"]:
    """Of all files that one target reads, for each of which the system says whether it is mapped."""
    each = [when_it_bites(job, load, seen) for job, seen in zip(jobs, in_memory, strict=True)]
    return "on-restart" if "on-restart" in each else "now"
