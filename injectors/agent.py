"""Hold one fault beside its victim, and undo it whatever becomes of whoever asked for it.

    agent.py VERB REQUEST         REQUEST is JSON, or @FILE; standard input stays open for as long as the fault is to hold
    agent.py undo @STATE          from any process, as often as wished: end that agent and put back what it left
    agent.py renew @STATE         renew that agent's lease from another process
    agent.py look REQUEST         whether REQUEST, with its `verb`, would be refused: {"refused": WHY}; nothing is changed
    agent.py kill-tree -          nothing is held: says `ready`, takes REQUEST as one line of standard input, goes through to the end

REQUEST has `fault` (id), `state` (path of the undo record), `deadline_s`, `lease_s` (or null) and the verb's own fields. The
undo record is on disk before the fault starts. The fault ends when standard input closes, when the lease is not renewed (by a
line `renew`), when the deadline on CLOCK_MONOTONIC passes, or on SIGTERM, SIGINT, SIGHUP; the record is removed after the undo
succeeded. With `detached`, a closed standard input does not end it, and only the lease tells that nobody cares any more. Every line on standard output is a JSON object with `event`: effective, undone, refused (exit 3), failed (exit 1), foreign (exit 4: somebody
else changed what the fault had changed, and nothing was put back over it). What the clients of send-load were answered lies in STATE.seen
while the fault holds.

One file, Python 3.8 and the standard library only, and so longer than others: it is piped whole into containers that have
nothing but python3 (`python3 -c 'the bytes of this file' VERB REQUEST`).
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any, Callable, Dict, NamedTuple

LINUX = sys.platform.startswith("linux")
UNDO_S = 10.0  # how long an undo may take before another process does it instead; verbs with slower undos say so
Record = Dict[str, Any]  # plain JSON; what undo needs, and nothing else


class Refused(Exception):
    """Nothing was changed, and the message says why."""


class Failed(Exception):
    """The fault could not be held, or not be undone."""


class Foreign(Exception):
    """Somebody else changed what the fault had changed; it was left alone, and the record stays until a person has looked."""


class Ended(Exception):
    """The fault has to end before it was wholly in effect."""


# --- processes: a pid means something only together with its start time ---------------------------------------------------


def boot() -> str:
    """Start times count from the boot; after another one no recorded process is left."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as text:
            return text.read().strip()
    except OSError:
        return ""


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command: state, parent, group, ...; empty when there is no such process."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as stat:
            return stat.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return []


def start_and_state(pid: int) -> tuple[str, str]:
    """Start time (clock ticks since the boot; elsewhere than on Linux what ps says) and state letter; empty when it is gone."""
    if LINUX:
        fields = stat_of(pid)
        return ("", "") if not fields or fields[0] in "ZX" else (fields[19], fields[0])
    listed = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    state, _, start = listed.strip().partition(" ")
    return ("", "") if not state or state[0] in "Z" else ("-".join(start.split()), state[0])


def identity(pid: int) -> str:
    return "pid:%d@%s" % (pid, start_and_state(pid)[0])


def pid_of(name: str) -> int:
    """The pid of an identity `pid:PID@START`, or 0 when that process is gone (its pid may be another's by now)."""
    pid, _, start = name[len("pid:") :].partition("@")
    return int(pid) if start and start_and_state(int(pid))[0] == start else 0


def send(name: str, number: int) -> bool:
    """Signal exactly that process. The descriptor is opened before the identity is compared, so that it cannot be recycled."""
    pid = int(name[len("pid:") :].partition("@")[0])
    handle = -1
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            handle = os.pidfd_open(pid)  # novermin - asked for above
    try:
        if not pid_of(name):
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)  # type: ignore[attr-defined, unused-ignore]  # novermin
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    else:
        return True
    finally:
        if handle >= 0:
            os.close(handle)


def wait_gone(name: str, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while pid_of(name):
        with suppress(ChildProcessError, OSError):
            os.waitpid(int(name[len("pid:") :].partition("@")[0]), os.WNOHANG)
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def lineage() -> set[int]:
    """The agent and all above it: a fault that stops one of them could not be undone."""
    found, pid = {1, os.getpid()}, os.getppid()
    while pid > 1 and pid not in found:
        found.add(pid)
        if LINUX:
            pid = int((stat_of(pid) or ["", "0"])[1])
        else:
            listed = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
            pid = int(listed.strip() or 0)
    return found


def die_with_parent() -> None:
    """In a fresh child: the kernel kills it when the agent dies, however the agent dies (Linux)."""
    if LINUX:
        with suppress(ImportError, OSError, AttributeError):
            import ctypes  # noqa: PLC0415 - not every python3 in a container has it

            ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))


def forked(work: Callable[[], None]) -> int:
    """The pid of a child that does that work and ends with the agent (Linux).

    Whatever fails in it, the child does not return from here: it would take itself for the agent, and undo what the living one holds.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent()
        work()
        status = 0
    finally:
        os._exit(status)


# --- holding --------------------------------------------------------------------------------------------------------------


class Ending:
    """What ends the fault: a closed standard input, a lapsed lease, the deadline, a signal."""

    def __init__(self, deadline_s: float, lease_s: float | None) -> None:
        now = time.monotonic()
        self.detached, self.inputs = False, [0]
        self.deadline, self.lease_s = now + deadline_s, lease_s
        self.lease = now + lease_s if lease_s else None
        self.signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)

    def renew(self) -> None:
        if self.lease_s:
            self.lease = time.monotonic() + self.lease_s

    def wait(self, seconds: float | None = None) -> str:
        """Why the fault must end; empty when `seconds` have passed without a reason."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if now >= self.deadline:
                return "deadline"
            if self.lease is not None and now >= self.lease:
                return "lease lapsed"
            limits = [limit for limit in (self.deadline, self.lease, until) if limit is not None]
            ready = select.select([*self.inputs, self.signals], [], [], max(0.0, min(limits) - now))[0]
            if self.signals in ready:
                number = os.read(self.signals, 1)[0]
                if number != signal.SIGUSR1:
                    return "signal %d" % number
                self.renew()
            elif 0 in ready:
                said = os.read(0, 4096)
                if not said and not self.detached:
                    return "standard input closed"
                if b"renew" in said:
                    self.renew()
                self.inputs = [0] if said else []
            elif until is not None and time.monotonic() >= until:
                return ""


class Held:
    """The undo record on its way from `prepare` to the disk, and what may cut a slow `apply` short."""

    def __init__(self, path: str, body: Record, ending: Ending) -> None:
        self.path, self.body, self.ending = path, body, ending
        self.record: Record = body["record"]

    def keep(self) -> None:
        """Bring the record to the disk: the file is whole, or as it was before."""
        for path in copies(self.path, self.body):
            with open(path + ".new", "w", encoding="utf-8") as new:
                json.dump(self.body, new)
                new.flush()
                os.fsync(new.fileno())
            os.replace(path + ".new", path)
            folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def go_on(self, seconds: float = 0.0) -> None:
        reason = self.ending.wait(seconds)
        if reason:
            raise Ended(reason)


def copies(path: str, body: Record) -> list[str]:
    """Where the record lies: also beside what was changed, where that can outlive the folder of `path`."""
    return list(dict.fromkeys([*filter(None, [body["record"].get("beside")]), path]))


def forget(path: str, body: Record) -> None:
    """The record goes last: as long as it is there, somebody removes the rest."""
    names = [path + ".seen.new", path + ".seen"]
    for each in copies(path, body):
        names += [each + ".new", each]
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.remove(name)


def show(path: str, **facts: Any) -> None:
    """What was counted, for whoever looks; a disk that is full ends no fault."""
    with suppress(OSError):
        with open(path + ".seen.new", "w", encoding="utf-8") as new:
            json.dump({**facts, "t": time.monotonic()}, new)
        os.replace(path + ".seen.new", path + ".seen")


class Verb(NamedTuple):
    """`prepare` looks and refuses, `apply` does it and returns facts, `undo` works from the record alone and is idempotent."""

    prepare: Callable[[Record], Record]
    apply: Callable[[Record, Held], Record]
    undo: Callable[[Record], Record]


def emit(event: str, **facts: Any) -> None:
    with suppress(OSError):  # whoever listened may be dead; the fault is undone all the same
        os.write(1, (json.dumps({"event": event, **facts}) + "\n").encode("utf-8"))


def begin(name: str, request: Record, ending: Ending) -> Held:
    """Look, refuse or bring the undo record to the disk; nothing is changed yet."""
    path = request["state"]
    if os.path.exists(path):
        raise Refused("fault %s is already held here; its record is %s" % (request["fault"], path))
    record = VERBS[name].prepare(request)
    body = {"fault": request["fault"], "verb": name, "agent": identity(os.getpid()), "boot": boot()}
    held = Held(path, {**body, "undo_s": request.get("undo_s", UNDO_S), "record": record}, ending)
    try:
        held.keep()
    except OSError:
        forget(path, held.body)
        raise
    return held


def hold(name: str, request: Record) -> int:
    """Do it, wait for an ending, undo it. Returns the exit status."""
    ending = Ending(request["deadline_s"], request.get("lease_s"))
    try:
        held = begin(name, request, ending)
    except (Refused, OSError) as problem:
        emit("refused", why=str(problem))
        return 3
    reason = why = ""
    try:
        emit("effective", **VERBS[name].apply(request, held))
        ending.detached = bool(request.get("detached"))  # not before: whoever gave up waiting for it must not get it later
        reason = ending.wait()
    except Ended as ended:
        reason = str(ended)
    except Exception as problem:  # noqa: BLE001 - however the fault failed, what there is of it must be undone
        why = "%s: %s" % (type(problem).__name__, problem)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # nothing interrupts the undo but SIGKILL, and then the record is still there
    return put_back(held.path, held.body, reason, why)


def put_back(path: str, body: Record, reason: str, why: str = "") -> int:
    """Undo from the record, remove it, say so. `why`: the fault had failed before."""
    try:
        facts = VERBS[body["verb"]].undo(body["record"])
        forget(path, body)
    except Foreign as problem:
        emit("foreign", why=str(problem))
        return 4
    except Exception as problem:  # noqa: BLE001 - whatever it was, it is said, and the record stays for the next attempt
        emit("failed", why="could not be undone: %s%s" % (problem, why and "; and before that: " + why))
        return 1
    if why:
        emit("failed", why=why)
        return 1
    emit("undone", reason=reason, **facts)
    return 0


def undo(path: str) -> int:
    """End the agent of that record if it lives, and undo what it left. A record that is not there is success."""
    if path.endswith(".undo") and os.path.exists(path) and os.stat(path).st_uid != os.geteuid():
        emit("foreign", why="%s was written by another user, and is no record of ours; it was left alone" % path)
        return 4
    body = load(path)
    if body and body["boot"] == boot() and pid_of(body["agent"]):
        send(body["agent"], signal.SIGTERM)
        send(body["agent"], signal.SIGCONT)  # one that somebody stopped must hear it too
        if not wait_gone(body["agent"], body["undo_s"]):
            send(body["agent"], signal.SIGKILL)
            wait_gone(body["agent"], UNDO_S)
    try:
        with open(path, encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two of us must not run the same undo at once
            body = load(path)
            if body:
                return put_back(path, body, "undo")
    except FileNotFoundError:
        pass
    emit("undone", reason="nothing was left")
    return 0


def renew(path: str) -> int:
    """Tell the agent of that record that somebody still cares."""
    body = load(path)
    return 0 if body and send(body["agent"], signal.SIGUSR1) else 1


def load(path: str) -> Record:
    try:
        with open(path, encoding="utf-8") as text:
            body: Record = json.load(text)
            return body
    except FileNotFoundError:
        return {}


# --- stop-process: processes [identity, ...] ------------------------------------------------------------------------------


def stop_prepare(request: Record) -> Record:
    protected = lineage()
    for name in request["processes"]:
        pid = pid_of(name)
        if not pid:
            raise Refused("process %s is gone" % name)
        if pid in protected:
            raise Refused("process %d is above the agent or the init process; nothing could continue it" % pid)
        if start_and_state(pid)[1] in "Tt":
            raise Refused("process %d is stopped already, by somebody else" % pid)
    if not request["processes"]:
        raise Refused("no process was named")
    return {"processes": list(request["processes"])}


def stop_apply(request: Record, held: Held) -> Record:
    del request
    stopped = [name for name in held.record["processes"] if send(name, signal.SIGSTOP)]
    if not stopped:
        raise Failed("every process was gone before it could be stopped")
    while any(start_and_state(pid)[1] not in "Tt" for pid in map(pid_of, stopped) if pid):
        held.go_on(0.005)  # it stops when it next runs, or when a system call that cannot be interrupted returns
    return {"processes": stopped}


def stop_undo(record: Record) -> Record:
    return {"continued": [name for name in record["processes"] if send(name, signal.SIGCONT)]}


# --- burn-cpu: workers, share (0..1] --------------------------------------------------------------------------------------

BURN_PERIOD_S = 0.05


def burn_prepare(request: Record) -> Record:
    workers, share, most = request["workers"], request["share"], 16 * (os.cpu_count() or 1)
    if not 1 <= workers <= most:
        raise Refused("%d workers; 1 to %d make sense on this machine" % (workers, most))
    if not 0 < share <= 1:
        raise Refused("a share of %s; it lies above 0 and at most 1" % share)
    return {"processes": []}


def burn(gate: int, opener: int, share: float, parent: int) -> None:
    """In a worker: wait for the word, then compute for `share` of every period; ends with the agent."""
    os.close(opener)  # so that the gate reads as closed when the agent dies before it gave the word
    if not os.read(gate, 1):
        return
    while os.getppid() == parent:
        began = time.monotonic()
        while time.monotonic() - began < BURN_PERIOD_S * share:
            sum(range(500))
        time.sleep(max(0.0, began + BURN_PERIOD_S - time.monotonic()))


def burn_apply(request: Record, held: Held) -> Record:
    gate, opener = os.pipe()
    parent = os.getpid()
    for _ in range(request["workers"]):
        worker = forked(lambda: burn(gate, opener, request["share"], parent))
        held.record["processes"].append(identity(worker))
    held.keep()
    os.write(opener, b"!" * request["workers"])
    os.close(gate)
    os.close(opener)
    return {"processes": held.record["processes"]}


def burn_undo(record: Record) -> Record:
    for name in record["processes"]:
        send(name, signal.SIGKILL)
    left = [name for name in record["processes"] if not wait_gone(name, UNDO_S)]
    if left:
        raise Failed("workers are still there: %s" % ", ".join(left))
    return {"ended": record["processes"]}


# --- send-load: url, model, words, answer, clients, limit_s, pause_s ------------------------------------------------------

MOST_CLIENTS = 1024
BYTES_OF_WORD = 15  # "word " three times over: in the question, in its JSON and in what is sent
LITTLE = 16 << 20  # so much is taken even where nobody says what is available
START_S = 30.0  # clients that do not all stand by then never will
SEEN_EVERY_S = 0.25
STARTED = "started"


def load_prepare(request: Record) -> Record:
    clients, words = request["clients"], request["words"]
    if not 1 <= clients <= MOST_CLIENTS:
        raise Refused("%d clients; 1 to %d make sense from one process" % (clients, MOST_CLIENTS))
    needed = clients * words * BYTES_OF_WORD
    if needed > LITTLE:
        available = available_memory()
        most = available - memory_reserve(available)
        if needed > most:
            raise Refused(
                "%d clients with questions of %d words take %d bytes; of %d available ones at most %d can be taken, so that 10 %% and "
                "512 MiB stay free: ask for fewer clients or shorter questions"
                % (clients, words, needed, available, max(0, most))
            )
    return {"processes": []}


def answered(request: Record, opening: str) -> str:
    """The status of the answer to one question, which is read to its end."""
    from http.client import HTTPConnection, HTTPSConnection  # noqa: PLC0415 - no other verb needs them
    from urllib.parse import urlsplit  # noqa: PLC0415

    url = urlsplit(request["url"])
    connected = HTTPSConnection if url.scheme == "https" else HTTPConnection
    prompt = "%s %s" % (opening, "word " * request["words"])
    body = {"model": request["model"], "prompt": prompt, "max_tokens": request["answer"]}
    connection = connected(str(url.hostname), url.port, timeout=request["limit_s"])
    try:
        connection.request("POST", url.path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        while answer.read(65536):
            pass
        return str(answer.status)
    finally:
        connection.close()


def ask(request: Record, number: int, go: Any, got: Any) -> None:
    """One client, in a thread of its own: asks, says what it got, asks again; backs off after anything but an answer."""
    go.wait()
    asked = 0
    while True:
        asked += 1
        try:
            what = answered(request, "%d %d" % (number, asked))  # no two begin alike: nothing kept of one serves another
        except Exception as problem:  # noqa: BLE001 - a client that ended would be missed by nobody
            what = type(problem).__name__
        got.put(what)
        if what != "200":
            time.sleep(request["pause_s"])


def load_worker(request: Record, path: str, gate: int, tell: int) -> None:
    """In a process of its own, whose death ends all clients at once: for as long as the agent lives.

    Nobody is asked anything before all clients stand, or where one cannot be had: then `tell` says why.
    """
    import threading  # noqa: PLC0415 - no other verb needs them
    from queue import SimpleQueue  # noqa: PLC0415

    go, clients = threading.Event(), request["clients"]
    got: Any = SimpleQueue()
    for client in range(clients):
        try:
            threading.Thread(target=ask, args=(request, client, go, got), daemon=True).start()
        except (RuntimeError, MemoryError) as problem:
            os.write(tell, ("only %d of %d clients can be had: %s" % (client, clients, problem or "no memory")).encode("utf-8"))
            return
    os.write(tell, STARTED.encode("utf-8"))
    go.set()
    answers: dict[str, int] = {}
    while not select.select([gate], [], [], SEEN_EVERY_S)[0]:  # the agent never writes again: it can be read when that is gone
        for _ in range(got.qsize()):
            what = got.get()
            answers[what] = answers.get(what, 0) + 1
        show(path, answers=answers)


def set_to_work(held: Held, work: Callable[[int, int], None], what: str) -> None:
    """Return once a child that is on the record has begun with its work, `what` in words, by having written STARTED. Raises Failed.

    The work is given two pipes: `gate` reads a byte when it may begin, and as closed once the agent is gone; `tell` takes its one word.
    """
    gate, opener = os.pipe()
    told, tell = os.pipe()

    def begin_working() -> None:
        os.close(opener)
        os.close(told)
        if os.read(gate, 1):
            work(gate, tell)

    held.record["processes"].append(identity(forked(begin_working)))
    held.keep()
    os.close(tell)  # so that `told` reads as closed when the worker is gone
    os.write(opener, b"!")
    os.close(gate)
    limit = time.monotonic() + START_S
    while not select.select([told], [], [], 0)[0]:
        if time.monotonic() > limit:
            raise Failed("%s within %g s" % (what, START_S))
        held.go_on(0.005)
    said = os.read(told, 4096).decode("utf-8", "replace")
    os.close(told)
    if said != STARTED:
        raise Failed(said or "the process for it ended before %s" % what)


def load_apply(request: Record, held: Held) -> Record:
    what = "%d clients did not all stand" % request["clients"]
    set_to_work(held, lambda gate, tell: load_worker(request, held.path, gate, tell), what)
    return {"clients": request["clients"]}


# --- hold-memory: bytes ---------------------------------------------------------------------------------------------------

CHUNK = 16 << 20
MEMORY_RESERVE, MEMORY_RESERVE_SHARE = 512 << 20, 0.10
held_memory: list[mmap.mmap] = []


def number_in(path: str, key: str = "") -> int | None:
    """The number in a one-line file, or after `key` in a longer one; None when there is none (`max`)."""
    try:
        with open(path, encoding="ascii") as text:
            for line in text:
                if line.startswith(key):
                    word = line[len(key) :].split()[0]
                    return int(word) if word.isdigit() else None
    except (OSError, IndexError):
        pass
    return None


def available_memory() -> int:
    """Bytes that can be taken without swapping: of the machine, or of this container where that is less."""
    kib = number_in("/proc/meminfo", "MemAvailable:")
    if kib is None:
        raise Refused("this system does not say how much memory is available (no MemAvailable), so none is taken")
    found = [kib * 1024]
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, used = number_in(limit), number_in(usage)
        if most is not None and used is not None:
            found.append(max(0, most - used))
    return min(found)


def memory_reserve(available: int) -> int:
    return max(MEMORY_RESERVE, int(available * MEMORY_RESERVE_SHARE))


def memory_prepare(request: Record) -> Record:
    available = available_memory()
    most = available - memory_reserve(available)
    if not 0 < request["bytes"] <= most:
        raise Refused(
            "%d bytes are asked for; of %d available ones at most %d can be held, so that 10 %% and 512 MiB stay free"
            % (request["bytes"], available, max(0, most))
        )
    return {}


def memory_apply(request: Record, held: Held) -> Record:
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")  # should memory run out all the same, the kernel takes this process and not the victim
    reserve = memory_reserve(available_memory())
    memory = mmap.mmap(-1, request["bytes"])
    held_memory.append(memory)
    for offset in range(0, request["bytes"], CHUNK):
        held.go_on()
        if available_memory() - CHUNK < reserve // 2:
            raise Failed("memory ran short after %d of %d bytes: something else takes it as well" % (offset, request["bytes"]))
        end = min(offset + CHUNK, request["bytes"])
        memory[offset:end] = b"\x01" * (end - offset)
    return {"bytes": request["bytes"]}


def memory_undo(record: Record) -> Record:
    del record
    while held_memory:
        held_memory.pop().close()
    return {}


# --- fill-disk: folder, leave_bytes, max_bytes (or null) ------------------------------------------------------------------

DISK_RESERVE = 64 << 10
STATE_RESERVE = 64 << 20
DISK_CHUNK = 64 << 20


def free_bytes(folder: str) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize


def shared_places() -> dict[int, str]:
    """File systems that much else lives on, by device."""
    places = {"/": "/", "the home folder": os.path.expanduser("~"), "the working folder": os.getcwd()}
    places["the folder for temporary files"] = tempfile.gettempdir()
    return {os.stat(path).st_dev: name for name, path in reversed(list(places.items())) if os.path.exists(path)}


def fill_prepare(request: Record) -> Record:
    folder = os.path.realpath(request["folder"])
    if not os.path.isdir(folder):
        raise Refused("%s is not a folder" % folder)
    device, most, free = os.stat(folder).st_dev, request["max_bytes"], free_bytes(folder)
    leave = max(request["leave_bytes"], DISK_RESERVE)
    if device == os.stat(os.path.dirname(request["state"]) or ".").st_dev:
        leave = max(leave, STATE_RESERVE)  # the undo records lie there as well
    amount = free - leave
    if amount <= 0:
        raise Refused("%s has %d bytes free already, and %d are to be left" % (folder, free, leave))
    if most is None and device in shared_places():
        raise Refused(
            "%s lies on the file system of %s, which is not the service's own; mount a file system of a limited size there, or "
            "give the most bytes that may be written" % (folder, shared_places()[device])
        )
    if most is not None and amount > most:
        raise Refused("leaving %d bytes free in %s takes %d bytes, and at most %d may be written" % (leave, folder, amount, most))
    path = os.path.join(folder, "blackstart-%s.fill" % request["fault"].replace("/", "_"))
    if os.path.lexists(path):
        raise Refused("%s is there already" % path)
    return {"path": path, "beside": path + ".undo", "bytes": amount, "leave": leave, "inode": None}


def fill_apply(request: Record, held: Held) -> Record:
    del request
    path, left = held.record["path"], held.record["bytes"]
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        held.record["inode"] = os.fstat(handle).st_ino
        held.keep()
        offset = 0
        while offset < left:
            held.go_on()
            size = min(DISK_CHUNK, left - offset, free_bytes(os.path.dirname(path)) - held.record["leave"])
            if size <= 0:
                break  # somebody else took what was free
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, offset, size)
            else:
                os.pwrite(handle, b"\0" * size, offset)
            offset += size
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"path": path, "bytes": offset, "free": free_bytes(os.path.dirname(path))}


def fill_undo(record: Record) -> Record:
    try:
        found = os.lstat(record["path"])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    if record["inode"] not in (None, found.st_ino):
        raise Foreign("%s is not the file that was written here; it was left alone" % record["path"])
    os.unlink(record["path"])
    return {"removed": record["path"]}


# --- slow-file: paths, delay_s -------------------------------------------------------------------------------------------
#
# fanotify(7): whoever opens or reads a marked file waits in the kernel until a process with the group's descriptor lets it go on. When that
# process ends, however it ends, the kernel takes the marks away and lets all who wait go on.

ASK_TO_OPEN, ASK_TO_READ = 0x10000, 0x20000  # FAN_OPEN_PERM, FAN_ACCESS_PERM: linux/fanotify.h
GROUP = 0x4 | 0x1 | 0x10  # FAN_CLASS_CONTENT, FAN_CLOEXEC, FAN_UNLIMITED_QUEUE
ADD, HERE, ALLOW = 0x1, -100, 1  # FAN_MARK_ADD, AT_FDCWD, FAN_ALLOW
ASKED = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
MOST_WAITING, OWN_FILES = 4096, 64  # each that waits takes one of the worker's descriptors
BATCH = 64  # so many are heard at a time


def asked_first(paths: list[str]) -> int:
    """The descriptor of a group by which the kernel asks before anybody opens or reads one of these files. Raises Refused."""
    if not LINUX:
        raise Refused("slowing the reads of one file takes fanotify, which is Linux's own")
    try:
        import ctypes  # noqa: PLC0415 - not every python3 in a container has it
    except ImportError as problem:
        raise Refused("fanotify is reached through ctypes, which this python3 lacks: %s" % problem) from problem
    libc = ctypes.CDLL(None, use_errno=True)
    group = int(libc.fanotify_init(GROUP, os.O_RDONLY | os.O_CLOEXEC))
    if group < 0:
        why = os.strerror(ctypes.get_errno())
        raise Refused(
            "slowing the reads of one file takes fanotify's permission events, which the kernel gives to root alone (CAP_SYS_ADMIN), "
            "where it was built with them (CONFIG_FANOTIFY_ACCESS_PERMISSIONS): %s" % why
        )
    for path in paths:
        if libc.fanotify_mark(group, ADD, ctypes.c_uint64(ASK_TO_OPEN | ASK_TO_READ), HERE, os.fsencode(path)):
            why = os.strerror(ctypes.get_errno())
            os.close(group)
            raise Refused("the kernel cannot ask before %s is read: %s" % (path, why))
    return group


def slow_prepare(request: Record) -> Record:
    for path in request["paths"]:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused("%s is no regular file" % path)
    room_for_waiting()
    os.close(asked_first(request["paths"]))
    return {"processes": []}


def room_for_waiting() -> int:
    """How many can be kept waiting at a time: the kernel denies whoever it can give no descriptor for, and none may be denied. Raises Refused."""
    import resource  # noqa: PLC0415 - no other verb needs it

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = MOST_WAITING + OWN_FILES
    soft = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft - OWN_FILES < BATCH:
        raise Refused("at most %d files may be open here (ulimit -n), and %d are needed" % (hard, BATCH + OWN_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft - OWN_FILES


def slow_worker(request: Record, gate: int, tell: int) -> None:
    """In a process of its own: lets everybody go on, each after its delay, until the agent is gone or the deadline has come."""
    deadline = time.monotonic() + request["deadline_s"]  # by itself as well: an agent that somebody stopped would not say so
    try:
        group, room = asked_first(request["paths"]), room_for_waiting()
    except (Refused, OSError) as problem:
        os.write(tell, str(problem).encode("utf-8"))
        return
    waiting: list[tuple[float, int]] = []  # in the order of their moments, since all wait for the same time
    os.write(tell, STARTED.encode("utf-8"))
    while time.monotonic() < deadline:
        next_s = min([deadline, *(until for until, _ in waiting[:1])])
        heard = [gate, group] if len(waiting) + BATCH <= room else [gate]
        ready = select.select(heard, [], [], max(0.0, next_s - time.monotonic()))[0]
        if gate in ready:
            return
        if group in ready:
            until = time.monotonic() + request["delay_s"]
            waiting += [(until, handle) for handle in handles_in(os.read(group, BATCH * ASKED.size))]
        while waiting and waiting[0][0] <= time.monotonic():
            _, handle = waiting.pop(0)
            os.write(group, struct.pack("=iI", handle, ALLOW))
            os.close(handle)


def handles_in(said: bytes) -> list[int]:
    """Of each that asks, the descriptor that it is answered by."""
    found, at = [], 0
    while at < len(said):
        length, _, _, _, _, handle, _ = ASKED.unpack_from(said, at)
        found += [handle] if handle >= 0 else []
        at += length
    return found


def slow_apply(request: Record, held: Held) -> Record:
    set_to_work(held, lambda gate, tell: slow_worker(request, gate, tell), "the kernel did not ask")
    signal.signal(
        signal.SIGCHLD, lambda *_: None
    )  # wakes the agent: where its worker has died nobody waits, and the fault is over
    if not pid_of(held.record["processes"][0]):
        raise Failed("the process that answers the kernel ended at once")
    return {"paths": request["paths"]}


# --- hold-command: inject, recover (argument vectors), limit_s ------------------------------------------------------------

OUTPUT_KEPT = 4000


def run_command(argv: list[str], limit_s: float, go_on: Callable[[float], None]) -> tuple[int, str]:
    """Exit status and the end of the output; at the limit, or when the fault must end, its process group is killed."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the agent has one thread
        )
        limit = time.monotonic() + limit_s
        try:
            while process.poll() is None:
                if time.monotonic() > limit:
                    raise Failed("%s did not end within %g s" % (" ".join(argv), limit_s))
                go_on(0.005)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_KEPT))
        return process.returncode, output.read().decode("utf-8", "replace")


def command_prepare(request: Record) -> Record:
    for argv in (request["inject"], request["recover"]):
        if not argv or not shutil.which(argv[0]):
            raise Refused("%s is not a command here" % (argv[0] if argv else "nothing"))
    return {"recover": request["recover"], "limit_s": request["limit_s"], "folder": os.getcwd()}


def command_apply(request: Record, held: Held) -> Record:
    status, output = run_command(request["inject"], request["limit_s"], held.go_on)
    if status:
        raise Failed("%s exited with %d: %s" % (" ".join(request["inject"]), status, output.strip()[-500:]))
    return {"output": output}


def command_undo(record: Record) -> Record:
    os.chdir(record["folder"])
    status, output = run_command(record["recover"], record["limit_s"], time.sleep)
    if status:
        raise Failed("%s exited with %d: %s" % (" ".join(record["recover"]), status, output.strip()[-500:]))
    return {"output": output}


# --- kill-tree: processes [identity, ...], group (identity or null), spare, protected, start_by ----------------------------

FREEZE_LIMIT_S = 2.0  # one that does not stop by then is in the kernel, where it forks nothing either
KILL_LIMIT_S = 10.0
LOOK_EVERY_S = 0.002


class Entry(NamedTuple):
    parent: int
    group: int
    identity: str


def everybody() -> dict[int, Entry]:
    """Every live process by pid."""
    if LINUX:
        rows = [(int(name), stat_of(int(name))) for name in os.listdir("/proc") if name.isdigit()]
        return {
            pid: Entry(int(fields[1]), int(fields[2]), "pid:%d@%s" % (pid, fields[19]))
            for pid, fields in rows
            if fields and fields[0] not in "ZX"
        }
    command, found = ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,lstart="], {}
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        pid, parent, group, state, *start = line.split()
        if state[0] not in "ZX":
            found[int(pid)] = Entry(int(parent), int(group), "pid:%s@%s" % (pid, "-".join(start)))
    return found


def below(now: dict[int, Entry], roots: list[int], stop: set[int]) -> list[int]:
    """The roots and all below them, parents before children; what lies at or below a pid in `stop` is left out."""
    children: dict[int, list[int]] = {}
    for pid, entry in now.items():
        children.setdefault(entry.parent, []).append(pid)
    found, seen = list(roots), set(roots) | stop
    for pid in found:  # it grows while it is walked
        more = [child for child in children.get(pid, ()) if child not in seen]
        found += more
        seen.update(more)
    return found


def belonging(request: Record, doomed: list[str]) -> list[str]:
    """Who must die, by a look at this moment: all that is named or doomed, what is below it, and the orphans in its group."""
    now = everybody()
    pids = {entry.identity: pid for pid, entry in now.items()}
    spare = {pids[name] for name in request["spare"] if name in pids}
    protected = lineage() | {pids[name] for name in request["protected"] if name in pids}
    named = [pids[name] for name in dict.fromkeys(request["processes"] + doomed) if name in pids]
    found = below(now, named, spare | protected)
    leader = pids.get(request["group"], 0)
    if leader:
        outside = protected | set(found) | set(below(now, list(spare), {leader}))
        found += [pid for pid, entry in now.items() if entry.group == leader and pid not in outside]
    return [now[pid].identity for pid in found if pid not in protected]


def moving(name: str) -> bool:
    pid, _, start = name[len("pid:") :].partition("@")
    found, state = start_and_state(int(pid))
    return found == start and state not in "Tt"


def strike(names: list[str], number: int) -> None:
    """Whatever becomes of one of them, the others are signalled."""
    for name in names:
        with suppress(OSError):
            send(name, number)


def freeze_and_kill(request: Record) -> list[str]:
    """Frozen first, so that nothing can fork its way out between looking and killing. What was frozen is killed in any case."""
    doomed: list[str] = []
    limit = time.monotonic() + FREEZE_LIMIT_S
    try:
        while True:
            # Only a look at a tree that stood still before it says that nobody is missing.
            restless = [name for name in doomed if moving(name)]
            strike(restless, signal.SIGSTOP)
            known = set(doomed)
            fresh = [name for name in belonging(request, doomed) if name not in known]
            doomed += fresh
            strike(fresh, signal.SIGSTOP)
            if not (fresh or restless) or time.monotonic() > limit:
                return doomed
            time.sleep(LOOK_EVERY_S)
    finally:
        # Children first: at the death of a group's last outside parent the kernel continues its stopped members (SIGHUP, SIGCONT).
        strike(doomed[::-1], signal.SIGKILL)


def kill_refused(request: Record) -> str:
    """Why nothing may be touched; empty when nothing speaks against it."""
    protected = lineage()
    if time.monotonic() > request["start_by"]:
        return "it is too late: whoever asked does not count on it any more"
    for name in request["processes"]:
        if name in request["protected"] or pid_of(name) in protected:
            return "%s is blackstart, above it or the init process" % name
        try:
            send(name, 0)
        except OSError as problem:
            return "%s may not be signalled: %s" % (name, problem)
    return ""


def kill_tree() -> int:
    """Nothing happens before the request is there to its last byte; after that nothing but SIGKILL prevents the end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    emit("ready")
    line = sys.stdin.readline()
    why = "no request came" if not line.endswith("\n") else kill_refused(json.loads(line))
    if why:
        emit("refused", why=why)
        return 3
    try:
        doomed = freeze_and_kill(json.loads(line))
    except Exception as problem:  # noqa: BLE001 - what had been frozen is killed by now
        emit("failed", why="%s: %s" % (type(problem).__name__, problem))
        return 1
    limit = time.monotonic() + KILL_LIMIT_S
    left = doomed
    while left and time.monotonic() < limit:
        left = [name for name in left if pid_of(name)]
        time.sleep(LOOK_EVERY_S if left else 0)
    if left:
        emit("failed", why="still there %g s after SIGKILL: %s" % (KILL_LIMIT_S, ", ".join(left)))
        return 1
    emit("effective", processes=doomed)
    return 0


VERBS = {
    "stop-process": Verb(stop_prepare, stop_apply, stop_undo),
    "burn-cpu": Verb(burn_prepare, burn_apply, burn_undo),
    "send-load": Verb(load_prepare, load_apply, burn_undo),
    "hold-memory": Verb(memory_prepare, memory_apply, memory_undo),
    "fill-disk": Verb(fill_prepare, fill_apply, fill_undo),
    "slow-file": Verb(slow_prepare, slow_apply, burn_undo),
    "hold-command": Verb(command_prepare, command_apply, command_undo),
}


def look_ahead(request: Record) -> int:
    """Say whether this would be refused."""
    why = ""
    try:
        VERBS[request["verb"]].prepare(request)
    except (Refused, OSError) as problem:
        why = str(problem)
    sys.stdout.write(json.dumps({"refused": why}) + "\n")
    return 0


def main(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[0] == "undo" and arguments[1].startswith("@"):
        return undo(arguments[1][1:])
    if len(arguments) == 2 and arguments[0] == "renew" and arguments[1].startswith("@"):
        return renew(arguments[1][1:])
    if arguments == ["kill-tree", "-"]:
        return kill_tree()
    if len(arguments) == 2 and arguments[0] == "look":
        return look_ahead(json.loads(arguments[1]))
    if len(arguments) != 2 or arguments[0] not in VERBS:
        emit("refused", why="usage: agent.py %s REQUEST, agent.py undo @STATE or agent.py kill-tree -" % "|".join(VERBS))
        return 3
    text = arguments[1]
    if text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:
            text = file.read()
    return hold(arguments[0], json.loads(text))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
