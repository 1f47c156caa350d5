"""A planned fault on what is there when its turn comes."""

from dataclasses import replace

from ..injectors.base import Refusal, Undo
from ..injectors.platforms.base import Platform
from .plan import PlannedFault


def aim_again(planned: PlannedFault, platform: Platform, run: str) -> PlannedFault:
    """The same fault on what stands under the victims' names now: an earlier fault may have replaced them. Its undo is marked as the run's.

    Raises Refusal when one is not there, or when the fault would be another one than was planned, since a plan is held against that alone.
    """
    targets = []
    for target in planned.targets:
        now = platform.current(target.name)
        if now is None:
            raise Refusal(f"not injecting: {target.name} ({target.identity}) is gone and nothing stands in its place")
        targets.append(now)
    agreed = {target.details.get("node") for target in planned.targets}
    if "node" in planned.injector.changes and (moved := {target.details.get("node") for target in targets} - agreed):
        raise Refusal(f"not injecting: a target stands on node {', '.join(map(str, moved))} by now, which was not planned")
    if others := {each.name for each in planned.injector.hits(tuple(targets), platform.find())} - {each.name for each in targets}:
        raise Refusal(f"not injecting: {', '.join(sorted(others))} would be hit as well by now, which was not planned")
    undo = planned.injector.plan(tuple(targets), platform)
    _refuse_another(planned, undo, platform)
    stamped = undo.stamped(f"{run}.{planned.index}", planned.fault.kind, planned.fault.parameters, planned.deadline_s)
    return replace(planned, targets=tuple(targets), undo=stamped)


def _refuse_another(planned: PlannedFault, undo: Undo, platform: Platform) -> None:
    injector, kind = planned.injector, planned.fault.kind
    if injector.privilege_of(undo, platform.name) > planned.privilege:
        raise Refusal("not injecting: the way that is open by now takes more privilege than was planned")
    if (bites := injector.bites(undo)) != planned.bites:
        raise Refusal(f"not injecting: by now {kind} would bite {bites}, and {planned.bites} was planned; plan the drill again")
    if others := injector.lives_inside(undo) - injector.lives_inside(planned.undo):
        names = ", ".join(sorted(others))
        raise Refusal(f"not injecting: by now {kind} would go with the container or pod of {names}, which was not planned")
