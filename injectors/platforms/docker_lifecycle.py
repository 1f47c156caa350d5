"""Containers that die, restart and come back."""

import math
import re
import signal
import threading
from contextlib import suppress
from threading import Event

from ..values import JSON
from .base import PlatformError, Target, Unsupported, came
from .docker_agents import AT_HOME
from .docker_api import ANSWER_S, Conflict, DockerApi, at
from .docker_exec import Room
from .docker_find import Finder, identity_of, name_of, restarts_itself, room_of, runs
from .docker_pause import process_of, refuse_pause
from .exec_agents import Doors, look
from .exec_agents import process_of as process_inside
from .process_table import alive, send

STAND_LIMIT_S, LOOK_EVERY_S = 60.0, 0.05
STOP_S = 10.0  # the engine's own default between the stop signal and SIGKILL


class RoomLifecycle:
    """What is done to a container as a whole, and to single processes in it."""

    api: DockerApi
    doors: Doors[Room]
    finder: Finder
    given_up: Event

    def whole(self, target: Target, number: int) -> str:
        container = self.finder.very(target)
        if number == signal.SIGSTOP and container:
            return refuse_pause(self.api, container)
        return "dies as a whole by replica-kill; name the processes inside it by `role`, e.g. role: engine"

    def signal(self, target: Target, number: int) -> None:
        if AT_HOME in target.identity:
            send(process_inside(target.identity), number)
        elif "/pid:" not in target.identity:
            raise Unsupported(f"{target.name} is a container; only processes inside one can be signalled")
        elif container := self.finder.very(target):
            look(self.doors, room_of(container), "signal", {"identity": process_inside(target.identity), "number": int(number)})

    def kill(self, target: Target, grace_s: float = 0.0) -> None:
        """As a crash, where this machine can: the engine takes its own `kill` for a stop by hand, after which it starts nothing again.

        Elsewhere the container is killed by the engine, and started again by us where its restart policy would have.
        """
        container = self.finder.very(target)
        if container is None:
            return
        main = process_of(container)
        if main and self._signalled(main.identity, container, grace_s):
            return
        with suppress(Conflict):  # it has ended in this moment
            if grace_s:
                self.api.post(at("containers", container["Id"], "stop"), wait_s=grace_s + ANSWER_S, t=math.ceil(grace_s))
            else:
                self.api.post(at("containers", container["Id"], "kill"))
        if restarts_itself(container):
            self.api.post(at("containers", container["Id"], "start"))

    def _signalled(self, process: str, container: JSON, grace_s: float) -> bool:
        """Whether its first process could be ended from here; all others in it end with it."""
        try:
            send(process, _stop_signal(container) if grace_s else signal.SIGKILL)
        except PlatformError:  # somebody else's
            return False
        if grace_s:
            came(lambda: alive(process) is None, grace_s, self.given_up, LOOK_EVERY_S)
            send(process, signal.SIGKILL)
        return True

    def restart(self, target: Target) -> None:
        """By the engine, which goes through with it whatever becomes of us: stop signal, its own time limit, SIGKILL, a new start."""
        container = self.finder.very(target)
        if container is None:
            return
        limit_s = float(container["Config"].get("StopTimeout") or STOP_S) + STAND_LIMIT_S
        words = (at("containers", container["Id"], "restart"),)
        threading.Thread(target=self._post_quietly, args=words, kwargs={"wait_s": limit_s}, daemon=True).start()

        def replaced() -> bool:
            now = self.finder.container(target.name)
            return now is not None and runs(now) and identity_of(now) != target.identity

        if not came(replaced, limit_s, self.given_up, LOOK_EVERY_S):
            raise PlatformError(f"{target.name} does not run again {limit_s:g} s after it was asked to")

    def _post_quietly(self, path: str, wait_s: float) -> None:
        with suppress(PlatformError):  # whoever waits sees that it does not come
            self.api.post(path, wait_s=wait_s)

    def revive(self, name: str) -> None:
        container = self.finder.container(name.partition("/")[0])
        if container and not container["State"]["Running"]:
            self.api.post(at("containers", container["Id"], "start"))

    def revivable(self, name: str) -> bool:
        """Any container can be started again but one that is removed when it ends."""
        container = self.finder.container(name.partition("/")[0])
        return container is not None and not container["HostConfig"].get("AutoRemove")


def _stop_signal(container: JSON) -> int:
    """As the engine reads it: a number, a name with or without SIG, or RTMIN+3, as images with systemd have it. Raises Unsupported."""
    named = str(container["Config"].get("StopSignal") or "SIGTERM")
    found = re.fullmatch(r"(?:SIG)?([A-Z]\w*?)([+-]\d+)?", named.upper())
    if named.isdigit():
        return int(named)
    if not found or f"SIG{found[1]}" not in signal.Signals.__members__:
        raise Unsupported(f"{name_of(container)} is to be stopped by {named}, which is no signal on this machine")
    return int(signal.Signals[f"SIG{found[1]}"]) + int(found[2] or 0)


def remarks_on(name: str, container: JSON) -> list[str]:
    """What its death would be like, where that is not what a crash in production is."""
    if not restarts_itself(container):
        return [f"{name} has no restart policy: when it dies, nothing but the drill's undo starts it again"]
    main = process_of(container)
    try:
        if main:
            send(main.identity, 0)
    except PlatformError:
        return [
            f"{name}: this user may not signal its processes, so replica-kill is the engine's own `kill`, and blackstart starts it again"
        ]
    return []
