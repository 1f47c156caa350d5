"""What faults of load read out of a service's metrics, and what a service file gives them."""

from dataclasses import replace
from pathlib import Path

import pytest
from blackstart.drills.loading import load_service
from blackstart.drills.resolving import resolve, served
from blackstart.injectors.load import LongContextFlood, TrafficSurge, told

TEXT = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="demo"} 3
vllm:num_requests_waiting{model_name="demo",engine="0"} 2.5e1
vllm:num_requests_waiting_by_reason{reason="capacity"} 100
other 7
"""
SERVICE = """\
apiVersion: blackstart/v1
kind: Service
name: small
platform: process
engine: ENGINE
process: {components: [{name: r0, role: replica, port: 8000}]}
endpoint: {url: "http://127.0.0.1:8000", model: tiny}
"""


def service(folder: Path, engine: str):
    path = folder / "service.yaml"
    path.write_text(SERVICE.replace("ENGINE", engine), encoding="utf-8")
    return load_service(path)


def test_the_values_of_a_name_are_summed_and_of_no_longer_one() -> None:
    assert told(TEXT, ["vllm:num_requests_running", "vllm:num_requests_waiting"]) == 28.0
    assert told(TEXT, ["other"]) == 7.0


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(OSError, match="tell nothing of vllm:num_requests_swapped"):
        told(TEXT, ["vllm:num_requests_swapped"])


def test_an_engine_s_profile_names_the_metrics(tmp_path: Path) -> None:
    found = served(service(tmp_path, "vllm"))
    assert found.under_way == ("vllm:num_requests_running", "vllm:num_requests_waiting")
    assert (found.metrics_path, found.asked) == ("/metrics", ("vllm:prompt_tokens_total",))
    assert (found.url, found.protocol, found.model) == ("http://127.0.0.1:8000", "openai", "tiny")
    assert resolve(LongContextFlood(prompt=50), service(tmp_path, "vllm")) == LongContextFlood(prompt=50, served=found)


def test_where_nobody_says_what_serves_there_are_none(tmp_path: Path) -> None:
    found = served(replace(service(tmp_path, "vllm"), engine=None))
    assert (found.metrics_path, found.under_way, found.asked) == (None, (), ())


def test_a_surge_asks_short_questions_and_a_flood_long_ones() -> None:
    assert TrafficSurge().words() < 20 < LongContextFlood().words()
