"""Pods of a service's workloads as targets with names that outlive the pods.

A pod of a Deployment gets another name each time that it is replaced, and a drill must be able to say `what stands in its place`.
So pods stand in slots: `llm-0`, `llm-1`. A slot keeps its pod until that is gone, and is then filled by the oldest pod that has none.
Pods of a StatefulSet are their own slots. A slot's identity is the UID of the pod in it, never its name.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from ..values import JSON
from .base import PlatformError, Target
from .kube_api import KubeApi, NotThere, place
from .kubernetes_spec import KubernetesSpec

APPS = "apps/v1"
KINDS = {"deployment": "deployments", "statefulset": "statefulsets", "daemonset": "daemonsets"}
PODS_OWN = {"emptyDir", "ephemeral", "configMap", "secret", "projected", "downwardAPI"}  # volumes that go with their pod
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


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


def selector_of(workload: JSON) -> str:
    """Its label selector as the API takes it in a query."""
    selector = workload["spec"]["selector"]
    words = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for each in selector.get("matchExpressions") or []:
        values = f"({','.join(each.get('values') or [])})"
        words.append(
            {"In": f"{each['key']} in {values}", "NotIn": f"{each['key']} notin {values}", "Exists": each["key"]}.get(
                each["operator"], f"!{each['key']}"
            )
        )
    return ",".join(words)


def identity_of(pod: JSON) -> str:
    meta = pod["metadata"]
    return f"pod:{meta['namespace']}/{meta['name']}@{meta['uid']}"


def parts_of(identity: str) -> tuple[str, str, str]:
    """Namespace, pod name and UID of a target's identity, also of a process inside a pod."""
    pod = identity.removeprefix("pod:").partition("/pid:")[0]
    place_, _, uid = pod.partition("@")
    namespace, _, name = place_.partition("/")
    return namespace, name, uid.partition("/")[0]


def main_container(pod: JSON) -> str:
    """The one that `kubectl exec` would take."""
    names = [str(each["name"]) for each in pod["spec"]["containers"]]
    named = (pod["metadata"].get("annotations") or {}).get(DEFAULT_CONTAINER)
    return named if named in names else names[0]


def runs(pod: JSON) -> bool:
    """All of its containers run; not yet whether they serve."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return bool(statuses) and all("running" in status["state"] for status in statuses)


def ready(pod: JSON) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def is_ending(pod: JSON) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp")) or pod["status"].get("phase") in {"Succeeded", "Failed"}


def url_of(pod: JSON, port: int | None) -> str | None:
    """Where it answers by itself: its address with that port, or the first port that its main container declares."""
    address = pod["status"].get("podIP")
    main = next(each for each in pod["spec"]["containers"] if each["name"] == main_container(pod))
    declared = [each["containerPort"] for each in main.get("ports") or [] if each.get("protocol", "TCP") == "TCP"]
    number = port or (declared[0] if declared else None)
    if not address or not number:
        return None
    return f"http://[{address}]:{number}" if ":" in address else f"http://{address}:{number}"


def volume_of(pod: JSON, container: str, path: str) -> tuple[str, bool]:
    """What holds a path of a container, named so that two pods which see the same file name it alike; whether it outlives the pod."""
    main = next(each for each in pod["spec"]["containers"] if each["name"] == container)
    mounts = [each for each in main.get("volumeMounts") or [] if f"{path}/".startswith(f"{each['mountPath'].rstrip('/')}/")]
    own = f"pod {pod['metadata']['uid']}"
    if not mounts:
        return own, False
    mount = max(mounts, key=lambda each: len(each["mountPath"]))
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == mount["name"])
    inside = mount.get("subPath") or mount.get("subPathExpr") or ""
    if PODS_OWN & volume.keys():
        return own, False
    if claim := volume.get("persistentVolumeClaim"):
        return f"claim {claim['claimName']} {inside}", True
    if host := volume.get("hostPath"):
        return f"node {pod['spec'].get('nodeName')} {host['path']} {inside}", True
    return f"{json.dumps({key: value for key, value in volume.items() if key != 'name'}, sort_keys=True)} {inside}", True


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
        found = []
        for each in self.empty():
            pods, version = self.api.items(place("pods", self.spec.namespace), labels=selector_of(each.workload))
            found.append(each.having(pods, int(version or 0)))
        return found

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
        return next((target for target in self.all() if target.name == name), None)

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
            "container": main_container(pod),
            "workload": f"{owned.kind}/{owned.name}",
            "url": url_of(pod, None),
            "ready": ready(pod),
        }
        return Target(identity_of(pod), name, owned.role, details)


def owner_of(thing: JSON) -> str | None:
    """The UID of its controller."""
    owners = thing["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)
