"""An mlserver of the tests' own: its program, its folder, a service file for it, and what is left of it at the end; and in a container."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blackstart.drills.loading import load_service
from blackstart.tests.command import Blackstart
from blackstart.tests.ports import free_port
from blackstart.tests.servers.kserve import HEALTH, asked, golden, written_service
from blackstart.tests.servers.machine import demanded, end_left
from blackstart.tests.unit.models import write_onnx

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / ".venv" / "servers" / "bin" / "mlserver"
ONNX = Path(__file__).with_name("onnx")
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
        return written_service(self.folder, self.model, self.ports["http_port"], self.start, **more)

    def asked(self, path: str, body: Any = None, limit_s: float = 5.0) -> tuple[int, Any]:
        return asked(self.url + path, body, limit_s)

    def answers(self) -> bool:
        return self.asked(f"/v2/models/{self.model}/ready", limit_s=2)[0] == 200


@contextmanager
def made(folder: Path, model: str, source: Path, **settings: Any) -> Iterator[Mlserver]:
    """With its model's folder copied from `source`. Whatever still runs at the end is killed, and fails the test."""
    program = demanded(PROGRAM, "make .venv/mlserver")
    shutil.copytree(source, folder / model, ignore=shutil.ignore_patterns("__pycache__"))
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    whole = {"debug": False, "host": "127.0.0.1", "parallel_workers": 1, **ports, **settings}
    (folder / model / "settings.json").write_text(json.dumps(whole), encoding="utf-8")
    yield Mlserver(program, folder, model, ports)
    assert not end_left(folder)


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
