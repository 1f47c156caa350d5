"""Pods of a service's workloads as targets with names that outlive the pods.

A pod of a Deployment gets another name each time that it is replaced, and a drill must be able to say `what stands in its place`.
So pods stand in slots: `llm-0`, `llm-1`. A slot keeps its pod until that is gone, and is then filled by the oldest pod that has none.
Pods of a StatefulSet are their own slots. A slot's identity is the UID of the pod in it, never its name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from ..values import JSON
from .base import PlatformError, Target
from .kube_api import Forbidden, KubeApi, NotThere, place
from .kube_exec import Container
from .kube_pods import (
    identity_of,
    is_ending,
    main_container,
    owner_of,
    parts_of,
    ready,
    revision,
    selector_of,
    selects,
    url,
    url_of,
    waiting,
)
from .kubernetes_spec import KubernetesSpec

APPS = "apps/v1"
KINDS = {"deployment": "deployments", "statefulset": "statefulsets", "daemonset": "daemonsets"}


def pod_of(api: KubeApi, target: Target) -> JSON | None:
    """The very pod that is meant, or None: a namesake is not it."""
    namespace, name, uid = parts_of(target.identity)
    pod = api.there(place("pods", namespace, name))
    return pod if pod and pod["metadata"]["uid"] == uid else None


def standing_pod(api: KubeApi, target: Target) -> JSON:
    """The same, where without it nothing can be done. Raises PlatformError when it is gone."""
    pod = pod_of(api, target)
    if pod is None:
        raise PlatformError(f"{target.name} ({target.identity}) is gone")
    return pod


def container_of(target: Target, name: str) -> Container:
    """That container of the target's pod."""
    namespace, pod, _ = parts_of(target.identity)
    return Container(namespace, pod, name)


@dataclass(frozen=True)
class Owned:
    """A workload as it is now, with the pods that it controls, oldest first, without those that are being deleted."""

    role: str
    kind: str
    name: str
    workload: JSON
    pods: tuple[JSON, ...]
    owners: frozenset[str] = frozenset()  # UIDs of what controls its pods
    revision: int = 0  # of the view that `pods` are from

    def having(self, pods: Iterable[JSON], revision: int) -> "Owned":
        """With those of these pods that it controls."""
        mine = [pod for pod in pods if owner_of(pod) in self.owners and not is_ending(pod)]
        mine.sort(key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
        return replace(self, pods=tuple(mine), revision=revision)

    @property
    def wanted(self) -> int:
        """How many pods it should have."""
        if self.kind == "daemonset":
            return int(self.workload["status"].get("desiredNumberScheduled", 0))
        return int(self.workload["spec"].get("replicas", 1))

    @property
    def rollout(self) -> str:
        """What a rollout that is under way still has to do; empty when none is."""
        status, generation = self.workload["status"], self.workload["metadata"]["generation"]
        if status.get("observedGeneration", 0) < generation:
            return "its controller has not taken up the latest change yet"
        updated = status.get("updatedNumberScheduled" if self.kind == "daemonset" else "updatedReplicas", 0)
        if self.kind == "statefulset" and status.get("currentRevision") == status.get("updateRevision"):
            updated = self.wanted  # the controller counts none as updated once all are
        if updated < self.wanted:
            return f"{updated} of {self.wanted} pods are of the new version"
        old = int(status.get("replicas", updated)) - updated
        return f"{old} pods of the old version are still there" if self.kind == "deployment" and old > 0 else ""


def split(workload: str) -> tuple[str, str]:
    """`deployment/llm` -> kind and name. Raises PlatformError for what cannot be drilled."""
    kind, _, name = workload.partition("/")
    if kind not in KINDS or not name:
        raise PlatformError(
            f"{workload} is no workload that can be drilled; write deployment/NAME, statefulset/NAME or daemonset/NAME"
        )
    return kind, name


@dataclass
class Finder:
    """Looks at the cluster; keeps which pod stands in which slot."""

    api: KubeApi
    spec: KubernetesSpec
    slots: dict[str, str] = field(default_factory=dict)  # name -> UID, also of the pod that stood there last
    _newest: dict[str, int] = field(default_factory=dict)  # workload -> revision of the latest view that pods were placed by
    _lock: Lock = field(default_factory=Lock)

    def workloads(self) -> list[tuple[str, str, str]]:
        """Role, kind and name of each."""
        return [("replica", *split(self.spec.workload)), *((each.role, *split(each.workload)) for each in self.spec.components)]

    def owned(self) -> list[Owned]:
        """Every workload with its pods. Raises PlatformError for one that is not there."""
        return [self._whole(each) for each in self.empty()]

    def _whole(self, empty: Owned) -> Owned:
        pods, version = self.api.items(place("pods", self.spec.namespace), labels=selector_of(empty.workload))
        return empty.having(pods, int(version or 0))

    def empty(self) -> list[Owned]:
        """As `owned`, without looking at pods."""
        return [self._empty(*each) for each in self.workloads()]

    def _empty(self, role: str, kind: str, name: str) -> Owned:
        namespace = self.spec.namespace
        try:
            workload = self.api.get(place(KINDS[kind], namespace, name, APPS))
        except NotThere as error:
            raise PlatformError(f"there is no {kind}/{name} in namespace {namespace} (context {self.api.context})") from error
        owners = {workload["metadata"]["uid"]}
        if kind == "deployment":
            sets, _ = self.api.items(place("replicasets", namespace, "", APPS), labels=selector_of(workload))
            owners = {each["metadata"]["uid"] for each in sets if owner_of(each) in owners}
        return Owned(role, kind, name, workload, (), frozenset(owners))

    def recall(self, targets: Iterable[Target]) -> None:
        """What stood in which slot in an earlier process."""
        for target in targets:
            name = target.name.partition("/")[0]
            self.slots.setdefault(name, parts_of(target.identity)[2])

    def all(self) -> tuple[Target, ...]:
        """A target for every slot with a pod in it."""
        return tuple(self._target(name, owned, pod) for owned in self.owned() for name, pod in self.placed(owned).items())

    def placed(self, owned: Owned) -> Mapping[str, JSON]:
        """Slot -> the pod in it. A view that is older than the latest one gives no slot away: its pods may be gone."""
        workload = f"{owned.kind}/{owned.name}"
        with self._lock:
            if owned.revision >= self._newest.get(workload, 0):
                self._newest[workload] = owned.revision
                return self._placed(owned)
            by_uid = {pod["metadata"]["uid"]: pod for pod in owned.pods}
            return {name: by_uid[uid] for name, uid in self.slots.items() if uid in by_uid}

    def one(self, name: str) -> Target | None:
        """What stands in that slot; asks of the workloads that may have it."""
        owner, _, number = name.rpartition("-")
        may_have = [each for each in self.workloads() if each[2] == owner and number.isdigit()]
        placed = [(owned, self.placed(owned)) for owned in (self._whole(self._empty(*each)) for each in may_have)]
        return next((self._target(name, owned, pods[name]) for owned, pods in placed if name in pods), None)

    def address(self, service: str, port: int) -> str:
        """The URL of a Service as it is reached from here: its load balancer, a node's port, or its address in the cluster."""
        named = f"service {service} in namespace {self.spec.namespace}"
        found = self.api.get(place("services", self.spec.namespace, service))
        ports = {each["port"]: each for each in found["spec"].get("ports") or []}
        if port not in ports:
            raise PlatformError(f"{named} has no port {port}; it has {', '.join(map(str, ports))}")
        ingress = ((found.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        if ingress:
            return url(ingress[0].get("ip") or ingress[0]["hostname"], port)
        if node_port := ports[port].get("nodePort"):
            nodes = [pod["status"]["hostIP"] for pod in self.owned()[0].pods if pod["status"].get("hostIP")]
            if nodes:
                return url(nodes[0], node_port)
        address = found["spec"].get("clusterIP")
        if not address or address == "None":
            raise PlatformError(f"{named} has no address; give endpoint.url as clients use it")
        return url(address, port)

    def not_opted_in(self, label: str | None) -> list[str]:
        """Why nothing may be injected, where the service file demands a label of whatever is drilled."""
        key, _, value = (label or "").partition("=")
        return [
            f"{each.kind}/{each.name} does not carry the label {label}, which the service file demands (protect.opt_in)"
            for each in self.owned()
            if label and (each.workload["metadata"].get("labels") or {}).get(key) != value
        ]

    def budgets(self) -> list[str]:
        """PodDisruptionBudgets that cover pods of the service, and what they allow now."""
        try:
            found, _ = self.api.items(place("poddisruptionbudgets", self.spec.namespace, group="policy/v1"))
        except Forbidden:
            return ["its PodDisruptionBudgets are not shown: this login may not list them"]
        pods = [pod["metadata"].get("labels") or {} for owned in self.owned() for pod in owned.pods]
        told = []
        for each in found:
            if covered := sum(selects(each["spec"].get("selector") or {}, labels) for labels in pods):
                name, allowed = each["metadata"]["name"], each["status"].get("disruptionsAllowed", 0)
                told.append(f"budget {name} covers {covered} of its pods and allows {allowed} of them to be evicted now")
        return told

    def _placed(self, owned: Owned) -> Mapping[str, JSON]:
        by_uid = {pod["metadata"]["uid"]: pod for pod in owned.pods}
        if owned.kind == "statefulset":
            placed = {pod["metadata"]["name"]: pod for pod in owned.pods}
        else:
            names = [f"{owned.name}-{number}" for number in range(max(owned.wanted, len(owned.pods)))]
            placed = {name: by_uid[self.slots[name]] for name in names if self.slots.get(name) in by_uid}
            free = [
                pod for pod in owned.pods if pod["metadata"]["uid"] not in {one["metadata"]["uid"] for one in placed.values()}
            ]
            # Slots that never had a pod come first: in a new process the survivors are older than the victim's replacement.
            vacant = [name for name in names if name not in self.slots] + [
                name for name in names if name in self.slots and name not in placed
            ]
            placed.update(zip(vacant, free, strict=False))
        self.slots.update({name: pod["metadata"]["uid"] for name, pod in placed.items()})
        return dict(sorted(placed.items()))

    def _target(self, name: str, owned: Owned, pod: JSON) -> Target:
        details = {
            "pod": pod["metadata"]["name"],
            "node": pod["spec"].get("nodeName"),
            "runtime": pod["spec"].get("runtimeClassName"),
            "tolerations": pod["spec"].get("tolerations") or [],
            "container": main_container(pod),
            "workload": f"{owned.kind}/{owned.name}",
            "url": url_of(pod, None),
            "ready": ready(pod),
            "waiting": waiting(pod),
            "revision": revision(pod),
        }
        return Target(identity_of(pod), name, owned.role, details)
