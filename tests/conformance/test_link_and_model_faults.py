"""Link and model faults on a live service of local processes: the conformance suite, and what it does not ask for."""

import functools
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blackstart.injectors import file_agent, proxy
from blackstart.injectors.base import Differs, ForeignChange, Injector, NotYet, Refusal, Undo, Unseen
from blackstart.injectors.caches import CacheWipe
from blackstart.injectors.file_proofs import was_changed
from blackstart.injectors.inline import NetworkDelay, StreamStall, TcpReset
from blackstart.injectors.mappings import when_it_bites
from blackstart.injectors.model_files import ModelCorrupt
from blackstart.injectors.model_formats.mutations import Job
from blackstart.injectors.model_revisions import VersionSkew
from blackstart.injectors.network import NetworkPartition
from blackstart.injectors.platforms.base import PlatformError, Target, Unsupported
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, Link, ProcessSpec
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Size
from blackstart.tests.ports import free_port
from safetensors.numpy import load_file, save_file

PATIENCE_S = 20.0
ANSWER = b"a" * 5000
REPLICA = """
import http.server, mmap, socketserver, subprocess, sys
if sys.argv[2]:
    with open(sys.argv[2], "rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/child":
            subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b"a" * 5000)
    def log_message(self, *_):
        pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 100
server = Server(("127.0.0.1", int(sys.argv[1])), Answer)
print("ready", flush=True)
server.serve_forever()
"""
READER = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print(held[-1], flush=True)
sys.stdin.readline()
print(held[-1])
"""


@dataclass
class Service:
    """r0 and r1, each behind links of its own; r0 has its model mapped, r1 has read it."""

    folder: Path
    runtime: Path
    stack: ExitStack
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=lambda: {"r0": "replica", "r1": "replica"})

    def start(self, name: str, *command: str) -> str:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "BLACKSTART_RUNTIME_DIR": str(self.runtime)},
        )
        self.processes[name] = process
        self.stack.callback(self.stop, name)
        assert process.stdout is not None
        return process.stdout.readline()

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self.processes[name]
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)

    def replica(self, name: str, *, maps: bool) -> None:
        (self.folder / name).mkdir()
        model = self.folder / name / "model.safetensors"
        numbers = np.random.default_rng(1)
        save_file({"mlp.weight": numbers.standard_normal((64, 64)).astype("float32")}, model)
        save_file({"mlp.weight": numbers.standard_normal((64, 64)).astype("float32")}, model.with_name("model-stale.safetensors"))
        self.ports[name] = free_port()
        assert self.start(name, sys.executable, "-c", REPLICA, str(self.ports[name]), str(model) if maps else "") == "ready\n"

    def link(self, name: str, from_: str, to: str) -> None:
        target = f"127.0.0.1:{self.ports[to]}"
        line = self.start(name, sys.executable, proxy.__file__, "--name", name, "--listen", "127.0.0.1:0", "--to", target)
        self.ports[name] = json.loads(line)["port"]
        self.links.append(Link(name, from_, to, self.ports[name]))

    @property
    def open(self) -> Callable[[], ProcessPlatform]:
        components = tuple(Component(name, self.roles[name], port=self.ports[name]) for name in ("r0", "r1"))
        spec = ProcessSpec((*components, Component("gw", "gateway", port=1)), links=tuple(self.links))
        environment = {**os.environ, "BLACKSTART_RUNTIME_DIR": str(self.runtime)}
        return functools.partial(ProcessPlatform, spec, self.folder, self.folder / "state", environment)

    def model(self, name: str = "r0") -> Path:
        return self.folder / name / "model.safetensors"


def started() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="bs-") as folder, ExitStack() as stack:
        service = Service(Path(folder), Path(folder) / "rt", stack)
        service.replica("r0", maps=True)
        service.replica("r1", maps=False)
        for peer in ("gw", "client", "a", "b"):
            service.link(f"{peer}-r0", peer, "r0")
        yield service


@pytest.fixture(scope="module")
def checked() -> Iterator[Service]:
    """For the conformance suite: all faults at once, each on a link or a file of its own, since most of it is waiting."""
    yield from started()


@pytest.fixture
def service() -> Iterator[Service]:
    yield from started()


def ask(port: int, limit_s: float, path: str = "/") -> tuple[str, float]:
    """What this test sees with its own eyes: `ok`, or the class of the error, and after how long."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
    try:
        connection.request("GET", path)
        right = connection.getresponse().read() == ANSWER
    except OSError as error:
        return type(error).__name__, time.monotonic() - began
    finally:
        connection.close()
    return "ok" if right else "wrong", time.monotonic() - began


def digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def target(platform: ProcessPlatform, name: str = "r0") -> tuple[Target, ...]:
    found = platform.current(name)
    assert found is not None
    return (found,)


def planned(injector: Injector, platform: ProcessPlatform, name: str = "r0", deadline_s: float = 60.0) -> Undo:
    undo = injector.plan(target(platform, name), platform).stamped(f"run.{time.time_ns()}", injector.kind, {}, deadline_s)
    return Undo.from_json(json.loads(json.dumps(undo.to_json())))


def soon(proof: Callable[[], object]) -> object:
    limit = time.monotonic() + PATIENCE_S
    while True:
        try:
            return proof()
        except NotYet:
            assert time.monotonic() < limit
            time.sleep(0.05)


# --- the conformance suite ---


def link_down(port: int, outcome: str) -> bool:
    return ask(port, 1.0)[0] == outcome


def link_slow(port: int, seconds: float) -> bool:
    return ask(port, PATIENCE_S)[1] >= seconds


def file_differs(path: Path, before: str) -> bool:
    return not path.exists() or digest(path) != before


def revisions(service: Service, name: str) -> tuple[VersionSkew, Path]:
    """Of a folder that has two revisions of a model beside each other, and its weights."""
    folder, weights = service.folder / name / "tiny", service.model(name)
    for at, source in ((folder, weights), (folder.with_name("tiny-stale"), weights.with_name("model-stale.safetensors"))):
        at.mkdir()
        (at / "model.safetensors").write_bytes(source.read_bytes())
        (at / "tokenizer.json").write_text("{}")
    return VersionSkew(file=str(folder)), folder / "model.safetensors"


CHECKS = ["network-partition", "network-delay", "tcp-reset", "stream-stall", "exponent-msb", "truncate", "version-skew"]


@pytest.fixture(scope="module")
def verdicts(checked: Service) -> Iterator[dict[str, Future[None]]]:
    ports, open_platform = checked.ports, checked.open
    mapped = ModelCorrupt("exponent-msb").with_model(str(checked.folder / "{name}"), "mmap")
    read = ModelCorrupt("truncate").with_model(str(checked.folder / "{name}"), "at-start")
    another, revision = revisions(checked, "r1")
    cases: dict[str, tuple[Injector, str, Callable[[], bool]]] = {
        "network-partition": (NetworkPartition(("gateway",)), "r0", functools.partial(link_down, ports["gw-r0"], "TimeoutError")),
        "network-delay": (
            NetworkDelay(timedelta(seconds=0.3), timedelta(seconds=0.05), ("client",)),
            "r0",
            functools.partial(link_slow, ports["client-r0"], 0.5),
        ),
        "tcp-reset": (TcpReset(("a",), Size(2000)), "r0", functools.partial(link_down, ports["a-r0"], "ConnectionResetError")),
        "stream-stall": (StreamStall(Size(3000), ("b",)), "r0", functools.partial(link_down, ports["b-r0"], "TimeoutError")),
        "exponent-msb": (mapped, "r0", functools.partial(file_differs, checked.model("r0"), digest(checked.model("r0")))),
        "version-skew": (another, "r1", functools.partial(file_differs, revision, digest(revision))),
        "truncate": (read, "r1", functools.partial(file_differs, checked.model("r1"), digest(checked.model("r1")))),
    }
    with ThreadPoolExecutor(len(cases)) as pool:
        yield {
            name: pool.submit(check_injector, injector, open_platform, (victim,), effect=effect)
            for name, (injector, victim, effect) in cases.items()
        }


@pytest.mark.parametrize("name", CHECKS)
def test_contract(verdicts: dict[str, Future[None]], name: str) -> None:
    verdicts[name].result()


# --- network faults: what is refused, proven and said ---


def test_links_are_demanded_and_probed(service: Service) -> None:
    with closing(service.open()) as platform:
        for injector, victim, why in (
            (NetworkPartition(), "r1", "no link proxy stands between r1 and anybody; declare it under process.links"),
            (NetworkPartition(("store",)), "r0", "no link proxy stands between r0 and store"),
            (NetworkPartition(("gateway", "nobody")), "r0", "nothing is called nobody or has that role: there is"),
            (StreamStall(Size(50 << 20), ("gateway",)), "r0", "give a smaller `after`"),
        ):
            with pytest.raises((Refusal, Unsupported), match=why):
                injector.plan(target(platform, victim), platform)
        platform.link_begin("somebody's", "gw-r0", {"type": "partition", "direction": "both"}, 60.0)
        with pytest.raises(Refusal, match=r"meets silent .*rules of others are on it: somebody's"):
            TcpReset(("gateway",)).plan(target(platform), platform)
        platform.link_end("somebody's", "gw-r0", {})
        service.processes["gw-r0"].kill()
        service.processes["gw-r0"].wait()
        with pytest.raises(Refusal, match="the link proxy of gw-r0 does not answer"):
            TcpReset(("gateway",)).plan(target(platform), platform)


def test_component_behind_a_dead_link_is_refused_before_and_named_after(service: Service) -> None:
    injector = NetworkPartition(("gateway",))
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        evidence = soon(lambda: injector.verify(undo, platform))
        assert "silent" in evidence.detail
        with pytest.raises(Differs, match="still on link gw-r0"):
            injector.verify_recovered(undo, platform)
        service.processes["r0"].kill()
        service.processes["r0"].wait()
        injector.recover(undo, platform)
        assert "what stands behind it does not answer" in injector.verify_recovered(undo, platform).detail
        with pytest.raises(Refusal, match="meets reset without any fault"):
            injector.plan(undo.targets, platform)


def test_without_the_rule_there_is_no_evidence(service: Service) -> None:
    peers = ("gateway", "b")
    with closing(service.open()) as platform, closing(service.open()) as elsewhere:
        for injector in (
            NetworkPartition(peers),
            TcpReset(peers),
            StreamStall(peers=peers),
            NetworkDelay(timedelta(seconds=0.2), peers=peers),
        ):
            undo = planned(injector, platform)
            injector.inject(undo, platform)
            evidence = soon(functools.partial(injector.verify, undo, platform))
            assert set(evidence.facts) == {"gw-r0", "b-r0"}
            elsewhere.link_end(undo.fault, "b-r0", {})
            with pytest.raises(NotYet, match="b-r0"):
                injector.verify(undo, platform)
            injector.recover(undo, platform)
            injector.verify_recovered(undo, platform)


def test_a_rule_that_clients_do_not_feel_is_no_evidence(service: Service) -> None:
    peers = ("gateway",)
    with closing(service.open()) as platform:
        for injector in (
            NetworkPartition(peers),
            TcpReset(peers),
            StreamStall(peers=peers),
            NetworkDelay(timedelta(seconds=1), peers=peers),
        ):
            undo = planned(injector, platform)
            platform.link_begin(undo.fault, "gw-r0", {"type": "delay", "delay_s": 0.0, "jitter_s": 0.0}, 60.0)
            with pytest.raises(NotYet, match="a probe through gw-r0 meets answered"):
                injector.verify(undo, platform)
            injector.recover(undo, platform)


def test_a_killed_proxy_is_named(service: Service) -> None:
    injector = NetworkPartition(("gateway",))
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        service.processes["gw-r0"].kill()
        service.processes["gw-r0"].wait()
        injector.recover(undo, platform)
        with pytest.raises(Differs, match="gw-r0"):
            injector.verify_recovered(undo, platform)


# --- model faults ---


def corrupt(service: Service, mutation: str, **more: str) -> ModelCorrupt:
    return ModelCorrupt(mutation, **more).with_model(str(service.folder / "{name}" / "model.safetensors"), "mmap")


@pytest.mark.parametrize("mutation", ["header", "zero-tail", "nan-one", "delete", "stale-version"])
def test_evidence_and_restoration(service: Service, mutation: str) -> None:
    injector, path = corrupt(service, mutation), service.model()
    before, tensor = digest(path), load_file(path)["mlp.weight"]
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        facts = injector.verify(undo, platform).facts["r0"]
        assert facts["digest_before"] == before != facts["digest_after"]
        with pytest.raises(Differs) as still:
            injector.verify_recovered(undo, platform)
        assert not isinstance(still.value, ForeignChange)
        if mutation == "nan-one":
            assert np.isnan(load_file(path)["mlp.weight"]).sum() == 1
        injector.recover(undo, platform)
        assert before in f"sha256:{digest(path)}" and before[:23] in injector.verify_recovered(undo, platform).detail
    assert (load_file(path)["mlp.weight"] == tensor).all()


def test_it_bites_at_once_where_the_file_says_so_and_the_system_does_not_deny_it(service: Service) -> None:
    with closing(service.open()) as platform:
        for mutation, name, expected in (
            ("exponent-msb", "r0", "now"),
            ("truncate", "r0", "now"),
            ("header", "r0", "on-restart"),  # mapped, but read once
            ("delete", "r0", "on-restart"),
            ("exponent-msb", "r1", "on-restart"),  # `load: mmap` says the service file, and r1 has not mapped it
        ):
            injector = corrupt(service, mutation)
            assert injector.bites(injector.plan(target(platform, name), platform)) == expected, (mutation, name)
        copied = corrupt(service, "exponent-msb").with_model(str(service.model()), "at-start")
        undo = copied.plan(target(platform) + target(platform, "r1"), platform)
        assert copied.bites(undo) == "on-restart"  # r0 has it mapped, and may have a copy of it
        assert copied.otherwise(undo) == ""  # r1 has not even mapped it
        own = replace(copied, model=str(service.folder / "{name}" / "model.safetensors"))
        assert "write `load: mmap` under `model`" in own.otherwise(own.plan(target(platform), platform))
    in_place, renamed = Job("model", {}, at_once=True), Job("model", {})
    assert when_it_bites(in_place, "mmap", None) == "now"
    for load in ("at-start", None):
        for in_memory in (True, None, False):
            assert when_it_bites(in_place, load, in_memory) == "on-restart"
    assert when_it_bites(in_place, "mmap", in_memory=True) == "now"
    assert when_it_bites(in_place, "mmap", in_memory=False) == "on-restart"
    assert when_it_bites(renamed, "mmap", in_memory=True) == "on-restart"


def test_paths_of_models(service: Service) -> None:
    folder = str(service.folder / "{name}")
    with closing(service.open()) as platform:
        found = {
            ModelCorrupt("header", **given)
            .with_model(model, "mmap")
            .plan(target(platform), platform)
            .prior["files"]["r0"]["path"]
            for model, given in (
                (folder, {}),
                (f"{folder}/model.safetensors", {}),
                (folder, {"file": "model.safetensors"}),
                (f"{folder}/model-stale.safetensors", {"file": "model.safetensors"}),
                ("/nowhere", {"file": f"{folder}/model.safetensors"}),
            )
        }
        relative = ModelCorrupt("header", file="{name}/model.safetensors").plan(target(platform), platform)
        assert relative.prior["files"]["r0"]["path"] == "r0/model.safetensors"  # from the service file's folder on
    assert found == {str(service.model())}


def test_model_refusals(service: Service) -> None:
    with closing(service.open()) as platform:
        shared = str(service.folder / "r0" / "model.safetensors")
        for injector, victim, why in (
            (ModelCorrupt("header"), "r0", "which file is the model"),
            (ModelCorrupt("header").with_model(shared, "mmap"), "r0", "r1 reads .* as well"),
            (ModelCorrupt("header", file=shared), "r1", "r0 reads .* as well"),
            (ModelCorrupt("exponent-msb:mlp.wieght", file=shared), "r0", "nearest is mlp.weight"),
            (ModelCorrupt("header", file="/nowhere"), "r0", "No such file"),
            (ModelCorrupt("header", file=str(service.folder / "rt")), "r0", "which file in .* is the model"),
        ):
            with pytest.raises(Refusal, match=f"^not injecting: .*{why}"):
                injector.plan(target(platform, victim), platform)


def test_a_file_that_a_worker_of_another_role_reads_as_well_is_refused(service: Service) -> None:
    injectors = ModelCorrupt("zero-tail").with_model(str(service.model()), "at-start"), CacheWipe(str(service.folder / "r0"))
    for other in ("decode", "replica", "gateway"):
        service.roles = {"r0": "prefill", "r1": other}
        refused = pytest.raises(Refusal, match=r"^not injecting: r1 .* as well; make it a target")
        for injector in injectors:
            with closing(service.open()) as platform, nullcontext() if other == "gateway" else refused:
                injector.plan(target(platform), platform)


def test_a_shared_file_is_damaged_once_for_all_its_readers(service: Service) -> None:
    path = service.model()
    injector, before = ModelCorrupt("zero-tail").with_model(str(path), "mmap"), digest(path)
    with closing(service.open()) as platform:
        both = target(platform) + target(platform, "r1")
        undo = injector.plan(both, platform).stamped("run.1", "model-corrupt", {}, 60.0)
        injector.inject(undo, platform)
        assert list(injector.verify(undo, platform).facts) == ["r0"]
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
    assert digest(path) == before


def test_foreign_change_is_kept_and_said(service: Service) -> None:
    injector, path = corrupt(service, "header"), service.model()
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        newer = path.with_name("newer")
        newer.write_bytes(b"a new revision, rolled out during the drill")
        newer.replace(path)
        for _ in range(2):
            with pytest.raises(ForeignChange, match="somebody else changed it"):
                injector.recover(undo, platform)
        with pytest.raises(ForeignChange, match="not by us"):
            injector.verify_recovered(undo, platform)
    assert path.read_bytes().startswith(b"a new revision")


def test_a_change_after_the_undo_is_not_ours(service: Service) -> None:
    injector, path = corrupt(service, "header"), service.model()
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
        path.with_name("model-stale.safetensors").replace(path)
        with pytest.raises(ForeignChange, match="not by us"):
            injector.verify_recovered(undo, platform)


def test_changed_file_between_plan_and_injection_is_refused(service: Service) -> None:
    injector, path = corrupt(service, "truncate"), service.model()
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        path.with_name("model-stale.safetensors").replace(path)
        expected = digest(path)
        with pytest.raises(Exception, match="digest has changed"):
            injector.inject(undo, platform)
        injector.recover(undo, platform)
    assert digest(path) == expected


def test_a_file_that_somebody_else_uses_is_refused(service: Service) -> None:
    """Mapped: it would die of SIGBUS, and is no target. Open: it may be just writing it."""
    path = service.model("r1")
    before = digest(path)
    injector = corrupt(service, "truncate")
    for program in (READER, "import sys; file = open(sys.argv[1]); print(1, flush=True); sys.stdin.readline()"):
        with closing(service.open()) as platform:
            undo = planned(injector, platform, "r1")
            with subprocess.Popen(
                [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as reader:
                assert reader.stdout is not None
                assert reader.stdout.readline()
                why = f"in use by process {reader.pid} .*which is no target; end that first"
                with pytest.raises(Refusal, match=f"^not injecting: .*{why}"):
                    planned(injector, platform, "r1")
                with pytest.raises(Exception, match=why):
                    injector.inject(undo, platform)
                injector.recover(undo, platform)
                reader.communicate(b"look\n")
                assert reader.returncode == 0
    assert digest(path) == before


class Unread:
    """A platform that fails at one verb, as where a container is just starting again."""

    def __init__(self, platform: ProcessPlatform, verb: str) -> None:
        self.platform, self.verb = platform, verb

    def __getattr__(self, name: str) -> Any:
        return self.fails if name == self.verb else getattr(self.platform, name)

    def fails(self, *_: object) -> None:
        raise PlatformError("a command did not end within 900 s")


@pytest.mark.parametrize(("mutation", "verb"), [("nan-one", "digest"), ("delete", "file"), ("stale-version", "current")])
def test_what_could_not_be_read_proves_nothing(service: Service, mutation: str, verb: str) -> None:
    injector = corrupt(service, mutation)
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        with pytest.raises(Unseen, match="is still changed cannot be seen: a command did not end"):
            injector.verify(undo, Unread(platform, verb))  # type: ignore[arg-type]
        injector.verify(undo, platform)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)


def test_only_what_the_fault_made_of_the_file_is_a_proof(service: Service) -> None:
    injector, path = corrupt(service, "nan-one"), service.model()
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        damaged = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(len(damaged) - 1)
            with pytest.raises(NotYet, match="that is not what the fault made of it"):
                injector.verify(undo, platform)
            file.write(damaged)
        injector.verify(undo, platform)
        record = Path(file_agent.beside(str(path), undo.fault))
        record.rename(record.with_name("aside"))
        with pytest.raises(NotYet, match="no record of the fault lies beside it"):
            injector.verify(undo, platform)
        record.with_name("aside").rename(record)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)


@pytest.mark.parametrize("mutation", ["header", "zero-tail", "delete", "stale-version"])
def test_that_a_file_was_once_changed_is_seen_when_nothing_is_left(service: Service, mutation: str) -> None:
    """By whatever ended the fault, its own agent at the deadline for one: who started meanwhile may have loaded the damage."""
    injector, nothing = corrupt(service, mutation), {"event": "undone", "reason": "nothing was left"}
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        (victim,), prior = undo.targets, undo.prior["files"]["r0"]
        assert not was_changed(nothing, victim, prior, platform)
        injector.inject(undo, platform)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
        assert was_changed(nothing, victim, prior, platform)


def test_a_fault_that_was_refused_has_nobody_start_again(service: Service) -> None:
    """Also where a process came meanwhile, as a worker does in the place of another: no byte was touched."""
    injector, path = corrupt(service, "truncate"), service.model("r1")
    stranger = [sys.executable, "-c", READER, str(path)]
    with closing(service.open()) as platform:
        undo, (before,) = planned(injector, platform, "r1"), target(platform, "r1")
        ask(service.ports["r1"], PATIENCE_S, "/child")
        came = set(platform.own(target(platform, "r1")[0])) - set(platform.own(before))
        with subprocess.Popen(stranger, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline()
            with pytest.raises(Unsupported, match="which is no target"):
                injector.inject(undo, platform)
            reader.communicate(b"look\n")
        injector.recover(undo, platform)
        after = platform.current("r1")
        for identity in came:
            os.kill(int(identity.removeprefix("pid:").partition("@")[0]), signal.SIGKILL)
    assert len(came) == 1
    assert after is not None
    assert after.identity == before.identity


def test_what_an_agent_would_refuse_is_refused_by_plan(service: Service) -> None:
    path = service.model()
    before, same = digest(path), path.with_name("same.safetensors")
    same.write_bytes(path.read_bytes())
    with closing(service.open()) as platform:

        def refused(injector: Injector) -> str:
            with pytest.raises(Refusal, match=r"^not injecting: ") as refusal:
                injector.plan(target(platform), platform)
            return str(refusal.value)

        for stale in (corrupt(service, "stale-version", source=str(same)), VersionSkew(file=str(path), source=str(same))):
            assert f"would change nothing in {path}: {same} is the same; give another `source`" in refused(stale)
        if os.geteuid() == 0:
            assert "the reader runs as root" in refused(corrupt(service, "chmod-000"))
        path.with_name("twin").hardlink_to(path)
        assert "has 2 names (hard links)" in refused(corrupt(service, "nan-one"))
    assert digest(path) == before
    assert not [each for each in path.parent.iterdir() if "blackstart" in each.name]
    assert not list((service.folder / "state").glob("agents/*"))


def test_which_files_of_another_revision_take_the_place_of_the_models(service: Service) -> None:
    injector, weights = revisions(service, "r0")
    stale = weights.parent.with_name("tiny-stale")
    with closing(service.open()) as platform:

        def jobs(source: str | None = None) -> list[Job]:
            return replace(injector, source=source).jobs(target(platform)[0], platform)

        assert jobs() == [
            Job(str(weights), {"op": "replace", "source": str(stale / weights.name), "about": {"source": str(stale)}})
        ]
        assert jobs(str(stale)) == jobs()
        one = replace(injector, file=str(service.model()), source=str(stale / weights.name))
        assert [job.do["source"] for job in one.jobs(target(platform)[0], platform)] == [str(stale / weights.name)]
        (stale / "adapter.json").write_text("{}")
        with pytest.raises(Refusal, match=r"do not have the same files \(adapter.json\)"):
            injector.plan(target(platform), platform)
        (stale / "adapter.json").unlink()
        (stale / weights.name).write_bytes(weights.read_bytes())
        with pytest.raises(Refusal, match="is the same revision as"):
            injector.plan(target(platform), platform)
        with pytest.raises(Refusal, match="No such file or directory"):
            replace(injector, source="/nowhere").plan(target(platform), platform)
        with pytest.raises(Refusal, match="which file is the model"):
            VersionSkew().plan(target(platform), platform)


def test_a_revision_is_put_back_whole(service: Service) -> None:
    injector, weights = revisions(service, "r0")
    before = digest(weights)
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        assert injector.bites(undo) == "on-restart"
        injector.inject(undo, platform)
        assert digest(weights) == digest(weights.parent.with_name("tiny-stale") / weights.name) != before
        assert injector.verify(undo, platform).facts["r0"]["digest_before"] == before
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
    assert digest(weights) == before
