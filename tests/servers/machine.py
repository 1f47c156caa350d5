"""What tests on other people's servers ask of this machine: the server's program, free ports, what is still running."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

HEAD = "apiVersion: blackstart/v1\nkind: Scenario\n"
SHORT = "steady_state: {hold: 4s}\nsettle: 4s\nobserve: 20s\n"


def demanded(found: str | Path | None, how_to_install: str) -> str:
    """The server's program. Where all must be tested (CI is set) a missing one fails, elsewhere it skips."""
    if found and Path(found).exists():
        return str(found)
    if os.environ.get("CI"):
        pytest.fail(f"the server is not installed: {how_to_install}")
    pytest.skip(f"the server is not installed: {how_to_install}")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


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


def scenario(folder: Path, name: str, fault: str, objectives: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"{HEAD}name: {name}\n{SHORT}faults:\n  - {fault}\nobjectives: {objectives}\n", encoding="utf-8")
    return path
