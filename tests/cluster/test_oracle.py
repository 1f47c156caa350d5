"""What the demo itself wrote down, of when its engines were gone and when they answered, against what the drill measured."""

import json
from pathlib import Path

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi
from blackstart.injectors.platforms.kube_exec import Container, opened
from blackstart.scenarios.demo.kubernetes import ORACLE
from blackstart.tests.cluster.steps import WALL_S, drilled, namespace_of, wall_of_zero, written
from blackstart.tests.command import Blackstart

NAMES = ("replica-0", "replica-1")
KILL = "{kind: process-kill, role: engine, target: {share: 100%}}"
LATER_S = 10.0  # the gateway has to take a replica back, and the first answers of a cold engine are slow


def moments(api: KubeApi, namespace: str, event: str, since_s: float) -> list[float]:
    """UNIX times at which replicas wrote that down, after a moment."""
    found = []
    for name in NAMES:
        _, said, _ = opened(api, Container(namespace, name, "replica"), ["cat", ORACLE]).finish(20)
        records = [json.loads(line) for line in said.decode().splitlines()]
        found += [record["wall"] for record in records if record["event"] == event and record["wall"] > since_s]
    return found


@pytest.mark.timeout(240)
@pytest.mark.parametrize("where", ["here", "in-cluster"])
def test_recovery_time_agrees_with_what_truly_happened(
    blackstart: Blackstart, hardened_demo: Path, api: KubeApi, image: str, where: str
) -> None:
    service = hardened_demo
    if where == "in-cluster":
        service = written(hardened_demo, blackstart.folder, {"rate": "30/s", "from": where, "image": image})
    done = drilled(blackstart, service, KILL, "--set", "settle=6s", "--set", "objectives.time_to_redundancy=40s", wanted="passed")
    assert done.code == 0, done.out + done.err
    began_s, namespace = wall_of_zero(done.folder), namespace_of(hardened_demo)
    gone, back = (moments(api, namespace, event, began_s) for event in ("engine-gone", "loaded"))
    assert len(gone) == len(back) == len(NAMES)
    measured = done.result["measurements"]["recovery_time"]
    assert measured["lo_s"] <= max(back) + LATER_S - min(gone), (measured, gone, back)
    assert measured["hi_s"] >= min(back) - max(gone), (measured, gone, back)
    lanes = [each for each in done.result["outages"] if each["lane"].startswith("replica:")]
    assert {each["lane"] for each in lanes} == {f"replica:{name}" for name in NAMES}
    for each in lanes:  # the lane that asks each replica by itself sees nothing but its engine
        assert each["start_s"][0] + began_s <= max(gone)
        assert each["start_s"][1] + began_s + WALL_S >= min(gone)
        assert each["end_s"][0] + began_s <= max(back) + LATER_S
        assert each["end_s"][1] + began_s + WALL_S >= min(back)
