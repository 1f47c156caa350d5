"""Faults of the machines that a cluster runs the service on: node-cordon, node-drain, node-taint, node-isolate.

They hit no more of a node than a scenario says: node-drain evicts the service's own pods and nobody else's.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

from .base import Differs, Evidence, NotYet, Privilege, Undo
from .means import CUT_NODE, DRAIN, Means
from .objects import ObjectFault, evict_all, isolation_of, may_be_evicted, objects_of
from .platforms.abilities import nodes_of
from .platforms.base import Platform, Target
from .values import JSON

CONTROLLERS = "the node controller's own taint on the node"
HEARTBEAT = "the node controller's Ready condition of the node, and the node's lease"
GRACE = timedelta(seconds=75)  # how long the node controller is waited for: 50 s are usual before it misses a node, 40 s were


class NodeFault(ObjectFault):
    """A change of the nodes that the chosen targets run on, and its end."""

    changes: ClassVar[frozenset[str]] = frozenset({"node"})

    def candidates(self, everything: tuple[Target, ...]) -> tuple[Target, ...]:
        """One target of each role and node: the count is of nodes."""
        first: dict[tuple[str, str], Target] = {}
        for target in everything:
            first.setdefault((target.role, str(target.details.get("node"))), target)
        return tuple(first.values())

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        """The nodes are open again, and the service's pods run, wherever they do."""
        objects, nodes = objects_of(platform), nodes_of(undo.targets)
        if still := objects.left(undo.prior["changes"]):
            raise Differs(f"still there: {still}")
        if closed := [node for node in nodes if objects.closed(node)]:
            raise Differs(f"the node controller still takes {', '.join(closed)} for closed")
        all_stand(undo, platform)
        return Evidence(CONTROLLERS, f"open again: {', '.join(nodes)}", {"nodes": nodes})


def all_stand(undo: Undo, platform: Platform) -> None:
    """The service's pods run, wherever they do. Raises Differs."""
    workloads = {target.details["workload"]: target for target in undo.targets}
    for workload, target in workloads.items() if not platform.vanished() else ():
        if left := objects_of(platform).unfinished(target):
            raise Differs(f"{workload}: {left}")


def all_on(chosen: tuple[Target, ...], everything: tuple[Target, ...]) -> tuple[Target, ...]:
    """Everything of the service on the nodes of those."""
    nodes = nodes_of(chosen)
    return tuple(target for target in everything if target.details.get("node") in nodes)


@dataclass(frozen=True)
class NodeCordon(NodeFault):
    """Close nodes to new pods. What runs there runs on."""

    kind: ClassVar[str] = "node-cordon"
    summary: ClassVar[str] = "nodes take no new pods; what runs there runs on"
    certifies: ClassVar[str] = (
        "that the service goes on while nodes are closed; with a kill after it, that what died comes up elsewhere"
    )
    proven_by: ClassVar[str] = CONTROLLERS

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        return Undo(targets, {"changes": objects_of(platform).cordoned(targets)})

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        objects, nodes = objects_of(platform), nodes_of(undo.targets)
        if why := objects.missing(undo.fault, undo.prior["changes"]):
            raise NotYet(f"not there: {why}")
        if still := [node for node in nodes if not objects.closed(node)]:
            raise NotYet(f"the node controller has not closed {', '.join(still)} yet")
        return Evidence(CONTROLLERS, f"closed: {', '.join(nodes)}", {"nodes": nodes})


class EmptyingFault(NodeFault):
    """One that moves the service off the nodes."""

    restarts: ClassVar[bool] = True
    proven_by: ClassVar[str] = "the pods by UID: those that ran on the nodes are gone"

    def hits(self, chosen: tuple[Target, ...], everything: tuple[Target, ...]) -> tuple[Target, ...]:
        return all_on(chosen, everything)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        if why := objects_of(platform).missing(undo.fault, undo.prior["changes"]):
            raise NotYet(f"not there: {why}")
        for target in undo.targets:
            if (state := platform.state(target)) != "gone":
                raise NotYet(f"{target.name} ({target.identity}) is still {state} on node {target.details['node']}")
        gone = [target.identity for target in undo.targets]
        return Evidence(platform.witness, f"gone from {', '.join(nodes_of(undo.targets))}: {', '.join(gone)}", {"gone": gone})


@dataclass(frozen=True)
class NodeDrain(EmptyingFault):
    """Close nodes and evict the service's pods from them, within their PodDisruptionBudgets, as `kubectl drain` does."""

    kind: ClassVar[str] = "node-drain"
    summary: ClassVar[str] = "nodes are closed and the service's pods evicted from them"
    done_by: ClassVar[Means] = DRAIN
    certifies: ClassVar[str] = (
        "that the service bears the maintenance of a node; not that it bears a node's sudden death, nor that budgets are set right "
        "for other services there"
    )

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        changes = objects_of(platform).cordoned(targets)
        may_be_evicted(targets, platform)
        return Undo(targets, {"changes": changes})

    def inject(self, undo: Undo, platform: Platform) -> None:
        super().inject(undo, platform)
        evict_all(undo.targets, platform, self.patience.total_seconds())

    def takes(self) -> frozenset[str]:
        return self.changes | {"evict"}


@dataclass(frozen=True)
class NodeTaint(EmptyingFault):
    """Put a NoExecute taint on nodes: what does not tolerate it is ended at once, whatever its budget says."""

    whole_node: Annotated[bool, "move pods of others off the nodes as well"] = False

    kind: ClassVar[str] = "node-taint"
    summary: ClassVar[str] = "a taint moves everything off nodes at once, without asking budgets"
    certifies: ClassVar[str] = (
        "that the service bears a node being taken away without asking; not that it bears its power failing"
    )

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        return Undo(targets, {"changes": objects_of(platform).tainted(targets, whole_node=self.whole_node)})


@dataclass(frozen=True)
class NodeIsolate(NodeFault):
    """Cut nodes off from everything, as if their cables were pulled, for a time that their own kernels keep."""

    whole_node: Annotated[bool, "cut pods of others off as well"] = False

    kind: ClassVar[str] = "node-isolate"
    summary: ClassVar[str] = "nodes are cut off from everything: pods, clients, API server; all on them runs on"
    certifies: ClassVar[str] = (
        "that the service bears a node that is suddenly silent and comes back later, with all that ran on meanwhile; not that it bears a "
        "node that dies. Where `for` is shorter than the node controller's patience (50 s as a rule), the cluster sends requests there to the "
        "end, and only the health checks of clients and gateways can help"
    )
    done_by: ClassVar[Means] = CUT_NODE
    proven_by: ClassVar[str] = HEARTBEAT
    undone_by: ClassVar[str] = "the node's own kernel when `for` is over; a pod of ours there then clears up, and says so"
    privilege: ClassVar[Privilege] = Privilege.HELPER
    patience: ClassVar[timedelta] = GRACE + timedelta(seconds=25)
    longest: ClassVar[timedelta | None] = timedelta(minutes=15)

    def takes(self) -> frozenset[str]:
        return frozenset({"helper"})

    def hits(self, chosen: tuple[Target, ...], everything: tuple[Target, ...]) -> tuple[Target, ...]:
        return all_on(chosen, everything)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        isolation_of(platform).refuse(targets, whole_node=self.whole_node)
        return Undo(targets, {"nodes": nodes_of(targets)})

    def inject(self, undo: Undo, platform: Platform) -> None:
        isolation_of(platform).begin(undo.fault, undo.prior["nodes"], undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        """By the controller's word; where `for` ends before it would miss a node, by a lease that has missed its renewals."""
        waited_s, told, facts = min(GRACE.total_seconds(), undo.deadline_s * 3 / 4), [], {}
        for node in undo.prior["nodes"]:
            seen = isolation_of(platform).seen(node)
            if seen is None:
                raise NotYet(f"node {node} is gone")
            if seen["silent_s"] < 2 * seen["every_s"]:
                raise NotYet(f"the lease of node {node} was renewed {seen['silent_s']:.1f} s ago, as every {seen['every_s']:g} s")
            if seen["ready"] == "True" and seen["cut_s"] < waited_s:
                raise NotYet(
                    f"the node controller still takes node {node} for ready; its lease is silent for {seen['silent_s']:.1f} s"
                )
            facts[node] = seen
            told.append(f"{node}: Ready is {seen['ready']} ({seen['reason']}), lease not renewed for {seen['silent_s']:.1f} s")
        return Evidence(HEARTBEAT, "; ".join(told), facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        """Nobody can reach the node meanwhile: this waits until it is back, and for its word."""
        isolation_of(platform).end(undo.fault, undo.prior["nodes"], undo.deadline_s)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        isolation, facts = isolation_of(platform), {}
        if left := isolation.left(undo.fault, undo.prior["nodes"]):
            raise Differs(f"still there: {left}")
        for node in undo.prior["nodes"]:
            facts[node] = seen = isolation.seen(node)
            if seen and (seen["ready"] != "True" or seen["taints"] or seen["silent_s"] >= 2 * seen["every_s"]):
                marks = f", with taint {seen['taints'][0]}" if seen["taints"] else ""
                raise Differs(f"node {node}: Ready is {seen['ready']}{marks}, lease not renewed for {seen['silent_s']:.1f} s")
        all_stand(undo, platform)
        words = isolation.words(undo.fault)
        return Evidence(HEARTBEAT, _back(undo.prior["nodes"], words), {"nodes": facts, "said there": words})


def _back(nodes: list[str], words: JSON) -> str:
    """What the pods there said, as far as this process has heard it."""
    told = []
    for node in nodes:
        word = words.get(node, {})
        drops = sum(each["packets"] for each in word.get("counters", {}).values())
        held = f", cut off for {word['held_s']:g} s ({drops} packets dropped)" if "held_s" in word else ""
        told.append(f"{node} is Ready{held}{': ' + word['reason'] if word else ''}")
    return "; ".join(told)
