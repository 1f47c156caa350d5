"""Load from several pods: outposts on this machine that share it, what their samples tell, and what a drill makes of one that fails."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jsonschema
import pytest
from blackstart.drills.journal import DrillClock, Journal, read_journal
from blackstart.drills.load_pods import LoadPods
from blackstart.drills.loading import load_scenario, load_service
from blackstart.drills.measure.distant import Distant
from blackstart.drills.measure.lanes import load_configs, load_named, probe_config
from blackstart.drills.measure.probing import Prober
from blackstart.drills.measure.samples import read_samples
from blackstart.drills.refusal import Refused
from blackstart.drills.replay import read_run, samples_of
from blackstart.drills.scenario import Load
from blackstart.injectors.values import JSON, Rate
from blackstart.reports.files import render
from blackstart.reports.result import result, result_schema
from blackstart.tests import reference_server
from blackstart.tests.unit.test_distant import CONTROL, House
from blackstart.tests.unit.test_prober_process import until

SCENARIO = """apiVersion: blackstart/v1
kind: Scenario
name: loaded
objectives: {rto: 60s}
load: {rate: 60/s, streams: 4, pods: 3}
faults:
  - {kind: replica-kill}
"""
SERVICE = """apiVersion: blackstart/v1
kind: Service
name: llm
platform: kubernetes
kubernetes: {namespace: models, workload: deployment/llm}
endpoint: {url: "URL", protocol: openai, model: reference}
golden: [{prompt: "2+2=", text: " 4"}]
probe: {from: in-cluster, image: "python:3.12-slim", rate: 10/s}
"""
SHARE = 20  # requests a second from each of three pods
FAULT = {"index": 0, "kind": "replica-kill", "certifies": "", "bites": "now", "targets": []}


@dataclass
class Village:
    """The houses of a drill's probers, the one that it is judged by first, and the drill's folder."""

    folder: Path
    houses: tuple[House, ...]

    def distant(self, number: int, samples: Path) -> Distant:
        house = self.houses[number]
        house.begin()
        samples.mkdir(parents=True, exist_ok=True)
        return Distant(house.reach, house.lost, samples)

    def lose(self, number: int) -> None:
        keeper = self.houses[number].keeper
        assert keeper is not None
        keeper.kill()
        keeper.wait()


@pytest.fixture
def village(tmp_path: Path) -> Iterator[Village]:
    houses = tuple(House(tmp_path / f"there-{number}") for number in range(3))
    for house in houses:
        house.folder.mkdir()
    with contextlib.ExitStack() as stack:
        for house in houses:
            stack.callback(closed, house)
        yield Village(tmp_path / "run", houses)


def closed(house: House) -> None:
    if house.keeper is not None:
        house.keeper.kill()
        house.keeper.wait()
    for line in house.lines:
        line.close()


def sent(samples: Path) -> int:
    return sum(probe.lane == "workload" for probe in read_samples(samples).probes)


def drilled(village: Village, url: str, *, lose: int | None = None, astray: str = "") -> Path:
    """What is left of a drill whose fault does nothing; one of its load pods may be lost meanwhile, or ask elsewhere.

    It is three seconds long, and longer where this machine stood still, which voids probes: until nine tenths of its load were given.
    """
    folder, samples = village.folder, village.folder / "samples"
    samples.mkdir(parents=True)
    (folder / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
    (folder / "service.yaml").write_text(SERVICE.replace("URL", url), encoding="utf-8")
    (folder / "plan.json").write_text("{}\n", encoding="utf-8")
    scenario, service = load_scenario(folder / "scenario.yaml"), load_service(folder / "service.yaml")
    clock, load = DrillClock.starting_now(), LoadPods()
    config = probe_config(service, scenario, (), samples, clock.origin, 7)
    with Journal(folder / "journal.jsonl", clock) as journal, Prober() as prober:
        journal.append("started", run="run", environment={}, boot="", origin=0.0, service_folder="", fingerprint="")
        prober.begin(village.distant(0, samples))
        load.begin([village.distant(index + 1, samples / load_named(index)) for index in range(2)])
        configs = load_configs(service, scenario, config)
        for lane in configs[0]["lanes"] if astray else []:
            lane.update({"url": astray} if "url" in lane else {})
        load.start(configs)
        prober.start(config)
        journal.append("planned", faults=[FAULT])
        journal.append("baseline")
        since = time.monotonic()
        until(lambda: sent(samples / "load-1") > 30, "requests from a load pod")
        journal.append("injecting", fault=0)
        if lose is not None:
            village.lose(lose)
        lasting = [path for pod, path in enumerate((samples, samples / "load-0", samples / "load-1")) if pod != lose]
        until(lambda: time.monotonic() > since + 3, "three seconds")
        until(lambda: all(sent(each) > 0.9 * SHARE * (time.monotonic() - since) for each in lasting), "nine tenths of the load")
        journal.append("load-ends")
        prober.stop()
        load.stop(partial(journal.append, "load-lost"))
        journal.append("sampled", digests={name: f"sha256:{each.digest}" for name, each in samples_of(folder, scenario).items()})
        journal.append("ended")
    return folder


def test_three_pods_give_the_load_together(village: Village) -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as server:
        folder = drilled(village, server.url)
    run = read_run(folder)
    assert run.load is not None
    assert [pod.name for pod in run.load.pods] == ["prober", "load-0", "load-1"]
    for pod in run.load.pods:
        assert pod.asked == pytest.approx(run.load.asked / 3, abs=1)
        assert pod.sent == pytest.approx(pod.asked, rel=0.2), pod
        assert pod.streams is not None
        assert pod.streams.opened
    moments = {record.event: record.t_s for record in read_journal(folder / "journal.jsonl")[0]}
    assert run.load.asked == pytest.approx(3 * SHARE * (moments["load-ends"] - moments["baseline"]), abs=2)
    assert {lane.name for lane in read_samples(folder / "samples" / "load-0").lanes} == {"workload", "stream", "control"}
    assert {"fresh", "semantic", "workload", "stream"} <= {lane.info.name for lane in run.measurement.lanes}
    workload = [probe for probe in run.probes if probe.lane == "workload"]
    assert len(workload) < run.load.sent / 2, "what the others saw is no part of the figures"
    assert "record-changed" not in {reason.code for reason in run.judgement.reasons}
    told = result(run)
    jsonschema.validate(told, result_schema())
    assert (told["load"]["pods"], told["load"]["sent"]) == (3, run.load.sent)
    for form in ("text", "markdown", "html"):
        words = " ".join(str(render(run, form)).replace("\\", "").split())
        assert f"{run.load.sent:,} of {run.load.asked:,} requests sent" in words, form
        assert f"0 of {run.load.streams_opened} streams cut" in words, form
        assert "60/s and 4 streams, from 3 pods" in words, form


def test_a_pod_that_is_lost_is_a_reason_of_its_own(village: Village) -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as server:
        folder = drilled(village, server.url, lose=1)
    run = read_run(folder)
    first, *busy = [reason.text for reason in run.judgement.reasons if reason.code == "load-not-given"]
    assert first.startswith("the load that was asked for was not given: load-0: the rest of the samples could not be fetched")
    assert first.endswith("its pod has ended"), "by the platform's own word"
    assert all("void by its own fault" in text for text in busy)
    assert run.load is not None
    lost, other = run.load.pods[1:]
    assert lost.asked == other.asked
    assert 0 < lost.sent < other.sent - 10
    assert result(run)["load"]["per_pod"][1]["why_not"] == lost.why_not
    assert "record-changed" not in {each.code for each in run.judgement.reasons}, "what came is as it came"


def test_a_pod_that_does_not_reach_the_service_gives_no_load(village: Village) -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as server:
        folder = drilled(village, server.url, astray="http://127.0.0.1:9")
    run = read_run(folder)
    assert run.load is not None
    astray, other = run.load.pods[1:]
    assert re.fullmatch(
        r".*0 of its \d+ requests before the fault were answered rightly and in time; 0 of 1 streams began", astray.why_not
    )
    assert "before the fault" not in other.why_not
    assert "streams began" not in other.why_not
    assert any(astray.why_not in reason.text for reason in run.judgement.reasons if reason.code == "load-not-given")


def test_samples_of_a_load_pod_that_were_changed_are_noticed(village: Village) -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as server:
        folder = drilled(village, server.url)
    (folder / "samples" / "load-1" / "probes.bin.gz").unlink()
    run = read_run(folder)
    reasons = {reason.code: reason.text for reason in run.judgement.reasons}
    assert reasons["record-changed"] == "samples/load-1 was changed after the drill"
    assert "load-1: 0.0% of the planned probes were made" in reasons["load-not-given"]


def test_one_that_cannot_be_started_refuses_the_drill(village: Village, tmp_path: Path) -> None:
    load = LoadPods()
    load.begin([village.distant(number, tmp_path / f"here-{number}") for number in range(2)])
    village.lose(1)
    config: JSON = {"origin": time.monotonic(), "folder": "", "seed": 5, "service": {}, "lanes": [CONTROL]}
    with pytest.raises(Refused, match=r"not injecting: pod load-1: .*its pod has ended"):
        load.start([config, config])
    load.stop()


@pytest.mark.parametrize(
    ("load", "rates", "streams"),
    [
        (Load(rate=Rate(200), streams=7, pods=3), 200 / 3, [3, 2, 2]),
        (Load(streams=6, pods=3), 0, [2, 2, 2]),
        (Load(rate=Rate(20), streams=0, retries=2), 20, [0]),
    ],
)
def test_shares_make_the_whole(load: Load, rates: float, streams: list[int]) -> None:
    shares = [load.share_of(pod) for pod in range(load.pods)]
    assert [share.streams for share in shares] == streams
    assert {share.rate for share in shares} == {Rate(rates)}
    assert {(share.pods, share.retries) for share in shares} == {(1, load.retries)}
