"""Agents inside containers (exec_agents.py), by the engine's `exec`; and processes inside as this machine's /proc shows them."""

from dataclasses import dataclass

from ..values import JSON
from .base import Target
from .docker_exec import Room
from .docker_pause import process_of
from .exec_agents import ContainerAgents
from .process_table import command_line, descendants, snapshot

AT_HOME = "/host/pid:"  # in the identity of a process: its pid is this machine's, not the container's


@dataclass
class RoomAgents(ContainerAgents[Room]):
    """Those of one service."""

    def chosen(self, where: Room, target: Target, parameters: JSON) -> Room:
        """The one that is named, which is ours and beside it, or the target itself."""
        del target
        name = parameters.get("container")
        return Room(name, name) if name else where


def processes_at_home(container: JSON) -> list[JSON] | None:
    """The container's first process and all below it: `identity`, `command`; None where this machine does not see them."""
    main = process_of(container)
    if main is None:
        return None
    table = snapshot()
    pids = [main.pid, *descendants(table, main.pid)]
    return [{"identity": table[pid].identity, "command": command_line(pid)} for pid in pids if pid in table]
