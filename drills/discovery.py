"""init: ask a running service what it is, and write a service profile and a first scenario for it."""

import json
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..injectors.platforms.base import HALVES
from ..injectors.platforms.process_table import command_line, descendants, snapshot
from .asking import get
from .first_files import Answers, Written, asked, free, model_of, with_engine, write
from .refusal import Refused
from .surroundings import Proxy, Server, Surroundings, is_here

RELATIVE_S = 1.0  # for a server that may speak anything, or nothing


@dataclass(frozen=True)
class Place:
    """Where it lives: the server that the URL leads to, the replicas behind it, and link proxies in the paths between them."""

    port: int
    server: Server | None
    replicas: tuple[Server, ...] = ()
    front: Server | None = None  # a server that names this one as its own backend
    links: tuple[Proxy, ...] = ()

    def commands(self) -> list[str]:
        """Command lines of one replica's processes, parents first."""
        replica = self.replicas[0] if self.replicas else self.server
        if replica is None or replica.command is None:
            return []
        return [replica.command, *map(command_line, descendants(snapshot(), replica.pid))]


@dataclass(frozen=True)
class Found:
    """A component, as service.yaml will name it."""

    name: str
    role: str
    port: int
    server: Server | None


def write_files(folder: Path, url: str) -> Written:
    """service.yaml and scenario.yaml for the service at `url`. Raises Refused where nothing answers or a file is there already."""
    url = url.rstrip("/")
    host, port = _address(url)
    free(folder)
    answers = asked(url)
    here = is_here(host)
    place = _located(port, answers) if here else Place(port, None)
    answers = with_engine(answers, url, place.commands())
    warnings = (
        _warnings(place, answers)
        if here
        else (f"{host} is not this machine, and only its own processes can be drilled: use blackstart there",)
    )
    components = _components(place, answers)
    warnings += shared_links(place, components)
    scenario = SCENARIO if any(each.role == "replica" for each in components) else SCENARIO.replace(HANG, f"{HANG} {ON_HALVES}")
    return write(folder, _service_text(url, place, components, answers), scenario, warnings)


def _address(url: str) -> tuple[str, int]:
    try:
        address = urllib.parse.urlsplit(url)
        port = address.port or (443 if address.scheme == "https" else 80)
    except ValueError:  # brackets that do not close, a port beyond 65535
        address, port = urllib.parse.SplitResult("", "", "", "", ""), 0
    if address.scheme not in {"http", "https"} or not address.hostname or any(sign.isspace() for sign in url):
        raise Refused([f"{url} is not a URL of a service; write it as http://HOST:PORT"])
    return address.hostname, port


def _located(port: int, answers: Answers) -> Place:
    """Follow blackstart's own proxies to the server, and look for servers of the same model behind it."""
    around = Surroundings.now()
    behind = around.behind(port)
    server = around.servers.get(behind)
    relatives = around.relatives(server) if server else ()
    front = next((other for other in relatives if behind in around.named_by(other) and _serves(other, answers)), None)
    behind_it = () if front or server is None else tuple(other for other in relatives if not server.like(other))
    replicas = tuple(other for other in behind_it if _serves(other, answers))
    ends = {other.port for other in replicas}
    links = [
        proxy for proxy in around.proxies.values() if proxy.to_port in ends or (proxy.listen == port and proxy.to_port == behind)
    ]
    return Place(behind, server, replicas, front, tuple(sorted(links, key=lambda proxy: proxy.listen)))


def _serves(server: Server, answers: Answers) -> bool:
    """Whether it offers the same model in the same protocol. Of a plain HTTP service nothing can be told."""
    url = f"http://127.0.0.1:{server.port}"
    try:
        if answers.protocol == "openai":
            return model_of(*get(f"{url}/v1/models", RELATIVE_S)) == answers.model
        return answers.protocol == "kserve-v2" and get(f"{url}/v2/health/ready", RELATIVE_S)[0] == 200
    except OSError:
        return False


def _warnings(place: Place, answers: Answers) -> tuple[str, ...]:
    server, found = place.server, []
    if server is None:
        found.append(
            f"nothing on this machine listens on port {place.port}: no fault has a target here; list the components yourself"
        )
    elif server.command is None:
        found.append(
            f"port {place.port} is somebody else's process, which may not be read: use blackstart as its user, or as root"
        )
    elif server.passes_on and not place.replicas:
        found.append(
            f"port {place.port} is {server.program} (pid {server.pid}), which passes requests on: faults would hit it alone; list the "
            "model servers behind it under process.components"
        )
    if place.front:
        found.append(
            f"port {place.front.port} (pid {place.front.pid}) stands in front of port {place.port}: users come through it; use its URL "
            "to drill the whole service"
        )
    if answers.protocol == "http":
        nobody = "neither /v1/models nor /v2 tells of a model, so nothing says that this is a model server; "
        found.append(f"{'' if answers.engine else nobody}it is asked `GET /` until you write `golden` questions")
    return tuple(found)


def _service_text(url: str, place: Place, components: Sequence[Found], answers: Answers) -> str:
    lines = ["apiVersion: blackstart/v1", "kind: Service", f"name: service-{place.port}", "platform: process"]
    lines += _process(place, components)
    return "\n".join([*lines, *answers.lines([f"url: {json.dumps(url)}"]), answers.model_line()]) + "\n"


def _components(place: Place, answers: Answers) -> list[Found]:
    """The server that the URL leads to and those behind it, which may do one half of an answer, as their command lines say."""
    if not place.replicas:
        return [Found("r0", "replica", place.port, place.server)]
    found = [Found("gateway", "gateway", place.port, place.server)]
    halves = answers.engine.profile.halves if answers.engine else {}
    for server in place.replicas:
        roles = [role for role, known in halves.items() if re.search(known.command_line, server.command or "")]
        role = roles[0] if roles else "replica"
        found.append(Found(f"{role[0]}{sum(each.role == role for each in found)}", role, server.port, server))
    return found


def _users(link: Proxy, place: Place, components: Sequence[Found]) -> list[str]:
    """Whose paths lead through that link proxy: who names it on the command line; where nobody does, the first component."""
    if link.to_port == place.port:
        return ["client"]
    return [each.name for each in components if each.server and each.server.names(link.listen)] or [components[0].name]


def shared_links(place: Place, components: Sequence[Found]) -> tuple[str, ...]:
    """Why link proxies are left out that several components share: who cuts one off there cuts off all of them."""
    names = {each.port: each.name for each in components}
    shared = [(link, users) for link in place.links if len(users := _users(link, place, components)) > 1]
    return tuple(
        f"the link proxy on port {link.listen} ({link.name}) in front of {names[link.to_port]} is left out: {', '.join(users)} share it, "
        "so a fault on one of them would hit all; give each a link proxy of its own"
        for link, users in shared
    )


def _process(place: Place, components: Sequence[Found]) -> list[str]:
    """The components that were found. What starts them again cannot be seen, and is left to the reader."""
    if not place.replicas and not place.links:
        return [f"process: {{port: {place.port}}}    # one replica that listens there; list components for more"]
    lines = ["process:", "  components:    # add `supervised: true` where something starts it again, or its `start` command"]
    lines += [f"    - {{name: {each.name}, role: {each.role}, port: {each.port}}}" for each in components]
    if any(each.role in HALVES for each in components):
        lines.append("    # add its `url` to a prefill or decode worker that answers by itself, and it will be asked")
    names = {each.port: each.name for each in components}
    links = [
        f"    - {{name: {json.dumps(link.name)}, from: {users[0]}, to: {names[link.to_port]}, listen: {link.listen}}}"
        for link in place.links
        if len(users := _users(link, place, components)) == 1
    ]
    if links:
        lines += ["  links:    # blackstart's own link proxies: network faults need them", *links]
    return lines


HANG, ON_HALVES = "{kind: process-hang,", "target: {role: decode},"
SCENARIO = """\
apiVersion: blackstart/v1
kind: Scenario
name: first-drill
title: A replica hangs and stays hung
steady_state: {hold: 10s, success: ">= 99%"}
faults:
  - {kind: process-hang, at: 0s}    # held for as long as the drill watches: only the service itself can end the outage
objectives: {rto: 30s}              # `blackstart faults` lists what else can be injected
observe: 60s
settle: 10s
"""
