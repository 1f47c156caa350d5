"""Scenario and what is really there -> Plan: exact targets, blast radius, undo records. Changes nothing; this is the dry run."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..injectors.artefacts import ids_of, refuse_elsewhere
from ..injectors.base import Injector, Privilege, Refusal, Undo
from ..injectors.model_files import ModelFault
from ..injectors.platforms.base import WORKERS, Means, Platform, PlatformError, Target
from .digests import why_not
from .language.writing import written
from .load_in_vain import load_in_vain
from .refusal import Refused
from .resolving import resolve
from .scenario import Fault, Scenario, Selector
from .service import Service
from .watched import measured_from, objectives, watched

EXPIRY_SLACK_S = 20.0  # what a fault may outlive its planned end at the site, when nobody ends it
LONGEST_PHASE_S = 2.0  # injection is delayed by a random part of this, so that it does not fall in step with the service's timers


@dataclass(frozen=True)
class PlannedFault:
    """One fault with its victims. Moments are seconds from the start of the fault phase; `for_s` None: held to the end."""

    index: int
    fault: Fault
    injector: Injector
    targets: tuple[Target, ...]
    candidates: int
    at_s: float
    for_s: float | None
    deadline_s: float
    bites: str
    privilege: Privilege
    undo: Undo

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "kind": self.fault.kind,
            "parameters": self.fault.parameters,
            "targets": [target.to_json() for target in self.targets],
            "candidates": self.candidates,
            "at_s": self.at_s,
            "for_s": self.for_s,
            "ends_by_itself_after_s": self.deadline_s,
            "bites": self.bites,
            "privilege": self.privilege.name.lower(),
            "certifies": self.injector.certifies,
            "undo": self.undo.to_json(),
        }


@dataclass(frozen=True)
class Plan:
    """All that `run` will do, decided before anything is touched."""

    scenario: Scenario
    service: Service
    seed: int
    phase_s: float
    faults: tuple[PlannedFault, ...]
    everything: tuple[Target, ...]
    place: str  # where that is, in words
    remarks: tuple[str, ...] = ()  # what else a person should know who agrees to it

    @property
    def nodes_to_leave(self) -> tuple[str, ...]:
        """Nodes that faults will close, empty or cut off: nothing of ours should run there."""
        closing = [fault for fault in self.faults if "node" in fault.injector.changes]
        return tuple(sorted({str(target.details.get("node")) for fault in closing for target in fault.targets}))

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario.name,
            "service": self.service.name,
            "platform": self.service.platform,
            "place": self.place,
            "remarks": list(self.remarks),
            "measured_from": measured_from(self.service),
            "seed": self.seed,
            "phase_s": self.phase_s,
            "objectives": objectives(self.scenario),
            "load": written(self.scenario.load),
            "lanes": [lane.to_json() for lane in watched(self.service, self.scenario, self.everything)],
            "faults": [fault.to_json() for fault in self.faults],
            "found": [target.to_json() for target in self.everything],
        }


def plan(scenario: Scenario, service: Service, platform: Platform, seed: int) -> Plan:
    """Resolve every selector, let every injector look, and hold the result against the blast radius.

    `seed` decides the victims and the phase. Raises Refused with every reason at once.
    """
    reasons: list[str] = []
    try:
        if objections := platform.objections():  # nothing is even looked at inside what is protected
            raise Refused([f"not injecting: {why}" for why in objections])
        everything = platform.find()
    except PlatformError as error:
        raise Refused([f"not injecting: {error}"]) from error
    if not everything:
        raise Refused([_nothing_there(service)])
    faults = []
    for index, fault in enumerate(scenario.faults):
        try:
            faults.append(_planned(index, fault, (scenario, service, platform), everything, seed))
        except (Refusal, PlatformError) as error:
            text = str(error)
            reasons.append(text if text.startswith("not injecting: ") else f"not injecting: {fault.kind}: {text}")
    found = means(scenario, service, faults)
    reasons += [f"not injecting: {why}" for why in platform.denied(found)]
    reasons += why_not(scenario, service, platform, everything)
    reasons += _beyond_blast_radius(scenario, service, faults, everything)
    reasons += _ended_early(faults) + _vacuous(faults) + _held_up(scenario, faults)
    reasons += _beyond_privilege(scenario, service, faults) + load_in_vain(scenario, service)
    if reasons:
        raise Refused(list(dict.fromkeys(reasons)))  # two faults of a kind are refused in the same words
    phase_s = round(random.Random(seed).uniform(0, LONGEST_PHASE_S), 3)  # noqa: S311 - a phase, not a secret
    return Plan(scenario, service, seed, phase_s, tuple(faults), everything, platform.place, tuple(platform.remarks()))


def means(scenario: Scenario, service: Service, planned: Sequence[PlannedFault] = ()) -> Means:
    """What a drill does that takes rights, by the ways that were `planned`; what started on a damaged file is ended after the undo."""
    injectors = [fault.injector for fault in scenario.faults]
    taken = {each.index: each.injector.takes_for(each.undo) for each in planned}
    inside = scenario.digest is not None or any(each.privilege >= Privilege.EXEC for each in injectors)
    ends = any((each.restarts and not each.changes) or isinstance(each, ModelFault) for each in injectors)
    changes: frozenset[str] = frozenset().union(*(taken.get(n, each.takes()) for n, each in enumerate(injectors)))
    return Means(inside, ends, changes, beside=service.probe.beside)


def _nothing_there(service: Service) -> str:
    components = service.process.components if service.process else ()
    looked = f" (looked for {', '.join(component.name for component in components)})" if components else ""
    ours = any(component.start for component in components)
    todo = "`blackstart run` starts it" if ours else "start it, or give its components a `start` command"
    return f"not injecting: nothing of service {service.name} is running{looked}; {todo}"


def choose(
    selector: Selector, role: str, everything: Sequence[Target], seed: int
) -> tuple[tuple[Target, ...], tuple[Target, ...]]:
    """Candidates, then victims: all of the role (or the names), thinned by count or share in an order that the seed decides.

    Two faults with the same selector hit the same victims. Returns victims and candidates.
    """
    wanted = selector.role or role
    candidates = (
        [t for t in everything if t.name in selector.names] if selector.names else [t for t in everything if t.role == wanted]
    )
    there = ", ".join(f"{target.name} ({target.role})" for target in everything) or "nothing"
    if missing := sorted(set(selector.names) - {target.name for target in candidates}):
        raise Refusal(f"not injecting: no target is called {', '.join(missing)}; there is {there}")
    if not candidates:
        todo = "give a component that role in the service file, or choose another one"
        raise Refusal(f"not injecting: the selector matches nothing: no target has the role {wanted}; there is {there}; {todo}")
    number = len(candidates) if selector.names and selector.count is None else 1
    if selector.count is not None:
        number = selector.count
    elif selector.share is not None:
        number = math.ceil(selector.share * len(candidates) - 1e-9)
    if number > len(candidates):
        raise Refusal(f"not injecting: {number} targets of role {wanted} are asked for and {len(candidates)} are there: {there}")
    shuffled = sorted(candidates, key=lambda target: target.name)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a choice of victims, not a secret
    return tuple(sorted(shuffled[:number], key=lambda target: target.name)), tuple(candidates)


def _planned(
    index: int, fault: Fault, where: tuple[Scenario, Service, Platform], everything: tuple[Target, ...], seed: int
) -> PlannedFault:
    scenario, service, platform = where
    injector = resolve(fault.injector, service)
    refuse_elsewhere(injector, platform)  # before its own words for nodes and the like are asked of targets that have none
    chosen, candidates = choose(fault.target, injector.default_role, injector.candidates(everything), seed)
    targets, among = injector.hits(chosen, everything), len(injector.hits(candidates, everything))
    at_s = fault.at.total_seconds()
    for_s = fault.for_.total_seconds() if fault.for_ is not None else None
    observe_s, settle_s = scenario.observe.total_seconds(), scenario.settle.total_seconds()
    last_s = max(other.at.total_seconds() + other.injector.patience.total_seconds() for other in scenario.faults)
    held_s = for_s if for_s is not None else last_s - at_s + observe_s + 2 * settle_s
    expires_s = injector.patience.total_seconds() + held_s + EXPIRY_SLACK_S  # it holds for so long once it is proven
    deadline_s = fault.deadline.total_seconds() - at_s if fault.deadline is not None else expires_s
    if injector.longest is not None and for_s is not None:
        deadline_s = for_s
    if for_s is None and not injector.instant and deadline_s < last_s - at_s + observe_s:
        raise Refusal(
            f"not injecting: {fault.kind} would end by itself after {deadline_s:g} s, while the service is still watched, and that would "
            "look like a recovery; give it a `for`, or a later `deadline`"
        )
    undo = injector.plan(targets, platform).stamped("", fault.kind, fault.parameters, deadline_s)
    privilege = injector.privilege_of(undo, service.platform)
    return PlannedFault(index, fault, injector, targets, among, at_s, for_s, deadline_s, injector.bites(undo), privilege, undo)


def _beyond_blast_radius(
    scenario: Scenario, service: Service, faults: Sequence[PlannedFault], everything: Sequence[Target]
) -> list[str]:
    hit = {target.identity: target for fault in faults for target in fault.targets}
    radius, reasons = scenario.blast_radius, []
    if radius.targets is not None and len(hit) > radius.targets:
        names = ", ".join(sorted(target.name for target in hit.values()))
        reasons.append(f"not injecting: {len(hit)} targets would be hit ({names}); blast_radius.targets allows {radius.targets}")
    for role in sorted({target.role for target in hit.values()}):
        total = sum(target.role == role and target.details.get("ready", True) for target in everything)
        struck = sum(target.role == role for target in hit.values())
        if radius.share is not None and struck > radius.share * total + 1e-9:
            reasons.append(
                f"not injecting: {struck} of {total} targets of role {role} would be hit; blast_radius.share allows {radius.share:.0%}"
            )
        if role in WORKERS and total - struck < service.protect.min_healthy:
            reasons.append(
                f"not injecting: {total - struck} of {total} targets of role {role} would stay untouched; "
                f"protect.min_healthy of {service.name} demands {service.protect.min_healthy}"
            )
    return reasons


def _beyond_privilege(scenario: Scenario, service: Service, faults: Sequence[PlannedFault]) -> list[str]:
    allowed, found = service.protect.privilege, {fault.index: fault.privilege for fault in faults}
    return [
        f"not injecting: {each.kind} takes the privilege {privilege.name.lower()}, and {allowed} is the most that is allowed "
        "(--max-privilege, protect.privilege)"
        for index, each in enumerate(scenario.faults)
        if (privilege := found.get(index, each.injector.privilege_on(service.platform))) > Privilege[allowed.upper()]
    ]


def _vacuous(faults: Sequence[PlannedFault]) -> list[str]:
    """A fault that shows only on restart, in a drill without one, would be passed by any service."""
    reasons = []
    for fault in faults:
        restarted = {
            target.name for later in faults if later.injector.restarts and later.at_s >= fault.at_s for target in later.targets
        }
        if fault.bites == "never":
            reasons.append(
                f"not injecting: {fault.fault.kind} would show only after a restart, and what it changes is gone with "
                f"{', '.join(target.name for target in fault.targets)}; put that on a claim or volume, or damage what is read through a mapping (`load: mmap`)"
            )
        waiting = sorted({target.name for target in fault.targets} - restarted)
        if fault.bites == "on-restart" and waiting:
            otherwise = fault.injector.otherwise(fault.undo)
            reasons.append(
                f"not injecting: {fault.fault.kind} bites only when {', '.join(waiting)} starts again, and nothing in this scenario "
                "restarts it; add a rollout-restart or a replica-kill with the same target after it"
                + (f"; {otherwise}" if otherwise else "")
            )
    return reasons


def _ended_early(faults: Sequence[PlannedFault]) -> list[str]:
    """A fault whose agent goes with its target's container, or in a cluster its pod, ends when another one takes that away."""
    return [
        f"not injecting: {fault.fault.kind} goes with the container or pod of {name}, which {other.fault.kind} would end; drill them apart"
        for fault in faults
        for other in faults
        if other.injector.restarts
        for name in sorted(fault.injector.lives_inside(fault.undo) & {each.name for each in other.targets})
    ]


def _held_up(scenario: Scenario, faults: Sequence[PlannedFault]) -> list[str]:
    """What blackstart itself would wait to read for as long as the fault is held."""
    reasons = []
    for fault in faults:
        held = fault.injector.holds_up(fault.undo)
        if held and scenario.digest is not None:
            reasons.append(
                f"not injecting: {fault.fault.kind} holds up the digest lane, which reads the same files; leave one of the two out"
            )
        reasons += [
            f"not injecting: {fault.fault.kind} holds up {other.fault.kind}, which reads the same file before it changes that; drill them apart"
            for other in faults
            if other is not fault and held & ids_of(other.undo)
        ]
    return reasons
