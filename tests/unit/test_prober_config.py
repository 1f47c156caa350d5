"""From a service and a scenario to lanes; and the recording of golden answers."""

import json
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.measure.probing import Prober, ProbingError, probe_config, record_golden
from blackstart.drills.measure.samples import read_samples
from blackstart.drills.scenario import Bound, Load, Objectives, Scenario, SteadyState
from blackstart.drills.service import Endpoint, Golden, LedgerRoutes, Probe, Service
from blackstart.injectors.values import Rate
from blackstart.tests import reference_server

URL = "http://127.0.0.1:8000"
SERVICE = Service("llm", "process", Endpoint(url=URL, protocol="openai", model="tiny"), health=("/health", "/ready"))
ROUTES = LedgerRoutes("POST /v1/feedback", "GET /v1/feedback/{id}")


def scenario(**objectives: float) -> Scenario:
    return Scenario("x", (), Objectives(**{name: timedelta(seconds=value) for name, value in objectives.items()}))  # type: ignore[arg-type]


def lanes(service: Service, drill: Scenario, replicas: Any = (("r0", "http://127.0.0.1:8001"),)) -> dict[str, dict[str, Any]]:
    config = probe_config(service, drill, replicas, Path("/x"), 1.0, 2)
    json.dumps(config)
    assert (config["origin"], config["seed"], config["folder"]) == (1.0, 2, "/x")
    return {lane["name"]: lane for lane in config["lanes"]}


def test_the_lanes_of_a_model_service() -> None:
    found = lanes(SERVICE, scenario(rto=5))
    assert set(found) == {
        "fresh", "reuse", "semantic", "replica:r0", "control",
        "health:/health", "health:/ready", "health:r0/health", "health:r0/ready",
    }  # fmt: skip
    assert found["fresh"]["url"] == URL + "/v1/models"
    assert found["health:r0/ready"]["url"] == "http://127.0.0.1:8001/ready"
    assert found["replica:r0"]["component"] == found["health:r0/ready"]["component"] == "r0"
    rates = {name: round(1 / lane["period_s"], 6) for name, lane in found.items()}
    assert (rates["fresh"], rates["reuse"], rates["semantic"], rates["control"]) == (20, 7.3, 2, 20)
    assert rates["health:/ready"] == 2


@pytest.mark.parametrize(("rto", "hz"), [(1, 50), (4, 25), (20, 10), (21, 10), (600, 10)])
def test_the_rate_follows_the_rto(rto: float, hz: float) -> None:
    """Of light requests; a model is asked no more often for an urgent objective."""
    found = lanes(SERVICE, scenario(rto=rto))
    assert 1 / found["fresh"]["period_s"] == pytest.approx(hz)
    assert 1 / found["replica:r0"]["period_s"] == pytest.approx(1)


def test_a_rate_that_the_service_names_wins() -> None:
    found = lanes(replace(SERVICE, probe=Probe(rate=Rate(33))), scenario(rto=1))
    assert 1 / found["fresh"]["period_s"] == pytest.approx(33)


@pytest.mark.parametrize(("rpo", "hz"), [(0, 10), (1, 10), (5, 2), (0.1, 20), (60, 1)])
def test_the_ledger_writes_ten_times_within_the_rpo(rpo: float, hz: float) -> None:
    assert "ledger" not in lanes(SERVICE, scenario(rpo=rpo))
    found = lanes(replace(SERVICE, ledger=ROUTES), scenario(rpo=rpo))["ledger"]
    assert 1 / found["period_s"] == pytest.approx(hz)


@pytest.mark.parametrize(("objectives", "stall_s"), [({"rto": 5}, 5), ({"stream_gap": 2}, 5), ({"stream_gap": 10}, 20)])
def test_a_silent_stream_is_watched_for_longer_than_is_allowed(objectives: dict[str, float], stall_s: float) -> None:
    assert lanes(SERVICE, replace(scenario(**objectives), load=Load(streams=1)))["stream"]["stall_s"] == stall_s


def test_load_becomes_lanes() -> None:
    drill = replace(scenario(rto=5), load=Load(streams=4, rate=Rate(2), retries=3))
    found = lanes(SERVICE, drill)
    assert found["stream"]["concurrency"] == 4
    assert (found["workload"]["period_s"], found["workload"]["retries"]) == (0.5, 3)
    plain = replace(SERVICE, endpoint=Endpoint(url=URL, path="/predict"))
    assert "stream" not in lanes(plain, drill)
    assert "semantic" not in lanes(plain, drill)
    assert lanes(plain, drill)["fresh"]["url"] == URL + "/predict"


def test_a_slow_right_answer_is_given_up_by_the_steady_states_own_measure() -> None:
    steady = SteadyState(first_token_p95=Bound("<=", 1.5))
    assert lanes(SERVICE, replace(scenario(rto=5), steady_state=steady))["semantic"]["timeout_s"] == 3.0


def test_without_a_url_nothing_is_probed() -> None:
    with pytest.raises(ProbingError, match=r"endpoint\.url"):
        lanes(replace(SERVICE, endpoint=Endpoint(service="llm", port=8000)), scenario(rto=5))


def test_golden_answers_are_recorded() -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as server:
        golden = (Golden(prompt="2+2=", max_tokens=2), Golden(prompt="x", text="given"))
        service = replace(SERVICE, endpoint=replace(SERVICE.endpoint, url=server.url), golden=golden)
        assert [entry.text for entry in record_golden(service).golden] == [" 4 w1", "given"]
        assert server.counts()["requests"] == 3
        kserve = replace(
            service, endpoint=Endpoint(url=server.url, protocol="kserve-v2", model="m"), golden=(Golden(inputs=({},)),)
        )
        assert record_golden(kserve).golden[0].outputs == ({"name": "embedding", "data": [0.5, 0.25]},)


@pytest.mark.parametrize(("behaviour", "why"), [("wrong", "differ"), ("503", "status-5xx"), ("refuse", "did not answer"), ("no-finish", "finish_reason")])  # fmt: skip
def test_a_golden_answer_that_cannot_be_trusted_is_not_recorded(behaviour: str, why: str) -> None:
    with reference_server.start(golden={"2+2=": " 4"}, backends=2) as server:
        service = replace(SERVICE, endpoint=replace(SERVICE.endpoint, url=server.url), golden=(Golden(prompt="2+2="),))
        server.behave(behaviour, only="b1" if behaviour == "wrong" else "")
        with pytest.raises(ProbingError, match=why):
            record_golden(service)


def test_a_service_that_stumbles_once_is_asked_again() -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as server:
        service = replace(SERVICE, endpoint=replace(SERVICE.endpoint, url=server.url), golden=(Golden(prompt="2+2="),))
        server.play([(0.0, "503", 0.6)])
        assert record_golden(service).golden[0].text is not None


def test_a_configured_prober_finds_a_right_service_right(tmp_path: Path) -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as server, Prober() as prober:
        service = replace(
            SERVICE, endpoint=replace(SERVICE.endpoint, url=server.url), golden=(Golden(prompt="2+2="),), ledger=ROUTES
        )
        drill = replace(scenario(rto=2, rpo=0), load=Load(streams=2, rate=Rate(2)))
        config = probe_config(record_golden(service), drill, (("r0", server.url),), tmp_path, time.monotonic(), 7)
        prober.start(config)
        deadline = time.monotonic() + 30
        while len({p.lane for p in read_samples(tmp_path).probes}) < len(config["lanes"]):
            assert time.monotonic() < deadline, "a lane has no probe"
        prober.read_back(40)
    seen = {probe.outcome for probe in read_samples(tmp_path).probes}
    assert seen <= {"ok", "void", "unanswered"}  # the last: asked right before the stop
