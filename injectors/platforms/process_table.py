"""What the kernel says about local processes: who there is, below whom, using what (listening.py: who listens where).

A process is known by pid and start time together (`pid:1234@567890`), since a pid alone may be another's a moment later.
Linux answers from /proc, other systems through `ps`.
"""

import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .base import PlatformError

LINUX = sys.platform.startswith("linux")
PROC = Path("/proc")
DEAD = "ZX"  # a zombie is a gone process that nobody has asked about yet
ONE_LINE = bytes.maketrans(b"\0\n\r\t", b"    ")


@dataclass(frozen=True, slots=True)
class Process:
    """One live process. `start` is in clock ticks since the boot (elsewhere than on Linux what `ps` prints)."""

    pid: int
    parent: int
    group: int
    start: str
    state: str

    @property
    def identity(self) -> str:
        return f"pid:{self.pid}@{self.start}"

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"


@dataclass(frozen=True)
class Usage:
    """What processes have used since they began. `waited_s` is time spent ready to run without a core; None: not told here."""

    cpu_s: float
    waited_s: float | None
    age_s: float
    resident_bytes: int

    def __add__(self, other: "Usage") -> "Usage":
        waited_s = None if self.waited_s is None or other.waited_s is None else self.waited_s + other.waited_s
        age_s = max(self.age_s, other.age_s)
        return Usage(self.cpu_s + other.cpu_s, waited_s, age_s, self.resident_bytes + other.resident_bytes)


Table = Mapping[int, Process]


def snapshot() -> Table:
    """Every live process by pid."""
    if not LINUX:
        return from_ps()
    found = (_from_proc(int(entry.name)) for entry in os.scandir(PROC) if entry.name.isdigit())
    return {process.pid: process for process in found if process}


def from_ps(pid: int | None = None) -> Table:
    """The same through `ps`, for systems without /proc."""
    which = ["-A"] if pid is None else ["-p", str(pid)]
    command = ["ps", *which, "-o", "pid=,ppid=,pgid=,stat=,lstart="]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    table = {}
    for line in listed.splitlines():
        number, parent, group, state, *start = line.split()
        if state[0] not in DEAD:
            table[int(number)] = Process(int(number), int(parent), int(group), "-".join(start), state[0])
    return table


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; the second, the command, may contain anything."""
    try:
        return (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return []


def _from_proc(pid: int) -> Process | None:
    fields = _stat(pid)
    if not fields or fields[0] in DEAD:
        return None
    return Process(pid, int(fields[1]), int(fields[2]), fields[19], fields[0])


def split_identity(identity: str) -> tuple[int, str]:
    """Pid and start time of `pid:PID@START`."""
    found = re.fullmatch(r"pid:(\d+)@(.+)", identity)
    if not found:
        raise PlatformError(f"{identity!r} is not the identity of a local process")
    return int(found[1]), found[2]


def process_at(pid: int) -> Process | None:
    return _from_proc(pid) if LINUX else from_ps(pid).get(pid)


def alive(identity: str) -> Process | None:
    """That very process, or None when it is gone, whoever has its pid now."""
    pid, start = split_identity(identity)
    process = process_at(pid)
    return process if process and process.start == start else None


def send(identity: str, number: int) -> bool:
    """Signal that very process; False when it is gone.

    The pid is pinned by a descriptor before its start time is compared, so that it cannot become another's in between.
    """
    pid, _ = split_identity(identity)
    try:
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        return False
    try:
        if alive(identity) is None:
            return False
        if handle is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise PlatformError(f"process {pid} belongs to another user and may not be signalled") from error
    finally:
        if handle is not None:
            os.close(handle)
    return True


def command_line(pid: int) -> str:
    """The whole command line on one line, arguments joined by spaces; empty for a kernel thread or a process that is gone."""
    if not LINUX:
        return subprocess.run(
            ["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
        ).stdout.strip()
    with suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().translate(ONE_LINE).decode("utf-8", "replace").strip()
    return ""


def ancestors(table: Table, pid: int) -> list[int]:
    """Parent, grandparent, and so on up to the first that the table does not hold."""
    found: list[int] = []
    while pid in table and table[pid].parent in table and table[pid].parent not in found:
        pid = table[pid].parent
        found.append(pid)
    return found


def lineage(table: Table) -> frozenset[int]:
    """The process itself, all above it, and the init process: what no fault may ever hit."""
    return frozenset({0, 1, os.getpid(), *ancestors(table, os.getpid())})


def descendants(table: Table, root: int, stop: Collection[int] = ()) -> list[int]:
    """All below `root`, parents before children; what lies at or below a pid in `stop` is left out."""
    children = defaultdict(list)
    for process in table.values():
        children[process.parent].append(process.pid)
    found, queue = [], [root]
    while queue:
        below = [pid for pid in children[queue.pop(0)] if pid not in stop and pid not in found]
        found += below
        queue += below
    return found


def usage(identity: str) -> Usage | None:
    """What that process has used so far; None when it is gone. Sources: stat, statm and task/*/schedstat in /proc/PID, or ps."""
    process = alive(identity)
    if process is None:
        return None
    if not LINUX:
        return _usage_from_ps(process.pid)
    fields, ticks = _stat(process.pid), os.sysconf("SC_CLK_TCK")
    try:
        resident = int((PROC / str(process.pid) / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        threads = [task.read_text(encoding="ascii").split() for task in (PROC / str(process.pid) / "task").glob("*/schedstat")]
        uptime_s = float((PROC / "uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return None
    waited_s = sum(int(thread[1]) for thread in threads) / 1e9 if threads else None
    age_s = uptime_s - int(process.start) / ticks
    return Usage((int(fields[11]) + int(fields[12])) / ticks, waited_s, age_s, resident) if fields else None


def _usage_from_ps(pid: int) -> Usage | None:
    listed = subprocess.run(["ps", "-p", str(pid), "-o", "time=,etime=,rss="], capture_output=True, text=True, check=False).stdout
    if not listed.strip():
        return None
    cpu, age, resident = listed.split()
    return Usage(_seconds(cpu), None, _seconds(age), int(resident) * 1024)


def _seconds(clock: str) -> float:
    """`[[days-]hours:]minutes:seconds[.hundredths]` as ps prints it."""
    days, _, rest = clock.rpartition("-")
    total = 0.0
    for part in rest.split(":"):
        total = total * 60 + float(part)
    return total + 86400 * int(days or 0)


def started_at(process: Process) -> float | None:
    """Wall-clock time of its start in seconds since the epoch; None where start times are not in ticks."""
    if not LINUX:
        return None
    boot = re.search(r"^btime (\d+)$", (PROC / "stat").read_text(encoding="ascii"), re.MULTILINE)
    return int(boot[1]) + int(process.start) / os.sysconf("SC_CLK_TCK") if boot else None


def memory_available() -> int | None:
    """Bytes that can be had without swapping (MemAvailable in /proc/meminfo); None where the system does not say."""
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (PROC / "meminfo").read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None


def started_s(identity: str) -> float | None:
    """UNIX time at which that process started, by the kernel's boot time, which is told in whole seconds; None when it is gone."""
    process = alive(identity)
    if process is None or not LINUX:
        return None
    booted = next(line for line in (PROC / "stat").read_text(encoding="ascii").splitlines() if line.startswith("btime"))
    return int(booted.split()[1]) + int(process.start) / os.sysconf("SC_CLK_TCK")
