"""What a workload's controller takes away, and in which order, when its template or its size changes."""

import math
from collections.abc import Sequence
from typing import Any

from ..values import JSON
from .base import Target, Unsupported
from .kube_find import Owned


def check_exposed(owned: Owned, targets: tuple[Target, ...], *, starts: bool) -> None:
    """Whether a rollout takes no more than the targets. One that `starts`, or may, goes on through the whole workload."""
    spec, workload = owned.workload["spec"], f"{owned.kind}/{owned.name}"
    strategy = spec.get("strategy" if owned.kind == "deployment" else "updateStrategy") or {}
    rolling, how = strategy.get("rollingUpdate") or {}, strategy.get("type", "RollingUpdate")
    if spec.get("paused"):
        raise Unsupported(f"{workload} is paused, so nothing is rolled out")
    if how == "OnDelete":
        raise Unsupported(f"{workload} has the update strategy OnDelete, so nothing is rolled out")
    if owned.kind == "statefulset":
        if int(rolling.get("partition") or 0) >= owned.wanted:
            raise Unsupported(f"{workload} has a partition above all its pods, so nothing is rolled out")
        if spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady":  # kubernetes/kubernetes#67250
            raise Unsupported(f"{workload} manages its pods in order, and would not replace a broken one when it is put back")
        if not starts:
            demand(targets, ordinals(owned)[-1:], "replaces its highest number first")
            return
    number = owned.wanted if starts else _at_once(owned, how, rolling)
    if len(targets) < number:
        raise Unsupported(
            f"this rollout of {workload} may take {number} of {owned.wanted} pods ({'it starts' if starts else how}); write `target: {{count: {number}}}`"
        )


def _at_once(owned: Owned, how: str, rolling: JSON) -> int:
    """How many pods a rollout that gets stuck at its first has taken away."""
    if how == "Recreate":
        return owned.wanted
    if owned.kind == "daemonset":
        return max(1, _share(rolling.get("maxUnavailable", 1), owned.wanted, math.ceil))
    number = _share(rolling.get("maxUnavailable", "25%"), owned.wanted, math.floor)
    surge = _share(rolling.get("maxSurge", "25%"), owned.wanted, math.ceil)
    return number if number or surge else 1  # as its controller decides: with neither, nothing could ever be replaced


def ordinals(owned: Owned) -> list[str]:
    """Names of a StatefulSet's pods."""
    first = int((owned.workload["spec"].get("ordinals") or {}).get("start", 0))
    return [f"{owned.name}-{number}" for number in range(first, first + owned.wanted)]


def demand(targets: tuple[Target, ...], names: Sequence[str], why: str) -> None:
    if {target.name for target in targets} != set(names):
        raise Unsupported(
            f"{targets[0].details['workload']} {why}, which would be {', '.join(names)} and not "
            f"{', '.join(target.name for target in targets)}; write `target: {{names: [{', '.join(names)}]}}`"
        )


def _share(value: int | str, whole: int, rounded: Any) -> int:
    """`2` or `25%` of so many."""
    return int(rounded(float(value[:-1]) / 100 * whole)) if isinstance(value, str) and value.endswith("%") else int(value)
