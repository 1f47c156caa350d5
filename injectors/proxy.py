"""The link proxy: stands in one TCP path between two components and, while a rule asks for it, breaks that path.

    python3 proxy.py --name gw-r0 --listen 127.0.0.1:9001 --to 127.0.0.1:8001 [--tied] [--with-parent] [--for SECONDS]
    python3 proxy.py --name r0 --listen 127.0.0.1:0 --listen 10.0.0.7:0 --transparent MARK [...]

One process for one link; standard library only, Python 3.8 or newer, Linux and macOS; one file and longer than others because
it also runs where nothing else of blackstart is installed. It listens on loopback addresses only (but see below) and prints one
JSON line, `{"event": "ready", ...}`, once it does. It ends on SIGTERM or SIGINT, with `--tied` when standard input closes, with
`--with-parent` (Linux) when the process that started it dies, with `--for` after so many seconds.

Transparent (Linux)
-------------------
With `--transparent` in place of `--to`, connections are sent here by redirect rules of the firewall (net_agent.py makes them),
and each goes on to where it was going (SO_ORIGINAL_DST). What the proxy opens itself carries MARK (SO_MARK, which needs
CAP_NET_ADMIN), so that the rules can let it pass. A redirect of what arrives leads to the address of the interface, so in this
mode, and only in it, addresses of the network may be listened on, each named by `--listen`, never all of them (0.0.0.0, ::).
Several listen at one port: the first one's, where the others say 0. A connection that nobody redirected is reset: to the
network this is no open door. When the proxy ends, its connections are reset, since they cannot go on without it and an orderly
end would pass for the end of an answer. The component sees them come from its own host, not from the client.

Control
-------
A unix socket `link-<first listen port>.sock` in the runtime folder ($BLACKSTART_RUNTIME_DIR, else $XDG_RUNTIME_DIR/blackstart, else
/tmp/blackstart-<uid>; 0700, the socket 0600). One JSON object a line in, one out, `{"ok": true, ...}` or `{"ok": false, "why": ...}`:

    {"do": "set", "fault": ID, "rule": {...}, "deadline_s": S}    {"do": "clear", "fault": ID}    {"do": "list"}    {"do": "ping"}

A rule ends at its deadline (monotonic clock of this process), when the connection that set it closes, or when anybody clears
it, whichever is first; nothing of it outlives this process.

Rules
-----
`{"type": "partition", "direction": "both" | "to" | "from"}`
    Bytes in that direction (`to`: towards the component behind the link) are not read, and flow on unchanged after the heal, as
    retransmission would deliver them. While `to` is cut nobody is connected to the component. How this differs from dropped
    packets: the kernel has accepted the connection before this process sees it, so that a prober meets a connection that opens
    and stays silent (a timeout before the first byte), never a connect timeout; with `from` alone the request of a new
    connection does arrive. A connection that opened during the cut and whose client has gone again is dropped, as its SYN would
    have been, so that the heal does not deliver questions whose askers gave up.
`{"type": "delay", "delay_s": D, "jitter_s": J}`
    Every byte arrives D seconds later, plus or minus J at random, in each direction (a round trip: 2 D); the order is kept.
`{"type": "reset", "after_bytes": N | null}`
    RST to both ends: at once and on every new connection (null), or in place of the answer's byte N + 1.
`{"type": "stall", "after_bytes": N}`
    After N bytes of answer nothing more of it flows until the rule ends; then it flows on.
`{"type": "truncate", "after_bytes": N}`
    An orderly end (FIN) in place of the answer's byte N + 1.
`{"type": "refuse"}`
    New connections are reset at once. The kernel has accepted them by then, so a client sees a reset, not a refusal; the same
    holds, without any rule, where the component behind refuses: its refusal is passed on as a reset.

Answers are counted from the moment of the rule on connections that are older. Counters of a rule: `connections` that it hit,
`bytes_held` (the most at one moment), `bytes_delayed`, `resets`, `truncated`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import ipaddress
import json
import math
import os
import random
import resource
import select
import signal
import socket
import stat
import struct
import sys
import termios
from collections import OrderedDict, deque
from typing import Any, Mapping

CHUNK = 64 * 1024  # read at once
HELD_LIMIT = 256 * 1024  # bytes of one direction kept here before its source is no longer read
DELAY_LIMIT = 8 * 1024 * 1024  # the same under a delay, so that the delay does not also throttle
SWEEP_S = 0.25  # how often held bytes are measured and silent leavers dropped, while a rule is on
DRAIN_S = 0.5  # how long a reset waits for the bytes before it to be acknowledged
LINGER_S = 1.0  # how long a truncated client may take to close its side
LINE_LIMIT = 64 * 1024  # of a control request
SOCKET_PATH_LIMIT = 100  # bytes; the kernel takes 103 (macOS) or 107 (Linux)
REMEMBERED = 32  # ended rules whose counters can still be asked for
KINDS = ("partition", "delay", "reset", "stall", "truncate", "refuse")
TCP_OUTQ = 0x5411  # SIOCOUTQ, Linux: bytes sent and not yet acknowledged
SO_MARK = 36  # Linux; Python names it on Linux alone
SO_ORIGINAL_DST = 80  # netfilter's, on the level of either IP
PORT_TRIES = 20  # a free port of the first address may be taken on another one


class BadRequest(Exception):
    """A control request that cannot be carried out; its text is the answer's `why`."""


class Refused(Exception):
    """The proxy cannot start here."""


class NotRedirected(Exception):
    """A connection that came to the transparent proxy itself, and so has nowhere to go on to."""


def number(rule: dict[str, Any], name: str, default: float | None = None) -> float:
    value = rule.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise BadRequest(f"{name} must be a number, 0 or more, not {value!r}")
    return value


class Rule:
    """One fault's rule on the link, with what it did so far."""

    def __init__(self, fault: str, wanted: Any) -> None:
        if not isinstance(wanted, dict) or wanted.get("type") not in KINDS:
            raise BadRequest(f"rule must be an object whose type is one of {', '.join(KINDS)}")
        self.fault = fault
        self.kind = wanted["type"]
        known = {"partition": {"direction"}, "delay": {"delay_s", "jitter_s"}, "refuse": set()}.get(self.kind, {"after_bytes"})
        unknown = set(wanted) - known - {"type"}
        if unknown:
            raise BadRequest(f"a rule of type {self.kind} does not know {', '.join(sorted(unknown))}")
        self.direction = wanted.get("direction", "both")
        if self.direction not in ("both", "to", "from"):
            raise BadRequest(f"direction must be both, to or from, not {self.direction!r}")
        self.delay_s = number(wanted, "delay_s") if self.kind == "delay" else 0.0
        self.jitter_s = number(wanted, "jitter_s", 0.0)
        counted = self.kind in ("stall", "truncate") or wanted.get("after_bytes") is not None
        self.after = int(number(wanted, "after_bytes", 0)) if counted else None  # bytes of answer before it takes effect
        self.wanted = wanted
        self.deadline = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.counters = {"connections": 0, "bytes_held": 0, "bytes_delayed": 0, "resets": 0, "truncated": 0}

    def cuts(self, direction: str) -> bool:
        return self.kind == "partition" and self.direction in ("both", direction)

    def hit(self, connection: Connection) -> None:
        if self not in connection.hit_by:
            connection.hit_by.add(self)
            self.counters["connections"] += 1

    def describe(self, now: float) -> dict[str, Any]:
        left = max(0.0, self.deadline - now)
        return dict(self.counters, fault=self.fault, rule=self.wanted, left_s=round(left, 3))


class Flow:
    """One direction of a connection: what was read from `source` and is not yet written to `sink`.

    `chunks` holds (moment of release, bytes) in the order of arrival, in which they also leave; empty bytes stand for the end of the stream, so that the end keeps its place.
    """

    def __init__(self, connection: Connection, direction: str, source: socket.socket, sink: socket.socket) -> None:
        self.connection = connection
        self.link = connection.link
        self.direction = direction
        self.source = source
        self.sink = sink
        self.started = False
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.passed = 0
        self.ended = self.done = self.full = False
        self.reading = self.writing = False
        self.timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.started = True
        self.update()

    def bound(self) -> tuple[int, Rule] | None:
        """(bytes that may still pass, the rule that says so), or None without such a rule."""
        tightest: tuple[int, Rule] | None = None
        if self.direction == "from":
            for rule, limit in self.connection.limits.items():
                room = max(0, limit - self.passed)
                if tightest is None or room < tightest[0]:
                    tightest = room, rule
        return tightest

    def held_by(self) -> Rule | None:
        """The rule that keeps this direction silent now, or None."""
        for rule in self.link.cutting:
            if rule.cuts(self.direction):
                return rule
        bound = self.bound()
        return bound[1] if bound is not None and bound[0] == 0 and bound[1].kind == "stall" else None

    def read(self) -> None:
        try:
            data = self.source.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.connection.abort()
            return
        if not data:
            self.ended = True
        release = 0.0
        for rule in self.link.delaying:
            rule.hit(self.connection)
            rule.counters["bytes_delayed"] += len(data)
            late = rule.delay_s + rule.jitter_s * random.uniform(-1.0, 1.0)  # noqa: S311 - jitter is no secret
            release = max(release, self.link.loop.time()) + max(0.0, late)
        self.chunks.append((release, data))
        self.size += len(data)
        self.write()

    def write(self) -> None:
        """Pass on whatever may pass now, then say what to wait for."""
        self.full = False
        while self.chunks and not self.full and not self.connection.closing:
            release, data = self.chunks[0]
            if (release and release > self.link.loop.time()) or (self.link.rules and self.stopped(data)):
                break
            if data:
                self.send(release, data)
            else:
                self.finish()
        self.update()

    def stopped(self, data: bytes) -> bool:
        """Whether a rule keeps the next chunk; a rule that ends the answer here does so."""
        rule = self.held_by()
        if rule is not None:
            rule.hit(self.connection)
            return True
        bound = self.bound()
        if bound is None or bound[0] > 0 or not data:
            return False
        bound[1].hit(self.connection)
        self.connection.end_answer(bound[1])
        return True

    def send(self, release: float, data: bytes) -> None:
        bound = self.bound()
        piece = data if bound is None else data[: bound[0]]
        try:
            sent = self.sink.send(piece)
        except (BlockingIOError, InterruptedError):
            self.full = True
            return
        except OSError:
            self.connection.abort()
            return
        self.passed += sent
        self.size -= sent
        if sent == len(data):
            self.chunks.popleft()
        else:
            self.chunks[0] = (release, data[sent:])
            self.full = sent < len(piece)

    def finish(self) -> None:
        """The end of this direction, in its place; with the other one ended too, closing says the same."""
        self.chunks.popleft()
        self.done = True
        if self.connection.to.done and self.connection.back.done:
            self.connection.close()
            return
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.connection.abort()

    def update(self) -> None:
        """Watch the sockets for just what this direction can use now; nothing is watched that would wake us in vain."""
        if self.connection.closing:
            return
        held = self.link.rules and self.held_by() is not None
        limit = DELAY_LIMIT if self.link.delaying else HELD_LIMIT
        self.watch_source(not self.ended and not held and self.size < limit)
        wait = self.chunks[0][0] - self.link.loop.time() if self.chunks and self.chunks[0][0] else 0.0
        self.watch_sink(bool(self.chunks) and self.full and not held and wait <= 0)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if wait > 0 and not held:
            self.timer = self.link.loop.call_later(wait, self.write)

    def watch_source(self, wanted: bool) -> None:
        if wanted != self.reading:
            self.reading = wanted
            if wanted:
                self.link.loop.add_reader(self.source.fileno(), self.read)
            else:
                self.link.loop.remove_reader(self.source.fileno())

    def watch_sink(self, wanted: bool) -> None:
        if wanted != self.writing:
            self.writing = wanted
            if wanted:
                self.link.loop.add_writer(self.sink.fileno(), self.write)
            else:
                self.link.loop.remove_writer(self.sink.fileno())

    def stop(self) -> None:
        self.watch_source(False)
        self.watch_sink(False)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def release_all(self) -> None:
        """A delay is over: what it still kept flows at once."""
        self.chunks = deque((0.0, data) for _, data in self.chunks)


class Connection:
    """A client's connection and the one to the component that belongs to it."""

    def __init__(self, link: Link, client: socket.socket) -> None:
        self.link = link
        self.client = client
        family, self.target = link.target or original_destination(client)
        self.server = socket.socket(family, socket.SOCK_STREAM)
        self.server.setblocking(False)
        if link.mark:
            self.server.setsockopt(socket.SOL_SOCKET, SO_MARK, link.mark)
        self.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connecting = False
        self.closing = False
        self.hit_by: set[Rule] = set()
        self.limits: dict[Rule, int] = {}  # rule -> how many bytes of answer, all in all, pass under it
        self.to = Flow(self, "to", client, self.server)
        self.back = Flow(self, "from", self.server, client)

    def open(self) -> None:
        """Connect to the component behind the link."""
        try:
            self.server.connect(self.target)
        except (BlockingIOError, InterruptedError):
            self.connecting = True
            self.link.loop.add_writer(self.server.fileno(), self.connected)
        except OSError:
            self.abort()
        else:
            self.start()

    def connected(self) -> None:
        self.link.loop.remove_writer(self.server.fileno())
        self.connecting = False
        if self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
        else:
            self.start()

    def start(self) -> None:
        self.to.start()
        self.back.start()

    def refresh(self) -> None:
        """Rules have changed."""
        if self.to.started and not self.closing:
            self.to.write()
            self.back.write()

    def held(self, direction: str) -> int:
        """Bytes of that direction that wait: in this process and in the kernel's buffer of the socket that is not read."""
        flow = self.to if direction == "to" else self.back
        unread = 0 if self.closing else asked(flow.source, termios.FIONREAD)
        return flow.size + unread

    def end_answer(self, rule: Rule) -> None:
        """Nothing more of the answer passes: a reset as soon as what went before it has arrived, or an orderly end."""
        self.freeze()
        if rule.kind == "reset":
            self.reset_when_sent(rule, self.link.loop.time() + DRAIN_S)
            return
        rule.counters["truncated"] += 1
        abort_socket(self.server)
        try:
            self.client.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.link.loop.add_reader(self.client.fileno(), self.discard)
        self.link.loop.call_later(LINGER_S, self.close)

    def discard(self) -> None:
        """Closing with unread bytes would send a reset: read them away until the client closes."""
        try:
            if self.client.recv(CHUNK):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.close()

    def reset_when_sent(self, rule: Rule, deadline: float) -> None:
        if unsent(self.client) and self.link.loop.time() < deadline:
            self.link.loop.call_later(0.005, self.reset_when_sent, rule, deadline)
            return
        rule.counters["resets"] += 1
        self.abort()

    def freeze(self) -> None:
        """Stop watching; the sockets stay open."""
        self.to.stop()
        self.back.stop()
        if self.connecting:
            self.connecting = False
            self.link.loop.remove_writer(self.server.fileno())
        self.closing = True

    def abort(self) -> None:
        """End both sides with a reset."""
        self.freeze()
        abort_socket(self.client)
        abort_socket(self.server)
        self.link.forget(self)

    def close(self) -> None:
        self.freeze()
        if self.client.fileno() >= 0:
            self.link.loop.remove_reader(self.client.fileno())
        self.client.close()
        self.server.close()
        self.link.forget(self)

    def left(self) -> bool:
        """Whether the client of a connection that was never passed on has gone again (Linux; elsewhere unknown: no)."""
        if not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(self.client.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))


def abort_socket(sock: socket.socket) -> None:
    if sock.fileno() < 0:
        return
    with contextlib.suppress(OSError):  # already reset by its peer
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def asked(sock: socket.socket, what: int) -> int:
    """One number that the kernel knows about a socket; 0 where it does not tell."""
    try:
        answer: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), what, b"\0" * 4))[0]
    except (OSError, ValueError):
        return 0
    return answer


def unsent(sock: socket.socket) -> int:
    """Bytes that the peer's kernel has not acknowledged yet; 0 where this system does not tell."""
    return asked(sock, TCP_OUTQ) if sys.platform.startswith("linux") else 0


def original_destination(client: socket.socket) -> tuple[int, Any]:
    """Family and address that a redirected connection was opened to. Raises NotRedirected."""
    own = client.getsockname()
    try:
        if client.family == socket.AF_INET6:
            raw = client.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            host, scope = socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack("=I", raw[24:28])[0]
            address: tuple[Any, ...] = (host, struct.unpack("!H", raw[2:4])[0], 0, scope)
        else:
            raw = client.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            address = (socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack("!H", raw[2:4])[0])
    except OSError as error:
        raise NotRedirected(str(error)) from error
    if address[:2] == own[:2]:
        raise NotRedirected("it was opened to this proxy")
    return client.family, address


class Link:
    """The listeners, their connections and the rules in force. `target` is None where each connection has its own (transparent)."""

    def __init__(self, name: str, listeners: list[socket.socket], target: tuple[int, Any] | None, mark: int) -> None:
        self.name = name
        self.listeners = listeners
        self.target = target
        self.mark = mark
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.waiting: list[Connection] = []  # accepted during a cut, not connected to the component yet
        self.rules: OrderedDict[str, Rule] = OrderedDict()
        self.ended: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.cutting: list[Rule] = []
        self.delaying: list[Rule] = []
        self.sweeper: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        for listener in self.listeners:
            if listener.fileno() >= 0:
                self.loop.add_reader(listener.fileno(), self.accept, listener)

    def accept(self, listener: socket.socket) -> None:
        """One newcomer; the event loop calls again at once while there are more."""
        client = None
        try:
            client, _ = listener.accept()
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, client)
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except (OSError, NotRedirected) as error:
            if client is not None:
                abort_socket(client)
            if isinstance(error, OSError):  # out of descriptors: the kernel's queue keeps the newcomers until some are free again
                self.loop.remove_reader(listener.fileno())
                self.loop.call_later(0.1, self.listen)
            return
        self.admit(connection)

    def admit(self, connection: Connection) -> None:
        self.connections.add(connection)
        for rule in list(self.rules.values()):
            self.meet(rule, connection, new=True)
        if connection.closing:
            return
        if any(rule.cuts("to") for rule in self.cutting):
            self.waiting.append(connection)
        else:
            connection.open()

    def meet(self, rule: Rule, connection: Connection, new: bool) -> None:
        """A rule and a connection come together, whichever was there first."""
        if connection.closing:
            return
        if rule.after is not None:
            connection.limits[rule] = connection.back.passed + rule.after
        elif rule.kind == "partition":
            rule.hit(connection)
        elif rule.kind == "reset" or (rule.kind == "refuse" and new):
            rule.hit(connection)
            rule.counters["resets"] += 1
            connection.abort()

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def index(self) -> None:
        """Sort the rules by what the byte path has to look at; with no rule it looks at nothing."""
        rules = list(self.rules.values())
        self.cutting = [rule for rule in rules if rule.kind == "partition"]
        self.delaying = [rule for rule in rules if rule.kind == "delay"]
        if rules and self.sweeper is None:
            self.sweep()

    def begin(self, fault: str, wanted: Any, deadline_s: float) -> Rule:
        if fault in self.rules:
            raise BadRequest(f"fault {fault} has a rule on this link already")
        rule = Rule(fault, wanted)
        rule.deadline = self.loop.time() + deadline_s
        rule.timer = self.loop.call_at(rule.deadline, self.end, rule, "deadline")
        self.rules[fault] = rule
        self.index()
        for connection in list(self.connections):
            self.meet(rule, connection, new=False)
            connection.refresh()
        return rule

    def end(self, rule: Rule, why: str) -> bool:
        """Take the rule away; what it held flows on. Returns False where it was gone already."""
        if self.rules.get(rule.fault) is not rule:
            return False
        self.measure()
        del self.rules[rule.fault]
        if rule.timer is not None:
            rule.timer.cancel()
        self.ended[rule.fault] = dict(rule.describe(self.loop.time()), ended=why)
        while len(self.ended) > REMEMBERED:
            self.ended.popitem(last=False)
        self.index()
        if not any(other.cuts("to") for other in self.cutting):
            self.admit_waiting()
        for connection in list(self.connections):
            connection.limits.pop(rule, None)
            connection.hit_by.discard(rule)
            if rule.kind == "delay":
                connection.to.release_all()
                connection.back.release_all()
            connection.refresh()
        return True

    def admit_waiting(self) -> None:
        self.drop_leavers()
        waiting, self.waiting = self.waiting, []
        for connection in waiting:
            connection.open()

    def drop_leavers(self) -> None:
        self.waiting = [connection for connection in self.waiting if not connection.closing]
        for connection in [connection for connection in self.waiting if connection.left()]:
            self.waiting.remove(connection)
            connection.close()

    def measure(self) -> None:
        for rule in self.rules.values():
            held = 0
            for connection in self.connections:
                for direction, flow in (("to", connection.to), ("from", connection.back)):
                    if rule.cuts(direction) or (rule.kind == "stall" and flow.held_by() is rule):
                        here = connection.held(direction)
                        held += here
                        if here:
                            rule.hit(connection)
            rule.counters["bytes_held"] = max(rule.counters["bytes_held"], held)

    def sweep(self) -> None:
        self.sweeper = None
        if self.rules:
            self.measure()
            self.drop_leavers()
            self.sweeper = self.loop.call_later(SWEEP_S, self.sweep)

    def stop(self) -> None:
        for listener in self.listeners:
            self.loop.remove_reader(listener.fileno())
            listener.close()
        for connection in list(self.connections):
            if self.target is None:
                connection.abort()
            else:
                connection.close()


class Control:
    """The unix socket's conversations."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.writers: set[asyncio.StreamWriter] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        owned: list[Rule] = []
        self.writers.add(writer)
        try:
            while True:
                line = await reader.readline()
                if not line:
                    break
                writer.write(json.dumps(self.answer(line, owned)).encode() + b"\n")
                await writer.drain()
        except (ValueError, ConnectionError):
            pass  # a request beyond the limit, or a peer that vanished: either way the conversation is over
        finally:
            for rule in owned:
                self.link.end(rule, "holder gone")
            self.writers.discard(writer)
            writer.close()

    def answer(self, line: bytes, owned: list[Rule]) -> dict[str, Any]:
        try:
            return dict(self.obey(json.loads(line.decode()), owned), ok=True)
        except BadRequest as error:
            return {"ok": False, "why": str(error)}
        except (ValueError, RecursionError):
            return {"ok": False, "why": "a request is one line of JSON in UTF-8"}

    def obey(self, request: Any, owned: list[Rule]) -> dict[str, Any]:
        link = self.link
        if not isinstance(request, dict):
            raise BadRequest("a request is a JSON object")
        wanted = request.get("do")
        if wanted == "ping":
            host, port = link.listeners[0].getsockname()[:2]
            return {
                "name": link.name,
                "listen": f"{host}:{port}",
                "to": "{}:{}".format(*link.target[1][:2]) if link.target else "wherever each connection was going",
                "pid": os.getpid(),
                "connections": len(link.connections),
                "rules": len(link.rules),
            }
        if wanted == "list":
            link.measure()
            return {"rules": [rule.describe(link.loop.time()) for rule in link.rules.values()]}
        if wanted not in ("set", "clear"):
            raise BadRequest(f"do must be set, clear, list or ping, not {wanted!r}")
        fault = request.get("fault")
        if not isinstance(fault, str) or not fault:
            raise BadRequest("fault must be a text")
        if wanted == "set":
            rule = link.begin(fault, request.get("rule"), number(request, "deadline_s"))
            owned.append(rule)
            return rule.describe(link.loop.time())
        known = link.rules.get(fault)
        cleared = known is not None and link.end(known, "cleared")
        return dict(link.ended.get(fault, {"fault": fault}), cleared=cleared)


def runtime_folder(environment: Mapping[str, str]) -> str:
    """Where control sockets live; made private to this user, never loosened, never somebody else's."""
    folder = environment.get("BLACKSTART_RUNTIME_DIR")
    if not folder:
        base = environment.get("XDG_RUNTIME_DIR")
        folder = os.path.join(base, "blackstart") if base else f"/tmp/blackstart-{os.getuid()}"  # noqa: S108 - checked below
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise Refused(f"{folder} must be a folder of this user alone (mode 0700)")
    return folder


def free_path(path: str) -> None:
    """Make room for the control socket: a stale one goes, a living proxy's stays and we do not start."""
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise Refused(f"{path} is too long for a socket; set BLACKSTART_RUNTIME_DIR to a shorter folder")
    if not os.path.lexists(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except OSError as error:
            raise Refused(f"{path} cannot be looked at: {error}") from error
        else:
            raise Refused(f"another link proxy answers at {path}")
    os.unlink(path)


def remove_socket(path: str, inode: int) -> None:
    """Take our control socket away; a newer proxy's stays."""
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)


def address_of(text: str) -> tuple[int, Any]:
    host, _, port = text.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (ValueError, OSError) as error:
        raise Refused(f"{text!r} is no HOST:PORT: {error}") from error
    family, _, _, _, address = found[0]
    return family, address


def listen_at(text: str, transparent: bool) -> socket.socket:
    family, address = address_of(text)
    named = ipaddress.ip_address(address[0].partition("%")[0])
    if transparent and (named.is_unspecified or getattr(named, "ipv4_mapped", None)):
        raise Refused(f"listening on {address[0]} would open the link to every network; name one address")
    if not transparent and not (address[0].startswith("127.") or address[0] == "::1"):
        raise Refused(f"listening on {address[0]} would open the link to the network; use 127.0.0.1")
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise Refused(f"cannot listen on {text}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def listen_on(texts: list[str], transparent: bool) -> list[socket.socket]:
    """A listener for each HOST:PORT; ports that are 0 become the first one's."""
    for left in reversed(range(PORT_TRIES)):
        found: list[socket.socket] = []
        try:
            for text in texts:
                host, _, port = text.rpartition(":")
                shared = found[0].getsockname()[1] if found and port == "0" else port
                found.append(listen_at(f"{host}:{shared}", transparent))
        except Refused:
            for listener in found:
                listener.close()
            if not (left and found):
                raise
        else:
            return found
    raise AssertionError("the last try returns or raises")


def try_mark(mark: int) -> None:
    """A proxy that could not mark its connections would be sent to itself."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
    except OSError as error:
        raise Refused(f"connections cannot be marked (SO_MARK, which needs CAP_NET_ADMIN): {error.strerror}") from error


def die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            raise Refused("the process that started this proxy is gone already")


def allow_many_descriptors() -> None:
    """Two descriptors for each connection, and a hung component can collect thousands of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS caps it lower than it says; then the one in force stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def link_of(options: argparse.Namespace) -> Link:
    target = None if options.transparent else address_of(options.to)
    if target is None:
        try_mark(options.transparent)
    return Link(options.name, listen_on(options.listen, target is None), target, options.transparent or 0)


async def serve(options: argparse.Namespace, folder: str) -> None:
    loop = asyncio.get_running_loop()
    link = link_of(options)
    port = link.listeners[0].getsockname()[1]
    path = os.path.join(folder, f"link-{port}.sock")
    free_path(path)
    control = Control(link)
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(control.converse, path, limit=LINE_LIMIT)
    finally:
        os.umask(before)
    inode = os.stat(path).st_ino
    ended = asyncio.Event()
    for number_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number_, ended.set)
    if options.seconds is not None:
        loop.call_later(options.seconds, ended.set)
    if options.tied:
        try:
            loop.add_reader(0, lambda: None if os.read(0, 4096) else ended.set())
        except PermissionError as error:  # a file or /dev/null: nothing there ever closes
            raise Refused("--tied needs a pipe or a socket as standard input") from error
    link.listen()
    ready = {"event": "ready", "name": options.name, "port": port, "control": path, "pid": os.getpid()}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    await ended.wait()
    if options.tied:
        loop.remove_reader(0)
    server.close()
    for writer in list(control.writers):
        writer.close()
    link.stop()
    remove_socket(path, inode)
    await asyncio.sleep(0)  # let closed control connections say goodbye before the loop ends


def mark_of(text: str) -> int:
    """A firewall mark, which is never 0: that is what everybody else's packets have."""
    mark = int(text, 0)
    if not 0 < mark < 1 << 32:
        raise ValueError(text)
    return mark


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="A TCP link that can be cut, delayed, reset and stalled.")
    parser.add_argument("--name", required=True, help="the link's name")
    parser.add_argument("--listen", required=True, action="append", metavar="HOST:PORT", help="port 0: any free one")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="HOST:PORT", help="the component behind the link")
    where.add_argument("--transparent", type=mark_of, metavar="MARK", help="wherever each one was going (Linux)")
    parser.add_argument("--tied", action="store_true", help="end when standard input closes")
    parser.add_argument("--with-parent", action="store_true", help="end when the thread that started it dies (Linux)")
    parser.add_argument("--for", type=float, dest="seconds", metavar="SECONDS", help="end after so long")
    options = parser.parse_args(arguments)
    if options.to and len(options.listen) > 1:
        parser.error("several --listen need --transparent")
    try:
        if options.with_parent:
            die_with_parent()
        allow_many_descriptors()
        asyncio.run(serve(options, runtime_folder(os.environ)))
    except Refused as error:
        sys.stderr.write(f"proxy {options.name}: {error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
