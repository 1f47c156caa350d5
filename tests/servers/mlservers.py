"""An mlserver of the tests' own: its program, its folder, a service file for it, and what is left of it at the end."""

import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blackstart.tests.servers.machine import demanded, free_ports, living

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / ".venv" / "servers" / "bin" / "mlserver"


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
