"""Which processes a component of the service is, found by port, pid file or command line, never by name alone."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .base import HALVES, PlatformError, Target, Unsupported
from .listening import HIDDEN, listeners
from .process_spec import Component, ProcessSpec
from .process_table import Process, Table, ancestors, command_line, descendants, lineage, snapshot, started_at

OWN_PROGRAMS = re.compile(
    r"blackstart\S*/injectors/\S+\.py|injectors/(agent|file_agent|net_agent|gpu_agent|proxy)\.py"
)  # never the service
PID_FILE_SLACK_S = 10.0  # a process that began later than its pid file was written has somebody else's old pid


@dataclass(frozen=True)
class Standing:
    """A component that is there: its main process, and all that belongs to it (the main process first)."""

    component: Component
    main: Process
    members: tuple[Process, ...]

    def target(self) -> Target:
        """Details: `pid`, `command`, `tree`, the identities of all that belongs to it, and `url`, where it answers by itself."""
        tree, own = [process.identity for process in self.members], self.component
        url = own.url or (f"http://127.0.0.1:{own.port}" if own.port else None)
        details = {"pid": self.main.pid, "command": command_line(self.main.pid), "tree": tree, "url": url}
        if own.role in HALVES:
            details["own_url"] = own.url is not None
        return Target(self.main.identity, self.component.name, self.component.role, details)


def components_of(spec: ProcessSpec) -> tuple[Component, ...]:
    """`port: N` is short for one replica, r0."""
    return spec.components or ((Component("r0", "replica", port=spec.port),) if spec.port else ())


def service_key(spec: ProcessSpec, folder: Path) -> str:
    """Tells services apart in the state folder, which all services of this user share, as component names do not, nor folders that several
    service files lie in: how its components are found.
    """
    found_by = [(own.name, own.port, str(own.pid_file), own.command_line) for own in components_of(spec)]
    return hashlib.sha256(repr((str(folder.resolve()), found_by)).encode()).hexdigest()[:12]


class Finder:
    """Finds components among the processes of this machine. `folder` is where relative pid files start.

    What was once seen above two components (a launcher, a supervisor) is remembered below `state`: it must not be taken for
    the only component that is left below it while the others are down.
    """

    def __init__(self, spec: ProcessSpec, folder: Path, state: Path) -> None:
        self.components = {component.name: component for component in components_of(spec)}
        self.inside_roles = spec.inside
        self.folder = folder
        self.memory = state / "shared" / f"{service_key(spec, folder)}.json"

    def all(self) -> tuple[Standing, ...]:
        """Every component that is there, in the order of the service file. Raises PlatformError on ambiguity."""
        table = snapshot()
        seeds = self._seeds(table)
        roots = {name: self._root(self.components[name], seeds, table) for name in self.components}
        by_root: dict[int, str] = {}
        for name, root in roots.items():
            if root is not None and by_root.setdefault(root, name) != name:
                raise PlatformError(f"components {by_root[root]} and {name} are the same process, pid {root}")
        return tuple(self._standing(name, root, roots, table) for name, root in roots.items() if root is not None)

    def one(self, name: str) -> Standing | None:
        """The component of that name; others may be ambiguous without harm to this one."""
        table = snapshot()
        seeds = self._seeds(table)
        root = self._root(self._component(name), seeds, table)
        if root is None:
            return None
        roots: dict[str, int | None] = {name: root}
        for other in self.components.keys() - {name}:
            with suppress(PlatformError):
                roots[other] = self._root(self.components[other], seeds, table)
        return self._standing(name, root, roots, table)

    def inside(self, target: Target, role: str) -> tuple[Target, ...]:
        """Descendants of the target whose command line matches the role, oldest first: r0/engine, r0/engine-2, ..."""
        if role not in self.inside_roles:
            known = ", ".join(sorted(self.inside_roles)) or "none"
            raise Unsupported(
                f"the service file names no processes of role {role} inside a component (process.inside has {known})"
            )
        pattern, table = re.compile(self.inside_roles[role]), snapshot()
        main = next((process for process in table.values() if process.identity == target.identity), None)
        below = [table[pid] for pid in descendants(table, main.pid)] if main else []
        found = [process for process in below if process.pid not in lineage(table) and pattern.search(command_line(process.pid))]
        return tuple(
            Target(
                process.identity,
                f"{target.name}/{role}" + (f"-{number}" if number > 1 else ""),
                role,
                {
                    "pid": process.pid,
                    "command": command_line(process.pid),
                    "tree": [process.identity],
                    "component_role": target.role,
                },
            )
            for number, process in enumerate(found, 1)
        )

    def _component(self, name: str) -> Component:
        if name not in self.components:
            raise PlatformError(f"the service file names no component {name}; it has {', '.join(self.components) or 'none'}")
        return self.components[name]

    def _seeds(self, table: Table) -> Mapping[str, frozenset[int]]:
        """For each component the processes that its port, pid file or command line leads to."""
        holders = listeners(component.port for component in self.components.values() if component.port)
        seeds = {}
        for name, component in self.components.items():
            if component.port:
                seeds[name] = holders.get(component.port, frozenset())
            elif component.pid_file:
                seeds[name] = self._from_pid_file(self.folder / component.pid_file, table)
            else:
                seeds[name] = _matching(component.command_line or "", table)
        return seeds

    def _from_pid_file(self, path: Path, table: Table) -> frozenset[int]:
        try:
            text, written = path.read_text(encoding="ascii").strip(), path.stat().st_mtime
        except FileNotFoundError:
            return frozenset()
        except (OSError, UnicodeDecodeError) as error:
            raise PlatformError(f"the pid file {path} cannot be read: {error}") from error
        if not text.isdigit():
            raise PlatformError(f"the pid file {path} holds {text[:40]!r}, which is not a pid")
        process = table.get(int(text))
        began = started_at(process) if process else None
        if process is None or (began is not None and began > written + PID_FILE_SLACK_S):
            return frozenset()
        return frozenset({process.pid})

    def _root(self, component: Component, seeds: Mapping[str, frozenset[int]], table: Table) -> int | None:
        """The component's main process: what the pid file or command line names, or the top of the tree that has the port."""
        where = f"port {component.port}" if component.port else f"{component.pid_file or component.command_line!r}"
        own = seeds[component.name]
        if HIDDEN in own:
            raise PlatformError(f"{component.name}: somebody else's process listens on {where}; run as its user, or as root")
        protected = lineage(table)
        if own & protected:
            pids = ", ".join(map(str, sorted(own & protected)))
            raise PlatformError(
                f"{component.name}: {where} leads to pid {pids}, which is blackstart itself or above it; never a target"
            )
        for pid in own & table.keys():
            if OWN_PROGRAMS.search(command_line(pid)):
                raise PlatformError(
                    f"{component.name}: {where} is one of blackstart's own programs (pid {pid}); name what stands behind it, and the link "
                    "under process.links"
                )
        roots = set(own & table.keys())
        if component.port and not component.supervised:  # what starts it again is above it, and no part of it
            others = {pid for name, pids in seeds.items() if name != component.name for pid in pids - own}
            above = {pid for other in others for pid in ancestors(table, other)}
            roots = {_top(pid, table, protected | others | above | self._shared(seeds, table)) for pid in roots}
        tops = {root for root in roots if not roots & set(ancestors(table, root))}
        if len(tops) > 1:
            pids = ", ".join(map(str, sorted(tops)))
            raise PlatformError(f"{component.name}: {where} leads to several processes (pids {pids}); it must lead to one")
        return tops.pop() if tops else None

    def _shared(self, seeds: Mapping[str, frozenset[int]], table: Table) -> set[int]:
        """Processes above two components, now or at an earlier look."""
        lines = [{above for pid in pids for above in ancestors(table, pid)} for pids in seeds.values()]
        shared = {pid for number, line in enumerate(lines) for other in lines[:number] for pid in line & other}
        try:
            known = set(json.loads(self.memory.read_text(encoding="utf-8")))
        except FileNotFoundError:
            known = set()
        seen = {table[pid].identity for pid in shared}
        if not seen <= known:
            self.memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            alive = {process.identity for process in table.values()}
            # A reader sees all of it or what was there before, and the digest lane looks at the same time.
            whole = self.memory.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            whole.write_text(json.dumps(sorted(seen | known & alive)), encoding="utf-8")
            whole.replace(self.memory)
        return shared | {process.pid for process in table.values() if process.identity in known}

    def _standing(self, name: str, root: int, roots: Mapping[str, int | None], table: Table) -> Standing:
        fence = {other for key, other in roots.items() if key != name and other is not None}
        below = descendants(table, root, fence)
        foreign = {pid for other in fence for pid in (other, *descendants(table, other, {root}))}
        outside = lineage(table) | foreign | {root, *below}
        # Orphans of the tree are still in its process group, if it has one of its own.
        orphans = [pid for pid, process in table.items() if process.group == root and pid not in outside]
        members = tuple(table[pid] for pid in (root, *below, *orphans))
        return Standing(self.components[name], table[root], members)


def _matching(pattern: str, table: Table) -> frozenset[int]:
    """The topmost processes whose command line matches; ours and those above us never count."""
    protected = lineage(table)
    found = set()
    for pid in table.keys() - protected:
        command = command_line(pid)
        if re.search(pattern, command) and not OWN_PROGRAMS.search(command):
            found.add(pid)
    return frozenset(pid for pid in found if not found & set(ancestors(table, pid)))


def _top(pid: int, table: Table, fence: frozenset[int] | set[int]) -> int:
    """The highest process that surely belongs with `pid`: of the same process group, and above nobody else's component.

    The group bounds the climb, because above it sit shells, terminals and service managers, which are not the service.
    """
    while table[pid].parent in table and table[pid].parent not in fence and table[table[pid].parent].group == table[pid].group:
        pid = table[pid].parent
    return pid
