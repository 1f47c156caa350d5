"""What tests ask of any server that speaks KServe's v2 protocol and serves the one small model: questions, right answers, health, drills."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from blackstart.tests.command import Blackstart, Done
from blackstart.tests.servers.machine import scenario

WAITING = 2  # questions that a busy machine may keep waiting
HEALTH = ("/v2/health/live", "/v2/health/ready", "/v2/models/small/ready")


def asked(url: str, body: Any = None, limit_s: float = 5.0) -> tuple[int, Any]:
    """Status and JSON body (None for one that is none) of a GET, or of a POST; status 0: no answer."""
    data, headers = (None, {}) if body is None else (json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=limit_s) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    except OSError:
        return 0, None
    try:
        return status, json.loads(text)
    except ValueError:
        return status, None


def written_service(folder: Path, name: str, port: int, start: Sequence[str], **more: Any) -> Path:
    """A service file with one replica that blackstart can start; `more` is added to it."""
    component = {"name": "server", "role": "replica", "port": port, "start": start}
    whole = {
        "apiVersion": "blackstart/v1",
        "kind": "Service",
        "name": name,
        "platform": "process",
        "process": {"components": [component]},
        "endpoint": {"url": f"http://127.0.0.1:{port}", "model": name},
        **more,
    }
    path = folder / "service.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def drill(folder: Path, name: str, faults: Sequence[str], objectives: str) -> Path:
    """A short scenario under load, which may hit all of a service."""
    path = scenario(folder, name, "\n  - ".join(faults), objectives)
    path.write_text(path.read_text(encoding="utf-8") + "load: {rate: 4/s}\nblast_radius: {share: 100%}\n", encoding="utf-8")
    return path


def quick(observe: str) -> list[str]:
    """For `run`: as short as a drill can be and still tell."""
    return [word for setting in ("steady_state.hold=3s", "settle=3s", f"observe={observe}") for word in ("--set", setting)]


def down(result: dict[str, Any]) -> set[str]:
    """Lanes with an outage."""
    return {outage["lane"] for outage in result["outages"]}


def check_damage_was_served(done: Done, *lanes: str) -> list[dict[str, Any]]:
    """Wrong answers with 200, in these lanes among others, and every fault undone and that proven. Returns their outages."""
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    assert done.result["measurements"]["quality_loss"]["wrong_answers"] > 0
    assert all(fault["undone"] and fault["undo_verified"] for fault in done.result["faults"])
    wrong = [each for each in done.result["outages"] if each["classes"].get("wrong-answer")]
    assert {each["lane"] for each in wrong} >= {*lanes}
    return wrong


def never_noticed(result: dict[str, Any]) -> bool:
    """Whether no health endpoint, of the service or of a replica, told of the fault. That a busy machine kept a question or two waiting
    is no such word.
    """
    assert result["measurements"]["time_to_detect"].keys() >= {*HEALTH}
    bad = [each["classes"] for each in result["outages"] if each["lane"].startswith("health:")]
    return not any(sum(each.values()) > WAITING or any(word.startswith("status-") for word in each) for each in bad)


def check_refused_alone(blackstart: Blackstart, file: Path, target: str) -> None:
    """Damage without a restart is no drill: the model is in memory, and every service would pass."""
    fault = f"{{kind: model-corrupt, mutation: exponent-msb, target: {{names: [{target}]}}}}"
    planned = blackstart("plan", drill(blackstart.folder, "damage", [fault], "{quality_loss: 0}"), "--service", file)
    assert planned.code == 2
    assert f"bites only when {target} starts again" in planned.err


def check_unmoved(model: Path, url: str, service: Path) -> None:
    """By half of the file gone under it, in place: one that had it mapped would die of that. The file is put back."""
    whole = model.read_bytes()
    with model.open("r+b") as file:
        file.truncate(len(whole) // 2)
        try:
            assert right(url, service)
            assert all_healthy(url)
        finally:
            file.write(whole)


def all_healthy(url: str) -> bool:
    try:
        for path in HEALTH:
            with urllib.request.urlopen(url + path, timeout=5):
                pass
    except OSError:
        return False
    return True


def right(url: str, service: Path) -> bool:
    """Whether the server there gives the first golden answer of that file, asked past any drill."""
    asked = json.loads(service.read_text(encoding="utf-8"))["golden"][0]
    request = urllib.request.Request(f"{url}/v2/models/small/infer", json.dumps({"inputs": asked["inputs"]}).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            given = json.load(answer)["outputs"][0]["data"]
    except OSError:
        return False
    return bool(np.allclose(np.ravel(given), np.ravel(asked["outputs"][0]["data"]), atol=asked["outputs"][0]["tolerance"]))


def question(seed: int) -> dict[str, Any]:
    point = np.random.default_rng(seed).standard_normal((1, 32)).astype("float32")
    return {"name": "x", "shape": [1, 32], "datatype": "FP32", "data": point[0].tolist()}


def golden(model: Path, *, off: float = 0.0) -> list[dict[str, Any]]:
    """Two questions with their answers, each number `off` by so much, where 0.001 is allowed."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = []
    for seed in (1, 2):
        asked = question(seed)
        (answer,) = session.run(["y"], {"x": np.array([asked["data"]], "float32")})
        outputs = [{"name": "y", "data": (answer + off).tolist(), "tolerance": 0.001}]
        found.append({"inputs": [asked], "outputs": outputs})
    return found
