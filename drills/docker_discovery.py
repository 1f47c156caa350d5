"""init --from-docker: look at a container, at what Compose says of it and at what answers for it, and write the first two files."""

import json
import re
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ..injectors.platforms import Where
from ..injectors.platforms.base import PlatformError
from ..injectors.platforms.docker import DockerPlatform
from ..injectors.platforms.docker_api import DockerApi, at
from ..injectors.platforms.docker_find import COMPOSE, name_of, networks_of, port_of, published, restarts_itself
from ..injectors.platforms.docker_spec import Compose, DockerSpec
from ..injectors.values import JSON
from .first_files import Answers, Written, asked, free, with_engine, write
from .refusal import Refused
from .state import state_folder

FIT_NAME = re.compile(r"[^a-z0-9-]+")


@dataclass(frozen=True)
class Found:
    """A container, its Compose project's other containers, and their engine."""

    container: JSON
    others: tuple[JSON, ...]
    engine: str
    context: str | None

    @property
    def compose(self) -> Compose | None:
        return compose_of(self.container)


def compose_of(container: JSON) -> Compose | None:
    labels = container["Config"].get("Labels") or {}
    project, service = labels.get(f"{COMPOSE}project"), labels.get(f"{COMPOSE}service")
    return Compose(project, service) if project and service else None


def write_docker_files(folder: Path, name: str, environment: Mapping[str, str]) -> Written:
    """service.yaml and scenario.yaml for a container, or for all of its Compose service. Raises Refused, PlatformError."""
    free(folder)
    api = DockerApi.opened(environment)
    with closing(api):
        found = _found(api, name)
        spec = DockerSpec(compose=found.compose, containers=() if found.compose else (name_of(found.container),))
        platform = DockerPlatform(api, Where("docker", Path(), {}, docker=spec), state_folder(environment), environment)
        targets = platform.find()
        own = [str(target.details["url"]) for target in targets if target.details.get("url")]
        commands: list[str] | None = None
        with suppress(PlatformError):  # no python3 to look with
            commands = [command for target in targets[:1] for command in platform.commands(target)]
    url, answers = _front(found, own)
    answers = with_engine(answers, url, commands)
    lines = _lines(found, url, answers, commands)
    return write(folder, "\n".join(lines) + "\n", SCENARIO, _warnings(found, url, len(targets)))


def _found(api: DockerApi, name: str) -> Found:
    container = api.there(at("containers", name, "json"))
    if container is None:
        there = ", ".join(str(each["Names"][0]).lstrip("/") for each in api.get("/containers/json")) or "none"
        raise Refused([f"no container is called {name} on the Docker engine at {api.host}; those that run: {there}"])
    compose = compose_of(container)
    filters = {"label": [f"{COMPOSE}project={compose.project}"]} if compose else {"label": ["blackstart.nothing"]}
    listed = [str(each["Id"]) for each in api.get("/containers/json", filters=filters)]
    others = [found for number in listed if (found := api.there(at("containers", number, "json")))]
    return Found(container, tuple(each for each in others if compose_of(each) != compose), api.host, api.context)


def _front(found: Found, own: list[str]) -> tuple[str, Answers]:
    """Where users knock: a port that is published, of the container or else of its project, or its own address."""
    knocked = [url for each in (found.container, *found.others) for url in published(each, None, found.engine)]
    problems: list[str] = []
    for url in (*knocked, *own):
        try:
            return url, asked(url)
        except Refused as refused:
            problems += refused.reasons
    hint = f"{name_of(found.container)} publishes no port that answers here; publish one (docker run -p 127.0.0.1:8000:8000)"
    raise Refused(problems or [hint])


def _lines(found: Found, url: str, answers: Answers, commands: list[str] | None) -> list[str]:
    name, compose = name_of(found.container), found.compose
    given = FIT_NAME.sub("-", (compose.project if compose else name).lower()).strip("-")[:63] or "service"
    lines = ["apiVersion: blackstart/v1", "kind: Service", f"name: {given}", "platform: docker", "docker:"]
    lines.append(f"  {_how(found.container)}")
    if (port := port_of(found.container, None)) is not None:
        lines.append(f"  port: {port}    # where each replica answers by itself")
    if found.context:
        lines.append(f"  context: {json.dumps(found.context)}")
    parts = {str(other.service): each for each in found.others if (other := compose_of(each))}
    if parts:
        lines.append("  components:    # what else there is of the project; take away what is not the service's")
        lines += [f"    - {{role: {json.dumps(role)}, {_how(each)}}}" for role, each in sorted(parts.items())]
    lines += answers.lines([f"url: {json.dumps(url)}"])
    lines.append(answers.roles_line(commands))
    image = str(found.container["Config"]["Image"])
    pinned = "@" in image or image.rpartition("/")[2].partition(":")[2] not in {"", "latest"}
    lines.append(
        f"{f'probe: {{image: {json.dumps(image)}}}' if commands is not None and pinned else '# probe: {image: ...}'}"
        "    # any with python3; with nft for faults of the network"
    )
    lines.append(answers.model_line())
    return lines


def _how(container: JSON) -> str:
    compose = compose_of(container)
    if compose is None:
        return f"containers: [{json.dumps(name_of(container))}]"
    return f"compose: {{project: {json.dumps(compose.project)}, service: {json.dumps(compose.service)}}}"


def _warnings(found: Found, url: str, number: int) -> tuple[str, ...]:
    said = [f"it is measured from here, at {url}"]
    if not any(url in published(each, None, found.engine) for each in (found.container, *found.others)):
        said.append(_one_s_own(found, number))
    if number < 2:
        said.append("it is one container: every fault that hits it is an outage")
    if not restarts_itself(found.container):
        said.append(
            "it has no restart policy: when it dies, nothing but the drill's undo starts it again (docker update --restart)"
        )
    return tuple(said)


def _one_s_own(found: Found, number: int) -> str:
    """What a container's own address misses, and by which name on its network users would ask instead."""
    beside = ", which hides what the others do and" if number > 1 else " and"
    said = f"nothing of it publishes a port that answers here: that is one container's own address{beside} may change with its next start"
    if not (networks := [each for each in networks_of(found.container) if each != "bridge"]):  # that one has no names
        return f"{said}; publish a port (docker run -p 127.0.0.1:8000:8000)"
    host = found.compose.service if found.compose else name_of(found.container)
    port = port_of(found.container, None)
    return f"{said}; publish a port, or take `url: http://{host}:{port}` (on network {networks[0]}) with `probe: {{from: in-network}}`"


SCENARIO = """\
apiVersion: blackstart/v1
kind: Scenario
name: first-drill
title: A container dies at once
steady_state: {hold: 10s, success: ">= 99%"}
faults:
  - {kind: replica-kill, target: {count: 1}, at: 0s}    # `blackstart faults` lists what else can be injected
objectives: {rto: 10s, time_to_redundancy: 1m}
observe: 90s
settle: 10s
"""
