"""The prober: asks a service on schedule, from its own process, and writes down what came back and when.

    python3 prober.py CONFIG.json      (or `-`: the first line of standard input)
    python3 prober.py --ask            (asks one question, see `ask`)

One file of more than 300 lines on purpose: it needs nothing but Python 3.8 and its standard library, so that the same prober
runs beside the service inside a cluster. Reading order: what is written (Recorder), HTTP (AnswerParser, Exchange), what is right
(the judges), when (Ticker), the lanes, the process.

- Open loop: probe i is due at t0 + phase + i * period whatever became of probe i - 1 (Tene, "coordinated omission").
- Every stamp is CLOCK_MONOTONIC minus the config's `origin`, in seconds.
- A probe is `void` when the prober itself was at fault: late by more than half a period and 20 ms, or out of descriptors or ports.
- The line `move {"component": NAME, "url": URL}` gives the lanes of a replica another address: its replacement's.
- It ends when standard input closes, on the line `stop` and on SIGTERM, and never outlives its parent.
"""

from __future__ import annotations

import abc
import asyncio
import base64
import collections
import concurrent.futures
import contextlib
import ctypes
import errno
import functools
import gc
import gzip
import heapq
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import struct
import sys
import time
from typing import Any, Callable, NamedTuple
from urllib.parse import urlsplit

OUTCOMES = (
    "ok",
    "refused",
    "reset",
    "unreachable",
    "timeout",
    "stall",
    "truncated",
    "status-429",
    "status-4xx",
    "status-5xx",
    "error-in-200",
    "empty",
    "wrong-answer",
    "wrong-model",
    "malformed",
    "void",
    "unanswered",
)
OUTCOME_NUMBER = {name: number for number, name in enumerate(OUTCOMES)}
RECORD = struct.Struct("<BBHIdfffHHfI")
NAN = float("nan")

# Probes a second while a lane is down. Questions to the model are not among them: a model that comes back cold under more
# questions than it was asked before may never get warm, and the drill would have done it.
FASTEST = {"fresh": 200.0, "reuse": 20.0}
DOWN_AFTER = 2
UP_AFTER = 5
LATE_S = 0.02  # a busy two-core machine wakes an ordinary process this late about once in a hundred times
FLUSH_S = 0.1
SYNC_EVERY = 2  # flushes
CONTROL_TIMEOUT_S = 0.2
STREAM_PAUSE_S = 0.25  # after a broken stream: a server that refuses is not flooded
RETRY_S = 0.2
MAX_HEADER = 65536
MAX_BODY = 8 << 20
MAX_TEXT = 300
MAX_TEXTS = 20000  # distinct texts kept; the backend column has 16 bits
MAX_OPEN = 4000
EARLY_DESCRIPTORS = 1024  # more than are open before the first probe
READERS = 8
READ_BACK_S = 30.0
READ_AGAIN_S = 0.5
DEFAULT_PROMPT = "The capital of France is"
OWN_FAULTS = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.EACCES, errno.EPERM}

monotonic = time.monotonic


# ---------------------------------------------------------------- what is written


class Observation(NamedTuple):
    """One probe, in absolute monotonic seconds; `first` is NaN without a first byte."""

    lane: int
    outcome: str
    status: int
    sequence: int
    intended: float
    sent: float
    first: float
    end: float
    backend: str = ""
    tokens: int = 0
    gap: float = 0.0
    text: str = ""


class Recorder:
    """The files of `samples/`. What cannot be written now (a full disk) stays in memory and is tried again."""

    def __init__(self, folder: str, origin: float) -> None:
        self.folder, self.origin = folder, origin
        self._files = {name: self._open(name) for name in ("probes.bin", "texts.jsonl", "ledger.jsonl", "clock.jsonl")}
        self._pending = {name: bytearray() for name in ("texts.jsonl", "probes.bin", "clock.jsonl")}
        self._texts: dict[str, int] = {}
        self.ledger_dirty = self._torn = False
        self.counts: collections.Counter[str] = collections.Counter()

    def _open(self, name: str) -> int:
        return os.open(os.path.join(self.folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def text(self, value: str) -> int:
        """The number of a text in texts.jsonl; 0 is no text."""
        value = value[:MAX_TEXT]
        if not value:
            return 0
        number = self._texts.get(value)
        if number is None:
            if len(self._texts) >= MAX_TEXTS:
                return 0
            number = self._texts[value] = len(self._texts) + 1
            self._pending["texts.jsonl"] += json.dumps(value).encode() + b"\n"
        return number

    def add(self, seen: Observation) -> None:
        self.counts[seen.outcome] += 1
        self._pending["probes.bin"] += RECORD.pack(
            seen.lane,
            OUTCOME_NUMBER[seen.outcome],
            seen.status,
            seen.sequence & 0xFFFFFFFF,
            seen.intended - self.origin,
            seen.sent - seen.intended,
            seen.first - seen.sent,
            seen.end - seen.sent,
            self.text(seen.backend),
            min(seen.tokens, 0xFFFF),
            seen.gap,
            self.text(seen.text),
        )

    def clock(self) -> None:
        line = json.dumps({"t": round(monotonic() - self.origin, 6), "wall": round(time.time(), 6)})
        self._pending["clock.jsonl"] += line.encode() + b"\n"

    def ledger(self, key: str, event: str) -> None:
        """One line, in the kernel's hands when this returns. Raises OSError."""
        line = json.dumps({"id": key, "at": round(monotonic() - self.origin, 6), "event": event}).encode() + b"\n"
        done = os.write(self._files["ledger.jsonl"], b"\n" + line if self._torn else line)
        self._torn = done < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, "the disk filled up within a line")
        self.ledger_dirty = True

    def flush(self) -> None:
        """Texts before the records that name them."""
        for name, pending in self._pending.items():
            while pending:
                try:
                    done = os.write(self._files[name], pending)
                except OSError:
                    return
                del pending[:done]

    def sync(self) -> None:
        """Puts the ledger on the disk; slow, so it is called from a thread."""
        os.fsync(self._files["ledger.jsonl"])


def compress(folder: str) -> None:
    """Replaces probes.bin and ledger.jsonl, which hold most of the bytes, by .gz files; without room they stay."""
    for name in ("probes.bin", "ledger.jsonl"):
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as raw, open(path + ".part", "wb") as part:
                with gzip.GzipFile("", "wb", 6, part, 0) as packed:
                    shutil.copyfileobj(raw, packed, 1 << 20)
                part.flush()
                os.fsync(part.fileno())
            os.replace(path + ".part", path + ".gz")
            os.unlink(path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path + ".part")


# ---------------------------------------------------------------- HTTP/1.1


class Malformed(Exception):
    """The peer does not speak HTTP/1.1, or answered with what cannot be read."""


STATUS_LINE = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: (?:[ \t]|[^\x00\s])*)?")
HEADER_LINE = re.compile(rb"([-!#$%&'*+.^_`|~0-9a-zA-Z]+):[ \t]*((?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?)[ \t]*")
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,20})(?:;.*)?[ \t]*\r\n")
BLANK_LINE = re.compile(rb"\n\r?\n")
DIGITS = re.compile(rb"[0-9]{1,20}")


class AnswerParser:
    """One answer, byte by byte (RFC 9112): Content-Length, chunked or up to the end; interim 1xx answers are skipped.

    Accepts what h11 accepts. `feed` raises Malformed; `eof` says whether the answer is complete when the peer closes.
    """

    __slots__ = ("_buffer", "_left", "_size", "_step", "body", "done", "headers", "keep_alive", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()
        self.done = False
        self.keep_alive = False
        self._buffer = bytearray()
        self._left = 0
        self._size = 0
        self._step: Callable[[AnswerParser], bool] = AnswerParser._head

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while not self.done and self._step(self):
            pass

    def eof(self) -> bool:
        return self.done or self._step is AnswerParser._until_end

    def take(self) -> bytes:
        """What has come of the body since the last call."""
        data = bytes(self.body)
        self.body.clear()
        return data

    @property
    def surplus(self) -> bool:
        """Bytes came behind the answer: the connection cannot be used again."""
        return bool(self._buffer)

    def _lines(self) -> list[bytes] | None:
        """All lines up to a blank one, which is dropped; None: not there yet."""
        buffer = self._buffer
        for blank in (b"\n", b"\r\n"):
            if buffer.startswith(blank):
                del buffer[: len(blank)]
                return []
        match = BLANK_LINE.search(buffer)
        if match is None:
            if len(buffer) > MAX_HEADER:
                raise Malformed("headers of more than %d bytes" % MAX_HEADER)
            return None
        lines = bytes(buffer[: match.end()]).split(b"\n")[:-2]
        del buffer[: match.end()]
        return [line[:-1] if line.endswith(b"\r") else line for line in lines]

    def _head(self) -> bool:
        lines = self._lines()
        if lines is None:
            if self._buffer and self._buffer[0] < 0x21:
                raise Malformed("no status line: %r" % bytes(self._buffer[:40]))
            return False
        match = STATUS_LINE.fullmatch(lines[0]) if lines else None
        if match is None:
            raise Malformed("no status line: %r" % (lines[0][:40] if lines else b""))
        status = int(match.group(2))
        headers = header_fields(lines[1:])
        if status < 100 or status == 101:
            raise Malformed("status %d was not asked for" % status)
        if status < 200:
            return True
        self.status, self.headers = status, headers
        self.keep_alive = match.group(1) >= b"1.1" and b"close" not in comma_list(headers.get(b"connection", b""))
        self._frame()
        return True

    def _frame(self) -> None:
        """How the body ends (RFC 9112, 6.3)."""
        if self.status in (204, 304):
            self.done = True
        elif b"transfer-encoding" in self.headers:
            self._step = AnswerParser._chunk_line
        elif b"content-length" in self.headers:
            self._left = int(self.headers[b"content-length"])
            self.done = self._left == 0
            self._step = AnswerParser._counted
        else:
            self.keep_alive = False
            self._step = AnswerParser._until_end

    def _deliver(self, count: int) -> None:
        self._size += count
        if self._size > MAX_BODY:
            raise Malformed("a body of more than %d bytes" % MAX_BODY)
        self.body += self._buffer[:count]
        del self._buffer[:count]

    def _until_end(self) -> bool:
        self._deliver(len(self._buffer))
        return False

    def _counted(self) -> bool:
        count = min(self._left, len(self._buffer))
        self._deliver(count)
        self._left -= count
        self.done = self._left == 0
        return False

    def _chunk_line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEADER:
                raise Malformed("a chunk header of more than %d bytes" % MAX_HEADER)
            return False
        match = CHUNK_LINE.fullmatch(self._buffer, 0, end + 2)
        if match is None:
            raise Malformed("no chunk header: %r" % bytes(self._buffer[:40]))
        self._left = int(match.group(1), 16)
        del match  # it holds the buffer, which could not shrink
        del self._buffer[: end + 2]
        self._step = AnswerParser._chunk if self._left else AnswerParser._trailer
        return True

    def _chunk(self) -> bool:
        count = min(self._left, len(self._buffer))
        self._deliver(count)
        self._left -= count
        if self._left:
            return False
        self._step = AnswerParser._chunk_end
        return True

    def _chunk_end(self) -> bool:
        found = bytes(self._buffer[:2])
        if not b"\r\n".startswith(found):
            raise Malformed("a chunk is longer than its header says")
        if len(found) < 2:
            return False
        del self._buffer[:2]
        self._step = AnswerParser._chunk_line
        return True

    def _trailer(self) -> bool:
        lines = self._lines()
        if lines is None:
            return False
        header_fields(lines)
        self.done = True
        return False


def header_fields(lines: list[bytes]) -> dict[bytes, bytes]:
    """Names in lower case; of a repeated name the values, comma-separated. Raises Malformed also for contradictory framing."""
    unfolded: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if not unfolded:
                raise Malformed("a continuation line without a header")
            unfolded[-1] += b" " + line.lstrip(b" \t")
        else:
            unfolded.append(line)
    headers: dict[bytes, bytes] = {}
    for line in unfolded:
        match = HEADER_LINE.fullmatch(line)
        if match is None:
            raise Malformed("no header: %r" % line[:40])
        name, value = match.group(1).lower(), match.group(2)
        if name == b"transfer-encoding" and (name in headers or value.lower() != b"chunked"):
            raise Malformed("transfer-encoding %r" % value[:40])
        if name == b"content-length":
            lengths = {length.strip() for length in value.split(b",")} | ({headers[name]} if name in headers else set())
            value = lengths.pop()
            if lengths or not DIGITS.fullmatch(value):
                raise Malformed("content-length %r" % value[:40])
            headers[name] = value
        else:
            headers[name] = headers[name] + b"," + value if name in headers else value
    return headers


def comma_list(value: bytes) -> list[bytes]:
    return [part.strip().lower() for part in value.split(b",")]


class Target(NamedTuple):
    """Where a connection goes."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    address: tuple[int, Any] | None  # (family, socket address) where the host is a number: nothing to resolve

    @classmethod
    def of(cls, url: str) -> Target:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        tls = shared_tls() if parts.scheme == "https" else None
        for family, address in ((socket.AF_INET, (host, port)), (socket.AF_INET6, (host, port, 0, 0))):
            try:
                socket.inet_pton(family, host)
            except OSError:
                continue
            return cls(host, port, tls, (family, address))
        return cls(host, port, tls, None)


@functools.lru_cache(maxsize=None)
def shared_tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class Limits(NamedTuple):
    """How long a stage may take, in seconds."""

    connect: float  # to a TCP connection, resolution included
    first: float  # from the start to the first byte of the answer
    stall: float  # from one piece of the answer to the next
    total: float  # from the start to the end of the answer


class Request(NamedTuple):
    """What is sent where."""

    target: Target
    data: bytes


def request_to(url: str, method: str = "GET", body: Any = None, *, keep: bool = False) -> Request:
    """A request with a JSON body, or none."""
    parts = urlsplit(url)
    path = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    data = b"" if body is None else json.dumps(body).encode()
    head = "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: blackstart-prober\r\nAccept: */*\r\n" % (method, path, host)
    head += "Connection: %s\r\n" % ("keep-alive" if keep else "close")
    if body is not None or method not in ("GET", "DELETE"):
        head += "Content-Type: application/json\r\nContent-Length: %d\r\n" % len(data)
    return Request(Target.of(url), head.encode("latin-1") + b"\r\n" + data)


def joined(base: str, path: str) -> str:
    """A path under a base URL. A base that ends in /v1 and a path that starts with it share it."""
    base = base.rstrip("/")
    if path.startswith("/v1/") and base.endswith("/v1"):
        base = base[:-3]
    return base + path


Done = Callable[["Exchange"], None]


def moved(url: str, base: str) -> str:
    """The same path at another address."""
    parts = urlsplit(url)
    return base.rstrip("/") + parts.path + ("?" + parts.query if parts.query else "")


class Exchange:
    """One request and its answer on a socket, every stage with its own limit. Ends with one call of `done`.

    Sockets are driven by readiness, without asyncio's transports: half the cost of a probe, and each error is the kernel's own.
    """

    def __init__(self, net: Net, request: Request, limits: Limits, done: Done) -> None:
        self._net, self.request, self._limits = net, request, limits
        self._done: Done | None = done
        self.answer = AnswerParser()
        self.on_body: Callable[[Exchange, bytes], bool] | None = None
        self.sock: Any = None
        self.keep = False
        self.requested = False
        self.outcome = self.detail = ""
        self.sent = self.end = 0.0
        self.first = NAN
        self.tag: Any = None
        self.lane: Any = None  # of a probe: whose it is
        self._addresses: list[tuple[int, Any]] = []
        self._future: concurrent.futures.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rest = memoryview(request.data)
        self._stage = "connect"
        self._deadline = self._armed = 0.0

    def start(self, sock: Any = None) -> None:
        """Begins, on a new connection or on an idle one."""
        self.sent = monotonic()
        self._net.exchanges.add(self)
        if sock is not None:
            self.sock = sock
            self._send()
            return
        self._limit(self.sent + self._limits.connect)
        target = self.request.target
        if target.address is not None:
            self._addresses = [target.address]
            self._connect()
        else:
            self._future = self._net.resolve(target, self._resolved)

    @property
    def finished(self) -> bool:
        return self._done is None

    def finish(self, outcome: str, detail: str = "") -> None:
        """Ends the exchange from either side."""
        done, self._done = self._done, None
        if done is None:
            return
        self.end = monotonic()
        self.outcome, self.detail = outcome, detail
        if self._timer is not None:
            self._timer.cancel()
        if self._future is not None:
            self._future.cancel()
        self._net.exchanges.discard(self)
        self._release(outcome == "ok" and self.keep and self.answer.done and self.answer.keep_alive and not self.answer.surplus)
        self.on_body = None
        done(self)

    def _release(self, keep: bool) -> None:
        if self.sock is None:
            return
        self._net.forget(self.sock)
        if not keep:
            self.sock.close()
            self.sock = None

    def _fail(self, error: OSError) -> None:
        if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            self.finish("reset", "TLS: closed by the peer")
        elif isinstance(error, ssl.SSLError):
            self.finish("malformed", "TLS: %s" % error)
        elif error.errno in OWN_FAULTS:
            self.finish("void", os.strerror(error.errno or 0))
        elif error.errno == errno.ECONNREFUSED:
            self.finish("refused")
        elif error.errno in UNREACHABLE:
            self.finish("unreachable", os.strerror(error.errno or 0))
        else:
            self.finish("reset", "" if error.errno == errno.ECONNRESET else str(error))

    def _limit(self, deadline: float) -> None:
        """Sets the stage's deadline. A later one costs nothing: the timer looks again when it goes off."""
        self._deadline = min(deadline, self.sent + self._limits.total)
        if self._timer is None or self._deadline < self._armed:
            if self._timer is not None:
                self._timer.cancel()
            self._armed = self._deadline
            self._timer = self._net.loop.call_at(self._armed, self._late)

    def _late(self) -> None:
        self._timer = None
        if monotonic() < self._deadline - 0.001:
            self._limit(self._deadline)
        elif self._stage == "connect":
            self.finish("unreachable", "no connection within %g s" % self._limits.connect)
        elif self.first != self.first:
            self.finish("timeout")
        else:
            self.finish("stall")

    def _resolved(self, future: concurrent.futures.Future[Any]) -> None:
        if self.finished:
            return
        try:
            found = future.result()
        except (OSError, UnicodeError) as error:
            self.finish("unreachable", "%s: %s" % (self.request.target.host, error))
            return
        self._addresses = [(family, address) for family, _, _, _, address in found]
        self._connect()

    def _connect(self) -> None:
        """Tries the next address."""
        family, address = self._addresses.pop(0)
        try:
            self.sock = socket.socket(family, socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))
            self.sock.setblocking(False)
            code = self.sock.connect_ex(address)
        except OSError as error:
            self._fail(error)
            return
        if code in (0, errno.EINPROGRESS):
            self._net.loop.add_writer(self.sock.fileno(), self._connected)
        else:
            self._not_connected(code)

    def _connected(self) -> None:
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._not_connected(code)
            return
        self._net.loop.remove_writer(self.sock.fileno())
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        target = self.request.target
        if target.tls is None:
            self._send()
            return
        self._stage = "handshake"
        self._limit(self.sent + self._limits.first)
        try:
            self.sock = target.tls.wrap_socket(self.sock, server_hostname=target.host, do_handshake_on_connect=False)
        except OSError as error:
            self._fail(error)
        else:
            self._handshake()

    def _not_connected(self, code: int) -> None:
        if self._addresses:
            self._release(keep=False)
            self._connect()
        else:
            self._fail(OSError(code, os.strerror(code)))

    def _handshake(self) -> None:
        loop, number = self._net.loop, self.sock.fileno()
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            loop.remove_writer(number)
            loop.add_reader(number, self._handshake)
        except ssl.SSLWantWriteError:
            loop.remove_reader(number)
            loop.add_writer(number, self._handshake)
        except OSError as error:
            self._fail(error)
        else:
            self._net.forget(self.sock)
            self._send()

    def _send(self) -> None:
        if self._stage != "send":
            self._stage = "send"
            self._limit(self.sent + self._limits.first)
        self.requested = True
        try:
            while self._rest:
                self._rest = self._rest[self.sock.send(self._rest) :]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._net.loop.add_writer(self.sock.fileno(), self._send)
            return
        except OSError as error:
            self._fail(error)
            return
        self._net.loop.remove_writer(self.sock.fileno())
        self._net.loop.add_reader(self.sock.fileno(), self._receive)

    def _receive(self) -> None:
        """A TLS socket may hold more than the kernel shows, so it is read until it has no more."""
        while not self.finished:
            try:
                data = self.sock.recv(65536)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as error:
                self._fail(error)
                return
            self._take(data)
            if self.request.target.tls is None:
                return

    def _take(self, data: bytes) -> None:
        now = monotonic()
        answer = self.answer
        if not data:
            self._closed()
            return
        if self.first != self.first:
            self.first = now
        try:
            answer.feed(data)
        except Malformed as error:
            self.finish("malformed", str(error))
            return
        progress = True
        if self.on_body is not None and 200 <= answer.status < 300:
            progress = self.on_body(self, answer.take())
        if answer.done:
            self.finish("ok")
        elif progress and not self.finished:
            self._limit(now + self._limits.stall)

    def _closed(self) -> None:
        if self.answer.eof():
            self.finish("ok")
        elif self.first != self.first:
            self.finish("reset", "closed without an answer")
        else:
            self.finish("truncated")


class Net:
    """What all exchanges share: the event loop, the resolver's threads, which are open."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.exchanges: set[Exchange] = set()
        self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=16)

    def resolve(self, target: Target, then: Callable[[Any], None]) -> concurrent.futures.Future[Any]:
        future = self._threads.submit(socket.getaddrinfo, target.host, target.port, 0, socket.SOCK_STREAM)
        future.add_done_callback(lambda done: None if done.cancelled() else self.call(then, done))
        return future

    def call(self, then: Callable[[Any], None], value: Any) -> None:
        self.loop.call_soon_threadsafe(then, value)

    def forget(self, sock: Any) -> None:
        if sock.fileno() >= 0:
            self.loop.remove_reader(sock.fileno())
            self.loop.remove_writer(sock.fileno())


def fetched(request: Request, limit_s: float) -> bytes:
    """One whole answer as it came, where its moments do not matter. Raises OSError, Malformed.

    Where the peer ended it too soon, what came until then.
    """
    answer, said = AnswerParser(), bytearray()
    target = request.target
    with contextlib.ExitStack() as stack:
        sock: Any = stack.enter_context(socket.create_connection((target.host, target.port), limit_s))
        if target.tls is not None:
            sock = stack.enter_context(target.tls.wrap_socket(sock, server_hostname=target.host))
        sock.sendall(request.data)
        while not answer.done:
            piece = sock.recv(65536)
            if not piece:
                break
            said += piece
            answer.feed(piece)
    return bytes(said)


# ---------------------------------------------------------------- what is right


class Judgement(NamedTuple):
    """An outcome's name, and what came instead of the right answer."""

    outcome: str
    detail: str = ""


OK = Judgement("ok")
Judge = Callable[[AnswerParser], Judgement]


def shown(body: Any) -> str:
    """The beginning of an answer, for people."""
    return bytes(body[: 4 * MAX_TEXT]).decode("utf-8", "replace")[:MAX_TEXT]


def judge_status(answer: AnswerParser) -> Judgement:
    """Any 2xx is right. A redirect is not followed: it is not the answer, so it counts as the client's error."""
    if 200 <= answer.status < 300:
        return OK
    if answer.status == 429:
        return Judgement("status-429")
    return Judgement("status-5xx" if answer.status >= 500 else "status-4xx", shown(answer.body))


def parsed(body: Any) -> Any:
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise Malformed("not JSON: " + shown(body)) from None


def error_in(value: Any) -> bool:
    """An error object where an answer is due: OpenAI's `error`, vLLM's `object: error`, KServe's `error`."""
    return isinstance(value, dict) and (bool(value.get("error")) or value.get("object") == "error")


def same_model(asked: str, told: Any) -> bool:
    """Servers name a model by its path, its file or a dated version of what was asked for."""
    if not asked or not isinstance(told, str) or not told:
        return True
    return told == asked or told.startswith(asked + "-") or os.path.basename(told) == os.path.basename(asked)


class Rule(NamedTuple):
    """The parts of the success rule that are in force."""

    finish_reason: bool = True
    done: bool = True
    text: bool = True
    model: bool = True


def completion_in(value: Any) -> tuple[str, Any]:
    """(text, finish_reason) of a completion or chat completion; raises Malformed."""
    try:
        choice = value["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return text or "", choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Malformed("no completion: " + shown(json.dumps(value).encode())) from None


def judge_completion(  # noqa: PLR0911  one way out for each way of being wrong
    answer: AnswerParser, model: str, rule: Rule, expected: str
) -> Judgement:
    """The six parts of a right answer, each with its own name."""
    verdict = judge_status(answer)
    if verdict is not OK:
        return verdict
    try:
        value = parsed(answer.body)
        if error_in(value):
            return Judgement("error-in-200", shown(answer.body))
        text, finish_reason = completion_in(value)
    except Malformed as error:
        return Judgement("malformed", str(error))
    if rule.model and not same_model(model, value.get("model")):
        return Judgement("wrong-model", str(value.get("model")))
    if rule.finish_reason and not finish_reason:
        return Judgement("truncated", "no finish_reason")
    if rule.text and not text:
        return Judgement("empty")
    return OK if text.startswith(expected) else Judgement("wrong-answer", text)


def judge_inference(  # noqa: PLR0911  one way out for each way of being wrong
    answer: AnswerParser, model: str, golden: dict[str, Any]
) -> Judgement:
    """KServe v2: every expected output is there, of the expected shape where one is given, and within its tolerance."""
    verdict = judge_status(answer)
    if verdict is not OK:
        return verdict
    try:
        value = parsed(answer.body)
        if error_in(value):
            return Judgement("error-in-200", shown(answer.body))
        outputs = {output["name"]: flat(output["data"]) for output in value["outputs"]}
        shapes = {output["name"]: output.get("shape") for output in value["outputs"]}
    except Malformed as error:
        return Judgement("malformed", str(error))
    except (KeyError, TypeError, AttributeError):
        return Judgement("malformed", "no outputs: " + shown(answer.body))
    if not same_model(model, value.get("model_name")):
        return Judgement("wrong-model", str(value.get("model_name")))
    if not any(outputs.values()):
        return Judgement("empty")
    for output in golden.get("outputs") or ():
        tolerance = output.get("tolerance", golden.get("tolerance", 0.0))
        wrong_shape = "shape" in output and list(output["shape"]) != shapes.get(output["name"])
        if wrong_shape or differs(flat(output["data"]), outputs.get(output["name"]), tolerance):
            return Judgement("wrong-answer", shown(json.dumps(value["outputs"]).encode()))
    return OK


def flat(data: Any) -> list[Any]:
    """A tensor's values in order: nested lists are allowed by the protocol."""
    if isinstance(data, (list, tuple)):
        return [value for part in data for value in flat(part)]
    return [data]


def judge_json(answer: AnswerParser, golden: dict[str, Any]) -> Judgement:
    """Protocol http: the status is the expected one and the JSON answer contains what it must."""
    if answer.status != golden.get("status", 200):
        verdict = judge_status(answer)
        return Judgement("wrong-answer", "status %d" % answer.status) if verdict is OK else verdict
    expected = golden.get("json")
    if expected is None:
        return OK
    try:
        value = parsed(answer.body)
    except Malformed as error:
        return Judgement("malformed", str(error))
    if differs(expected, value, golden.get("tolerance", 0.0)):
        wrong = "error-in-200" if error_in(value) and not error_in(expected) else "wrong-answer"
        return Judgement(wrong, shown(answer.body))
    return OK


def differs(expected: Any, got: Any, tolerance: float) -> bool:
    """Whether `got` lacks something of `expected`: more keys are allowed, more list entries are not."""
    if isinstance(expected, dict):
        return not isinstance(got, dict) or any(k not in got or differs(v, got[k], tolerance) for k, v in expected.items())
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(expected):
            return True
        return any(differs(left, right, tolerance) for left, right in zip(expected, got))  # noqa: B905  3.8
    if isinstance(expected, bool) or isinstance(got, bool) or not isinstance(expected, (int, float)):
        return bool(type(expected) is not type(got) or expected != got)
    return not isinstance(got, (int, float)) or not (expected == got or abs(expected - got) <= tolerance)


class Question(NamedTuple):
    """A request and what a right answer to it is."""

    request: Request
    judge: Judge


def questions(lane: dict[str, Any]) -> list[Question]:
    """The golden questions of a lane; without any, the simplest one that its protocol knows."""
    golden = lane.get("golden") or []
    base, model, protocol = lane["url"], lane.get("model") or "", lane.get("protocol", "http")
    if protocol == "openai":
        rule = Rule(**lane.get("success", {}))
        found = []
        for entry in golden or [{"prompt": DEFAULT_PROMPT}]:
            judge = functools.partial(judge_completion, model=model, rule=rule, expected=entry.get("text") or "")
            found.append(Question(completion_request(base, model, entry), judge))
        return found
    if protocol == "kserve-v2":
        url = joined(base, "/v2/models/%s" % model)
        named = model if lane.get("success", {}).get("model", True) else ""
        return [
            Question(
                request_to(url + "/infer", "POST", {"inputs": entry["inputs"]}),
                functools.partial(judge_inference, model=named, golden=entry),
            )
            for entry in golden
        ] or [Question(request_to(url + "/ready"), judge_status)]
    found = []
    for entry in golden:
        method, _, path = entry["request"].partition(" ")
        request = request_to(joined(base, path), method, entry.get("body"))
        found.append(Question(request, functools.partial(judge_json, golden=entry)))
    return found or [Question(request_to(joined(base, lane.get("path") or "/")), judge_status)]


def completion_request(base: str, model: str, golden: dict[str, Any], *, stream: bool = False) -> Request:
    """A greedy completion."""
    body = {"prompt": golden["prompt"], "max_tokens": golden.get("max_tokens", 16), "temperature": 0, "stream": stream}
    if model:
        body["model"] = model
    return request_to(joined(base, "/v1/completions"), "POST", body)


class TokenStream:
    """A streamed completion: server-sent events in, tokens out. `wrong` is set as soon as a chunk is not what was asked for."""

    def __init__(self, model: str, rule: Rule, expected: str) -> None:
        self.model, self.rule, self.expected = model, rule, expected
        self.tokens = 0
        self.text = ""
        self.first = self.last = NAN
        self.gap = 0.0
        self.finish_reason: Any = None
        self.finished = False
        self.wrong: Judgement | None = None
        self._rest = b""

    def feed(self, data: bytes, now: float) -> bool:
        """Whether a token came: comments and empty chunks keep no stream alive."""
        before = self.tokens
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_HEADER:
            self.wrong = Judgement("malformed", "an event of more than %d bytes" % MAX_HEADER)
        for line in lines:
            if line.startswith(b"data:") and self.wrong is None and not self.finished:
                self._event(line[5:].strip(), now)
        return self.tokens > before

    def _event(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self.finished = True
            return
        try:
            value = parsed(data)
            if error_in(value):
                self.wrong = Judgement("error-in-200", shown(data))
                return
            for choice in value["choices"]:
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
                self._token(choice["text"] if "text" in choice else choice["delta"].get("content"), now)
        except (Malformed, KeyError, TypeError, AttributeError):
            self.wrong = Judgement("malformed", shown(data))
            return
        if self.rule.model and not same_model(self.model, value.get("model")):
            self.wrong = Judgement("wrong-model", str(value.get("model")))

    def _token(self, text: Any, now: float) -> None:
        if not text:
            return
        if self.tokens:
            self.gap = max(self.gap, now - self.last)
        else:
            self.first = now
        self.last = now
        self.tokens += 1
        if len(self.text) < len(self.expected) + MAX_TEXT:
            self.text += text

    def judge(self, end: float) -> Judgement:
        """Of a stream that the server ended in order, at `end`."""
        if self.wrong is not None:
            return self.wrong
        if (self.rule.done and not self.finished) or (self.rule.finish_reason and not self.finish_reason):
            self.gap = max(self.gap, end - self.last) if self.tokens else self.gap
            return Judgement("truncated", "no [DONE]" if self.rule.done and not self.finished else "no finish_reason")
        if self.rule.text and not self.text:
            return Judgement("empty")
        return OK if self.text.startswith(self.expected) else Judgement("wrong-answer", self.text)


# ---------------------------------------------------------------- when


class TimerSpec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "s", "ns")]  # struct itimerspec


class LinuxTimer:
    """A timerfd: wakes within some 50 microseconds, where the event loop's own timers round up to a millisecond."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._wake = wake
        if hasattr(os, "timerfd_create"):  # Python 3.13
            self._os: Any = os
            self._fd = self._os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.O_NONBLOCK | os.O_CLOEXEC)
            self.arm = self._arm_by_os
        else:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            self._spec = TimerSpec()
            self.arm = self._arm_by_libc
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._wake()

    def _arm_by_os(self, due: float) -> None:
        self._os.timerfd_settime(self._fd, flags=self._os.TFD_TIMER_ABSTIME, initial=due)

    def _arm_by_libc(self, due: float) -> None:
        spec = self._spec
        spec.s = int(due)
        spec.ns = int((due - spec.s) * 1e9) or 1
        self._libc.timerfd_settime(self._fd, 1, ctypes.byref(spec), None)


class LoopTimer:
    """Where there is no timerfd."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop, self._wake = loop, wake
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, due: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_at(due, self._wake)


class Ticker:
    """Calls lanes at absolute moments, and remembers when the process was not running on time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._heap: list[tuple[float, int, PeriodicLane]] = []
        self._stalls: collections.deque[tuple[float, float]] = collections.deque(maxlen=64)
        self.running = True
        self.latest = 0.0
        timer = LinuxTimer if sys.platform == "linux" else LoopTimer
        self._timer: Any = timer(loop, self._wake)

    def add(self, lane: PeriodicLane) -> None:
        heapq.heappush(self._heap, (lane.next_due(), lane.number, lane))

    def start(self) -> None:
        if self._heap:
            self._timer.arm(self._heap[0][0])

    def _wake(self) -> None:
        now = monotonic()
        heap = self._heap
        late = now - heap[0][0]
        self.latest = max(self.latest, late)
        if late > LATE_S:
            self._stalls.append((heap[0][0], now))
        while self.running and heap[0][0] <= now:
            due, number, lane = heap[0]
            lane.tick(due, monotonic())
            heapq.heapreplace(heap, (lane.next_due(), number, lane))
        if self.running:
            self._timer.arm(heap[0][0])

    def lost(self, start: float, end: float) -> float:
        """Seconds within [start, end] in which the process stood still."""
        total = sum(max(0.0, min(end, hi) - max(start, lo)) for lo, hi in self._stalls if hi > start)
        due = self._heap[0][0] if self._heap else end
        if end - due > LATE_S:  # this very moment comes after a stall that the timer has not seen yet
            total += end - max(start, due)
        return total


# ---------------------------------------------------------------- lanes


class Lane(abc.ABC):
    """What all lanes share: a number, limits, a sequence, and how a result is written down."""

    def __init__(self, prober: Prober, number: int, config: dict[str, Any]) -> None:
        self.prober, self.number, self.config = prober, number, config
        self.name: str = config["name"]
        self.kind: str = config["kind"]
        first = float(config.get("timeout_s", 1.0))
        connect = float(config.get("connect_timeout_s", 0.5))
        self.limits = Limits(connect, first, float(config.get("stall_s", first)), float(config.get("total_s", 2 * first)))
        self.sequence = 0

    def move(self, base: str) -> None:  # noqa: B027 - most lanes ask what never moves
        """What it asks has another address now."""

    def prepare(self) -> None:  # noqa: B027 - most lanes have nothing to prepare
        """What takes time before the schedule begins."""

    @abc.abstractmethod
    def start(self, t0: float) -> None:
        """Begin the schedule at `t0`, on the drill's clock."""

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence - 1

    def void(self, due: float, why: str) -> None:
        now = monotonic()
        self.prober.recorder.add(Observation(self.number, "void", 0, self.next_sequence(), due, now, NAN, now, text=why))

    def own_fault(self, sent: float, end: float, outcome: str) -> bool:
        """Whether the prober stood still for most of a probe whose outcome depends on time."""
        if outcome not in ("ok", "timeout", "stall", "unreachable", "unanswered"):
            return False
        lost = self.prober.ticker.lost(sent, end)
        return lost > LATE_S and lost > (end - sent) / 2


def backend_of(answer: AnswerParser) -> str:
    found = answer.headers.get(b"x-backend") or answer.headers.get(b"x-served-by") or b""
    return found.decode("latin-1")[:MAX_TEXT]


class PeriodicLane(Lane):
    """Probes at t0 + phase + i * period. While it is down, where the kind allows, up to four times as often on a finer grid."""

    def __init__(self, prober: Prober, number: int, config: dict[str, Any]) -> None:
        super().__init__(prober, number, config)
        self.period = float(config["period_s"])
        self._parts = max(1, min(4, int(FASTEST.get(self.kind, 0.0) * self.period + 1e-6)))
        self._step = self.period / self._parts
        self._tick = -self._parts
        self._zero = 0.0
        self._bad = self._good = 0
        self.down = False
        self.ended = False

    def start(self, t0: float) -> None:
        self._zero = t0 + self.prober.random.random() * self.period
        self.prober.ticker.add(self)

    def next_due(self) -> float:
        self._tick += 1 if self.down else self._parts - self._tick % self._parts
        return self._zero + self._tick * self._step

    def tick(self, due: float, now: float) -> None:
        if self.ended:
            return
        if now - due > LATE_S and now - due > self.period / 2:
            self.void(due, "the prober was late")
        elif len(self.prober.net.exchanges) >= MAX_OPEN:
            self.void(due, "%d requests are open" % MAX_OPEN)
        else:
            self.probe(due)

    @abc.abstractmethod
    def probe(self, due: float) -> None:
        """Send the probe that is due."""

    def observe(self, seen: Observation) -> None:
        """Writes a result down and decides whether the lane is down."""
        self.prober.recorder.add(seen)
        if seen.outcome == "void":
            return
        if seen.outcome == "ok":
            self._good, self._bad = self._good + 1, 0
            self.down = self.down and self._good < UP_AFTER
        else:
            self._good, self._bad = 0, self._bad + 1
            self.down = self.down or self._bad >= DOWN_AFTER

    def observe_exchange(self, exchange: Exchange, verdict: Judgement) -> None:
        due, sequence = exchange.tag[:2]
        if self.own_fault(exchange.sent, exchange.end, verdict.outcome):
            verdict = Judgement("void", "the prober stood still")
        self.observe(
            Observation(
                self.number,
                verdict.outcome,
                exchange.answer.status,
                sequence,
                due,
                exchange.sent,
                exchange.first,
                exchange.end,
                backend_of(exchange.answer),
                text=verdict.detail,
            )
        )


class LightLane(PeriodicLane):
    """GET on a new connection; any 2xx is right. Kinds fresh and health."""

    def __init__(self, prober: Prober, number: int, config: dict[str, Any]) -> None:
        super().__init__(prober, number, config)
        self.request = request_to(config["url"])

    def move(self, base: str) -> None:
        self.request = request_to(moved(self.config["url"], base))

    def probe(self, due: float) -> None:
        exchange = Exchange(self.prober.net, self.request, self.limits, self.done)
        exchange.tag, exchange.lane = (due, self.next_sequence()), self
        exchange.start()

    def done(self, exchange: Exchange) -> None:
        ended = Judgement(exchange.outcome, exchange.detail)
        self.observe_exchange(exchange, judge_status(exchange.answer) if exchange.outcome == "ok" else ended)


class ReuseLane(LightLane):
    """The same on a kept-alive connection. One that the server closed while it was idle is replaced, as connection pools do."""

    def __init__(self, prober: Prober, number: int, config: dict[str, Any]) -> None:
        super().__init__(prober, number, config)
        self.request = request_to(config["url"], keep=True)
        self.idle: Any = None

    def probe(self, due: float) -> None:
        exchange = Exchange(self.prober.net, self.request, self.limits, self.done)
        exchange.tag, exchange.lane, exchange.keep = (due, self.next_sequence()), self, True
        sock, self.idle = self.idle, None
        if sock is not None and readable(sock):
            sock.close()
            sock = None
        exchange.start(sock)

    def done(self, exchange: Exchange) -> None:
        sock = exchange.sock
        if sock is not None and self.idle is None:
            self.idle = sock
        elif sock is not None:
            sock.close()
        super().done(exchange)


def readable(sock: Any) -> bool:
    """Of an idle connection: closed, or broken."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class GoldenLane(PeriodicLane):
    """Questions whose answers are known, in turn. Kinds semantic, replica and workload, of which the last may ask again."""

    def __init__(self, prober: Prober, number: int, config: dict[str, Any]) -> None:
        super().__init__(prober, number, config)
        self.questions = questions(config)
        self.retries = int(config.get("retries", 0))

    def move(self, base: str) -> None:
        self.questions = questions({**self.config, "url": moved(self.config["url"], base)})

    def probe(self, due: float) -> None:
        sequence = self.next_sequence()
        self.ask(due, sequence, self.questions[sequence % len(self.questions)], attempt=0)

    def ask(self, due: float, sequence: int, question: Question, attempt: int, since: float = 0.0) -> None:
        exchange = Exchange(self.prober.net, question.request, self.limits, self.done)
        exchange.tag, exchange.lane = (due, sequence, question, attempt, since), self
        exchange.start()

    def done(self, exchange: Exchange) -> None:
        due, sequence, question, attempt, since = exchange.tag
        verdict = Judgement(exchange.outcome, exchange.detail)
        if exchange.outcome == "ok":
            verdict = question.judge(exchange.answer)
        first_sent = since or exchange.sent
        if verdict.outcome not in ("ok", "void", "unanswered") and attempt < self.retries:
            again = functools.partial(self.ask, due, sequence, question, attempt + 1, first_sent)
            self.prober.net.loop.call_later(RETRY_S * 2**attempt, again)
            return
        exchange.sent = first_sent  # the user has waited since then
        self.observe_exchange(exchange, verdict)


class StreamLane(Lane):
    """`concurrency` long streamed completions at any time, each followed by the next."""

    def __init__(self, prober: Prober, number: int, config: dict[str, Any]) -> None:
        super().__init__(prober, number, config)
        self.model = config.get("model") or ""
        self.rule = Rule(**config.get("success", {}))
        golden = config.get("golden") or [{"prompt": DEFAULT_PROMPT}]
        tokens = int(config.get("max_tokens", 200))
        self.asked = [
            (completion_request(config["url"], self.model, dict(entry, max_tokens=tokens), stream=True), entry.get("text") or "")
            for entry in golden
        ]

    def start(self, t0: float) -> None:
        for _ in range(int(self.config.get("concurrency", 1))):
            self.prober.net.loop.call_at(t0 + self.prober.random.random(), self.open)

    def open(self) -> None:
        sequence = self.next_sequence()
        request, expected = self.asked[sequence % len(self.asked)]
        exchange = Exchange(self.prober.net, request, self.limits, self.done)
        exchange.tag = (sequence, TokenStream(self.model, self.rule, expected))
        exchange.on_body = self.on_body
        exchange.start()

    def on_body(self, exchange: Exchange, data: bytes) -> bool:
        stream = exchange.tag[1]
        progress = stream.feed(data, monotonic())
        if stream.wrong is not None or (stream.finished and self.rule.done):
            exchange.finish("ok")  # nothing that follows could matter
        return bool(progress)

    def done(self, exchange: Exchange) -> None:
        sequence, stream = exchange.tag
        verdict = Judgement(exchange.outcome, exchange.detail)
        if exchange.outcome == "ok":
            verdict = judge_status(exchange.answer)
            verdict = stream.judge(exchange.end) if verdict is OK else verdict
        elif stream.tokens:
            stream.gap = max(stream.gap, exchange.end - stream.last)
        if self.own_fault(exchange.sent, exchange.end, verdict.outcome):
            verdict = Judgement("void", "the prober stood still")
        self.prober.recorder.add(
            Observation(
                self.number,
                verdict.outcome,
                exchange.answer.status,
                sequence,
                exchange.sent,
                exchange.sent,
                stream.first,
                exchange.end,
                backend_of(exchange.answer),
                stream.tokens,
                stream.gap,
                verdict.detail,
            )
        )
        self.prober.net.loop.call_later(0.0 if verdict is OK else STREAM_PAUSE_S, self.open)


class LedgerLane(PeriodicLane):
    """Acknowledged writes with unique ids. The intent is written down before the write is sent, its outcome after."""

    def __init__(self, prober: Prober, number: int, config: dict[str, Any]) -> None:
        super().__init__(prober, number, config)
        self.method, _, path = config["routes"]["write"].partition(" ")
        self.url = joined(config["url"], path)
        self.read_method, _, read_path = config["routes"]["read"].partition(" ")
        self.read_url = joined(config["url"], read_path)
        # A scenario may fix the seed: without the nonce, the writes of an earlier run would be taken for this one's.
        self.nonce = os.urandom(4).hex()
        self.texts: dict[str, str] = {}
        self.in_flight = 0

    def probe(self, due: float) -> None:
        sequence = self.next_sequence()
        key = "%s%s-%d" % (self.prober.seed, self.nonce, sequence)
        text = "blackstart drill write %s %s" % (key, os.urandom(4).hex())
        try:
            self.prober.recorder.ledger(key, "invoked")
        except OSError as error:
            self.void(due, str(error))
            return
        self.texts[key] = text
        self.in_flight += 1
        exchange = Exchange(self.prober.net, request_to(self.url, self.method, {"id": key, "text": text}), self.limits, self.done)
        exchange.tag = (due, sequence, key)
        exchange.start()

    def done(self, exchange: Exchange) -> None:
        self.in_flight -= 1
        verdict = Judgement(exchange.outcome, exchange.detail)
        if exchange.outcome == "ok":
            verdict = judge_status(exchange.answer)
            if verdict is OK and exchange.answer.status not in (200, 201):
                verdict = Judgement("malformed", "status %d acknowledges nothing" % exchange.answer.status)
        event = "acked" if verdict is OK else "indeterminate" if exchange.requested else "failed"
        with contextlib.suppress(OSError):  # an intent without an outcome is read as indeterminate, which is what it now is
            self.prober.recorder.ledger(exchange.tag[2], event)
        self.observe_exchange(exchange, verdict)


class ReadBack:
    """Reads every write of a ledger back until two scans agree and leave nothing unread, or time is up."""

    def __init__(self, lane: LedgerLane) -> None:
        self.lane = lane
        self.found: dict[str, str] = {}

    async def run(self) -> dict[str, int]:
        """The number of writes by what became of them; the ledger file gets one line for each."""
        lane = self.lane
        lane.ended = True
        deadline = monotonic() + READ_BACK_S
        while lane.in_flight and monotonic() < deadline:  # noqa: ASYNC110  an Event would belong to another loop on 3.8
            await asyncio.sleep(0.01)
        before: dict[str, str] | None = None
        while monotonic() < deadline:
            await self.scan(deadline)
            if self.found == before and "unread" not in before.values():
                break
            before = dict(self.found)
            await asyncio.sleep(READ_AGAIN_S)
        for number, key in enumerate(lane.texts):
            lane.prober.recorder.ledger(key, self.found.get(key, "unread"))
            if number % 500 == 499:
                await asyncio.sleep(0)  # thousands of lines would hold the other lanes up
        return dict(collections.Counter(self.found.get(key, "unread") for key in lane.texts))

    async def scan(self, deadline: float) -> None:
        waiting = collections.deque(self.lane.texts)
        await asyncio.gather(*(self.work(waiting, deadline) for _ in range(READERS)))

    async def work(self, waiting: collections.deque[str], deadline: float) -> None:
        sock: Any = None
        while waiting and monotonic() < deadline:
            key = waiting.popleft()
            if sock is not None and readable(sock):
                sock.close()
                sock = None
            exchange = await self.ask(key, sock)
            sock = exchange.sock
            self.found[key] = self.judge(key, exchange)
        if sock is not None:
            sock.close()

    async def ask(self, key: str, sock: Any) -> Exchange:
        lane = self.lane
        future: asyncio.Future[Exchange] = lane.prober.net.loop.create_future()
        request = request_to(lane.read_url.replace("{id}", key), lane.read_method, keep=True)
        exchange = Exchange(lane.prober.net, request, lane.limits, future.set_result)
        exchange.keep = True
        exchange.start(sock)
        return await future

    def judge(self, key: str, exchange: Exchange) -> str:
        if exchange.outcome != "ok":
            return "unread"
        if exchange.answer.status == 404:
            return "lost"
        if exchange.answer.status != 200:
            return "unread"
        try:
            value = parsed(exchange.answer.body)
        except Malformed:
            return "corrupt"
        if isinstance(value, list) and len(value) > 1:
            return "duplicated"
        entry = value[0] if isinstance(value, list) and value else value
        return "present" if isinstance(entry, dict) and entry.get("text") == self.lane.texts[key] else "corrupt"


class ControlLane(PeriodicLane):
    """Pings an echo in another process on this machine: when that is late, the machine is to blame, not the service."""

    def __init__(self, prober: Prober, number: int, config: dict[str, Any]) -> None:
        super().__init__(prober, number, config)
        self.sock, self.lifeline = echo()
        self.sock.setblocking(False)
        self.waiting: dict[int, tuple[float, float]] = {}

    def prepare(self) -> None:
        self.prober.net.loop.add_reader(self.sock.fileno(), self.heard)

    def probe(self, due: float) -> None:
        self.give_up(monotonic() - CONTROL_TIMEOUT_S)
        sequence = self.next_sequence()
        sent = monotonic()
        self.waiting[sequence] = (due, sent)
        try:
            self.sock.send(struct.pack("<I", sequence))
        except OSError:
            self.conclude(sequence, "refused", NAN)

    def give_up(self, before: float) -> None:
        for sequence in [number for number, (_, sent) in self.waiting.items() if sent < before]:
            self.conclude(sequence, "timeout", NAN)

    def heard(self) -> None:
        try:
            data = self.sock.recv(64)
        except OSError:
            return
        sequence = struct.unpack("<I", data)[0]
        if sequence in self.waiting:
            self.conclude(sequence, "ok", monotonic())

    def conclude(self, sequence: int, outcome: str, first: float) -> None:
        due, sent = self.waiting.pop(sequence)
        self.observe(Observation(self.number, outcome, 0, sequence, due, sent, first, monotonic()))


def echo() -> tuple[socket.socket, int]:
    """Forks the control lane's other end: a socket that is connected to it, and the pipe that it ends with.

    A fork and no program of its own: a second interpreter takes as long to start as the prober itself.
    """
    here, there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    there.bind(("127.0.0.1", 0))
    here.connect(there.getsockname())
    ended, lifeline = os.pipe()
    if os.fork():
        there.close()
        os.close(ended)
        return here, lifeline
    try:
        die_with_parent(signal.SIGKILL)
        keep_only(there.fileno(), ended)
        send_back(there, ended)
    finally:
        os._exit(0)


def keep_only(*descriptors: int) -> None:
    """Closes all others: the prober's standard input and output, held open here, would hide its end."""
    low = 0
    for kept in sorted(descriptors):
        os.closerange(low, kept)
        low = kept + 1
    os.closerange(low, EARLY_DESCRIPTORS)


def send_back(sock: socket.socket, ended: int) -> None:
    """Until the other end of the pipe is closed."""
    while True:
        ready = select.select([sock.fileno(), ended], [], [])[0]
        if ended in ready:
            return
        data, peer = sock.recvfrom(64)
        sock.sendto(data, peer)


# ---------------------------------------------------------------- the process


def say(value: Any) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: standard input tells that in order
        os.write(1, json.dumps(value).encode() + b"\n")


def die_with_parent(number: int) -> None:
    """Linux: the kernel sends this signal when the thread that started this process ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG


def sharpen() -> None:
    """Descriptors, timer slack, priority: whatever the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK, one nanosecond
    with contextlib.suppress(OSError):  # an ordinary user may not; late probes are void then
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    gc.collect()
    gc.freeze()


LANES: dict[str, Callable[[Prober, int, dict[str, Any]], Lane]] = {
    "fresh": LightLane,
    "health": LightLane,
    "reuse": ReuseLane,
    "semantic": GoldenLane,
    "replica": GoldenLane,
    "workload": GoldenLane,
    "stream": StreamLane,
    "ledger": LedgerLane,
    "control": ControlLane,
}


class Prober:
    """All lanes of one drill."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.loop = asyncio.new_event_loop()
        self.origin = monotonic() if config.get("origin") is None else float(config["origin"])
        self.seed = config["seed"]
        self.keep_raw = bool(config.get("keep_raw"))  # somebody still reads the files
        self.random = random.Random(self.seed)  # noqa: S311  repeatable on purpose
        os.makedirs(config["folder"], exist_ok=True)
        self.recorder = Recorder(config["folder"], self.origin)
        self.net = Net(self.loop)
        self.ticker = Ticker(self.loop)
        self.lanes = [LANES[lane["kind"]](self, number, lane) for number, lane in enumerate(config["lanes"])]
        self.disk = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self.syncing: concurrent.futures.Future[None] | None = None
        self.reading: asyncio.Task[None] | None = None
        self.lines = b""
        self.flushes = 0

    def run(self) -> None:
        """Until told to end. Leaves through os._exit: a resolver's thread may hang for as long as it likes."""
        self._describe()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stop)
        self.loop.add_reader(0, self._input)
        self._flush()
        self._clock()
        sharpen()
        for lane in self.lanes:
            lane.prepare()
        t0 = monotonic() + 0.02
        for lane in self.lanes:
            lane.start(t0)
        self.ticker.start()
        say({"event": "ready", "pid": os.getpid(), "t": monotonic() - self.origin})
        self.loop.run_forever()

    def _describe(self) -> None:
        """lanes.json: what each lane number means."""
        keys = ("name", "kind", "url", "period_s", "component")
        lanes = [{key: lane.config.get(key, 0.0 if key == "period_s" else "") for key in keys} for lane in self.lanes]
        path = os.path.join(self.recorder.folder, "lanes.json")
        with open(path + ".part", "w") as file:
            json.dump(lanes, file)
        os.replace(path + ".part", path)

    def _input(self) -> None:
        data = os.read(0, 65536)
        if not data:
            self.stop()
        self.lines += data
        while b"\n" in self.lines:
            line, _, self.lines = self.lines.partition(b"\n")
            if line.strip() == b"stop":
                self.stop(packed=not self.keep_raw)
            elif line.strip() == b"read-back" and self.reading is None:
                self.reading = self.loop.create_task(self._read_back())
            elif line.startswith(b"move "):
                told = json.loads(line[5:])
                for lane in self.lanes:
                    if lane.config.get("component") == told["component"]:
                        lane.move(told["url"])

    async def _read_back(self) -> None:
        counts: collections.Counter[str] = collections.Counter()
        for lane in self.lanes:
            if isinstance(lane, LedgerLane):
                counts.update(await ReadBack(lane).run())
        self.recorder.flush()
        self.recorder.sync()
        say({"event": "read-back-done", "counts": counts})
        self.reading = None

    def _flush(self) -> None:
        self.recorder.flush()
        self.flushes += 1
        idle = self.syncing is None or self.syncing.done()
        if self.recorder.ledger_dirty and idle and self.flushes % SYNC_EVERY == 0:
            self.recorder.ledger_dirty = False
            self.syncing = self.disk.submit(self.recorder.sync)
        self.loop.call_later(FLUSH_S, self._flush)

    def _clock(self) -> None:
        self.recorder.clock()
        self.loop.call_later(1.0, self._clock)

    def stop(self, *, packed: bool = False) -> None:
        """Ends in order; only `stop` has time to compress. What still waits for its answer is `unanswered`: a hang must not
        go unseen because watching ended before a patient client gave up. How long it had waited says what that means.
        """
        self.ticker.running = False
        for exchange in list(self.net.exchanges):
            if isinstance(exchange.lane, PeriodicLane) and exchange.lane.kind != "ledger":
                exchange.finish("unanswered", "still waiting when watching ended")
        self.recorder.clock()
        self.recorder.flush()
        if packed:
            compress(self.recorder.folder)
        used = resource.getrusage(resource.RUSAGE_SELF)
        counts = self.recorder.counts
        say(
            {
                "event": "stopped",
                "sent": sum(counts.values()),
                "void": counts["void"],
                "cpu_s": round(used.ru_utime + used.ru_stime, 3),
                "latest_s": round(self.ticker.latest, 6),
            }
        )
        os._exit(0)


def read_config(path: str) -> dict[str, Any]:
    """From a file, or with `-` from the first line of standard input, byte by byte so that commands behind it stay there."""
    if path != "-":
        with open(path, "rb") as file:
            return dict(json.load(file))
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit("standard input ended before the configuration did")
        line += byte
    return dict(json.loads(line))


def ask() -> None:
    """One question for somebody who cannot reach the service: `{"url", "data", "limit_s"}` in, `{"answer"}` or `{"error"}` out."""
    asked = read_config("-")
    try:
        answer = fetched(Request(Target.of(asked["url"]), base64.b64decode(asked["data"])), asked["limit_s"])
        say({"answer": base64.b64encode(answer).decode()})
    except (OSError, Malformed) as error:
        say({"error": str(error)})


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        sys.stderr.write("usage: prober.py CONFIG.json, or - for standard input, or --ask\n")
        return 2
    if argv[0] == "--ask":
        ask()
        return 0
    config = read_config(argv[0])
    if config.get("parent"):
        die_with_parent(signal.SIGTERM)
        if os.getppid() != config["parent"]:
            return 0
    Prober(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
