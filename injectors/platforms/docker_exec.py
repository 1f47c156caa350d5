"""Commands inside containers, by the engine's `exec`: short ones to their end, and agents whose channel stays open."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..values import JSON
from .base import PlatformError, Unavailable, Unfit
from .docker_api import ANSWER_S, Conflict, DockerApi, NotThere, Wire, at, pieces
from .exec_agents import BOOT, EXEC_S, packed
from .exec_lines import Lines

STDOUT, STDERR = 1, 2
CODE_S, CODE_EVERY_S = 5.0, 0.01  # the engine knows the exit status a moment after the stream has ended
CANNOT_RUN = {126, 127}
NOT_FOUND = ("executable file not found", "no such file or directory", "exec format error", "permission denied")


@dataclass(frozen=True)
class Room:
    """A container that something is run in."""

    id: str
    name: str

    def __str__(self) -> str:
        return f"container {self.name} ({self.id[:12]})"


@dataclass
class Session(Lines):
    """One open exec. Not for two threads at once."""

    api: DockerApi
    wire: Wire
    id: str
    where: Room
    said: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    held: bytearray = field(default_factory=bytearray)
    open: bool = True

    def send(self, data: bytes) -> None:
        """To the command's standard input. Raises Unavailable when the connection is gone."""
        try:
            self.wire.send(data, ANSWER_S)
        except OSError as error:
            self.open = False
            raise Unavailable(f"the connection into {self.where} is gone: {error}") from error

    def finish(self, limit_s: float) -> tuple[int, bytes, str]:
        """Exit status, standard output and errors of a command that ends by itself. Raises PlatformError when it does not."""
        limit = time.monotonic() + limit_s
        while self.open:
            left = limit - time.monotonic()
            if left <= 0:
                self.close()
                raise PlatformError(f"a command in {self.where} did not end within {limit_s:g} s")
            self._take(left)
        self.close()
        code, errors = self._code(), self.errors.decode("utf-8", "replace")
        if code in CANNOT_RUN:
            why = (errors or self.said.decode("utf-8", "replace")).strip()[-300:]
            if any(words in why for words in NOT_FOUND):
                raise Unfit(f"{self.where} has no python3, and its faults need one: {why}")
            raise PlatformError(f"{self.where}: no command can be started: {why}")  # as when it ends in this moment
        return code, bytes(self.said), errors

    def close(self) -> None:
        """Ends the command's standard input, too."""
        self.open = False
        self.wire.close()

    def _code(self) -> int:
        limit = time.monotonic() + CODE_S
        while True:
            found: JSON = self.api.get(at("exec", self.id, "json"))
            if not found["Running"] and found["ExitCode"] is not None:
                return int(found["ExitCode"])
            if time.monotonic() > limit:
                raise Unavailable(f"the connection into {self.where} was cut before its command ended")
            time.sleep(CODE_EVERY_S)

    def _take(self, limit_s: float) -> None:
        try:
            data = self.wire.recv(limit_s)
        except OSError:
            data = b""
        if data is None:
            return
        self.open = bool(data)
        self.held += data
        for kind, piece in pieces(self.held):
            if kind == STDERR:
                self.errors += piece
            elif kind == STDOUT:
                self.said += piece


@dataclass(frozen=True)
class RoomDoors:
    """The engine's `exec`."""

    api: DockerApi

    def opened(self, where: Room, command: Sequence[str]) -> Session:
        """Start a command. Raises PlatformError when it cannot be."""
        request = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Cmd": list(command)}
        try:
            number = str(self.api.post(at("containers", where.id, "exec"), request)["Id"])
            wire = self.api.connect(at("exec", number, "start"), {"Detach": False, "Tty": False})
        except (NotThere, Conflict) as error:
            raise PlatformError(f"{where}: no command can be started: {error}") from error
        return Session(self.api, wire, number, where)

    def begin(self, where: Room, source: bytes, arguments: Sequence[str]) -> Session:
        session = self.opened(where, ["python3", "-I", "-c", BOOT, *arguments])
        try:
            session.send(packed(source))
        except Unavailable:
            session.finish(EXEC_S)  # where there is no python3 the engine says so, and hangs up
            raise
        return session

    def run(self, where: Room, source: bytes, arguments: Sequence[str], limit_s: float = EXEC_S) -> tuple[int, bytes, str]:
        return self.begin(where, source, arguments).finish(limit_s)
