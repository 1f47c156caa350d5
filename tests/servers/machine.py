"""What tests on other people's servers ask of this machine: the server's program, free ports, what is still running."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from blackstart.tests.command import until

HEAD = "apiVersion: blackstart/v1\nkind: Scenario\n"
SHORT = "steady_state: {hold: 4s}\nsettle: 4s\nobserve: 20s\n"
# Starts the server again whatever its exit code was, as `restartPolicy: Always` does, and writes each one down.
SUPERVISOR = """\
import json, subprocess, sys, time
command, codes = json.loads(sys.argv[1]), sys.argv[2]
while True:
    code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    with open(codes, "a") as file:
        print(code, file=file)
    time.sleep(0.5)
"""


def demanded(found: str | Path | None, how_to_install: str) -> str:
    """The server's program. Where all must be tested (CI is set) a missing one fails, elsewhere it skips."""
    if found and Path(found).exists():
        return str(found)
    if os.environ.get("CI"):
        pytest.fail(f"the server is not installed: {how_to_install}")
    pytest.skip(f"the server is not installed: {how_to_install}")


def living(folder: Path) -> dict[int, str]:
    """Processes that work in that folder or below, with their command lines; dead ones that nobody has waited for do not count."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place = (process / "cwd").resolve()
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state not in "ZX" and place.is_relative_to(folder.resolve()):
            found[int(process.name)] = command
    return found


def end_left(folder: Path) -> dict[int, str]:
    """What still worked in that folder, and is killed now."""
    left = living(folder)
    for pid in left:
        with suppress(ProcessLookupError):  # gone by itself, with the one above it
            os.kill(pid, signal.SIGKILL)
    return left


@contextmanager
def supervised(start: Sequence[str], folder: Path) -> Iterator[Path]:
    """The server under a supervisor; the file gets the exit code of each that ended, one a line."""
    codes = folder / "codes"
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, json.dumps(start), str(codes)], cwd=folder)
    try:
        yield codes
    finally:
        supervisor.kill()
        supervisor.wait()
        end_left(folder)
        until("the server to be gone", lambda: not living(folder))


def scenario(folder: Path, name: str, fault: str, objectives: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"{HEAD}name: {name}\n{SHORT}faults:\n  - {fault}\nobjectives: {objectives}\n", encoding="utf-8")
    return path
