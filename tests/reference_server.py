"""A model server of known faults: it misbehaves on command and logs when, on the clock that probers use.

It runs in its own process, so that a busy test does not delay it, and knows when each of its outages began and ended:

    with reference_server.start(golden={"2+2=": " 4"}) as server:
        ask(server.url)
        server.behave("hang")                      # until told otherwise; returns the moment as (lo, hi)
        server.behave("ok")
        server.play([(0.5, "503", 0.2), (1.0, "refuse", 0.3)])    # wait 0.5 s, 0.2 s of 503, wait 1 s, ...
        server.outages(2)                          # waits until both are over; Truth(behaviour, start, end), CLOCK_MONOTONIC

Behaviours: ok; refuse (nobody listens, open connections are reset); reset (accepted, then reset); close (accepted, then closed
without a byte); 503, 429, 404, 302; hang (held, all answered when it ends); never (accepted, never answered); slow (answered
after `delay_s`); wrong, wrong-model, error, empty, malformed, no-finish (all with status 200); truncate, cut, stall (half an
answer, then an orderly end, a reset, or silence); ping (a stream of comments without a token); lose, corrupt (writes are acknowledged, then not kept or kept wrong).
`only="b1"` confines a behaviour to one of the `backends` that take turns.

It answers GET of anything (200), POST /v1/completions (also streamed), POST /v2/models/M/infer, POST /predict (JSON), and
keeps POST /v1/feedback for GET /v1/feedback/ID. One file of more than 300 lines, because it is both ends of one process.
"""

import asyncio
import contextlib
import json
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MODEL = "tiny"
RESET = struct.pack("ii", 1, 0)


class Truth(NamedTuple):
    """An outage as the server knows it: `start` and `end` are (lo, hi) in seconds on CLOCK_MONOTONIC. It begins with the last answer
    before it at the earliest and ends with the first after it at the latest: between an answer and the change a busy machine may have
    kept the server from giving one.
    """

    behaviour: str
    start: tuple[float, float]
    end: tuple[float, float]


class ReferenceServer:
    """The test's side of a server process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, scheme: str) -> None:
        self.process, self.port = process, port
        self.url = f"{scheme}://127.0.0.1:{port}"

    def _tell(self, **command: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return _line(self.process)

    def behave(self, behaviour: str, *, delay_s: float = 0.0, only: str = "") -> tuple[float, float]:
        """From now on; returns the bounds of the moment of the change on CLOCK_MONOTONIC."""
        lo, hi = self._tell(do="behave", behaviour=behaviour, delay_s=delay_s, only=only)
        return lo, hi

    def play(self, script: Sequence[tuple[float, str, float]]) -> None:
        """Starts a script of (wait_s, behaviour, hold_s) and returns at once."""
        self._tell(do="play", script=list(script))

    def outages(self, count: int, timeout_s: float = 60.0) -> list[Truth]:
        """The first `count` outages of all time, as soon as they are over."""
        deadline = time.monotonic() + timeout_s
        while True:
            done = [Truth(b, tuple(start), tuple(end)) for b, start, end in self._tell(do="outages")]
            if len(done) >= count:
                return done[:count]
            if time.monotonic() > deadline:
                raise AssertionError(f"after {timeout_s} s the server has been through {len(done)} of {count} outages")
            select.select([], [], [], 0.02)

    def stored(self) -> dict[str, str]:
        """The writes that the server holds: id to text."""
        return dict(self._tell(do="stored"))

    def tamper(self, ids: Sequence[str], how: str) -> None:
        """`forget`, `damage` or `double` writes that were acknowledged."""
        self._tell(do="tamper", ids=list(ids), how=how)

    def counts(self) -> dict[str, int]:
        """`connections` and `requests` so far."""
        return dict(self._tell(do="counts"))


def _line(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], 30)[0]:
        raise AssertionError("the reference server has not answered for 30 s")
    line = process.stdout.readline()
    assert line, "the reference server has ended"
    return json.loads(line)


@contextlib.contextmanager
def start(**options: Any) -> Iterator[ReferenceServer]:
    """A running server. Options: golden {prompt: text}, backends n, token_s, latency_s, certificate (cert, key paths), port."""
    argv = [sys.executable, "-I", str(Path(__file__)), json.dumps(options)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield ReferenceServer(process, _line(process)["port"], "https" if options.get("certificate") else "http")
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# The server's own side, in its own process.


class Connection(asyncio.Protocol):
    """Requests in, answers out as the server behaves at the moment at which a request is complete."""

    def __init__(self, server: "Server") -> None:
        self.server, self.buffer = server, bytearray()
        self.silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.server.open.add(self)
        self.server.connections += 1

    def connection_lost(self, _error: Exception | None) -> None:
        self.server.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
            length = int(headers.get("content-length", 0))
            if len(self.buffer) < end + 4 + length:
                return
            body = bytes(self.buffer[end + 4 : end + 4 + length])
            del self.buffer[: end + 4 + length]
            method, path, _ = head[0].split(" ")
            close = headers.get("connection", "").lower() == "close"
            self.server.take(Request(self, method, path, body, close, self.server.next_backend()))

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()


class Request(NamedTuple):
    connection: Connection
    method: str
    path: str
    body: bytes
    close: bool
    backend: str


class Server:
    def __init__(self, options: dict[str, Any]) -> None:
        self.golden: dict[str, str] = options.get("golden", {})
        self.backends: int = options.get("backends", 1)
        self.token_s: float = options.get("token_s", 0.005)
        self.latency_s: float = options.get("latency_s", 0.0)
        self.certificate = options.get("certificate")
        self.port: int = options.get("port", 0)
        self.behaviour, self.delay_s, self.only = "ok", 0.0, ""
        self.open: set[Connection] = set()
        self.held: list[Request] = []
        self.store: dict[str, list[str]] = {}
        self.log: list[tuple[str, tuple[float, float], tuple[float, float]]] = []
        self.unanswered = False  # whether nobody has had an answer since the last outage
        self.answered = time.monotonic()  # when the last answer went out, or when the first could have
        self.began: tuple[float, float] = (0.0, 0.0)
        self.connections = self.requests = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()

    def next_backend(self) -> str:
        self.requests += 1
        return f"b{self.requests % self.backends}"

    def listen(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        sock.listen(1024)
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self.socket = sock
        self.context = None
        if self.certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*self.certificate)
        asyncio.get_running_loop().add_reader(sock, self.accept)

    def accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = self.socket.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.spawn(loop.connect_accepted_socket(lambda: Connection(self), sock, ssl=self.context))

    def spawn(self, work: Any) -> None:
        async def run() -> None:
            with contextlib.suppress(OSError):
                await work

        task = asyncio.get_running_loop().create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def behave(self, behaviour: str, delay_s: float, only: str) -> tuple[float, float]:
        lo = time.monotonic()
        before, self.behaviour, self.delay_s, self.only = self.behaviour, behaviour, delay_s, only
        if before == "refuse" and behaviour != "refuse":
            self.listen()
        if behaviour == "refuse" and before != "refuse":
            asyncio.get_running_loop().remove_reader(self.socket)
            self.socket.close()
        if behaviour in ("refuse", "reset"):
            for connection in tuple(self.open):
                connection.reset()
        self.changed.set()
        self.changed = asyncio.Event()
        held, self.held = self.held, []
        for request in held:
            self.take(request)
        now = (lo, time.monotonic())
        if before != "ok":
            self.log.append((before, self.began, now))
            self.unanswered = behaviour == "ok"
        self.began = (self.answered, now[1]) if before == "ok" else now
        self.answered = now[0]
        return now

    async def play(self, script: list[tuple[float, str, float]]) -> None:
        due = time.monotonic()
        for wait_s, behaviour, hold_s in script:
            due += wait_s
            await asyncio.sleep(due - time.monotonic())
            self.behave(behaviour, 0.0, "")
            due += hold_s
            await asyncio.sleep(due - time.monotonic())
            self.behave("ok", 0.0, "")

    def take(self, request: Request) -> None:
        behaviour = self.behaviour if self.only in ("", request.backend) else "ok"
        if behaviour == "hang":
            self.held.append(request)
        elif behaviour in ("reset", "refuse"):
            request.connection.reset()
        elif behaviour == "close":
            request.connection.transport.close()
        elif behaviour != "never":
            self.spawn(self.answer(request, behaviour, self.delay_s if behaviour == "slow" else self.latency_s))

    async def answer(self, request: Request, behaviour: str, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        transport = request.connection.transport
        status, body, events = self.content(request, behaviour)
        if events is not None:
            await self.stream(request, behaviour, events)
            return
        close = "close" if request.close else "keep-alive"
        head = (
            f"HTTP/1.1 {status} X\r\nx-backend: {request.backend}\r\ncontent-length: {len(body)}\r\nconnection: {close}\r\n\r\n"
        )
        if behaviour in ("truncate", "cut", "stall"):
            transport.write(head.encode() + body[: len(body) // 2])
            await self.break_off(request, behaviour)
            return
        transport.write(head.encode() + body)
        self.answered = time.monotonic()
        if self.unanswered:
            name, start, (lo, _) = self.log[-1]
            self.log[-1], self.unanswered = (name, start, (lo, self.answered)), False
        if request.close:
            transport.close()

    async def break_off(self, request: Request, behaviour: str) -> None:
        if behaviour == "truncate":
            request.connection.transport.close()
        elif behaviour == "cut":
            await asyncio.sleep(0.02)  # a reset discards what the client has not read yet: let the first half arrive
            request.connection.reset()

    async def stream(self, request: Request, behaviour: str, events: list[str]) -> None:
        transport = request.connection.transport
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n"
        transport.write(f"{head}x-backend: {request.backend}\r\n\r\n".encode())
        for n, event in enumerate(events):
            if transport.is_closing():
                return
            now = self.behaviour if self.only in ("", request.backend) else "ok"
            broken = now if now in ("truncate", "cut", "stall") else behaviour
            if broken in ("truncate", "cut", "stall") and n >= len(events) // 2:
                await self.break_off(request, broken)
                return
            if now == "hang":
                await self.changed.wait()
            while now == "ping" and self.behaviour == "ping" and not transport.is_closing():
                transport.write(b"8\r\n: ping\n\n\r\n")
                await asyncio.sleep(0.05)
            data = f"data: {event}\n\n".encode()
            transport.write(b"%x\r\n%s\r\n" % (len(data), data))
            await asyncio.sleep(self.token_s)
        transport.write(b"0\r\n\r\n")
        transport.close()

    def content(self, request: Request, behaviour: str) -> tuple[int, bytes, list[str] | None]:
        """The status, the body, and for a stream its events instead of a body."""
        failure = {"malformed": b"<html>not what was asked for</html>", "error": b'{"error": {"message": "scripted"}}'}
        if behaviour.isdigit() or behaviour in failure:
            return (int(behaviour), failure["error"], None) if behaviour.isdigit() else (200, failure[behaviour], None)
        if request.path.startswith("/v1/feedback"):
            return self.feedback(request, behaviour)
        if request.method == "POST" and request.path == "/v1/completions":
            return self.completion(json.loads(request.body), behaviour)
        if request.method != "POST":
            return 200, b"ok", None
        if request.path.endswith("/infer"):
            value = self.inference(request, behaviour)
        else:
            value = {"nearest": "nothing" if behaviour == "wrong" else "hello world", "score": 0.5}
        return 200, json.dumps(value).encode(), None

    def inference(self, request: Request, behaviour: str) -> dict[str, Any]:
        data = [0.75, 0.25] if behaviour == "wrong" else [0.5, 0.25]
        output = {"name": "embedding", "datatype": "FP32", "shape": [1, 2], "data": data}
        model = "other" if behaviour == "wrong-model" else request.path.split("/")[3]
        return {"model_name": model, "outputs": [] if behaviour == "empty" else [output]}

    def feedback(self, request: Request, behaviour: str) -> tuple[int, bytes, None]:
        if request.method == "POST":
            entry = json.loads(request.body)
            if behaviour != "lose":
                self.store[entry["id"]] = [entry["text"] + ("?" if behaviour == "corrupt" else "")]
            return 201, b"{}", None
        key = request.path.rsplit("/", 1)[1]
        found = [{"id": key, "text": text} for text in self.store.get(key, [])]
        return (404, b"{}", None) if not found else (200, json.dumps(found[0] if len(found) == 1 else found).encode(), None)

    def completion(self, question: dict[str, Any], behaviour: str) -> tuple[int, bytes, list[str] | None]:
        prompt, limit = question["prompt"], question.get("max_tokens", 16)
        model = "other" if behaviour == "wrong-model" else question.get("model", MODEL)
        finish = None if behaviour == "no-finish" else "length"
        known = self.golden.get(prompt, " an answer")
        start = {"wrong": " something else", "empty": ""}.get(behaviour, known)
        tokens = [start] + ([] if behaviour == "empty" else [f" w{n}" for n in range(1, limit)])
        if not question.get("stream"):
            choice = {"index": 0, "text": "".join(tokens), "finish_reason": finish}
            return 200, json.dumps({"object": "text_completion", "model": model, "choices": [choice]}).encode(), None
        chunks = [{"text": token, "finish_reason": None} for token in tokens] + [{"text": "", "finish_reason": finish}]
        return 200, b"", [json.dumps({"model": model, "choices": [chunk]}) for chunk in chunks] + ["[DONE]"]

    def tamper(self, ids: list[str], how: str) -> None:
        for key in ids:
            if how == "forget":
                del self.store[key]
            elif how == "damage":
                self.store[key] = ["damaged"]
            else:
                self.store[key] *= 2

    def obey(self, command: dict[str, Any]) -> Any:
        do = command.pop("do")
        if do == "behave":
            return self.behave(**command)
        if do == "play":
            return self.spawn(self.play(command["script"]))
        if do == "tamper":
            return self.tamper(**command)
        if do == "stored":
            return {key: texts[0] for key, texts in self.store.items()}
        return {"outages": self.log, "counts": {"connections": self.connections, "requests": self.requests}}[do]


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def serve(options: dict[str, Any]) -> None:
    server, ended = Server(options), asyncio.Event()
    server.listen()
    lines = bytearray()

    def on_input() -> None:
        data = sys.stdin.buffer.raw.read(65536)  # type: ignore[attr-defined]  raw: select and buffers do not mix
        if not data:
            ended.set()
            return
        lines.extend(data)
        while (end := lines.find(b"\n")) >= 0:
            command = json.loads(lines[:end])
            del lines[: end + 1]
            say(server.obey(command))

    asyncio.get_running_loop().add_reader(0, on_input)
    say({"port": server.port})
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
