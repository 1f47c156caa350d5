"""Agents inside containers: the same one-file programs as on this machine, piped in through whatever door the platform has (`exec`).

An agent there holds its fault for as long as its lease is renewed, so that an API that is away for a while does not end the
fault, and a blackstart that is gone for good does. Its undo record lies in the container, in the first of look.py's places that can
be written to.
"""

import base64
import json
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final, Generic, Protocol, TypeVar
from urllib.parse import quote

from ..values import JSON
from .agent_programs import INJECTORS, PREPARING, keeps, program
from .base import GivenUp, PlatformError, Target, Unfit, Unsupported, came

W = TypeVar("W")  # a container, as its platform knows it
Entered_contra = TypeVar("Entered_contra", contravariant=True)  # the same, for who only takes it
EXEC_S: Final = 20.0
LEASE_S, RENEW_S = 45.0, 10.0
RENEW: Final = b"renew\n"
DIGEST_S = 900.0  # of a model of 100 GB, where the disk gives 110 MB a second
BEGIN_SLACK_S = 30.0
LISTEN_S = 0.2
ENDS_S = 3.0  # until what has ended is listed no more
UNDO_SLACK_S = 30.0
RECORD_LIMIT = 1 << 20
# Takes a program as its first line of standard input and leaves what follows to it: byte by byte, so that nothing is read ahead.
BOOT: Final = (
    "import sys,zlib,base64;f=open(0,'rb',0,closefd=False);"
    "exec(compile(zlib.decompress(base64.b64decode(f.readline())),'blackstart','exec'))"
)


class Session(Protocol):
    """A program that runs in a container, by its standard input and output."""

    open: bool

    @property
    def where(self) -> Any: ...
    @property
    def errors(self) -> bytearray: ...

    def send(self, data: bytes) -> None:
        """To its input. Raises Unavailable when the connection is gone."""

    def line(self, limit_s: float) -> str | None:
        """The next line of its output; None when it ended or said nothing more in time."""

    def close(self) -> None:
        """Ends its input, too."""


class Doors(Protocol[Entered_contra]):
    """How one-file Python programs get into containers, without being written there."""

    def begin(self, where: Entered_contra, source: bytes, arguments: Sequence[str]) -> Session:
        """Start one. Raises PlatformError when the container cannot be reached."""

    def run(
        self, where: Entered_contra, source: bytes, arguments: Sequence[str], limit_s: float = EXEC_S
    ) -> tuple[int, bytes, str]:
        """One to its end: exit status, output, errors. Raises Unsupported where there is no python3."""


@cache
def packed(source: bytes) -> bytes:
    """A program as the one line that BOOT takes."""
    return base64.b64encode(zlib.compress(source, 9)) + b"\n"


def source(name: str) -> bytes:
    return (INJECTORS / name).read_bytes()


def look(doors: Doors[W], where: W, verb: str, request: JSON) -> JSON:
    """What look.py says of the container's inside. Raises Unsupported where there is no python3."""
    return told(doors, where, "look.py", (verb, request), DIGEST_S if verb == "digest" else EXEC_S)


def told(doors: Doors[W], where: W, name: str, question: tuple[str, JSON], limit_s: float) -> JSON:
    """What a one-file program of ours says in a container. Raises Unsupported where there is no python3."""
    code, said, errors = doors.run(where, source(name), [question[0], json.dumps(question[1])], limit_s)
    if code or not said:
        missing = code in {126, 127} or "not found" in errors
        problem = f"{where}: {errors.strip()[-300:] or f'exit {code}'}"
        raise Unfit(f"no python3 in {where}: {errors.strip()[-200:]}") if missing else PlatformError(problem)
    answer: JSON = json.loads(said)
    if "error" in answer:
        raise PlatformError(f"{where}: {answer['error']}")
    return answer


@dataclass
class ContainerAgents(ABC, Generic[W]):
    """Starts and ends agents; keeps those of this process alive."""

    doors: Doors[W]
    given_up: threading.Event
    container_of: Callable[[Target], W | None]  # the main one; None: it is gone
    containers_of: Callable[[W], Sequence[W]]  # that one and all beside it in which an agent of ours may be
    _held: dict[tuple[str, str], Session] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    @abstractmethod
    def chosen(self, where: W, target: Target, parameters: JSON) -> W:
        """The container that an agent with these parameters goes into, where that is not the main one."""

    def begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON:
        """The agent's `effective` record. Raises Unsupported when it refuses or cannot run, PlatformError when it fails."""
        where = self._container(target, parameters)
        places = look(self.doors, where, "around", {})["places"]
        if not places:
            raise Unsupported(f"{where} has no folder that can be written to ({PLACES}), and an undo record needs one")
        request = {
            "fault": fault,
            "state": f"{places[0]}/{prefix(fault, target)}.json",
            "deadline_s": deadline_s,
            "lease_s": LEASE_S,
        }
        request |= {"detached": True, **_inside(parameters)}
        session = self.doors.begin(where, program(verb).read_bytes(), [verb, json.dumps(request)])
        answer = self._answer(session, deadline_s + BEGIN_SLACK_S)
        if answer.get("event") == "effective":
            with self._lock:
                self._held[fault, target.name] = session
            self._keep()
            return answer
        session.close()
        why = str(
            answer.get("why")
            or answer.get("reason")
            or session.errors.decode("utf-8", "replace").strip()[-500:]
            or "it said nothing"
        )
        if answer.get("event") == "refused":
            raise Unsupported(why)
        raise PlatformError(f"the agent could not {verb} in {where}: {why}")

    def end(self, fault: str, target: Target, now: Target | None, beside: Sequence[str]) -> JSON:
        """The agent's `undone` record, or its `foreign` one. Raises PlatformError when something is left.

        `now` is the target, or what stands in its place.
        """
        session = self._let_go(fault, target)
        where = self.container_of(now) if now else None
        if where is None:
            if beside:
                raise PlatformError(
                    f"{target.name} is gone, and nothing stands in its place from which {beside[0]} could be read"
                )
            return {"event": "undone", "reason": f"{target.name} is gone, and what was done inside it went along"}
        return self._undone(fault, target, session, self._left(where, fault, target, beside))

    def end_in(self, where: W, fault: str, target: Target) -> JSON:
        """The same in a container of our own."""
        found = [(where, path, record) for path, record in self.records(where, fault, target).items()]
        return self._undone(fault, target, self._let_go(fault, target), found)

    def _let_go(self, fault: str, target: Target) -> Session | None:
        with self._lock:
            return self._held.pop((fault, target.name), None)

    def _undone(self, fault: str, target: Target, session: Session | None, left: Sequence[tuple[W, str, JSON]]) -> JSON:
        answer: JSON = {"event": "undone", "reason": "nothing was left"}
        for at, path, record in left:
            undoing = program(record["verb"]).read_bytes()
            limit_s = 2 * float(record.get("undo_s", 10.0)) + UNDO_SLACK_S
            _, said, errors = self.doors.run(at, undoing, ["undo", f"@{path}"], limit_s)
            answer = json.loads(said.splitlines()[-1]) if said.strip() else {"event": "failed", "why": errors.strip()[-500:]}
            if answer["event"] not in {"undone", "foreign"}:
                raise PlatformError(f"{fault} on {target.name} is not undone: {answer.get('why')}")
        if session:
            session.close()
        return answer

    def _left(self, main: W, fault: str, target: Target, beside: Sequence[str]) -> list[tuple[W, str, JSON]]:
        """Undo records of that fault in all of these containers; where there is none, copies that lie beside what was changed."""
        found = []
        for where in self.containers_of(main):
            try:
                found += [(where, path, record) for path, record in self.records(where, fault, target).items()]
            except Unsupported:  # no python3 there, so no agent ever was
                continue
            except PlatformError:
                if not came(partial(self._is_gone, where, main), ENDS_S, threading.Event(), LISTEN_S):
                    raise
        for path in beside if not found else ():
            with suppress(PlatformError):  # it is not there
                copy = look(self.doors, main, "read", {"path": path, "limit": RECORD_LIMIT})["content"]
                found.append((main, path, json.loads(base64.b64decode(copy))))
        return found

    def _is_gone(self, where: W, main: W) -> bool:
        """Whether it was another fault's own, and has ended just now: who runs it may know of that a little later."""
        return where not in self.containers_of(main)

    def records(self, where: W, fault: str, target: Target) -> JSON:
        """Undo records in the container: path -> record."""
        found: JSON = look(self.doors, where, "records", {"prefix": prefix(fault, target)})["records"]
        return found

    def close(self) -> None:
        """End the sessions; agents whose lease nobody renews end by themselves."""
        self._over.set()
        if self._keeper:
            self._keeper.join()
        for session in self._held.values():
            session.close()
        self._held.clear()

    def _container(self, target: Target, parameters: JSON) -> W:
        where = self.container_of(target)
        if where is None:
            raise PlatformError(f"{target.name} ({target.identity}) is gone")
        return self.chosen(where, target, parameters)

    def _answer(self, session: Session, limit_s: float) -> JSON:
        """What it says once it holds its fault, or does not; empty when it is silent for that long. Its lease is renewed meanwhile."""
        heard_s = renewed_s = time.monotonic()
        while session.open and time.monotonic() < heard_s + limit_s:
            if line := session.line(LISTEN_S):
                answer: JSON = json.loads(line)
                if answer["event"] != PREPARING:
                    return answer
                heard_s = time.monotonic()
            if time.monotonic() >= renewed_s + RENEW_S:
                renewed_s = time.monotonic()
                with suppress(PlatformError):
                    session.send(RENEW)
            if self.given_up.is_set():
                session.close()
                raise GivenUp("the drill was stopped meanwhile")
        return {}

    def _keep(self) -> None:
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._renew, name="agent leases", daemon=True)
            self._keeper.start()

    def _renew(self) -> None:
        """Renews every lease; where the connection was cut, through a new one that tells the agent by a signal."""
        while not self._over.wait(RENEW_S):
            with self._lock:
                held = list(self._held.items())
            for (fault, name), session in held:
                with suppress(PlatformError):
                    if session.open:
                        session.send(RENEW)
                    else:
                        target = Target("", name, "")
                        for path in self.records(session.where, fault, target):
                            self.doors.run(session.where, source("agent.py"), ["renew", f"@{path}"])


PLACES: Final = "/tmp, /dev/shm, /var/tmp"  # noqa: S108 - look.py's, in words


def is_agent(command: str, fault: str, target: Target) -> bool:
    """Whether a process with that command line is an agent of that fault at that target, or a child of one."""
    return any(keeps(f"{place}/{prefix(fault, target)}.json") in command for place in PLACES.split(", "))


def prefix(fault: str, target: Target) -> str:
    """How the names of all files begin that an agent of that fault keeps there."""
    return f"blackstart-{quote(fault, safe='')}--{quote(target.name, safe='')}"


def _inside(parameters: JSON) -> JSON:
    """Identities as the container knows them."""
    if "processes" not in parameters:
        return parameters
    return {**parameters, "processes": [process_of(identity) for identity in parameters["processes"]]}


def process_of(identity: str) -> str:
    """`pid:12@345` of a process target's identity."""
    return "pid:" + identity.rpartition("/pid:")[2]
