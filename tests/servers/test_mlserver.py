"""Drills on mlserver (KServe v2 over HTTP), a server that nobody here wrote, with a small model in one worker process.

What it really does is told at each test. mlserver has heavy dependencies, so it lives in an environment of its own.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.tests.command import Blackstart, until
from blackstart.tests.journal import held_s
from blackstart.tests.servers.machine import living, scenario
from blackstart.tests.servers.mlservers import Mlserver, made

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
MODEL = Path(__file__).with_name("model")
HEALTH = ("/v2/health/live", "/v2/health/ready", "/v2/models/nearest/ready")
QUESTION = {"name": "point", "shape": [3], "datatype": "FP32", "data": [200, 10, 10]}
OUTPUTS = [{"name": "colour", "data": ["red"]}, {"name": "distance", "data": [3225.5], "tolerance": 1}]


def service(mlserver: Mlserver, *, recorded: bool = False) -> Path:
    """Everything said in the file, and nothing left to a profile; the right answer there as well, or `recorded` before the drill."""
    process = {
        "components": [{"name": "server", "role": "replica", "port": mlserver.ports["http_port"], "start": mlserver.start}]
    }
    return mlserver.service(
        process={**process, "inside": {"worker": "multiprocessing.spawn"}},
        endpoint={"url": mlserver.url, "protocol": "kserve-v2", "model": "nearest"},
        health=HEALTH,
        golden=[{"inputs": [QUESTION], **({} if recorded else {"outputs": OUTPUTS})}],
    )


@pytest.fixture
def mlserver(tmp_path: Path) -> Iterator[Mlserver]:
    with made(tmp_path, "nearest", MODEL) as server:
        yield server


def test_a_killed_worker_is_replaced(blackstart: Blackstart, mlserver: Mlserver) -> None:
    """mlserver starts another worker at once, which loads the model in less than a second.

    Requests in between fail with 500 or wait, while every health endpoint stays 200. The expected answer is recorded first.
    """
    drill = scenario(mlserver.folder, "worker-kill", "{kind: process-kill, role: worker}", "{rto: 10s, quality_loss: 0}")
    done = blackstart.telling(
        "run", drill, "--service", service(mlserver, recorded=True), "--yes", wanted="passed", calm=("health:",)
    )
    assert (done.result["verdict"], done.code) == ("passed", 0), done.out + done.err
    figure = done.result["measurements"]["recovery_time"]
    assert figure["masked"] or 0 <= figure["lo_s"] <= figure["hi_s"] <= 8
    (fault,) = done.result["faults"]
    assert len(fault["evidence"]["facts"]["gone"]) == 1
    assert fault["undo_verified"]
    assert fault["undo_evidence"]["facts"]["running"] == {"server": fault["identities"][0]}  # the server was never restarted
    assert not {outage["lane"] for outage in done.result["outages"]} & {f"health:{path}" for path in HEALTH}
    recorded = (done.folder / "service.yaml").read_text(encoding="utf-8")
    assert "colour" in recorded
    assert "3225.0" in recorded
    assert not living(mlserver.folder)


def test_a_hung_worker_is_noticed_by_no_health_endpoint(blackstart: Blackstart, mlserver: Mlserver) -> None:
    """Inference waits for as long as the worker is stopped, with no limit of mlserver's own, and is answered afterwards.

    Live, ready and the model's own ready are answered 200 by the main process all the time.
    """
    objectives = "{rto: 15s, quality_loss: 0, time_to_detect: 10s}"
    drill = scenario(mlserver.folder, "worker-hang", "{kind: process-hang, role: worker, for: 4s}", objectives)
    done = blackstart.telling("run", drill, "--service", service(mlserver), "--yes", calm=("health:", "fresh", "reuse"))
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    verdicts = {one["name"]: one["verdict"] for one in done.result["objectives"]}
    assert verdicts == {"rto": "passed", "quality_loss": "passed", "time_to_detect": "failed"}
    measured = done.result["measurements"]
    assert 2.5 <= measured["recovery_time"]["lo_s"] <= measured["recovery_time"]["hi_s"] <= min(7, held_s(done.folder) + 2)
    assert all(measured["time_to_detect"][path] is None for path in HEALTH)
    assert all(measured["health_honesty_gap"][path]["lo_s"] >= 2 for path in HEALTH)
    down = {outage["lane"] for outage in done.result["outages"]}
    assert down == {"semantic", "replica:server"}
    (fault,) = done.result["faults"]
    assert len(fault["evidence"]["facts"]["stopped"]) == 1
    assert fault["undo_verified"]
    assert not living(mlserver.folder)


def test_a_killed_server_comes_back_only_by_the_undo(blackstart: Blackstart, mlserver: Mlserver) -> None:
    """With server, worker and resource tracker gone nothing starts mlserver again but blackstart, when it puts things right."""
    drill = scenario(mlserver.folder, "server-kill", "{kind: replica-kill}", "{rto: 60s, time_to_detect: 10s}")
    done = blackstart.telling("run", drill, "--service", service(mlserver), "--yes", "--set", "observe=8s")
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    verdicts = {one["name"]: one["verdict"] for one in done.result["objectives"]}
    assert verdicts == {"rto": "failed", "time_to_detect": "passed"}
    figure = done.result["measurements"]["recovery_time"]
    assert figure["censored"]
    assert figure["lo_s"] >= 6
    (fault,) = done.result["faults"]
    assert fault["undo_verified"]
    assert fault["undo_evidence"]["facts"]["running"] != {"server": fault["identities"][0]}
    assert {"fresh", "semantic", *(f"health:{path}" for path in HEALTH)} <= {one["lane"] for one in done.result["outages"]}
    assert not living(mlserver.folder)


def test_init_and_doctor_know_the_protocol(blackstart: Blackstart, mlserver: Mlserver) -> None:
    process = subprocess.Popen(mlserver.start, cwd=mlserver.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("mlserver to be ready", mlserver.answers)
        before = living(mlserver.folder)
        assert blackstart("init", "drills", "--from-url", mlserver.url).code == 0
        files = mlserver.folder / "drills" / "scenario.yaml", mlserver.folder / "drills" / "service.yaml"
        assert blackstart("validate", *files).code == 0
        written = files[1].read_text(encoding="utf-8")
        assert "protocol: kserve-v2" in written
        assert "/v2/health/ready" in written
        planned = blackstart("plan", files[0], "--service", files[1])
        assert planned.code == 0
        assert str(process.pid) in planned.out
        looked = blackstart("doctor", "--service", service(mlserver))
        assert looked.code == 0, looked.out
        assert living(mlserver.folder) == before
    finally:
        process.terminate()
        process.wait(30)
    until("mlserver to be gone", lambda: not living(mlserver.folder))
