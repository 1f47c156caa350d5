"""Faults of the machines that a cluster runs the service on: node-cordon, node-drain, node-taint.

They hit no more of a node than a scenario says: node-drain evicts the service's own pods and nobody else's.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from .base import Differs, Evidence, NotYet, Undo
from .objects import ObjectFault, evict_all, may_be_evicted, objects_of
from .platforms.abilities import nodes_of
from .platforms.base import Platform, Target

CONTROLLERS = "the node controller's own taint on the node"


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
        workloads = {target.details["workload"]: target for target in undo.targets}
        for workload, target in workloads.items() if not platform.vanished() else ():
            if left := objects.unfinished(target):
                raise Differs(f"{workload}: {left}")
        return Evidence(CONTROLLERS, f"open again: {', '.join(nodes)}", {"nodes": nodes})


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
        nodes = nodes_of(chosen)
        return tuple(target for target in everything if target.details.get("node") in nodes)

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
