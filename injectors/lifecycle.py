"""Faults that end, stop or restart processes: replica-kill, store-kill, process-kill, process-hang, rollout-restart."""

import signal
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

from .base import Differs, Evidence, ForeignChange, Injector, NotYet, Overcome, Privilege, Refusal, Undo
from .means import HOLD, KILL, RESTART, SIGNAL, Means
from .objects import evict_all, may_be_evicted
from .platforms.base import Platform, Target
from .values import JSON


@dataclass(frozen=True)
class ReplicaKill(Injector):
    """End the target and all that belongs to it at once, as a power failure would; or with notice, as an orderly stop does."""

    grace: Annotated[timedelta, "how long it has to end by itself (SIGTERM) before it is killed"] = timedelta(0)
    evict: Annotated[bool, "on Kubernetes: by the Eviction API, within its PodDisruptionBudgets and with the pod's own grace"] = (
        False
    )

    kind: ClassVar[str] = "replica-kill"
    restarts: ClassVar[bool] = True
    summary: ClassVar[str] = "a replica and all its processes die at once (SIGKILL)"
    certifies: ClassVar[str] = (
        "that the service survives the sudden death of a whole replica; not that it survives one that hangs, shuts down slowly "
        "or comes back damaged"
    )
    done_by: ClassVar[Means] = KILL
    proven_by: ClassVar[str] = "the process table: every process of it is gone, and none of them stands under its name"
    undone_by: ClassVar[str] = "whatever starts it again in production; where nothing did, blackstart does at the end"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.API
    instant: ClassVar[bool] = True
    patience: ClassVar[timedelta] = timedelta(seconds=60)  # a pod's own grace can be that long

    def takes(self) -> frozenset[str]:
        return frozenset({"evict"} if self.evict else ())

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        _refuse_unless_revivable(targets, platform)
        if self.evict:
            may_be_evicted(targets, platform)
        return Undo(targets)

    def inject(self, undo: Undo, platform: Platform) -> None:
        if self.evict:
            evict_all(undo.targets, platform, self.patience.total_seconds())
            return
        for target in undo.targets:
            platform.kill(target, self.grace.total_seconds())

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        for target in undo.targets:
            for process in _tree(target):
                if platform.state(process) != "gone":
                    raise NotYet(f"{process.identity} of {target.name} is still {platform.state(process)}")
            now = platform.current(target.name)
            if now is not None and now.identity == target.identity:
                raise NotYet(f"{target.name} is still held by {target.identity}")
        return Evidence(platform.witness, f"gone: {_names(undo.targets)}", {"gone": [target.identity for target in undo.targets]})

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            _continue_frozen(target, platform)
            platform.revive(target.name)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        return _standing_again(undo.targets, platform)


@dataclass(frozen=True)
class StoreKill(ReplicaKill):
    """The same for the store that replicas or the gateway write to."""

    kind: ClassVar[str] = "store-kill"
    summary: ClassVar[str] = "the store dies at once (SIGKILL)"
    certifies: ClassVar[str] = (
        "that acknowledged writes outlive the sudden death of the store's process; not that they outlive a power failure: what "
        "the operating system has in its buffers is kept by it when only the process dies"
    )
    default_role: ClassVar[str] = "store"


@dataclass(frozen=True)
class ProcessKill(Injector):
    """Kill single processes inside a target (SIGKILL) and leave the rest of it alone."""

    role: Annotated[str | None, "the processes inside the target, e.g. engine; without it the target's main process alone"] = None

    kind: ClassVar[str] = "process-kill"
    restarts: ClassVar[bool] = True
    summary: ClassVar[str] = "one process of a replica dies (SIGKILL), the others live on"
    certifies: ClassVar[str] = (
        "that the death of that process is noticed and mended; not that a whole replica's death, or a hang, is noticed"
    )
    done_by: ClassVar[Means] = SIGNAL
    proven_by: ClassVar[str] = "the process table: the processes are gone"
    undone_by: ClassVar[str] = "the service itself; where it did not, the target is started again at the end"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC
    instant: ClassVar[bool] = True

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        _refuse_unless_revivable(targets, platform)
        return Undo(targets, {"processes": _chosen(targets, self.role, platform)})

    def inject(self, undo: Undo, platform: Platform) -> None:
        for process in _processes(undo):
            platform.signal(process, signal.SIGKILL)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        for process in _processes(undo):
            if platform.state(process) != "gone":
                raise NotYet(f"{process.name} ({process.identity}) is still {platform.state(process)}")
        gone = [process.identity for process in _processes(undo)]
        return Evidence(platform.witness, f"gone: {_names(_processes(undo))}", {"gone": gone})

    def recover(self, undo: Undo, platform: Platform) -> None:
        """Mending is the service's own work; what it left undone is made good by reviving or restarting the target."""
        for target in undo.targets:
            now = platform.current(target.name)
            if now is None:
                platform.revive(target.name)
            elif self._crippled(target, now, undo, platform):
                platform.restart(now)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        for target in undo.targets:
            now = platform.current(target.name)
            if now is not None and self.role and not platform.inside(now, self.role):
                raise Differs(f"{target.name} stands without a process of role {self.role}")
        return _standing_again(undo.targets, platform)

    def _crippled(self, target: Target, now: Target, undo: Undo, platform: Platform) -> bool:
        """The very target that was hit stands there, and what was killed in it has not come back."""
        hit = any(
            process.name.startswith(f"{target.name}/") and platform.state(process) == "gone" for process in _processes(undo)
        )
        return hit and now.identity == target.identity and self.role is not None and not platform.inside(now, self.role)


@dataclass(frozen=True)
class ProcessHang(Injector):
    """Stop processes with SIGSTOP: they keep memory, sockets and locks, and answer nothing."""

    role: Annotated[str | None, "the processes inside the target, e.g. engine; without it all of the target's processes"] = None

    kind: ClassVar[str] = "process-hang"
    summary: ClassVar[str] = "processes stop answering and keep all they hold (SIGSTOP)"
    certifies: ClassVar[str] = (
        "that a process which hangs without dying is noticed and worked around; not that a busy loop or a deadlock in one "
        "thread is, since those leave other threads answering"
    )
    done_by: ClassVar[Means] = HOLD
    proven_by: ClassVar[str] = "the process table: the processes are in state T (stopped)"
    undone_by: ClassVar[str] = "SIGCONT, sent by the agent that stopped them"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        chosen = _chosen(targets, self.role, platform, whole=True)
        for process in map(Target.from_json, chosen):
            if platform.state(process) == "stopped":
                raise Refusal(f"not injecting: {process.name} ({process.identity}) is stopped already, by somebody else")
        return Undo(targets, {"processes": chosen})

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            identities = [process.identity for process in _processes(undo) if process.name.partition("/")[0] == target.name]
            platform.agent_begin(undo.fault, target, "stop-process", {"processes": identities}, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        states = [(process, platform.state(process)) for process in _processes(undo)]
        for process, state in states:
            if state not in {"stopped", "gone"}:
                raise NotYet(f"{process.name} ({process.identity}) is {state}, not stopped")
        if gone := [process for process, state in states if state == "gone"]:
            raise Overcome(f"gone since: {_names(tuple(gone))}")
        stopped = [process.identity for process in _processes(undo)]
        return Evidence(platform.witness, f"state T (stopped): {_names(_processes(undo))}", {"stopped": stopped})

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            end_agent(undo, target, platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        for process in _processes(undo):
            if platform.state(process) == "stopped":
                raise Differs(f"{process.name} ({process.identity}) is still stopped")
        return _standing_again(undo.targets, platform)


@dataclass(frozen=True)
class RolloutRestart(Injector):
    """Restart the targets in order, one after another, as a rollout would."""

    kind: ClassVar[str] = "rollout-restart"
    restarts: ClassVar[bool] = True
    summary: ClassVar[str] = "targets are restarted in order, one after another (SIGTERM)"
    certifies: ClassVar[str] = (
        "that users do not notice a rollout of the same version; not that they do not notice one of a new version or model"
    )
    done_by: ClassVar[Means] = RESTART
    proven_by: ClassVar[str] = "the process table: another process stands under each name"
    undone_by: ClassVar[str] = "nothing is left to undo; a target that did not come back is started again at the end"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.API
    instant: ClassVar[bool] = True

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        _refuse_unless_revivable(targets, platform)
        return Undo(targets)

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            platform.restart(target)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        replaced = {}
        for target in undo.targets:
            now = platform.current(target.name)
            if now is None or now.identity == target.identity or platform.state(target) != "gone":
                raise NotYet(f"{target.name} was {target.identity} and is {now.identity if now else 'gone'}")
            replaced[target.name] = [target.identity, now.identity]
        return Evidence(platform.witness, f"a new process under each name: {_names(undo.targets)}", {"replaced": replaced})

    def recover(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            platform.revive(target.name)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        return _standing_again(undo.targets, platform)


def end_agent(undo: Undo, target: Target, platform: Platform, beside: tuple[str, ...] = ()) -> JSON:
    """End the fault's agent at that target; what it says. Raises ForeignChange when somebody else had changed what it changed."""
    answer = platform.agent_end(undo.fault, target, beside)
    if answer["event"] == "foreign":
        raise ForeignChange(f"{target.name}: {answer['why']}")
    return answer


def _names(targets: tuple[Target, ...]) -> str:
    return ", ".join(f"{target.name} ({target.identity})" for target in targets)


def _tree(target: Target) -> list[Target]:
    """The target and, where the platform tells, every process that belonged to it."""
    identities = dict.fromkeys([target.identity, *target.details.get("tree", ())])
    return [Target(identity, target.name, target.role) for identity in identities]


def _chosen(targets: tuple[Target, ...], role: str | None, platform: Platform, *, whole: bool = False) -> list[dict[str, object]]:
    """The processes to hit, as JSON for the undo record. `whole`: without a role the target's whole tree, not its main process."""
    chosen: list[Target] = []
    for target in targets:
        found = list(platform.inside(target, role)) if role else _tree(target) if whole else [target]
        if not role and (why := platform.whole(target, signal.SIGSTOP if whole else signal.SIGKILL)):
            raise Refusal(f"not injecting: {target.name} {why}")
        if not found:
            raise Refusal(f"not injecting: no process inside {target.name} ({target.identity}) has the role {role}")
        chosen += found
    return [process.to_json() for process in chosen]


def _processes(undo: Undo) -> tuple[Target, ...]:
    return tuple(Target.from_json(process) for process in undo.prior["processes"])


def _refuse_unless_revivable(targets: tuple[Target, ...], platform: Platform) -> None:
    for target in targets:
        if not platform.revivable(target.name):
            raise Refusal(
                f"not injecting: nothing would bring {target.name} back; give its `start` command, or say `supervised: true` "
                "where something else starts it again"
            )


def _continue_frozen(target: Target, platform: Platform) -> None:
    """A kill that was cut off half way may have left processes stopped that it was about to end."""
    for process in _tree(target):
        if platform.state(process) == "stopped":
            platform.signal(process, signal.SIGCONT)


def _standing_again(targets: tuple[Target, ...], platform: Platform) -> Evidence:
    """Something runs under each name: the target itself when it was never ended, or its replacement."""
    found = {}
    for target in targets:
        now = platform.current(target.name)
        if now is None:
            raise Differs(f"nothing stands under {target.name} since {target.identity} is gone")
        if (state := platform.state(now)) != "running":
            raise Differs(f"{target.name} ({now.identity}) is {state}")
        found[target.name] = now.identity
    told = ", ".join(f"{name} ({identity})" for name, identity in found.items())
    return Evidence(platform.witness, f"running: {told}", {"running": found})
