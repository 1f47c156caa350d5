"""Starting components by their own `start` command, and ending exactly those."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..values import JSON
from .base import PlatformError
from .process_find import service_key
from .process_spec import Component, ProcessSpec
from .process_table import alive, snapshot

DETACH = Path(__file__).resolve().with_name("detach.py")
EXEC_LIMIT_S = 30.0  # from the request to a running command, on a busy machine
LOG_KEPT = 500


class Starter:
    """Keeps a record of every start under `state`/started, so that another process finds it; output goes to `state`/output."""

    def __init__(self, spec: ProcessSpec, folder: Path, state: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.started = state / "started"
        self.output = state / "output"
        self.environment = dict(environment)
        self.service = service_key(spec, folder)

    def start(self, component: Component, *, ours: bool) -> str:
        """Start it, unless what we started before still lives; returns the identity. `ours`: `ended_by_us` will name it."""
        if known := self.record_of(component.name):
            return known["identity"]
        for folder in (self.started, self.output):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = self._log(component.name)
        ended = subprocess.run(
            [sys.executable, "-I", "-S", str(DETACH), str(log.absolute()), *component.start],
            capture_output=True,
            text=True,
            cwd=self.folder / (component.directory or "."),
            env={**self.environment, **component.environment},
            timeout=EXEC_LIMIT_S,
            check=False,
        )
        answer: JSON = json.loads(ended.stdout) if ended.stdout else {"why": ended.stderr.strip()[-LOG_KEPT:]}
        process = snapshot().get(answer.get("pid", 0))
        if process is None:
            raise PlatformError(f"{component.name} could not be started: {answer.get('why') or self.last_words(component.name)}")
        record = {"component": component.name, "identity": process.identity, "ours": ours or self._was_ours(component.name)}
        self._path(component.name).write_text(json.dumps(record), encoding="utf-8")
        return process.identity

    def record_of(self, name: str) -> dict[str, str] | None:
        """What we started under that name, if it still lives."""
        try:
            record: dict[str, str] = json.loads(self._path(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record if alive(record["identity"]) else None

    def died(self, name: str) -> bool:
        """Whether what we started under that name has ended."""
        return self._path(name).exists() and self.record_of(name) is None

    def owned(self) -> tuple[tuple[str, str], ...]:
        """Name and identity of what was started because it was missing (not of what was revived after a fault)."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.started.glob(f"{self.service}-*.json"))]
        return tuple((record["component"], record["identity"]) for record in records if record["ours"])

    def forget(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def last_words(self, name: str) -> str:
        """The end of its output, for an error message."""
        log = self._log(name)
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return text.strip()[-LOG_KEPT:] or f"it wrote nothing to {log}"

    def _was_ours(self, name: str) -> bool:
        """A replacement belongs to whom the first one belonged."""
        return any(owned == name for owned, _ in self.owned())

    def _path(self, name: str) -> Path:
        return self.started / f"{self.service}-{name}.json"

    def _log(self, name: str) -> Path:
        return self.output / f"{self.service}-{name}.log"
