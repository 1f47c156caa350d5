"""The Docker Engine's API in raw JSON: the one module that imports the `docker` SDK (extra `blackstart[docker]`).

The SDK finds the engine and proves who asks (DOCKER_HOST, contexts, TLS); what it is asked and answers stays JSON, as the API's
reference has it.

Errors
------
PlatformError
    Unavailable     no engine, no socket, or one that this user may not open
    EngineError     the engine said no; `status` as in its answer
        NotThere    404
        Conflict    409: there is one already, or its state does not allow that
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ..values import JSON
from .base import PlatformError, Unavailable, Unsupported

CONNECT_S, ANSWER_S, PULL_S = 5.0, 20.0, 600.0
SYSTEM_SOCKET: Final = "/var/run/docker.sock"
PIECE = 65536
HEAD = 8  # bytes before each piece of a stream: which one, three zeros, its length


class EngineError(PlatformError):
    """The engine refused or could not do what was asked."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotThere(EngineError):
    """Nothing of that name exists."""


class Conflict(EngineError):
    """It exists already, or its state does not allow that."""


KINDS: Mapping[int, type[EngineError]] = {404: NotThere, 409: Conflict}


class Wire:
    """A connection that the engine has handed over to a command: bytes in, bytes out."""

    def __init__(self, answer: Any) -> None:
        self._answer, reader = answer, answer.raw._fp.fp  # noqa: SLF001 - as the SDK itself takes the connection over
        self._socket = getattr(reader.raw, "_sock", reader.raw)
        self._socket.setblocking(False)
        self.early = b""
        with suppress(OSError):  # nothing has come
            self.early = reader.read(len(reader.peek()))  # what came together with the answer's head

    def recv(self, limit_s: float) -> bytes | None:
        """Some bytes, none when it ended, None when nothing came in time. Raises OSError."""
        if self.early:
            early, self.early = self.early, b""
            return bytes(early)
        self._socket.settimeout(max(0.01, limit_s))
        try:
            return bytes(self._socket.recv(PIECE))
        except TimeoutError:
            return None

    def send(self, data: bytes, limit_s: float) -> None:
        """All of it. Raises OSError."""
        self._socket.settimeout(limit_s)
        self._socket.sendall(data)

    def close(self) -> None:
        self._answer.close()
        with suppress(OSError):
            self._socket.close()


class DockerApi:
    """One engine as one user. `context` is the name of the Docker context, None where DOCKER_HOST or a socket was taken."""

    def __init__(self, client: Any, host: str, context: str | None) -> None:
        self._client, self.host, self.context = client, host, context
        self._base = f"{client.base_url}/v{client._version}"  # noqa: SLF001 - what was agreed on when it was opened

    @classmethod
    def opened(cls, environment: Mapping[str, str], context: str | None = None) -> "DockerApi":
        """By the named context, DOCKER_HOST, DOCKER_CONTEXT, the current context, or a socket in one of the usual places."""
        try:
            import docker  # noqa: PLC0415 - a third of a second, only when an engine is used
            from docker import errors  # noqa: PLC0415
        except ImportError as error:
            raise Unsupported("the Docker SDK is not installed; install it with: pip install 'blackstart[docker]'") from error
        try:
            chosen, named = _chosen(environment, context)
            host = str(chosen["base_url"])
            _refuse_useless(host)
            client = docker.APIClient(version="auto", timeout=ANSWER_S, **chosen)
        except errors.DockerException as error:
            raise Unavailable(f"no Docker engine answers: {error}; start it, set DOCKER_HOST, or name a context") from error
        return cls(client, host, named)

    @property
    def socket(self) -> str | None:
        """The path of the engine's socket on this machine; None where it is reached otherwise."""
        return self.host.removeprefix("unix://").removeprefix("http+unix://") if "unix://" in self.host else None

    def close(self) -> None:
        self._client.close()

    # --- verbs ---

    def get(self, path: str, **query: Any) -> Any:
        return self.ask("GET", path, query=query)

    def there(self, path: str) -> JSON | None:
        """The object, or None."""
        with suppress(NotThere):
            found: JSON = self.get(path)
            return found
        return None

    def post(self, path: str, body: Any = None, *, wait_s: float = ANSWER_S, **query: Any) -> Any:
        return self.ask("POST", path, body, query=query, wait_s=wait_s)

    def delete(self, path: str, **query: Any) -> bool:
        """Whether there was something to delete, and nobody else is deleting it."""
        try:
            self.ask("DELETE", path, query=query)
        except (NotThere, Conflict) as error:
            if isinstance(error, Conflict) and "already in progress" not in str(error):
                raise
            return False
        return True

    def pull(self, image: str) -> None:
        """Bring an image here. Raises EngineError with what the engine says last."""
        name, _, tag = image.rpartition(":") if ":" in image.rpartition("/")[2] and "@" not in image else (image, "", None)
        answer = self._send("POST", "/images/create", query={"fromImage": name, "tag": tag}, wait_s=PULL_S)
        lines = [json.loads(line) for line in answer.text.splitlines() if line.strip()]
        if problems := [str(line["error"]) for line in lines if "error" in line]:
            raise EngineError(f"image {image} cannot be pulled: {problems[-1]}", 500)

    def upload(self, container: str, folder: str, archive: bytes) -> None:
        """Unpack a tar archive into a folder of a container, whether it runs or not."""
        self._send("PUT", at("containers", container, "archive"), query={"path": folder}, data=archive).close()

    def log(self, container: str, lines: int) -> str:
        """The last that it said, both streams together."""
        answer = self._send("GET", at("containers", container, "logs"), query={"stdout": 1, "stderr": 1, "tail": lines})
        return b"".join(piece for _, piece in pieces(bytearray(answer.content))).decode("utf-8", "replace")

    def connect(self, path: str, body: Any) -> Wire:
        """A request whose connection is handed over to a command."""
        return Wire(self._send("POST", path, data=json.dumps(body).encode(), streamed=True))

    def ask(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None, wait_s: float = ANSWER_S
    ) -> Any:
        """One request; the answer's JSON, or None for an empty one. Raises the errors above."""
        data = None if body is None else json.dumps(body).encode()
        answer = self._send(method, path, query=query or {}, data=data, wait_s=wait_s)
        return answer.json() if answer.content else None

    def _send(  # noqa: PLR0913 - a request has so many parts
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        data: bytes | None = None,
        wait_s: float = ANSWER_S,
        streamed: bool = False,
    ) -> Any:
        import requests  # noqa: PLC0415 - comes with the SDK

        words = {key: json.dumps(value) if isinstance(value, dict | bool) else value for key, value in (query or {}).items()}
        headers = {"Content-Type": "application/x-tar" if method == "PUT" else "application/json"}
        headers |= {"Connection": "Upgrade", "Upgrade": "tcp"} if streamed else {}
        try:
            answer = self._client.request(
                method,
                self._base + path,
                params={key: value for key, value in words.items() if value is not None},
                data=data,
                headers=headers,
                timeout=(CONNECT_S, wait_s),
                stream=streamed,
            )
        except requests.exceptions.RequestException as error:
            raise Unavailable(f"the Docker engine at {self.host} does not answer: {error}") from error
        if answer.status_code >= 400:
            why = answer.text[:500]
            with suppress(ValueError, AttributeError):
                why = answer.json().get("message") or why
            answer.close()
            kind_of = KINDS.get(answer.status_code, EngineError)
            raise kind_of(f"{method} {path}: {answer.status_code}: {why}", answer.status_code)
        return answer


def pieces(held: bytearray) -> Iterator[tuple[int, bytes]]:
    """Stream and content of each whole piece of a multiplexed stream; they are taken out of `held`."""
    while len(held) >= HEAD and len(held) >= HEAD + (size := int.from_bytes(held[4:HEAD], "big")):
        kind, piece = held[0], bytes(held[HEAD : HEAD + size])
        del held[: HEAD + size]
        yield kind, piece


def _chosen(environment: Mapping[str, str], context: str | None) -> tuple[JSON, str | None]:
    """What the SDK's client takes, and the context's name."""
    from docker.context import ContextAPI  # noqa: PLC0415
    from docker.utils import kwargs_from_env  # noqa: PLC0415

    if context is None and environment.get("DOCKER_HOST"):
        return kwargs_from_env(environment), None
    found = ContextAPI.get_context(context or environment.get("DOCKER_CONTEXT"))
    if found is None:
        raise Unavailable(f"there is no Docker context {context or environment.get('DOCKER_CONTEXT')}; see: docker context ls")
    if found.Name == "default":
        return {"base_url": f"unix://{_usual_socket(environment)}"}, None
    return {"base_url": found.Host, **({"tls": found.TLSConfig} if found.TLSConfig else {})}, str(found.Name)


def _usual_socket(environment: Mapping[str, str]) -> str:
    """The system's engine, else this user's own: rootless, or Docker Desktop's."""
    runtime, home = environment.get("XDG_RUNTIME_DIR"), environment.get("HOME")
    own = [*([f"{runtime}/docker.sock"] if runtime else []), *([f"{home}/.docker/run/docker.sock"] if home else [])]
    there = [path for path in (SYSTEM_SOCKET, *own) if Path(path).exists()]
    usable = [path for path in there if os.access(path, os.R_OK | os.W_OK)]
    return (usable or there or [SYSTEM_SOCKET])[0]


def _refuse_useless(host: str) -> None:
    """Raises Unavailable or Unsupported with what is missing, where the SDK would only say that it failed."""
    if host.startswith("ssh://"):
        raise Unsupported(
            f"{host}: engines over ssh are not supported; forward the socket: ssh -nNT -L /tmp/docker.sock:{SYSTEM_SOCKET} HOST, "
            "and set DOCKER_HOST=unix:///tmp/docker.sock"
        )
    if not host.startswith("unix://"):
        return
    path = Path(host.removeprefix("unix://"))
    if os.access(path.parent, os.X_OK) and not path.exists():
        raise Unavailable(f"there is no Docker engine: socket {path} does not exist; start it, or set DOCKER_HOST")
    if not os.access(path, os.R_OK | os.W_OK):
        raise Unavailable(
            f"this user may not open the Docker engine's socket {path}: join its group (usually docker), run as root, or use a "
            "rootless engine and set DOCKER_HOST"
        )


def at(what: str, name: str, more: str = "") -> str:
    """The path of an object: `at("containers", "llm", "json")`."""
    return "/".join(("", what, quote(name, safe=""), *([more] if more else [])))
