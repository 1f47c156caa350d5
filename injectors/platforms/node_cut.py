"""Cut a node off from everything, for a time that the kernel keeps. It runs in a pod of ours in the node's own network namespace.

    node_cut.py hold REQUEST    the pod's first process; REQUEST: {"table": NAME, "for_s": S, "armed_s": S, "word": PATH}
    node_cut.py armed           from another process there: waits until it could begin; one JSON line: armed, or refused with `why`
    node_cut.py go              begin, half a second from now, so that whoever says so still hears the answer; unless it is over
    node_cut.py end             end it now, whatever it is at

The fault is one nft table of its own; other tables are never touched. It is put there whole while it still matches nothing (that is
`armed`: this node can do it). Its rules hold only while an element of a set in it has not timed out, and `go` adds that element once,
with the fault's whole time: at its end the kernel itself lets go, to the second, whatever has been killed meanwhile. Nobody can reach the
node to end it, so nothing renews it. Then the table is deleted and the last word written to `word`, which the kubelet hands on.
A process that is killed is started again by the kubelet, finds the table, waits for the kernel, and deletes it.

What is cut: all that comes in or goes out by an interface that leads off the node, whatever its connection's state: one that is backed by
hardware, or by which a default route or another machine as a gateway is reached, and so also what tunnels go through. What passes over
loopback, and between the node and its own pods, goes on, as it does when a cable is pulled: a kubelet that could not reach its pods any
more would restart them. Senders on the node get EPERM for UDP, since the kernel tells them; to TCP it is silence. A network that sends
packets past netfilter (XDP, eBPF host routing) may let its pods' own packets through; the node itself is cut off all the same.

One file, Python 3.8 and the standard library only, because it is handed to the pod as an argument. Needs CAP_NET_ADMIN and nft.
"""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import json
import math
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, Set, Tuple

HOME = os.environ.get("BLACKSTART_CUT_DIR", "/tmp")  # noqa: S108 - a volume of the pod's own, which outlives its processes
ARMED, GO, END, BEGUN = (os.path.join(HOME, "blackstart-" + name) for name in ("armed", "go", "end", "begun"))
HEARD_S, LOOK_S, AGAIN_S, COMMAND_S, ARMED_LIMIT_S = 0.5, 0.1, 0.5, 10.0, 15.0
LATE_S = 0.2  # after the kernel has let go
PROGRAMS = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
GATEWAY, REJECT = 0x2, 0x200  # flags of a route
NET = "/sys/class/net"
Record = Dict[str, Any]  # plain JSON


class Failed(Exception):
    """It cannot be done here, or not be undone."""


# --- the firewall ---


def nft(*words: str, text: str = "") -> str:
    """What it prints. Raises Failed when it is not here or refuses."""
    path = shutil.which("nft", path=PROGRAMS)
    if not path:
        raise Failed("there is no program nft in this image")
    try:
        done = subprocess.run([path, *words], input=text, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Failed("nft: %s" % problem) from None
    if done.returncode:
        raise Failed("nft: %s" % (" ".join(done.stderr.split())[:500] or "exit %d" % done.returncode))
    return done.stdout


def there(table: str) -> bool:
    return ["table", "inet", table] in [line.split()[:3] for line in nft("list", "tables").splitlines()]


def holds(table: str) -> bool:
    """Whether the kernel still drops: what has timed out is not listed."""
    return "elements" in nft("list", "set", "inet", table, "held")


def counted(table: str) -> Record:
    found = re.findall(r'counter "?(\w+)"? \{\s*packets (\d+) bytes (\d+)', nft("list", "counters", "table", "inet", table))
    return {name: {"packets": int(packets), "bytes": int(size)} for name, packets, size in found}


def arm(table: str, interfaces: List[str]) -> None:
    """Before anything else sees what arrives, after everything else has seen what leaves."""
    lines = ["create table inet " + table, "add set inet %s held { type nf_proto ; flags timeout ; }" % table]
    named = ", ".join('"%s"' % name for name in interfaces)
    for name, hook, interface in (
        ("arriving", "prerouting priority -300", "iifname"),
        ("leaving", "postrouting priority 300", "oifname"),
    ):
        lines += [
            "add counter inet %s %s" % (table, name),
            "add chain inet %s %s { type filter hook %s ; }" % (table, name, hook),
            "add rule inet %s %s meta nfproto @held %s { %s } counter name %s drop" % (table, name, interface, named, name),
        ]
    nft("-f", "-", text="\n".join(lines) + "\n")


def cut(table: str, seconds: float) -> None:
    left = math.ceil(seconds)
    nft("-f", "-", text="add element inet %s held { ipv4 timeout %ds, ipv6 timeout %ds }\n" % (table, left, left))


# --- what leads off this node ---


def own_addresses() -> Set[str]:
    with open("/proc/net/fib_trie", encoding="ascii") as text:
        found = set(re.findall(r"\|-- ([\d.]+)\n\s*/32 host LOCAL", text.read()))
    with contextlib.suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as text:  # not there without IPv6
        found |= {str(ipaddress.ip_address(bytes.fromhex(line.split()[0]))) for line in text}
    return found


def routes() -> List[Tuple[str, bool, str]]:
    """(interface, whether it is a default route, gateway or empty) of every route."""
    found = []
    with open("/proc/net/route", encoding="ascii") as text:
        for row in [line.split() for line in text][1:]:
            gateway = str(ipaddress.ip_address(bytes.fromhex(row[2])[::-1])) if int(row[3], 16) & GATEWAY else ""
            found.append((row[0], row[1] == row[7] == "0" * 8, gateway))
    with contextlib.suppress(OSError), open("/proc/net/ipv6_route", encoding="ascii") as text:
        for row in [line.split() for line in text]:
            gateway = str(ipaddress.ip_address(bytes.fromhex(row[4]))) if int(row[8], 16) & GATEWAY else ""
            if not int(row[8], 16) & REJECT:
                found.append((row[9], row[1] == "00" and row[0] == "0" * 32, gateway))
    return found


def hardware(name: str) -> bool:
    """Whether there is a device below it: its own, or that of what it is stacked on."""
    below = [path.partition("/lower_")[2] for path in glob.glob("%s/%s/lower_*" % (NET, name))]
    return os.path.exists("%s/%s/device" % (NET, name)) or any(map(hardware, below))


def uplinks() -> List[str]:
    own = own_addresses()
    found = {name for name, default, gateway in routes() if default or (gateway and gateway not in own)}
    found |= {name for name in os.listdir(NET) if hardware(name)}
    if not found - {"lo"}:
        raise Failed("no interface that leads off this node was found")
    return sorted(found - {"lo"})


# --- holding ---


class Bell:
    """Signals and files by which this is told to stop or to begin."""

    def __init__(self) -> None:
        self.stopped = ""
        self.hear, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)  # as a pod's first process it would ignore them

    def wait(self, seconds: float, name: str = "") -> bool:
        """Whether that file came, or this was told to stop, before so much time had passed."""
        limit = time.monotonic() + seconds
        while not self.stopped and not (name and os.path.exists(name)):
            left = limit - time.monotonic()
            if left <= 0:
                return False
            if select.select([self.hear], [], [], min(LOOK_S, left))[0]:
                self.stopped = "signal %d" % os.read(self.hear, 1)[0]
            elif os.path.exists(END):
                self.stopped = "it was told to end"
        return True


def write(path: str, content: Record) -> None:
    with open(path + ".new", "w", encoding="utf-8") as new:
        json.dump(content, new)
    os.replace(path + ".new", path)


def finish(request: Record, reason: str, **facts: Any) -> int:
    """The table goes, and then the last word is said: it is not there any more. Raises Failed where it could not be deleted."""
    table = request["table"]
    word: Record = {"event": "undone", "reason": reason, "table": table, **facts}
    if there(table):
        word["counters"] = counted(table)
        nft("delete", "table", "inet", table)
    if os.path.exists(BEGUN):
        with open(BEGUN, encoding="utf-8") as text:
            begun = json.load(text)
        word["interfaces"], word["cut"] = begun["interfaces"], begun["wall"]
        word["held_s"] = round(min(max(0.0, time.monotonic() - begun["monotonic"]), request["for_s"]), 3)  # by the kernel
        word["back"] = round(begun["wall"] + word["held_s"], 3)
    said = json.dumps(word)
    with contextlib.suppress(OSError), open(request["word"], "w", encoding="utf-8") as text:
        text.write(said)
    say(said)
    return 0


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, (text + "\n").encode("utf-8"))


def hold(request: Record) -> int:
    bell, table = Bell(), request["table"]
    try:
        if there(table) or os.path.exists(GO):
            return succeed(request, bell)
        interfaces = uplinks()
        arm(table, interfaces)
    except (Failed, OSError) as problem:
        write(ARMED, {"event": "refused", "why": str(problem)})
        bell.wait(request["armed_s"])
        with contextlib.suppress(Failed):  # without nft there is no table
            finish(request, "it was never begun: %s" % problem)
        return 0
    write(ARMED, {"event": "armed", "interfaces": interfaces})
    bell.wait(request["armed_s"], GO)
    if not os.path.exists(GO) or bell.wait(HEARD_S):
        return finish(request, "it was never begun: %s" % (bell.stopped or "nobody said so in time"))
    write(BEGUN, {"wall": round(time.time(), 3), "monotonic": time.monotonic(), "interfaces": interfaces})
    try:
        cut(table, request["for_s"])
    except Failed as problem:
        return finish(request, "it could not be begun: %s" % problem)
    bell.wait(request["for_s"] + LATE_S)
    return finish(request, bell.stopped or "its time is over")


def succeed(request: Record, bell: Bell) -> int:
    """In place of one that was killed: wait for the kernel, and clear up."""
    table = request["table"]
    write(ARMED, {"event": "refused", "why": "what held it was killed"})
    while there(table) and holds(table) and not bell.wait(AGAIN_S):
        pass
    return finish(request, bell.stopped or "what held it was killed, and the kernel let go", killed=True)


# --- from another process ---


def armed() -> int:
    limit = time.monotonic() + ARMED_LIMIT_S
    while not os.path.exists(ARMED):
        if time.monotonic() > limit:
            say(json.dumps({"event": "refused", "why": "it is not armed after %g s" % ARMED_LIMIT_S}))
            return 0
        time.sleep(LOOK_S)
    with open(ARMED, encoding="utf-8") as text:
        say(text.read())
    return 0


def mark(path: str) -> int:
    write(path, {})
    say(json.dumps({"event": "noted"}))
    return 0


def main(arguments: List[str]) -> int:
    if arguments[0] == "hold":
        return hold(json.loads(arguments[1]))
    if arguments[0] == "armed":
        return armed()
    return mark({"go": GO, "end": END}[arguments[0]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
