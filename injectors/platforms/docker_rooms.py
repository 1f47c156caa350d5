"""Containers of our own beside a target, each for one agent: how they are found and ended, and those that are given the target's volumes.

Either kind has no network, no capability but what it is for, and ends by itself: at the deadline, or once the agent in it has let go. The
target's death does not end it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..values import JSON
from .base import PlatformError, Target, Unsupported
from .docker_api import DockerApi, EngineError, at
from .docker_exec import Room, RoomDoors
from .docker_find import mount_of, parts_of
from .docker_helpers import FAULT, LOOK, OURS, RUN, START, TARGET, Helpers, name_of
from .exec_agents import ContainerAgents
from .own_rooms import FILE_RIGHTS, MOST, SLEEP, OwnRooms, Wanted, WithVolumes, run_of


@dataclass
class EngineRooms(OwnRooms[Room]):
    """Those of one service. `standing`: what is in a slot now; `privilege`: the most that is allowed."""

    api: DockerApi
    agents: ContainerAgents[Room]
    helpers: Helpers
    standing: Callable[[str], JSON | None]
    privilege: str = MOST

    purpose: ClassVar[str]  # in names, and as the value of the label OURS
    called: ClassVar[str] = "container"

    @property
    def _doors(self) -> RoomDoors:
        return RoomDoors(self.api)

    def _name(self, fault: str, target: Target) -> str:
        return name_of(self.purpose, f"{fault}/{target.name}")

    def _look_name(self, target: Target) -> str:
        return name_of(f"{self.purpose}-look", f"{target.identity} {os.getpid()} {id(self)}")

    def _holding(self, name: str) -> Room | None:
        found = self.helpers.there(name)
        return Room(found["Id"], name) if found else None

    def _began(self, wanted: Wanted, body: JSON, what: str) -> Room:
        """`what` it is, in words, where the engine does not take it. Raises Unsupported."""
        if wanted.looks:
            self.helpers.remove_unstarted()
        image = self.helpers.named_image("python3")
        host = {"NetworkMode": "none", **body.pop("HostConfig")}
        whole: dict[str, Any] = {**body, "Cmd": ["-c", SLEEP, str(wanted.seconds)], "HostConfig": host}
        try:
            return self.helpers.begin(wanted.name, self._labels(wanted), whole)
        except EngineError as error:
            raise Unsupported(f"a container of image {image} that {what} cannot be started: {error}") from error

    def _labels(self, wanted: Wanted) -> dict[str, str]:
        run = {RUN: run_of(wanted.fault)} if wanted.fault else {}
        if wanted.looks:
            return {OURS: LOOK, **run}
        number, start = parts_of(wanted.target.identity)
        return {OURS: self.purpose, **run, FAULT: wanted.fault, TARGET: number, START: start}

    def _end(self, name: str) -> None:
        self.helpers.end(name)

    def _place(self, room: Room, target: Target) -> JSON:
        del target
        return {"container": room.name}

    def _container(self, target: Target) -> JSON | None:
        """The target's, or what stands in its place."""
        return self.api.there(at("containers", parts_of(target.identity)[0], "json")) or self.standing(target.name)


@dataclass
class VolumeRooms(EngineRooms, WithVolumes[Room]):
    """Containers with the volumes and bind mounts that hold the target's files, to read; a `SlowSite`."""

    purpose: ClassVar[str] = "files"

    def _given(self, target: Target, parameters: JSON) -> JSON:
        container = self._container(target)
        if container is None:
            raise PlatformError(f"{target.name} ({target.identity}) is gone, and with it what tells which volumes it had")
        mounts: dict[str, JSON] = {}
        for path in parameters["paths"]:
            mount = mount_of(container, path)
            if mount is None or mount["Type"] not in {"volume", "bind"}:
                raise Unsupported(f"{path} lies on no volume or bind mount of {target.name}")
            mounts[mount["Destination"]] = mount
        return {"Binds": [f"{each.get('Name') or each['Source']}:{where}:ro" for where, each in mounts.items()]}

    def _begun(self, wanted: Wanted) -> Room:
        what = f"has the volumes of {wanted.target.name} and may be asked before they are read ({', '.join(FILE_RIGHTS)})"
        return self._began(wanted, {"User": "0", "HostConfig": {"CapAdd": list(FILE_RIGHTS), **wanted.way}}, what)
