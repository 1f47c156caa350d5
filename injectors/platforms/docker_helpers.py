"""Containers of our own beside a service: named, labelled with the run that they belong to, and gone by themselves when they end."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import Any, Final

from ..values import JSON
from .base import PlatformError, Unsupported, came
from .docker_api import Conflict, DockerApi, NotThere, at
from .docker_exec import Room

OURS: Final = "blackstart"  # the label that all of them carry; its value says what for
RUN, FAULT, UNDO, TARGET = f"{OURS}.run", f"{OURS}.fault", f"{OURS}.undo", f"{OURS}.target"
START: Final = f"{OURS}.start"  # of the target, which keeps its ID when it starts again
LOOK, TRY = "look", "try"  # values of the label OURS: containers that belong to no run and last for seconds
STOP_S, GONE_S, LOOK_EVERY_S = 2, 20.0, 0.1
UNSTARTED_S = 60.0
FAMILY: Final = "blackstart-"


def name_of(what: str, key: str) -> str:
    return f"{FAMILY}{what}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Helpers:
    """Makes and removes them. `image`: with python3; None: the service file names none."""

    api: DockerApi
    image: str | None
    given_up: Event

    def named_image(self, purpose: str) -> str:
        """Raises Unsupported where there is none; nothing is pulled by a drill."""
        if self.image is None:
            raise Unsupported(f"a container has to stand beside the service; name an image with {purpose}: probe.image")
        return present(self.api, self.image)

    def begin(
        self, name: str, labels: Mapping[str, str], body: Mapping[str, Any], filled: Callable[[str], None] | None = None
    ) -> Room:
        """Create and start one; `filled` is called with its ID in between. Raises PlatformError."""
        given = dict(body)
        host = {"AutoRemove": True, "SecurityOpt": ["no-new-privileges"], "CapDrop": ["ALL"], **given.pop("HostConfig", {})}
        whole = {"Image": self.image, "Entrypoint": ["python3", "-I", "-S"], "Labels": dict(labels), **given, "HostConfig": host}
        try:
            made = self.api.post("/containers/create", whole, name=name)
        except Conflict as error:
            raise PlatformError(f"there is a container {name} already") from error
        room = Room(str(made["Id"]), name)
        try:
            if filled:
                filled(room.id)
            self.api.post(at("containers", room.id, "start"))
        except PlatformError:
            self.api.delete(at("containers", room.id), force="true")  # one that never started is not removed by itself
            raise
        return room

    def there(self, name: str) -> JSON | None:
        """Of that name, as long as it runs."""
        found = self.api.there(at("containers", name, "json"))
        return found if found and found["State"]["Running"] else None

    def all(self, **labels: str) -> list[JSON]:
        """Those that are there, by their labels."""
        wanted = [OURS, *(f"{key}={value}" for key, value in labels.items())]
        return list(self.api.get("/containers/json", all=1, filters={"label": wanted}))

    def remove_unstarted(self) -> None:
        """Looks and tries whose maker died before it had started them: the engine would keep them for ever. By the engine's own clock."""
        unstarted = self.api.get("/containers/json", all=1, filters={"label": [OURS], "status": ["created"]})
        found = [each for each in unstarted if each["Labels"][OURS] in {LOOK, TRY}]
        if not found:
            return
        now_s = datetime.fromisoformat(self.api.get("/info")["SystemTime"]).timestamp()
        for each in found:
            if now_s - each["Created"] > UNSTARTED_S:
                self.api.delete(at("containers", each["Id"]), force="true")

    def end(self, name: str) -> bool:
        """Stop one and wait until it is gone; whether there was one. Raises PlatformError."""
        try:
            with suppress(Conflict):  # it is just being removed
                self.api.post(at("containers", name, "stop"), t=STOP_S)
        except NotThere:
            return False
        limit = Event()  # also where the drill is given up
        if not came(lambda: self.api.there(at("containers", name, "json")) is None, GONE_S, limit, LOOK_EVERY_S):
            self.api.delete(at("containers", name), force="true")
        return True


def present(api: DockerApi, image: str) -> str:
    """That image, where the engine has it. Raises Unsupported."""
    if api.there(at("images", image, "json")) is None:
        raise Unsupported(f"the engine has no image {image}; pull it first: docker pull {image}")
    return image
