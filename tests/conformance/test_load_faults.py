"""Faults that are load, on a live service that tells what it has under way."""

import dataclasses
import functools
import os
import signal
import sys
from contextlib import closing
from pathlib import Path

import pytest
from blackstart.injectors import load
from blackstart.injectors.base import Differs, NotYet, Refusal, Undo
from blackstart.injectors.load import LongContextFlood, Served, TrafficSurge, looked, metrics_of, told
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
from blackstart.injectors.testing import check_injector
from blackstart.tests.command import until
from blackstart.tests.conformance.test_accelerator_faults import proven
from blackstart.tests.ports import free_port

VICTIM = Path(__file__).parents[1] / "load_victim.py"
CLIENTS = 16


@pytest.fixture
def port():
    return free_port()


def serving(folder, port, *words):
    spec = ProcessSpec((Component("r0", "replica", port=port, start=(sys.executable, str(VICTIM), str(port), *words)),))
    opened = functools.partial(ProcessPlatform, spec, folder, folder / "state", dict(os.environ))
    with closing(opened()) as platform:
        try:
            platform.start_missing()
            yield opened
        finally:
            platform.stop_started()


@pytest.fixture
def service(tmp_path, port):
    yield from serving(tmp_path, port)


def served(port: int) -> Served:
    url, names = f"http://127.0.0.1:{port}/v1/completions", ("requests_running", "requests_waiting")
    return Served(url, "openai", "tiny", "/metrics", names, ("prompt_tokens",))


def connections(port: int) -> int:
    """To that port, by the kernel's table: established ones, seen from the clients' side."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.parametrize("kind", [LongContextFlood, TrafficSurge])
def test_conformance(kind, service, port):
    injector = kind(clients=CLIENTS, served=served(port))
    check_injector(injector, service, ("r0",), effect=lambda: connections(port) >= CLIENTS // 2)


def test_what_was_there_before_proves_nothing(service, port):
    """The least of what is seen counts, against the most of before."""
    injector = TrafficSurge(clients=CLIENTS, served=served(port))
    with closing(service()) as platform:
        undo = injector.plan((platform.current("r0"),), platform)
        assert undo.prior["before"] == {"under_way": [0.0] * 8, "asked_per_s": 0.0}
        with pytest.raises(NotYet, match=r"0 to 0 requests are under way .*\(before at most 0\), 0 asked in a second"):
            injector.verify(undo, platform)
        before = {"under_way": [0.0, float(CLIENTS), 0.0], "asked_per_s": 1e6}
        busy = Undo(undo.targets, {**undo.prior, "before": before}, "check.busy")
        try:
            platform.agent_begin("check.busy", undo.targets[0], "send-load", asked(port), 30.0)
            with pytest.raises(NotYet, match=f"before at most {CLIENTS}"):
                injector.verify(busy, platform)
            with pytest.raises(Differs, match="an agent still uses"):  # nor that nobody asks any more
                injector.verify_recovered(busy, platform)
        finally:
            injector.recover(busy, platform)


def asked(port: int, path: str = "/v1/completions") -> dict:
    what = {"url": f"http://127.0.0.1:{port}{path}", "model": "tiny", "words": 8, "answer": 1}
    return {**what, "clients": CLIENTS, "limit_s": 5.0, "pause_s": 0.1}


def under_way(port: int) -> float:
    return told(metrics_of(f"http://127.0.0.1:{port}/metrics"), ["requests_running"])


def without_load(platform, port, fault):
    """The record of a fault before which nothing was under way."""
    names = served(port)
    prior = {"metrics": [f"http://127.0.0.1:{port}/metrics"], "names": list(names.under_way), "counters": list(names.asked)}
    return Undo((platform.current("r0"),), {**prior, "before": {"under_way": [0.0], "asked_per_s": 0.0}}, fault)


def test_others_traffic_is_no_proof_where_our_clients_never_reached_the_service(service, port, monkeypatch):
    monkeypatch.setattr(load, "LOOK_EVERY_S", 0.05)
    injector = TrafficSurge(clients=CLIENTS, served=served(port))
    with closing(service()) as platform:
        lost = without_load(platform, port, "check.lost")
        (target,) = lost.targets
        try:
            platform.agent_begin("check.others", target, "send-load", asked(port), 30.0)
            until("others", lambda: under_way(port) > CLIENTS // 2)
            with pytest.raises(NotYet, match=f"{CLIENTS} clients have not been heard of$"):
                injector.verify(lost, platform)
            platform.agent_begin("check.lost", target, "send-load", asked(port, "/v1/v1/completions"), 30.0)
            until("what its clients got", lambda: (platform.agent_seen("check.lost", target) or {}).get("answers"))
            with pytest.raises(NotYet, match=rf"{CLIENTS} clients got 404 \(\d+ times\)$"):
                injector.verify(lost, platform)
        finally:
            platform.agent_end("check.lost", target)
            platform.agent_end("check.others", target)
        assert platform.agent_seen("check.lost", target) is None


@pytest.fixture
def slow_service(tmp_path, port):
    """It computes on for an hour what nobody waits for any more."""
    yield from serving(tmp_path, port, "1000", "3600")


def test_what_the_service_still_has_or_no_longer_tells_is_no_fault_left_behind(slow_service, port, monkeypatch):
    monkeypatch.setattr(load, "LOOK_EVERY_S", 0.02)
    injector = TrafficSurge(clients=CLIENTS, served=served(port))
    with closing(slow_service()) as platform:
        undo = without_load(platform, port, "check.busy")
        (target,) = undo.targets
        try:
            platform.agent_begin(undo.fault, target, "send-load", asked(port), 30.0)
            until("all clients", lambda: under_way(port) == CLIENTS)
        finally:
            injector.recover(undo, platform)
        evidence = injector.verify_recovered(undo, platform)
        assert evidence.source == "kernel accounting"
        assert f"no agent is left beside r0; still {CLIENTS} to {CLIENTS} requests are under way" in evidence.detail
        platform.signal(target, signal.SIGKILL)
        until("its death", lambda: platform.state(target) == "gone")
        evidence = injector.verify_recovered(undo, platform)
        assert "no agent is left beside r0; http://127.0.0.1" in evidence.detail
        assert "does not tell what is under way" in evidence.facts["not_told"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": None}, "asks at `endpoint.url` by protocol openai"),
        ({"protocol": "kserve-v2"}, "by protocol openai"),
        ({"under_way": ()}, "say `engine` in the service file"),
        ({"metrics_path": None}, "say `engine` in the service file"),
        ({"under_way": ("no_such_gauge",)}, "tell nothing of no_such_gauge"),
    ],
)
def test_what_cannot_be_proven_is_refused(changes, why, service, port):
    injector = dataclasses.replace(LongContextFlood(), served=served(port)._replace(**changes))
    with closing(service()) as platform, pytest.raises(Refusal, match=why):
        injector.plan((platform.current("r0"),), platform)


class Elsewhere:
    name = "docker"


def test_elsewhere_it_is_refused_by_name():
    with pytest.raises(Refusal, match=r"^not injecting: traffic-surge has means on platform process alone, and this is docker"):
        TrafficSurge().plan((), Elsewhere())


def test_all_that_stands_behind_the_endpoint_is_hit(service, port):
    with closing(service()) as platform:
        (one,) = platform.find()
        two, store = dataclasses.replace(one, name="r1"), dataclasses.replace(one, name="s0", role="store")
        assert TrafficSurge().hits((one,), (one, two, store)) == (one, two)


def test_a_replica_that_tells_nothing_is_said(port):
    with pytest.raises(OSError, match="does not tell what is under way"):
        looked({"metrics": [f"http://127.0.0.1:{port}/metrics"], "names": ["requests_running"], "counters": []})


def test_a_service_that_sheds_the_load_proves_it_by_what_is_asked(tmp_path, port):
    """One request at a time is let in: little is under way, and much is asked."""
    for opened in serving(tmp_path, port, "1"):
        injector = LongContextFlood(clients=CLIENTS, prompt=100, served=served(port))
        with closing(opened()) as platform:
            undo = injector.plan((platform.current("r0"),), platform).stamped("check.shed", injector.kind, {}, 60.0)
            try:
                injector.inject(undo, platform)
                evidence = proven(injector, undo, platform)
                assert max(evidence.facts["now"]["under_way"]) <= 1
                assert evidence.facts["now"]["asked_per_s"] > 100
                assert evidence.facts["clients"]["answers"].keys() >= {"200", "429"}
            finally:
                injector.recover(undo, platform)
