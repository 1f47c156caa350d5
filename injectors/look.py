"""Look around inside a container, for proof past the agent that injected: `look.py VERB REQUEST`, one JSON line, then the end.

One file for Python 3.8 and the standard library: it is piped whole into containers that have nothing but python3. It changes
nothing, except that `signal` sends exactly one signal to exactly one process.
"""

import base64
import hashlib
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Dict, List

Request = Dict[str, Any]
PLACES = ("/tmp", "/dev/shm", "/var/tmp")  # noqa: S108 - where an agent may keep its undo record


def stat_of(pid: int) -> List[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stat:
            return stat.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return []


def process(pid: int) -> Request:
    """Identity, parent, state and command line; empty when it is dead."""
    fields = stat_of(pid)
    if not fields or fields[0] in "ZX":
        return {}
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as text:
            command = text.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        command = ""
    return {"identity": "pid:%d@%s" % (pid, fields[19]), "parent": int(fields[1]), "state": fields[0], "command": command[:1000]}


def around(_request: Request) -> Request:
    """Everything that can be seen from here, without this process and its parent in the exec."""
    mine = {os.getpid()}
    found = [process(int(name)) for name in os.listdir("/proc") if name.isdigit() and int(name) not in mine]
    found = [dict(each, may_signal=may_signal(each["identity"])) for each in found if each]
    places = [path for path in PLACES if os.path.isdir(path) and os.access(path, os.W_OK)]
    return {"processes": found, "places": places, "uid": os.getuid(), "cores": os.cpu_count()}


def pid_of(identity: str) -> int:
    pid, _, start = identity[len("pid:") :].partition("@")
    fields = stat_of(int(pid))
    return int(pid) if fields and fields[0] not in "ZX" and fields[19] == start else 0


def may_signal(identity: str) -> bool:
    """Whether this user's signals reach it: not where it is another's and the container lacks the capability KILL."""
    try:
        os.kill(int(identity[len("pid:") :].partition("@")[0]), 0)
    except OSError:
        return False
    return True


def states(request: Request) -> Request:
    """`running`, `stopped` or `gone` of each identity."""
    found = {}
    for identity in request["identities"]:
        pid = pid_of(identity)
        found[identity] = "gone" if not pid else "stopped" if stat_of(pid)[0] in "Tt" else "running"
    return {"states": found}


def usage(request: Request) -> Request:
    """CPU seconds, seconds in the run queue, age and resident bytes of the processes named and all below them."""
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    pids = [pid for pid in map(pid_of, request["identities"]) if pid]
    table = {int(name): stat_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    for pid in pids:  # it grows while it is walked
        pids += [child for child, fields in table.items() if fields and int(fields[1]) == pid and child not in pids]
    with open("/proc/uptime", encoding="ascii") as text:
        uptime = float(text.read().split()[0])
    cpu = waited = age = resident = 0.0
    for pid in pids:
        fields = table.get(pid) or []
        if not fields:
            continue
        cpu += (int(fields[11]) + int(fields[12])) / ticks
        age = max(age, uptime - int(fields[19]) / ticks)
        resident += int(fields[21]) * page
        waited += queued(pid)
    return {"processes": len(pids), "cpu_s": cpu, "waited_s": waited, "age_s": age, "resident_bytes": int(resident)}


def queued(pid: int) -> float:
    total = 0
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/schedstat" % (pid, task), encoding="ascii") as text:
                total += int(text.read().split()[1])
    except (OSError, IndexError):
        return 0.0
    return total / 1e9


def memory(_request: Request) -> Request:
    """What could still be had: of the machine, or of this container where that is less."""
    found = []
    with open("/proc/meminfo", encoding="ascii") as text:
        found += [int(line.split()[1]) * 1024 for line in text if line.startswith("MemAvailable:")]
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(most, encoding="ascii") as limit, open(used, encoding="ascii") as now:
                found.append(max(0, int(limit.read()) - int(now.read())))
        except (OSError, ValueError):
            continue
    return {"available_bytes": min(found) if found else None}


def space(request: Request) -> Request:
    found, writable = os.statvfs(request["path"]), os.access(request["path"], os.W_OK)
    return {"size_bytes": found.f_blocks * found.f_frsize, "free_bytes": found.f_bavail * found.f_frsize, "writable": writable}


def read(request: Request) -> Request:
    with open(request["path"], "rb") as file:
        return {"content": base64.b64encode(file.read(request["limit"])).decode("ascii")}


def ranges(request: Request) -> Request:
    """Parts of a file, each as [offset, length]; shorter where it ends."""
    with open(request["path"], "rb") as file:
        found = [os.pread(file.fileno(), length, offset) for offset, length in request["ranges"]]
    return {"contents": [base64.b64encode(each).decode("ascii") for each in found]}


def listing(request: Request) -> Request:
    """Names in a folder with their sizes; null: a folder, or what cannot be looked at."""
    found = {}
    for name in os.listdir(request["path"]):
        path = os.path.join(request["path"], name)
        found[name] = os.stat(path).st_size if os.path.isfile(path) else None
    return {"listing": found}


def listings(request: Request) -> Request:
    """The same of many folders; null for one that cannot be listed."""
    found = []
    for path in request["paths"]:
        try:
            found.append(listing({"path": path})["listing"])
        except OSError:
            found.append(None)
    return {"listings": found}


def digest(request: Request) -> Request:
    found = hashlib.sha256()
    with open(request["path"], "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            found.update(piece)
            end_if_told()
    return {"digest": "sha256:" + found.hexdigest()}


def end_if_told() -> None:
    """What takes long ends as soon as whoever piped this in is gone: it would read on inside the target."""
    if select.select([0], [], [], 0)[0] and not os.read(0, 1):
        raise OSError("told to end")


def exists(request: Request) -> Request:
    path = request["path"]
    there = os.path.lexists(path)
    found = os.stat(path) if os.path.exists(path) else None
    facts = {
        "mode": found.st_mode & 0o7777 if found else None,
        "changed_s": found.st_ctime if found else None,
        "inode": found.st_ino if found else None,
    }
    return {"exists": there, "real": os.path.realpath(path), **facts}


def send(request: Request) -> Request:
    pid = pid_of(request["identity"])
    if pid:
        os.kill(pid, request["number"])
    return {"sent": bool(pid)}


def records(request: Request) -> Request:
    """Undo records of agents whose name begins so, with what they say."""
    found = {}
    for place in PLACES:
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name.startswith(request["prefix"]) and name.endswith(".json"):
                with open(os.path.join(place, name), encoding="utf-8") as text:
                    found[os.path.join(place, name)] = json.load(text)
    return {"records": found}


def seen(request: Request) -> Request:
    """What an agent whose files begin so has measured, with its age; null: it keeps nothing."""
    found = None
    for place in PLACES:
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name.startswith(request["prefix"]) and name.endswith(".json.seen"):
                with suppress(FileNotFoundError), open(os.path.join(place, name), encoding="utf-8") as text:  # it ends just now
                    found = json.load(text)
    return {"seen": found and dict(found, age_s=time.monotonic() - found["t"])}


VERBS = {
    "around": around,
    "states": states,
    "usage": usage,
    "memory": memory,
    "space": space,
    "read": read,
    "ranges": ranges,
    "listing": listing,
    "listings": listings,
    "digest": digest,
    "exists": exists,
    "signal": send,
    "records": records,
    "seen": seen,
}


def main(arguments: List[str]) -> int:
    try:
        answer = VERBS[arguments[0]](json.loads(arguments[1]))
    except OSError as error:
        answer = {"error": "%s: %s" % (error.filename or arguments[0], error.strerror or error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
