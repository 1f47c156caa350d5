"""What a real tritonserver with a model of its Python backend does when the stub dies or hangs and when the model is damaged.

What it does is said in the engine's profile too, with the version that is tried here. The service file names the engine and nothing that
its profile supplies. Most tests share one server under a supervisor, as a container would be; the right answers are ONNX Runtime's.
"""

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    quick,
    right,
)
from blackstart.tests.servers.machine import supervised
from blackstart.tests.servers.triton_fit import unfit
from blackstart.tests.servers.tritons import Triton, made, running

pytestmark = [pytest.mark.skipif(unfit() is not None, reason=str(unfit())), pytest.mark.xdist_group("triton")]
UNHEALTHY = "Stub process 'small_0_0' is not healthy."
SETTLED = ("--set", "settle=1s")
CRASHED = {str(-signal.SIGABRT), str(-signal.SIGSEGV)}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with made(tmp_path_factory.mktemp("triton")) as server, supervised(server.start, server.folder):
        yield server


@pytest.fixture
def shared(standing: Triton) -> Triton:
    until("tritonserver to be well", lambda: standing.answers() and standing.infer()[0] == 200)
    return standing


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[Triton]:
    with made(tmp_path) as server:
        yield server


def metrics(triton: Triton) -> str:
    """Empty while nobody listens there, which begins a little after the server is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{triton.metrics}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["verdict"] for one in result["objectives"]}


def codes(triton: Triton) -> list[str]:
    """With which exit codes it ended so far, under its supervisor."""
    found = triton.folder / "codes"
    return found.read_text(encoding="utf-8").split() if found.exists() else []


def test_a_dead_stub_is_not_started_again_and_nobody_notices(blackstart: Blackstart, shared: Triton) -> None:
    """Every question fails with 500 after a second; all health endpoints stay 200, so that the supervisor has no reason to do anything."""
    before = codes(shared)
    killed = drill(blackstart.folder, "stub-kill", ["{kind: process-kill, role: stub}"], "{rto: 2s, time_to_detect: 2s}")
    done = blackstart.telling("run", killed, "--service", shared.restarted_by_others(), "--yes", *quick("3s"), *SETTLED)
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    assert verdicts(done.result) == {"rto": "failed", "time_to_detect": "failed"}
    assert {"semantic", "replica:server", "workload"} <= down(done.result)
    assert any(
        "status-5xx" in each["classes"] for each in done.result["outages"]
    )  # others may have waited for their second in vain
    assert set(done.result["measurements"]["time_to_detect"].values()) == {
        None
    }  # that the undo ends the server is nobody's notice
    assert all(gap["lo_s"] >= 1 for gap in done.result["measurements"]["health_honesty_gap"].values())
    (fault,) = done.result["faults"]
    assert len(fault["evidence"]["facts"]["gone"]) == 1
    assert fault["undo_verified"]
    assert fault["undo_evidence"]["facts"]["running"] != {"server": fault["identities"][0]}  # only another server has a stub
    results = [json.loads(file.read_text(encoding="utf-8")) for file in blackstart.runs.glob("2*/result.json")]
    undone = [fault for each in results for fault in each["faults"] if fault["undo_verified"]]
    assert len(codes(shared)) == len(before) + len(undone)  # each undo has ended one server, and nothing else has


def test_a_dead_stub_is_over_once_something_ends_the_server(blackstart: Blackstart, shared: Triton) -> None:
    faults = ["{kind: process-kill, role: engine}", "{kind: replica-kill, at: 1500ms}"]
    killed = drill(blackstart.folder, "stub-and-server-kill", faults, "{rto: 15s, quality_loss: 0}")
    done = blackstart.telling(
        "run", killed, "--service", shared.restarted_by_others(), "--yes", *quick("15s"), *SETTLED, wanted="passed"
    )
    assert (done.result["verdict"], done.code) == ("passed", 0), done.out + done.err
    assert done.result["measurements"]["recovery_time"]["lo_s"] >= 1
    assert all(fault["undo_verified"] for fault in done.result["faults"])
    assert codes(shared)[-1] == str(-signal.SIGKILL)


def test_a_hung_stub_fails_every_question_unnoticed_and_the_server_dies_when_it_goes_on(
    blackstart: Blackstart, triton: Triton
) -> None:
    """How long that takes the server is up to chance, and so is whether a question gets the answer to another one before."""
    objectives = "{rto: 2s, time_to_detect: 2s}"
    hung = drill(blackstart.folder, "stub-hang", ["{kind: process-hang, role: stub, for: 3s}"], objectives)
    with supervised(triton.start, triton.folder):
        until("tritonserver to be ready", triton.answers)
        done = blackstart.telling("run", hung, "--service", triton.restarted_by_others(), "--yes", *quick("4s"), *SETTLED)
        assert set(codes(triton)) <= CRASHED
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    assert verdicts(done.result) == {"rto": "failed", "time_to_detect": "failed"}
    assert {"semantic", "replica:server", "workload"} <= down(done.result)
    assert all(gap["lo_s"] >= 1 for gap in done.result["measurements"]["health_honesty_gap"].values())
    (fault,) = done.result["faults"]
    assert len(fault["evidence"]["facts"]["stopped"]) == 1
    assert fault["undo_verified"]


def test_damaged_weights_are_served_after_a_restart_and_all_is_healthy(blackstart: Blackstart, shared: Triton) -> None:
    faults = ["{kind: model-corrupt, mutation: exponent-msb}", "{kind: replica-kill, at: 500ms}"]
    damaged = drill(blackstart.folder, "silent-damage", faults, "{quality_loss: 0}")
    done = blackstart.telling("run", damaged, "--service", shared.restarted_by_others(), "--yes", *quick("10s"), *SETTLED)
    check_damage_was_served(done, "semantic", "replica:server")
    until("the right answers", lambda: right(shared.url, shared.restarted_by_others()))


def test_damage_while_it_serves_does_nothing_and_is_refused_alone(blackstart: Blackstart, shared: Triton) -> None:
    file = shared.restarted_by_others()
    check_refused_alone(blackstart, file, "server")
    check_unmoved(shared.weights, shared.url, file)


def test_init_and_doctor_know_the_engine(blackstart: Blackstart, shared: Triton) -> None:
    assert blackstart("init", "drills", "--from-url", shared.url).code == 0
    file = blackstart.folder / "drills" / "service.yaml"
    text = file.read_text(encoding="utf-8")
    assert "\nengine: triton    # Triton Inference Server, known by its answer to /v2" in text
    written = load_service(file)
    assert (written.endpoint.protocol, written.endpoint.model) == ("kserve-v2", "small")
    assert set(written.health) == set(HEALTH)
    looked = blackstart("doctor", "--service", file)
    assert looked.code == 0, looked.out
    (stub,) = shared.stubs()
    lines = looked.out.splitlines()
    assert any(line.startswith("yes  engine               Triton Inference Server, as of ") for line in lines), looked.out
    for role in ("engine", "stub"):
        assert any(f"{role}: replica-0/{role} (pid:{stub}@" in line for line in lines if line.startswith("yes  role")), looked.out
    told = next(line for line in lines if line.split()[1] == "metrics")
    assert "/metrics on port 8002: waiting: nv_inference_pending_request_count" in told


def test_the_version_that_the_profile_names_was_tried(shared: Triton) -> None:
    assert shared.asked("/v2")[1]["version"] == engine_profile("triton").version


def test_questions_that_wait_are_counted_and_those_under_way_survive_a_sigterm(triton: Triton) -> None:
    """One is computed, one waits; nothing new is taken meanwhile, and both are answered."""
    with running(triton, "--exit-timeout-secs=30") as process, ThreadPoolExecutor(2) as others:
        (triton.version / "hold").touch()
        answers = [others.submit(triton.infer) for _ in range(2)]
        until("one to be under way", (triton.version / "held").exists)
        (name,) = engine_profile("triton").metrics.queued
        until(
            "the other to be counted",
            lambda: re.search(rf'^{name}{{model="small",version="1"}} 1$', metrics(triton), re.MULTILINE),
        )
        process.terminate()
        until("it to take nothing new", lambda: triton.asked("/v2/health/live") == (0, None))
        (triton.version / "hold").unlink()
        assert [each.result()[0] for each in answers] == [200, 200]
        assert process.wait(30) == 0


def test_a_sigterm_with_a_dead_stub_lasts_as_long_as_it_may_and_ends_with_an_error(triton: Triton) -> None:
    with running(triton) as process:
        (stub,) = triton.stubs()
        os.kill(stub, signal.SIGKILL)
        assert triton.infer() == (500, {"error": UNHEALTHY})
        assert all_healthy(triton.url)
        process.terminate()
        assert process.wait(30) == 1
        assert "Exit timeout expired" in triton.log()


def test_what_load_and_unload_do_to_a_model_that_is_served(triton: Triton) -> None:
    """In the mode `explicit`. One that fails leaves the old model; without a change of its files it is answered 200 and revives no stub.

    That a model was unloaded is told by its own endpoint, and by /v2/health/ready only while it goes.
    """
    load = "/v2/repository/models/small/load"
    with running(triton, "--model-control-mode=explicit", "--load-model=small"):
        whole = triton.weights.read_bytes()
        triton.weights.write_bytes(whole[:500])
        assert triton.asked(load, {})[0] == 400
        assert triton.infer()[0] == 200
        assert all_healthy(triton.url)
        triton.weights.write_bytes(whole)
        assert triton.asked(load, {})[0] == 200  # of a file that was written since
        until("the old stub to be gone", lambda: len(triton.stubs()) == 1)
        os.kill(*triton.stubs(), signal.SIGKILL)
        assert triton.asked(load, {})[0] == 200
        assert triton.infer()[0] == 500
        triton.weights.touch()
        assert triton.asked(load, {})[0] == 200
        assert triton.infer()[0] == 200
        assert triton.asked("/v2/repository/models/small/unload", {})[0] == 200
        until("it to be gone", lambda: triton.asked("/v2/repository/index", {})[1][0].get("reason") == "unloaded")
        assert [triton.asked(path)[0] for path in HEALTH] == [200, 200, 400]
        assert triton.infer()[0] == 404


def test_a_file_that_cannot_be_loaded_ends_the_start_or_is_told_by_ready(triton: Triton) -> None:
    """With exit code 1, so that a restart policy of on-failure starts it again; with --exit-on-error=false it lives on without the model."""
    triton.weights.write_bytes(triton.weights.read_bytes()[:500])
    ended = subprocess.run(triton.start, cwd=triton.folder, capture_output=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert b"failed to load all models" in ended.stdout + ended.stderr
    with running(triton, "--exit-on-error=false", path=HEALTH[0]):
        assert [triton.asked(path)[0] for path in HEALTH] == [200, 400, 400]
        assert triton.infer()[0] == 404
