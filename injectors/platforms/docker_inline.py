"""Rules for which something must stand in a container's own network: a container of ours that shares it, with net_agent.py in it.

It is there for one fault and one target, drops all capabilities but NET_ADMIN, and ends by itself: at the deadline, or once the agent
in it has undone its fault and removed its record. Then the engine removes it, so that nothing of it stays.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Event

from ..values import JSON
from .base import PlatformError, Target, Unsupported, came
from .docker_api import DockerApi, EngineError, at
from .docker_exec import Room, RoomDoors
from .docker_find import parts_of, runs
from .docker_helpers import FAULT, OURS, RUN, START, TARGET, TRY, UNDO, Helpers, name_of
from .exec_agents import ContainerAgents
from .net_rooms import asked, counted, request_of
from .own_rooms import SLEEP, run_of

SLACK_S, END_S, LOOK_EVERY_S = 60.0, 5.0, 0.1


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
        self.helpers.remove_unstarted()
        try:
            room = self.helpers.begin(name, {OURS: TRY}, _body("none", 60.0))
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
        (number, start), name, rule = parts_of(target.identity), _name(fault, target), way.rule
        undo = {"fault": fault, "link": way.link, "rule": rule, "target": target.name}
        labels = {OURS: "network", RUN: run_of(fault), FAULT: fault, TARGET: number, START: start, UNDO: json.dumps(undo)}
        room = self.helpers.begin(name, labels, _body(f"container:{number}", deadline_s + SLACK_S))
        verb, request = request_of(rule, way.peers, (), room.name)
        try:
            return self.agents.begin(fault, target, verb, request, deadline_s)
        except PlatformError:
            with suppress(PlatformError):  # whoever undoes the fault asks again
                self.end(fault, target)  # not the container alone: its death would kill the agent before it has undone anything
            raise

    def end(self, fault: str, target: Target) -> JSON:
        """From any process."""
        name = _name(fault, target)
        found = self.helpers.there(name)
        if found is None:
            return self._swept(fault, target)
        room = Room(found["Id"], name)
        try:
            answer = self.agents.end_in(room, fault, target)
            if "table" not in answer:  # no agent had left a record of its own
                answer = {**answer, **asked(RoomDoors(self.api), room, "sweep", fault)}
        except PlatformError:
            if came(lambda: self.helpers.there(name) is None, END_S, Event(), LOOK_EVERY_S):
                return self._swept(fault, target)
            raise
        self.helpers.end(name)
        return {**answer, "fault": fault, "cleared": True}

    def _swept(self, fault: str, target: Target) -> JSON:
        """Where the container is gone, its agent has undone the fault, the target has taken the network along, or somebody has ended
        both, and the rules are still there: so a new one looks into the network, if the target still runs.
        """
        number, start = parts_of(target.identity)
        there = self.api.there(at("containers", number, "json")) if number else None
        if there is None or not runs(there) or there["State"]["StartedAt"] != start:
            return {"fault": fault, "cleared": False}
        name = name_of("net-sweep", f"{fault}/{target.name}")
        self.helpers.end(name)  # one whose asker has died
        room = self.helpers.begin(name, {OURS: "sweep", RUN: run_of(fault)}, _body(f"container:{number}", SLACK_S))
        try:
            answer = asked(RoomDoors(self.api), room, "sweep", fault)
        finally:
            self.helpers.end(name)
        return {**answer, "fault": fault, "cleared": True, "event": "undone"} if answer["swept"] else {**answer, "cleared": False}

    def end_run(self, run: str) -> list[str]:
        """Undo what that run's containers hold, remove them, and say so. Raises PlatformError."""
        said = []
        for each in self.helpers.all(**{RUN: run}):
            name = str(each["Names"][0]).lstrip("/")
            if UNDO in each["Labels"]:
                record, labels = json.loads(each["Labels"][UNDO]), each["Labels"]
                target = Target(f"container:{labels[TARGET]}@{labels[START]}", record["target"], "")
                same_image = replace(self.helpers, image=each["Image"])  # the service file, which names one, may be elsewhere
                answer = replace(self, helpers=same_image).end(record["fault"], target)
                said.append(f"{record['rule']['type']} on {record['target']}: {answer.get('event', 'nothing was left')}")
            self.helpers.end(name)
            said.append(f"removed container {name}")
        return said

    def rules(self, target: Target) -> list[JSON]:
        """Those in force in the target's network, with how often each was met; not in the network that an earlier start of it had."""
        found = []
        number, start = parts_of(target.identity)
        for each in self.beside(number):
            if each["Labels"][START] != start:
                continue
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
