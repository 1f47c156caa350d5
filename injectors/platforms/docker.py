"""Services in containers of a Docker engine (`platform: docker`).

A target is a container by its ID and start, under the name of its slot (docker_find.py), or a process inside one. What happens inside
is done by an agent in the victim's container, started by `exec`; where that has no python3 and the engine runs on this machine, by an
agent here, on the processes that /proc shows.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import ClassVar

from ..values import JSON
from . import Where
from .alone_here import AloneHere
from .base import Means, PlatformError, Target, Unavailable, Unfit, Unsupported, came
from .container_files import ContainerFiles
from .docker_agents import AT_HOME, RoomAgents, barred, matching_at_home, refuse_foreign_processes, sees_others
from .docker_api import DockerApi
from .docker_exec import Room, RoomDoors
from .docker_find import Finder, name_of, networks_of, room_of, runs, short, volume_of
from .docker_gpu import GpuRooms
from .docker_helpers import RUN, TARGET, Helpers
from .docker_inline import InlineRooms
from .docker_lifecycle import RoomLifecycle, remarks_on
from .docker_links import RoomLinks
from .docker_outpost import RoomOutposts
from .docker_pause import begin_pause, process_of
from .docker_rooms import VolumeRooms
from .docker_sharers import strangers
from .docker_watch import Addresses
from .exec_agents import PLACES, look
from .exec_agents import process_of as process_inside
from .local_agents import LocalAgents
from .process_table import alive

COME_BACK_S, LOOK_EVERY_S = 15.0, 0.05


class DockerPlatform(ContainerFiles[Room], RoomLifecycle, RoomLinks, AloneHere):
    """One service on one engine. `state` is blackstart's state folder, for agents on this machine."""

    name: ClassVar[str] = "docker"
    witness: ClassVar[str] = "containers by ID and start from the engine, processes from their container's /proc"

    def __init__(self, api: DockerApi, where: Where, state: Path, environment: Mapping[str, str]) -> None:
        assert where.docker is not None
        self.api, self.doors, self.where = api, RoomDoors(api), where
        self.inside_roles = dict(where.inside)
        self.given_up = Event()
        self.finder = Finder(api, where.docker, self._reaches)
        self.agents = RoomAgents(self.doors, self.given_up, self._room_of, self._rooms)
        self.here = LocalAgents(Path("/"), state, environment, self.given_up)
        self.helpers = Helpers(api, where.image, self.given_up)
        self.inline = InlineRooms(api, self.agents, self.helpers)
        self.beside_accelerators = GpuRooms(api, self.agents, self.helpers, self.finder.container, where.privilege)
        self.slow_site = VolumeRooms(api, self.agents, self.helpers, self.finder.container, where.privilege)
        self.addresses = Addresses(self.finder)
        self._fit: set[str] = set()  # IDs of containers in which an agent can work

    def close(self) -> None:
        self.addresses.close()
        self.agents.close()
        self.here.close()
        self.api.close()

    # --- looking ---

    @property
    def context(self) -> str | None:
        return self.api.context

    @property
    def place(self) -> str:
        return f"containers of the Docker engine at {self.api.host}"

    @cached_property
    def _info(self) -> JSON:
        found: JSON = self.api.get("/info")
        return found

    def fingerprint(self) -> str:
        return str(self._info["ID"])

    def remarks(self) -> list[str]:
        return [remark for name, _, container in self.finder.everything() for remark in remarks_on(name, container)]

    def denied(self, means: Means) -> list[str]:
        """Who may open the engine's socket may do everything; what is missing is the image of a prober."""
        with suppress(Unsupported):
            if means.beside:
                self.helpers.named_image("python3")
            return []
        return [
            f"the prober's container needs an image with python3 that the engine has: probe.image is {self.where.image or 'not given'}"
        ]

    def role(self, name: str, means: Means) -> JSON:
        del name, means
        raise Unsupported("a Docker engine knows no roles: who may open its socket may do everything")

    def address(self, service: str, port: int) -> str:
        raise Unsupported(f"service {service}, port {port}: on Docker give endpoint.url")

    @property
    def outposts(self) -> RoomOutposts:
        return RoomOutposts(self.api, self.helpers, self._networks)

    def _networks(self) -> list[str]:
        return [
            name
            for _, part, each in self.finder.everything()
            if part.role == "replica" and runs(each)
            for name in networks_of(each)
        ]

    def _reaches(self, container: JSON) -> bool:
        """Whether its own address can be reached from where is measured."""
        rootless = any("rootless" in each for each in self._info.get("SecurityOptions") or [])
        return self.where.beside or (not rootless and process_of(container) is not None)

    def find(self) -> tuple[Target, ...]:
        found = self.finder.all()
        self.addresses.begin_from(found)
        return found

    def moved(self) -> tuple[tuple[str, str], ...]:
        return self.addresses.moved()

    def recall(self, targets: tuple[Target, ...]) -> None:
        """Their names are the engine's or Compose's."""

    def inside(self, target: Target, role: str) -> tuple[Target, ...]:
        if role not in self.inside_roles:
            known = ", ".join(self.inside_roles) or "none"
            raise Unsupported(
                f"the service file says of no role {role} how it is found inside a container (`roles`); it has {known}"
            )
        container = self.finder.very(target)
        if container is None:
            return ()
        mark, matching = self._matching(target, container, re.compile(self.inside_roles[role]))
        found = []
        for number, each in enumerate(matching):
            name = f"{target.name}/{role}" if len(matching) == 1 else f"{target.name}/{role}-{number}"
            identity = f"{target.identity}{mark}{each['identity'].removeprefix('pid:')}"
            found.append(Target(identity, name, role, {"command": each["command"], "component_role": target.role}))
        return tuple(found)

    def _matching(self, target: Target, container: JSON, pattern: re.Pattern[str]) -> tuple[str, list[JSON]]:
        """As they are seen inside; where no agent there could reach them, as this machine sees them. Raises Unsupported."""
        refuse_foreign_processes(target, container)
        try:
            found = [each for each in self.around(target) if pattern.search(each["command"])]
        except Unsupported as error:
            why = str(error)
        else:
            why = barred(target, found)
            if not why:
                return "/pid:", found
        return AT_HOME, matching_at_home(container, pattern, why)

    def current(self, name: str) -> Target | None:
        slot, _, inner = name.partition("/")
        target = self.finder.one(slot)
        if target is None or not inner:
            return target
        role = next((role for role in self.inside_roles if inner == role or inner.startswith(f"{role}-")), inner)
        return next((found for found in self.inside(target, role) if found.name == name), None)

    def state(self, target: Target) -> str:
        """`stopped` is a container that the engine has paused; one that was started anew is another."""
        if AT_HOME in target.identity:
            process = alive(process_inside(target.identity))
            return "gone" if process is None else "stopped" if process.stopped else "running"
        container = self.finder.very(target)
        if container is None:
            return "gone"
        if container["State"]["Paused"]:
            return "stopped"
        if "/pid:" not in target.identity:
            return "running"
        process_ = process_inside(target.identity)
        try:
            return str(look(self.doors, room_of(container), "states", {"identities": [process_]})["states"][process_])
        except Unavailable:
            raise
        except PlatformError:
            if self.finder.very(target) is None:
                return "gone"
            raise

    def started_s(self, target: Target) -> float | None:
        container = self.finder.very(target)
        return datetime.fromisoformat(container["State"]["StartedAt"]).timestamp() if container else None

    def start_missing(self) -> tuple[str, ...]:
        return ()

    def started(self) -> tuple[str, ...]:
        return ()

    def stop_started(self) -> None:
        """Nothing is started here."""

    # --- agents ---

    def agent_begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON:
        identities = parameters.get("processes", ())
        if identities and all("/pid:" not in each for each in identities):
            return begin_pause(self.api, self.here, fault, target, deadline_s)
        if identities and all(AT_HOME in each for each in identities):
            at_home = {**parameters, "processes": [process_inside(each) for each in identities]}
            return self.here.begin(fault, target, verb, at_home, deadline_s)
        return self.agents.begin(fault, target, verb, parameters, deadline_s)

    def agent_end(self, fault: str, target: Target, beside: Sequence[str] = ()) -> JSON:
        """A container that was started again keeps its files, and so may its record."""
        if self.here.holds(fault, target):
            return self.here.end(fault, target)
        slot = target.name.partition("/")[0]
        if (container := self.finder.container(slot)) is None:
            return self.agents.end(fault, target, None, beside)
        if not came(lambda: self.finder.one(slot) is not None, COME_BACK_S, Event(), LOOK_EVERY_S):
            name = name_of(container)
            raise PlatformError(
                f"{name} does not run, so what was done inside it cannot be looked at; start it: docker start {name}"
            )
        return self.agents.end(fault, target, self.finder.one(slot), beside)

    def space(self, target: Target, folder: str) -> tuple[int, int]:
        """Raises Unsupported where nothing can be written: said before a drill, because its plan asks."""
        found = self._look(target, "space", path=folder)
        if not found["writable"]:
            raise Unsupported(
                f"{folder} cannot be written to by the user that commands in {target.name} have, or is mounted read-only"
            )
        return found["size_bytes"], found["free_bytes"]

    def file(self, target: Target, path: str) -> JSON:
        found, container = self._look(target, "exists", path=path), self.finder.very(target)
        held = volume_of(container, found["real"]) if container else {"id": "", "outlives": False, "apart": False, "unfit": ""}
        return {**found, **held}

    def strangers(self, files: Sequence[tuple[Target, str]]) -> str:
        return strangers(self.finder, files)

    def _refuse_foreign(self, target: Target) -> None:
        if container := self.finder.very(target):
            refuse_foreign_processes(target, container)

    def _shares_processes(self, target: Target) -> bool:
        return sees_others(self.finder.very(target))

    def _room_of(self, target: Target) -> Room | None:
        container = self.finder.very(target)
        return room_of(container) if container else None

    def _container(self, target: Target) -> Room | None:
        """Raises Unsupported where no agent could work in it: said before a drill, because every plan looks inside."""
        where = self._room_of(target)
        if where and where.id not in self._fit:
            if not look(self.doors, where, "around", {})["places"]:
                raise Unfit(
                    f"{where} has no folder that can be written to ({PLACES}), and an undo record needs one; give it a tmpfs"
                )
            self._fit.add(where.id)
        return where

    def _rooms(self, main: Room) -> list[Room]:
        """The container, and those of ours in its network."""
        return [main, *(Room(each["Id"], each["Names"][0].lstrip("/")) for each in self.inline.beside(short(main.id)))]

    # --- what was left ---

    def left_by(self) -> list[str]:
        """Runs with containers of ours beside the service."""
        ours = {short(container["Id"]) for _, _, container in self.finder.everything()}
        return sorted({each["Labels"][RUN] for each in self.helpers.all() if each["Labels"].get(TARGET) in ours})

    def sweep(self, run: str) -> None:
        self.inline.end_run(run)

    def abandon(self, run: str) -> None:
        self.sweep(run)
