"""The conformance suite for injectors: built-in ones and third parties' pass the same.

    from blackstart.injectors.testing import check_injector

    check_injector(MyFault(...), functools.partial(open_my_platform, ...), ("r0",), effect=lambda: not answers())

It works on a live platform and harms the named targets, several times over.
"""

import dataclasses
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from .base import Evidence, FaultError, Injector, Undo
from .platforms.base import Platform, PlatformError

OpenPlatform = Callable[[], Platform]
LONG_S = 300.0  # a deadline that no clause but the expiry waits for
SHORT_S = 2.0
SETTLE_S = 60.0  # for the service's own recovery, and for an expiry that is late on a busy machine
EVERY_S = 0.05


class ConformanceError(AssertionError):
    """A clause of the contract that the injector breaks."""

    def __init__(self, clause: str, what: str) -> None:
        super().__init__(f"{clause}: {what}")
        self.clause = clause


def check_injector(injector: Injector, platform: OpenPlatform, targets: tuple[str, ...], *, effect: Callable[[], bool]) -> None:
    """Hold an injector against every clause of the contract; raises ConformanceError that names the first broken one.

    `platform` opens the platform anew and, like the injector, can be pickled: parts run in other processes. `targets` are
    names of what is there. `effect` is the caller's own eye, neither the injector's nor the platform's: true while the fault
    bites (of an instant fault: once it has struck).
    """
    with _opened(platform) as here:
        check = _Check(injector, platform, here, targets, effect)
        check.plan_changes_nothing()
        check.recover_before_inject()
        check.effect_and_evidence()
        check.undo_from_elsewhere()
        check.undo_again()
        if not injector.instant:
            check.expiry()
        check.killed_while_held()


@dataclasses.dataclass
class _Check:
    injector: Injector
    open_platform: OpenPlatform
    platform: Platform
    names: tuple[str, ...]
    effect: Callable[[], bool]
    undo: Undo = dataclasses.field(default_factory=lambda: Undo(()))
    number: int = 0

    def planned(self, deadline_s: float = LONG_S) -> Undo:
        """A stamped record of its own for each injection, as the engine would make it, and as a journal would give it back."""
        found = tuple(target for name in self.names if (target := self.platform.current(name)))
        if len(found) < len(self.names):
            raise ConformanceError("targets", f"of {self.names} only {[target.name for target in found]} are there")
        self.number += 1
        fault = f"check.{time.time_ns()}.{self.number}"
        undo = self.injector.plan(found, self.platform).stamped(fault, self.injector.kind, _parameters(self.injector), deadline_s)
        again = Undo.from_json(json.loads(json.dumps(undo.to_json())))
        if again.to_json() != json.loads(json.dumps(undo.to_json())):
            raise ConformanceError("undo is plain JSON", f"{undo.to_json()} comes back as {again.to_json()}")
        return again

    def world(self) -> list[tuple[str, str, str]]:
        return [(target.name, target.identity, self.platform.state(target)) for target in self.platform.find()]

    def plan_changes_nothing(self) -> None:
        before = self.world()
        self.undo = self.planned()
        if (after := self.world()) != before:
            raise ConformanceError("plan changes nothing", f"{before} became {after}")
        if self.effect():
            raise ConformanceError("plan changes nothing", "the effect is there before anything was injected")

    def recover_before_inject(self) -> None:
        before = self.world()
        self.injector.recover(self.undo, self.platform)
        if (after := self.world()) != before:
            raise ConformanceError("recover before inject does nothing", f"{before} became {after}")

    def effect_and_evidence(self) -> None:
        self.injector.inject(self.undo, self.platform)
        evidence = self.awaited("verify proves", self.injector.patience, lambda: self.injector.verify(self.undo, self.platform))
        if not evidence.source or not evidence.detail:
            raise ConformanceError("verify proves", f"evidence without source or detail: {evidence}")
        self.seen("the effect is there", expected=True)

    def undo_from_elsewhere(self) -> None:
        """In another process, from the record alone, while the process that injected lives."""
        with _elsewhere(self.injector, self.open_platform, "recover", self.undo) as child:
            child.wait(timeout=SETTLE_S)
        self.recovered("recover works from the record alone, in another process", self.undo)

    def undo_again(self) -> None:
        for _ in range(2):
            self.injector.recover(self.undo, self.platform)
        self.recovered("recover is idempotent", self.undo)

    def expiry(self) -> None:
        """Injected and forgotten: the site itself ends it at its deadline."""
        undo = self.planned(SHORT_S)
        self.injector.inject(undo, self.platform)
        self.recovered("the fault ends by itself at its deadline", undo, SHORT_S)
        self.injector.recover(undo, self.platform)

    def killed_while_held(self) -> None:
        """SIGKILL the process that injected: nothing outlives the deadline. An instant fault is recovered from elsewhere."""
        undo = self.planned(SETTLE_S / 2)
        with _elsewhere(self.injector, self.open_platform, "inject", undo) as child:
            child.kill()
            child.wait()
        if self.injector.instant:
            self.injector.recover(undo, self.platform)
        self.recovered("a killed process leaves nothing behind", undo, undo.deadline_s)
        self.injector.recover(undo, self.platform)

    def recovered(self, clause: str, undo: Undo, expiry_s: float = 0.0) -> None:
        """Proven by a platform object that has seen nothing of the fault, and by the caller's own eye."""
        with _opened(self.open_platform) as fresh:
            self.awaited(clause, timedelta(seconds=expiry_s + SETTLE_S), lambda: self.injector.verify_recovered(undo, fresh))
        if not self.injector.instant:
            self.seen(clause, expected=False)

    def seen(self, clause: str, *, expected: bool) -> None:
        limit = time.monotonic() + SETTLE_S
        while self.effect() is not expected:
            if time.monotonic() > limit:
                raise ConformanceError(clause, f"the effect is {'absent' if expected else 'still there'}")
            time.sleep(EVERY_S)

    def awaited(self, clause: str, patience: timedelta, proof: Callable[[], Evidence]) -> Evidence:
        limit = time.monotonic() + patience.total_seconds()
        while True:
            try:
                return proof()
            except (FaultError, PlatformError) as error:
                if time.monotonic() > limit:
                    raise ConformanceError(clause, f"no proof within {patience.total_seconds():g} s: {error}") from error
            time.sleep(EVERY_S)


def _parameters(injector: Injector) -> dict[str, Any]:
    """As a scenario would give them: names without the underscore that keeps a field from hiding a verb, durations with units."""
    values = {name.rstrip("_"): value for name, value in vars(injector).items()}
    return {name: f"{value.total_seconds():g}s" if isinstance(value, timedelta) else value for name, value in values.items()}


@contextmanager
def _opened(open_platform: OpenPlatform) -> Iterator[Platform]:
    platform = open_platform()
    try:
        yield platform
    finally:
        platform.close()


@contextmanager
def _elsewhere(injector: Injector, open_platform: OpenPlatform, verb: str, undo: Undo) -> Iterator[subprocess.Popen[bytes]]:
    """One verb in another process, yielded once it is done; after `inject` it holds the fault until it is killed."""
    # `-c` and not `-m`: as __main__ this module would exist twice.
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _serve; _serve()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path.cwd()
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            pickle.dump((verb, injector, open_platform, json.dumps(undo.to_json())), child.stdin)
            child.stdin.flush()
            if child.stdout.readline() != b"done\n":
                raise ConformanceError(f"{verb} works in another process", child.stderr.read().decode()[-1000:])
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def _serve() -> None:
    """In the other process: take one verb from standard input, do it, say so, and hold what was injected until killed."""
    verb, injector, open_platform, record = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the test's own process
    platform = open_platform()
    getattr(injector, verb)(Undo.from_json(json.loads(record)), platform)
    sys.stdout.write("done\n")
    sys.stdout.flush()
    if verb == "inject":
        sys.stdin.buffer.read()
    else:
        platform.close()
