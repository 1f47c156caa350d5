"""Workloads and nodes as things that a fault can change: what exactly would change, and what that would take away.

A controller decides by itself which pods it gives up. So that no drill hits others than it says, `fewer` marks its targets for a
Deployment by their deletion cost, and refuses where a controller has an order of its own that the targets are not in.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..values import JSON
from .abilities import nodes_of
from .base import PlatformError, Target, Unsupported
from .kube_api import ApiError, KubeApi, place
from .kube_cuttable import others_hit
from .kube_find import APPS, KINDS, Finder, Owned, pod_of
from .kube_guard import Guards
from .kube_pods import is_ending, main_container, parts_of, ready, revision
from .kube_rollouts import check_exposed, demand, ordinals
from .object_guard import MARK, at

COST = "controller.kubernetes.io/pod-deletion-cost"
FIRST = "-2147483648"  # the lowest cost there is
CLOSED = "node.kubernetes.io/unschedulable"  # the taint by which the node controller says what it has understood
BUDGET = "disruption budget"  # in the API server's words, with a 429, which else means that it is busy


class ClusterObjects:
    """Of one service. `finder` knows its workloads and what they keep; `protected`: namespaces that nothing may happen to."""

    def __init__(self, api: KubeApi, finder: Finder, guards: Guards, protected: Sequence[str]) -> None:
        self.api, self.finder, self.guards, self.protected = api, finder, guards, protected

    # --- what would change ---

    def fewer(self, targets: tuple[Target, ...]) -> list[JSON]:
        owned = self._of(targets)
        self.guards.needed()
        self._refuse_scaled(owned)
        left = owned.wanted - len(targets)
        if owned.kind == "statefulset":
            demand(targets, ordinals(owned)[left:], "gives up its highest numbers first")
        elif unready := {each.name for each in self.beside(targets[0]) if not each.details["ready"]} - {
            each.name for each in targets
        }:
            raise Unsupported(f"{', '.join(sorted(unready))} is not ready, and its controller would take that away first")
        scaled = _field(self._path(owned), owned.workload, ["spec", "replicas"], left)
        return [*self._marked(owned, targets), {**scaled, "before": owned.wanted}]

    def _refuse_scaled(self, owned: Owned) -> None:
        workload = f"{owned.kind}/{owned.name}"
        if owned.kind == "daemonset":
            raise Unsupported(f"{workload} has one pod for each node, and no number that could be lowered")
        kept = owned.workload["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        if kept.get("whenScaled") == "Delete":
            raise Unsupported(
                f"{workload} deletes the claims of replicas that it gives up (whenScaled: Delete): nothing brings them back"
            )
        scalers, _ = self.api.items(place("horizontalpodautoscalers", self.finder.spec.namespace, group="autoscaling/v2"))
        for each in scalers:
            target = each["spec"]["scaleTargetRef"]
            if (target["kind"].lower(), target["name"]) == (owned.kind, owned.name):
                raise Unsupported(f"HorizontalPodAutoscaler {each['metadata']['name']} decides how many replicas {workload} has")

    def _marked(self, owned: Owned, targets: tuple[Target, ...]) -> list[JSON]:
        """What makes a Deployment's controller take just these first."""
        if owned.kind != "deployment":
            return []
        where = ["metadata", "annotations", COST]
        return [_field(place("pods", *parts_of(each.identity)[:2]), pod_of(self.api, each), where, FIRST) for each in targets]

    def another_template(
        self, targets: tuple[Target, ...], image: str | None, environment: Mapping[str, str], *, starts: bool
    ) -> list[JSON]:
        owned = self._of(targets)
        self.guards.needed()
        check_exposed(owned, targets, starts=starts)
        containers = owned.workload["spec"]["template"]["spec"]["containers"]
        main = main_container(owned.workload["spec"]["template"])
        number = next(index for index, each in enumerate(containers) if each["name"] == main)
        where, path = ["spec", "template", "spec", "containers", number], self._path(owned)
        changes = self._marked(owned, targets)
        if image is not None:
            changes.append(_field(path, owned.workload, [*where, "image"], image))
        return [*changes, *(_variable(path, owned.workload, [*where, "env"], each) for each in environment.items())]

    def cordoned(self, targets: tuple[Target, ...]) -> list[JSON]:
        self.guards.needed()
        changes = []
        if daemons := [each.name for each in targets if str(each.details["workload"]).startswith("daemonset/")]:
            raise Unsupported(f"a DaemonSet takes no notice of a closed node, and {', '.join(daemons)} is of one")
        for node in nodes_of(targets):
            found = self.api.get(place("nodes", name=node))
            if found["spec"].get("unschedulable"):
                raise Unsupported(f"node {node} is closed to new pods already, by somebody else")
            changes.append(_field(place("nodes", name=node), found, ["spec", "unschedulable"], ours=True))
        return changes

    def tainted(self, targets: tuple[Target, ...], *, whole_node: bool) -> list[JSON]:
        self.guards.needed()
        changes = []
        taint = {"key": MARK, "value": secrets.token_hex(4), "effect": "NoExecute"}
        for each in targets:
            if _stays(pod_of(self.api, each), taint):
                raise Unsupported(f"{each.name} tolerates every taint and would stay")
        for node in nodes_of(targets):
            if hit := others_hit(self._strangers(node, taint), self.protected, whole_node=whole_node):
                raise Unsupported(f"the taint would move pods of others off node {node} as well: {hit}")
            path, uid = place("nodes", name=node), self.api.get(place("nodes", name=node))["metadata"]["uid"]
            changes.append({"how": "item", "object": path, "uid": uid, "path": ["spec", "taints"], "item": taint})
        return changes

    def _strangers(self, node: str, taint: JSON) -> list[str]:
        """Pods there that are not the service's and would have to go."""
        mine = {pod["metadata"]["uid"] for owned in self.finder.owned() for pod in owned.pods}
        return [
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            for pod in self.api.items(place("pods"), fields=f"spec.nodeName={node}")[0]
            if pod["metadata"]["uid"] not in mine and not _stays(pod, taint) and not is_ending(pod)
        ]

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
        for change in changes:
            if not self._is_ours(change):
                raise Unsupported(f"a record that was not written by a drill of this service: it would change {_told(change)}")
        return self.guards.end(fault, changes)

    def _is_ours(self, change: JSON) -> bool:
        """Whether a drill could have made it: whoever may write a ConfigMap could have written the record."""
        path, keys = change["object"], list(change.get("path") or [])
        kept_in, item = path.rpartition("/")[0], change["how"] == "item"
        if kept_in == place("nodes"):
            return (
                bool(change["item"].get("key") == MARK and keys == ["spec", "taints"])
                if item
                else keys == ["spec", "unschedulable"]
            )
        if kept_in == place("pods", self.finder.spec.namespace):
            return keys == ["metadata", "annotations", COST] and not item
        workloads = [place(KINDS[kind], self.finder.spec.namespace, name, APPS) for _, kind, name in self.finder.workloads()]
        inside = keys[:4] == ["spec", "template", "spec", "containers"] and keys[5:6] in (["image"], ["env"])
        return path in workloads and (keys == ["spec", "replicas"] or inside)

    def missing(self, fault: str, changes: Sequence[JSON]) -> str:
        return next((_told(change) for change in changes if not self.guards.seen(change)), "") or self.guards.unguarded(fault)

    def left(self, changes: Sequence[JSON]) -> str:
        return next((_told(change) for change in changes if self.guards.seen(change)), "")

    def beside(self, target: Target) -> tuple[Target, ...]:
        return tuple(each for each in self.finder.all() if each.details["workload"] == target.details["workload"])

    def unfinished(self, target: Target) -> str:
        owned = self._of((target,))
        status = owned.workload["status"]
        good = int(status.get("numberReady" if owned.kind == "daemonset" else "readyReplicas", 0))
        if owned.kind == "statefulset":
            # It is called rolled out as soon as it is put back, with pods of the other version still there.
            current = status.get("updateRevision")
            good = sum(ready(pod) and revision(pod) == current for pod in owned.pods)
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


def _variable(path: str, thing: JSON, where: list[Any], named: tuple[str, str]) -> JSON:
    """One environment variable and no other: what else a container is given may be secret, and is not written down."""
    name, value = named
    for number, each in enumerate(at(thing, where) or []):
        if each["name"] == name:
            if "valueFrom" in each:
                raise Unsupported(f"variable {name} takes its value from elsewhere; one with a value of its own can be changed")
            return _field(path, thing, [*where, number, "value"], value)
    return {"how": "item", "object": path, "uid": thing["metadata"]["uid"], "path": where, "item": {"name": name, "value": value}}


def _stays(pod: JSON | None, taint: JSON) -> bool:
    """Whether a pod tolerates a NoExecute taint for good, or is the node's own (kubernetes.io, Taints and Tolerations)."""
    if pod is None:
        return False
    if any(owner["kind"] == "Node" for owner in pod["metadata"].get("ownerReferences") or []):
        return True
    return any(
        each.get("effect") in {None, "", taint["effect"]}
        and each.get("key") in {None, "", taint["key"]}
        and (each.get("operator") == "Exists" or each.get("value") == taint["value"])
        and each.get("tolerationSeconds") is None
        for each in pod["spec"].get("tolerations") or []
    )
