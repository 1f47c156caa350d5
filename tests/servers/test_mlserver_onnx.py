"""What mlserver does with an ONNX model when a worker dies or hangs and when the file is damaged, by a service file that names its engine.

The right answers come from ONNX Runtime in this process, not from the server. The engine's profile says what is found here, too.
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.loading import engine_profile, load_service
from blackstart.tests.command import Blackstart, until
from blackstart.tests.servers.kserve import (
    HEALTH,
    all_healthy,
    check_damage_was_served,
    check_refused_alone,
    check_unmoved,
    down,
    drill,
    golden,
    question,
)
from blackstart.tests.servers.machine import living, supervised
from blackstart.tests.servers.mlservers import ONNX, Mlserver, made
from blackstart.tests.unit.models import write_onnx

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
SPAWNED = "multiprocessing.spawn"
LOG = "mlserver.log"


@pytest.fixture
def mlserver(tmp_path: Path) -> Iterator[Mlserver]:
    with made(tmp_path, "small", ONNX) as server:
        write_onnx(tmp_path / "small" / "model.onnx")
        yield server


def model_of(mlserver: Mlserver) -> Path:
    return mlserver.folder / "small" / "model.onnx"


def service(mlserver: Mlserver, **more: Any) -> Path:
    """Neither roles nor health nor a protocol: all that comes from the profile."""
    return mlserver.service(
        **{"engine": "mlserver", "golden": golden(model_of(mlserver)), "model": {"path": "small/model.onnx"}, **more}
    )


def workers(mlserver: Mlserver) -> list[int]:
    return [pid for pid, command in living(mlserver.folder).items() if SPAWNED in command]


@contextmanager
def running(mlserver: Mlserver) -> Iterator["subprocess.Popen[bytes]"]:
    """Started by the test itself, without a drill."""
    with (mlserver.folder / LOG).open("w") as log:
        process = subprocess.Popen(mlserver.start, cwd=mlserver.folder, stdout=log, stderr=log)
    try:
        until("mlserver to be ready", mlserver.answers)
        yield process
    finally:
        process.terminate()
        process.wait(30)
        until("mlserver to be gone", lambda: not living(mlserver.folder))


def metrics(mlserver: Mlserver) -> str:
    path = engine_profile("mlserver").metrics.path
    with urllib.request.urlopen(f"http://127.0.0.1:{mlserver.ports['metrics_port']}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def being_answered(mlserver: Mlserver) -> bool:
    """Whether the server has read a question to which nobody has an answer yet, by its own count."""
    return (
        re.search(r'^rest_server_requests_in_progress\{[^}]*method="POST"[^}]*\} [1-9]', metrics(mlserver), re.MULTILINE)
        is not None
    )


def infer(mlserver: Mlserver) -> tuple[int, Any]:
    return mlserver.asked("/v2/models/small/infer", {"inputs": [question(1)]})


def test_a_killed_worker_is_replaced_and_no_health_endpoint_says_so(blackstart: Blackstart, mlserver: Mlserver) -> None:
    killed = drill(mlserver.folder, "worker-kill", ["{kind: process-kill, role: engine}"], "{rto: 15s, quality_loss: 0}")
    done = blackstart.telling("run", killed, "--service", service(mlserver), "--yes", wanted="passed", calm=("health:",))
    assert (done.result["verdict"], done.code) == ("passed", 0), done.out + done.err
    (fault,) = done.result["faults"]
    assert len(fault["evidence"]["facts"]["gone"]) == 1
    assert not down(done.result) & {f"health:{path}" for path in HEALTH}
    lanes = {lane["name"] for lane in json.loads((done.folder / "samples" / "lanes.json").read_text(encoding="utf-8"))}
    assert lanes >= {"fresh", "reuse", "semantic", "replica:server", "workload", *(f"health:{path}" for path in HEALTH)}
    figure = done.result["measurements"]["recovery_time"]
    assert figure["masked"] or 0 <= figure["lo_s"] <= figure["hi_s"] <= 12
    assert not living(mlserver.folder)


def test_a_hung_worker_is_noticed_by_nobody(blackstart: Blackstart, mlserver: Mlserver) -> None:
    hung = drill(
        mlserver.folder,
        "worker-hang",
        ["{kind: process-hang, role: worker, for: 4s}"],
        "{rto: 15s, quality_loss: 0, time_to_detect: 10s}",
    )
    done = blackstart.telling("run", hung, "--service", service(mlserver), "--yes", calm=("health:",))
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    assert {one["name"]: one["verdict"] for one in done.result["objectives"]} == {
        "rto": "passed",
        "quality_loss": "passed",
        "time_to_detect": "failed",
    }
    measured = done.result["measurements"]
    assert all(measured["time_to_detect"][path] is None for path in HEALTH)
    assert all(measured["health_honesty_gap"][path]["lo_s"] >= 2 for path in HEALTH)
    assert {"semantic", "replica:server", "workload"} <= down(done.result)
    assert not down(done.result) & {f"health:{path}" for path in HEALTH}
    assert not living(mlserver.folder)


def test_a_tensor_outside_its_tolerance_is_a_wrong_answer(blackstart: Blackstart, mlserver: Mlserver) -> None:
    """Before any fault: such a service is not steady, and nothing is injected."""
    file = service(mlserver)
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "golden": golden(model_of(mlserver), off=0.01)}))
    killed = drill(mlserver.folder, "worker-kill", ["{kind: process-kill, role: engine}"], "{rto: 15s}")
    with running(mlserver):
        done = blackstart("run", killed, "--service", file, "--yes")
    assert (done.result["verdict"], done.code) == ("inconclusive", 3), done.out + done.err
    assert [fault["injecting_s"] for fault in done.result["faults"]] == [None]
    assert not living(mlserver.folder)


def test_damage_while_it_serves_does_nothing_and_is_refused_alone(blackstart: Blackstart, mlserver: Mlserver) -> None:
    file = service(mlserver)
    with running(mlserver):
        check_refused_alone(blackstart, file, "server")
        check_unmoved(model_of(mlserver), mlserver.url, file)


def test_damaged_weights_are_served_after_a_restart_and_all_is_healthy(blackstart: Blackstart, mlserver: Mlserver) -> None:
    """Changed at 0 s: nothing. Read anew at 4 s: wrong answers with 200 until the file is put back and the server started again."""
    damaged = drill(
        mlserver.folder,
        "silent-damage",
        ["{kind: model-corrupt, mutation: exponent-msb, at: 0s}", "{kind: rollout-restart, at: 4s}"],
        "{quality_loss: 0}",
    )
    done = blackstart.telling("run", damaged, "--service", service(mlserver), "--yes")
    wrong = check_damage_was_served(done, "semantic", "replica:server")
    _, restart = done.result["faults"]
    assert min(each["start_s"][1] for each in wrong) >= restart["effective"]["lo_s"] - 1
    assert not living(mlserver.folder)


def test_a_file_that_cannot_be_loaded_keeps_the_server_down_with_exit_code_zero(
    blackstart: Blackstart, mlserver: Mlserver
) -> None:
    """Only what starts it again whatever its exit code brings it back, once the file is whole."""
    with supervised(mlserver.start, mlserver.folder) as codes:
        until("mlserver to be ready", mlserver.answers)
        component = {"name": "server", "role": "replica", "port": mlserver.ports["http_port"], "supervised": True}
        damaged = drill(
            mlserver.folder,
            "loud-damage",
            ["{kind: model-corrupt, mutation: header}", "{kind: replica-kill, at: 1s}"],
            "{rto: 60s}",
        )
        done = blackstart.telling(
            "run", damaged, "--service", service(mlserver, process={"components": [component]}), "--yes", "--set", "observe=15s"
        )
        assert (done.result["verdict"], done.code) == ("inconclusive", 3), done.out + done.err  # 15 s are less than the RTO
        assert done.result["measurements"]["recovery_time"]["censored"]
        assert all(fault["undo_verified"] for fault in done.result["faults"])
        ended = codes.read_text(encoding="utf-8").split()
        assert ended[0] == str(-signal.SIGKILL)
        assert set(ended[1:]) == {"0"}
        assert infer(mlserver)[0] == 200


def test_a_worker_that_has_loaded_the_damage_goes_with_it(blackstart: Blackstart, mlserver: Mlserver) -> None:
    """The server itself is the same as before the fault, and would serve wrong answers for good."""
    faults = ["{kind: model-corrupt, mutation: exponent-msb}", "{kind: process-kill, role: worker, at: 1s}"]
    damaged = drill(mlserver.folder, "worker-damage", faults, "{quality_loss: 0}")
    done = blackstart.telling("run", damaged, "--service", service(mlserver), "--yes", "--set", "observe=20s")
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    assert all(fault["undo_verified"] for fault in done.result["faults"])
    wrong = [each for each in done.result["outages"] if each["lane"] == "semantic" and each["classes"].get("wrong-answer")]
    assert wrong
    assert all(each["end_s"] for each in wrong), done.out


def test_a_worker_that_dies_while_the_file_is_damaged_leaves_a_server_without_a_model(mlserver: Mlserver) -> None:
    """For good: neither the whole file nor a load that is answered 200 brings the model back, and every health endpoint stays 200."""
    path = mlserver.folder / "small" / "model.onnx"
    whole = path.read_bytes()
    with running(mlserver):
        assert infer(mlserver)[0] == 200
        path.write_bytes(whole[: len(whole) // 2])
        (worker,) = workers(mlserver)
        os.kill(worker, signal.SIGKILL)
        until("its successor to fail", lambda: "INVALID_PROTOBUF" in (mlserver.folder / LOG).read_text(encoding="utf-8"))
        assert workers(mlserver) not in ([], [worker])
        path.write_bytes(whole)
        assert infer(mlserver)[0] == 500
        assert mlserver.asked("/v2/repository/models/small/load", {})[0] == 200
        assert infer(mlserver)[0] == 500
        assert all_healthy(mlserver.url)


def test_the_metrics_that_the_profile_names_are_there(mlserver: Mlserver) -> None:
    told = engine_profile("mlserver").metrics
    with running(mlserver):
        assert infer(mlserver)[0] == 200
        text = metrics(mlserver)
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert {*told.running, *told.queued, *told.cache} <= names
    assert re.search(r"^parallel_request_queue_count [1-9]", text, re.MULTILINE)


def test_requests_under_way_survive_a_sigterm(mlserver: Mlserver) -> None:
    """As the profile says: the worker finishes first, and the server only then."""
    with running(mlserver) as process:
        (worker,) = workers(mlserver)
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as other:
            asked = other.submit(infer, mlserver)
            until("the question to be under way", lambda: being_answered(mlserver))
            process.terminate()
            until("the server to answer nothing new", lambda: not mlserver.answers())
            os.kill(worker, signal.SIGCONT)
            assert asked.result()[0] == 200
        assert process.wait(30) == 0


def test_init_and_doctor_know_the_engine(blackstart: Blackstart, mlserver: Mlserver) -> None:
    with running(mlserver):
        assert blackstart("init", "drills", "--from-url", mlserver.url).code == 0
        file = mlserver.folder / "drills" / "service.yaml"
        text = file.read_text(encoding="utf-8")
        assert "\nengine: mlserver    # MLServer, known by its answer to /v2" in text
        assert "MLServer reads it at start" in text
        written = load_service(file)
        assert (written.endpoint.protocol, written.endpoint.model) == ("kserve-v2", "small")
        assert set(written.health) == set(HEALTH)
        assert written.process is not None
        assert written.process.inside["engine"] == r"multiprocessing\.spawn"
        looked = blackstart("doctor", "--service", file)
        assert looked.code == 0, looked.out
        (worker,) = workers(mlserver)
        lines = looked.out.splitlines()
        assert "yes  engine               MLServer, as of 1.7.1, known by its answer to /v2" in lines
        assert any(f"engine: replica-0/engine (pid:{worker}@" in line for line in lines if line.startswith("yes  role"))
        assert any(line.startswith("no   golden ") for line in lines)
        assert any(
            "running: rest_server_requests_in_progress; waiting: parallel_request_queue" in line
            for line in lines
            if line.split()[1] == "metrics"
        )
        health = [line for line in lines if line.startswith("yes  health")]
        assert [line.split()[2] for line in health] == list(written.health)
        assert all("it does not notice" in line for line in health)
        port = mlserver.ports["http_port"]
        other = blackstart("doctor", "--service", service(mlserver, engine="vllm", golden=[], process={"port": port}))
        assert "no   engine               vllm is named, and it looks like mlserver by its answer to /v2" in other.out
        assert "no   role                 engine: no process of replica-0 has such a command line" in other.out
