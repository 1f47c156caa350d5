"""Whole drills in which a replica with another revision answers users: how many answers, and for how long, by what replicas say."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blackstart.drills.asking import get
from blackstart.scenarios.demo import HERE, Demo
from blackstart.tests.command import Blackstart, until
from blackstart.tests.ports import free_port

SCENARIO = """\
apiVersion: blackstart/v1
kind: Scenario
name: mixed
steady_state: {hold: 2s}
load: {rate: 4/s}
digest: {every: 250ms}
faults:
  - {kind: version-skew, target: {names: [r0]}, at: 0s}
  - {kind: rollout-restart, target: {names: [r0]}, at: 500ms}
objectives: {mixed_answers: 0, time_to_single_digest: 2s}
observe: 10s
settle: 1s
"""


def ready(url: str) -> bool:
    try:
        return get(f"{url}/ready")[0] == 200
    except OSError:
        return False


@contextmanager
def careless_gateway(demo: Demo) -> Iterator[str]:
    """In front of replicas that tell their revision, one that asks nobody for it."""
    port = free_port()
    backends = [f"--backend={name}=127.0.0.1:{demo.ports[name]}" for name in ("r0", "r1")]
    with subprocess.Popen(
        [sys.executable, "-I", str(HERE / "service.py"), "gateway", f"--port={port}", "--tied", *backends],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        url = f"http://127.0.0.1:{port}"
        until("the gateway to answer", lambda: ready(url))
        yield url
        process.terminate()


def test_answers_of_a_deviating_replica_fail_the_drill(blackstart: Blackstart, tmp_path: Path) -> None:
    with Demo.started(arguments=("--fix", "version")) as demo, careless_gateway(demo) as url:
        profile = json.loads(demo.service_file.read_text())
        del profile["ledger"]
        profile["process"]["links"] = []
        profile["process"]["components"] = [each for each in profile["process"]["components"] if each["role"] == "replica"]
        profile["endpoint"]["url"] = url
        profile["model"]["served"] = "/v1/models#/data/0/digest"
        service, scenario = tmp_path / "service.yaml", tmp_path / "mixed.yaml"
        service.write_text(json.dumps(profile), encoding="utf-8")
        scenario.write_text(SCENARIO, encoding="utf-8")
        done = blackstart.telling("run", scenario, "--service", service, "--yes")
    assert done.code == 1, done.out + done.err
    judged = {one["name"]: one for one in done.result["objectives"]}
    mixed, single = judged["mixed_answers"], judged["time_to_single_digest"]
    assert mixed["verdict"] == "failed"
    assert 0 < mixed["lo"] <= mixed["hi"] < done.result["measurements"]["mixed_answers"]["answers"]  # r1 answered as well
    assert (single["verdict"], single["censored"], single["hi_s"]) == ("failed", True, None)
    assert single["lo_s"] > 2.0
    assert {(each["replica"], each["kind"]) for each in done.result["digests"]["deviations"]} == {("r0", "has"), ("r0", "serves")}
