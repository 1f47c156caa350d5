"""Workloads and nodes as things that a fault can change: what exactly would change, and what that would take away.

A controller decides by itself which pods it gives up. So that no drill hits others than it says, `fewer` marks its targets for a
Deployment by their deletion cost, and refuses where a controller has an order of its own that the targets are not in.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..values import JSON
from .base import PlatformError, Target, Unsupported
from .kube_api import ApiError, KubeApi, place
from .kube_find import APPS, KINDS, OVER, Finder, Owned, main_container, parts_of
from .kube_guard import Guards
from .object_guard import MARK, at

COST = "controller.kubernetes.io/pod-deletion-cost"
FIRST = "-2147483648"  # the lowest cost there is
TAINT = {"key": MARK, "effect": "NoExecute"}
CLOSED = "node.kubernetes.io/unschedulable"  # the taint by which the node controller says what it has understood
BUDGET = "disruption budget"  # in the API server's words, with a 429, which else means that it is busy


class ClusterObjects:
    """Of one service. `finder` knows its workloads and what they keep."""

    def __init__(self, api: KubeApi, finder: Finder, guards: Guards) -> None:
        self.api, self.finder, self.guards = api, finder, guards

    # --- what would change ---

    def fewer(self, targets: tuple[Target, ...]) -> list[JSON]:
        owned = self._of(targets)
        self.guards.needed()
        if owned.kind == "daemonset":
            raise Unsupported(f"daemonset/{owned.name} has one pod for each node; use node-drain")
        left = owned.wanted - len(targets)
        if owned.kind == "statefulset":
            _demand(targets, _ordinals(owned)[left:], "gives up its highest numbers first")
        marks = [_field(self._pod_path(each), self._pod(each), ["metadata", "annotations", COST], FIRST) for each in targets]
        scaled = _field(self._path(owned), owned.workload, ["spec", "replicas"], left)
        return [*(marks if owned.kind == "deployment" else []), {**scaled, "before": owned.wanted}]

    def another_template(self, targets: tuple[Target, ...], image: str | None, environment: Mapping[str, str]) -> list[JSON]:
        owned = self._of(targets)
        self.guards.needed()
        check_exposed(owned, targets)
        containers = owned.workload["spec"]["template"]["spec"]["containers"]
        main = main_container(owned.workload["spec"]["template"])
        number = next(index for index, each in enumerate(containers) if each["name"] == main)
        where, path = ["spec", "template", "spec", "containers", number], self._path(owned)
        changes = [] if image is None else [_field(path, owned.workload, [*where, "image"], image)]
        if environment:
            variables = [each for each in containers[number].get("env") or [] if each["name"] not in environment]
            added = [{"name": name, **({"value": value} if value else {})} for name, value in environment.items()]
            ours = [*variables, *added]  # as the API server will show it: it keeps no empty value
            changes.append(_field(path, owned.workload, [*where, "env"], ours))
        return changes

    def cordoned(self, targets: tuple[Target, ...]) -> list[JSON]:
        self.guards.needed()
        changes = []
        for node in _nodes(targets):
            found = self.api.get(place("nodes", name=node))
            if found["spec"].get("unschedulable"):
                raise Unsupported(f"node {node} is closed to new pods already, by somebody else")
            changes.append(_field(place("nodes", name=node), found, ["spec", "unschedulable"], ours=True))
        return changes

    def tainted(self, targets: tuple[Target, ...], *, whole_node: bool) -> list[JSON]:
        self.guards.needed()
        changes = []
        for node in _nodes(targets):
            others = [] if whole_node else self._strangers(node)
            if others:
                raise Unsupported(
                    f"the taint would move pods of others off node {node} as well: {', '.join(others[:5])}"
                    f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}; say `whole_node: true` if that is meant"
                )
            found = self.api.get(place("nodes", name=node))
            uid = found["metadata"]["uid"]
            changes.append(
                {"how": "item", "object": place("nodes", name=node), "uid": uid, "path": ["spec", "taints"], "item": TAINT}
            )
        return changes

    def _strangers(self, node: str) -> list[str]:
        """Pods there that are not the service's and would have to go: those of DaemonSets and of the node itself stay."""
        mine = {pod["metadata"]["uid"] for owned in self.finder.owned() for pod in owned.pods}
        found = []
        for pod in self.api.items(place("pods"), fields=f"spec.nodeName={node}")[0]:
            owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences") or []}
            stays = owners & {"DaemonSet", "Node"} or pod["status"].get("phase") in OVER
            if pod["metadata"]["uid"] not in mine and not stays:
                found.append(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
        return found

    # --- changing, and looking ---

    def evict(self, target: Target, *, only_ask: bool = False) -> str:
        namespace, name, uid = parts_of(target.identity)
        options = {"preconditions": {"uid": uid}, **({"dryRun": ["All"]} if only_ask else {})}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
        try:
            self.api.create(place("pods", namespace, name, more="eviction"), {**body, "deleteOptions": options})
        except ApiError as error:
            if error.status in {404, 409}:  # it is gone, or another one has its name
                return ""
            raise
        except PlatformError as error:
            if BUDGET in str(error):
                return f"a PodDisruptionBudget does not allow it: {error}"
            raise
        return ""

    def begin(self, fault: str, changes: Sequence[JSON], deadline_s: float) -> None:
        away = [each["object"].rpartition("/")[2] for each in changes if "/nodes/" in each["object"]]
        self.guards.begin(fault, changes, self.finder.spec.workload, deadline_s, away)

    def end(self, fault: str, changes: Sequence[JSON]) -> JSON:
        return self.guards.end(fault, changes)

    def missing(self, changes: Sequence[JSON]) -> str:
        return next((_told(change) for change in changes if not self.guards.seen(change)), "")

    def left(self, changes: Sequence[JSON]) -> str:
        return next((_told(change) for change in changes if self.guards.seen(change)), "")

    def beside(self, target: Target) -> tuple[Target, ...]:
        return tuple(each for each in self.finder.all() if each.details["workload"] == target.details["workload"])

    def unfinished(self, target: Target) -> str:
        owned = self._of((target,))
        status = owned.workload["status"]
        good = int(status.get("numberReady" if owned.kind == "daemonset" else "readyReplicas", 0))
        return owned.rollout or (f"{good} of {owned.wanted} pods are ready" if good < owned.wanted else "")

    def closed(self, node: str) -> bool:
        taints = self.api.get(place("nodes", name=node))["spec"].get("taints") or []
        return any(each["key"] == CLOSED for each in taints)

    def _of(self, targets: tuple[Target, ...]) -> Owned:
        named = {target.details["workload"] for target in targets}
        if len(named) > 1:
            raise Unsupported(f"the targets are of several workloads: {', '.join(sorted(named))}; take one role each")
        return next(each for each in self.finder.owned() if f"{each.kind}/{each.name}" in named)

    def _path(self, owned: Owned) -> str:
        return place(KINDS[owned.kind], self.finder.spec.namespace, owned.name, APPS)

    def _pod_path(self, target: Target) -> str:
        namespace, name, _ = parts_of(target.identity)
        return place("pods", namespace, name)

    def _pod(self, target: Target) -> JSON | None:
        return self.api.there(self._pod_path(target))


def _told(change: JSON) -> str:
    what = {"field": lambda: f"{'.'.join(map(str, change['path']))}: {change['ours']}", "item": lambda: f"{change['item']}"}
    return f"{change['object']} {what[change['how']]() if change['how'] in what else ''}".rstrip()


def _field(path: str, thing: JSON | None, keys: Sequence[Any], ours: Any) -> JSON:
    if thing is None:
        raise Unsupported(f"{path} is gone")
    return {
        "how": "field",
        "object": path,
        "uid": thing["metadata"]["uid"],
        "path": list(keys),
        "before": at(thing, list(keys)),
        "ours": ours,
    }


def _nodes(targets: tuple[Target, ...]) -> list[str]:
    return list(dict.fromkeys(str(target.details["node"]) for target in targets))


def _demand(targets: tuple[Target, ...], names: Sequence[str], why: str) -> None:
    if {target.name for target in targets} != set(names):
        raise Unsupported(
            f"{targets[0].details['workload']} {why}, which would be {', '.join(names)} and not "
            f"{', '.join(target.name for target in targets)}; write `target: {{names: [{', '.join(names)}]}}`"
        )


def _ordinals(owned: Owned) -> list[str]:
    """Names of a StatefulSet's pods."""
    first = int((owned.workload["spec"].get("ordinals") or {}).get("start", 0))
    return [f"{owned.name}-{number}" for number in range(first, first + owned.wanted)]


def check_exposed(owned: Owned, targets: tuple[Target, ...]) -> None:
    """Whether a rollout that goes wrong takes no more, and no others, than the targets."""
    spec, workload = owned.workload["spec"], f"{owned.kind}/{owned.name}"
    strategy = spec.get("strategy" if owned.kind == "deployment" else "updateStrategy") or {}
    rolling, how = strategy.get("rollingUpdate") or {}, strategy.get("type", "RollingUpdate")
    if how == "OnDelete":
        raise Unsupported(f"{workload} has the update strategy OnDelete, so nothing is rolled out")
    if owned.kind == "statefulset":
        if int(rolling.get("partition") or 0) >= owned.wanted:
            raise Unsupported(f"{workload} has a partition above all its pods, so nothing is rolled out")
        _demand(targets, _ordinals(owned)[-1:], "replaces its highest number first")
        return
    if how == "Recreate":
        number = owned.wanted
    elif owned.kind == "daemonset":
        number = max(1, _share(rolling.get("maxUnavailable", 1), owned.wanted, math.ceil))
    else:
        number = _share(rolling.get("maxUnavailable", "25%"), owned.wanted, math.floor)
        if not number and not _share(rolling.get("maxSurge", "25%"), owned.wanted, math.ceil):
            number = 1  # as its controller decides: with neither, nothing could ever be replaced
    if len(targets) < number:
        raise Unsupported(
            f"a rollout of {workload} may take {number} of {owned.wanted} pods away at once ({how}); write `target: {{count: {number}}}`"
        )


def _share(value: int | str, whole: int, rounded: Any) -> int:
    """`2` or `25%` of so many."""
    return int(rounded(float(value[:-1]) / 100 * whole)) if isinstance(value, str) and value.endswith("%") else int(value)
