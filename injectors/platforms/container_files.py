"""What can be seen inside containers, past the agents: files, processes and what they use, by look.py in a process of its own."""

import base64
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Generic
from urllib.parse import urlsplit

from ..values import JSON
from .abilities import INSIDE
from .agent_programs import program
from .base import PlatformError, Target
from .exec_agents import BOOT, DIGEST_S, EXEC_S, Doors, W, is_agent, look, prefix, told
from .local_files import asked_here
from .looked_contents import LookedContents
from .model_sight import Ranges
from .process_table import Usage

HERE: Final = {"127.0.0.1", "::1", "localhost"}
DRIVER_S = 60.0  # one that was not loaded before takes some seconds
READ_S = 60.0  # of a file whose readers wait
FIRST = 1  # pid of a container's first process, inside it


class ContainerFiles(LookedContents, Generic[W]):
    """The platform says which container is a target's, and how programs get into it."""

    doors: Doors[W]
    longest_read_s: float = DIGEST_S

    @abstractmethod
    def _container(self, target: Target) -> W | None:
        """That of the very target; None: it is gone."""

    @abstractmethod
    def _refuse_foreign(self, target: Target) -> None:
        """Raises Unsupported where processes are seen inside that are not the target's own."""

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
        """CPU time, run-queue delay and resident memory of the agent with its children, from the kernel; None: none lives.

        Found by their command lines and not by records, which may be lost while they go on.
        """
        where = self._container(target)
        around = look(self.doors, where, "around", {})["processes"] if where else []
        mine = [each["identity"] for each in around if is_agent(each["command"], fault, target)]
        return self._usage(where, mine) if where and mine else None

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

    def model_marks(self, target: Target, path: str) -> tuple[str, Mapping[str, Sequence[int]]]:
        found = self._sight(target, "marks", EXEC_S, path=path)
        return found["folder"], found["marks"]

    def model_digests(self, target: Target, path: str, ranges: Ranges, per_second: int) -> JSON:
        return self._sight(target, "digests", DIGEST_S + EXEC_S, path=path, ranges=ranges, per_second=per_second)

    def read_time(self, target: Target, path: str) -> float:
        return float(self._sight(target, "read-time", READ_S, path=path)["seconds"])

    def ask(self, target: Target, url: str) -> JSON:
        """From inside the container, past whatever lies between; from here where a loopback address says that its port is published."""
        if (urlsplit(url).hostname or "") in HERE:
            return asked_here(url)
        return self._sight(target, "ask", EXEC_S, url=url)

    def _sight(self, target: Target, verb: str, limit_s: float, **request: object) -> JSON:
        """What model_sight.py says there."""
        return told(self.doors, self._where(target), "platforms/model_sight.py", (verb, request), limit_s)

    def _where(self, target: Target) -> W:
        where = self._container(target)
        if where is None:
            raise PlatformError(f"{target.name} ({target.identity}) is gone")
        return where

    def accelerators(self, target: Target, fault: str, *, opencl: bool) -> JSON:
        """As a process of its own in the target's container sees them. Raises Unsupported without python3 there."""
        self._refuse_foreign(target)
        request = {"pids": self.pids(target), "fault": fault, "opencl": opencl}
        found = told(self.doors, self._where(target), program("saturate-gpu").name, ("look", request), DRIVER_S)
        return {**found, "where": INSIDE}

    def agent_look(self, target: Target, verb: str, parameters: JSON) -> str:
        request = {"fault": "look", "verb": verb, **parameters}
        return str(told(self.doors, self._where(target), program(verb).name, ("look", request), DIGEST_S)["refused"])

    def agent_seen(self, fault: str, target: Target) -> JSON | None:
        where = self._container(target)
        found: JSON | None = look(self.doors, where, "seen", {"prefix": prefix(fault, target)})["seen"] if where else None
        return found

    def _usage(self, where: W, identities: list[str]) -> Usage | None:
        used = look(self.doors, where, "usage", {"identities": identities})
        if not used["processes"]:
            return None
        return Usage(used["cpu_s"], used["waited_s"], used["age_s"], used["resident_bytes"])

    def _look(self, target: Target, verb: str, **request: object) -> JSON:
        return look(self.doors, self._where(target), verb, request)


def pid_of(process: JSON) -> int:
    return int(process["identity"].removeprefix("pid:").partition("@")[0])


def line_of(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    """A process and all above it, as far as they are seen."""
    while pid in parents:
        yield pid
        pid = parents[pid]
