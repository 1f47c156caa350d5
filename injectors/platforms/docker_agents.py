"""Agents inside containers (exec_agents.py), by the engine's `exec`; and processes inside as this machine's /proc shows them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..values import JSON
from .base import PlatformError, Target, Unsupported
from .docker_exec import Room
from .docker_pause import process_of
from .exec_agents import ContainerAgents
from .process_table import command_line, descendants, send, snapshot

AT_HOME = "/host/pid:"  # in the identity of a process: its pid is this machine's, not the container's


@dataclass
class RoomAgents(ContainerAgents[Room]):
    """Those of one service."""

    def chosen(self, where: Room, target: Target, parameters: JSON) -> Room:
        """The one that is named, which is ours and beside it, or the target itself."""
        del target
        name = parameters.get("container")
        return Room(name, name) if name else where


def refuse_foreign_processes(target: Target, container: JSON) -> None:
    """Raises Unsupported where what is seen inside is not all the container's own: a role would find others' processes as well."""
    if sees_others(container):
        whose = "the engine's machine" if container["HostConfig"]["PidMode"] == "host" else "another container"
        raise Unsupported(f"{target.name} sees the processes of {whose} as its own, so a role could hit others'")


def sees_others(container: JSON | None) -> bool:
    """Whether it has no table of processes of its own."""
    mode = str(container["HostConfig"].get("PidMode") or "") if container else ""
    return mode == "host" or mode.startswith("container:")


def barred(target: Target, found: Sequence[JSON]) -> str:
    """Why signals from inside the container do not reach all of these; empty: they do."""
    if any(each["identity"].startswith("pid:1@") for each in found):
        return f"{target.name}: its first process ignores signals from inside; use replica-kill, or process-hang without `role`"
    if theirs := ", ".join(each["identity"] for each in found if not each["may_signal"]):
        return f"{target.name}: {theirs} is another user's, and the container lacks the capability KILL, which signals to it take"
    return ""


def matching_at_home(container: JSON, pattern: re.Pattern[str], why: str) -> list[JSON]:
    """Of the container's first process and all below it: `identity`, `command`. Raises Unsupported where this machine does not see them,
    with `why` it was asked; or where this user may not signal them.
    """
    main = process_of(container)
    if main is None:
        raise Unsupported(why)
    table = snapshot()
    pids = [main.pid, *descendants(table, main.pid)]
    seen = [{"identity": table[pid].identity, "command": command_line(pid)} for pid in pids if pid in table]
    found = [each for each in seen if pattern.search(each["command"])]
    for each in found:
        try:
            send(each["identity"], 0)
        except PlatformError as error:
            raise Unsupported(f"{why}; nor can it be signalled from this machine: {error}") from error
    return found
