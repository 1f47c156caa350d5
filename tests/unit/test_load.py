"""What faults of load read out of a service's metrics, and what a service file gives them."""

from dataclasses import replace
from pathlib import Path

import pytest
from blackstart.drills.loading import load_service
from blackstart.drills.resolving import resolve, served
from blackstart.injectors import load
from blackstart.injectors.base import NotYet, Undo
from blackstart.injectors.load import LongContextFlood, Seen, TrafficSurge, told
from blackstart.injectors.platforms.base import Target

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


def test_a_value_that_is_no_number_is_said() -> None:
    with pytest.raises(OSError, match="tell no number of other"):
        told("other 1.2.3\n", ["other"])


def test_an_engine_s_profile_names_the_metrics(tmp_path: Path) -> None:
    found = served(service(tmp_path, "vllm"))
    assert found.under_way == ("vllm:num_requests_running", "vllm:num_requests_waiting")
    assert (found.metrics_path, found.asked) == ("/metrics", ("vllm:prompt_tokens_total",))
    assert (found.url, found.protocol, found.model) == ("http://127.0.0.1:8000/v1/completions", "openai", "tiny")
    assert resolve(LongContextFlood(prompt=50), service(tmp_path, "vllm")) == LongContextFlood(prompt=50, served=found)


@pytest.mark.parametrize("base", ["http://here:1", "http://here:1/", "http://here:1/v1", "http://here:1/v1/"])
def test_questions_go_where_the_prober_s_go(tmp_path: Path, base: str) -> None:
    one = service(tmp_path, "vllm")
    asked = replace(one, endpoint=replace(one.endpoint, url=base))
    assert served(asked).url == served(replace(asked, engine=None)).url == "http://here:1/v1/completions"
    assert served(replace(one, endpoint=replace(one.endpoint, url=None))).url is None


def test_where_nobody_says_what_serves_there_are_none(tmp_path: Path) -> None:
    found = served(replace(service(tmp_path, "vllm"), engine=None))
    assert (found.metrics_path, found.under_way, found.asked) == (None, (), ())


def test_a_surge_asks_short_questions_and_a_flood_long_ones() -> None:
    assert TrafficSurge().words() < 20 < LongContextFlood().words()


class Answering:
    """A platform on which 64 clients were answered so often before the service was looked at, and so often after."""

    name = "process"

    def __init__(self, before: dict[str, int], after: dict[str, int], age_s: float = 0.1) -> None:
        looks = ({"answers": before, "t": 10.0, "age_s": age_s}, {"answers": after, "t": 12.0, "age_s": age_s})
        self.looks = iter(looks)

    def agent_seen(self, fault: str, target: Target):
        del fault, target
        return next(self.looks)


def verified(monkeypatch, platform: Answering, asked_per_s: float, under_way: float = 0.0):
    monkeypatch.setattr(load, "looked", lambda _: Seen([under_way], asked_per_s))
    prior = {"counters": ["asked"], "before": {"under_way": [0.0], "asked_per_s": 10.0}}
    return TrafficSurge(clients=64).verify(Undo((Target("pid:1@1", "r0", "replica"),), prior, "run.0"), platform)


def test_what_is_asked_has_to_rise_with_what_our_clients_were_answered(monkeypatch) -> None:
    """200 questions of 8 words in 2 s are 800 words a second, of which half are wanted, besides twice what there was."""
    with pytest.raises(NotYet, match=r"419 asked in a second \(before 10\); 64 clients got 200 \(210 times\)$"):
        verified(monkeypatch, Answering({"200": 10}, {"200": 210}), 419.0)
    evidence = verified(monkeypatch, Answering({"200": 10}, {"200": 210}), 420.0)
    assert evidence.facts["clients"] == {"answers": {"200": 210}, "taken_per_s": 100.0, "age_s": 0.1}


def test_what_is_asked_by_others_is_not_ours_where_all_of_ours_were_refused(monkeypatch) -> None:
    with pytest.raises(NotYet, match=r"64 clients got 429 \(5 times\)$"):
        verified(monkeypatch, Answering({"429": 1}, {"429": 5}), 1e6)
    assert verified(monkeypatch, Answering({"503": 1}, {"503": 5}), 10.0, under_way=8.0)


def test_clients_that_nobody_has_heard_of_prove_nothing(monkeypatch) -> None:
    with pytest.raises(NotYet, match=r"64 clients have not been heard of for 6 s$"):
        verified(monkeypatch, Answering({"200": 1}, {"200": 9}, age_s=6.0), 1e6, under_way=64.0)
    with pytest.raises(NotYet, match=r"64 clients got no answer yet$"):
        verified(monkeypatch, Answering({}, {}), 1e6, under_way=64.0)
