"""A real tritonserver of the tests' own, with one model of its Python backend: its program, its folder, a service file for it."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blackstart.tests.command import until
from blackstart.tests.ports import free_port
from blackstart.tests.servers.kserve import asked, golden, question, written_service
from blackstart.tests.servers.machine import demanded, end_left, living
from blackstart.tests.servers.triton_fit import LIBRARY
from blackstart.tests.unit.models import write_onnx, write_safetensors

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv" / "tritonserver"
INSTALLED = ENVIRONMENT / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/pytriton/tritonserver"
SOURCE = Path(__file__).with_name("triton")
STUB = "triton_python_backend_stub"
LOG = "triton.log"
SHARED = Path("/dev/shm")
# Where a stub is dead it waits for so long at SIGTERM (30 s by default), and a test need not.
QUICK = "--exit-timeout-secs=1"


@dataclass(frozen=True)
class Triton:
    """A tritonserver that may or may not be running."""

    folder: Path
    port: int
    metrics: int
    region: str = field(default_factory=lambda: f"triton-{uuid.uuid4().hex}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def version(self) -> Path:
        """Where the model's files are."""
        return self.folder / "models" / "small" / "1"

    @property
    def weights(self) -> Path:
        return self.version / "model.safetensors"

    @property
    def start(self) -> list[str]:
        """The stub is told nowhere where its Python and numpy are: it goes by the first python3 in PATH."""
        return [
            "env",
            f"PATH={ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
            f"LD_LIBRARY_PATH={LIBRARY.parent}",
            str(INSTALLED / "bin" / "tritonserver"),
            f"--model-repository={self.folder / 'models'}",
            f"--backend-directory={INSTALLED / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self.region}",
            "--http-address=127.0.0.1",
            f"--http-port={self.port}",
            f"--metrics-port={self.metrics}",
            "--allow-grpc=false",
            QUICK,
        ]

    def service(self, **more: Any) -> Path:
        """Neither roles nor health nor a protocol: all that comes from the profile. The right answers are ONNX Runtime's."""
        known = {
            "engine": "triton",
            "golden": golden(write_onnx(self.folder / "same.onnx")),
            "model": {"path": str(self.weights.relative_to(self.folder))},
        }
        return written_service(self.folder, "small", self.port, self.start, **known, **more)

    def restarted_by_others(self) -> Path:
        """The same where something else starts it again."""
        return self.service(
            process={"components": [{"name": "server", "role": "replica", "port": self.port, "supervised": True}]}
        )

    def asked(self, path: str, body: Any = None, limit_s: float = 5.0) -> tuple[int, Any]:
        return asked(self.url + path, body, limit_s)

    def infer(self) -> tuple[int, Any]:
        return self.asked("/v2/models/small/infer", {"inputs": [question(1)]}, 20)

    def answers(self, path: str = "/v2/models/small/ready") -> bool:
        return self.asked(path, limit_s=2)[0] == 200

    def stubs(self) -> list[int]:
        return [pid for pid, command in living(self.folder).items() if STUB in command]

    def log(self) -> str:
        return (self.folder / LOG).read_text(encoding="utf-8")


@contextmanager
def made(folder: Path) -> Iterator[Triton]:
    """Whatever still runs at the end is killed, and fails the test."""
    demanded(INSTALLED / "backends" / "python" / STUB, "make .venv/triton")
    triton = Triton(folder, free_port(), free_port())
    triton.version.mkdir(parents=True)
    shutil.copy(SOURCE / "config.pbtxt", triton.version.parent)
    shutil.copy(SOURCE / "model.py", triton.version)
    write_safetensors(triton.weights)
    yield triton
    left = end_left(folder)
    for region in SHARED.glob(f"{triton.region}*"):  # of those that were killed
        region.unlink()
    assert not left


@contextmanager
def running(triton: Triton, *options: str, path: str = "/v2/models/small/ready") -> Iterator["subprocess.Popen[bytes]"]:
    """Started by the test itself, without a drill, until that path is answered 200; killed at the end, since at SIGTERM it takes its seconds."""
    with (triton.folder / LOG).open("w") as log:
        process = subprocess.Popen([*triton.start, *options], cwd=triton.folder, stdout=log, stderr=log)
    try:
        until(f"200 from {path}", lambda: triton.answers(path))
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        end_left(triton.folder)
        until("tritonserver to be gone", lambda: not living(triton.folder))
