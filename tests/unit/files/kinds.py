"""Kinds of fault that exist for the tests of the scenario language alone: one of every type of parameter."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from blackstart.drills.scenario import Bound, Condition
from blackstart.injectors.base import Evidence, Injector, Privilege, Undo
from blackstart.injectors.platforms.base import Platform, Target
from blackstart.injectors.values import OneOf, Rate, Share, Size


class OnPaper(Injector):
    """A fault that is only ever read and written."""

    summary: ClassVar[str] = "for tests"
    certifies: ClassVar[str] = "nothing"
    platforms: ClassVar[frozenset[str]] = frozenset()
    privilege: ClassVar[Privilege] = Privilege.API

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        del platform
        return Undo(targets)

    def inject(self, undo: Undo, platform: Platform) -> None:
        raise NotImplementedError

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        raise NotImplementedError

    def recover(self, undo: Undo, platform: Platform) -> None:
        raise NotImplementedError

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        raise NotImplementedError


@dataclass(frozen=True)
class ReplicaKill(OnPaper):
    kind: ClassVar[str] = "replica-kill"
    instant: ClassVar[bool] = True
    grace: Annotated[timedelta, "between the warning and the end"] = timedelta(0)


@dataclass(frozen=True)
class NetworkDelay(OnPaper):
    kind: ClassVar[str] = "network-delay"
    delay: Annotated[timedelta, "added to every packet"]
    jitter: Annotated[timedelta, "more or less"] = timedelta(0)
    peers: Annotated[tuple[str, ...], "towards whom"] = ()

    def problems(self) -> tuple[str, ...]:
        return ("`jitter` is larger than `delay`; lower it",) if self.jitter > self.delay else ()


@dataclass(frozen=True)
class MemoryStress(OnPaper):
    kind: ClassVar[str] = "memory-stress"
    size: Annotated[Size | None, "how much"] = None
    share: Annotated[Share, "or so much of what there is"] = Share(0.9)
    rate: Rate = Rate(0)
    workers: Annotated[int, "how many at once", range(1, 65)] = 1
    factor: float = 1.0
    touch: bool = True


@dataclass(frozen=True)
class ModelCorrupt(OnPaper):
    kind: ClassVar[str] = "model-corrupt"
    mutation: Annotated[str, "what is damaged", OneOf(("truncate", "zero-tail", "exponent-msb[:TENSOR]"))]
    how: Literal["at-once", "slowly"] = "at-once"
    file: Annotated[str, "which file of the model"] = ""


@dataclass(frozen=True)
class Command(OnPaper):
    kind: ClassVar[str] = "command"
    inject_: Annotated[tuple[str, ...], "the command that injects"]
    verify_: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    facts: Annotated[Any, "any JSON"] = None
    until: Annotated[Bound | None, "at most so long", timedelta] = None
    when: Condition | None = None

    def __post_init__(self) -> None:
        if not self.inject_:
            raise ValueError("`inject` is an empty command")


KINDS = {cls.kind: cls for cls in (ReplicaKill, NetworkDelay, MemoryStress, ModelCorrupt, Command)}
