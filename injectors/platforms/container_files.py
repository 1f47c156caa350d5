"""What can be seen inside containers, past the agents: files, processes and what they use, by look.py in a process of its own."""

import base64
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Generic

from ..values import JSON
from .base import PlatformError, Target
from .exec_agents import BOOT, ContainerAgents, Doors, W, look
from .looked_contents import LookedContents
from .process_table import Usage

FIRST = 1  # pid of a container's first process, inside it


class ContainerFiles(LookedContents, Generic[W]):
    """The platform says which container is a target's, and how programs get into it."""

    doors: Doors[W]

    @abstractmethod
    def _container(self, target: Target) -> W | None:
        """That of the very target; None: it is gone."""

    @property
    @abstractmethod
    def _agents(self) -> ContainerAgents[W]:
        """Those that hold faults there."""

    @abstractmethod
    def _shares_processes(self, target: Target) -> bool:
        """Whether its container sees those of others as well."""

    def space(self, target: Target, folder: str) -> tuple[int, int]:
        found = self._look(target, "space", path=folder)
        return found["size_bytes"], found["free_bytes"]

    def exists(self, target: Target, path: str) -> bool:
        return bool(self._look(target, "exists", path=path)["exists"])

    def around(self, target: Target) -> list[JSON]:
        """Every process that can be seen from inside the target: `identity`, `parent`, `state`, `command`."""
        where = self._container(target)
        found: list[JSON] = look(self.doors, where, "around", {})["processes"] if where else []
        return found

    def pids(self, target: Target) -> tuple[int, ...]:
        return tuple(map(pid_of, self.around(target)))

    def own(self, target: Target) -> tuple[str, ...]:
        """Its first process with all below it: what was sent in has its parent outside. Where containers share one table of processes, the
        first of which is nobody's server, nothing tells the two apart, and all count that are not ours.
        """
        around = self.around(target)
        parents = {pid_of(each): int(each["parent"]) for each in around}
        shared = self._shares_processes(target)
        return tuple(
            each["identity"]
            for each in around
            if FIRST in line_of(pid_of(each), parents) or (shared and BOOT not in each["command"])
        )

    def commands(self, target: Target) -> tuple[str, ...]:
        return tuple(str(each["command"]) for each in self.around(target))

    def read_file(self, target: Target, path: str, limit: int) -> bytes:
        return base64.b64decode(self._look(target, "read", path=path, limit=limit)["content"])

    def digest(self, target: Target, path: str) -> str:
        return str(self._look(target, "digest", path=path)["digest"])

    def agent_usage(self, fault: str, target: Target) -> Usage | None:
        """CPU time, run-queue delay and resident memory of the agent with its children, from the kernel; None: none lives."""
        where = self._container(target)
        records = self._agents.records(where, fault, target) if where else {}
        return self._usage(where, [record["agent"] for record in records.values()]) if where and records else None

    def target_usage(self, target: Target) -> Usage | None:
        """The same of the target's first process with its descendants."""
        where, first = self._container(target), [each["identity"] for each in self.around(target)][:1]
        return self._usage(where, first) if where and first else None

    def cores(self, target: Target) -> int:
        where = self._container(target)
        return int(look(self.doors, where, "around", {})["cores"] or 1) if where else 1

    def memory_available(self, target: Target) -> int | None:
        """Bytes of memory that the target could still get; None where the system does not say."""
        where = self._container(target)
        found = look(self.doors, where, "memory", {})["available_bytes"] if where else None
        return None if found is None else int(found)

    def _usage(self, where: W, identities: list[str]) -> Usage | None:
        used = look(self.doors, where, "usage", {"identities": identities})
        if not used["processes"]:
            return None
        return Usage(used["cpu_s"], used["waited_s"], used["age_s"], used["resident_bytes"])

    def _look(self, target: Target, verb: str, **request: object) -> JSON:
        where = self._container(target)
        if where is None:
            raise PlatformError(f"{target.name} ({target.identity}) is gone")
        return look(self.doors, where, verb, request)


def pid_of(process: JSON) -> int:
    return int(process["identity"].removeprefix("pid:").partition("@")[0])


def line_of(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    """A process and all above it, as far as they are seen."""
    while pid in parents:
        yield pid
        pid = parents[pid]
