"""Break the network of a pod from inside its network namespace, hold that, and take it back whatever becomes of whoever asked.

    net_agent.py VERB REQUEST     cut, names or proxy; REQUEST is JSON, or @FILE; standard input stays open while the fault is to hold
    net_agent.py undo @STATE      from any process in that namespace, as often as wished: end that agent and put back what it left
    net_agent.py able -           nothing is held: one JSON line on what could be done here, tried with a table that is deleted again
    net_agent.py count REQUEST    the same on the counters of the table of `fault`
    net_agent.py sweep REQUEST    deletes the table of `fault` (of `-` every table named blackstart_*) in this namespace, and names it

The protocol is agent.py's: REQUEST has `fault` (id), `state` (path of the undo record), `deadline_s`, `lease_s` (or null),
`detached` and the verb's own fields; the fault ends when standard input closes (unless `detached`), when the lease lapses (a line
`renew` renews it), at the deadline, or on SIGTERM, SIGINT, SIGHUP. Lines on standard output have `event`: effective, undone,
refused (exit 3), failed (1), foreign (4). Needs CAP_NET_ADMIN and nft (1.0 or newer).

A fault is one nft table of its own, blackstart_ and 12 digits of the SHA-256 of its id; other tables are never touched. Its rules
hold only while an element of a set in it has not timed out, and every renewal of the lease renews that element: where the agent
was killed, be it with its container, the kernel itself lets go, 5 s after lease or deadline. What passes over loopback (but for
`names`) and IPv6's neighbour discovery are never touched.

    cut     drops packets, whatever their connection's state: established connections fall silent too, and go on after the undo.
            `peers` (addresses or CIDRs; empty: anybody), `but` (never touched; the node's, so that kubelet's probes pass), `ports`
            (the victim's TCP ports; empty: everything of every protocol), `direction` (seen from the victim: to, from, both).
            Ports and addresses are those on the wire, whatever is translated inside. UDP and ICMP senders in the victim get EPERM
            while `from` is cut, since the kernel tells them; to TCP it is silence.
    names   nobody here is answered from port 53, by UDP or TCP. The answers are dropped as they arrive and not the questions as
            they leave, since who asks would see EPERM at once and not the silence of a resolver that is away. Resolvers on loopback
            count as well.
    proxy   sends TCP connections through a transparent proxy.py: `program` (its text), `rule` (one of its rules), `peers`, `but`
            and `ports` as above, `sides`: `in` (what peers open to the victim's `ports`), `out` (what it opens to `ports` of peers).
            A server in the victim sees connections from the pod's own address. Connections that stood before are cut once, so that
            they come back through the proxy; where there is no `ss`, or the kernel cannot, they go on untouched, and the facts say
            so. The undo ends the proxy, and connections through it are reset with it: nothing is drained. A killed agent takes its
            rule along, and the proxy passes everything on until it ends 5 s after the deadline; where it was killed as well, new
            connections are refused until the kernel lets go. IPv6's link-local addresses are not redirected. All such proxies in a
            namespace share one mark, so that a connection meets one of them.

One file, Python 3.8 and the standard library only, and so longer than others: like the agent it is piped whole into containers
that have little more than python3.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import math
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any, Callable, Dict, List, NamedTuple, Set, Tuple, Union

UNDO_S = 10.0  # how long an undo may take before another process does it instead
SLACK_S = 5.0  # so much later than the agent itself the kernel lets go
COMMAND_S = 10.0
START_S = 20.0  # for the proxy, on a busy node
PATH_LIMIT = 50  # bytes of the folder that a control socket's folder is made in: the socket's whole path has at most 100
MARK = 0x62730001  # of the proxy's own connections
AT_ONCE = 50  # connections that one call of ss cuts
PREFIX = "blackstart_"
PROGRAMS = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
SYN = "tcp flags & (fin | syn | rst | ack) == syn"  # what stood before is seen in mid-stream, and goes on
NEIGHBOURS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept"
LINK_LOCAL = "ip6 daddr fe80::/10 accept"  # the kernel does not say through which interface such a connection was going
ALIVE = {"ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "LAST-ACK", "CLOSING"}
UNTOUCHED = "go on untouched"
Record = Dict[str, Any]  # plain JSON
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Refused(Exception):
    """Nothing was changed, and the message says why."""


class Failed(Exception):
    """The fault could not be held, or not be undone."""


class Foreign(Exception):
    """Somebody else changed what the fault had changed; it was left alone, and the record stays until a person has looked."""


class Ended(Exception):
    """The fault has to end before it was wholly in effect."""


# --- the firewall ---------------------------------------------------------------------------------------------------------


def command(name: str, arguments: List[str], text: str = "") -> str:
    """What a program prints. Raises Failed when it is not here or fails."""
    path = shutil.which(name, path=PROGRAMS)
    if not path:
        raise Failed("there is no program %s here" % name)
    try:
        done = subprocess.run([path, *arguments], input=text, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Failed("%s: %s" % (name, problem)) from None
    if done.returncode:
        raise Failed("%s: %s" % (name, " ".join(done.stderr.split())[:500] or "exit %d" % done.returncode))
    return done.stdout


def nft(lines: List[str]) -> None:
    """All of it or nothing."""
    command("nft", ["-f", "-"], "\n".join(lines) + "\n")


def table_of(fault: str) -> str:
    return PREFIX + hashlib.sha256(fault.encode("utf-8")).hexdigest()[:12]


def tables() -> List[Tuple[str, str]]:
    """(family, name) of every table in this namespace."""
    rows = [line.split() for line in command("nft", ["list", "tables"]).splitlines()]
    return [(row[1], row[2]) for row in rows if len(row) >= 3 and row[0] == "table"]


def counters(table: str) -> Record:
    listed = command("nft", ["list", "counters", "table", "inet", table])
    found = re.findall(r'counter "?(\w+)"? \{\s*packets (\d+) bytes (\d+)', listed)
    return {name: {"packets": int(packets), "bytes": int(size)} for name, packets, size in found}


def networks(request: Record, name: str) -> List[Network]:
    """Addresses and CIDRs without overlap, which nft would refuse; IPv4 in IPv6's clothes is IPv4 on the wire."""
    try:
        found = [ipaddress.ip_network(str(text), strict=False) for text in request.get(name) or ()]
    except ValueError as problem:
        raise Refused("%s: %s" % (name, problem)) from None
    for index, network in enumerate(found):
        if network.version == 6 and network.network_address.ipv4_mapped and network.prefixlen >= 96:
            found[index] = ipaddress.ip_network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    old = ipaddress.collapse_addresses([network for network in found if network.version == 4])
    return [*old, *ipaddress.collapse_addresses([network for network in found if network.version == 6])]


def ports_of(request: Record) -> List[int]:
    found = list(request.get("ports") or ())
    if any(isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 1 << 16 for port in found):
        raise Refused("ports are numbers from 1 to 65535, not %s" % found)
    return found


def others(found: List[Network], end: str) -> List[str]:
    """Matches on the other side's addresses, one for each family that there is."""
    families = (
        ("ip", [str(each) for each in found if each.version == 4]),
        ("ip6", [str(each) for each in found if each.version == 6]),
    )
    return ["%s %s { %s } " % (family, end, ", ".join(listed)) for family, listed in families if listed]


def chain(table: str, name: str, hook: str, passing: List[str], actions: List[str]) -> List[str]:
    """A chain with a counter of the same name: what passes first, then what is acted on, while the fault holds."""
    base = ["add counter inet %s %s" % (table, name), "add chain inet %s %s { type %s ; }" % (table, name, hook)]
    return base + ["add rule inet %s %s %s" % (table, name, rule) for rule in passing + actions]


def acting(held: str, peers: List[Network], end: str, match: str, action: str) -> List[str]:
    return ["meta nfproto @%s %s%s%s" % (held, other, match, action) for other in (others(peers, end) if peers else [""])]


def cut_chains(request: Record, record: Record) -> List[str]:
    """Before anything else sees what arrives, after everything else has seen what leaves: the wire's addresses and ports."""
    ports = ", ".join(map(str, ports_of(request)))
    peers, but = networks(request, "peers"), networks(request, "but")
    ends = (
        ("to", "iifname", "prerouting priority -300", "saddr", "dport"),
        ("from", "oifname", "postrouting priority 300", "daddr", "sport"),
    )
    lines = []
    for name, interface, hook, end, port in ends:
        if request.get("direction", "both") in ("both", name):
            passing = ['%s "lo" accept' % interface, NEIGHBOURS, *(other + "accept" for other in others(but, end))]
            match = "tcp %s { %s } " % (port, ports) if ports else ""
            actions = acting(record["held"], peers, end, match, "counter name %s drop" % name)
            lines += chain(record["table"], name, "filter hook " + hook, passing, actions)
    return lines


def names_chains(request: Record, record: Record) -> List[str]:
    """`asked` only counts: questions without answers are no proof of this fault, and none at all prove nothing."""
    del request
    drop = ["meta nfproto @%s meta l4proto { tcp, udp } th sport 53 counter name to drop" % record["held"]]
    count = ["meta l4proto { tcp, udp } th dport 53 counter name asked"]
    return chain(record["table"], "to", "filter hook prerouting priority -300", [], drop) + chain(
        record["table"], "asked", "filter hook output priority -300", [], count
    )


def proxy_chains(request: Record, record: Record, port: int) -> List[str]:
    """Only what opens a connection meets a nat chain, so that counters count connections."""
    ports = ", ".join(map(str, ports_of(request)))
    peers, but = networks(request, "peers"), networks(request, "but")
    match = SYN + (" tcp dport { %s } " % ports if ports else " ")
    lines = []
    if "in" in request["sides"]:
        passing = ['iifname "lo" accept', LINK_LOCAL, *(other + "accept" for other in others(but, "saddr"))]
        actions = acting(record["held"], peers, "saddr", match, "counter name in redirect to :%d" % port)
        lines += chain(record["table"], "in", "nat hook prerouting priority -100", passing, actions)
    if "out" in request["sides"]:
        passing = [
            "meta mark %d accept" % MARK,
            LINK_LOCAL,
            'oifname "lo" accept',
            *(other + "accept" for other in others(but, "daddr")),
        ]
        actions = acting(record["held"], peers, "daddr", match, "counter name out redirect to :%d" % port)
        lines += chain(record["table"], "out", "nat hook output priority -100", passing, actions)
    return lines


def holding(held: Held) -> str:
    """The command that makes the rules hold until a little after the agent's own end."""
    ending = held.ending
    limits = [limit for limit in (ending.deadline, ending.lease) if limit is not None]
    left = math.ceil(min(limits) - time.monotonic() + SLACK_S)
    elements = "{ ipv4 timeout %ds, ipv6 timeout %ds }" % (left, left)
    return "add element inet %s %s %s" % (held.record["table"], held.record["held"], elements)


def install(held: Held, chains: List[str]) -> None:
    table, name = held.record["table"], held.record["held"]
    nft(
        [
            "create table inet " + table,
            "add set inet %s %s { type nf_proto ; flags timeout ; }" % (table, name),
            holding(held),
            *chains,
        ]
    )
    held.ending.renewed = lambda: nft(["flush set inet %s %s" % (table, name), holding(held)])


# --- this namespace -------------------------------------------------------------------------------------------------------


def namespace() -> str:
    return os.readlink("/proc/self/ns/net")


def own_addresses() -> Tuple[List[str], List[str]]:
    """(loopback's, others') that can be listened on, without link-local ones, to which nothing is redirected."""
    with open("/proc/net/fib_trie", encoding="ascii") as text:
        found = re.findall(r"\|-- ([\d.]+)\n\s*/32 host LOCAL", text.read())
    with suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as text:  # not there without IPv6
        for line in text:
            digits, _, _, scope, flags, _ = line.split()
            if scope != "20" and not int(flags, 16) & 0x48:  # tentative or in conflict: not usable
                found.append(str(ipaddress.ip_address(bytes.fromhex(digits))))
    unique = sorted(set(found))
    own = [text for text in unique if not ipaddress.ip_address(text).is_loopback]
    return [text for text in ("127.0.0.1", "::1") if text in unique], own


class Connection(NamedTuple):
    local: Tuple[Address, int]
    peer: Tuple[Address, int]
    text: str  # as ss filters for it


def end_of(text: str) -> Tuple[Tuple[Address, int], str]:
    """An end as ss prints it, and as it is filtered for, without the interface."""
    host, _, port = text.rpartition(":")
    address = ipaddress.ip_address(host.partition("%")[0].strip("[]"))
    named = "[%s]:%s" if address.version == 6 else "%s:%s"
    return (getattr(address, "ipv4_mapped", None) or address, int(port)), named % (address, port)


def connections() -> Tuple[List[Connection], Set[int]]:
    """TCP connections in this namespace but the proxy's own, and the ports that are listened on."""
    found, listening = [], set()
    for line in command("ss", ["-tane"]).splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[0] == "LISTEN":
            listening.add(int(fields[3].rpartition(":")[2]))
        elif len(fields) >= 5 and fields[0] in ALIVE and "fwmark:0x%x" % MARK not in fields:
            (local, here), (peer, there) = end_of(fields[3]), end_of(fields[4])
            found.append(Connection(local, peer, "( src %s and dst %s )" % (here, there)))
    return found, listening


def cut_connections(chosen: List[Connection]) -> int:
    """How many of them are gone now. Their owners get an error, and the other side a reset."""
    for index in range(0, len(chosen), AT_ONCE):
        with suppress(Failed):  # it also fails for what has ended by itself in this moment; what counts is what is left
            command("ss", ["-Ktan", " or ".join(each.text for each in chosen[index : index + AT_ONCE])])
    left = {each.text for each in connections()[0]} if chosen else set()
    return sum(each.text not in left for each in chosen)


def affected(request: Record, port: int) -> List[Connection]:
    """The connections that would have gone through the proxy, had they begun now."""
    found, listening = connections()
    ports, peers, but = ports_of(request), networks(request, "peers"), networks(request, "but")
    own = {ipaddress.ip_address(text) for text in own_addresses()[1]}
    proxied = {each.peer for each in found if each.local[1] == port}  # they began a moment ago

    def meant(each: Connection) -> bool:
        address = each.peer[0]
        inside = address.is_loopback or address in own or each.local[1] == port or each.local in proxied
        spared = (address.version == 6 and address.is_link_local) or any(address in network for network in but)
        if inside or spared or not (not peers or any(address in network for network in peers)):
            return False
        incoming = "in" in request["sides"] and each.local[1] in (ports or listening)
        outgoing = "out" in request["sides"] and each.local[1] not in listening and (not ports or each.peer[1] in ports)
        return incoming or outgoing

    return [each for each in found if meant(each)]


def cut_established(request: Record, port: int) -> Record:
    try:
        chosen = affected(request, port)
        cut = cut_connections(chosen)
    except Failed as problem:
        return {"cut": 0, "established": UNTOUCHED, "why": str(problem)}
    if chosen and not cut:
        return {"cut": 0, "established": UNTOUCHED, "why": "ss -K cut none of %d; the kernel may lack it" % len(chosen)}
    return {"cut": cut, **({"left": len(chosen) - cut} if cut < len(chosen) else {})}


# --- the proxy ------------------------------------------------------------------------------------------------------------

channels: List[socket.socket] = []  # the rule ends with the connection that set it


def ask(channel: socket.socket, question: Record) -> Record:
    channel.settimeout(COMMAND_S)
    channel.sendall(json.dumps(question).encode("utf-8") + b"\n")
    with channel.makefile("rb") as answers:
        answer: Record = json.loads(answers.readline() or b'{"ok": false, "why": "the proxy is gone"}')
    return answer


def start_proxy(request: Record, held: Held) -> Record:
    """What the proxy says once it listens."""
    record = held.record
    os.mkdir(record["folder"], 0o700)
    loopback, own = own_addresses()
    listen = [*(loopback if "out" in request["sides"] else ()), *(own if "in" in request["sides"] else ())]
    arguments = ["--name", record["table"], "--transparent", str(MARK), "--for", str(request["deadline_s"] + SLACK_S)]
    for address in listen:
        arguments += ["--listen", ("[%s]:0" if ":" in address else "%s:0") % address]
    with open(os.path.join(record["folder"], "errors"), "w+b") as errors:
        child = subprocess.Popen(
            [sys.executable or "python3", "-I", "-S", "-c", request["program"], *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            env={**os.environ, "BLACKSTART_RUNTIME_DIR": record["folder"]},
            start_new_session=True,  # what ends the agent's group must not end it before its connections are told
        )
        record["proxy"] = identity(child.pid)
        held.keep()
        assert child.stdout is not None
        limit = time.monotonic() + START_S
        while not select.select([child.stdout], [], [], 0)[0]:
            held.go_on(0.01)
            if time.monotonic() > limit:
                raise Failed("the proxy does not listen after %g s" % START_S)
        line = child.stdout.readline()
        errors.seek(0)
        if not line:
            raise Failed("the proxy did not start: %s" % errors.read().decode("utf-8", "replace").strip()[-500:])
    ready: Record = json.loads(line)
    return ready


def set_rule(request: Record, held: Held, path: str) -> None:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channels.append(channel)
    channel.connect(path)
    left = held.ending.deadline - time.monotonic()
    answer = ask(channel, {"do": "set", "fault": request["fault"], "rule": request["rule"], "deadline_s": left})
    if not answer["ok"]:
        raise Failed("the proxy does not take the rule: %s" % answer["why"])


def clear_rule(record: Record) -> Record:
    """The rule's last counters, as far as the proxy still answers. What the rule held flows on."""
    with suppress(OSError, ValueError, KeyError):
        for name in os.listdir(record["folder"]):
            if name.endswith(".sock"):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                    channel.connect(os.path.join(record["folder"], name))
                    answer = ask(channel, {"do": "clear", "fault": record["fault"]})
                return {name: answer[name] for name in ("connections", "bytes_held", "bytes_delayed", "resets", "truncated")}
    return {}


# --- the verbs ------------------------------------------------------------------------------------------------------------


def prepare(request: Record) -> Record:
    """Look and refuse; the record says all that an undo needs."""
    if request.get("direction", "both") not in ("both", "to", "from"):
        raise Refused("direction is both, to or from, not %r" % request["direction"])
    for name in ("peers", "but"):
        networks(request, name)
    ports_of(request)
    table, mark = table_of(request["fault"]), secrets.token_hex(4)
    try:
        if ("inet", table) in tables():
            raise Refused("fault %s is already held in this network namespace: table %s is there" % (request["fault"], table))
    except Failed as problem:
        raise Refused(str(problem)) from None
    return {
        "fault": request["fault"],
        "table": table,
        "held": "held_" + mark,  # by this name of a set the table is known as our own
        "namespace": namespace(),
        "boot": boot(),
        "proxy": "",
        "folder": "",
    }


def proxy_prepare(request: Record) -> Record:
    sides, record = request["sides"], prepare(request)
    if not sides or not set(sides) <= {"in", "out"}:
        raise Refused("sides are in, out or both, not %r" % (sides,))
    folder = os.path.dirname(os.path.abspath(request["state"]))
    if len(os.fsencode(folder)) > PATH_LIMIT:
        folder = tempfile.gettempdir()
    record["folder"] = os.path.join(folder, record["table"] + record["held"][4:])
    return record


def cut_apply(request: Record, held: Held) -> Record:
    install(held, cut_chains(request, held.record))
    return {"table": held.record["table"]}


def names_apply(request: Record, held: Held) -> Record:
    install(held, names_chains(request, held.record))
    return {"table": held.record["table"]}


def proxy_apply(request: Record, held: Held) -> Record:
    """The rule first, so that no connection goes through a proxy without one."""
    ready = start_proxy(request, held)
    set_rule(request, held, ready["control"])
    install(held, proxy_chains(request, held.record, ready["port"]))
    return {"table": held.record["table"], "port": ready["port"], **cut_established(request, ready["port"])}


def restore(record: Record) -> Record:
    """Undo from the record alone, idempotent."""
    table, facts = record["table"], {"table": record["table"]}
    if record["boot"] == boot() and record["namespace"] != namespace():
        raise Failed("the fault is in network namespace %s, and this is %s" % (record["namespace"], namespace()))
    there = ("inet", table) in tables()
    ours = there and "set %s {" % record["held"] in command("nft", ["list", "sets", "table", "inet", table])
    if record["folder"]:
        facts["rule"] = clear_rule(record)
        if ours:
            # What stands is translated on, so that the proxy's resets arrive.
            nft(["flush set inet %s %s" % (table, record["held"])])
        if record["proxy"] and not end_process(record["proxy"], signal.SIGTERM, SLACK_S):
            end_process(record["proxy"], signal.SIGKILL, SLACK_S)
    if there and not ours:
        raise Foreign("table %s is not the one that was made here; it was left alone" % table)
    if ours:
        facts["counters"] = counters(table)
        nft(["delete table inet " + table])
    with suppress(FileNotFoundError):
        if record["folder"]:
            shutil.rmtree(record["folder"])
    return facts


class Verb(NamedTuple):
    prepare: Callable[[Record], Record]
    apply: Callable[[Record, Any], Record]


VERBS = {"cut": Verb(prepare, cut_apply), "names": Verb(prepare, names_apply), "proxy": Verb(proxy_prepare, proxy_apply)}


# --- verbs that hold nothing ----------------------------------------------------------------------------------------------


def able(request: Record) -> Record:
    """`why` says what is missing for each thing that cannot be done."""
    del request
    why: List[str] = []

    def tried(what: Callable[[], Any]) -> Any:
        try:
            return what() or True
        except (Failed, OSError) as problem:
            why.append(str(problem))
            return False

    record = {"table": PREFIX + "able_" + secrets.token_hex(4), "held": "held"}
    wanted = {"peers": ["192.0.2.1"], "sides": ["in", "out"]}
    begin_ = ["create table inet " + record["table"], "add set inet %(table)s held { type nf_proto ; flags timeout ; }" % record]
    version = tried(lambda: re.findall(r"v[\d.]+|$", command("nft", ["--version"]))[0])
    admin = bool(version) and tried(lambda: nft(begin_ + cut_chains(wanted, record)))
    redirect = admin and tried(lambda: nft(proxy_chains(wanted, record, 9))) and tried(try_mark)
    if admin:
        nft(["delete table inet " + record["table"]])
    return {"nft": version or None, "admin": admin, "redirect": redirect, "cut_established": tried(try_cutting), "why": why}


def try_mark() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)


def try_cutting() -> None:
    """On a connection of our own, to ourselves."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with socket.create_connection(listener.getsockname(), COMMAND_S) as probe:
            ends = (*probe.getsockname(), *probe.getpeername())
            command("ss", ["-Ktan", "src %s:%d and dst %s:%d" % ends])
            try:
                probe.send(b"?")
            except ConnectionError:
                return
    raise Failed("ss -K does not cut connections here")


def count(request: Record) -> Record:
    table = table_of(request["fault"])
    there = ("inet", table) in tables()
    return {"there": there, "table": table, "counters": counters(table) if there else {}}


def sweep(request: Record) -> Record:
    prefix = table_of(request["fault"]) if "fault" in request else PREFIX
    found = [(family, name) for family, name in tables() if name.startswith(prefix)]
    for family, name in found:
        nft(["delete table %s %s" % (family, name)])
    return {"swept": [name for _, name in found]}


LOOKS = {"able": able, "count": count, "sweep": sweep}


# --- processes and holding, as in agent.py --------------------------------------------------------------------------------


def boot() -> str:
    """Start times count from the boot; after another one no recorded process is left."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as text:
        return text.read().strip()


def start_of(pid: int) -> str:
    """Start time in clock ticks since the boot; empty when the process is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as text:
            fields = text.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def identity(pid: int) -> str:
    return "pid:%d@%s" % (pid, start_of(pid))


def pid_of(name: str) -> int:
    """The pid of an identity `pid:PID@START`, or 0 when that process is gone (its pid may be another's by now)."""
    pid, _, start = name[len("pid:") :].partition("@")
    return int(pid) if start and start_of(int(pid)) == start else 0


def end_process(name: str, number: int, seconds: float) -> bool:
    """Signal that very process and wait for its end."""
    pid = pid_of(name)
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)  # one that somebody stopped must hear it too
    limit = time.monotonic() + seconds
    while pid_of(name):
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


class Ending:
    """What ends the fault: a closed standard input, a lapsed lease, the deadline, a signal."""

    def __init__(self, deadline_s: float, lease_s: float | None) -> None:
        now = time.monotonic()
        self.detached, self.inputs = False, [0]
        self.deadline, self.lease_s = now + deadline_s, lease_s
        self.lease = now + lease_s if lease_s else None
        self.renewed: Callable[[], None] = lambda: None
        self.signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)

    def renew(self) -> None:
        if self.lease_s:
            self.lease = time.monotonic() + self.lease_s
            self.renewed()

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
        with open(self.path + ".new", "w", encoding="utf-8") as new:
            json.dump(self.body, new)
            new.flush()
            os.fsync(new.fileno())
        os.replace(self.path + ".new", self.path)
        folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def go_on(self, seconds: float = 0.0) -> None:
        reason = self.ending.wait(seconds)
        if reason:
            raise Ended(reason)


def say(facts: Record) -> None:
    with suppress(OSError):  # whoever listened may be dead; the fault is undone all the same
        os.write(1, (json.dumps(facts) + "\n").encode("utf-8"))


def emit(event: str, **facts: Any) -> None:
    say({"event": event, **facts})


def begin(name: str, request: Record, ending: Ending) -> Held:
    """Look, refuse or bring the undo record to the disk; nothing is changed yet."""
    path = request["state"]
    if os.path.exists(path):
        raise Refused("fault %s is already held here; its record is %s" % (request["fault"], path))
    record = VERBS[name].prepare(request)
    body = {"fault": request["fault"], "verb": name, "agent": identity(os.getpid()), "boot": boot()}
    held = Held(path, {**body, "undo_s": request.get("undo_s", UNDO_S), "record": record}, ending)
    held.keep()
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
        facts = restore(body["record"])
        os.remove(path)
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
    body = load(path)
    if body and body["boot"] == boot() and not end_process(body["agent"], signal.SIGTERM, body["undo_s"]):
        end_process(body["agent"], signal.SIGKILL, UNDO_S)
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


def load(path: str) -> Record:
    try:
        with open(path, encoding="utf-8") as text:
            body: Record = json.load(text)
            return body
    except FileNotFoundError:
        return {}


def main(arguments: List[str]) -> int:
    if len(arguments) == 2 and arguments[0] == "undo" and arguments[1].startswith("@"):
        return undo(arguments[1][1:])
    if len(arguments) != 2 or arguments[0] not in {**VERBS, **LOOKS}:
        emit("refused", why="usage: net_agent.py %s REQUEST, net_agent.py undo @STATE" % "|".join({**VERBS, **LOOKS}))
        return 3
    text = arguments[1]
    if text.startswith("@"):
        with open(text[1:], encoding="utf-8") as file:
            text = file.read()
    request = {} if text == "-" else json.loads(text)
    if arguments[0] in VERBS:
        return hold(arguments[0], request)
    try:
        say(LOOKS[arguments[0]](request))
    except Failed as problem:
        emit("failed", why=str(problem))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
