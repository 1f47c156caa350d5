"""Where a model service lives: targets with stable identities, and the few verbs that injectors need of any platform.

Errors
------
PlatformError          the platform could not do or answer something
    Unavailable        it cannot be reached at all
    GivenUp            the drill was stopped while it was under way
    Busy               another drill holds the service
    Unsupported        it has no means for this; said before a drill as "not injecting: ..."
        Unfit          no agent can work inside the target
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, NamedTuple, Protocol

from ..values import JSON
from .outposts import Outposts


class PlatformError(Exception):
    """The platform refused, failed or contradicted what was asked of it."""


class Unavailable(PlatformError):
    """The platform cannot be reached."""


class GivenUp(PlatformError):
    """The drill was stopped while this was under way."""


def came(condition: Callable[[], bool], limit_s: float, given_up: Event, every_s: float) -> bool:
    """Whether it came to hold within that time. Raises GivenUp when the drill is stopped meanwhile."""
    limit = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > limit:
            return False
        if given_up.wait(every_s):
            raise GivenUp("the drill was stopped meanwhile")
    return True


class Busy(PlatformError):
    """Another drill holds the service, by the platform's own record; the message names it."""


class Unsupported(PlatformError):
    """The platform has no means for what was asked; the message names the missing mechanism."""


class Unfit(Unsupported):
    """No agent can work inside the target: there is no python3, or no folder that can be written to."""


HALVES = frozenset({"prefill", "decode"})  # roles of workers that each do one half of an answer
WORKERS = HALVES | {"replica"}  # roles of all that compute with a model of their own


@dataclass(frozen=True)
class Target:
    """One thing that a fault can hit.

    `identity` is stable and unique in time: a pid with its start time, a container id, a pod UID; never a name alone.
    `name` is the name that the service file or the platform gives it; a replacement has the same name, another identity.
    """

    identity: str
    name: str
    role: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> str | None:
        """Where it answers questions by itself, past the gateway.

        A worker that does one half only where the service file says so: vLLM's compute the other half as well, SGLang's refuse
        (400, "Disaggregated request received without bootstrap room id").
        """
        bears_it = self.role == "replica" or (self.role in HALVES and self.details.get("own_url"))
        return self.details.get("url") if bears_it else None

    @property
    def part(self) -> tuple[str, str]:
        """Name and role of the component that it is, or is a process inside of."""
        return self.name.partition("/")[0], self.details.get("component_role", self.role)

    def to_json(self) -> JSON:
        return {"identity": self.identity, "name": self.name, "role": self.role, "details": dict(self.details)}

    @classmethod
    def from_json(cls, record: JSON) -> "Target":
        return cls(record["identity"], record["name"], record["role"], record["details"])


def alike(one: Target, other: Target) -> bool:
    """Whether both may have the same files in use: they have one role, or both compute with a model, in halves or not."""
    return one.role == other.role or {one.role, other.role} <= WORKERS


class Milestone(NamedTuple):
    """A step of one replica out of service or back into it, when the platform's own record says so: between `lo_s` and `hi_s` on
    this machine's CLOCK_MONOTONIC.

    `what` is one of STEPS, or `in-rotation`: it was in service when watching began. `name` and `identity` are as of a Target.
    """

    what: str
    name: str
    identity: str
    service: str  # of endpoint-added, endpoint-removed and in-rotation: whose endpoint
    lo_s: float
    hi_s: float

    def to_json(self, origin_s: float) -> JSON:
        """With moments counted from `origin_s`."""
        return {**self._asdict(), "lo_s": round(self.lo_s - origin_s, 6), "hi_s": round(self.hi_s - origin_s, 6)}


STEPS = ("endpoint-removed", "created", "scheduled", "pulled", "started", "ready", "endpoint-added")


class Means(NamedTuple):
    """What a drill does that takes rights: something `inside` its targets; targets `end`; objects of the platform are changed
    (`workload`, `node`, `network`), and targets moved off a node (`evict`); an outpost stands `beside` the service.
    """

    inside: bool
    ends: bool
    changes: frozenset[str] = frozenset()
    beside: bool = False


class Platform(Protocol):
    """What every platform can do. Times are seconds; every wait has a deadline.

    While `given_up` is set, whatever is being waited for in a verb ends soon with PlatformError: another thread stops the drill.
    """

    name: ClassVar[str]
    witness: ClassVar[str]  # what `find`, `current` and `state` know it from, as the source of evidence
    given_up: Event

    @property
    def context(self) -> str | None:
        """The name by which this machine knows the cluster; None where there is none, or where this runs inside it."""

    @property
    def place(self) -> str:
        """Where that is, for a person who is asked whether to drill there."""

    def remarks(self) -> list[str]:
        """What else a person should know who is asked."""

    @property
    def outposts(self) -> Outposts | None:
        """The ability to run something beside the service; None: there is no such place."""

    def objections(self) -> list[str]:
        """Why nothing may be injected there now, whatever the fault."""

    def denied(self, means: Means) -> list[str]:
        """What this login may not do there of what a drill needs that uses such means."""

    def role(self, name: str, means: Means) -> JSON:
        """The least rights for that, as the platform grants them. Raises Unsupported where it knows none."""

    def find(self) -> tuple[Target, ...]:
        """Everything of the service that is there now, in a stable order."""

    def inside(self, target: Target, role: str) -> tuple[Target, ...]:
        """The processes of that role inside a target (an engine below an API server), as targets of their own."""

    def current(self, name: str) -> Target | None:
        """What stands under that name now, or None."""

    def state(self, target: Target) -> str:
        """`running`, `stopped` (SIGSTOP, paused) or `gone`; a second identity under the same name is `gone`."""

    def address(self, service: str, port: int) -> str:
        """The URL by which a named service of the platform is reached from here. Raises Unsupported where there are none."""

    def recall(self, targets: tuple[Target, ...]) -> None:
        """What stood under these names in another process, so that `current` can tell a replacement from a neighbour."""

    def moved(self) -> tuple[tuple[str, str], ...]:
        """Name and new URL of every replica that answers somewhere else since the last call. Never waits for the platform."""

    def milestones(self) -> tuple[Milestone, ...]:
        """What was seen since the last call; the first call begins to watch. Never waits for the platform."""

    def unseen(self) -> list[str]:
        """Which milestones cannot be seen, and why."""

    def whole(self, target: Target, number: int) -> str:
        """Why that signal cannot reach the target as a whole, without naming processes inside it; empty: it can."""

    def signal(self, target: Target, number: int) -> None:
        """Send a signal to that identity alone; one that is gone already is left alone."""

    def kill(self, target: Target, grace_s: float = 0.0) -> None:
        """End the target and all that belongs to it at once, as a power failure would; with a grace it may end by itself first."""

    def restart(self, target: Target) -> None:
        """Ask for an orderly restart, as a rollout would (SIGTERM, then a new one under the same name)."""

    def revive(self, name: str) -> None:
        """Bring back what stood under that name where nothing else does; nothing to do when something stands there."""

    def revivable(self, name: str) -> bool:
        """Whether something brings this back after it died: a supervisor, a controller, or a start command that we know."""

    def agent_begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON:
        """Start the agent's `verb` beside the target; returns its `effective` record. Raises PlatformError when it fails.

        The agent holds the fault until `agent_end`, until this process dies, or until `deadline_s` after its start.
        """

    def agent_end(self, fault: str, target: Target, beside: Sequence[str] = ()) -> JSON:
        """End that agent and whatever it left, from any process, as often as wished; returns its `undone` record.

        `beside` are paths at which a copy of its record may lie with what it changed, where that can outlive the target.
        """

    def file(self, target: Target, path: str) -> JSON:
        """A file as the target sees it: `exists`, `mode`, `inode` and `changed_s` (its ctime, UNIX time; None: not there), `real` (its path
        without links), `id` (equal for two targets that see the very same file), `outlives` (it is still there once the target was
        replaced); where the platform tells, `unfit`: why it must not be changed, `only_read`: since its mount is read-only, and `apart`: on a file system that is the target's own.
        """

    def started_s(self, target: Target) -> float | None:
        """When it started, in UNIX time, never later than it truly did; None where nobody says."""

    def pids(self, target: Target) -> tuple[int, ...]:
        """Of all that belongs to it, as /proc names them where its files are read."""

    def own(self, target: Target) -> tuple[str, ...]:
        """Identities of the processes that it is made of, without commands that were sent into its container beside them."""

    def commands(self, target: Target) -> tuple[str, ...]:
        """The command lines of all that belongs to it, its first process before the others."""

    def read_file(self, target: Target, path: str, limit: int) -> bytes:
        """At most `limit` bytes from the start of a file as the target sees it."""

    def digest(self, target: Target, path: str) -> str:
        """`sha256:` and the hexadecimal digest of a file as the target sees it."""

    def hold(self, holder: str, patience_s: float, dead: str = "") -> None:
        """Take the service on the platform's own side until `close`, beside the lock of this machine; at once what `dead` still has.

        Raises Busy.
        """

    def lost(self) -> str:
        """Who has taken the service from us meanwhile; empty: nobody."""

    def vanished(self) -> str:
        """Why nothing of what was done to the service can be left; empty: it can."""

    def fingerprint(self) -> str:
        """Tells this service from a namesake elsewhere; empty where names cannot be mistaken."""

    def remembered(self, run: str) -> Mapping[str, str]:
        """What `remember` kept of that run: file name -> content."""

    def left_by(self) -> list[str]:
        """Runs that may have left something, by what the platform itself remembers."""

    def remember(self, run: str, files: Sequence[Path]) -> None:
        """Keep a run's files where the service lives, before an injection; they are safe there when this returns."""

    def forget(self, run: str) -> None:
        """All that the run did is undone and proven: nothing of it needs to be remembered."""

    def abandon(self, run: str) -> None:
        """A person says that all is well, proven or not: neither the record nor what would still undo something is kept."""

    def sweep(self, run: str) -> None:
        """Remove what carried out a run that is dead, where that was on the platform; what could still be fetched of it stays."""

    def start_missing(self) -> tuple[str, ...]:
        """Start what the service file has a start command for and is not there; returns the names once they answer."""

    def started(self) -> tuple[str, ...]:
        """Names of what `start_missing` started, here or in a process that died, and that still lives."""

    def stop_started(self) -> None:
        """Stop exactly what `start_missing` started."""

    def close(self) -> None:
        """Let go of sessions and connections. Faults still held end with them."""
