"""Undo one fault and prove it: used by the drill itself, and by `recover` for one that died."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..injectors.base import Differs, Evidence, FaultError, ForeignChange, Injector, Undo
from ..injectors.platforms.base import Platform, PlatformError, Unavailable, Unsupported
from .journal import Journal
from .scenario import Scenario

PROOF_EVERY_S = 0.05
UNDO_PATIENCE_S = 60.0  # for a controller or supervisor to bring back what a fault ended
PASSING_S = 10.0  # for what a platform refuses in passing
AGAIN_S = 1.0


@dataclass(frozen=True)
class Undone:
    """What became of one undo, with a line for people."""

    injector: Injector
    undo: Undo
    index: int
    told: str
    proven: bool


class Undoable(Protocol):
    """A fault as far as the order of undos goes."""

    @property
    def injector(self) -> Injector: ...


T = TypeVar("T", bound=Undoable)


def in_undo_order(held: Sequence[T]) -> list[T]:
    """Newest first, and what is over as soon as it has happened (a kill) after all else: its proof is that its target stands again, which
    may hang on the undo of another (a model file that does not load).
    """
    newest_first = list(reversed(held))
    return sorted(newest_first, key=lambda fault: fault.injector.instant)


def patience_of(scenario: Scenario) -> float:
    """What an undo starts anew may have to be scheduled, pulled and loaded: it gets as long as users would wait."""
    return max(UNDO_PATIENCE_S, scenario.observe.total_seconds())


def undo_one(  # noqa: PLR0913 - the record, the world, the journal and time, each from its own owner
    injector: Injector,
    undo: Undo,
    platform: Platform,
    journal: Journal,
    index: int,
    wait: Callable[[float], None],
    patience_s: float = UNDO_PATIENCE_S,
    stand: frozenset[str] = frozenset(),
) -> Undone:
    """Undo one fault and prove it; write what happened. `stand`: names of targets that have to stand then. Used by the drill and by `recover`."""
    before = _standing(undo, platform)
    try:
        before_s = _record(journal, "recovering", fault=index)
        _recover(injector, undo, platform, journal.clock.now, wait)
        _record(journal, "undone", fault=index, lo_s=before_s, hi_s=journal.clock.now())
        limit_s = journal.clock.now() + patience_s
        evidence = _undo_proof(injector, undo, platform, wait, lambda: journal.clock.now() >= limit_s, stand)
    except Exception as error:  # noqa: BLE001 - one undo that fails, however it fails, must not keep the others from being tried
        _record(journal, "undo-failed", fault=index, why=f"{type(error).__name__}: {error}")
        return Undone(injector, undo, index, f"{undo.kind}: NOT UNDONE: {error}", proven=False)
    after = _standing(undo, platform)
    replaced = [name for name, identity in after.items() if identity and identity != before.get(name, identity)]
    _record(journal, "undo-verified", fault=index, evidence=evidence.to_json(), replaced=replaced)
    return Undone(injector, undo, index, f"{undo.kind}: undone: {evidence.detail} ({evidence.source})", proven=True)


def look_back(
    every: Iterable[Undone], platform: Platform, journal: Journal, wait: Callable[[float], None], patience_s: float
) -> Iterator[str]:
    """At the end of a drill: what was hit may have ended of it, also after the undo (Triton does, whose stub had been stopped). It is
    started again where nobody else does, and the undo is proven once more, with all targets standing. Yields lines for people.
    """
    for undone in every:
        gone = _gone(undone.undo, platform)
        if gone and undone.proven:
            _record(journal, "fallen", fault=undone.index, targets=gone)
            yield f"{undone.undo.kind}: nothing stands under {', '.join(gone)}, though it was undone"
            stand = frozenset(gone)
            yield undo_one(undone.injector, undone.undo, platform, journal, undone.index, wait, patience_s, stand).told


def _standing(undo: Undo, platform: Platform) -> dict[str, str]:
    """Target's name -> identity of what stands under it, empty: nothing does; none of those that nobody tells of."""
    found = {}
    for target in undo.targets:
        with suppress(PlatformError):
            now = platform.current(target.name)
            found[target.name] = now.identity if now else ""
    return found


def _recover(injector: Injector, undo: Undo, platform: Platform, now: Callable[[], float], wait: Callable[[float], None]) -> None:
    """A platform that cannot be reached now, or a container that is just starting again, may be there in a moment."""
    began_s = now()
    while True:
        try:
            return injector.recover(undo, platform)
        except Unsupported:
            raise
        except PlatformError as error:
            if now() >= began_s + (UNDO_PATIENCE_S if isinstance(error, Unavailable) else PASSING_S):
                raise
        wait(AGAIN_S)


def _record(journal: Journal, event: str, **fields: Any) -> float:
    """A journal that cannot be written any more (a full disk) must not keep a fault in place: the verdict will be dirty."""
    with suppress(OSError):
        return journal.append(event, **fields)
    return journal.clock.now()


def _undo_proof(  # noqa: PLR0913 - as above
    injector: Injector,
    undo: Undo,
    platform: Platform,
    wait: Callable[[float], None],
    late: Callable[[], bool],
    stand: frozenset[str],
) -> Evidence:
    while True:
        try:
            evidence = injector.verify_recovered(undo, platform)
            if missing := stand & {*_gone(undo, platform)}:
                raise Differs(f"nothing stands under {', '.join(sorted(missing))} at the end of the drill")
        except ForeignChange:
            raise
        except (FaultError, PlatformError):
            if late():
                raise
        else:
            return evidence
        wait(AGAIN_S if _revived(undo, platform) else PROOF_EVERY_S)


def _gone(undo: Undo, platform: Platform) -> list[str]:
    return sorted(name for name, identity in _standing(undo, platform).items() if not identity)


def _revived(undo: Undo, platform: Platform) -> bool:
    """What is gone is started where nobody else does that: it may have ended when the fault let go of it."""
    gone = _gone(undo, platform)
    with suppress(PlatformError):  # then it does not stand, and that is told
        for name in gone:
            platform.revive(name)
    return bool(gone)
