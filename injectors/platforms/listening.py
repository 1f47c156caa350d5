"""Which processes listen on which TCP ports. Linux answers from /proc, other systems through `lsof`."""

import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress

from .base import PlatformError
from .process_table import LINUX, PROC

LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
HIDDEN = 0  # instead of a pid: somebody listens there, and whose socket it is may not be read
LOOKS, LOOK_AGAIN_S = 5, 0.02


def listeners(ports: Iterable[int]) -> Mapping[int, frozenset[int]]:
    """Which processes hold a listening TCP socket on each of these ports. HIDDEN stands for one that may not be read."""
    wanted = set(ports)
    if not wanted:
        return {}
    return _listeners_from_proc(wanted) if LINUX else _listeners_from_lsof(wanted)


def _listeners_from_proc(wanted: set[int]) -> Mapping[int, frozenset[int]]:
    """A socket that nobody holds is looked for again: whoever had it may be dying, and his descriptors are gone before it is."""
    for left in reversed(range(LOOKS)):
        found = _held(wanted)
        if all(found.values()) or not left:
            break
        time.sleep(LOOK_AGAIN_S)
    return {port: frozenset(pids or {HIDDEN}) for port, pids in found.items()}


def _held(wanted: set[int]) -> dict[int, set[int]]:
    port_of: dict[str, int] = {}
    for table in (PROC / "net/tcp", PROC / "net/tcp6"):
        for line in table.read_text(encoding="ascii").splitlines()[1:] if table.exists() else ():
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == LISTENING and port in wanted:
                port_of[f"socket:[{fields[9]}]"] = port
    found: dict[int, set[int]] = {port: set() for port in port_of.values()}
    for entry in os.scandir(PROC) if port_of else ():
        if entry.name.isdigit():
            for socket in _sockets(entry.path) & port_of.keys():
                found[port_of[socket]].add(int(entry.name))
    return found


def _sockets(process: str) -> set[str]:
    found = set()
    with suppress(OSError):
        for descriptor in os.scandir(f"{process}/fd"):
            with suppress(OSError):
                found.add(os.readlink(descriptor.path))  # noqa: PTH115 - thousands of them at each look
    return found


def _listeners_from_lsof(wanted: set[int]) -> Mapping[int, frozenset[int]]:
    command = ["lsof", "-nP", "-iTCP", "-sTCP:LISTEN", "-Fpn"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError as error:
        raise PlatformError("lsof is needed here to find a process by its port") from error
    found = parse_lsof(listed)
    return {port: pids for port, pids in found.items() if port in wanted}


def parse_lsof(listed: str) -> dict[int, frozenset[int]]:
    """Port to pids from the field output of lsof: `p123` begins a process, `n127.0.0.1:8000` or `n*:8000` is a socket of it."""
    found: dict[int, set[int]] = defaultdict(set)
    pid = 0
    for line in listed.splitlines():
        if line.startswith("p"):
            pid = int(line[1:])
        elif line.startswith("n") and line.rpartition(":")[2].isdigit():
            found[int(line.rpartition(":")[2])].add(pid)
    return {port: frozenset(pids) for port, pids in found.items()}
