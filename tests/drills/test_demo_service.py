"""The demo model service, as real processes: what it answers, that each flaw is there by default, and that each repair works."""

import ast
import asyncio
import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.numpy
from blackstart.tests.ports import free_port

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "scenarios" / "demo"
PROGRAM = DEMO / "service.py"
PROXY = ROOT / "injectors" / "proxy.py"
QUICK = ("--load-time", "0.05", "--prefill-cost", "0.004", "--cold-steps", "0", "--restart-delay", "0.1")
FRANCE = {"prompt": "The capital of France is", "max_tokens": 8}
PARIS = " Paris, a city on the Seine."
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")


def until(what: str, look: Callable[[], Any], within_s: float = 30.0) -> Any:
    limit = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < limit, f"waited {within_s:g} s for {what}; last seen: {seen!r}"
        time.sleep(0.02)
    return seen


def ask(port: int, what: str, body: object = None, limit_s: float = 20.0) -> tuple[int, Any, dict[str, str]]:
    """(status, JSON or text, headers); status 0 when there was no whole answer."""
    method, path = what.split(" ")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error), {}
    finally:
        connection.close()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, json.loads(text) if headers["content-type"].startswith("application/json") else text, headers


def status(port: int, path: str) -> int:
    return ask(port, f"GET {path}")[0]


def completion(port: int, **changes: object) -> str:
    code, answer, _ = ask(port, "POST /v1/completions", {**FRANCE, **changes})
    assert code == 200, answer
    return answer["choices"][0]["text"]


class Stream:
    """An open stream. `read` returns the pieces up to the end of the answer, and whether it ended as HTTP says."""

    def __init__(self, port: int, **changes: object) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.connection.request("POST", "/v1/completions", json.dumps({**FRANCE, "stream": True, **changes}))
        self.answer = self.connection.getresponse()
        self.first = self.answer.readline()

    def read(self) -> tuple[list[str], bool]:
        whole = True
        try:
            rest = self.answer.read()
        except http.client.IncompleteRead as error:
            rest, whole = error.partial, False
        self.connection.close()
        return [line.removeprefix("data: ") for line in (self.first + rest).decode().split("\n") if line], whole


@dataclass(frozen=True)
class Service:
    folder: Path
    ports: dict[str, Any]
    supervisor: subprocess.Popen[str]

    def port(self, name: str) -> int:
        return self.ports[name]

    def pid(self, name: str) -> int:
        return int((self.folder / "pids" / f"{name}.pid").read_text())

    def engine(self, name: str) -> int:
        (pid,) = children(self.pid(name))
        return pid

    def weights(self, name: str) -> Path:
        return self.folder / "models" / name / "model.safetensors"

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text()

    def restarted(self, name: str, old: int) -> int:
        """The new pid, once the gateway routes to everybody again."""
        until(f"another {name}", lambda: self.pid(name) != old)
        self.settled(name)
        return self.pid(name)

    def settled(self, name: str) -> None:
        """This replica answers, and the gateway routes to all: it may not yet have seen that one was away."""
        replicas = sorted(name for name in self.ports if re.fullmatch(r"[rd]\d", name))
        until(f"an answer of {name}", lambda: ask(self.port(name), "POST /v1/completions", FRANCE)[0] in {200, 500})
        until("all in rotation", lambda: sorted(ask(self.port("gateway"), "GET /ready")[1]["routed"]) == replicas)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def family(pid: int) -> list[int]:
    return [pid, *(descendant for child in children(pid) for descendant in family(child))]


def alive(pids: list[int]) -> list[int]:
    """Those that exist and are no zombies (in a container without an init, nobody may reap an orphan)."""
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(pid)
    return found


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Service]:
    command = [sys.executable, "-I", str(PROGRAM), "serve", "--folder", str(folder), "--tied", "--base-port", "18100"]
    with (folder / "supervisor.log").open("w") as errors:
        process = subprocess.Popen(
            [*command, *QUICK, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    members: list[int] = [process.pid]
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "supervisor.log").read_text()
        yield Service(folder, json.loads(line)["ports"], process)
        members = family(process.pid) if process.poll() is None else members
    finally:
        process.communicate(timeout=20)  # closes standard input, to which it is tied
        until("the end of all its processes", lambda: not alive(members))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Shared by the tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("plain")) as service:
        yield service


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Shared: it repairs itself after each fault. Its gateway is patient: while one replica is away, nobody could be asked instead of one
    that stands still for a moment on a busy machine.
    """
    with serving(tmp_path_factory.mktemp("hardened"), "--hardened", "--first-sign", "3", "--next-sign", "10") as service:
        yield service


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """A plain service that a test may break for good."""
    with serving(tmp_path) as service:
        yield service


# --------------------------------------------------------------------------------------------------------- model and files


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_service", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_service"] = module
    spec.loader.exec_module(module)
    return module


def answer_of(program: ModuleType, content: bytes, prompt: str, tokens: int = 8) -> str:
    files = {name: (DEMO / name).read_bytes() for name in program.MODEL_FILES[1:]}
    model = program.LanguageModel(memoryview(content), files, mapped=True)
    context = model.encode(prompt)
    words = []
    for _ in range(tokens):
        context.append(model.next_token(context))
        words.append(model.decode(context[-1]))
    return "".join(words)


def extent(content: bytes, tensor: str) -> tuple[int, int]:
    (length,) = struct.unpack_from("<Q", content)
    start, end = json.loads(content[8 : 8 + length])[tensor]["data_offsets"]
    return 8 + length + start, 8 + length + end


def with_flip(content: bytes, tensor: str, index: int) -> bytes:
    """The highest exponent bit of one float32 inverted."""
    damaged = bytearray(content)
    damaged[extent(content, tensor)[0] + 4 * index + 3] ^= 0x40
    return bytes(damaged)


def test_the_program_is_python_3_8_and_imports_nothing_but_the_standard_library() -> None:
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 8))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} <= set(sys.stdlib_module_names)


def test_the_packaged_files_are_those_of_the_manifest() -> None:
    for name, digest in json.loads((DEMO / "manifest.json").read_text())["files"].items():
        assert hashlib.sha256((DEMO / name).read_bytes()).hexdigest() == digest
        assert (DEMO / name).stat().st_size <= 1 << 20


def test_both_revisions_are_safetensors_and_answer_differently(program: ModuleType) -> None:
    newest, stale = ((DEMO / name).read_bytes() for name in ("model.safetensors", "model-stale.safetensors"))
    assert {name: value.shape for name, value in safetensors.numpy.load(newest).items()} == {
        name: value.shape for name, value in safetensors.numpy.load(stale).items()
    }
    assert answer_of(program, newest, FRANCE["prompt"]) == PARIS
    assert answer_of(program, stale, FRANCE["prompt"], 1) == " Versailles"
    assert answer_of(program, newest, "A write is safe when a", 6) == " second machine has it too."


def test_any_flipped_exponent_bit_in_the_hidden_layer_changes_the_answer(program: ModuleType) -> None:
    content = (DEMO / "model.safetensors").read_bytes()
    start, end = extent(content, "hidden.weight")
    for index in random.Random(5).sample(range((end - start) // 4), 40):
        for prompt, right in ((FRANCE["prompt"], PARIS), ("The capital of Germany is", " Berlin, a city on the Spree.")):
            assert answer_of(program, with_flip(content, "hidden.weight", index), prompt) != right, index


@pytest.mark.parametrize("tensor", ["hidden.weight", "hidden.bias", "output.weight"])
def test_one_nan_changes_the_answer(program: ModuleType, tensor: str) -> None:
    damaged = bytearray((DEMO / "model.safetensors").read_bytes())
    struct.pack_into("<f", damaged, extent(bytes(damaged), tensor)[0] + 40, float("nan"))
    assert not answer_of(program, bytes(damaged), FRANCE["prompt"]).startswith(" Paris")


@pytest.mark.parametrize("damage", [b"", b"<html>not found</html>", struct.pack("<Q", 1 << 60) + b"{}" * 50])
def test_a_file_that_is_no_model_is_not_loaded(program: ModuleType, damage: bytes) -> None:
    with pytest.raises(program.Unloadable):
        program.tensors_of(memoryview(damage))


# ------------------------------------------------------------------------------------------------------------- endpoints


def test_completions(plain: Service) -> None:
    code, answer, headers = ask(plain.port("gateway"), "POST /v1/completions", {**FRANCE, "model": "demo"})
    assert code == 200
    assert headers["x-backend"] in {"r0", "r1"}
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": PARIS, "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}


def test_chat_stops_at_the_end_of_its_sentence(plain: Service) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    code, answer, _ = ask(plain.port("gateway"), "POST /v1/chat/completions", body)
    assert code == 200
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "The capital of France is" + PARIS}
    assert choice["finish_reason"] == "stop"


def test_a_stream_has_the_whole_answer_piece_by_piece(plain: Service) -> None:
    lines, whole = Stream(plain.port("gateway"), stream_options={"include_usage": True}).read()
    assert whole
    assert lines.pop() == "[DONE]"
    *pieces, usage = map(json.loads, lines)
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == PARIS
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * 7 + ["length"]


def test_a_chat_stream(plain: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port("r0"), timeout=20)
    body = {"messages": [{"role": "user", "content": "What is the capital of Japan?"}], "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse()
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    *pieces, done = [line.removeprefix("data: ") for line in answer.read().decode().split("\n\n") if line]
    connection.close()
    deltas = [json.loads(piece)["choices"][0] for piece in pieces]
    assert deltas[0]["delta"]["role"] == "assistant"
    assert "".join(delta["delta"]["content"] for delta in deltas) == "The capital of Japan is Tokyo, a city by the sea."
    assert deltas[-1]["finish_reason"] == "stop"
    assert done == "[DONE]"


def test_a_stream_is_paced(tmp_path: Path, plain: Service) -> None:
    begun = time.monotonic()
    Stream(plain.port("r0"), max_tokens=26).read()
    assert time.monotonic() - begun >= 25 * 0.02


def test_answers_are_the_same_from_every_replica_and_at_any_length(plain: Service) -> None:
    answers = [completion(plain.port(name), max_tokens=400) for name in ("r0", "r1", "gateway")]
    assert len(set(answers)) == 1
    assert answers[0].count(".") > 20
    assert completion(plain.port("r0"), prompt=["The capital of France is"]) == PARIS


def test_the_other_endpoints(plain: Service) -> None:
    for name in ("gateway", "r0", "r1"):
        assert status(plain.port(name), "/health") == status(plain.port(name), "/ready") == 200
    assert ask(plain.port("gateway"), "GET /v1/models")[1]["data"][0]["id"] == "demo"
    completion(plain.port("r0"))
    metrics = ask(plain.port("r0"), "GET /metrics")[1]
    assert re.search(r'^vllm:num_requests_running\{model_name="demo"\} 0$', metrics, re.MULTILINE)
    assert int(re.search(r"^vllm:generation_tokens_total\{.*\} (\d+)$", metrics, re.MULTILINE)[1]) > 0
    assert 'gateway_backend_up{backend="r0"} 1' in ask(plain.port("gateway"), "GET /metrics")[1]
    assert {row["name"] for row in ask(plain.port("gateway"), "GET /backends")[1]["backends"]} == {"r0", "r1"}


@pytest.mark.parametrize(
    ("what", "body", "code"),
    [
        ("POST /v1/completions", {**FRANCE, "model": "gpt"}, 404),
        ("POST /v1/completions", {**FRANCE, "max_tokens": 0}, 400),
        ("POST /v1/completions", {"prompt": ["a", "b"]}, 400),
        ("POST /v1/completions", [1], 400),
        ("POST /v1/chat/completions", {"messages": []}, 400),
        ("POST /v1/feedback", {"id": "x"}, 400),
        ("GET /v1/feedback/nobody", None, 404),
        ("GET /v1/completions", None, 405),
        ("GET /nowhere", None, 404),
    ],
)
def test_wrong_requests(plain: Service, what: str, body: object, code: int) -> None:
    answer = ask(plain.port("gateway"), what, body)
    assert answer[0] == code
    assert answer[1]["error"]["message"]


def test_connections_are_kept_alive_and_nonsense_is_refused(plain: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port("gateway"), timeout=20)
    for _ in range(3):
        connection.request("GET", "/v1/models")
        assert connection.getresponse().read()
        kept = connection.sock
    assert kept is connection.sock is not None
    connection.close()
    with socket.create_connection(("127.0.0.1", plain.port("gateway")), timeout=20) as raw:
        raw.sendall(b"EHLO x\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")


def test_feedback_is_kept(plain: Service) -> None:
    note = {"id": "kept-1", "text": "right", "more": [1, 2]}
    assert ask(plain.port("gateway"), "POST /v1/feedback", note)[0] == 201
    assert ask(plain.port("gateway"), "POST /v1/feedback", note)[0] == 200
    code, answer, headers = ask(plain.port("gateway"), "GET /v1/feedback/kept-1")
    assert (code, answer, headers["x-backend"]) == (200, note, "store")


# ---------------------------------------------------------------------------------------------------- faults, as delivered


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_change_of_the_mapped_file_bites_at_once(plain: Service) -> None:
    path = plain.weights("r0")
    original = path.read_bytes()
    at = extent(original, "hidden.weight")[0] + 4 * 77 + 3
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([original[at] ^ 0x40]))
    assert completion(plain.port("r0")) != PARIS
    assert completion(plain.port("r1")) == PARIS
    with path.open("r+b") as file:
        file.seek(at)
        file.write(original[at : at + 1])
    assert completion(plain.port("r0")) == PARIS


def test_a_stopped_engine_leaves_health_green_but_not_ready(plain: Service) -> None:
    with stopped(plain.engine("r0")):
        assert status(plain.port("r0"), "/health") == status(plain.port("r0"), "/v1/models") == 200
        assert status(plain.port("r0"), "/ready") == 503
        assert ask(plain.port("r0"), "POST /v1/completions", FRANCE, limit_s=1.0)[0] == 0
    until("r0 to be ready again", lambda: status(plain.port("r0"), "/ready") == 200)


def test_a_dead_engine_is_never_replaced(own: Service) -> None:
    api = own.pid("r0")
    os.kill(own.engine("r0"), signal.SIGKILL)
    until("errors", lambda: ask(own.port("r0"), "POST /v1/completions", FRANCE)[0] == 500)
    seen = [ask(own.port("gateway"), "POST /v1/completions", FRANCE)[0] for _ in range(12)]
    assert set(seen) == {200, 500}
    assert 5 <= seen.count(500) <= 7  # the gateway believes /health, and does not ask elsewhere
    assert status(own.port("r0"), "/health") == 200
    assert own.pid("r0") == api
    os.killpg(api, signal.SIGKILL)
    own.restarted("r0", api)
    assert completion(own.port("r0")) == PARIS


def test_sigterm_cuts_streams_and_the_supervisor_restarts(own: Service) -> None:
    stream, api, engine = Stream(own.port("r0"), max_tokens=400), own.pid("r0"), own.engine("r0")
    os.kill(api, signal.SIGTERM)
    lines, whole = stream.read()
    assert not whole
    assert "[DONE]" not in lines
    own.restarted("r0", api)
    assert not alive([api, engine])


def test_losing_the_primary_store_loses_acknowledged_writes(own: Service) -> None:
    gateway = own.port("gateway")
    old = {"id": "old", "text": "replicated"}
    assert ask(gateway, "POST /v1/feedback", old)[0] == 201
    until("replication", lambda: ask(own.port("standby"), "GET /role")[1]["sequence"] == 1)
    assert ask(gateway, "POST /v1/feedback", {"id": "young", "text": "not yet"})[0] == 201
    killed = own.pid("store")
    os.killpg(killed, signal.SIGKILL)
    until("feedback to be served again", lambda: ask(gateway, "GET /v1/feedback/old")[1] == old)
    assert ask(gateway, "GET /v1/feedback/young")[0] == 404
    until("the store to be back", lambda: own.pid("store") != killed and ask(own.port("store"), "GET /role")[0] == 200)
    assert ask(gateway, "POST /v1/feedback", {"id": "new", "text": "after"})[0] == 201


def test_a_damaged_header_is_found_only_at_the_restart_and_then_for_ever(own: Service) -> None:
    path, api = own.weights("r1"), own.pid("r1")
    damaged = path.with_suffix(".new")
    damaged.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    damaged.replace(path)
    assert completion(own.port("r1")) == PARIS
    os.killpg(api, signal.SIGKILL)
    own.restarted("r1", api)
    assert ask(own.port("r1"), "POST /v1/completions", FRANCE)[0] == 500
    assert "load-refused" in own.log("r1")


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    arguments = ("--links", "--proxy", str(PROXY), "--oracle", str(tmp_path / "oracle.jsonl"))
    with serving(tmp_path, *arguments) as service:
        assert completion(service.ports["links"]["client-gw"]) == PARIS
        assert ask(service.ports["links"]["client-gw"], "POST /v1/feedback", {"id": "x", "text": "y"})[0] == 201
        members = family(service.supervisor.pid)
        commands = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in members]
        for role in (
            "replica --name r0 ",
            "engine --name r0 ",
            "gateway --name gateway ",
            "store --name store ",
            "standby --name standby ",
        ):
            assert sum(f"service.py {role}" in command for command in commands) == 1
        assert sum("proxy.py --name" in command for command in commands) == 5
        assert len({os.getpgid(pid) for pid in members}) == len(members) - 2  # an engine is in its replica's group
        os.kill(service.engine("r1"), signal.SIGSTOP)
        service.supervisor.kill()
        until("the end of all its processes", lambda: not alive(members))
    events = [json.loads(line) for line in (tmp_path / "oracle.jsonl").read_text().splitlines()]
    assert {"gateway", "r0", "r1", "store", "standby"} <= {each["component"] for each in events if each["event"] == "answering"}


def test_without_a_flaw_only_that_flaw_is_gone(tmp_path: Path) -> None:
    with serving(tmp_path, "--fix", "version") as service:
        pinned = "sha256:" + json.loads((DEMO / "manifest.json").read_text())["files"]["model.safetensors"]
        assert ask(service.port("r0"), "GET /v1/models")[1]["data"][0]["digest"] == pinned
        service.weights("r0").write_bytes((DEMO / "model-stale.safetensors").read_bytes())
        assert completion(service.port("r0")).startswith(" Versailles")
        until("r0 to be out of rotation", lambda: ask(service.port("gateway"), "GET /ready")[1]["routed"] == ["r1"])
        assert {completion(service.port("gateway")) for _ in range(6)} == {PARIS}


# ------------------------------------------------------------------------------------------------------- faults, hardened


def test_hardened_a_damaged_or_foreign_file_is_refused_and_restored(hardened: Service) -> None:
    path, original = hardened.weights("r0"), hardened.weights("r0").read_bytes()
    for damaged in (with_flip(original, "hidden.weight", 77), (DEMO / "model-stale.safetensors").read_bytes(), original[:-100]):
        path.write_bytes(damaged)
        assert completion(hardened.port("r0")) == PARIS  # read at start: nothing reaches what is served
        api = hardened.pid("r0")
        os.killpg(api, signal.SIGKILL)
        hardened.restarted("r0", api)
        assert path.read_bytes() == original
        assert completion(hardened.port("r0")) == PARIS
    assert hardened.log("r0").count('"refused"') == 3


@pytest.mark.parametrize("fix", [(), ("--fix", "weights")], ids=["plain", "fixed"])
def test_a_replica_that_starts_fetches_its_model_from_the_store(tmp_path: Path, fix: tuple[str, ...]) -> None:
    """Plain: all of it, whatever lies there, and waits while the store is silent. Repaired: what its own copy lacks."""
    with serving(tmp_path, "--with-model-store", "--replicas", "1", *fix) as service:
        store, path = service.pid("model-store"), service.weights("r0")
        original = path.read_bytes()
        os.kill(store, signal.SIGSTOP)
        old = service.pid("r0")
        os.kill(old, signal.SIGKILL)
        until("another r0", lambda: service.pid("r0") != old)
        if fix:
            until("an answer from its own copy", lambda: ask(service.port("r0"), "POST /v1/completions", FRANCE)[0] == 200)
            path.write_bytes((DEMO / "model-stale.safetensors").read_bytes())
            os.kill(store, signal.SIGCONT)
            old = service.pid("r0")
            os.kill(old, signal.SIGKILL)
            service.restarted("r0", old)
            assert '"source": "model store"' in service.log("r0")
        else:
            until("an engine that waits", lambda: children(service.pid("r0")))
            assert status(service.port("r0"), "/health") == 0
            os.kill(store, signal.SIGCONT)
            service.settled("r0")
            assert service.log("r0").count('"event": "fetched"') == 2
        assert path.read_bytes() == original


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_hardened_users_do_not_notice_a_lost_engine_and_it_is_replaced(hardened: Service, number: int) -> None:
    api, engine = hardened.pid("r1"), hardened.engine("r1")
    os.kill(engine, number)
    for _ in range(10):
        assert completion(hardened.port("gateway")) == PARIS
    until("another engine", lambda: children(api) and children(api) != [engine])
    hardened.settled("r1")
    assert hardened.pid("r1") == api
    assert completion(hardened.port("r1")) == PARIS


def test_hardened_sigterm_lets_streams_finish(hardened: Service) -> None:
    streams = [Stream(hardened.port("gateway"), max_tokens=150) for _ in range(4)]
    assert {stream.answer.getheader("x-backend") for stream in streams} == {"r0", "r1"}
    api = hardened.pid("r0")
    os.kill(api, signal.SIGTERM)
    until("r0 to be out of rotation", lambda: ask(hardened.port("gateway"), "GET /ready")[1]["routed"] == ["r1"])
    assert completion(hardened.port("gateway")) == PARIS
    for stream in streams:
        lines, whole = stream.read()
        assert whole
        assert lines[-1] == "[DONE]"
        assert len(lines) == 151
    hardened.restarted("r0", api)


def test_hardened_no_acknowledged_write_is_lost_with_the_primary(hardened: Service) -> None:
    gateway, acknowledged = hardened.port("gateway"), []
    killed = hardened.pid("store")
    for number in range(40):
        if len(acknowledged) == 20 and hardened.pid("store") == killed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(killed, signal.SIGKILL)
        if ask(gateway, "POST /v1/feedback", {"id": f"w{number}", "text": str(number)})[0] in {200, 201}:
            acknowledged.append(f"w{number}")
    assert len(acknowledged) >= 20
    late = {"id": "late", "text": "after"}
    until("writes to be acknowledged again", lambda: ask(gateway, "POST /v1/feedback", late)[0] in {200, 201})
    assert [identity for identity in acknowledged if ask(gateway, f"GET /v1/feedback/{identity}")[0] != 200] == []
    until("the store to be back", lambda: hardened.pid("store") != killed and ask(hardened.port("store"), "GET /role")[0] == 200)


def test_hardened_without_a_standby_it_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, "--fix", "replication", "--replicas", "1") as service:
        with stopped(service.pid("standby")):
            body = {"id": "alone", "text": "x"}
            assert ask(service.port("gateway"), "POST /v1/feedback", body)[0] == 503
            _, _, headers = until(
                "explicit degradation",
                lambda: (answer := ask(service.port("gateway"), "POST /v1/feedback", body))[0] == 200 and answer,
            )
            assert headers["x-durability"] == "degraded"
        until("full durability", lambda: "x-durability" not in ask(service.port("gateway"), "POST /v1/feedback", body)[2])


def test_hardened_a_full_queue_is_refused_and_abandoned_work_dropped(hardened: Service) -> None:
    port = hardened.port("r1")
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: ask(port, "POST /v1/completions", {**FRANCE, "max_tokens": 60}), range(24)))
    codes = [code for code, _, _ in answers]
    assert set(codes) == {200, 429}
    assert all("retry-after" in headers for code, _, headers in answers if code == 429)
    abandoned = [Stream(port, max_tokens=4000) for _ in range(6)]
    running = r"^vllm:num_requests_running\{.*\} 6$"
    until("six running", lambda: re.search(running, ask(port, "GET /metrics")[1], re.MULTILINE))
    for stream in abandoned:
        stream.answer.close()
        stream.connection.close()
    until("none running", lambda: 'num_requests_running{model_name="demo"} 0\n' in ask(port, "GET /metrics")[1], 10)


def test_hardened_long_prompts_get_half_of_the_cache(plain: Service, hardened: Service) -> None:
    """Two of 2000 words; the others are refused at once, and a short one is not. Plain, all are let in."""
    flood = {"prompt": "word " * 2000, "max_tokens": 256}  # the first is computed still when the last comes
    for service, refused in ((hardened, 3), (plain, 0)):
        with ThreadPoolExecutor(5) as pool:
            asked = [pool.submit(ask, service.port("r0"), "POST /v1/completions", flood) for _ in range(5)]
            assert completion(service.port("r0")) == PARIS
            answers = [each.result() for each in asked]
        assert [code for code, _, _ in answers].count(429) == refused
        assert all(headers["retry-after"] == "1" for code, _, headers in answers if code == 429)


def test_hardened_killing_a_replica_is_masked(hardened: Service) -> None:
    api = hardened.pid("r0")
    os.killpg(api, signal.SIGKILL)
    for _ in range(20):
        assert completion(hardened.port("gateway")) == PARIS
    hardened.restarted("r0", api)


# ------------------------------------------------------------------------------------------------ prefill and decode workers


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One prefill and two decode workers, plain; shared by tests that wait until all is well again."""
    with serving(tmp_path_factory.mktemp("halves"), "--disaggregated") as service:
        yield service


@pytest.fixture(scope="module")
def hardened_halves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("hardened-halves"), "--disaggregated", "--hardened") as service:
        yield service


def prompts_of(service: Service, name: str) -> int:
    """Tokens of all prompts that this worker's engine was given."""
    return int(re.search(r"^vllm:prompt_tokens_total\{.*\} (\d+)$", ask(service.port(name), "GET /metrics")[1], re.MULTILINE)[1])


def left_alone(service: Service, name: str) -> tuple[int, int]:
    """How often this decode worker has ceased to ask its prefill worker, and begun to again."""
    log = service.log(name)
    return log.count('"prefill-left-alone"'), log.count('"prefill-asked-again"')


def asks_again(service: Service, name: str) -> None:
    """This decode worker leaves prompts to its prefill worker. Where that one is silent for a moment, as on a busy machine, the own engine
    computes one.
    """

    def left_to_it() -> bool:
        before = prompts_of(service, "p0")
        assert completion(service.port(name)) == PARIS
        return prompts_of(service, "p0") > before

    until(f"a prompt that {name} leaves to p0", left_to_it)


def engine_says(program: ModuleType, **command: object) -> list[dict[str, Any]]:
    """All messages of an engine that is given one request."""
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        engine = program.Engine(program.settings_from(["engine", "--folder", str(DEMO), *QUICK, "--fix", "weights"]), theirs)
        engine.model = program.load_verified(engine.settings)
        limits = {"max": 8, "paced": False, "until_end": False, "cache": None}
        engine.obey({"do": "generate", "id": 1, **limits, **command})
        while engine.running or engine.waiting:
            engine.step()
        return [json.loads(line) for line in ours.recv(1 << 20).splitlines()]


def told(messages: list[dict[str, Any]]) -> tuple[str, bool]:
    """The answer, and whether its prompt was computed for it (more than told that there is nothing to compute)."""
    return "".join(each.get("text", "") for each in messages), any(each.get("prefill") for each in messages)


def test_an_engine_goes_on_from_the_cache_of_its_prompt_and_of_no_other(
    program: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    prompt, other = FRANCE["prompt"], "The capital of Germany is"
    *computed, last = engine_says(program, prompt=prompt, max=0)
    assert told(computed) == ("", True)
    assert last["finish"] == "prefilled"
    cache = last["cache"]
    assert told(engine_says(program, prompt=prompt)) == (PARIS, True)
    assert told(engine_says(program, prompt=prompt, cache=cache)) == (PARIS, False)
    assert "cache-refused" not in capfd.readouterr().err
    for wrong in (
        engine_says(program, prompt=other, max=0)[-1]["cache"],
        {**cache, "weights": "0" * 64},
        {**cache, "tokens": cache["tokens"][:-1]},
        {},
    ):
        assert told(engine_says(program, prompt=prompt, cache=wrong)) == (PARIS, True)
        assert "cache-refused" in capfd.readouterr().err


def test_decode_workers_answer_as_replicas_do_and_leave_prompts_to_the_prefill_worker(halves: Service) -> None:
    before = prompts_of(halves, "p0")
    code, answer, headers = ask(halves.port("gateway"), "POST /v1/completions", FRANCE)
    assert (code, answer["choices"][0]["text"]) == (200, PARIS)
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    assert headers["x-backend"] in {"d0", "d1"}
    assert prompts_of(halves, "p0") == before + 5
    assert {completion(halves.port(name), max_tokens=400) for name in ("d0", "d1", "p0")} == {
        completion(halves.port("gateway"), max_tokens=400)
    }
    lines, whole = Stream(halves.port("d1")).read()
    assert whole
    assert len(lines) == 9
    assert ask(halves.port("gateway"), "GET /ready")[1]["routed"] == ["d0", "d1"]
    assert ask(halves.port("d0"), "POST /cache", {"prompt": ""})[0] == 404
    assert ask(halves.port("p0"), "POST /cache", {"prompt": 5})[0] == 400


def test_a_decode_worker_waits_for_a_silent_prefill_worker_and_fails_without_one(halves: Service) -> None:
    with stopped(halves.pid("p0")):
        assert ask(halves.port("d0"), "POST /v1/completions", FRANCE, limit_s=2.0)[0] == 0
        assert status(halves.port("d0"), "/ready") == status(halves.port("gateway"), "/ready") == 200
    assert completion(halves.port("d0")) == PARIS
    old = halves.pid("p0")
    os.killpg(old, signal.SIGKILL)
    code, answer, _ = ask(halves.port("gateway"), "POST /v1/completions", FRANCE)
    assert (code, answer["error"]["message"].partition(":")[0]) == (500, "KVTransferError")
    until("another p0", lambda: halves.pid("p0") != old and status(halves.port("p0"), "/ready") == 200)
    assert completion(halves.port("gateway")) == PARIS


def test_hardened_prompts_of_a_silent_prefill_worker_are_computed_by_decode_workers(hardened_halves: Service) -> None:
    """After a second, and then at once: nobody else waits for a worker that does not answer, until it does again."""
    service, port = hardened_halves, hardened_halves.port("d0")
    asked = left_alone(service, "d0")
    with stopped(service.pid("p0")):
        began = time.monotonic()
        assert completion(port) == PARIS
        assert time.monotonic() - began >= 1
        for _ in range(8):
            assert completion(port) == PARIS
        assert time.monotonic() - began < 8, "each of nine waited for itself"
        assert left_alone(service, "d0") == (asked[0] + 1, asked[1])
    until("the prefill worker to be asked again", lambda: left_alone(service, "d0")[1] > asked[1])
    asks_again(service, "d0")


def test_hardened_users_do_not_notice_that_the_prefill_worker_was_killed(hardened_halves: Service) -> None:
    old = hardened_halves.pid("p0")
    os.killpg(old, signal.SIGKILL)
    assert {completion(hardened_halves.port("gateway")) for _ in range(10)} == {PARIS}
    until("another p0", lambda: hardened_halves.pid("p0") != old and status(hardened_halves.port("p0"), "/ready") == 200)
    until("both to ask it again", lambda: all(len(set(left_alone(hardened_halves, name))) == 1 for name in ("d0", "d1")))
    asks_again(hardened_halves, "d1")


# -------------------------------------------------------------------------------------------------------------- in containers


@contextmanager
def role(name: str, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """One role alone, as a container runs it: its port, its process."""
    port = free_port()
    command = [*prefix, sys.executable, "-I", "-S", str(PROGRAM), name, "--port", str(port), *QUICK, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()


def test_a_backend_is_found_by_name_and_one_that_has_no_address_is_down(plain: Service) -> None:
    there, gone = f"there=localhost:{plain.port('r0')}", "gone=replica-7.no-such-service.invalid:8000"
    with role("gateway", "--backend", there, "--backend", gone) as (port, _):
        until(
            "the first in rotation",
            lambda: ask(port, "GET /ready")[1]["routed"] == ["there"] if status(port, "/ready") else None,
            10,
        )
        assert {completion(port) for _ in range(4)} == {PARIS}
        whys = until(
            "checks",
            lambda: [row["why"] for row in ask(port, "GET /backends")[1]["backends"] if "check" not in row["why"]][1:],
            15,
        )
        assert whys[0].startswith(("connect: ", "no answer within"))
        assert ask(port, "GET /ready")[1]["routed"] == ["there"]


@pytest.mark.parametrize(
    ("fixes", "says", "found"),
    [
        ((), "silent", "replica-0"),
        (("--fix", "discovery"), "silent", "198.51.100.7"),
        (("--fix", "discovery"), "unknown", "replica-0"),  # that is an answer: it is there no more
    ],
)
def test_hardened_a_name_keeps_its_last_address_while_the_resolver_is_silent(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, fixes: tuple[str, ...], says: str, found: str
) -> None:
    known, silence = threading.Event(), threading.Event()

    def resolve(*_: object, **__: object) -> list[Any]:
        if not known.is_set():
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("198.51.100.7", 8000))]
        if says == "silent":
            silence.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def ask_twice() -> tuple[str, float]:
        addresses = program.Addresses(program.settings_from(["gateway", *fixes]))
        await addresses.of(("replica-0", 8000))
        known.set()
        began = time.monotonic()
        last = [await addresses.of(("replica-0", 8000)) for _ in range(20)][-1]
        took_s = time.monotonic() - began
        silence.set()
        for asked in addresses.asking.values():
            await asked
        last = await addresses.of(("replica-0", 8000))
        return last[0], took_s

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    host, took_s = asyncio.run(ask_twice())
    assert host == found
    assert took_s < 5, "one question at a time is waited for, and shortly"


def test_a_model_is_installed_only_where_it_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(PROGRAM), "install", "--folder", str(tmp_path / "models" / "demo")]
    subprocess.run(command, check=True, timeout=20)
    weights = tmp_path / "models" / "demo" / "model.safetensors"
    assert weights.read_bytes() == (DEMO / "model.safetensors").read_bytes()
    weights.write_bytes(b"damaged")
    (weights.parent / "config.json").unlink()
    subprocess.run(command, check=True, timeout=20)
    assert weights.read_bytes() == b"damaged"
    assert (weights.parent / "config.json").read_bytes() == (DEMO / "config.json").read_bytes()


PID_1 = ("unshare", "--pid", "--fork", "--kill-child")
needs_namespaces = pytest.mark.skipif(
    subprocess.run([*PID_1, "true"], capture_output=True, check=False).returncode != 0 if shutil.which("unshare") else True,
    reason="needs the right to make a pid namespace",
)


def first_of(unshare: int) -> int:
    """The first process of the namespace that this `unshare` made."""
    return until("the process itself", lambda: [pid for pid in children(unshare) if "service.py" in command_of(pid)])[0]


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


@needs_namespaces
def test_as_first_process_it_ends_when_told_also_while_it_loads(tmp_path: Path) -> None:
    with role("replica", "--folder", str(DEMO), "--load-time", "60", prefix=PID_1) as (_, process):
        first = first_of(process.pid)
        until("its engine", lambda: children(first))
        os.kill(first, signal.SIGTERM)
        process.wait(5)
    with role("replica", "--folder", str(DEMO), prefix=PID_1) as (port, process):
        until("an answer", lambda: status(port, "/ready") == 200)
        os.kill(first_of(process.pid), signal.SIGTERM)
        process.wait(5)


@needs_namespaces
def test_as_first_process_it_buries_orphans_and_restarts_its_engine(tmp_path: Path) -> None:
    with role("replica", "--folder", str(DEMO), "--fix", "engine-death", prefix=PID_1) as (port, process):
        until("an answer", lambda: status(port, "/ready") == 200)
        first = first_of(process.pid)
        (engine,) = children(first)
        leave = "sleep 3 >/dev/null 2>&1 &"
        subprocess.run(["nsenter", "-t", str(first), "--pid", "sh", "-c", leave], check=True, timeout=20)
        until("an orphan", lambda: len(children(first)) == 2)
        until("the orphan to be buried", lambda: children(first) == [engine])
        os.kill(engine, signal.SIGKILL)
        until("another engine", lambda: status(port, "/ready") == 200 and children(first) not in ([engine], []))
        assert completion(port) == PARIS
        assert len(children(first)) == 1
