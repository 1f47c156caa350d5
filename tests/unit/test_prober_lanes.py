"""Each outcome from a real misbehaviour, and a schedule that no misbehaviour disturbs."""

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.measure import prober as program
from blackstart.drills.measure.probing import Prober
from blackstart.drills.measure.samples import SampleTail, read_samples
from blackstart.drills.measure.values import Probe
from blackstart.tests import reference_server
from blackstart.tests.reference_server import ReferenceServer

GOLDEN = [{"prompt": "2+2=", "max_tokens": 4, "text": " 4"}]


def lane(kind: str, url: str, hz: float = 20.0, **more: Any) -> dict[str, Any]:
    limits = {"timeout_s": 0.4, "stall_s": 0.3, "total_s": 2.0}
    return {"name": kind, "kind": kind, "url": url, "period_s": 1 / hz, **limits, **more}


def config(folder: Path, *lanes: dict[str, Any]) -> dict[str, Any]:
    return {"origin": time.monotonic(), "folder": str(folder), "seed": 5, "service": {}, "lanes": list(lanes)}


def until(condition: Callable[[], Any], awaited: str, timeout_s: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {awaited}"
        select.select([], [], [], 0.02)
    return value


class Bench:
    """A prober with all kinds of model lanes against one server."""

    def __init__(self, server: ReferenceServer, folder: Path) -> None:
        self.server, self.tail = server, SampleTail(folder)

    def after(self, moment: float, *names: str, count: int = 2) -> list[Probe]:
        """The first probes to end of each of these lanes that were sent after the moment."""
        found: dict[str, list[Probe]] = {name: [] for name in names}

        def enough() -> bool:
            for probe in self.tail.new():
                if probe.lane in found and probe.sent_s > moment and probe.outcome != "void":
                    found[probe.lane].append(probe)
            return all(len(probes) >= count for probes in found.values())

        until(enough, f"{count} probes of each of {names}")
        return [probe for probes in found.values() for probe in probes[:count]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("samples")
    asking: dict[str, Any] = {"protocol": "openai", "model": "tiny", "golden": GOLDEN}
    infer = {"inputs": [], "outputs": [{"name": "embedding", "data": [[0.5, 0.25]], "tolerance": 0.01}]}
    predict = {"request": "POST /predict", "body": {}, "json": {"nearest": "hello world"}}
    with reference_server.start(golden={"2+2=": " 4"}, backends=2) as server, Prober() as prober:
        lanes = [
            lane("fresh", server.url + "/health"),
            lane("reuse", server.url + "/health"),
            lane("semantic", server.url, **asking),
            {**lane("replica", server.url, protocol="kserve-v2", model="tiny", golden=[infer]), "name": "kserve"},
            {**lane("replica", server.url, protocol="http", golden=[predict]), "name": "http"},
            {**lane("stream", server.url, **asking, concurrency=1, max_tokens=8), "name": "stream"},
        ]
        patient = [{**each, "timeout_s": 1.5, "stall_s": 1.0} for each in lanes]  # one that stands still for a moment is not late
        clocked = config(folder, *patient)
        clocked["origin"] = 0.0
        prober.start(clocked)
        yield Bench(server, folder)


STATUS = {"503": "status-5xx", "429": "status-429", "404": "status-4xx", "302": "status-4xx"}
BROKEN = {"refuse": "refused", "reset": "reset", "close": "reset", "never": "timeout", **STATUS}
ANSWERS = {"wrong": "wrong-answer", "wrong-model": "wrong-model", "error": "error-in-200", "empty": "empty"}
HALVES = {"truncate": "truncated", "stall": "stall", "cut": "reset", "malformed": "malformed"}
CASES = [
    *((behaviour, name, outcome) for behaviour, outcome in BROKEN.items() for name in ("fresh", "reuse", "semantic", "stream")),
    *((behaviour, name, outcome) for behaviour, outcome in ANSWERS.items() for name in ("semantic", "kserve", "stream")),
    *((behaviour, name, outcome) for behaviour, outcome in HALVES.items() for name in ("semantic", "kserve", "http", "stream")),
    ("no-finish", "semantic", "truncated"),
    ("no-finish", "stream", "truncated"),
    ("ping", "stream", "stall"),
    ("wrong", "http", "wrong-answer"),
    ("error", "http", "error-in-200"),
]
# An error object or a page is no stream: the stream lane gets no event at all, so nothing was delivered.
CASES = [(b, n, "truncated" if n == "stream" and b in ("error", "malformed") else o) for b, n, o in CASES]


@pytest.mark.parametrize("behaviour", sorted({case[0] for case in CASES}))
def test_each_misbehaviour_has_its_own_outcome(bench: Bench, behaviour: str) -> None:
    expected = {name: outcome for b, name, outcome in CASES if b == behaviour}
    probes = bench.after(bench.server.behave(behaviour)[1], *expected)
    bench.server.behave("ok")
    assert [(probe.lane, probe.outcome) for probe in probes] == [item for item in expected.items() for _ in range(2)]


@pytest.mark.parametrize("name", ["fresh", "reuse", "semantic", "kserve", "http", "stream"])
def test_right_answers_are_ok_and_name_their_backend(bench: Bench, name: str) -> None:
    probes = bench.after(bench.server.behave("ok")[1], name)
    assert [probe.outcome for probe in probes] == ["ok"] * 2
    assert {probe.backend for probe in probes} <= {"b0", "b1"}
    assert all(probe.first_s is not None and probe.sent_s <= probe.first_s <= probe.end_s for probe in probes)
    assert {probe.status for probe in probes} == {200}


def test_a_stream_tells_its_tokens_and_its_longest_silence(bench: Bench) -> None:
    probe = bench.after(bench.server.behave("ok")[1], "stream")[0]
    assert probe.tokens == 8
    assert 0.004 <= probe.gap_s < probe.end_s - probe.sent_s
    stalled = bench.after(bench.server.behave("stall")[1], "stream")[0]
    bench.server.behave("ok")
    assert stalled.tokens < 8
    assert stalled.gap_s >= 0.99, "the silence that ended it counts"


def test_a_wrong_answer_is_kept(bench: Bench) -> None:
    probe = bench.after(bench.server.behave("wrong")[1], "semantic")[0]
    bench.server.behave("ok")
    assert probe.text.startswith(" something else")


def test_the_reuse_lane_keeps_its_connection(bench: Bench) -> None:
    """Each of the others has a connection for each question, and that may be counted before its question is."""
    bench.after(bench.server.behave("ok")[1], "reuse")
    before, others = bench.server.counts(), 5
    bench.after(time.monotonic(), "reuse", count=20)
    after = bench.server.counts()
    assert after["requests"] - before["requests"] >= after["connections"] - before["connections"] + 20 - others


def test_a_held_answer_is_right_but_late(tmp_path: Path) -> None:
    """It is held for far less than these lanes wait."""
    with reference_server.start() as server, Prober() as prober:
        clocked = config(tmp_path, *(lane(kind, server.url + "/health", timeout_s=30.0) for kind in ("fresh", "reuse")))
        clocked["origin"] = 0.0
        prober.start(clocked)
        bench = Bench(server, tmp_path)
        bench.after(time.monotonic(), "fresh", "reuse")
        moment = server.behave("hang")[1]
        server.play([(1.0, "ok", 0.0)])
        probes = bench.after(moment, "fresh", "reuse", count=8)
    assert {probe.outcome for probe in probes} == {"ok"}
    assert max(probe.end_s - probe.sent_s for probe in probes) > 0.05


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port on which connections are neither accepted nor refused: its queue is full, so the kernel drops what comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        yield listener.getsockname()[1]
        for sock in waiting:
            sock.close()


def test_no_connection_is_unreachable(full_port: int, tmp_path: Path) -> None:
    lanes = [
        lane("fresh", f"http://127.0.0.1:{full_port}/", timeout_s=5.0, connect_timeout_s=0.2),
        {**lane("fresh", "http://no-such-host.invalid/", connect_timeout_s=0.2), "name": "unresolved"},
    ]
    with Prober() as prober:
        prober.start(config(tmp_path, *lanes))
        until(lambda: {p.lane for p in read_samples(tmp_path).probes} == {"fresh", "unresolved"}, "probes on both lanes")
    probes = [probe for probe in read_samples(tmp_path).probes if probe.outcome not in {"void", "unanswered"}]
    assert {probe.outcome for probe in probes} == {"unreachable"}
    assert {probe.first_s for probe in probes} == {None}


def test_the_schedule_holds_while_the_server_hangs(tmp_path: Path) -> None:
    """Open loop: the hang lasts 30 periods, and 30 probes are sent into it."""
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, lane("fresh", server.url, 50.0, timeout_s=1.0)))
        until(lambda: len(read_samples(tmp_path).probes) > 10, "probes before the hang")
        server.play([(0.0, "never", 0.6)])
        server.outages(1)
        sent = read_samples(tmp_path).probes[-1].sequence + 40
        until(lambda: sum(p.sequence <= sent for p in read_samples(tmp_path).probes) > sent, "every answer or time-out")
        prober.stop()
    probes = [probe for probe in read_samples(tmp_path).probes if probe.sequence <= sent]
    assert [probe.sequence for probe in probes] == list(range(len(probes)))
    steps = [round((b.intended_s - a.intended_s) / 0.02, 4) for a, b in itertools.pairwise(probes)]
    timeouts = [probe for probe in probes if probe.outcome == "timeout"]
    first = probes.index(timeouts[0])
    assert set(steps[: first + 20]) == {1.0}, "on the grid, none left out, none moved by those that hang"
    assert len(timeouts) + sum(probe.outcome == "void" for probe in probes) >= 25


def test_a_lane_that_is_down_probes_four_times_as_often(tmp_path: Path) -> None:
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, lane("fresh", server.url, 25.0), lane("control", "", 25.0)))
        server.behave("refuse")
        until(lambda: sum(p.outcome == "refused" for p in read_samples(tmp_path).probes) > 30, "an outage")
        healed = server.behave("ok")
        until(lambda: read_samples(tmp_path).probes[-1].sequence > 80, "recovery")
        prober.stop()
    probes = [probe for probe in read_samples(tmp_path).probes if probe.lane == "fresh"]
    steps = [round((b.intended_s - a.intended_s) / 0.01) for a, b in itertools.pairwise(probes)]
    assert set(steps) <= {1, 2, 3, 4}
    assert steps.count(1) > 20, "a quarter of the period while it is down"
    assert steps[-1] == 4, "the old pace after it"
    assert healed


def test_a_stopped_prober_blames_itself(tmp_path: Path) -> None:
    """What was open all along, and for not much longer, is no word on the service, whether it was answered or ran out of time."""
    stop_s = 0.7
    with reference_server.start() as server, Prober() as prober:
        setup = config(tmp_path, lane("fresh", server.url, 50.0, timeout_s=0.6), lane("control", "", 20.0))
        prober.start(setup)
        server.behave("slow", delay_s=0.05)  # so that some probes are open at any time
        until(lambda: len(read_samples(tmp_path).probes) > 20, "probes")
        assert prober.pid is not None
        os.kill(prober.pid, signal.SIGSTOP)
        stopped_s = time.monotonic() - setup["origin"]
        select.select([], [], [], stop_s)
        goes_on_s = time.monotonic() - setup["origin"]
        os.kill(prober.pid, signal.SIGCONT)
        until(lambda: sum(p.outcome == "void" for p in read_samples(tmp_path).probes) > 15, "void probes")
        prober.stop()
    probes = read_samples(tmp_path).probes
    assert {probe.outcome for probe in probes} <= {"ok", "void", "unanswered"}, "the service did nothing wrong"
    late = [probe for probe in probes if probe.outcome == "void"]
    assert {probe.text for probe in late} == {"the prober was late", "the prober stood still"}
    through = [probe for probe in probes if probe.sent_s < stopped_s and goes_on_s < probe.end_s]
    mostly = [probe for probe in through if probe.end_s - probe.sent_s < 1.8 * (goes_on_s - stopped_s)]
    assert {(probe.outcome, probe.text) for probe in mostly} == {("void", "the prober stood still")}


BUSY = {"the prober was late", "the prober stood still"}  # as it also may on a busy machine


def test_without_descriptors_it_blames_itself(tmp_path: Path) -> None:
    settings = tmp_path / "config.json"
    with reference_server.start() as server:
        server.behave("never")
        setup = config(tmp_path / "samples", lane("fresh", server.url, 100.0, timeout_s=20.0))
        settings.write_text(json.dumps(setup))
        starved = (
            "import os,resource,sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); os.execv(sys.argv[1], sys.argv[1:])"
        )
        argv = [sys.executable, "-c", starved, sys.executable, "-I", program.__file__, str(settings)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            folder = tmp_path / "samples"
            until(lambda: any(p.outcome == "void" and p.text not in BUSY for p in read_samples(folder).probes), "a void probe")
        finally:
            process.communicate(b"stop\n", timeout=30)
    texts = {probe.text for probe in read_samples(folder).probes if probe.outcome == "void"} - BUSY
    assert texts == {"Too many open files"}


def test_workload_asks_again_and_counts_once(tmp_path: Path) -> None:
    with reference_server.start() as server, Prober() as prober:
        server.behave("503")
        prober.start(config(tmp_path, lane("workload", server.url, 10.0, protocol="http", retries=4)))
        select.select([], [], [], 0.3)
        server.behave("ok")
        until(lambda: len(read_samples(tmp_path).probes) > 8, "answers")
        prober.stop()
    probes = [probe for probe in read_samples(tmp_path).probes if probe.outcome != "void"]
    assert {probe.outcome for probe in probes} == {"ok"}, "users saw a wait, no error"
    assert max(probe.end_s - probe.sent_s for probe in probes) > 0.15, "the wait counts from the first attempt"
    assert len({probe.sequence for probe in probes}) == len(probes)


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*made.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    with reference_server.start(certificate=(str(cert), str(key))) as server:
        for trusted, outcome in ((True, "ok"), (False, "malformed")):
            folder = tmp_path / outcome
            if trusted:
                monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            else:
                monkeypatch.delenv("SSL_CERT_FILE")
            with Prober() as prober:
                prober.start(config(folder, lane("fresh", server.url, timeout_s=5.0), lane("reuse", server.url, timeout_s=5.0)))
                until(lambda folder=folder: len(read_samples(folder).probes) > 10, "probes over TLS")
                prober.stop()
            probes = [probe for probe in read_samples(folder).probes if probe.outcome not in {"void", "unanswered"}]
            assert {probe.outcome for probe in probes} == {outcome}
            assert trusted or all("certificate verify failed" in probe.text for probe in probes)


def test_what_still_waits_when_watching_ends_is_written_down(tmp_path: Path) -> None:
    """A patient client gives up after the drill: the hang must be seen all the same."""
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, lane("fresh", server.url, 10.0, timeout_s=60.0)))
        until(lambda: len(read_samples(tmp_path).probes) > 5, "answers")
        server.behave("never")
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 1.5, "probes to pile up")
        prober.stop()
    waiting = [probe for probe in read_samples(tmp_path).probes if probe.outcome == "unanswered"]
    assert len(waiting) >= 5
    assert max(probe.end_s - probe.sent_s for probe in waiting) > 1.0


def test_a_replica_that_moved_is_asked_at_its_new_address(tmp_path: Path) -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as old, reference_server.start(golden={"2+2=": " 4"}) as new:
        asked = {**lane("replica", old.url, 20.0), "name": "replica:r0", "component": "r0"}
        other = {**lane("fresh", old.url, 20.0), "name": "fresh", "component": ""}
        with Prober() as prober:
            prober.start(config(tmp_path, asked, other))
            until(lambda: old.counts()["requests"] > 5, "questions at the old address")
            prober.move("r0", new.url)
            until(lambda: new.counts()["requests"] > 5, "questions at the new address")
            prober.stop()
    outcomes = {(probe.lane, probe.outcome) for probe in read_samples(tmp_path).probes if probe.lane == "replica:r0"}
    assert outcomes <= {("replica:r0", "ok"), ("replica:r0", "void"), ("replica:r0", "unanswered")}
