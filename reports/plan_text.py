"""A plan for people: what would be hit, how it would be undone, what would be measured."""

from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from ..drills.plan import Plan, PlannedFault
from ..drills.watched import Lane, load_told, measured_from, objectives, watched
from ..injectors.caches import ENTRIES
from ..injectors.values import first_of

WIDTH = 130
SHOWN = 5  # of many values
LONGEST_DIGEST = 19  # `sha256:` and as much of it as tells two apart


def plan_text(plan: Plan) -> str:
    """Plain text, no wider than needed."""
    scenario = plan.scenario
    lines = [
        f"Drill {scenario.name} on service {plan.service.name} ({plan.service.platform}, {plan.service.endpoint.url})",
        *([f"  {scenario.title}"] if scenario.title else []),
        f"  on {plan.place}",
        *(f"  {remark}" for remark in plan.remarks),
        f"  watched for {_s(scenario.steady_state.hold.total_seconds())} first; nothing is injected unless it is steady",
    ]
    for fault in plan.faults:
        lines += _fault(fault)
    hit = {target.identity for fault in plan.faults for target in fault.targets}
    lines.append(f"  blast radius: {len(hit)} of {len(plan.everything)} parts of the service")
    lines.append(
        f"  then watched for at most {_s(scenario.observe.total_seconds())}; recovery must hold {_s(scenario.settle.total_seconds())}"
    )
    lines += _listed("  judged by: ", [f"{name} {value}" for name, value in objectives(scenario).items()])
    lanes = watched(plan.service, scenario, plan.everything)
    lines += _listed("  probed by: ", [_lane(lane) for lane in lanes] or ["nothing: the service has no URL"])
    if load := load_told(scenario.load):
        lines.append(f"  load: {load}")
    lines.append(f"  measured from: {measured_from(plan.service)}")
    lines.append(f"  choice of victims and phase by seed {plan.seed}; to run exactly this: --set seed={plan.seed}")
    return "\n".join(lines)


def _fault(fault: PlannedFault) -> list[str]:
    held = (
        f"for {_s(fault.for_s)}" if fault.for_s is not None else "once" if fault.injector.instant else "until the end of watching"
    )
    victims = ", ".join(f"{target.name} [{target.identity}]" for target in fault.targets)
    ends = "" if fault.injector.instant else f"ends by itself after {_s(fault.deadline_s)} at the latest; "
    lines = [
        f"  at {_s(fault.at_s)}: {fault.fault.kind} {held} on {len(fault.targets)} of {fault.candidates}: {victims}",
        f"    {ends}needs: {fault.privilege.name.lower()}; bites {fault.bites}",
    ]
    if way := fault.injector.way(fault.undo):
        lines += _listed("    done by: ", [way])
    if by := fault.injector.undone_by:
        lines += _listed("    undone by: ", [by])
    record = [f"{name} {value}" for name, value in _facts("", fault.undo.prior)]
    return lines + _listed("    undo record: ", record or ["the targets alone; there is no prior value to keep"])


def _facts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every prior value with its path; what has a name and an identity is a process or another target, and told as one."""
    if isinstance(value, Mapping) and {"name", "identity"} <= value.keys():
        yield name, f"{value['name']} [{value['identity']}]"
    elif isinstance(value, Mapping) and name.rpartition(".")[2] == "tree":
        yield name, _tree(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _facts(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        for item in value:
            yield from _facts(name, item)
    elif value is not None and value not in ([], ()):
        yield name, _plain(name, value)


def _tree(sizes: Mapping[str, int | None]) -> str:
    """What lies in a folder, with its size where it is a file: a cache can hold thousands, of which only so many are looked at."""
    files, least = [size for size in sizes.values() if size is not None], "at least " if len(sizes) >= ENTRIES else ""
    return f"{least}{len(files):,} files with {sum(files):,} bytes, {len(sizes) - len(files):,} folders: {first_of(sizes, SHOWN)}"


def _plain(name: str, value: Any) -> str:
    key = name.rpartition(".")[2]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "mode":
        return f"{value:03o}"
    if key.endswith("_bytes"):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = first_of(value, SHOWN) if isinstance(value, list | tuple) else " ".join(str(value).split())
    return text[:LONGEST_DIGEST] + "…" if text.startswith("sha256:") else text


def _lane(lane: Lane) -> str:
    return f"{lane.name} {lane.rate:g}/s" if lane.rate is not None else f"{lane.name} {lane.open} open"


def _listed(label: str, items: list[str]) -> list[str]:
    return wrap(
        label + "; ".join(items), WIDTH, subsequent_indent=" " * len(label), break_long_words=False, break_on_hyphens=False
    )


def _s(seconds: float) -> str:
    return f"{seconds:g} s"
