"""A plan for people: what would be hit, how it would be undone, what would be measured."""

from ..drills.plan import Plan, PlannedFault


def plan_text(plan: Plan) -> str:
    """Plain text, no wider than needed."""
    scenario = plan.scenario
    lines = [
        f"Drill {scenario.name} on service {plan.service.name} ({plan.service.platform}, {plan.service.endpoint.url})",
        f"  {scenario.title}",
        f"  watched for {_s(scenario.steady_state.hold.total_seconds())} first; nothing is injected unless it is steady",
    ]
    for fault in plan.faults:
        lines += _fault(fault)
    hit = {target.identity for fault in plan.faults for target in fault.targets}
    lines.append(f"  blast radius: {len(hit)} of {len(plan.everything)} parts of the service")
    lines.append(
        f"  then watched for at most {_s(scenario.observe.total_seconds())}; recovery must hold {_s(scenario.settle.total_seconds())}"
    )
    lines.append(f"  choice of victims and phase by seed {plan.seed}")
    return "\n".join(lines)


def _fault(fault: PlannedFault) -> list[str]:
    held = (
        f"for {_s(fault.for_s)}" if fault.for_s is not None else "once" if fault.injector.instant else "until the end of watching"
    )
    victims = ", ".join(f"{target.name} [{target.identity}]" for target in fault.targets)
    lines = [
        f"  at {_s(fault.at_s)}: {fault.fault.kind} {held} on {len(fault.targets)} of {fault.candidates}: {victims}",
        f"    ends by itself after {_s(fault.deadline_s)} at the latest; needs: {fault.injector.privilege.name.lower()}; bites {fault.bites}",
    ]
    if fault.undo.prior:
        lines.append(f"    put back: {', '.join(sorted(fault.undo.prior))}")
    return lines


def _s(seconds: float) -> str:
    return f"{seconds:g} s"
