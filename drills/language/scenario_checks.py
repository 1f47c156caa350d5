"""What must fit together in a scenario, beyond the type of each value."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from ..scenario import (
    Abort,
    BlastRadius,
    Bound,
    Condition,
    DigestLane,
    Fault,
    Load,
    Objectives,
    RunbookStep,
    Selector,
    SteadyState,
)
from .decoding import Check
from .nodes import MappingNode, ScalarNode
from .problems import Report, shown
from .quantities import DURATION

NAME: Final = re.compile(r"[a-z0-9-]{1,63}")
NAME_PATTERN: Final = f"^{NAME.pattern}$"
ZERO = timedelta(0)

Values = Mapping[str, Any]


def check_name(values: Values, node: MappingNode, report: Report) -> None:
    name = values.get("name")
    if name is not None and not NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", name[:100].lower()).strip("-")[:63]
        report.add(
            node.place("name"),
            f"the name {shown(name)} has more than [a-z0-9-], or over 63 characters",
            f"write `{near or 'drill'}`",
        )


def check_duplicates(report: Report, names: list[tuple[str, Any]]) -> None:
    """Names that must differ: pairs of a name and its place."""
    seen: set[str] = set()
    for name, place in names:
        if name in seen:
            report.add(place, f"a second {shown(name)}", "give each its own name")
        seen.add(name)


def _positive(values: Values, node: MappingNode, report: Report, *keys: str) -> None:
    for key in keys:
        value = values.get(key)
        if value == ZERO:
            report.add(node.place(key.rstrip("_")), f"`{key.rstrip('_')}` is 0s", "write a longer time, or leave it out")


def _bound(values: Values, node: MappingNode, report: Report, key: str, relations: str) -> None:
    """A bound that points the wrong way, or that every value or none keeps, judges nothing."""
    bound = values.get(key)
    if isinstance(bound, Condition):
        bound = bound.bound
    if not isinstance(bound, Bound):
        return
    if bound.relation[0] not in relations:
        report.add(
            node.place(key), f"`{key}` with `{bound.relation}` asks for the worse", f"write `{relations}=` or `{relations}`"
        )
        return
    lowest, highest = bound.limit <= 0, bound.limit >= 1 and key != "first_token_p95"
    if (bound.relation in {">=", "<"} and lowest) or (bound.relation in {"<=", ">"} and highest):
        kept = "never comes true" if bound.relation in {"<", ">"} else "is always true"
        report.add(node.place(key), f"`{key}` {kept}", "write another limit")


def check_steady_state(values: Values, node: MappingNode, report: Report) -> None:
    _bound(values, node, report, "success", ">")
    _bound(values, node, report, "first_token_p95", "<")


def check_abort(values: Values, node: MappingNode, report: Report) -> None:
    _bound(values, node, report, "success", "<")


def check_objectives(values: Values, node: MappingNode, report: Report) -> None:
    _bound(values, node, report, "availability", ">")
    if len(values) == len(Objectives.__dataclass_fields__) and all(value is None for value in values.values()):
        todo = "set at least one objective, e.g. `rto: 60s`"
        report.add(node, "a drill that cannot fail is no drill: no objective is set", todo)


def check_selector(values: Values, node: MappingNode, report: Report) -> None:
    count, names = values.get("count"), values.get("names", ())
    if count is not None and values.get("share") is not None:
        report.add(node.place("share"), "`count` and `share` contradict each other", "keep one of them")
    if values.get("share") == 0:
        report.add(node.place("share"), "`share` is 0%: nothing would be hit", "write more, or leave it out")
    if count is not None and names and count > len(names):
        report.add(
            node.place("count"), f"`count` is {count}, but only {len(names)} `names` are given", "lower it, or leave it out"
        )
    entry = node.get("names")
    if isinstance(entry, MappingNode | ScalarNode) or entry is None:
        return
    check_duplicates(report, [(item.text, item) for item in entry.items if isinstance(item, ScalarNode)])


def check_fault(values: Values, node: MappingNode, report: Report) -> None:
    _positive(values, node, report, "for_", "deadline")
    at, held, deadline = values.get("at"), values.get("for_"), values.get("deadline")
    injector = values.get("injector")
    if held and injector is not None and injector.instant:
        report.add(node.place("for"), f"`{injector.kind}` is over at once, there is nothing to hold", "leave `for` out")
    if injector is not None and (longest := injector.longest) is not None:
        what = f"`{injector.kind}` can be ended by nobody but itself"
        if held is None and "for_" in values:
            report.add(node.place("kind"), f"{what}, and nothing says when", f"add `for:`, at most `{DURATION.show(longest)}`")
        if held and held > longest:
            report.add(
                node.place("for"), f"{what}, and `for` is {DURATION.show(held)}", f"write at most `{DURATION.show(longest)}`"
            )
        if deadline:
            report.add(node.place("deadline"), f"{what}, and that is when `for` is over", "leave `deadline` out")
    if at is None or not deadline:
        return
    end = at + (held or ZERO)
    if end > deadline:
        what = f"`at` and `for` end at {DURATION.show(end)}, after the deadline of {DURATION.show(deadline)}"
        report.add(node.place("deadline"), what, f"write at least `{DURATION.show(end)}`")


def check_load(values: Values, node: MappingNode, report: Report) -> None:
    pods, rate, streams = values.get("pods"), values.get("rate"), values.get("streams")
    if pods is None or rate is None or streams is None or pods == 1:
        return
    if not rate and not streams:
        report.add(node.place("pods"), f"{pods} `pods` and no load for them", "set `rate` or `streams`, e.g. `rate: 200/s`")
    elif 0 < streams < pods:
        what = f"{streams} `streams` are too few for {pods} `pods`"
        report.add(node.place("pods"), what, f"write at least `streams: {pods}`, or at most `pods: {streams}`")


def check_digest(values: Values, node: MappingNode, report: Report) -> None:
    _positive(values, node, report, "every")
    if values.get("per_second") == 0:
        report.add(
            node.place("per_second"), "`per_second` is 0: nothing would ever be read", "write e.g. `64MiB`, or leave it out"
        )


def check_blast_radius(values: Values, node: MappingNode, report: Report) -> None:
    if values.get("share") == 0:
        report.add(node.place("share"), "`share` is 0%: nothing may be hit", "write more, or leave it out")


def check_step(values: Values, node: MappingNode, report: Report) -> None:
    if values.get("step") == "":
        report.add(node.place("step"), "`step` is empty", "say what to do")


def _set_in_vain(objectives: Objectives, keys: tuple[str, ...], node: MappingNode, report: Report, why: tuple[str, str]) -> None:
    """Say of each of these objectives that is set why it tells nothing, and what to do."""
    for key in keys:
        if getattr(objectives, key) is not None:
            report.add(_inner(node.place("objectives"), key), f"`{key}` {why[0]}", why[1])


class ScenarioCheck:
    """The whole scenario; `found` has the faults that could be read, with their places."""

    def __init__(self, found: list[tuple[Fault, MappingNode]]) -> None:
        self.found = found

    def __call__(self, values: Values, node: MappingNode, report: Report) -> None:
        check_name(values, node, report)
        _positive(values, node, report, "observe")
        if values.get("faults") == ():
            report.add(node.place("faults"), "a drill without a fault is no drill", "add one, e.g. `- {kind: replica-kill}`")
        self._streams(values, node, report)
        self._digests(values, node, report)
        observe, limit = values.get("observe"), values.get("blast_radius")
        for fault, place in self.found:
            if observe and fault.at > observe:
                what = f"`at` is {DURATION.show(fault.at)}, but `observe` ends after {DURATION.show(observe)}"
                report.add(place.place("at"), what, "inject earlier, or observe for longer")
            if isinstance(limit, BlastRadius):
                self._blast_radius(fault.target, limit, place, report)

    @staticmethod
    def _streams(values: Values, node: MappingNode, report: Report) -> None:
        objectives, load = values.get("objectives"), values.get("load")
        if objectives is None or load is None or load.streams:
            return
        why = ("cannot be missed: `load.streams` is 0", "open some, e.g. `load: {streams: 4}`")
        _set_in_vain(objectives, ("streams_cut", "stream_gap"), node, report, why)

    @staticmethod
    def _digests(values: Values, node: MappingNode, report: Report) -> None:
        """Objectives that nothing would be measured for."""
        objectives = values.get("objectives")
        if objectives is None or values.get("digest") is not None or "digest" not in values:
            return
        why = ("cannot be judged: no digests are compared", "add `digest: {}`")
        _set_in_vain(objectives, ("time_to_single_digest", "mixed_answers"), node, report, why)

    @staticmethod
    def _blast_radius(target: Selector, limit: BlastRadius, node: MappingNode, report: Report) -> None:
        place = node.place("target")
        count = target.count
        if count is None and target.share is None:
            count = len(target.names) or 1
        if limit.targets is not None and count is not None and count > limit.targets:
            what = f"{count} target(s), but `blast_radius.targets` allows {limit.targets}"
            report.add(_inner(place, "count"), what, "hit fewer, or widen the blast radius")
        if limit.share is not None and target.share is not None and target.share > limit.share:
            what = f"a share of {target.share:.0%}, but `blast_radius.share` allows {limit.share:.0%}"
            report.add(_inner(place, "share"), what, "hit fewer, or widen the blast radius")


def _inner(node: Any, key: str) -> Any:
    return node.place(key) if isinstance(node, MappingNode) else node


CHECKS: Final[dict[type, Check]] = {
    SteadyState: check_steady_state,
    Abort: check_abort,
    Objectives: check_objectives,
    Load: check_load,
    DigestLane: check_digest,
    Selector: check_selector,
    Fault: check_fault,
    BlastRadius: check_blast_radius,
    RunbookStep: check_step,
}
