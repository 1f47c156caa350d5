"""Commands inside containers, by the API's `exec` subresource: short ones to their end, and agents whose channel stays open."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..values import JSON
from .base import PlatformError, Unavailable, Unfit
from .exec_agents import BOOT, EXEC_S, packed
from .exec_lines import Lines
from .kube_api import ApiError, Forbidden, KubeApi, place

STDIN, STDOUT, STDERR, STATUS = 0, 1, 2, 3
NOT_FOUND = ("executable file not found", "no such file or directory", "exec format error")


@dataclass(frozen=True)
class Container:
    """Where a command runs."""

    namespace: str
    pod: str
    container: str

    def __str__(self) -> str:
        return f"container {self.container} of pod {self.namespace}/{self.pod}"


@dataclass
class Session(Lines):
    """One open exec. Not for two threads at once."""

    socket: Any
    where: Container
    said: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    status: JSON | None = None
    open: bool = True

    def send(self, data: bytes) -> None:
        """To the command's standard input. Raises Unavailable when the connection is gone."""
        try:
            for start in range(0, len(data), 32768):
                self.socket.send_binary(bytes([STDIN]) + data[start : start + 32768])
        except Exception as error:
            self.open = False
            raise Unavailable(f"the connection into {self.where} is gone: {error}") from error

    def finish(self, limit_s: float) -> tuple[int, bytes, str]:
        """Exit status, standard output and errors of a command that ends by itself. Raises PlatformError when it does not."""
        limit = time.monotonic() + limit_s
        while self.open and self.status is None:
            left = limit - time.monotonic()
            if left <= 0:
                self.close()
                raise PlatformError(f"a command in {self.where} did not end within {limit_s:g} s")
            self._take(left)
        self.close()
        if self.status is None:
            raise Unavailable(f"the connection into {self.where} was cut before its command ended")
        return _code(self.status, self.where), bytes(self.said), self.errors.decode("utf-8", "replace")

    def close(self) -> None:
        """Ends the command's standard input, too."""
        self.open = False
        self.socket.close(timeout=0)

    def _take(self, limit_s: float) -> None:
        from websocket import WebSocketException, WebSocketTimeoutException  # noqa: PLC0415 - comes with the client

        self.socket.settimeout(max(0.01, limit_s))
        try:
            data = self.socket.recv()
        except WebSocketTimeoutException:
            return
        except (WebSocketException, OSError):  # closed, cut, or in the middle of what cannot be understood any more
            self.open = False
            return
        if not data:
            self.open = self.socket.connected
            return
        data = data.encode() if isinstance(data, str) else data
        channel, content = data[0], data[1:]
        if channel == STDOUT:
            self.said += content
        elif channel == STDERR:
            self.errors += content
        elif channel == STATUS and content:
            self.status = json.loads(content)


def _code(status: JSON, where: Container) -> int:
    if status.get("status") == "Success":
        return 0
    causes = (status.get("details") or {}).get("causes") or []
    codes = [cause["message"] for cause in causes if cause.get("reason") == "ExitCode"]
    if codes:
        return int(codes[0])
    why = str(status.get("message") or status)
    if any(words in why for words in NOT_FOUND):
        raise Unfit(f"{where} has no python3, and its faults need one: {why}")
    raise PlatformError(f"{where}: {why}")


def opened(api: KubeApi, where: Container, command: Sequence[str]) -> Session:
    """Start a command. Raises Forbidden without the right to, PlatformError when the pod or its node cannot be reached."""
    words = [("container", where.container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
    path = place("pods", where.namespace, where.pod, more="exec")
    try:
        return Session(api.connect(path, [*words, *(("command", word) for word in command)]), where)
    except Forbidden:
        raise
    except ApiError as error:
        raise PlatformError(f"{where}: no command can be started: {error}") from error


def begin_python(api: KubeApi, where: Container, source: bytes, arguments: Sequence[str]) -> Session:
    """A one-file Python program, started in the container without writing it there."""
    session = opened(api, where, ["python3", "-I", "-c", BOOT, *arguments])
    session.send(packed(source))
    return session


def run_python(
    api: KubeApi, where: Container, source: bytes, arguments: Sequence[str], limit_s: float = EXEC_S
) -> tuple[int, bytes, str]:
    """The same to its end: exit status, output, errors."""
    return begin_python(api, where, source, arguments).finish(limit_s)
