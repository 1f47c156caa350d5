"""Services made of local processes (`platform: process`).

A target is a process with its start time; what belongs to a component and what never may be hit is decided in
`process_find`. Nothing is ever signalled by name.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import ClassVar

from ..values import JSON
from .abilities import HERE
from .alone_here import AloneHere
from .base import PlatformError, Target, Unsupported, came
from .links import LinkControl, runtime_folder
from .local_agents import LocalAgents
from .local_commands import run_command
from .local_files import LocalFiles
from .process_find import Finder, Standing
from .process_spec import ProcessSpec
from .process_start import Starter
from .process_table import (
    Usage,
    alive,
    descendants,
    lineage,
    memory_available,
    send,
    snapshot,
    started_s,
    usage,
)

GRACE_S = 30.0  # between SIGTERM and SIGKILL in a restart: the default of Kubernetes (terminationGracePeriodSeconds)
STOP_GRACE_S = 10.0
STAND_LIMIT_S = 60.0
READ_S, SLOWEST = 900.0, 50 << 20  # a look at files may take that long, and a second more for each so many bytes
LOOK_EVERY_S = 0.005
STAND_EVERY_S = 0.05  # finding a component reads the whole process table


class ProcessPlatform(LocalFiles, AloneHere):
    """`folder` is where relative paths of the service file start, `state` blackstart's state folder."""

    name: ClassVar[str] = "process"
    rules_are_the_path: bool = True
    witness: ClassVar[str] = "process table"

    def __init__(self, spec: ProcessSpec, folder: Path, state: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder.absolute())
        self.given_up = Event()
        self.finder = Finder(spec, self.folder, state)
        self.starter = Starter(spec, self.folder, state, environment)
        self.agents = LocalAgents(self.folder, state, environment, self.given_up)
        self.link_control = LinkControl(
            spec.links,
            runtime_folder(environment),
            {component.name: component.role for component in self.finder.components.values()},
        )
        self.environment = dict(environment)

    def close(self) -> None:
        """End the agents and link rules that this object holds. Components stay as they are."""
        self.agents.close()
        self.link_control.close()

    # --- looking ---

    def find(self) -> tuple[Target, ...]:
        return tuple(standing.target() for standing in self.finder.all())

    def inside(self, target: Target, role: str) -> tuple[Target, ...]:
        return self.finder.inside(target, role)

    def current(self, name: str) -> Target | None:
        """By a component's name, or by that of a process inside one (`r0/engine`)."""
        component, _, inner = name.partition("/")
        standing = self.finder.one(component)
        if standing is None or not inner:
            return standing.target() if standing else None
        role = next((role for role in self.finder.inside_roles if inner == role or inner.startswith(f"{role}-")), inner)
        return next((found for found in self.inside(standing.target(), role) if found.name == name), None)

    def state(self, target: Target) -> str:
        process = alive(target.identity)
        if process is None:
            return "gone"
        return "stopped" if process.stopped else "running"

    def started_s(self, target: Target) -> float | None:
        return started_s(target.identity)

    def recall(self, targets: tuple[Target, ...]) -> None:
        """The service file names them."""

    def moved(self) -> tuple[tuple[str, str], ...]:
        """Ports are the service file's, whatever process listens there."""
        return ()

    # --- lifecycle ---

    def whole(self, target: Target, number: int) -> str:
        """A component is processes."""
        del target, number
        return ""

    def signal(self, target: Target, number: int) -> None:
        _refuse_protected([target.identity])
        send(target.identity, number)

    def kill(self, target: Target, grace_s: float = 0.0) -> None:
        """SIGKILL the whole tree. It is frozen first; an agent does both, so that nothing stays frozen when blackstart dies."""
        if grace_s:
            self.signal(target, signal.SIGTERM)
            came(lambda: alive(target.identity) is None, grace_s, self.given_up, LOOK_EVERY_S)
        if members := self._belonging(target):
            _refuse_protected(members)
            group = target.identity if target.name in self.finder.components else None
            self.agents.kill_tree(target, {"processes": members, "group": group, "spare": self._others(target)})

    def restart(self, target: Target) -> None:
        """SIGTERM to the main process, after the grace period SIGKILL to the rest, then wait until a new one stands there.

        Raises Unsupported when nothing would bring it back, PlatformError when nothing has within 60 s.
        """
        if not self.revivable(target.name):
            raise Unsupported(f"nothing would start {target.name} again: it has no start command and no supervisor")
        members = self._belonging(target)
        self.signal(target, signal.SIGTERM)
        came(lambda: alive(target.identity) is None, GRACE_S, self.given_up, LOOK_EVERY_S)
        for identity in members:
            send(identity, signal.SIGKILL)  # as a kubelet ends what is left of a pod
        self.revive(target.name)
        self._await_standing(target.name, lambda now: now.main.identity != target.identity)

    def revive(self, name: str) -> None:
        """Start it when nothing stands there and nothing else would; does not wait until it serves."""
        component = self.finder.components[name.partition("/")[0]]
        if component.start and not component.supervised and self.finder.one(component.name) is None:
            self.starter.start(component, ours=False)

    def revivable(self, name: str) -> bool:
        component = self.finder.components[name.partition("/")[0]]
        return bool(component.start) or component.supervised

    def start_missing(self) -> tuple[str, ...]:
        """Start, one after another, every component that has a start command and is not there; returns their names.

        Each must stand (listen, for one that is found by its port) within 60 s; otherwise all of them are ended again and
        PlatformError says what the failed one wrote last.
        """
        started = []
        for component in self.finder.components.values():
            if component.start and not component.supervised and self.finder.one(component.name) is None:
                try:
                    self.starter.start(component, ours=True)
                    started.append(component.name)
                    self._await_standing(component.name, lambda _: True)
                except PlatformError:
                    self.stop_started()
                    raise
        return tuple(started)

    def started(self) -> tuple[str, ...]:
        return tuple(name for name, identity in self.starter.owned() if alive(identity))

    def stop_started(self) -> None:
        """End exactly what `start_missing` started, and what was revived in its place: SIGTERM, after 10 s SIGKILL."""
        owned = [(name, identity) for name, identity in self.starter.owned() if alive(identity)]
        trees = {name: self._belonging(Target(identity, name, "")) for name, identity in owned}
        for _, identity in reversed(owned):
            send(identity, signal.SIGTERM)
        came(lambda: not any(alive(identity) for _, identity in owned), STOP_GRACE_S, self.given_up, LOOK_EVERY_S)
        for name, identity in owned:
            for member in trees[name]:
                send(member, signal.SIGKILL)
            self.kill(Target(identity, name, ""))
        for name, _ in self.starter.owned():
            self.starter.forget(name)

    def _belonging(self, target: Target) -> list[str]:
        """Identities of all that belongs to the target now, parents before children; empty when it is gone."""
        standing = self.finder.one(target.name) if target.name in self.finder.components else None
        if standing and standing.main.identity == target.identity:
            return [process.identity for process in standing.members]
        main, table = alive(target.identity), snapshot()
        return [table[pid].identity for pid in (main.pid, *descendants(table, main.pid)) if pid in table] if main else []

    def _others(self, target: Target) -> list[str]:
        """Main processes of the other components; one that cannot be told apart is no reason to stop."""
        found = []
        for name in self.finder.components.keys() - {target.name}:
            with suppress(PlatformError):
                found += [standing.main.identity] if (standing := self.finder.one(name)) else []
        return [identity for identity in found if identity != target.identity]

    def _await_standing(self, name: str, accepted: Callable[[Standing], bool]) -> None:
        def stands() -> bool:
            standing = self.finder.one(name)
            if standing is None and self.starter.died(name):
                raise PlatformError(f"{name} ended right after its start: {self.starter.last_words(name)}")
            return standing is not None and accepted(standing)

        if not came(stands, STAND_LIMIT_S, self.given_up, STAND_EVERY_S):
            raise PlatformError(f"{name} does not stand {STAND_LIMIT_S:g} s after its start: {self.starter.last_words(name)}")

    def own_folders(self) -> tuple[str, ...]:
        """The state folder, that of the link proxies' sockets, and where this process stands: runs are written there."""
        folders = (self.agents.records.parent, runtime_folder(self.environment), Path.cwd())
        return tuple(os.path.realpath(folder) for folder in folders)

    # --- agents ---

    def agent_begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON:
        return self.agents.begin(fault, target, verb, parameters, deadline_s)

    def agent_look(self, target: Target, verb: str, parameters: JSON) -> str:
        del target
        limit_s = READ_S + self.size([job["path"] for job in parameters.get("jobs", ())]) / SLOWEST
        return str(self.agents.look(verb, {"fault": "look", "verb": verb, **parameters}, limit_s)["refused"])

    def agent_end(self, fault: str, target: Target, beside: Sequence[str] = ()) -> JSON:
        return self.agents.end(fault, target, beside)

    @property
    def slow_site(self) -> "ProcessPlatform":
        return self

    def agent_lives(self, fault: str, target: Target) -> bool:
        return self.agents.usage(fault, target) is not None

    def unasked(self, fault: str, target: Target, paths: Sequence[str]) -> list[str]:
        return self.agents.unasked(fault, target, paths)

    def agent_usage(self, fault: str, target: Target) -> Usage | None:
        """CPU time, run-queue delay and resident memory of the agent with its children, from the kernel; None: none lives."""
        return self.agents.usage(fault, target)

    def agent_seen(self, fault: str, target: Target) -> JSON | None:
        return self.agents.seen(fault, target)

    def target_usage(self, target: Target) -> Usage | None:
        """The same of the target with its descendants."""
        found = [used for identity in self._belonging(target) if (used := usage(identity))]
        return sum(found[1:], found[0]) if found else None

    def cores(self, target: Target) -> int:
        del target
        return os.cpu_count() or 1

    def memory_available(self, target: Target) -> int | None:
        """Bytes of memory that the target could still get; None where the system does not say."""
        del target
        return memory_available()

    def accelerators(self, target: Target, fault: str, *, opencl: bool) -> JSON:
        found = self.agents.look("saturate-gpu", {"pids": self.pids(target), "fault": fault, "opencl": opencl})
        return {**found, "where": HERE}

    def dcgm(self, device: str) -> JSON:
        return self.agents.look("log-xid", {"dcgm": device})

    # --- links ---

    def links(self, targets: tuple[Target, ...], peers: tuple[str, ...], rule: JSON) -> tuple[str, ...]:
        del rule  # a proxy can have any
        return self.link_control.links(targets, peers)

    def link_begin(self, fault: str, link: str, rule: JSON, deadline_s: float) -> JSON:
        return self.link_control.link_begin(fault, link, rule, deadline_s)

    def link_end(self, fault: str, link: str, rule: JSON) -> JSON:
        del rule  # it is known by its fault
        return self.link_control.link_end(fault, link)

    def link_rules(self, link: str) -> list[JSON]:
        return self.link_control.link_rules(link)

    def link_probe(self, link: str, limit_s: float, want: int = 0) -> JSON:
        return self.link_control.link_probe(link, limit_s, want)

    # --- commands ---

    def execute(self, command: tuple[str, ...], limit_s: float) -> tuple[int, str]:
        """Run one of the user's own commands in the service folder, without a shell: exit status and the end of its output."""
        return run_command(command, limit_s, self.given_up, self.folder, self.environment)


def _refuse_protected(identities: Sequence[str]) -> None:
    """Whatever led here: blackstart, its parents and the init process are never signalled."""
    table = snapshot()
    for pid in lineage(table):
        if pid in table and table[pid].identity in identities:
            raise PlatformError(f"pid {pid} is blackstart itself or above it; it is never a target")
