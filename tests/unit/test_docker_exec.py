"""Programs in a container by the engine's `exec`, on a small engine that runs them as processes of this machine."""

import gc
import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.base import PlatformError, Unavailable, Unsupported
from blackstart.injectors.platforms.docker_api import Conflict, DockerApi, EngineError, NotThere
from blackstart.injectors.platforms.docker_exec import Room, RoomDoors
from blackstart.injectors.platforms.exec_agents import look

ROOM = Room("abc", "llm")


class SmallEngine:
    """What of the engine's API takes part in an exec (docs.docker.com/engine/api/v1.41, ContainerExec and ExecStart)."""

    def __init__(self, path: Path) -> None:
        self.codes: dict[str, int | None] = {}
        self.commands: dict[str, list[str]] = {}
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen(8)
        self.paused = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.server.accept()[0],), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as asked:
            while line := asked.readline():
                length = 0
                while (header := asked.readline().strip()) != b"":
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.partition(b":")[2])
                body = json.loads(asked.read(length)) if length else None
                path = line.split()[1].decode().partition("?")[0].removeprefix("/v1.41")
                if path.startswith("/exec/") and path.endswith("/start"):
                    self.execute(connection, asked, path.split("/")[2])
                    return
                status, answer = self.answer(path, body)
                text = json.dumps(answer).encode()
                head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
                connection.sendall(head.encode() + text)

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/version":
            return 200, {"ApiVersion": "1.41", "Version": "20.10"}
        if path == "/containers/abc/exec":
            if self.paused:
                return 409, {"message": "Container abc is paused, unpause the container before exec"}
            number = f"e{len(self.commands)}"
            self.commands[number], self.codes[number] = body["Cmd"], None
            return 201, {"Id": number}
        if path.startswith("/exec/"):
            code = self.codes[path.split("/")[2]]
            return 200, {"Running": code is None, "ExitCode": code}
        return 404, {"message": f"no such thing: {path}"}

    def execute(self, connection: socket.socket, asked: Any, number: str) -> None:
        command = [sys.executable if word == "python3" else word for word in self.commands[number]]
        head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            said = f"OCI runtime exec failed: exec: {command[0]!r}: {error.strerror.lower()}\r\n".encode()
            connection.sendall(head + frame(1, said))  # together with the head, and then it hangs up
            self.codes[number] = 126
            return
        connection.sendall(head)
        assert process.stdin is not None
        streams = [
            threading.Thread(target=relay, args=(connection, kind, pipe))
            for kind, pipe in ((1, process.stdout), (2, process.stderr))
        ]
        for each in streams:
            each.start()
        threading.Thread(target=feed, args=(asked, process.stdin), daemon=True).start()
        for each in streams:
            each.join()
        code = process.wait()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        self.codes[number] = code


def frame(kind: int, content: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


def relay(connection: socket.socket, kind: int, pipe: Any) -> None:
    with pipe, suppress(OSError):  # nobody listens any more
        while some := pipe.read1(7):  # in small pieces
            connection.sendall(frame(kind, some))


def feed(asked: Any, pipe: Any) -> None:
    with suppress(OSError, ValueError), pipe:
        while some := asked.read1(4096):
            pipe.write(some)
            pipe.flush()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SmallEngine]:
    one = SmallEngine(tmp_path / "docker.sock")
    yield one
    one.server.close()


@pytest.fixture
def api(engine: SmallEngine, tmp_path: Path) -> Iterator[DockerApi]:
    del engine
    opened = DockerApi.opened({"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"})
    yield opened
    opened.close()


def test_a_program_to_its_end(api: DockerApi) -> None:
    program = b"import sys\nprint(sys.argv[1:])\nprint('x' * 100000)\nsys.stderr.write('what went wrong')\nsys.exit(3)"
    code, said, errors = RoomDoors(api).run(ROOM, program, ["one", "two"])
    assert (code, errors) == (3, "what went wrong")
    assert said == f"['one', 'two']\n{'x' * 100000}\n".encode()


def test_a_program_whose_input_stays_open(api: DockerApi) -> None:
    program = (
        b"import sys\nprint('ready', flush=True)\nfor line in sys.stdin: print('heard', line.strip(), flush=True)\nprint('end')"
    )
    session = RoomDoors(api).begin(ROOM, program, [])
    assert session.line(10) == "ready"
    assert session.line(0.1) is None
    session.send(b"renew\n")
    assert session.line(10) == "heard renew"
    session.close()


def test_a_look_around(api: DockerApi) -> None:
    around = look(RoomDoors(api), ROOM, "around", {})
    assert around["places"]
    assert around["cores"] >= 1


def test_without_python_that_is_said(api: DockerApi, engine: SmallEngine) -> None:
    doors = RoomDoors(api)
    session = doors.opened(ROOM, ["/no/such/program"])
    with pytest.raises(Unsupported, match="has no python3, and its faults need one: OCI runtime exec failed"):
        session.finish(10)
    engine.paused = True
    with pytest.raises(PlatformError, match=r"no command can be started: .*paused"):
        doors.opened(ROOM, ["true"])


def test_a_program_that_does_not_end(api: DockerApi) -> None:
    with pytest.raises(PlatformError, match=r"did not end within 0\.3 s"):
        RoomDoors(api).run(ROOM, b"import time; time.sleep(60)", [], 0.3)


def test_errors_are_told_apart(api: DockerApi, engine: SmallEngine) -> None:
    assert api.there("/containers/nobody/json") is None
    with pytest.raises(NotThere, match="404: no such thing"):
        api.get("/containers/nobody/json")
    engine.paused = True
    with pytest.raises(Conflict) as conflict:
        api.post("/containers/abc/exec", {"Cmd": []})
    assert isinstance(conflict.value, EngineError)
    assert conflict.value.status == 409


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the SDK leaves a socket that could not connect to the collector
def test_an_engine_that_goes_away(tmp_path: Path, engine: SmallEngine, api: DockerApi) -> None:
    engine.server.close()
    (tmp_path / "docker.sock").unlink()
    api.close()
    with pytest.raises(Unavailable, match="does not answer"):
        api.get("/info")
    gc.collect()


def test_an_engine_by_its_context(tmp_path: Path, engine: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, by DOCKER_CONTEXT, or the current one; DOCKER_HOST goes before the two latter."""
    del engine
    config, host = tmp_path / "config", f"unix://{tmp_path}/docker.sock"
    meta = config / "contexts" / "meta" / hashlib.sha256(b"there").hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": "there", "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}))
    (config / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    for environment, named in (({}, "there"), ({"DOCKER_CONTEXT": "there"}, None), ({"DOCKER_HOST": host}, None)):
        with closing(DockerApi.opened(environment, named)) as opened:
            assert opened.host == host
            assert opened.socket == f"{tmp_path}/docker.sock"
            assert opened.context == (None if "DOCKER_HOST" in environment else "there")
    (config / "config.json").write_text('{"currentContext": "there"}')
    with closing(DockerApi.opened({})) as opened:
        assert opened.context == "there"
