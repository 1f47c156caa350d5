"""The bundled model service on a Docker engine: a network and containers of its own, up to its first good answers, and away at the end."""

import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..injectors.platforms.base import PlatformError, Unsupported
from ..injectors.platforms.docker_api import DockerApi, NotThere, at
from ..injectors.platforms.docker_helpers import present
from ..injectors.platforms.process_table import alive
from ..scenarios.demo import DemoFailed
from ..scenarios.demo.docker import CREATOR, PROJECT, REPLICAS, code, containers, profile
from .demo_ready import Tell, ask, creator, until, warm_up

READY_S, WORDS = 120.0, 5
FAMILY: Final = "blackstart-demo-"


@contextmanager
def contained(api: DockerApi, image: str, *, hardened: bool, tell: Tell) -> Iterator[Path]:
    """The service file of the bundled service, which runs for as long as the context lasts.

    Raises DemoFailed when it does not become ready or does not go away, PlatformError when the engine refuses something.
    """
    if api.socket is None:
        raise DemoFailed(f"the demo is for an engine on this machine, and {api.host} may be elsewhere")
    _remove_leftovers(api, tell)
    _bring(api, image, tell)
    project = f"{FAMILY}{secrets.token_hex(2)}"
    tell(f"starting the {'hardened ' if hardened else ''}demo service as {project} on the Docker engine at {api.host} ({image})")
    try:
        url = _started(api, project, image, hardened=hardened)
        until(lambda: _missing(api, project, url), READY_S, tell, lambda: _last_words(api, project))
        if not hardened:
            warm_up(url, REPLICAS)
        with tempfile.TemporaryDirectory(prefix=FAMILY) as folder:
            service_file = Path(folder) / "service.yaml"
            service_file.write_text(profile(project, url, image, hardened=hardened, context=api.context), encoding="utf-8")
            yield service_file
    finally:
        remove(api, project, tell)


def _bring(api: DockerApi, image: str, tell: Tell) -> None:
    try:
        present(api, image)
    except Unsupported:
        tell(f"pulling {image}")
        api.pull(image)


def _started(api: DockerApi, project: str, image: str, *, hardened: bool) -> str:
    """Its URL from here."""
    labels = {PROJECT: project, CREATOR: creator()}
    api.post("/networks/create", {"Name": project, "CheckDuplicate": True, "Labels": labels})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    archive, bodies = code(), containers(project, image, port, creator(), hardened=hardened)
    for name, body in bodies.items():
        api.post("/containers/create", body, name=name)
        api.upload(name, "/", archive)
    for name in bodies:
        api.post(at("containers", name, "start"))
    return f"http://127.0.0.1:{port}"


def _missing(api: DockerApi, project: str, url: str) -> str:
    """What is not there yet; empty when the gateway routes to all replicas and has a store."""
    dead = [name for name, state in _states(api, project) if state != "running"]
    if dead:
        return f"{', '.join(dead)} not running"
    said = ask(url, "/ready")
    ready = len(said.get("routed", ())) == REPLICAS and said.get("status") == "ready"
    return "" if ready else f"all containers run, but {url}/ready says from here: {said.get('error') or said}"


def _states(api: DockerApi, project: str) -> list[tuple[str, str]]:
    found = api.get("/containers/json", all=1, filters={"label": [f"{PROJECT}={project}", CREATOR]})
    return [(str(each["Names"][0]).lstrip("/"), str(each["State"])) for each in found]


def _last_words(api: DockerApi, project: str) -> str:
    said = []
    for name, state in _states(api, project):
        with suppress(PlatformError):
            said.append(f"{name} ({state}): {api.log(name, WORDS).strip() or 'it said nothing'}")
    return "\n".join(said)


def _remove_leftovers(api: DockerApi, tell: Tell) -> None:
    """Demos whose command was killed on this machine."""
    here = creator().rpartition(" ")[0]
    for found in api.get("/networks", filters={"label": [CREATOR]}):
        where, _, who = str(found["Labels"][CREATOR]).rpartition(" ")
        if where and where == here and alive(who) is None:
            remove(api, str(found["Name"]), tell)


def remove(api: DockerApi, project: str, tell: Tell) -> None:
    """Remove a demo's containers with their volumes, and its network."""
    tell(f"removing {project}")
    try:
        for name, _ in _states(api, project):
            api.delete(at("containers", name), force="true", v="true")
        with suppress(NotThere):
            for name in (api.get(at("networks", project)).get("Containers") or {}).copy():  # a prober that is just ending
                api.post(at("networks", project, "disconnect"), {"Container": name, "Force": True})
        api.delete(at("networks", project))
    except PlatformError as error:
        command = f"docker rm -fv $(docker ps -aq --filter label={PROJECT}={project}); docker network rm {project}"
        raise DemoFailed(f"{project} is not gone: {error}; remove it with: {command}") from error
