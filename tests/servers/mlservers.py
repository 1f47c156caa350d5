"""An mlserver of the tests' own: its program, its folder, a service file for it, and what is left of it at the end; and in a container."""

import json
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from blackstart.drills.loading import load_service
from blackstart.tests.command import Blackstart
from blackstart.tests.servers.machine import demanded, free_ports, living, scenario
from blackstart.tests.unit.models import write_onnx

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / ".venv" / "servers" / "bin" / "mlserver"
ONNX = Path(__file__).with_name("onnx")
WAITING = 2  # questions that a busy machine may keep waiting
HEALTH = ("/v2/health/live", "/v2/health/ready", "/v2/models/small/ready")
MOUNTED, MODELS, PORT = "/servers", "/models", 8080  # in a container: the environment of mlserver, read only; the model's folder
LIBRARIES = "lib/python3.11/site-packages"  # of the image's own python
COMMAND = ("python3", f"{MOUNTED}/bin/mlserver", "start", f"{MODELS}/small")


@dataclass(frozen=True)
class Mlserver:
    """An mlserver that may or may not be running, with its one model in a folder of its own."""

    program: str
    folder: Path
    model: str
    ports: Mapping[str, int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http_port']}"

    @property
    def start(self) -> list[str]:
        return [self.program, "start", str(self.folder / self.model)]

    def service(self, **more: Any) -> Path:
        """A service file that blackstart can start it from; `more` is added to it."""
        component = {"name": "server", "role": "replica", "port": self.ports["http_port"], "start": self.start}
        whole = {
            "apiVersion": "blackstart/v1",
            "kind": "Service",
            "name": self.model,
            "platform": "process",
            "process": {"components": [component]},
            "endpoint": {"url": self.url, "model": self.model},
            **more,
        }
        path = self.folder / "service.yaml"
        path.write_text(json.dumps(whole), encoding="utf-8")
        return path

    def asked(self, path: str, body: Any = None, limit_s: float = 5.0) -> tuple[int, Any]:
        """Status and JSON body (None for one that is none) of a GET, or of a POST; status 0: no answer."""
        data, headers = (None, {}) if body is None else (json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=limit_s) as answer:
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

    def answers(self) -> bool:
        return self.asked(f"/v2/models/{self.model}/ready", limit_s=2)[0] == 200


@contextmanager
def made(folder: Path, model: str, source: Path, **settings: Any) -> Iterator[Mlserver]:
    """With its model's folder copied from `source`. Whatever still runs at the end is killed, and fails the test."""
    program = demanded(PROGRAM, "make .venv/mlserver")
    shutil.copytree(source, folder / model, ignore=shutil.ignore_patterns("__pycache__"))
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    whole = {"debug": False, "host": "127.0.0.1", "parallel_workers": 1, **ports, **settings}
    (folder / model / "settings.json").write_text(json.dumps(whole), encoding="utf-8")
    yield Mlserver(program, folder, model, ports)
    left = living(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def environment() -> Path:
    """What is mounted into containers: nothing of it is copied into an image, which would take minutes."""
    demanded(PROGRAM, "make .venv/mlserver")
    found = PROGRAM.parents[1].resolve()
    demanded(found / LIBRARIES, "the image has Python 3.11: make .venv/mlserver PYTHON=python3.11")
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> content of all that lies below /models in a container; the model is left in `folder`."""
    settings = {"debug": False, "host": "0.0.0.0", "parallel_workers": 1}
    source = {path.name: path.read_bytes() for path in ONNX.iterdir() if path.is_file()}
    model = write_onnx(folder / "model.onnx").read_bytes()
    return {**source, "model.onnx": model, "settings.json": json.dumps(settings).encode()}


def contained(folder: Path, platform: str, where: dict[str, Any], **more: Any) -> Path:
    """A service file for replicas in containers: neither roles nor health nor a protocol, all that comes from the profile."""
    whole = {
        "apiVersion": "blackstart/v1",
        "kind": "Service",
        "name": "small",
        "engine": "mlserver",
        "platform": platform,
        platform: where,
        "golden": golden(folder / "model.onnx"),
        "model": {"path": f"{MODELS}/small/model.onnx"},
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


def never_noticed(result: dict[str, Any]) -> bool:
    """Whether no health endpoint, of the service or of a replica, told of the fault. That a busy machine kept a question or two waiting
    is no such word.
    """
    assert result["measurements"]["time_to_detect"].keys() >= {*HEALTH}
    bad = [each["classes"] for each in result["outages"] if each["lane"].startswith("health:")]
    return not any(sum(each.values()) > WAITING or any(word.startswith("status-") for word in each) for each in bad)


def check_known(blackstart: Blackstart, file: Path, target: str, identity: str) -> None:
    """What `init` wrote there, and what `doctor` says of it: the engine, its health endpoints, its processes by role in that target."""
    found = load_service(file)
    assert (found.engine, found.endpoint.protocol, found.endpoint.model) == ("mlserver", "kserve-v2", "small")
    assert set(found.health) == set(HEALTH)
    looked = blackstart("doctor", "--service", file)
    assert looked.code == 0, looked.out
    assert "yes  engine               MLServer, as of 1.7.1, known by its answer to /v2" in looked.out
    assert ":8080/v2/health/ready answers 200" in looked.out
    assert f"engine: {target}/engine ({identity}:" in looked.out
    assert f"worker: {target}/worker ({identity}:" in looked.out


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
