"""Which nodes must not be cut off from everything, by what the cluster says of them and of the pods on them."""

from collections.abc import Sequence

from ..values import JSON, first_of
from .kube_pods import is_ending, ready
from .kube_records import OURS

CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master", "node-role.kubernetes.io/etcd")
QUORUM = 2  # of three members
DEMO = {"app.kubernetes.io/part-of": "blackstart-demo"}  # a service to drill, not a part of the drill


def must_stay(nodes: Sequence[JSON], cut: Sequence[str]) -> str:
    """Why these nodes must not be cut off, as far as nodes decide; empty: they may be."""
    known = {each["metadata"]["name"]: each for each in nodes}
    for name in cut:
        if name not in known or not ready(known[name]):
            return f"node {name} is not ready, and what is lost already cannot be cut off"
    rest = [each for name, each in known.items() if name not in cut and ready(each)]
    if not rest:
        return f"no other node is ready: with {', '.join(cut)} the whole cluster would be cut off"
    control = [name for name in cut if _controls(known[name])]
    others = sum(map(_controls, rest))
    if control and others < QUORUM:
        return (
            f"node {control[0]} is of the control plane, of which {others} other nodes would be left: {QUORUM} are needed for the cluster "
            "to answer at all"
        )
    return ""


def _controls(node: JSON) -> bool:
    return any(label in (node["metadata"].get("labels") or {}) for label in CONTROL_PLANE)


def must_not_go(node: str, pods: Sequence[JSON], mine: set[str], protected: Sequence[str], *, whole_node: bool) -> str:
    """Why a node must not be cut off, as far as the pods on it decide (`mine`: UIDs of the service's); empty: it may be."""
    there = [pod["metadata"] for pod in pods if pod["metadata"]["uid"] not in mine and not is_ending(pod)]
    for each in there:
        if is_ours(each):
            return f"node {node} carries pod {each['name']} of blackstart's own, which would be cut off with it"
    others = [f"{each['namespace']}/{each['name']}" for each in there if not _of_the_node(each)]
    hit = others_hit(others, protected, whole_node=whole_node)
    return f"pods of others would be cut off with node {node}: {hit}" if hit else ""


def is_ours(meta: JSON) -> bool:
    """Whether that is blackstart's own, by its metadata."""
    labels = meta.get("labels") or {}
    return OURS.items() <= labels.items() and not DEMO.items() <= labels.items()


def others_hit(others: Sequence[str], protected: Sequence[str], *, whole_node: bool) -> str:
    """Which pods of others (NAMESPACE/NAME) must not be hit with a node, and why; empty: none."""
    if safe := [name for name in others if name.partition("/")[0] in protected]:
        return f"{first_of(safe, 5)}; their namespace is protected"
    return f"{first_of(others, 5)}; say `whole_node: true` if that is meant" if others and not whole_node else ""


def _of_the_node(meta: JSON) -> bool:
    """Every node has one, and so the rest of the cluster does not live by this one: a DaemonSet's, or the kubelet's own."""
    return any(owner["kind"] in {"DaemonSet", "Node"} for owner in meta.get("ownerReferences") or [])
