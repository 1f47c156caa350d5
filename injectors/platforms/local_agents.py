"""Agents on this machine: started with their standard input held open, ended from any process by the record they keep."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import IO
from urllib.parse import quote

from ..values import JSON
from . import model_sight
from .agent_programs import PREPARING, keeps, program
from .base import PlatformError, Target, Unsupported, came
from .process_table import Process, Usage, command_line, lineage, snapshot, usage

LISTEN_S = 0.2  # between two looks at whether the drill was stopped
BEGIN_SLACK_S = 30.0  # an agent ends by itself at its deadline; so much later it has surely said something
END_SLACK_S = 5.0
KILL_START_S = 5.0  # an agent that has not begun to kill by then must not begin at all: by then others count on what stands
LOOK_S = 60.0  # a driver that was not loaded before takes some seconds
LOOK_EVERY_S = 0.01
KILL_LIMIT_S = 30.0  # more than it gives itself


class LocalAgents:
    """Starts agents in `folder` and keeps their records under `state`/agents; `environment` is theirs."""

    def __init__(self, folder: Path, state: Path, environment: Mapping[str, str], given_up: Event) -> None:
        self.folder, self.given_up = folder, given_up
        self.records = state.absolute() / "agents"
        self.environment = dict(environment)
        self._held: dict[Path, subprocess.Popen[bytes]] = {}

    def begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON:
        """The agent's `effective` record. Raises Unsupported when it refuses, PlatformError when it fails."""
        self.records.mkdir(parents=True, exist_ok=True, mode=0o700)
        record = self._record(fault, target)
        request = {"fault": fault, "state": str(record), "deadline_s": deadline_s, "lease_s": None, **parameters}
        with record.with_suffix(".stderr").open("wb") as errors:
            agent = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program(verb)), verb, json.dumps(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )
        answer = _answer(agent, deadline_s + BEGIN_SLACK_S, self.given_up)
        if answer.get("event") == "effective":
            self._held[record] = agent
            return answer
        answer = _let_go(agent, END_SLACK_S) or answer
        why = answer.get("why") or answer.get("reason") or self._errors(record) or f"it exited with {agent.returncode}"
        record.with_suffix(".stderr").unlink()
        if answer.get("event") == "refused":
            raise Unsupported(str(why))
        raise PlatformError(f"the agent could not {verb} on {target.name}: {why}")

    def end(self, fault: str, target: Target, beside: Sequence[str] = ()) -> JSON:
        """The agent's `undone` record, or its `foreign` one. Raises PlatformError when something is left.

        `beside`: where a copy of the record may lie, for the case that the state folder was lost.
        """
        record = self._record(fault, target)
        answer: JSON = {}
        if agent := self._held.pop(record, None):
            answer = _let_go(agent, _undo_s(record) + END_SLACK_S)
        for path in (record, *map(Path, beside)):
            if path.exists() and answer.get("event") != "foreign":
                answer = self._undo(path)
        if answer.get("event") == "foreign":
            return answer
        if record.exists() or (answer and answer.get("event") != "undone"):
            raise PlatformError(f"{fault} on {target.name} is not undone: {answer.get('why', 'its record is still there')}")
        record.with_suffix(".stderr").unlink(missing_ok=True)
        return answer or {"event": "undone", "reason": "nothing was left"}

    def holds(self, fault: str, target: Target) -> bool:
        """Whether an agent of that fault may have left something, whoever started it."""
        record = self._record(fault, target)
        return record in self._held or record.exists()

    def usage(self, fault: str, target: Target) -> Usage | None:
        """What the agent and its children have used, by the kernel's account; None when none of them lives.

        Found by their command lines and not by the record, which may be lost while they go on.
        """
        used = [each for process in self._processes(fault, target) if (each := usage(process.identity))]
        return sum(used[1:], used[0]) if used else None

    def unasked(self, fault: str, target: Target, paths: Sequence[str]) -> list[str]:
        """Those of these files that anybody may read before the kernel has asked one of them."""
        return model_sight.unasked(list(paths), [process.pid for process in self._processes(fault, target)])

    def _processes(self, fault: str, target: Target) -> list[Process]:
        mine = keeps(str(self._record(fault, target)))
        return [process for process in snapshot().values() if mine in command_line(process.pid)]

    def look(self, verb: str, request: JSON, limit_s: float | None = None) -> JSON:
        """What the program of that verb sees here, changing nothing. Raises PlatformError."""
        command = [sys.executable, "-I", "-S", str(program(verb)), "look", json.dumps(request)]
        longest_s = LOOK_S if limit_s is None else limit_s
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
            with subprocess.Popen(  # its input stays open, since a look ends with whoever asked for it
                command, stdin=subprocess.PIPE, stdout=said, stderr=errors, cwd=self.folder, env=self.environment
            ) as looking:
                try:
                    if not came(lambda: looking.poll() is not None, longest_s, self.given_up, LOOK_EVERY_S):
                        raise PlatformError(f"a look at what {verb} needs did not end within {longest_s:g} s")
                finally:
                    looking.kill()
            said.seek(0)
            errors.seek(0)
            if looking.returncode:
                why = errors.read().decode("utf-8", "replace").strip()[-500:] or f"exit {looking.returncode}"
                raise PlatformError(f"what {verb} needs cannot be looked at: {why}")
            return _last_line(said.read().decode("utf-8", "replace"))

    def seen(self, fault: str, target: Target) -> JSON | None:
        """What the agent has measured, with `age_s`; None where it keeps nothing."""
        record = self._record(fault, target)
        try:
            found: JSON = json.loads(record.with_name(f"{record.name}.seen").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return {**found, "age_s": time.monotonic() - found["t"]}

    def close(self) -> None:
        """End all that this object still holds; a fault that cannot be undone now keeps its record for `recover`."""
        for record, agent in self._held.items():
            _let_go(agent, _undo_s(record) + END_SLACK_S)
        self._held.clear()

    def kill_tree(self, target: Target, request: JSON) -> None:
        """Freeze and kill, in a session that outlives this process. Raises PlatformError unless all of it is gone."""
        agent = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program("kill-tree")), "kill-tree", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=self.environment,
            start_new_session=True,
        )
        ready = _answer(agent, BEGIN_SLACK_S, self.given_up).get("event") == "ready"
        if not ready:
            agent.kill()  # it has no request yet, so it has touched nothing
        table = snapshot()
        protected = [table[pid].identity for pid in lineage(table) if pid in table]
        line = json.dumps({**request, "protected": protected, "start_by": time.monotonic() + KILL_START_S}) + "\n"
        try:
            said, errors = agent.communicate(line.encode() if ready else None, timeout=KILL_LIMIT_S)
        except subprocess.TimeoutExpired as error:  # it is left alone, because it may be about to kill what it has frozen
            raise PlatformError(f"{target.name}: the kill did not end within {KILL_LIMIT_S:g} s") from error
        answer = _last_line(said.decode("utf-8", "replace"))
        if answer.get("event") != "effective":
            why = answer.get("why") or errors.decode("utf-8", "replace").strip()[-500:] or f"it exited with {agent.returncode}"
            raise PlatformError(f"the agent could not kill {target.name}: {why}")

    def _record(self, fault: str, target: Target) -> Path:
        return self.records / f"{quote(fault, safe='')}--{quote(target.name, safe='')}.json"

    def _undo(self, record: Path) -> JSON:
        """Through `undo` of the program that wrote the record: the agent may be another process's, or dead."""
        limit_s = 2 * _undo_s(record) + BEGIN_SLACK_S
        try:
            verb = json.loads(record.read_text(encoding="utf-8"))["verb"]
            command = [sys.executable, "-I", "-S", str(program(verb)), "undo", f"@{record}"]
            ended = subprocess.run(
                command, capture_output=True, text=True, cwd="/", env=self.environment, timeout=limit_s, check=False
            )
        except FileNotFoundError:
            return {"event": "undone", "reason": "nothing was left"}  # undone by the agent itself in this moment
        except subprocess.TimeoutExpired:
            return {"event": "failed", "why": f"the undo did not end within {limit_s:g} s"}
        return _last_line(ended.stdout) or {"event": "failed", "why": ended.stderr.strip()[-500:] or f"exit {ended.returncode}"}

    def _errors(self, record: Path) -> str:
        with suppress(OSError):
            return record.with_suffix(".stderr").read_text(encoding="utf-8", errors="replace").strip()[-500:]
        return ""


def _undo_s(record: Path) -> float:
    """How long the agent says that its undo may take."""
    with suppress(OSError, ValueError):
        return float(json.loads(record.read_text(encoding="utf-8")).get("undo_s", 10.0))
    return 10.0


def _last_line(text: str) -> JSON:
    lines = text.strip().splitlines()
    answer: JSON = json.loads(lines[-1]) if lines else {}
    return answer


def _answer(agent: subprocess.Popen[bytes], limit_s: float, given_up: Event) -> JSON:
    """What it says once it holds its fault, or does not; empty when it ends without a word, is silent for that long, or nobody waits."""
    said, limit, output = b"", time.monotonic() + limit_s, _output(agent)
    while not given_up.is_set() and time.monotonic() < limit:
        if not select.select([output], [], [], LISTEN_S)[0]:
            continue
        some = os.read(output.fileno(), 65536)
        if not some:
            break
        *whole, said = (said + some).split(b"\n")
        if whole:
            answer = _last_line(whole[-1].decode("utf-8", "replace"))
            if answer.get("event") != PREPARING:
                return answer
            limit = time.monotonic() + limit_s
    return {}


def _let_go(agent: subprocess.Popen[bytes], limit_s: float) -> JSON:
    """Close its standard input and let it undo; killed at the limit. Returns the last that it said."""
    agent.send_signal(signal.SIGCONT)  # one that somebody stopped must hear it, too
    try:
        said, _ = agent.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        agent.kill()
        said, _ = agent.communicate()
    return _last_line(said.decode("utf-8", "replace"))


def _output(agent: subprocess.Popen[bytes]) -> IO[bytes]:
    assert agent.stdout is not None
    return agent.stdout
