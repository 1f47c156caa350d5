"""What blackstart remembers on this machine between commands: which runs may have left something, and which services are being drilled.

The state folder is `$BLACKSTART_STATE_DIR`, else `$XDG_STATE_HOME/blackstart`, else `~/.local/state/blackstart`.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from .refusal import Refused
from .service import Service

NAMED = "BLACKSTART_RUN"  # in a pod of ours: the run that it was started for


class BeingDrilled(Exception):
    """Another drill holds this service; nothing was touched."""


def name_of_run(scenario: str, environment: Mapping[str, str]) -> str:
    """What a run of that scenario is called that begins now; it sorts by time."""
    return environment.get(NAMED) or f"{datetime.now().astimezone():%Y%m%dT%H%M%S}-{scenario}-{secrets.token_hex(2)}"


def state_folder(environment: Mapping[str, str]) -> Path:
    """Where the state lies; made when it is missing, for this user alone."""
    if named := environment.get("BLACKSTART_STATE_DIR"):
        folder = Path(named)
    elif base := environment.get("XDG_STATE_HOME"):
        folder = Path(base) / "blackstart"
    else:
        folder = Path.home() / ".local" / "state" / "blackstart"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Refused(
            [f"the state folder {folder} cannot be made: {error.strerror}; name another in BLACKSTART_STATE_DIR"]
        ) from error
    return folder


def lock_names(service: Service) -> list[str]:
    """What makes two service files the same service: its address, and each of its components.

    In a cluster its workload, whatever it is reached by and whatever the context is called; there, a Lease tells exactly.
    """
    if where := service.kubernetes:
        return [f"namespace {where.namespace}, {where.workload}"]
    names = {f"endpoint {service.endpoint.url}"} if service.endpoint.url else {f"service {service.name}"}
    if service.process:
        for component in service.process.components:
            if component.port:
                names.add(f"port {component.port}")
            elif component.pid_file:
                names.add(f"pid file {(service.folder / component.pid_file).resolve()}")
    for part in service.docker.parts() if service.docker else ():
        names |= {f"container {name}" for name in part.containers}
        names |= {f"label {part.label}"} if part.label else set()
        names |= {f"compose {part.compose.project}/{part.compose.service}"} if part.compose else set()
    return sorted(names)


@contextmanager
def drilling(state: Path, service: Service, run: str) -> Iterator[None]:
    """Hold the service for this drill. The kernel lets go of the locks when the process dies, whatever kills it.

    Raises BeingDrilled, naming the run that holds it.
    """
    folder = state / "locks"
    folder.mkdir(exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        for name in lock_names(service):
            path = folder / (hashlib.sha256(name.encode()).hexdigest()[:24] + ".lock")
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another run"
                raise BeingDrilled(
                    f"not injecting: {service.name} ({name}) is being drilled by {holder}; wait for it, or stop it with Ctrl-C"
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{run} (pid {os.getpid()})\n".encode(), 0)
        yield


def mark_open(state: Path, run: str, folder: Path, service: Service) -> None:
    """Remember, before the first injection, that this run may leave something."""
    (state / "open").mkdir(exist_ok=True, mode=0o700)
    path = state / "open" / f"{run}.json"
    written = path.with_suffix(".part")
    text = json.dumps({"run": run, "folder": str(folder.resolve()), "service": service.name, "locks": lock_names(service)})
    with written.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def mark_clean(state: Path, run: str) -> None:
    """Everything that the run injected was put back, and that was verified."""
    (state / "open" / f"{run}.json").unlink(missing_ok=True)


def open_runs(state: Path) -> dict[str, Path]:
    """Runs that may have left something, oldest first: name -> folder, or -> the record itself where that is damaged."""
    return {record["run"]: Path(record["folder"]) for record in _open_records(state)}


def left_on(state: Path, service: Service) -> list[str]:
    """Open runs that touched this service: a new drill on it must wait until they are recovered. A damaged record may be of any."""
    names = set(lock_names(service))
    return [record["run"] for record in _open_records(state) if record["locks"] is None or names & set(record["locks"])]


def _open_records(state: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted((state / "open").glob("*.json")):
        record: dict[str, Any] = {"run": path.stem, "folder": str(path), "locks": None}
        with suppress(ValueError, KeyError, TypeError):
            read = json.loads(path.read_text(encoding="utf-8"))
            record = {key: read[key] for key in ("run", "folder", "locks")}
        found.append(record)
    return found
