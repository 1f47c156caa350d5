"""A file agent as a process of its own, and what its files look like from outside."""

import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blackstart.injectors import file_agent
from blackstart.injectors.model_formats.layout import LocalFiles
from blackstart.injectors.model_formats.mutations import Request, jobs
from blackstart.injectors.platforms.agent_programs import PREPARING

PATIENCE_S = 30.0
# Behind what a test makes of the system's calls: the agent, with these.
RUN = """
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Agent:
    """One agent process and the lines that it prints; `prepared`: how often it said that it was still preparing."""

    def __init__(self, folder: Path, path: Path, mutation: str, *, deadline_s: float = 60.0, **more: Any) -> None:
        self.state = folder / f"{more.get('fault', 'f1')}.json"
        request = {"fault": "f1", "state": str(self.state), "deadline_s": deadline_s, "lease_s": None}
        before, wait, expected = more.pop("preexec_fn", None), more.pop("wait", True), more.pop("expected", None)
        program = more.pop("program", [sys.executable])
        if "jobs" not in more:
            planned = jobs(Request(mutation, str(path), more.get("seed", 0), more.pop("source", None)), LocalFiles())
            request["jobs"] = [{"path": job.path, "do": job.do, "expected": expected} for job in planned]
        self.process = subprocess.Popen(
            [*program, file_agent.__file__, "mutate-file", json.dumps({**request, "mutation": mutation, **more})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=before,  # noqa: PLW1509 - limits are set in the agent alone, and this process has one thread
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout, self.prepared = self.process.stdin, self.process.stdout, 0
        self.first = self.line() if wait else {}

    def line(self) -> dict[str, Any]:
        while text := self.stdout.readline():
            said: dict[str, Any] = json.loads(text)
            if said["event"] != PREPARING:
                return said
            self.prepared += 1
        return {}

    def ended(self) -> tuple[int, dict[str, Any]]:
        last = self.line()
        status = self.process.wait(PATIENCE_S)
        self.stdin.close()
        self.stdout.close()
        return status, last

    def let_go(self) -> tuple[int, dict[str, Any]]:
        self.stdin.close()
        return self.ended()

    def kill(self) -> None:
        self.process.kill()
        self.ended()


def undo_killed(record: Path, program: list[str]) -> bool:
    """An undo under another program; whether it came to its end."""
    ended = subprocess.run(
        [*program, file_agent.__file__, "undo", f"@{record}"], capture_output=True, check=False, timeout=PATIENCE_S
    )
    return ended.returncode == 0


def undo(record: Path, limit_s: float = PATIENCE_S, program: Sequence[str] = (sys.executable,)) -> tuple[int, dict[str, Any]]:
    command = [*program, file_agent.__file__, "undo", f"@{record}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    assert ended.stderr == ""
    return ended.returncode, json.loads(ended.stdout)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def snapshot(path: Path) -> tuple[str, int, int, int, int]:
    found = path.stat()
    return digest(path), found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_ino
