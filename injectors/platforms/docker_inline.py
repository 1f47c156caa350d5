"""Rules for which something must stand in a container's own network: a container of ours that shares it, with net_agent.py in it.

It is there for one fault and one target, drops all capabilities but NET_ADMIN, and ends by itself: at the deadline, or once the agent
in it has undone its fault and removed its record. Then the engine removes it, so that nothing of it stays.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Final

from ..values import JSON
from .base import PlatformError, Target, Unsupported, came
from .docker_api import DockerApi, EngineError
from .docker_exec import Room, RoomDoors
from .docker_find import parts_of
from .docker_helpers import FAULT, OURS, RUN, TARGET, UNDO, Helpers, name_of, run_of
from .exec_agents import ContainerAgents
from .net_rooms import asked, counted, request_of

SLACK_S, END_S, LOOK_EVERY_S = 60.0, 5.0, 0.1
TRY: Final = "blackstart-net-try"
SLEEP: Final = (
    "import glob,signal,sys,time\nsignal.signal(15,lambda *_:sys.exit(0))\nbegan=time.monotonic();seen=False\n"
    "while time.monotonic()<began+(float(sys.argv[1]) if seen else 60):\n time.sleep(0.2)\n"
    " there=bool(glob.glob('/tmp/blackstart-*.json')+glob.glob('/dev/shm/blackstart-*.json'))\n"
    " if seen and not there:\n  time.sleep(3)\n  break\n seen=seen or there"  # whoever undid it has not said so yet
)


@dataclass(frozen=True)
class Way:
    """A link, what is to become of it, and the addresses of the other side; none: everybody's."""

    link: str
    rule: JSON
    peers: Sequence[str]


@dataclass
class InlineRooms:
    """Those of one service."""

    api: DockerApi
    agents: ContainerAgents[Room]
    helpers: Helpers
    _able: dict[str, JSON] = field(default_factory=dict)

    def refuse(self, rule: JSON) -> None:
        """Raises Unsupported where a container of that image could not do it here. It is tried in a network of its own."""
        image = self.helpers.named_image("python3 and nft")
        if image not in self._able:
            self._able[image] = self._tried(image)
        found = self._able[image]
        needed = "admin" if rule["type"] in {"partition", "names"} else "redirect"
        if not found[needed]:
            why = "; ".join(found["why"]) or "it does not say why"
            raise Unsupported(
                f"a container of image {image} with the capability NET_ADMIN cannot break a network from inside here: {why}"
            )

    def _tried(self, image: str) -> JSON:
        name = name_of("net-try", f"{image} {id(self)}")
        try:
            room = self.helpers.begin(name, {OURS: "try"}, _body("none", 60.0))
        except EngineError as error:
            raise Unsupported(f"a container of image {image} with the capability NET_ADMIN cannot be started: {error}") from error
        try:
            return asked(RoomDoors(self.api), room, "able", None)
        except PlatformError as error:
            raise Unsupported(f"image {image} cannot run what breaks a network: {error}") from error
        finally:
            self.helpers.end(name)

    def begin(self, fault: str, target: Target, way: Way, deadline_s: float) -> JSON:
        """Cut, keep names from, or proxy what peers and target send each other."""
        number, name, rule = parts_of(target.identity)[0], _name(fault, target), way.rule
        undo = {"fault": fault, "link": way.link, "rule": rule, "target": target.name}
        labels = {OURS: "network", RUN: run_of(fault), FAULT: fault, TARGET: number, UNDO: json.dumps(undo)}
        room = self.helpers.begin(name, labels, _body(f"container:{number}", deadline_s + SLACK_S))
        verb, request = request_of(rule, way.peers, (), room.name)
        try:
            return self.agents.begin(fault, target, verb, request, deadline_s)
        except PlatformError:
            self.helpers.end(name)
            raise

    def end(self, fault: str, target: Target) -> JSON:
        """From any process. Where the container is gone, it has ended its fault, or its target has taken the network along."""
        name = _name(fault, target)
        found = self.helpers.there(name)
        if found is None:
            return {"fault": fault, "cleared": False}
        room = Room(found["Id"], name)
        try:
            answer = self.agents.end_in(room, fault, target)
            if "table" not in answer:  # no agent had left a record of its own
                answer = {**answer, **asked(RoomDoors(self.api), room, "sweep", fault)}
        except PlatformError:
            if came(lambda: self.helpers.there(name) is None, END_S, Event(), LOOK_EVERY_S):
                return {"fault": fault, "cleared": False}  # its agent was just undoing by itself
            raise
        self.helpers.end(name)
        return {**answer, "fault": fault, "cleared": True}

    def rules(self, target: Target) -> list[JSON]:
        """Those in force in the target's network, with how often each was met."""
        found = []
        for each in self.beside(parts_of(target.identity)[0]):
            record = json.loads(each["Labels"][UNDO])
            room = Room(each["Id"], each["Names"][0].lstrip("/"))
            rule = {key: value for key, value in record["rule"].items() if key != "towards"}
            try:
                if met := counted(RoomDoors(self.api), room, record["fault"], rule):
                    found.append(met)
            except PlatformError:
                if self.helpers.there(room.name):  # one that ends in this moment holds no rule
                    raise
        return found

    def beside(self, container: str) -> list[JSON]:
        """Containers of ours that share that one's network."""
        return [each for each in self.helpers.all(**{TARGET: container}) if each["State"] == "running" and UNDO in each["Labels"]]


def _name(fault: str, target: Target) -> str:
    return name_of("net", f"{fault}/{target.name}")


def _body(network: str, seconds: float) -> JSON:
    host = {"NetworkMode": network, "CapDrop": ["ALL"], "CapAdd": ["NET_ADMIN"]}
    return {"User": "0:0", "Cmd": ["-c", SLEEP, str(seconds)], "HostConfig": host}
