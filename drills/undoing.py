"""Undo one fault and prove it: used by the drill itself, and by `recover` for one that died."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..injectors.base import Evidence, FaultError, ForeignChange, Injector, Undo
from ..injectors.platforms.base import Platform, PlatformError, Unavailable, Unsupported
from .journal import Journal

PROOF_EVERY_S = 0.05
UNDO_PATIENCE_S = 60.0  # for a controller or supervisor to bring back what a fault ended
PASSING_S = 10.0  # for what a platform refuses in passing
AGAIN_S = 1.0


def undo_one(  # noqa: PLR0913 - the record, the world, the journal and time, each from its own owner
    injector: Injector,
    undo: Undo,
    platform: Platform,
    journal: Journal,
    index: int,
    wait: Callable[[float], None],
    patience_s: float = UNDO_PATIENCE_S,
) -> str:
    """Undo one fault and prove it; write what happened. Returns a line for people. Used by the drill and by `recover`."""
    try:
        before_s = _record(journal, "recovering", fault=index)
        _recover(injector, undo, platform, journal.clock.now, wait)
        _record(journal, "undone", fault=index, lo_s=before_s, hi_s=journal.clock.now())
        limit_s = journal.clock.now() + patience_s
        evidence = _undo_proof(injector, undo, platform, wait, lambda: journal.clock.now() >= limit_s)
    except Exception as error:  # noqa: BLE001 - one undo that fails, however it fails, must not keep the others from being tried
        _record(journal, "undo-failed", fault=index, why=f"{type(error).__name__}: {error}")
        return f"{undo.kind}: NOT UNDONE: {error}"
    _record(journal, "undo-verified", fault=index, evidence=evidence.to_json())
    return f"{undo.kind}: undone: {evidence.detail} ({evidence.source})"


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


def _undo_proof(
    injector: Injector, undo: Undo, platform: Platform, wait: Callable[[float], None], late: Callable[[], bool]
) -> Evidence:
    while True:
        try:
            return injector.verify_recovered(undo, platform)
        except ForeignChange:
            raise
        except (FaultError, PlatformError):
            if late():
                raise
        wait(PROOF_EVERY_S)
