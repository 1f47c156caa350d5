"""A service of two small containers for the tests: replica `v-r0` and store `v-s0`, on a network of their own."""

import io
import os
import socket
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from blackstart.injectors.platforms import Where
from blackstart.injectors.platforms.docker import DockerPlatform
from blackstart.injectors.platforms.docker_api import DockerApi, at
from blackstart.injectors.platforms.docker_spec import DockerSpec, Part
from blackstart.scenarios.demo import HERE
from blackstart.tests.command import until
from blackstart.tests.docker.engine import IMAGE

NETWORK, REPLICA, STORE, PORT = "blackstart-test", "v-r0", "v-s0", 8000
PROGRAM = Path(__file__).parents[1] / "conformance" / "victim.py"
MODEL = "/models/model.safetensors"
SPEC = DockerSpec(containers=(REPLICA,), port=PORT, components=(Part("store", containers=(STORE,), port=PORT),))
SMALL = "/small"  # a file system of 32 MiB
CHECKPOINTS, CACHE, TOKEN = "/models/checkpoints", "/models/cache", "/models/token"


def opened(state: Path, host: str, spec: DockerSpec = SPEC, engine: str = r"victim\.py engine") -> DockerPlatform:
    """As another process would open it, too: it can be pickled with its arguments."""
    environment = {**os.environ, "DOCKER_HOST": host}
    where = Where("docker", state, {"engine": engine, "scheduler": "no such"}, docker=spec, image=IMAGE)
    return DockerPlatform(DockerApi.opened(environment), where, state, environment)


def archive(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as packed:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            packed.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def artefacts(model: bytes) -> dict[str, bytes]:
    """What models come from, below a folder: two checkpoints, a cache and a credential."""
    steps = {f"checkpoints/checkpoint-{step}/model.safetensors": model for step in (900, 1000)}
    return {**steps, "cache/blobs/one": b"one", "cache/version": b"1", "token": b"hf_AbcXyz0189\n"}


def create(api: DockerApi, name: str, **more: Any) -> str:
    """A running container of a victim; its ID."""
    host = {
        "NetworkMode": NETWORK,
        "RestartPolicy": {"Name": "always"},
        "Tmpfs": {SMALL: "size=32m"},
        "CapDrop": ["ALL"],
        **more.pop("HostConfig", {}),
    }
    body = {
        "Image": IMAGE,
        "Cmd": ["python3", "/victim.py", "serve", str(PORT), "0.0.0.0"],
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "Volumes": {"/models": {}},
        "StopTimeout": 3,
        **more,
        "HostConfig": host,
    }
    made = api.post("/containers/create", body, name=name)["Id"]
    model = (HERE / "model.safetensors").read_bytes()
    if not host.get("ReadonlyRootfs"):
        api.upload(made, "/", archive({"victim.py": PROGRAM.read_bytes(), Path(MODEL).name: model}))  # into its own layer
        older = bytes([*model[:-1], model[-1] ^ 1])
        api.upload(made, "/models", archive({Path(MODEL).name: model, "model-stale.safetensors": older, **artefacts(model)}))
    api.post(at("containers", made, "start"))
    return str(made)


@contextmanager
def service(api: DockerApi) -> Iterator[None]:
    api.post("/networks/create", {"Name": NETWORK})
    try:
        for name in (REPLICA, STORE):
            create(api, name)
        for name in (REPLICA, STORE):
            until(f"{name} to answer", lambda name=name: not mute(api, name)(), 30)
        yield
    finally:
        for name in (REPLICA, STORE):
            api.delete(at("containers", name), force="true", v="true")
        api.delete(at("networks", NETWORK))


def container(api: DockerApi, name: str) -> dict[str, Any]:
    found = api.there(at("containers", name, "json"))
    assert found is not None
    return found


def address(api: DockerApi, name: str = REPLICA) -> str:
    return str(container(api, name)["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])


def root(api: DockerApi, name: str = REPLICA) -> Path:
    """Its files, as the kernel shows them to this machine."""
    return Path(f"/proc/{container(api, name)['State']['Pid']}/root")


def mute(api: DockerApi, name: str = REPLICA) -> Callable[[], bool]:
    """An eye for hangs: it gives no right answer."""

    def asked() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address(api, name)}:{PORT}", timeout=1.5) as answer:
                return answer.status != 200
        except OSError:
            return True

    return asked


def started_anew(api: DockerApi, name: str) -> Callable[[], bool]:
    """An eye for kills and restarts: what runs now is not what ran when this was called."""
    before = container(api, name)["State"]["StartedAt"]

    def seen() -> bool:
        state = container(api, name)["State"]
        return not state["Running"] or state["StartedAt"] != before

    return seen


def processes(api: DockerApi, word: str, name: str = REPLICA) -> list[int]:
    """Pids on this machine of what runs in the container and has that word in its command line."""
    number, found = container(api, name)["Id"], []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if number in (path / "cgroup").read_text() and word.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def resident(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def met(api: DockerApi, name: str = REPLICA) -> tuple[str, float]:
    """What an ordinary client on this machine meets, and after how many seconds."""
    began = time.monotonic()
    try:
        with closing(socket.create_connection((address(api, name), PORT), 1.0)) as connection:
            connection.settimeout(2.0)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            outcome = "answered" if connection.recv(4096) else "closed"
    except TimeoutError:
        outcome = "silent"
    except OSError as error:
        outcome = type(error).__name__
    return outcome, time.monotonic() - began


def helpers(api: DockerApi) -> list[str]:
    """Containers of ours that are there."""
    return [str(each["Names"][0]).lstrip("/") for each in api.get("/containers/json", all=1, filters={"label": ["blackstart"]})]
