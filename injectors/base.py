"""What a fault is: five verbs on plain records.

An injector is a frozen dataclass; its fields are the parameters that a scenario may give it. `plan` looks, the other verbs
act on what `plan` wrote down, so that any of them can run in another process, on another day, from the record alone.

    plan(targets, platform) -> Undo            changes nothing; raises Refusal where the fault cannot work
    inject(undo, platform) -> None             raises on failure; never logs and returns
    verify(undo, platform) -> Evidence         proof from a second source, or NotYet until there is one
    recover(undo, platform) -> None            idempotent; fine when inject never ran or the target is gone
    verify_recovered(undo, platform) -> Evidence   the world equals the snapshot, or raises Differs with what differs

Errors
------
FaultError
    Refusal       the fault cannot be injected here; said before anything changes, as "not injecting: ..."
    NotYet        no proof so far; the engine asks again until the fault's patience ends
        Overcome      what was hit is gone, or was mended by the service itself: the fault ended as a survived one does
        Unseen        nothing could be looked at, as in a container that is just starting again: neither proof nor a lapse
    Differs       the world is not as it was; the message says what differs
    ForeignChange somebody else changed what we changed; nothing was restored over it
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import IntEnum
from typing import Any, ClassVar

from .means import Means
from .platforms.base import Platform, Target
from .values import JSON


class FaultError(Exception):
    """Something about a fault went wrong."""


class Refusal(FaultError):
    """The fault cannot work here; nothing was changed."""


class NotYet(FaultError):
    """No proof so far. `again_s`: for how long the engine looks again, where it had been proven before; one look may meet what crashes again
    and again between two starts.
    """

    again_s: ClassVar[float] = 2.0


class Overcome(NotYet):
    """The service dealt with the fault: what was hit is gone or mended, and that is no lapse of the injection."""


class Unseen(NotYet):
    """Nothing could be looked at, so that nothing is known: no proof, and no word that the fault is over."""

    again_s: ClassVar[float] = 20.0  # until most of what starts again is there; a fault is planned to outlive its end by so much


class Differs(FaultError):
    """After the undo the world is not as it was."""


class ForeignChange(Differs):
    """What we changed was changed again by somebody else; it was left alone."""


class Privilege(IntEnum):
    """The ladder: a fault takes the lowest rung that works. On processes and Docker it is the nearest equivalent."""

    API = 0
    EXEC = 1
    EPHEMERAL = 2
    HELPER = 3


@dataclass(frozen=True)
class Evidence:
    """Proof, and where it came from: never the mechanism that injected."""

    source: str
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> JSON:
        return {"source": self.source, "detail": self.detail, "facts": dict(self.facts)}


@dataclass(frozen=True)
class Undo:
    """All that is needed to put things back, as plain JSON: every target, every prior value.

    The injector fills `targets` and `prior`; the engine stamps the rest before it writes the record and injects.
    `fault` carries the run's id and marks every artefact of this injection. `deadline_s` is the age at which the site
    ends the fault by itself.
    """

    targets: tuple[Target, ...]
    prior: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    kind: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float = 0.0

    def stamped(self, fault: str, kind: str, parameters: JSON, deadline_s: float) -> "Undo":
        return replace(self, fault=fault, kind=kind, parameters=parameters, deadline_s=deadline_s)

    def to_json(self) -> JSON:
        return {
            "fault": self.fault,
            "kind": self.kind,
            "parameters": dict(self.parameters),
            "deadline_s": self.deadline_s,
            "targets": [target.to_json() for target in self.targets],
            "prior": dict(self.prior),
        }

    @classmethod
    def from_json(cls, record: JSON) -> "Undo":
        targets = tuple(Target.from_json(target) for target in record["targets"])
        return cls(
            targets,
            record["prior"],
            record["fault"],
            record["kind"],
            record["parameters"],
            record["deadline_s"],
        )


class Injector(ABC):
    """One kind of fault. Subclasses are frozen dataclasses; their fields are the YAML parameters.

    `certifies` says what a pass proves and what it does not. `instant` faults are over the moment they are injected (a
    kill): there is nothing to hold, and the service's own recovery is the undo. `bites` is `now`, `on-restart` where the
    fault shows only once the target starts again, or `never` where a restart takes it away with the target's own disk. `patience` is how long proof may take.

    For people: `done_by` (on each platform), `proven_by` and `undone_by` name the means, `bites_when` the moment. `example` holds parameters as a scenario writes
    them, with which doctor asks `plan`; `depends_on` is said instead where only the user's own values can tell.

    `longest` is given where nobody but the site can end the fault: then a scenario must say `for`, no longer than that, and it is the
    fault's deadline as well.
    """

    kind: ClassVar[str]
    summary: ClassVar[str]
    certifies: ClassVar[str]
    platforms: ClassVar[frozenset[str]]
    privilege: ClassVar[Privilege]
    default_role: ClassVar[str] = "replica"
    instant: ClassVar[bool] = False
    changes: ClassVar[frozenset[str]] = frozenset()  # what it changes of the platform's own objects: workload, node
    restarts: ClassVar[bool] = False  # its targets start again: what bites on restart shows from then on
    patience: ClassVar[timedelta] = timedelta(seconds=10)
    longest: ClassVar[timedelta | None] = None
    looks_from_beside: ClassVar[bool] = False  # to plan it, a container or pod of ours may have to look, for seconds
    done_by: ClassVar[Means] = {}
    proven_by: ClassVar[str] = ""
    undone_by: ClassVar[str] = ""
    bites_when: ClassVar[str] = "at once"
    example: ClassVar[Mapping[str, Any]] = {}
    depends_on: ClassVar[str] = ""

    @property
    def means_on(self) -> frozenset[str]:
        """The platforms that have means for it with these parameters: all of the kind's, or fewer."""
        return self.platforms

    @abstractmethod
    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo: ...

    @abstractmethod
    def inject(self, undo: Undo, platform: Platform) -> None: ...

    @abstractmethod
    def verify(self, undo: Undo, platform: Platform) -> Evidence: ...

    @abstractmethod
    def recover(self, undo: Undo, platform: Platform) -> None: ...

    @abstractmethod
    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence: ...

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the parameters whatever they are injected into, each as "`key` is ...; what to do": said when a file is
        read, before anything is started. What is wrong with one value alone is better said by its type.
        """
        return ()

    def privilege_on(self, platform: str) -> Privilege:
        """What it takes there, where that is not `privilege`."""
        del platform
        return self.privilege

    def privilege_of(self, undo: Undo, platform: str) -> Privilege:
        """What it takes by the way that the plan has found."""
        del undo
        return self.privilege_on(platform)

    def takes(self) -> frozenset[str]:
        """What of the platform's own objects it needs rights for: those that it `changes`, and `evict`; by whatever way."""
        return self.changes

    def takes_for(self, undo: Undo) -> frozenset[str]:
        """The same by the way that the plan has found."""
        del undo
        return self.takes()

    def candidates(self, everything: tuple[Target, ...]) -> tuple[Target, ...]:
        """What a selector chooses from; its count counts these."""
        return everything

    def hits(self, chosen: tuple[Target, ...], everything: tuple[Target, ...]) -> tuple[Target, ...]:
        """The targets, and what the fault takes along with them."""
        del everything
        return chosen

    def lives_inside(self, undo: Undo) -> frozenset[str]:
        """Names of the targets in whose own containers its agent is: there the fault ends with them."""
        del undo
        return frozenset()

    def holds_up(self, undo: Undo) -> frozenset[str]:
        """Ids of the files whose readers wait while it is held, blackstart's own as well."""
        del undo
        return frozenset()

    def way(self, undo: Undo) -> str:
        """Which of several ways is taken, and why; empty: there is one."""
        del undo
        return ""

    def otherwise(self, undo: Undo) -> str:
        """What else than a restart makes it show, beginning with "or", where it bites on restart; empty: nothing does."""
        del undo
        return ""

    def bites(self, undo: Undo) -> str:
        """`now`, or `on-restart` where the target must start again before the fault shows."""
        del undo
        return "now"
