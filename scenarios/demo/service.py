"""The bundled demo model service: a small, real language model behind a gateway, with a feedback store and a supervisor.

    python3 service.py serve --folder DIR [--replicas 2] [--base-port 8000] [--hardened | --fix NAME ...] [--links --proxy PROXY]
        [--disaggregated]

One file, standard library only, Python 3.8 or newer, so that the very same code runs as local processes, under `docker run`
in any python image and in a pod without building one: this is why it is longer than a module of the package may be.

Processes: `serve` (supervisor), `replica` (OpenAI API) each with an `engine` child that computes, `gateway`, `store` and `standby`;
with --with-model-store also a `model-store`, from which a starting replica fetches its model, piece by piece.
With --disaggregated a `prefill` worker and so many `decode` workers stand in the replicas' place: each is what a replica is, but
a decode worker has the prompt computed by the prefill worker, and goes on from the KV cache that comes back.
All listen on 127.0.0.1 unless --host says otherwise. In a pod each role is the first process of its container, found by name;
`install` is what its init container runs.

By default the service has the flaws that real services have; each is switched off by --fix NAME, all by --hardened:
  drain           SIGTERM cuts open streams             | stops being ready, finishes what is open, exits
  gateway-health  trusts /health, 30 s limit, no retry  | asks /ready, ejects fast, short first-byte limit, retries elsewhere
  engine-death    the API outlives a dead or hung engine| notices it (heartbeat), is not ready, restarts the engine
  weights         maps the file, checks nothing; fetches| reads at start, verifies the manifest, refuses, restores;
                  it anew at every start, without limit | fetches only what its own copy lacks
  version         any revision may answer               | /v1/models carries the digest, the gateway routes to the pinned one only
  replication     acknowledges before the standby has it| acknowledges after; degrades explicitly when the standby is gone
  overload        unbounded queue, computes for nobody  | bounded queue, 429 and Retry-After, drops abandoned, readmits gradually;
                                                        | long prompts come after short ones and get half of the cache
  discovery       asks the resolver at each connection  | goes by the last address of a name while the resolver is silent
  kv-transfer     waits for a KV cache without limit, if| after 1 s of silence computes the prompt itself, as it does until a light
                  for nobody, or fails where none comes | check of the prefill worker answers again

The engine stands for an accelerator: a prompt costs it --prefill-cost seconds and PROMPT_TOKEN_COST for each of its words, a token
--token-cost, whatever the CPU needs;
running requests take turns, a streamed one is paced at --token-time. A freshly loaded engine is slow for its first --cold-steps,
as real ones are that compile and fill caches on first use; hardened (overload) it warms up before it is ready, by default only
the supervisor's first start warms it. Answers are greedy: `temperature` is accepted and ignored.

A KV cache is its prompt's tokens, with the digest of the weights where the engine knows it: what a decode engine needs to go on
without the prompt's cost, and what it compares, so that one that is not its own prompt's is never used. Real stacks have the flaw and
its repair: vLLM by default fails the request when its cache cannot be loaded, and can compute it instead (`kv_load_failure_policy`:
https://github.com/vllm-project/vllm/blob/main/docs/features/nixl_connector_usage.md); SGLang waits for it for 300 s by default, and no
longer counts on a prefill worker that missed two light checks (SGLANG_DISAGGREGATION_WAITING_TIMEOUT, ..._HEARTBEAT_MAX_FAILURE:
https://github.com/sgl-project/sglang/blob/main/docs/advanced_features/pd_disaggregation.md).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import hashlib
import json
import math
import mmap
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from operator import mul
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Deque,
    Dict,
    Iterable,
    List,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
    cast,
)

FIXES = ("drain", "gateway-health", "engine-death", "weights", "version", "replication", "overload", "discovery", "kv-transfer")
ROLES_BY_LETTER = {"r": "replica", "p": "prefill", "d": "decode"}  # of workers, which are called r0, p0, d0, ...
MODEL = "demo"
COLD = 20  # how many times slower a freshly loaded engine computes
MODEL_FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
STALE_FILE = "model-stale.safetensors"
PIECE = 8192  # bytes of a file in one answer of the model store
STORE_LIMIT = 10.0  # hardened: seconds for each of them
MAX_TOKENS = 4096
MAX_BODY = 16 << 20
CONTEXT_SLOTS = 8192  # tokens that the stand-in for a KV cache has room for
LONG = 256  # words of a prompt beyond which it counts as a long one
PROMPT_TOKEN_COST = 0.0001  # seconds

Json = Dict[str, Any]
Address = Tuple[str, int]


@dataclass(frozen=True)
class Settings:
    """The command line, parsed. Times in seconds."""

    role: str
    name: str
    host: str
    port: int
    folder: str
    package: str
    fix: Tuple[str, ...]
    replicas: int
    base_port: int
    links: bool
    proxy: str
    tied: bool
    oracle: str
    load_time: float
    token_time: float
    token_cost: float
    prefill_cost: float
    cold_steps: int
    max_seqs: int
    max_queue: int
    restart_delay: float
    drain_limit: float
    first_sign: float  # shorter than a user's or a probe's own limit
    next_sign: float
    backends: Tuple[Tuple[str, Address], ...]
    stores: Tuple[Tuple[str, Address], ...]
    peer: Optional[Address]
    model_store: Optional[Address]
    with_model_store: bool
    disaggregated: bool
    prefill_worker: Optional[Address]
    fd: int

    def fixed(self, name: str) -> bool:
        """Whether this flaw is switched off."""
        return name in self.fix


def note(settings: Settings, event: str, **facts: object) -> None:
    """One JSON line on stderr, and in the oracle file, where later tests of a measuring tool read what truly happened."""
    record = {"t": time.monotonic(), "wall": time.time(), "component": settings.name, "pid": os.getpid(), "event": event, **facts}
    line = json.dumps(record) + "\n"
    sys.stderr.write(line)
    sys.stderr.flush()
    if settings.oracle:
        target = os.open(settings.oracle, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(target, line.encode())  # one write with O_APPEND: lines of several processes do not mix
        finally:
            os.close(target)


def _libc_prctl() -> Optional[Callable[..., int]]:
    if not sys.platform.startswith("linux"):
        return None
    call: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    return call


_PRCTL = _libc_prctl()  # loaded before any fork: a child between fork and exec must not load libraries


def dies_with(parent: int) -> Callable[[], None]:
    """Runs in a new child before exec: on Linux the kernel then kills it when `parent`, who forks it, is gone."""

    def arrange() -> None:
        if _PRCTL is not None:
            _PRCTL(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG survives exec
            if os.getppid() != parent:
                os._exit(1)

    return arrange


def write_whole(path: str, content: bytes) -> None:
    """Replaces a file atomically, so that nobody reads half of it."""
    beside = f"{path}.{os.getpid()}.new"
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


# ---------------------------------------------------------------------------------------------------------------- model


class Unloadable(Exception):
    """The model's files cannot be served: missing, malformed, or not those of the manifest."""


Floats = List[float]
Numbers = Union[Floats, "memoryview[float]"]


def read_manifest(package: str) -> Dict[str, str]:
    """File name -> sha256, of the packaged original."""
    with open(os.path.join(package, "manifest.json"), encoding="utf-8") as file:
        digests: Dict[str, str] = json.load(file)["files"]
    return digests


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tensors_of(content: memoryview) -> Dict[str, memoryview[float]]:
    """The float32 tensors of a safetensors file, as views on it (https://github.com/huggingface/safetensors)."""
    try:
        (length,) = struct.unpack_from("<Q", content, 0)
        header = json.loads(bytes(content[8 : 8 + length]))
        found: Dict[str, memoryview[float]] = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            if entry["dtype"] != "F32" or 8 + length + end > len(content):
                raise Unloadable(f"tensor {name} is not float32 or lies beyond the end of the file")
            found[name] = content[8 + length + start : 8 + length + end].cast("f")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unloadable(f"not a safetensors file: {error!r}") from error
    return found


class LanguageModel:
    """A word-level n-gram network (train.py), evaluated in plain Python. Greedy: the same prompt, the same answer."""

    TENSORS = ("embedding.weight", "hidden.weight", "hidden.bias", "output.weight", "output.bias")
    WORDS = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")

    def __init__(self, weights: memoryview, files: Dict[str, bytes], *, mapped: bool) -> None:
        self.digest = "" if mapped else sha256(bytes(weights))  # of a mapped file it would be true for a moment only
        try:
            config = json.loads(files["config.json"])
            self.vocabulary: List[str] = json.loads(files["tokenizer.json"])["vocabulary"]
            template = json.loads(files["tokenizer_config.json"])
            self.chat_template: str = template["chat_template"]
            self.end: str = template["end"]
            self.context, self.embedding, self.hidden = config["context"], config["embedding"], config["hidden"]
            self.slope: float = config["slope"]
        except (ValueError, KeyError, TypeError) as error:
            raise Unloadable(f"configuration or tokenizer is damaged: {error!r}") from error
        views = tensors_of(weights)
        rows = len(self.vocabulary)
        width = self.context * self.embedding
        sizes = (rows * self.embedding, self.hidden * width, self.hidden, rows * self.hidden, rows)
        for name, size in zip(self.TENSORS, sizes):  # noqa: B905 - `strict` is not in Python 3.8
            if name not in views or len(views[name]) != size:
                raise Unloadable(f"tensor {name} is missing or has the wrong shape")
        self.index = {word: at for at, word in enumerate(self.vocabulary)}
        # A mapped model is read anew for each token, as a GPU-less server with mmap does: what happens to the file happens to it.
        self.tensors: Dict[str, Numbers] = {name: views[name] for name in self.TENSORS}
        if not mapped:
            self.tensors = {name: self._numbers(name) for name in self.TENSORS}

    def encode(self, text: str) -> List[int]:
        """Words to tokens; an unknown word is tried in lower case, then becomes `<unk>`."""
        index = self.index
        return [index.get(word, index.get(word.lower(), index["<unk>"])) for word in self.WORDS.findall(text)]

    def decode(self, token: int) -> str:
        """The text that a token adds to an answer."""
        word = self.vocabulary[token]
        return word if not word[0].isalnum() and word != "<unk>" else " " + word

    def _numbers(self, name: str) -> List[float]:
        values = self.tensors[name]
        return values if isinstance(values, list) else cast("Floats", values.tolist())

    def next_token(self, tokens: Sequence[int]) -> int:
        """The likeliest next token. NaN logits yield the first NaN, as argmax does in torch: token 0, `!`, when all are NaN."""
        window = [0] * (self.context - len(tokens)) + list(tokens[-self.context :])
        embedding = self.tensors["embedding.weight"]
        inputs: Floats = []
        for token in window:
            inputs.extend(embedding[token * self.embedding : (token + 1) * self.embedding])
        weights, width = self._numbers("hidden.weight"), len(inputs)
        hidden: Floats = []
        for row, bias in enumerate(self._numbers("hidden.bias")):
            value = sum(map(mul, weights[row * width : (row + 1) * width], inputs)) + bias
            hidden.append(value if value > 0 else self.slope * value)
        weights, width = self._numbers("output.weight"), self.hidden
        logits = [
            sum(map(mul, weights[row * width : (row + 1) * width], hidden)) + bias
            for row, bias in enumerate(self._numbers("output.bias"))
        ]
        if math.isnan(sum(logits)):
            for token, logit in enumerate(logits):
                if math.isnan(logit):
                    return token
        return max(range(len(logits)), key=logits.__getitem__)


def read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Unloadable(f"cannot read {path}: {error.strerror}") from error


def install_model(package: str, folder: str) -> None:
    """A replica's own copy; what is there already is left as it is, damaged or not."""
    os.makedirs(folder, exist_ok=True)
    for file in (*MODEL_FILES, STALE_FILE, "manifest.json"):
        target = os.path.join(folder, file)
        if not os.path.exists(target):
            shutil.copyfile(os.path.join(package, file), target)


def fetched(settings: Settings, name: str, limit: Optional[float]) -> bytes:
    """The original of a file of the model: from the model store where there is one, else from the package."""
    if settings.model_store is None:
        return read_file(os.path.join(settings.package, name))
    content, piece = b"", b"x"
    while piece:
        try:
            status, piece = exchanged(settings.model_store, f"GET /models/{name}/{len(content)}", b"", limit)
        except OSError as error:
            raise Unloadable(f"the model store does not answer: {error}") from error
        if status != 200:
            raise Unloadable(f"the model store answers {status} when it is asked for {name}")
        content += piece
    return content


def fetch_all(settings: Settings) -> None:
    """By its flaw a replica that starts wants all of its model again, whatever lies there, and waits for ever."""
    for name in MODEL_FILES:
        while True:
            try:
                write_whole(os.path.join(settings.folder, name), fetched(settings, name, None))
                break
            except Unloadable:
                time.sleep(0.2)  # nobody listens there yet
    note(settings, "fetched")


def load_as_is(folder: str) -> LanguageModel:
    """The default: maps whatever lies there and checks nothing but the layout."""
    path = os.path.join(folder, MODEL_FILES[0])
    files = {name: read_file(os.path.join(folder, name)) for name in MODEL_FILES[1:]}
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise Unloadable(f"cannot map {path}: {error}") from error
    return LanguageModel(memoryview(mapped), files, mapped=True)


def load_verified(settings: Settings) -> LanguageModel:
    """Hardened: what is served is exactly the bytes whose digest was checked; a damaged or foreign file is replaced first."""
    manifest = read_manifest(settings.package)
    files: Dict[str, bytes] = {}
    for name in MODEL_FILES:
        path = os.path.join(settings.folder, name)
        original = "model store" if settings.model_store else os.path.join(settings.package, name)
        try:
            content, why = read_file(path), ""
            if sha256(content) != manifest[name]:
                why = f"sha256 {sha256(content)}, but the manifest says {manifest[name]}"
        except Unloadable as error:
            content, why = b"", str(error)
        if why:
            note(settings, "refused", file=path, why=why)
            content = fetched(settings, name, STORE_LIMIT)
            if sha256(content) != manifest[name]:
                raise Unloadable(f"refusing {path}: {why}; the original {original} does not match the manifest either")
            write_whole(path, content)
            note(settings, "restored", file=path, source=original)
        files[name] = content
    return LanguageModel(memoryview(files[MODEL_FILES[0]]), files, mapped=False)


# --------------------------------------------------------------------------------------------------------------- engine


@dataclass
class Generation:
    """One request inside the engine."""

    number: int
    tokens: List[int]
    left: int
    paced: bool
    until_end: bool
    due: float
    prefill: int  # steps until the first token


class Engine:
    """Computes tokens for all running requests in turn (as continuous batching does) and speaks JSON lines over a socket pair.

    In: {"do": "generate", "id", "prompt", "max", "paced", "until_end", "cache"}, {"do": "cancel", "id"}, {"do": "ping", "id"}.
    Out: {"event": "loaded" | "failed", ...}, {"id", "prompt_tokens"}, {"id", "prefill": steps left}, {"id", "text", "finish"},
    {"pong": id, "running", "waiting", "kv"}; for a `max` of 0, in place of tokens, {"id", "cache", "finish"}.
    """

    def __init__(self, settings: Settings, channel: socket.socket) -> None:
        self.settings = settings
        self.channel = channel
        self.received = b""
        self.running: Deque[Generation] = deque()
        self.waiting: Deque[Generation] = deque()
        self.free_at = 0.0
        self.cold = settings.cold_steps

    def send(self, message: Json) -> None:
        self.channel.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def run(self) -> int:
        """Loads, then serves until the API process closes its end."""
        try:
            verified = self.settings.fixed("weights")
            if self.settings.model_store and not verified:
                fetch_all(self.settings)
            self.model = load_verified(self.settings) if verified else load_as_is(self.settings.folder)
        except Unloadable as error:
            note(self.settings, "load-refused", why=str(error))
            self.send({"event": "failed", "why": str(error)})
            return 1
        time.sleep(self.settings.load_time)
        if self.settings.fixed("overload"):
            time.sleep(self.cold * COLD * self.settings.token_cost)
            self.cold = 0
        self.send({"event": "loaded", "chat_template": self.model.chat_template, "digest": self.model.digest})
        note(self.settings, "loaded")
        while self.receive():
            self.step()
        return 0

    def receive(self) -> bool:
        """Waits for commands, but no longer than until there is a token to compute. False: the other end is closed."""
        readable, _, _ = select.select([self.channel], [], [], self.idle_for())
        if readable:
            data = self.channel.recv(1 << 16)
            if not data:
                return False
            *lines, self.received = (self.received + data).split(b"\n")
            for line in lines:
                self.obey(json.loads(line))
        return True

    def idle_for(self) -> Optional[float]:
        """Seconds until the next token may be computed; None when there is none to compute."""
        if not self.running and not self.waiting:
            return None
        if self.waiting and len(self.running) < self.settings.max_seqs:
            due = 0.0
        else:
            due = min(generation.due for generation in self.running)
        return max(0.0, max(due, self.free_at) - time.monotonic())

    def obey(self, command: Json) -> None:
        if command["do"] == "generate":
            tokens = self.model.encode(command["prompt"])
            cost = self.settings.prefill_cost + PROMPT_TOKEN_COST * len(tokens)
            due, prefill = time.monotonic(), max(round(cost / self.settings.token_cost), 0 if command["max"] else 1)
            if command.get("cache") is not None:
                if command["cache"] == self.cache_of(tokens):
                    prefill = 0
                else:
                    note(self.settings, "cache-refused")
            limits = (command["max"], command["paced"], command["until_end"])
            self.waiting.append(Generation(command["id"], tokens, *limits, due, prefill))
            self.send({"id": command["id"], "prompt_tokens": len(tokens)})
        elif command["do"] == "cancel":
            self.running = deque(kept for kept in self.running if kept.number != command["id"])
            self.waiting = deque(kept for kept in self.waiting if kept.number != command["id"])
        elif command["do"] == "ping":
            self.model.next_token([])  # the answer proves that the model can be evaluated, not only that a loop turns
            held = sum(len(generation.tokens) for generation in self.running)
            state = {"running": len(self.running), "waiting": len(self.waiting), "kv": min(1.0, held / CONTEXT_SLOTS)}
            self.send({"pong": command["id"], **state})

    def cache_of(self, tokens: List[int]) -> Json:
        """The KV cache of a prompt; see the head of this file. `weights` is empty where they are mapped, and so may change meanwhile."""
        return {"weights": self.model.digest, "tokens": tokens}

    def step(self) -> None:
        """One step for the request whose turn it is: a part of its prefill (so that long ones do not stop others), or a token."""
        now = time.monotonic()
        if now < self.free_at:
            return
        while self.waiting and len(self.running) < self.settings.max_seqs:
            self.running.append(self.waiting.popleft())
            self.send({"id": self.running[-1].number, "prefill": self.running[-1].prefill})
        # Decoding takes turns, prefill goes one after another: all at once, none would be done before its user left. By the flaw it
        # is first come first served, so that a short prompt waits for all long ones before it.
        by_size = self.settings.fixed("overload")
        order = [(each.prefill if by_size else 0, each.number) for each in self.running if each.prefill > 0]
        prefilled = min(order)[1] if order else None
        for _ in range(len(self.running)):
            generation = self.running.popleft()
            if generation.due <= now and (generation.prefill <= 0 or generation.number == prefilled):
                self.free_at = now + self.settings.token_cost * (COLD if self.cold > 0 else 1)
                self.cold -= 1
                if generation.prefill > 0:
                    self.send({"id": generation.number, "prefill": generation.prefill})
                    generation.prefill -= 1
                    if generation.prefill > 0 or generation.left > 0:
                        self.running.append(generation)
                    else:
                        self.send({"id": generation.number, "cache": self.cache_of(generation.tokens), "finish": "prefilled"})
                else:
                    self.advance(generation, now)
                return
            self.running.append(generation)

    def advance(self, generation: Generation, now: float) -> None:
        token = self.model.next_token(generation.tokens)
        generation.tokens.append(token)
        generation.left -= 1
        if generation.paced:
            # On the grid of its own beginning where it keeps up, so that pauses do not add up; never a burst to catch up.
            generation.due = max(generation.due + self.settings.token_time, now)
        finish = "length" if generation.left <= 0 else None
        if generation.until_end and self.model.vocabulary[token] == self.model.end:
            finish = "stop"
        self.send({"id": generation.number, "text": self.model.decode(token), "finish": finish})
        if finish is None:
            self.running.append(generation)


def run_engine(settings: Settings) -> int:
    """The engine process: a child of its replica, in the replica's process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if settings.fixed("drain"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a SIGTERM to the whole group is for the API process to drain upon
    channel = socket.socket(fileno=settings.fd)
    channel.setblocking(True)
    try:
        return Engine(settings, channel).run()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the API process is gone: so is the reason to live


# ----------------------------------------------------------------------------------------------------------------- HTTP

REASONS = {
    102: "Processing",
    200: "OK",
    201: "Created",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Payload Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class Malformed(Exception):
    """A request or an answer that is not the HTTP/1.1 spoken here."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def parse_head(head: bytes) -> Tuple[str, Dict[str, str]]:
    """First line and headers (names in lower case)."""
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise Malformed(400, f"no colon in header {line!r}")
        headers[name.strip().lower()] = value.strip()
    return first, headers


def error_body(status: int, message: str, kind: str) -> Json:
    """An error as OpenAI-compatible servers write it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


@dataclass
class Request:
    """One request and the means to answer it."""

    method: str
    path: str
    headers: Dict[str, str]
    body: bytes
    transport: asyncio.Transport
    keep: bool
    started: bool = False
    complete: bool = False
    told: float = 0.0  # monotonic, of the last sign of progress

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def progress(self) -> None:
        """An interim 102, now and then: the answer is being worked on. Only to a gateway that asked for it."""
        if not self.started and "x-progress" in self.headers and time.monotonic() - self.told > 0.1:
            self.told = time.monotonic()
            self.write(b"HTTP/1.1 102 Processing\r\n\r\n")

    def head(self, status: int, headers: Dict[str, str]) -> None:
        """Starts an answer; what follows is written as it is."""
        self.started = True
        headers = {**headers, "connection": "keep-alive" if self.keep else "close"}
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}", *(f"{name}: {value}" for name, value in headers.items())]
        self.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def respond(self, status: int, content: Union[Json, bytes], headers: Optional[Dict[str, str]] = None) -> None:
        """A whole answer: a JSON object, or bytes with their content-type in `headers`."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.head(status, {"content-type": "application/json", **(headers or {}), "content-length": str(len(body))})
        self.write(body)
        self.complete = True

    def refuse(self, status: int, message: str, kind: str = "ServiceError", retry_after: Optional[int] = None) -> None:
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self.respond(status, error_body(status, message, kind), headers)

    def chunk(self, data: bytes) -> None:
        """A piece of a chunked answer."""
        self.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.write(b"0\r\n\r\n")
        self.complete = True

    def json(self) -> Json:
        """The body as a JSON object."""
        try:
            content = json.loads(self.body)
        except ValueError as error:
            raise Malformed(400, f"the body is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise Malformed(400, "the body is not a JSON object")
        return content


Serve = Callable[[Request], Awaitable[None]]


class Connection(asyncio.Protocol):
    """A client's connection: requests one after another, kept alive. `server.drop`: work for a client that left is cancelled."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""
        self.task: Optional[asyncio.Task[None]] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:  # noqa: ARG002 - asyncio's signature
        self.server.connections.discard(self)
        if self.task is not None and self.server.drop:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.advance()

    def advance(self) -> None:
        """Begins the next request when it is there as a whole."""
        if self.task is not None:
            return
        try:
            request = self.parse()
        except Malformed as error:
            broken = Request("", "", {}, b"", self.transport, keep=False)
            broken.refuse(error.status, str(error), "BadRequestError")
            self.transport.close()
            return
        if request is not None:
            self.task = asyncio.get_event_loop().create_task(self.answer(request))

    def parse(self) -> Optional[Request]:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_BODY:
                raise Malformed(413, "the head is too long")
            return None
        first, headers = parse_head(self.buffer[:end])
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise Malformed(400, f"not an HTTP/1.1 request line: {first!r}")
        if "transfer-encoding" in headers:
            raise Malformed(411, "send the body with content-length")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            raise Malformed(413, "content-length is not a number or too large")
        stop = end + 4 + int(length)
        if len(self.buffer) < stop:
            return None
        body, self.buffer = self.buffer[end + 4 : stop], self.buffer[stop:]
        keep = parts[2] == "HTTP/1.1" and headers.get("connection", "").lower() != "close" and not self.server.closing
        return Request(parts[0], parts[1], headers, body, self.transport, keep)

    async def answer(self, request: Request) -> None:
        try:
            await self.server.serve(request)
        except Malformed as error:
            request.refuse(error.status, str(error), "BadRequestError")
        finally:
            self.task = None
            if not request.complete or not request.keep or self.server.closing:
                self.transport.close()
            else:
                self.advance()


class Server:
    """A listening socket and its connections."""

    def __init__(self, serve: Serve, *, drop: bool) -> None:
        self.serve = serve
        self.drop = drop
        self.closing = False
        self.connections: Set[Connection] = set()

    async def listen(self, settings: Settings) -> None:
        loop = asyncio.get_event_loop()
        self.listener = await loop.create_server(lambda: Connection(self), settings.host, settings.port, backlog=512)
        note(settings, "answering", port=settings.port)

    async def drain(self, limit: float) -> None:
        """Accepts no more, lets what is being answered finish, for at most `limit` seconds."""
        self.closing = True
        self.listener.close()
        deadline = time.monotonic() + limit
        for connection in list(self.connections):
            if connection.task is not None:
                await asyncio.wait([connection.task], timeout=max(0.0, deadline - time.monotonic()))


class Unreachable(Exception):
    """No connection, or it broke before the answer was whole."""


class Exchange:
    """One request to another component, on its own connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def begin(cls, address: Address, request: Tuple[str, str, bytes], headers: Optional[Dict[str, str]] = None) -> Exchange:
        """Connects and sends (method, path, body)."""
        try:
            reader, writer = await asyncio.open_connection(*address)
        except OSError as error:
            raise Unreachable(f"connect: {error.strerror or error}") from error
        method, path, body = request
        lines = [f"{method} {path} HTTP/1.1", f"host: {address[0]}:{address[1]}", "connection: close"]
        lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        return cls(reader, writer)

    async def head(self) -> Tuple[int, Dict[str, str]]:
        """Status and headers of the next answer, which may be an interim one (102)."""
        try:
            first, headers = parse_head((await self.reader.readuntil(b"\r\n\r\n"))[:-4])
            return int(first.split(" ")[1]), headers
        except (asyncio.IncompleteReadError, OSError, ValueError, IndexError, Malformed) as error:
            raise Unreachable("the connection broke before an answer") from error

    async def whole(self, headers: Dict[str, str]) -> bytes:
        """A body with content-length."""
        try:
            return await self.reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, OSError, KeyError, ValueError) as error:
            raise Unreachable("the connection broke inside an answer") from error

    async def piece(self) -> bytes:
        """More of a chunked body, framing included; b"" at the end of the connection."""
        try:
            return await self.reader.read(1 << 16)
        except OSError:
            return b""

    def close(self) -> None:
        self.writer.close()


async def ask(address: Address, method: str, path: str, content: Optional[Json], limit: float) -> Tuple[int, Json]:
    """A small question to another component: (status, JSON object). Unreachable when there is no whole answer in `limit`."""

    async def exchange() -> Tuple[int, Json]:
        body = b"" if content is None else json.dumps(content).encode()
        asked = await Exchange.begin(address, (method, path, body))
        try:
            status, headers = await asked.head()
            return status, json.loads(await asked.whole(headers))
        finally:
            asked.close()

    try:
        return await asyncio.wait_for(exchange(), limit)
    except asyncio.TimeoutError:
        raise Unreachable(f"no answer within {limit:g} s") from None
    except ValueError as error:
        raise Unreachable(f"not JSON: {error}") from error


def end_with_supervisor(settings: Settings) -> None:
    """--tied: standard input is a pipe that only the supervisor holds open (PR_SET_PDEATHSIG does the same, on Linux only)."""
    if settings.tied:

        def look() -> None:
            if not os.read(0, 4096):
                os._exit(0)

        asyncio.get_event_loop().add_reader(0, look)


def end_when_told() -> None:
    """The kernel spares the first process of a container every signal that it has no handler for, also SIGTERM while it loads."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))


def bury_orphans(own: Callable[[], int] = lambda: 0) -> None:
    """As the first process of a container, the heir of all whose parents ended: unburied, they stay zombies for ever.

    `own` is the pid of a child whose end somebody else here waits for; 0: there is none.
    """
    if os.getpid() != 1:
        return
    loop = asyncio.get_event_loop()

    def look() -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None:
                    return
                if found.si_pid == own():  # it hides those behind it until it is buried
                    loop.call_later(0.1, look)
                    return
                os.waitpid(found.si_pid, 0)

    loop.add_signal_handler(signal.SIGCHLD, look)


async def until_terminated() -> None:
    """Returns at SIGTERM or SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_event_loop().add_signal_handler(number, told.set)
    await told.wait()


# -------------------------------------------------------------------------------------------------------------- replica


class EngineLost(Exception):
    """The engine died or was given up while it owed an answer."""


class EngineLink:
    """The API process's side of its engine: starts it, talks to it and, when hardened, watches and restarts it."""

    HEARTBEAT, PATIENCE = 0.3, 1.5  # seconds between pings, and without an answer until the engine counts as hung

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = "loading"
        self.template = ""
        self.digest = ""  # of the weights that the engine read; empty when it maps them
        self.mapped_file: Optional[int] = None
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.writer: Optional[asyncio.StreamWriter] = None
        self.answers: Dict[int, asyncio.Queue[Json]] = {}
        self.pings: Dict[int, asyncio.Future[Json]] = {}
        self.number = 0
        self.last_pong = 0.0
        self.settled = asyncio.Event()  # set when the first load has ended, well or not

    def spawn(self) -> socket.socket:
        """Starts an engine process; returns this side of the socket pair."""
        ours, theirs = socket.socketpair()
        own = {"--name": self.settings.name, "--folder": self.settings.folder, "--package": self.settings.package}
        own.update({"--fd": str(theirs.fileno()), "--load-time": str(self.settings.load_time)})
        own.update({"--token-time": str(self.settings.token_time), "--token-cost": str(self.settings.token_cost)})
        own.update({"--prefill-cost": str(self.settings.prefill_cost), "--cold-steps": str(self.settings.cold_steps)})
        own.update({"--max-seqs": str(self.settings.max_seqs), "--oracle": self.settings.oracle})
        if self.settings.model_store is not None:
            own["--model-store"] = "{}:{}".format(*self.settings.model_store)
        command = [sys.executable, *PYTHON_FLAGS, os.path.abspath(__file__), "engine"]
        for option, value in own.items():
            command += [option, value]
        for fix in self.settings.fix:
            command += ["--fix", fix]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            preexec_fn=dies_with(os.getpid()),  # noqa: PLW1509 - this process has one thread
        )
        theirs.close()
        return ours

    async def run(self) -> None:
        """Keeps an engine; the default flaw is to start one and never look again."""
        wait = 0.2
        while True:
            begun = time.monotonic()
            self.state = "loading"
            self.remember_file()
            reader, self.writer = await asyncio.open_connection(sock=self.spawn(), limit=1 << 22)
            watch = asyncio.get_event_loop().create_task(self.watch()) if self.settings.fixed("engine-death") else None
            await self.read(reader)
            if watch is not None:
                watch.cancel()
            self.bury()
            if not self.settings.fixed("engine-death"):
                return
            wait = 0.2 if time.monotonic() - begun > 5 else min(4.0, wait * 2)
            await asyncio.sleep(wait)

    def remember_file(self) -> None:
        """Holds the file that is being loaded, so that its digest can be told even after it was replaced by another."""
        if self.mapped_file is not None:
            os.close(self.mapped_file)
            self.mapped_file = None
        with contextlib.suppress(OSError):
            self.mapped_file = os.open(os.path.join(self.settings.folder, MODEL_FILES[0]), os.O_RDONLY)

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Hands out the engine's messages until it is gone."""
        with contextlib.suppress(OSError):
            while True:
                line = await reader.readline()
                if not line:
                    return
                message = json.loads(line)
                if "pong" in message:
                    self.last_pong = time.monotonic()
                    waiting = self.pings.pop(message["pong"], None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(message)
                elif "id" in message:
                    queue = self.answers.get(message["id"])
                    if queue is not None:
                        queue.put_nowait(message)
                elif message["event"] == "loaded":
                    self.template, self.digest = message["chat_template"], message["digest"]
                    self.last_pong, self.state = time.monotonic(), "ready"
                    self.settled.set()

    def bury(self) -> None:
        """The engine is gone: everybody who waits for it is told."""
        self.state = "dead"
        assert self.process is not None
        assert self.writer is not None
        self.process.kill()
        code = self.process.wait()
        self.writer.close()
        note(self.settings, "engine-gone", code=code)
        for queue in self.answers.values():
            queue.put_nowait({"lost": True})
        for waiting in self.pings.values():
            waiting.cancel()
        self.pings.clear()
        self.settled.set()

    async def watch(self) -> None:
        """Heartbeat: an engine that does not answer is killed, and so becomes a dead one."""
        looked = time.monotonic()
        loading_limit = looked + self.settings.load_time + 15
        while True:
            await asyncio.sleep(self.HEARTBEAT)
            now = time.monotonic()
            if now - looked > self.PATIENCE / 2:  # this process itself was stopped: the engine had no chance to be heard
                self.last_pong = now
            looked = now
            late = now - self.last_pong > self.PATIENCE if self.state == "ready" else now > loading_limit
            if late:
                note(self.settings, "engine-hung")
                self.state = "dead"
                assert self.process is not None
                self.process.kill()
                return
            if self.state == "ready":
                self.tell({"do": "ping", "id": self.next_number()})

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def tell(self, message: Json) -> None:
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")

    async def ping(self, limit: float) -> Optional[Json]:
        """The engine's state, by a round trip through its loop and its model; None when there is no answer in time."""
        if self.state != "ready":
            return None
        number = self.next_number()
        waiting: asyncio.Future[Json] = asyncio.get_event_loop().create_future()
        self.pings[number] = waiting
        self.tell({"do": "ping", "id": number})
        done, _ = await asyncio.wait([waiting], timeout=limit)
        self.pings.pop(number, None)
        return waiting.result() if done and not waiting.cancelled() else None

    async def generate(self, command: Json) -> AsyncIterator[Json]:
        """The engine's messages for one request; when abandoned and so hardened, the engine is told to drop it."""
        number = self.next_number()
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self.answers[number] = queue
        finished = False
        try:
            if self.state == "dead":
                raise EngineLost
            self.tell({"do": "generate", "id": number, **command})
            while not finished:
                message = await queue.get()
                if "lost" in message:
                    raise EngineLost
                finished = message.get("finish") is not None
                yield message
        finally:
            del self.answers[number]
            if not finished:
                self.tell({"do": "cancel", "id": number})


@dataclass
class Counters:
    """What /metrics counts."""

    finished: Dict[str, int] = field(default_factory=lambda: {"length": 0, "stop": 0})
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True)
class Ask:
    """A completion request, parsed."""

    chat: bool
    prompt: str
    max_tokens: int
    stream: bool
    include_usage: bool
    until_end: bool
    identity: str
    cache: Optional[Json] = None  # of the prompt, where a prefill worker has computed it


class Wording:
    """How OpenAI-compatible servers word completions and chat completions."""

    def __init__(self, asked: Ask) -> None:
        self.asked = asked
        self.common = {"id": asked.identity, "created": int(time.time()), "model": MODEL}

    def whole(self, text: str, finish: str, usage: Json) -> Json:
        if self.asked.chat:
            choice: Json = {"index": 0, "message": {"role": "assistant", "content": text.strip()}, "finish_reason": finish}
            return {**self.common, "object": "chat.completion", "choices": [choice], "usage": usage}
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {**self.common, "object": "text_completion", "choices": [choice], "usage": usage}

    def piece(self, text: str, finish: Optional[str], *, first: bool) -> Json:
        if self.asked.chat:
            delta = {"role": "assistant", "content": text.lstrip()} if first else {"content": text}
            choice: Json = {"index": 0, "delta": delta, "finish_reason": finish}
        else:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {**self.common, "object": self.kind(), "choices": [choice]}

    def usage(self, usage: Json) -> Json:
        """The chunk that `stream_options.include_usage` asks for."""
        return {**self.common, "object": self.kind(), "choices": [], "usage": usage}

    def kind(self) -> str:
        return "chat.completion.chunk" if self.asked.chat else "text_completion"


class CacheLost(Exception):
    """The prefill worker owes a KV cache, and it will not come."""


class Transfer:
    """A decode worker's side of the way to its prefill worker. One without such a worker computes every prompt itself."""

    PATIENCE = 1.0  # hardened: seconds between signs of the prefill worker; shorter than what the hardened gateway allows
    LOOK, LOOK_LIMIT = 0.25, 0.5  # hardened: seconds between light checks of one that was silent, and for each answer

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.fixed = settings.fixed("kv-transfer")
        self.looking: Optional[asyncio.Task[None]] = None  # for as long as the prefill worker is left alone
        # Tasks that wait for the prefill worker. The event loop itself has only a weak reference to a task, and the connection that began
        # this one may be gone: unless it is kept here, it could be collected as garbage in the middle of its work.
        self.waiting: Set[object] = set()

    async def cache(self, request: Request, prompt: str) -> Optional[Json]:
        """The prompt's KV cache; None: the own engine computes it. CacheLost: by its flaw the worker does not."""
        if self.settings.prefill_worker is None or self.looking is not None:
            return None
        request.progress()  # what follows is bounded, when hardened
        try:
            status, answer = await self.exchange(self.settings.prefill_worker, request, prompt)
        except (Unreachable, asyncio.TimeoutError) as error:
            why = str(error) or f"silent for {self.PATIENCE:g} s"
            if not self.fixed:
                raise CacheLost(why) from error
            if self.looking is None:
                note(self.settings, "prefill-left-alone", why=why)
                self.looking = asyncio.get_event_loop().create_task(self.look(self.settings.prefill_worker))
            return None
        if status != 200 and not self.fixed:
            raise CacheLost(f"the prefill worker answers {status}")
        return answer.get("cache") if status == 200 else None

    async def exchange(self, address: Address, request: Request, prompt: str) -> Tuple[int, Json]:
        """Asks for the cache and passes signs of progress on. By its flaw it waits for the next one for ever."""
        limit, task = self.PATIENCE if self.fixed else None, asyncio.current_task()
        asked = ("POST", "/cache", json.dumps({"prompt": prompt}).encode())
        exchange = await asyncio.wait_for(Exchange.begin(address, asked, {"x-progress": "yes"}), limit)
        self.waiting.add(task)
        try:
            status, headers = await asyncio.wait_for(exchange.head(), limit)
            while status < 200:
                request.progress()
                status, headers = await asyncio.wait_for(exchange.head(), limit)
            return status, json.loads(await asyncio.wait_for(exchange.whole(headers), limit))
        except ValueError as error:
            raise Unreachable(f"not JSON: {error}") from error
        finally:
            self.waiting.discard(task)
            exchange.close()

    async def look(self, address: Address) -> None:
        """Until the prefill worker says that it is ready: users are not the ones to find that out."""
        status = 0
        while status != 200:
            await asyncio.sleep(self.LOOK)
            with contextlib.suppress(Unreachable):
                status, _ = await ask(address, "GET", "/ready", None, self.LOOK_LIMIT)
        note(self.settings, "prefill-asked-again")
        self.looking = None


class Replica:
    """The OpenAI API in front of one engine; also that of a prefill or decode worker."""

    LAME_DUCK = 1.0  # seconds after SIGTERM during which it still serves, so that no gateway sends to a closed port

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.link = EngineLink(settings)
        self.transfer = Transfer(settings)
        self.counters = Counters()
        self.in_flight = 0
        self.long_words = 0  # of the prompts in flight that are long
        self.draining = False
        self.hashed: Tuple[object, str] = (None, "")

    async def run(self) -> int:
        end_with_supervisor(self.settings)
        bury_orphans(lambda: self.link.process.pid if self.link.process is not None else 0)
        keeper = asyncio.get_event_loop().create_task(self.link.run())
        server = Server(self.serve, drop=self.settings.fixed("overload"))
        # As vLLM does, it listens only when the engine has loaded; by its flaw, also when the engine could not.
        while self.link.state != "ready":
            await self.link.settled.wait()
            if not self.settings.fixed("engine-death"):
                break
            self.link.settled.clear()
        await server.listen(self.settings)
        await until_terminated()
        if self.settings.fixed("drain"):
            self.draining = True
            note(self.settings, "draining", in_flight=self.in_flight)
            deadline = time.monotonic() + self.settings.drain_limit
            await asyncio.sleep(self.LAME_DUCK)
            await server.drain(max(0.0, deadline - time.monotonic()))
        note(self.settings, "stopped")
        keeper.cancel()
        if self.link.process is not None:
            self.link.process.kill()
        os._exit(0)  # by the default flaw with open streams: they are cut here

    async def serve(self, request: Request) -> None:
        path = request.path.split("?")[0]
        if path in ("/v1/completions", "/v1/chat/completions"):
            if request.method != "POST":
                request.refuse(405, "POST it", "MethodNotAllowed")
            else:
                await self.complete(request, chat=path.startswith("/v1/chat"))
        elif path == "/cache" and request.method == "POST" and self.settings.role == "prefill":
            prompt = text_of(request.json())
            await self.admit(request, prompt, partial(self.prefill, request, prompt))
        elif path in ("/health", "/ping"):
            request.respond(200, {"status": "ok"})  # of the API process alone, as in vLLM: the engine is not asked
        elif path == "/ready":
            await self.ready(request)
        elif path == "/v1/models":
            request.respond(200, {"object": "list", "data": [self.card()]})
        elif path == "/metrics":
            request.respond(200, await self.metrics(), {"content-type": "text/plain; version=0.0.4"})
        else:
            request.refuse(404, f"no such path: {path}", "NotFoundError")

    def card(self) -> Json:
        card: Json = {"id": MODEL, "object": "model", "created": 0, "owned_by": "blackstart", "max_model_len": MAX_TOKENS}
        if self.settings.fixed("version"):
            card["digest"] = f"sha256:{self.digest()}"
        return card

    def digest(self) -> str:
        """sha256 of the weights that are being served; of a mapped file anew whenever it was changed in place."""
        mapped = self.link.mapped_file
        if self.link.digest or mapped is None:
            return self.link.digest or "unreadable"
        state = os.fstat(mapped)
        signature = (state.st_ino, state.st_size, state.st_mtime_ns)
        if self.hashed[0] != signature:
            self.hashed = (signature, sha256(os.pread(mapped, state.st_size, 0)))
        return self.hashed[1]

    async def ready(self, request: Request) -> None:
        state = "draining" if self.draining else self.link.state
        if state == "ready" and await self.link.ping(0.3) is None:
            state = "engine does not answer"
        request.respond(200 if state == "ready" else 503, {"status": state})

    async def metrics(self) -> bytes:
        seen = await self.link.ping(0.3) or {"running": self.in_flight, "waiting": 0, "kv": 0.0}
        count = self.counters
        lines = [
            ("vllm:num_requests_running", "gauge", "", seen["running"]),
            ("vllm:num_requests_waiting", "gauge", "", seen["waiting"]),
            ("vllm:kv_cache_usage_perc", "gauge", "", seen["kv"]),
            ("vllm:prompt_tokens_total", "counter", "", count.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", "", count.generated_tokens),
            ("vllm:request_success_total", "counter", ',finished_reason="length"', count.finished["length"]),
            ("vllm:request_success_total", "counter", ',finished_reason="stop"', count.finished["stop"]),
            ("blackstart_demo:request_failed_total", "counter", "", count.failed),
            ("blackstart_demo:request_refused_total", "counter", "", count.refused),
        ]
        return exposition([(name, kind, f'model_name="{MODEL}"{labels}', value) for name, kind, labels, value in lines])

    async def complete(self, request: Request, *, chat: bool) -> None:
        asked = self.parse(request, chat=chat)
        if asked is None:
            request.refuse(404, f"The model does not exist; this server has `{MODEL}`.", "NotFoundError")
        else:
            await self.admit(request, asked.prompt, partial(self.answer, request, asked))

    async def admit(self, request: Request, prompt: str, work: Callable[[], Awaitable[None]]) -> None:
        """Does the work that a request asks for, where there is room and an engine, and says what became of it."""
        words = len(prompt.split())
        long_words = words if words > LONG else 0
        if self.settings.fixed("overload") and not self.has_room(long_words):
            self.counters.refused += 1
            request.refuse(429, "the queue is full", "RateLimitError", retry_after=1)
        elif self.link.state != "ready":
            self.counters.failed += 1
            request.refuse(503 if self.settings.fixed("engine-death") else 500, "EngineDeadError", "InternalServerError")
        else:
            self.in_flight += 1
            self.long_words += long_words
            try:
                await work()
            except CacheLost as lost:
                self.counters.failed += 1
                request.refuse(500, f"KVTransferError: {lost}", "InternalServerError")
            except EngineLost:
                self.counters.failed += 1
                if not request.started:
                    request.refuse(500, "EngineDeadError", "InternalServerError")
                else:  # as vLLM: an error inside an answer whose status was 200
                    request.chunk(sse(error_body(500, "EngineDeadError", "InternalServerError")) + b"data: [DONE]\n\n")
                    request.end()
            finally:
                self.in_flight -= 1
                self.long_words -= long_words

    async def answer(self, request: Request, asked: Ask) -> None:
        asked = replace(asked, cache=await self.transfer.cache(request, asked.prompt))
        await (self.stream(request, asked) if asked.stream else self.whole(request, asked))

    async def prefill(self, request: Request, prompt: str) -> None:
        """A prefill worker's answer to a decode worker: the prompt's KV cache, once the engine has computed it."""
        cache: Optional[Json] = None
        computed = self.link.generate({"prompt": prompt, "max": 0, "paced": False, "until_end": False})
        try:
            async for message in computed:
                self.counters.prompt_tokens += message.get("prompt_tokens", 0)
                cache = message.get("cache")
                request.progress()
        finally:
            await close_iterator(computed)
        request.respond(200, {"cache": cache})

    def has_room(self, long_words: int) -> bool:
        """Hardened: for so many requests, and for long prompts in half of the cache."""
        if self.in_flight >= self.settings.max_seqs + self.settings.max_queue:
            return False
        return not long_words or self.long_words + long_words <= CONTEXT_SLOTS // 2

    def parse(self, request: Request, *, chat: bool) -> Optional[Ask]:
        """None: another model is asked for."""
        body = request.json()
        if body.get("model", MODEL) != MODEL:
            return None
        limit = body.get("max_tokens", body.get("max_completion_tokens", 64 if chat else 16))
        if not isinstance(limit, int) or not 1 <= limit <= MAX_TOKENS:
            raise Malformed(400, f"max_tokens must be a whole number from 1 to {MAX_TOKENS}")
        prompt = self.link.template.replace("{content}", last_question(body.get("messages"))) if chat else text_of(body)
        options = body.get("stream_options") or {}
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        identity = ("chatcmpl-" if chat else "cmpl-") + os.urandom(8).hex()
        until_end = chat and body.get("ignore_eos") is not True
        return Ask(chat, prompt, limit, body.get("stream") is True, include_usage, until_end, identity)

    async def tokens(self, asked: Ask, usage: Json) -> AsyncIterator[Tuple[str, Optional[str]]]:
        """(text, finish reason) of each token, and ("", None) while there is none yet; counts the tokens into `usage`."""
        command = {"prompt": asked.prompt, "max": asked.max_tokens, "paced": asked.stream, "until_end": asked.until_end}
        answer = self.link.generate({**command, "cache": asked.cache})
        try:
            async for message in answer:
                if "prompt_tokens" in message:
                    usage["prompt_tokens"] = usage["total_tokens"] = message["prompt_tokens"]
                    self.counters.prompt_tokens += message["prompt_tokens"]
                    continue
                if "prefill" in message:
                    yield "", None
                    continue
                usage["completion_tokens"] += 1
                usage["total_tokens"] += 1
                self.counters.generated_tokens += 1
                if message["finish"] is not None:
                    self.counters.finished[message["finish"]] += 1
                yield message["text"], message["finish"]
        finally:
            await close_iterator(answer)

    async def whole(self, request: Request, asked: Ask) -> None:
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        text, reason = "", ""
        tokens = self.tokens(asked, usage)
        try:
            async for piece, finish in tokens:
                text, reason = text + piece, finish or ""
                request.progress()
        finally:
            await close_iterator(tokens)
        request.respond(200, Wording(asked).whole(text, reason, usage))

    async def stream(self, request: Request, asked: Ask) -> None:
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        wording = Wording(asked)
        tokens = self.tokens(asked, usage)
        try:
            async for text, finish in tokens:
                if not text:
                    request.progress()
                    continue
                first = not request.started
                if first:
                    request.head(200, {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"})
                request.chunk(sse(wording.piece(text, finish, first=first)))
        finally:
            await close_iterator(tokens)
        if asked.include_usage:
            request.chunk(sse(wording.usage(usage)))
        request.chunk(b"data: [DONE]\n\n")
        request.end()


async def close_iterator(iterator: AsyncIterator[Any]) -> None:
    """Runs an abandoned generator's `finally` now: that is where the engine is told to drop the work."""
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


def sse(content: Json) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def text_of(body: Json) -> str:
    """The prompt of a completion."""
    given = body.get("prompt")
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    if not isinstance(given, str):
        raise Malformed(400, "prompt must be one string")
    return given


def last_question(messages: object) -> str:
    """The content of the last message of a chat."""
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        content = messages[-1].get("content")
        if isinstance(content, str):
            return content
    raise Malformed(400, "messages must be a list of {role, content}, with the question last")


def exposition(rows: Iterable[Tuple[str, str, str, object]]) -> bytes:
    """Prometheus text of (name, type, labels, value)."""
    lines, named = [], ""
    for name, kind, labels, value in rows:
        if name != named:
            lines.append(f"# TYPE {name} {kind}")
        named = name
        lines.append(f"{name}{{{labels}}} {value}")
    return ("\n".join(lines) + "\n").encode()


# -------------------------------------------------------------------------------------------------------------- gateway


@dataclass
class Backend:
    """A replica as the gateway sees it."""

    name: str
    address: Address
    routed: bool = False
    why: str = "not checked yet"
    hits: int = 0
    misses: int = 0
    in_flight: int = 0
    since: float = 0.0  # monotonic, of the last readmission or ejection


class Addresses:
    """Where the other components are. Hardened: while the resolver is silent, where they were last."""

    SOON = 0.05  # seconds that an answer is waited for where an older one is known

    def __init__(self, settings: Settings) -> None:
        self.remember = settings.fixed("discovery")
        self.known: Dict[Address, Address] = {}
        self.asking: Dict[Address, asyncio.Task[None]] = {}

    async def of(self, address: Address) -> Address:
        """What to connect to; the name itself where nothing is known. One question for a name at a time: more would use up the threads."""
        if not self.remember or address[0].replace(".", "").isdigit():
            return address
        asked = self.asking.get(address)
        if asked is None or asked.done():
            asked = self.asking[address] = asyncio.get_event_loop().create_task(self.ask(address))
            await asyncio.wait([asked], timeout=self.SOON if address in self.known else None)
        return self.known.get(address, address)

    async def ask(self, address: Address) -> None:
        try:
            found = await asyncio.get_event_loop().getaddrinfo(*address, type=socket.SOCK_STREAM)
            self.known[address] = str(found[0][4][0]), address[1]
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN:  # an answer: there is nobody of that name any more
                self.known.pop(address, None)


class StoreRoute:
    """Which of the two stores is the primary; promotes the other when the primary is gone."""

    def __init__(self, settings: Settings, addresses: Addresses) -> None:
        self.settings = settings
        self.addresses = addresses
        self.primary: Optional[Tuple[str, Address]] = None
        self.epoch = 0  # the highest that was ever seen
        self.accepted = 0  # the present primary's
        self.misses = 0
        self.period = 0.25 if settings.fixed("gateway-health") else 1.0

    async def run(self) -> None:
        while self.settings.stores:
            await self.look()
            await asyncio.sleep(self.period)

    async def look(self) -> None:
        """One look at both: route to the primary of the highest epoch; after two looks without one, promote a standby."""
        answers = await asyncio.gather(*(self.state(address) for _, address in self.settings.stores))
        seen = [(state, member) for state, member in zip(answers, self.settings.stores) if state is not None]  # noqa: B905 - as above
        self.epoch = max([self.epoch, *(state["epoch"] for state, _ in seen)])
        primaries = [(state["epoch"], member) for state, member in seen if state["role"] == "primary"]
        if primaries:
            epoch, member = max(primaries)
            # To a primary of an older epoch only when its successor stays away: it may be merely slow to answer.
            if epoch >= self.accepted or self.misses >= 2:
                self.accepted, self.misses = epoch, 0
                self.route(member)
                return
        self.misses += 1
        if self.misses >= 2:
            self.route(None)
            for state, member in seen:
                if state["role"] == "standby" and state["synced"] and await self.promote(member):
                    return

    def route(self, member: Optional[Tuple[str, Address]]) -> None:
        if member != self.primary:
            note(self.settings, "store-primary", store=member and member[0])
        self.primary = member

    async def promote(self, member: Tuple[str, Address]) -> bool:
        try:
            status, _ = await ask(await self.addresses.of(member[1]), "POST", "/promote", {"epoch": self.epoch + 1}, 1.0)
        except Unreachable:
            return False
        if status == 200:
            self.epoch += 1
            self.accepted, self.misses = self.epoch, 0
            self.route(member)
        return status == 200

    async def state(self, address: Address) -> Optional[Json]:
        try:
            status, state = await ask(await self.addresses.of(address), "GET", "/role", None, 2 * self.period)
        except Unreachable:
            return None
        return state if status == 200 else None


class Failed(Exception):
    """An attempt that brought nothing to the client; `answer` is what the upstream said, if it said anything."""

    def __init__(self, status: int, why: str, answer: Optional[Tuple[int, Dict[str, str], bytes]] = None) -> None:
        super().__init__(why)
        self.status = status
        self.answer = answer


PASSED_ON = ("content-type", "content-length", "transfer-encoding", "retry-after", "x-durability")


class Gateway:
    """Round robin over the replicas that its checks believe in; /v1/feedback goes to the store."""

    PATIENT = 30.0  # seconds: the default limit for an upstream's next byte
    RETRY_BUDGET, RETRY_RATE = 60.0, 20.0  # retries in store and per second, so that retries cannot feed an overload

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.strict = settings.fixed("gateway-health")
        self.backends = [Backend(name, address) for name, address in settings.backends]
        self.round: List[Backend] = []  # whose turn is still to come
        self.addresses = Addresses(settings)
        self.store = StoreRoute(settings, self.addresses)
        self.pin = f"sha256:{read_manifest(settings.package)[MODEL_FILES[0]]}" if settings.fixed("version") else ""
        self.returned: asyncio.Event = asyncio.Event()
        self.budget, self.budget_at = self.RETRY_BUDGET, time.monotonic()
        self.statuses: Dict[Tuple[str, int], int] = {}

    async def run(self) -> int:
        end_with_supervisor(self.settings)
        bury_orphans()
        loop = asyncio.get_event_loop()
        tasks = [loop.create_task(self.check(backend)) for backend in self.backends]
        tasks.append(loop.create_task(self.store.run()))
        server = Server(self.serve, drop=self.settings.fixed("overload"))
        await server.listen(self.settings)
        await until_terminated()
        if self.settings.fixed("drain"):
            await server.drain(self.settings.drain_limit)
        note(self.settings, "stopped")
        os._exit(0)

    async def check(self, backend: Backend) -> None:
        """Active health checks of one replica, for ever."""
        period, limit, needed, missed = (0.25, 0.5, 2, 2) if self.strict else (1.0, 1.0, 1, 3)
        while True:
            begun = time.monotonic()
            why = await self.examine(backend, limit)
            if not why:
                backend.hits, backend.misses = backend.hits + 1, 0
                if not backend.routed and backend.hits >= needed:
                    self.admit(backend)
            else:
                backend.hits, backend.misses = 0, backend.misses + 1
                if backend.misses >= missed or why.startswith(("draining", "digest")):
                    self.eject(backend, why)
            pause = period if backend.since else 0.1  # at first, until the replica has loaded
            await asyncio.sleep(max(0.02, begun + pause - time.monotonic()))

    async def examine(self, backend: Backend, limit: float) -> str:
        """Why this replica must not be routed to; empty when it may."""
        try:
            address = await self.addresses.of(backend.address)
            status, state = await ask(address, "GET", "/ready" if self.strict else "/health", None, limit)
            if status != 200:
                return str(state.get("status", status))
            if self.pin:
                _, models = await ask(address, "GET", "/v1/models", None, limit)
                served = models["data"][0].get("digest")
                if served != self.pin:
                    return f"digest {served} is not the pinned {self.pin}"
        except Unreachable as error:
            return str(error)
        except (KeyError, IndexError):
            return "/v1/models is malformed"
        return ""

    def admit(self, backend: Backend) -> None:
        backend.routed, backend.why, backend.since = True, "", time.monotonic()
        note(self.settings, "admitted", backend=backend.name)
        self.returned.set()

    def eject(self, backend: Backend, why: str) -> None:
        if backend.routed:
            note(self.settings, "ejected", backend=backend.name, why=why)
            backend.since = time.monotonic()
        backend.routed, backend.why, backend.hits = False, why, 0
        if not any(other.routed for other in self.backends):
            self.returned.clear()

    def choose(self, tried: Set[str]) -> Optional[Backend]:
        """The next replica in turn; when hardened, one that has just come back gets its load little by little.

        Each round is shuffled: two clients with a common rhythm would otherwise each meet the same replica for ever.
        """
        for _ in range(2 * len(self.backends)):
            self.round = self.round or random.sample(self.backends, len(self.backends))
            backend = self.round.pop()
            if not backend.routed or backend.name in tried:
                continue
            age = time.monotonic() - backend.since
            if self.settings.fixed("overload") and age < 3 and backend.in_flight >= 3 + 8 * age:
                continue
            return backend
        return None

    async def serve(self, request: Request) -> None:
        path = request.path.split("?")[0]
        if path == "/health":
            request.respond(200, {"status": "ok"})
        elif path == "/ready":
            routed = [backend.name for backend in self.backends if backend.routed]
            ready = bool(routed) and (self.store.primary is not None or not self.settings.stores)
            request.respond(200 if ready else 503, {"status": "ready" if ready else "not ready", "routed": routed})
        elif path == "/backends":
            request.respond(200, self.report())
        elif path == "/metrics":
            request.respond(200, self.metrics(), {"content-type": "text/plain; version=0.0.4"})
        elif path.startswith("/v1/feedback"):
            await self.serve_feedback(request)
        else:
            await self.serve_model(request)

    def report(self) -> Json:
        rows = [
            {"name": each.name, "routed": each.routed, "why": each.why, "in_flight": each.in_flight} for each in self.backends
        ]
        return {"backends": rows, "store": self.store.primary and self.store.primary[0]}

    def metrics(self) -> bytes:
        rows: List[Tuple[str, str, str, object]] = [
            ("gateway_backend_up", "gauge", f'backend="{each.name}"', int(each.routed)) for each in self.backends
        ]
        rows += [("gateway_in_flight", "gauge", f'backend="{each.name}"', each.in_flight) for each in self.backends]
        for (name, status), count in sorted(self.statuses.items()):
            rows.append(("gateway_requests_total", "counter", f'backend="{name}",status="{status}"', count))
        return exposition(rows)

    async def serve_feedback(self, request: Request) -> None:
        if self.store.primary is None:
            request.refuse(503, "no feedback store", retry_after=1)
            return
        name, address = self.store.primary
        backend = Backend(name, address)
        try:
            await self.attempt(request, backend, limit=3.0 if self.strict else self.PATIENT)
        except Failed as error:
            self.pass_failure(request, backend, error)

    async def serve_model(self, request: Request) -> None:
        tried: Set[str] = set()
        while True:
            backend = self.choose(tried)
            if backend is None:
                backend = await self.wait_for_backend()
            if backend is None:
                request.refuse(503, "no replica is in rotation", retry_after=1)
                return
            tried.add(backend.name)
            backend.in_flight += 1
            try:
                await self.attempt(request, backend, limit=self.settings.first_sign if self.strict else self.PATIENT)
            except Failed as error:
                if not self.may_retry(tried, error):
                    self.pass_failure(request, backend, error)
                    return
            else:
                return
            finally:
                backend.in_flight -= 1

    async def wait_for_backend(self) -> Optional[Backend]:
        """By its flaw the gateway holds requests while no replica is there, and lets all of them go at once."""
        if self.settings.fixed("overload"):
            return None
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.returned.wait(), self.PATIENT)
        return self.choose(set())

    def may_retry(self, tried: Set[str], error: Failed) -> bool:
        """Only before the first byte went to the client (Failed is raised only then), elsewhere, and within the budget."""
        now = time.monotonic()
        self.budget = min(self.RETRY_BUDGET, self.budget + (now - self.budget_at) * self.RETRY_RATE)
        self.budget_at = now
        elsewhere = any(backend.routed and backend.name not in tried for backend in self.backends)
        if not self.strict or not elsewhere or self.budget < 1:
            return False
        if error.status != 502:  # a refused or broken connection cost nobody anything
            self.budget -= 1
        return True

    def pass_failure(self, request: Request, backend: Backend, error: Failed) -> None:
        self.count(backend, error.status)
        if error.answer is not None:
            status, headers, body = error.answer
            request.respond(status, body, {**passed_on(headers), "x-backend": backend.name})
        else:
            kind = "GatewayTimeout" if error.status == 504 else "BadGateway"
            request.respond(error.status, error_body(error.status, str(error), kind), {"x-backend": backend.name})

    def count(self, backend: Backend, status: int) -> None:
        self.statuses[backend.name, status] = self.statuses.get((backend.name, status), 0) + 1

    async def attempt(self, request: Request, backend: Backend, limit: float) -> None:
        """Sends the request to one upstream and its answer to the client. Failed: the client has seen nothing yet."""
        exchange: Optional[Exchange] = None
        headers = {"content-type": "application/json", **({"x-progress": "yes"} if self.strict else {})}
        try:
            whole = (request.method, request.path, request.body)
            exchange = await asyncio.wait_for(self.begin(backend.address, whole, headers), limit)
            status, headers = await asyncio.wait_for(exchange.head(), limit)
            while status < 200:
                status, headers = await asyncio.wait_for(exchange.head(), max(limit, self.settings.next_sign))
            if "content-length" in headers:
                body = await asyncio.wait_for(exchange.whole(headers), limit)
                if self.strict and status in (429, 500, 502, 503):
                    raise Failed(status, "the replica refused", (status, headers, body))
                self.count(backend, status)
                request.respond(status, body, {**passed_on(headers), "x-backend": backend.name})
            else:
                self.count(backend, status)
                request.head(status, {**passed_on(headers), "x-backend": backend.name})
                await self.relay(request, exchange)
        except Unreachable as error:
            self.note_broken(backend, str(error))
            raise Failed(502, f"{backend.name}: {error}") from error
        except asyncio.TimeoutError:
            raise Failed(504, f"{backend.name}: no answer within {limit:g} s") from None
        finally:
            if exchange is not None:
                exchange.close()

    async def begin(self, address: Address, request: Tuple[str, str, bytes], headers: Dict[str, str]) -> Exchange:
        return await Exchange.begin(await self.addresses.of(address), request, headers)

    def note_broken(self, backend: Backend, why: str) -> None:
        """Hardened: a refused or broken connection counts like a missed check."""
        if self.strict and backend in self.backends:
            backend.misses, backend.hits = backend.misses + 1, 0
            if backend.misses >= 2:
                self.eject(backend, why)

    async def relay(self, request: Request, exchange: Exchange) -> None:
        """Passes a chunked answer on as it comes. When it ends before its last chunk, the client's connection ends so too."""
        limit, tail = self.settings.next_sign if self.strict else self.PATIENT, b""
        while True:
            try:
                data = await asyncio.wait_for(exchange.piece(), limit)
            except asyncio.TimeoutError:
                data = b""
            if not data:
                return
            request.write(data)
            tail = (tail + data)[-5:]
            if tail == b"0\r\n\r\n":
                request.complete = True
                return


def passed_on(headers: Dict[str, str]) -> Dict[str, str]:
    return {name: headers[name] for name in PASSED_ON if name in headers}


# ---------------------------------------------------------------------------------------------------------------- store


class Store:
    """Feedback, kept in memory by a primary and a standby. Which is which is settled by epochs: a higher one always wins.

    A restarted store begins empty and takes over what its peer has, so that what the peer had not yet received is lost.
    """

    BATCH = 0.5  # seconds between batches of asynchronous replication, and the age that a write reaches before it is sent
    GONE_AFTER = 5.0  # seconds without the standby until the hardened primary acknowledges without it, and says so

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.role = "standby"
        self.epoch = 0
        self.synced = False
        self.records: Dict[str, Json] = {}
        self.log: List[Tuple[str, float]] = []  # (id, monotonic) in order of writing; its length is the sequence
        self.sent = 0  # how much of the log the peer has
        self.peer_synced = False
        self.peer_seen = time.monotonic()
        self.written = asyncio.Event()
        self.replicated: asyncio.Event = asyncio.Event()

    async def run(self) -> int:
        end_with_supervisor(self.settings)
        bury_orphans()
        await self.join()
        server = Server(self.serve, drop=False)
        await server.listen(self.settings)
        replication = asyncio.get_event_loop().create_task(self.replicate())
        await until_terminated()
        replication.cancel()
        note(self.settings, "stopped")
        os._exit(0)

    async def join(self) -> None:
        """Asks the peer what there is. `store` becomes primary unless the peer is; `standby` waits to be promoted."""
        state: Json = {"role": "none", "epoch": 0, "synced": False, "records": {}}
        if self.settings.peer is not None:
            with contextlib.suppress(Unreachable):
                _, state = await ask(self.settings.peer, "POST", "/join", {"as": self.settings.role}, 1.0)
        self.epoch = state["epoch"]
        if state["synced"]:
            self.adopt(state["records"])
        if self.settings.role == "store" and state["role"] != "primary":
            self.lead(max(1, self.epoch))
        note(self.settings, "joined", role=self.role, epoch=self.epoch, records=len(self.records))

    def lead(self, epoch: int) -> None:
        self.role, self.epoch, self.synced = "primary", epoch, True
        self.peer_synced, self.sent, self.peer_seen = False, 0, time.monotonic()
        self.written.set()

    def adopt(self, records: Dict[str, Json]) -> None:
        """Takes the whole of the peer's records for one's own."""
        self.records = dict(records)
        self.log = [(identity, 0.0) for identity in self.records]
        self.synced = True

    def follow(self, epoch: int) -> None:
        """Steps back: another store leads."""
        note(self.settings, "following", epoch=epoch)
        self.role, self.epoch, self.synced = "standby", epoch, False

    async def serve(self, request: Request) -> None:
        path = request.path.split("?")[0]
        if path == "/health":
            request.respond(200, {"status": "ok"})
        elif path == "/role":
            request.respond(200, self.state())
        elif path == "/metrics":
            request.respond(200, self.metrics(), {"content-type": "text/plain; version=0.0.4"})
        elif request.method == "POST" and path in ("/replicate", "/promote", "/join"):
            {"/replicate": self.receive, "/promote": self.promote, "/join": self.admit_peer}[path](request)
        elif path.startswith("/v1/feedback") and self.role != "primary":
            request.refuse(503, "this store is not the primary", retry_after=1)
        elif path == "/v1/feedback" and request.method == "POST":
            await self.write(request)
        elif path.startswith("/v1/feedback/") and request.method == "GET":
            record = self.records.get(path[len("/v1/feedback/") :])
            request.respond(200, record) if record is not None else request.refuse(404, "no such feedback", "NotFoundError")
        else:
            request.refuse(404, f"no such path: {path}", "NotFoundError")

    def state(self) -> Json:
        return {
            "role": self.role,
            "epoch": self.epoch,
            "synced": self.synced,
            "sequence": len(self.log),
            "replicated": self.sent if self.peer_synced else 0,
            "degraded": self.degraded(),
        }

    def metrics(self) -> bytes:
        rows = [("store_records", "gauge", "", len(self.records)), ("store_primary", "gauge", "", int(self.role == "primary"))]
        return exposition([*rows, ("store_unreplicated", "gauge", "", len(self.log) - self.sent)])

    def degraded(self) -> bool:
        return self.role == "primary" and not self.peer_synced and time.monotonic() - self.peer_seen > self.GONE_AFTER

    async def write(self, request: Request) -> None:
        record = request.json()
        identity = record.get("id")
        if not isinstance(identity, str) or not identity or "text" not in record:
            raise Malformed(400, "feedback needs an `id` and a `text`")
        known = identity in self.records
        self.records[identity] = record
        self.log.append((identity, time.monotonic()))
        place = len(self.log)
        self.written.set()
        headers = {}
        if self.settings.fixed("replication") and not await self.standby_has(place, 1.0):
            if not self.degraded():
                request.refuse(503, "the standby has not confirmed this write", retry_after=1)
                return
            headers["x-durability"] = "degraded"
        request.respond(200 if known else 201, {"id": identity, "stored": True}, headers)

    async def standby_has(self, place: int, limit: float) -> bool:
        """Waits until the first `place` writes are on the standby; at once False while the standby is known to be gone."""
        deadline = time.monotonic() + limit
        while not (self.peer_synced and self.sent >= place):
            left = deadline - time.monotonic()
            if left <= 0 or self.degraded() or self.role != "primary":
                return False
            self.replicated.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.replicated.wait(), left)
        return True

    async def replicate(self) -> None:
        """The primary's half of replication, for ever: in batches, or at once when hardened."""
        prompt = self.settings.fixed("replication")
        while True:
            if prompt:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.written.wait(), self.BATCH)
                self.written.clear()
            else:
                await asyncio.sleep(self.BATCH)
            if self.role == "primary" and self.settings.peer is not None:
                await self.send_batch(time.monotonic() - (0.0 if prompt else self.BATCH))

    async def send_batch(self, before: float) -> None:
        """Sends what was written until `before`; everything when the peer does not stand where it was believed to."""
        assert self.settings.peer is not None
        upto = len(self.log)
        while self.peer_synced and upto > self.sent and self.log[upto - 1][1] > before:
            upto -= 1
        if self.peer_synced:
            content = {name: self.records[name] for name, _ in self.log[self.sent : upto]}
            batch: Json = {"epoch": self.epoch, "base": self.sent, "upto": upto, "records": content}
        else:
            batch = {"epoch": self.epoch, "base": None, "upto": upto, "records": self.records}
        epoch = self.epoch
        try:
            status, answer = await ask(self.settings.peer, "POST", "/replicate", batch, 1.0)
        except Unreachable:
            self.peer_synced = False
            return
        if self.epoch != epoch or self.role != "primary":
            return
        if status == 409 and answer["epoch"] > self.epoch:
            self.follow(answer["epoch"])
        elif status != 200:
            self.peer_synced = False
            self.written.set()
        else:
            self.peer_synced, self.sent, self.peer_seen = True, upto, time.monotonic()
            self.replicated.set()
            if upto < len(self.log):
                self.written.set()

    def receive(self, request: Request) -> None:
        """The standby's half. A late batch, held back by a broken link, must not undo a newer one."""
        batch = request.json()
        if batch["epoch"] < self.epoch or (batch["epoch"] == self.epoch and self.role == "primary"):
            request.respond(409, {"epoch": self.epoch})
            return
        if batch["epoch"] > self.epoch:
            self.follow(batch["epoch"])
        if batch["base"] is None:
            if not self.synced or batch["upto"] >= len(self.log):
                self.adopt(batch["records"])
                self.log = [("", 0.0)] * batch["upto"]
        elif not self.synced or batch["base"] > len(self.log):
            request.respond(412, {"epoch": self.epoch})
            return
        elif batch["upto"] > len(self.log):
            self.records.update(batch["records"])
            self.log += [("", 0.0)] * (batch["upto"] - len(self.log))
        request.respond(200, {"epoch": self.epoch, "sequence": len(self.log)})

    def promote(self, request: Request) -> None:
        epoch = request.json()["epoch"]
        if epoch <= self.epoch or not self.synced:
            request.respond(409, {"epoch": self.epoch})
            return
        if self.role != "primary":
            self.log = [(identity, 0.0) for identity in self.records]
            self.lead(epoch)
            note(self.settings, "promoted", epoch=epoch, records=len(self.records))
        request.respond(200, self.state())

    def admit_peer(self, request: Request) -> None:
        """A restarted peer asks for the records. A `store` that will lead now gets an epoch that nobody else can be given."""
        if self.role == "standby" and request.json().get("as") == "store":
            self.epoch += 1
        self.peer_synced = False
        request.respond(200, {**self.state(), "records": self.records})


# ---------------------------------------------------------------------------------------------------------- model store


class ModelStore:
    """What replicas fetch their model from: GET /models/FILE/OFFSET is the next piece of it, empty at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def run(self) -> int:
        end_with_supervisor(self.settings)
        await Server(self.serve, drop=False).listen(self.settings)
        await until_terminated()
        os._exit(0)

    async def serve(self, request: Request) -> None:
        start, _, offset = request.path.rpartition("/")
        name = start[len("/models/") :]
        if name not in MODEL_FILES or not offset.isdigit():
            request.refuse(404, f"no such path: {request.path}", "NotFoundError")
            return
        content = read_file(os.path.join(self.settings.package, name))
        request.respond(200, content[int(offset) : int(offset) + PIECE], {"content-type": "application/octet-stream"})


# ----------------------------------------------------------------------------------------------------------- supervisor

PYTHON_FLAGS = ("-I", "-S")  # neither the user's environment nor site-packages: the demo is the standard library alone


@dataclass
class Child:
    """A supervised process."""

    name: str
    command: List[str]
    process: Optional[subprocess.Popen[bytes]] = None
    begun: float = 0.0
    delay: float = 0.0
    start_at: float = 0.0


class Supervisor:
    """Starts everything, restarts what dies with back-off, and takes everything down with itself."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = os.path.abspath(settings.folder)
        self.children: List[Child] = []
        self.roles: Dict[str, str] = {}  # by name; link proxies have none
        self.reserved: List[socket.socket] = []
        self.ports: Json = {}
        self.stopping = False

    def run(self) -> int:
        for name in ("pids", "logs", "models"):
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)
        self.wake, signalled = socket.socketpair()
        for end in (self.wake, signalled):
            end.setblocking(False)
        signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)  # so that a signal ends `rest`
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.ask_to_stop)
        self.assign_ports()
        self.install_models()
        self.describe()
        self.write_pid("supervisor", os.getpid())
        try:
            if not self.start_all():
                return 0 if self.stopping else 1
            write_whole(os.path.join(self.folder, "ports.json"), json.dumps(self.ports, indent=1).encode())
            entry = self.ports["links"]["client-gw"] if self.settings.links else self.ports["gateway"]
            ready = {"event": "ready", "url": f"http://{self.settings.host}:{entry}", "pid": os.getpid()}
            ready.update(ports=self.ports, roles=self.roles)
            print(json.dumps(ready), flush=True)
            while not self.stopping:
                self.turn()
        finally:
            self.stop_all()
            signal.set_wakeup_fd(-1)
            for held in (self.wake, signalled, *self.reserved):
                held.close()
        return 0

    def ask_to_stop(self, *_: object) -> None:
        self.stopping = True

    def free_port(self, start: int) -> int:
        """A port that nobody listens on, below the range from which outgoing connections take theirs.

        The UDP port of the same number is held for as long as this process lives: it keeps supervisors that start at the
        same moment off each other's ports, also while a component is down.
        """
        for port in range(start, min(start + 4000, 32000)):
            try:
                claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                claim.bind((self.settings.host, port))
            except OSError:
                claim.close()
                continue
            with socket.socket() as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    trial.bind((self.settings.host, port))
                except OSError:
                    claim.close()
                    continue
            self.reserved.append(claim)
            return port
        raise SystemExit(f"service.py: no free port from {start} on")

    def assign_ports(self) -> None:
        names = ["gateway", *self.workers(), "store", "standby"]
        links = ["client-gw", *(f"gw-{name}" for name in self.replicas()), "gw-store", "store-standby"]
        links += [f"{name}-{other}" for name in self.replicas() for other in self.prefill_workers()]
        if self.settings.with_model_store:
            names.append("model-store")
            links += [f"{name}-model-store" for name in self.workers()]
        start = self.settings.base_port
        for name in names:
            self.ports[name] = start = self.free_port(start)
        if self.settings.links:
            self.ports["links"] = {}
            for name in links:
                self.ports["links"][name] = start = self.free_port(start)

    def replicas(self) -> List[str]:
        """Those that the gateway sends users to."""
        return [f"{'d' if self.settings.disaggregated else 'r'}{number}" for number in range(self.settings.replicas)]

    def prefill_workers(self) -> List[str]:
        return ["p0"] if self.settings.disaggregated else []

    def workers(self) -> List[str]:
        """All that have a model."""
        return [*self.prefill_workers(), *self.replicas()]

    def install_models(self) -> None:
        for name in self.workers():
            install_model(self.settings.package, os.path.join(self.folder, "models", name))

    def describe(self) -> None:
        """The command line of every component, in the order in which they start."""
        self.children = [Child(name, self.proxy_command(name)) for name in self.ports.get("links", {})]
        own, host = self.settings, self.settings.host
        self.add("standby", "standby", ["--peer", f"{host}:{self.ports['store']}"])
        self.add("store", "store", ["--peer", f"{host}:{self.through('store-standby', 'standby')}"])
        if own.with_model_store:
            self.add("model-store", "model-store", [])
        for name in self.workers():
            more = ["--folder", os.path.join(self.folder, "models", name), "--load-time", str(own.load_time)]
            more += ["--token-time", str(own.token_time), "--token-cost", str(own.token_cost)]
            more += ["--prefill-cost", str(own.prefill_cost), "--cold-steps", str(own.cold_steps)]
            more += ["--max-seqs", str(own.max_seqs), "--max-queue", str(own.max_queue)]
            if own.with_model_store:
                more += ["--model-store", f"{host}:{self.through(name + '-model-store', 'model-store')}"]
            if name in self.replicas():
                for other in self.prefill_workers():
                    more += ["--prefill-worker", f"{host}:{self.through(f'{name}-{other}', other)}"]
            self.add(name, ROLES_BY_LETTER[name[0]], more)
        more = []
        for name in self.replicas():
            more += ["--backend", f"{name}={host}:{self.through('gw-' + name, name)}"]
        more += [
            "--store",
            f"store={host}:{self.through('gw-store', 'store')}",
            "--store",
            f"standby={host}:{self.ports['standby']}",
        ]
        more += ["--first-sign", str(self.settings.first_sign), "--next-sign", str(self.settings.next_sign)]
        self.add("gateway", "gateway", more)

    def through(self, link: str, name: str) -> int:
        """The port by which a component is reached: its link proxy's, where there is one."""
        return int(self.ports["links"][link] if self.settings.links else self.ports[name])

    def add(self, name: str, role: str, more: List[str]) -> None:
        own = self.settings
        command = [sys.executable, *PYTHON_FLAGS, os.path.abspath(__file__), role, "--name", name, "--tied"]
        command += ["--host", own.host, "--port", str(self.ports[name]), "--package", own.package]
        command += ["--oracle", own.oracle, "--drain-limit", str(own.drain_limit), *more]
        for fix in own.fix:
            command += ["--fix", fix]
        self.children.append(Child(name, command))
        self.roles[name] = role

    def proxy_command(self, link: str) -> List[str]:
        target = {"client-gw": "gateway", "gw-store": "store", "store-standby": "standby"}.get(link, link.partition("-")[2])
        listen, to = (f"{self.settings.host}:{port}" for port in (self.ports["links"][link], self.ports[target]))
        return [sys.executable, "-S", self.settings.proxy, "--name", link, "--listen", listen, "--to", to, "--tied"]

    def start(self, child: Child) -> None:
        with open(os.path.join(self.folder, "logs", f"{child.name}.log"), "ab") as log:
            child.process = subprocess.Popen(
                child.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with(os.getpid()),  # noqa: PLW1509 - this process has one thread
            )
        child.begun = time.monotonic()
        self.write_pid(child.name, child.process.pid)

    def write_pid(self, name: str, pid: int) -> None:
        write_whole(os.path.join(self.folder, "pids", f"{name}.pid"), f"{pid}\n".encode())

    def start_all(self) -> bool:
        """Starts in order, each after those that it asks at its start, and waits until the gateway says that all is there."""
        deadline = time.monotonic() + 60 + self.settings.load_time
        for child in self.children:
            self.start(child)
            if child.name in ("standby", "store") and not self.await_answer(child.name, "/role", deadline):
                return False
        all_there = all(self.await_answer(name, "/ready", deadline) for name in (*self.prefill_workers(), "gateway"))
        return all_there and self.warm_up()

    def warm_up(self) -> bool:
        """What a careful person does after a deployment, and nobody after a crash: a few requests, so that users meet warm engines."""
        body = json.dumps({"prompt": "", "max_tokens": max(1, self.settings.cold_steps)}).encode()
        for name in self.workers():
            if self.settings.cold_steps > 0 and not self.settings.fixed("overload"):
                quick((self.settings.host, self.ports[name]), "POST /v1/completions", body, 60.0)
        return not self.stopping

    def await_answer(self, name: str, path: str, deadline: float) -> bool:
        while time.monotonic() < deadline and not self.stopping:
            status, answer = quick((self.settings.host, self.ports[name]), f"GET {path}")
            if status == 200 and len(answer.get("routed", self.replicas())) == self.settings.replicas:
                return True
            for child in self.children:
                if child.process is not None and child.process.poll() is not None:
                    print(f"service.py: {child.name} ended at its start: {self.last_words(child.name)}", file=sys.stderr)
                    return False
            self.rest(0.05)
        if not self.stopping:
            print(f"service.py: {name} did not become ready: {self.last_words(name)}", file=sys.stderr)
        return False

    def last_words(self, name: str) -> str:
        """The end of a component's log: the folder may be gone by the time that somebody wants to look."""
        with open(os.path.join(self.folder, "logs", f"{name}.log"), encoding="utf-8", errors="replace") as log:
            return log.read().strip()[-1000:] or "without a word"

    def rest(self, seconds: float) -> None:
        """Sleeps until a signal (a child's end among them), the end of standard input where tied, or the time is up."""
        watched: List[Any] = [self.wake, *([0] if self.settings.tied else [])]
        readable, _, _ = select.select(watched, [], [], seconds)
        if self.wake in readable:
            self.wake.recv(4096)
        if 0 in readable and not os.read(0, 4096):
            self.stopping = True

    def turn(self) -> None:
        """Buries who died, starts who is due, sleeps until something happens."""
        now = time.monotonic()
        for child in self.children:
            if child.process is not None and ended(child.process):
                self.bury(child, now)
            if child.process is None and now >= child.start_at:
                self.start(child)
        due = [child.start_at for child in self.children if child.process is None]
        self.rest(max(0.0, min(due) - time.monotonic()) if due else 30.0)

    def bury(self, child: Child, now: float) -> None:
        """Kills what the dead process left in its group, and sets the time of its restart."""
        assert child.process is not None
        code = close_child(child.process)
        child.process = None
        shortest = self.settings.restart_delay
        child.delay = shortest if now - child.begun > 10 else min(8.0, max(shortest, child.delay * 2))
        child.start_at = now + child.delay * (1 + random.random() / 4)  # noqa: S311 - jitter: not all at once after a common end
        note(self.settings, "gone", child=child.name, code=code, restart_in=round(child.start_at - now, 3))

    def stop_all(self) -> None:
        alive = [child for child in self.children if child.process is not None]
        for child in alive:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 0.5
        while any(child.process and not ended(child.process) for child in alive) and time.monotonic() < deadline:
            time.sleep(0.02)
        for child in alive:
            if child.process is not None:
                close_child(child.process)
        for name in os.listdir(os.path.join(self.folder, "pids")):
            os.unlink(os.path.join(self.folder, "pids", name))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder, "ports.json"))


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a child has ended, without reaping it where the system can tell: its number then still is its group's."""
    if process.returncode is not None:
        return True
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None


def close_child(process: subprocess.Popen[bytes]) -> int:
    """Kills a child's whole group, then reaps the child. Returns its exit code (negative: the signal)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    return process.wait()


def exchanged(address: Address, what: str, body: bytes, limit: Optional[float]) -> Tuple[int, bytes]:
    """A blocking request: status and body. Raises OSError where there is no whole answer, each part of it within `limit` seconds."""
    with socket.create_connection(address, timeout=limit) as connection:
        head = f"{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _, content = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", first)
    if not length or len(content) != int(length.group(1)):
        raise ConnectionError("the answer is not whole")
    return int(first.split(b" ")[1]), content


def quick(address: Address, what: str, body: bytes = b"", limit: float = 1.0) -> Tuple[int, Json]:
    """A request of the supervisor's, (0, {}) when there is no answer."""
    try:
        status, content = exchanged(address, what, body, limit)
        return status, json.loads(content)
    except (OSError, ValueError, IndexError):
        return 0, {}


# --------------------------------------------------------------------------------------------------------- command line


def address(text: str) -> Address:
    """HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def named_address(text: str) -> Tuple[str, Address]:
    """NAME=HOST:PORT."""
    name, equals, rest = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=HOST:PORT")
    return name, address(rest)


def parser() -> argparse.ArgumentParser:
    """All roles share one set of options; each uses its own."""
    here = os.path.dirname(os.path.abspath(__file__))
    new = argparse.ArgumentParser(prog="service.py", description="blackstart's demo model service", allow_abbrev=False)
    new.add_argument(
        "role", choices=("serve", *ROLES_BY_LETTER.values(), "engine", "gateway", "store", "standby", "model-store", "install")
    )
    new.add_argument("--folder", default=".", help="serve: where everything is kept; replica, install: its model's folder")
    new.add_argument("--package", default=here, help="the original model files and manifest.json (read only)")
    new.add_argument("--fix", action="append", choices=FIXES, default=[], help="switch off one flaw (repeatable)")
    new.add_argument("--hardened", action="store_true", help="switch off all flaws")
    new.add_argument("--replicas", type=int, default=2)
    new.add_argument("--base-port", type=int, default=8000, help="the first port to try")
    new.add_argument("--links", action="store_true", help="put a link proxy into every path")
    new.add_argument("--proxy", default="", help="with --links: the link proxy's program")
    new.add_argument("--with-model-store", action="store_true", help="serve: have a store that replicas fetch their model from")
    new.add_argument("--disaggregated", action="store_true", help="serve: have one prefill worker and --replicas decode workers")
    new.add_argument("--tied", action="store_true", help="end when standard input ends")
    new.add_argument("--oracle", default="", help="append to this file, as JSON lines, when who began and ceased to answer")
    new.add_argument("--load-time", type=float, default=0.5, help="seconds that loading the model takes")
    new.add_argument("--token-time", type=float, default=0.020, help="seconds between the tokens of a stream")
    new.add_argument("--token-cost", type=float, default=0.002, help="seconds of the accelerator that a token costs")
    new.add_argument("--prefill-cost", type=float, default=0.060, help="seconds of the accelerator that a prompt costs")
    new.add_argument("--cold-steps", type=int, default=60, help="steps that a freshly loaded engine computes slowly")
    new.add_argument("--max-seqs", type=int, default=8, help="requests that an engine computes at a time")
    new.add_argument("--max-queue", type=int, default=2, help="requests that may wait besides (fix overload)")
    new.add_argument("--restart-delay", type=float, default=0.5, help="seconds until a dead component is started again")
    new.add_argument("--drain-limit", type=float, default=30.0, help="seconds that a draining component waits at most")
    new.add_argument(
        "--first-sign", type=float, default=0.45, help="hardened gateway: seconds that it waits for any of an answer"
    )
    new.add_argument("--next-sign", type=float, default=1.5, help="hardened gateway: seconds that it waits for more of an answer")
    new.add_argument("--name", default="")
    new.add_argument("--host", default="127.0.0.1")
    new.add_argument("--port", type=int, default=8000)
    new.add_argument("--backend", dest="backends", type=named_address, action="append", default=[], help="NAME=HOST:PORT")
    new.add_argument("--store", dest="stores", type=named_address, action="append", default=[], help="NAME=HOST:PORT")
    new.add_argument("--peer", type=address, default=None, help="store, standby: HOST:PORT of the other")
    new.add_argument("--model-store", type=address, default=None, help="replica: HOST:PORT of what it fetches its model from")
    new.add_argument("--prefill-worker", type=address, default=None, help="decode: HOST:PORT of what computes its prompts")
    new.add_argument("--fd", type=int, default=-1, help="engine: its end of the socket pair")
    return new


def settings_from(arguments: Optional[Sequence[str]]) -> Settings:
    parse = parser()
    given = vars(parse.parse_args(arguments))
    if given["links"] and not given["proxy"]:
        parse.error("--links needs --proxy PATH")
    given["fix"] = FIXES if given.pop("hardened") else tuple(given["fix"])
    given["name"] = given["name"] or ("supervisor" if given["role"] == "serve" else given["role"])
    for name in ("backends", "stores"):
        given[name] = tuple(given[name])
    return Settings(**given)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    settings = settings_from(arguments)
    if settings.role == "serve":
        return Supervisor(settings).run()
    if settings.role == "engine":
        return run_engine(settings)
    if settings.role == "install":
        install_model(settings.package, settings.folder)
        return 0
    end_when_told()
    roles: Dict[str, Callable[[Settings], Union[Replica, Gateway, Store, ModelStore]]] = {
        **dict.fromkeys(ROLES_BY_LETTER.values(), Replica),
        "gateway": Gateway,
        "model-store": ModelStore,
    }

    async def run() -> int:  # inside a loop: on Python 3.8, asyncio.Event binds to the loop that is current when it is made
        return await roles.get(settings.role, Store)(settings).run()

    return asyncio.run(run())


def leave() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    leave()
