"""run(plan) -> journal: baseline, faults, observation, undo, settling. The only place that touches the world.

Every undo record is on the disk before its fault begins, and from then on the fault is on the stack: it is undone on pass, on
failure, on an abort, on a signal and on a bug of ours. What dies with the process ends at the site by itself.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TypeVar

from ..injectors.artefacts import FileFault
from ..injectors.base import Evidence, FaultError, NotYet, Overcome
from ..injectors.platforms.base import GivenUp, Platform, PlatformError
from .aiming import aim_again
from .guard import Guard
from .interruption import Interruption
from .journal import Journal
from .observer import Observer, ProberLost
from .plan import Plan, PlannedFault
from .progress import Phase, Progress
from .undoing import PROOF_EVERY_S, Undone, in_undo_order, look_back, patience_of, undo_one

TICK_S = 0.1
READ_BACK_S = 60.0
MORE_ANSWERS_S = 10.0  # at most, and no longer than `hold`: where a slow machine has too few answers at the end of it
LATEST_ANSWER_S = 0.3  # a question asked at the end of `hold` is answered and written down by then, or hangs

T = TypeVar("T")


class Stopped(Exception):
    """The drill ends early; the message says why. Everything injected is undone."""


class NotProven(Exception):
    """A fault could not be injected or showed no evidence: there is nothing to measure."""


@dataclass
class Engine:
    """One drill under way. `run` is the whole of it."""

    plan: Plan
    platform: Platform
    journal: Journal
    observer: Observer
    interruption: Interruption
    progress: Progress
    guard: Guard
    meanwhile: Callable[[], None]
    files: Sequence[Path]  # the run's, as far as an undo needs them
    held: list[PlannedFault] = field(default_factory=list)
    undone: list[Undone] = field(default_factory=list)
    ends_s: dict[int, float] = field(default_factory=dict)  # fault -> when its `for` is over
    last_action_s: float = 0.0

    def run(self) -> None:
        """The drill, from the baseline to the last read; its result is the journal. Raises only what is a bug."""
        finished = False
        try:
            if self._steady():
                self._inject_and_observe()
                finished = True
        except Stopped as stop:
            self.journal.append("aborting", why=str(stop))
        except (NotProven, ProberLost) as problem:
            self.journal.append("inconclusive", why=str(problem))
        finally:
            struck = bool(self.held) or self.last_action_s > 0
            self._undo_all()
        if finished or (struck and not self.interruption.insisted):
            self._settle(patient=finished)
            for told in look_back(
                self.undone, self.platform, self.journal, self.interruption.wait, patience_of(self.plan.scenario)
            ):
                self.progress.note(told)
        self._write_milestones()
        if unseen := self.platform.unseen():
            self.journal.append("milestones-unseen", why=unseen)

    def _now(self) -> float:
        return self.journal.clock.now()

    def _watch(self, until_s: float, done: Callable[[float], bool], *, guarded: bool = True) -> bool:
        """Let the drill go on until `done` or the moment comes; returns whether it was `done`. Raises Stopped.

        Unguarded, after an abort, only a second signal stops it.
        """
        while (now := self._now()) < until_s:
            self.observer.poll()
            self._write_milestones()
            self.progress.lanes(now, self.observer.view.states())
            if guarded and (why := self.guard.check(now)):
                raise Stopped(why)
            if self.interruption.insisted:
                raise Stopped("a second signal came")
            if done(now):
                return True
            self.interruption.wait(min(TICK_S, max(0.0, until_s - now)))
        return False

    def _write_milestones(self) -> None:
        for milestone in self.platform.milestones():
            self.journal.append("milestone", **milestone.to_json(self.journal.clock.origin))

    def _steady(self) -> bool:
        hold_s = self.plan.scenario.steady_state.hold.total_seconds()
        self.progress.phase(Phase.BASELINE, hold_s)
        start_s = self.journal.append("baseline", hold_s=hold_s)
        self.meanwhile()
        self._watch(start_s + hold_s, lambda _: False)
        self._watch(start_s + hold_s + LATEST_ANSWER_S, lambda _: self.observer.view.answered(start_s + hold_s))
        self._watch(start_s + hold_s + min(hold_s, MORE_ANSWERS_S), lambda now: not self.observer.baseline(start_s, now).too_few)
        baseline = self.observer.baseline(start_s, self._now())
        self._watch(start_s + hold_s + min(hold_s, MORE_ANSWERS_S), lambda _: self.observer.digests.single())
        self.observer.judged()
        if not self.observer.digests.single():
            raise NotProven(self.observer.digests.not_single())
        if not baseline.steady:
            self.journal.append("not-steady", why=list(baseline.why_not), start_s=start_s)
            for why in baseline.why_not:
                self.progress.note(f"not steady: {why}")
            return False
        self.journal.append("steady", start_s=start_s)
        self._watch(self._now() + self.plan.phase_s, lambda _: False)
        return True

    def _inject_and_observe(self) -> None:
        start_s = self._now()
        pending = sorted(self.plan.faults, key=lambda fault: (fault.at_s, fault.index))
        observe_s = self.plan.scenario.observe.total_seconds()
        settle_s = self.plan.scenario.settle.total_seconds()
        limit_s = start_s + observe_s
        while self._now() < max(limit_s, *self.ends_s.values(), 0.0):  # a fault lasts as long as its `for` says
            if pending and self._now() >= start_s + pending[0].at_s:
                injected = pending.pop(0)
                self._inject(injected)
                self._compared(injected, pending)
                limit_s = self._now() + observe_s
                continue
            self._undo_ended()
            next_s = min([start_s + pending[0].at_s if pending else max(limit_s, self._now() + TICK_S), *self.ends_s.values()])
            if pending or self.ends_s:
                self._watch(next_s, lambda _: False)
            elif self._watch(next_s, lambda now: self._recovered(now, settle_s)) and self._holds(settle_s):
                return
        if self.observer.view.impact_seen():
            self.journal.append("not-recovered-live", waited_s=observe_s)
        for fault in self.held:
            self._look_again(fault)

    def _compared(self, fault: PlannedFault, pending: Sequence[PlannedFault]) -> None:
        """Before the next fault, which may end what this one changed, the digest lane sees it, if it can within the time that it needs."""
        if pending and isinstance(fault.injector, FileFault):
            since_s, lookout = self.last_action_s, self.observer.digests
            until_s = min([since_s + lookout.patience_s, *self.ends_s.values()])
            self._watch(until_s, lambda _: lookout.looked_since(since_s))

    def _holds(self, settle_s: float) -> bool:
        """Looks at what is held again, for seconds; an outage that begins meanwhile, and is cut by the undo, would have no known end."""
        self.journal.append("recovered-live")
        for fault in self.held:
            self._look_again(fault)
        return self._recovered(self._now(), settle_s)

    def _recovered(self, now_s: float, settle_s: float) -> bool:
        """Whether users are served again, and it held. What nobody noticed yet is watched to the end: the impact may still come. What bites
        only on restart is held until every replica answers again, else it would be undone before the one that it hit had loaded anything;
        to the end where nobody asks that one by itself. Nor have replicas recovered that have different models.
        """
        if any(not fault.injector.instant for fault in self.held) and not self.observer.view.impact_seen():
            return False
        if now_s - self.last_action_s < settle_s or not self.observer.digests.single():
            return False
        on_restart = any(fault.bites == "on-restart" for fault in self.held)
        hit = [target.part for fault in self.held for target in fault.undo.targets]
        return self.observer.view.recovered(self.last_action_s, now_s, replicas=on_restart, hit=hit)

    def _inject(self, planned: PlannedFault) -> None:
        index = planned.index
        self.progress.phase(Phase.INJECTING, planned.injector.patience.total_seconds(), planned.fault.kind)
        try:
            aimed = self._aside(lambda: aim_again(planned, self.platform, self.journal.path.parent.name))
            self.journal.append("undo-recorded", fault=index, undo=aimed.undo.to_json(), bites=aimed.bites)
            self.held.append(aimed)  # from here on it is undone, whatever happens
            self._aside(lambda: self.platform.remember(self.journal.path.parent.name, self.files))
            before_s = self.journal.append("injecting", fault=index)
            self.last_action_s = before_s
            self.guard.fault_s = self.guard.fault_s or before_s
            evidence, proven_s = self._aside(lambda: self._injected(aimed))
        except (FaultError, PlatformError) as error:
            self.journal.append("not-effective", fault=index, why=str(error))
            raise NotProven(f"{planned.fault.kind} is not proven: {error}") from error
        self.last_action_s = self.journal.append(
            "effective", fault=index, lo_s=before_s, hi_s=proven_s, evidence=evidence.to_json()
        )
        if planned.for_s is not None:
            # What the site alone can end does so by its own clock, which began earlier.
            self.ends_s[index] = (proven_s if planned.injector.longest is None else before_s) + planned.for_s
        names = ", ".join(target.name for target in aimed.targets)
        self.progress.note(f"{planned.fault.kind} on {names}: {evidence.detail} ({evidence.source})")
        self.progress.phase(Phase.OBSERVING, self.plan.scenario.observe.total_seconds())

    def _injected(self, aimed: PlannedFault) -> tuple[Evidence, float]:
        """Inject, and ask the second source until it confirms or the fault's patience ends; the proof and its moment."""
        aimed.injector.inject(aimed.undo, self.platform)
        limit_s = self._now() + aimed.injector.patience.total_seconds()
        while True:
            try:
                return aimed.injector.verify(aimed.undo, self.platform), self._now()
            except (FaultError, PlatformError):
                if self._now() >= limit_s:
                    raise
            if self.platform.given_up.wait(PROOF_EVERY_S):
                raise GivenUp("the drill was stopped before the fault was proven")

    def _aside(self, act: Callable[[], T]) -> T:
        """Do what may take long in a thread of its own, under watch. What stops the drill makes the platform give it up first."""
        with ThreadPoolExecutor(1) as worker:
            doing = worker.submit(act)
            doing.add_done_callback(lambda _: self.interruption.wake())
            try:
                self._watch(inf, lambda _: doing.done())
            except BaseException:
                self.platform.given_up.set()
                wait([doing])  # no undo beside an injection that still goes on
                raise
            finally:
                self.platform.given_up.clear()
            return doing.result()

    def _undo_ended(self) -> None:
        for fault in [fault for fault in self.held if self.ends_s.get(fault.index, self._now() + 1) <= self._now()]:
            self._look_again(fault)
            self.held.remove(fault)
            del self.ends_s[fault.index]
            self._undo(fault)
            self.progress.phase(Phase.OBSERVING, self.plan.scenario.observe.total_seconds())

    def _look_again(self, fault: PlannedFault) -> None:
        """Whether a held fault was in effect to its end: one that lapsed unseen would make a recovery of nothing."""
        if fault.injector.instant:
            return
        try:
            evidence = self._proven_again(fault)
        except Overcome as overcome:
            self.journal.append("overcome", fault=fault.index, why=str(overcome))
        except (FaultError, PlatformError) as error:
            self.journal.append("lapsed", fault=fault.index, why=str(error))
            self.progress.note(f"{fault.fault.kind} was no longer proven: {error}")
        else:
            self.journal.append("still-effective", fault=fault.index, evidence=evidence.to_json())

    def _proven_again(self, fault: PlannedFault) -> Evidence:
        first_s: dict[type[NotYet], float] = {}  # each kind of answer has a patience of its own, from its first on
        while True:
            try:
                return self._aside(lambda: fault.injector.verify(fault.undo, self.platform))
            except NotYet as why:
                if isinstance(why, Overcome) or self._now() > first_s.setdefault(type(why), self._now()) + why.again_s:
                    raise
            self._watch(self._now() + PROOF_EVERY_S, lambda _: False)

    def _undo_all(self) -> None:
        self.ends_s.clear()
        for fault in in_undo_order(self.held):
            self.held.remove(fault)
            self._undo(fault)

    def _undo(self, fault: PlannedFault) -> None:
        patience_s, wait = patience_of(self.plan.scenario), self.interruption.wait
        self.progress.phase(Phase.UNDOING, patience_s, fault.fault.kind)
        self.undone.append(undo_one(fault.injector, fault.undo, self.platform, self.journal, fault.index, wait, patience_s))
        if not fault.injector.instant:  # the service's own recovery was the undo; there is nothing new to watch
            self.last_action_s = self._now()
        self.progress.note(self.undone[-1].told)

    def _settle(self, *, patient: bool) -> None:
        """After the undo: watch on, since an outage can follow the undo as well; then read the ledger back."""
        settle_s = self.plan.scenario.settle.total_seconds()
        longest_s = self.plan.scenario.observe.total_seconds() if patient else settle_s
        self.progress.phase(Phase.SETTLING, longest_s)
        ends_s = self._now() + longest_s if self.last_action_s > 0 else 0.0
        try:
            self._watch(ends_s, lambda now: self._recovered(now, settle_s), guarded=patient)
            if self.observer.has_ledger:
                self.progress.phase(Phase.READING_BACK, READ_BACK_S)
                self.journal.append("read-back", counts=self.observer.read_back(READ_BACK_S))
                # An outage that began meanwhile is watched to its end as well, as long as there is time.
                self._watch(ends_s, lambda now: self._recovered(now, settle_s), guarded=patient)
                self.journal.append("watched")
        except Stopped as stop:
            if patient:
                self.journal.append("aborting", why=str(stop))
        except ProberLost as problem:
            self.journal.append("inconclusive", why=str(problem))
