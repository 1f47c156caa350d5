"""Faults of file systems: disk-fill."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

from .base import Differs, Evidence, Injector, NotYet, Overcome, Privilege, Refusal, Undo
from .lifecycle import end_agent
from .means import AGENT, Means
from .platforms.base import Platform, Target
from .values import Size

STATVFS = "statvfs"
LEAST_RESERVE = 64 << 10  # the agent always leaves so much, even when less is asked for
TOLERANCE = 1 << 20  # what others may free meanwhile


@runtime_checkable
class Disks(Protocol):
    """The ability of a platform to look at file systems as a target sees them."""

    def space(self, target: Target, folder: str) -> tuple[int, int]:
        """Size and free bytes of the file system that a folder lies on."""

    def exists(self, target: Target, path: str) -> bool:
        """Whether there is anything under that path."""


@dataclass(frozen=True)
class DiskFill(Injector):
    """Let an agent write one file until only `leave` is free."""

    path: Annotated[str, "a folder on the file system to fill, as the target sees it; {name} stands for the target's name"]
    leave: Annotated[Size, "how much stays free, at least 64KiB"] = Size(LEAST_RESERVE)
    at_most: Annotated[Size | None, "the most that may be written; needed where the file system is not the service's own"] = None

    kind: ClassVar[str] = "disk-fill"
    summary: ClassVar[str] = "a file system runs full, down to a reserve"
    certifies: ClassVar[str] = (
        "that the service withstands a file system with that little room; not that it withstands one without free inodes, or a "
        "disk that fails"
    )
    done_by: ClassVar[Means] = AGENT
    proven_by: ClassVar[str] = "the free bytes that the file system itself reports"
    undone_by: ClassVar[str] = "the agent removes the one file that it wrote"
    example: ClassVar[Mapping[str, Any]] = {"path": "/var/lib/llm", "at_most": "10GiB"}
    depends_on: ClassVar[str] = "`path`"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC

    def problems(self) -> tuple[str, ...]:
        found = () if self.path else ("`path` is empty; name a folder on the file system to fill",)
        return found if self.at_most is None or self.at_most else (*found, "`at_most` is 0B, which fills nothing; write more")

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        disks, prior = _disks(platform), {}
        for target in targets:
            folder = self.path.replace("{name}", target.name)
            size, free = disks.space(target, folder)
            found = platform.file(target, folder)
            if self.at_most is None and not found.get("apart", True):
                raise Refusal(
                    f"not injecting: {folder} may lie on the disk of the whole machine, which is not the service's own; mount a tmpfs "
                    "there, or give the most that may be written: `at_most`"
                )
            room = free - max(self.leave, LEAST_RESERVE)
            if room <= 0:
                raise Refusal(f"not injecting: {folder} has {free} of {size} bytes free, and {self.leave} are to be left")
            if self.at_most is not None and room > self.at_most:
                raise Refusal(
                    f"not injecting: leaving {self.leave} bytes free in {folder} takes {room} bytes, and `at_most` allows "
                    f"{self.at_most}; raise one of the two"
                )
            prior[target.name] = {"folder": found["real"], "size_bytes": size, "free_bytes": free}
        folders = [place["folder"] for place in prior.values()]
        if len(set(folders)) < len(folders):
            raise Refusal(
                f"not injecting: {folders[0]} would be filled for several targets; let the path contain {{name}}, or take one"
            )
        return Undo(targets, prior)

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            parameters = {
                "folder": undo.prior[target.name]["folder"],
                "leave_bytes": int(self.leave),
                "max_bytes": None if self.at_most is None else int(self.at_most),
            }
            platform.agent_begin(undo.fault, target, "fill-disk", parameters, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        disks, facts = _disks(platform), {}
        for target in undo.targets:
            place, at = undo.prior[target.name], platform.current(target.name) or target
            _, free = disks.space(at, place["folder"])
            if not disks.exists(at, self._file(undo, target)):
                if at.identity != target.identity:
                    raise Overcome(f"{target.name} was replaced, and its disk with it")
                raise NotYet(f"{self._file(undo, target)} is not there")
            if free > max(self.leave, LEAST_RESERVE) + TOLERANCE:  # while it is filled; later somebody made room
                raise Overcome(f"{place['folder']}: {free} bytes are free, {self.leave} are to be left")
            facts[target.name] = {"free_bytes": [place["free_bytes"], free]}
        shown = "; ".join(f"{undo.prior[name]['folder']}: {fact['free_bytes'][1]} bytes free" for name, fact in facts.items())
        return Evidence(STATVFS, shown, facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            end_agent(undo, target, platform, (f"{self._file(undo, target)}.undo",))

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        disks, facts = _disks(platform), {}
        for target in undo.targets:
            place, at = undo.prior[target.name], platform.current(target.name) or target
            if disks.exists(at, self._file(undo, target)):
                raise Differs(f"{self._file(undo, target)} is still there")
            facts[target.name] = {"free_bytes": [place["free_bytes"], disks.space(at, place["folder"])[1]]}
        shown = "; ".join(f"{undo.prior[name]['folder']}: {fact['free_bytes'][1]} bytes free" for name, fact in facts.items())
        return Evidence(STATVFS, shown, facts)

    def _file(self, undo: Undo, target: Target) -> str:
        return f"{undo.prior[target.name]['folder']}/blackstart-{undo.fault.replace('/', '_')}.fill"


def _disks(platform: Platform) -> Disks:
    if not isinstance(platform, Disks):
        raise Refusal(f"not injecting: platform {platform.name} cannot tell how full a file system is")
    return platform
