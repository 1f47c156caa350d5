"""Starts the bundled model service on this machine and writes the service profile that drills it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .profile import model_details

HERE = Path(__file__).parent
PROXY = HERE.parent.parent / "injectors" / "proxy.py"
STOP_S = 15.0


class DemoFailed(Exception):
    """The bundled service did not start; the message holds what it said."""


@dataclass(frozen=True)
class Demo:
    """A running demo service."""

    folder: Path
    service_file: Path
    ports: Mapping[str, Any]

    @staticmethod
    @contextmanager
    def started(*, hardened: bool = False, arguments: tuple[str, ...] = (), folder: Path | None = None) -> Iterator["Demo"]:
        """Start it in a folder (a temporary one by default), stop it and all its processes at the end.

        It also ends by itself when this process dies: its standard input is tied to ours.
        """
        with tempfile.TemporaryDirectory(prefix="blackstart-demo-") as temporary:
            place = folder or Path(temporary)
            command = [sys.executable, "-I", str(HERE / "service.py"), "serve", "--folder", str(place), "--tied"]
            command += ["--links", "--proxy", str(PROXY), *(["--hardened"] if hardened else []), *arguments]
            log = place / "supervisor.log"
            with log.open("wb") as errors:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
                )
            try:
                ready = _ready(process, log)
                service_file = place / "service.yaml"
                service_file.write_text(_profile(place, ready, hardened=hardened), encoding="utf-8")
                yield Demo(place, service_file, ready["ports"])
            finally:
                _stop(process)


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> Mapping[str, Any]:
    """Wait for its one line; a service that cannot start ends and closes the pipe."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise DemoFailed(f"the demo service did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    ready: Mapping[str, Any] = json.loads(line)
    return ready


def _stop(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _component(name: str, role: str, port: int) -> dict[str, Any]:
    """Its entry in service.yaml: with a `url` where one half of an answer has to say that it answers by itself."""
    url = {} if role not in {"prefill", "decode"} else {"url": f"http://127.0.0.1:{port}"}
    return {"name": name, "role": role, "port": port, "supervised": True, **url}


def _profile(folder: Path, ready: Mapping[str, Any], *, hardened: bool) -> str:
    """service.yaml of what was started."""
    ports, links = ready["ports"], ready["ports"]["links"]
    components = [_component(name, ready["roles"][name], port) for name, port in ports.items() if name != "links"]
    ends = {"client-gw": ("client", "gateway")}
    link_entries = []
    for name, port in links.items():
        start, end = ends.get(name, tuple(name.split("-", 1)))
        aliases = {"gw": "gateway"}
        link_entries.append({"name": name, "from": aliases.get(start, start), "to": aliases.get(end, end), "listen": port})
    halves = "-disaggregated" if "p0" in ports else ""
    profile = {
        "apiVersion": "blackstart/v1",
        "kind": "Service",
        "name": f"demo{halves}{'-hardened' if hardened else ''}",
        "demo": True,
        "engine": "demo",
        "platform": "process",
        "process": {"components": components, "inside": {"engine": r"service\.py engine "}, "links": link_entries},
        "endpoint": {"url": f"http://127.0.0.1:{links['client-gw']}", "protocol": "openai", "model": "demo"},
        "probe": {"rate": "30/s"},
        "health": ["/health", "/ready"],
        "model": {"path": str(folder / "models" / "{name}" / "model.safetensors"), **model_details(hardened=hardened)},
        "golden": [{"prompt": "The capital of France is", "max_tokens": 8}],
        "ledger": {"write": "POST /v1/feedback", "read": "GET /v1/feedback/{id}"},
    }
    return json.dumps(profile, indent=1) + "\n"  # JSON is YAML
