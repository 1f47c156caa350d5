"""What a pod's object says of it: plain functions of the API's JSON."""

import json
from datetime import datetime

from ..values import JSON

PODS_OWN = {"emptyDir", "ephemeral", "configMap", "secret", "projected", "downwardAPI"}  # volumes that go with their pod
GIVEN = {"configMap", "secret", "projected", "downwardAPI", "image"}  # that nobody in the pod can write to
OVER = {"Succeeded", "Failed"}  # phases of a pod whose processes have all ended
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


def selects(selector: JSON, labels: JSON) -> bool:
    """Whether a label selector takes a thing with such labels (kubernetes.io, Labels and Selectors)."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for each in selector.get("matchExpressions") or []:
        there, among = each["key"] in labels, labels.get(each["key"]) in (each.get("values") or [])
        met = {"In": among, "NotIn": not among, "Exists": there, "DoesNotExist": not there}[each["operator"]]
        if not met:
            return False
    return True


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


def revision(pod: JSON) -> str:
    """Tells the versions of a workload's pods apart."""
    labels = pod["metadata"].get("labels") or {}
    return str(labels.get("pod-template-hash") or labels.get("controller-revision-hash") or "")


def is_ending(pod: JSON) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp")) or pod["status"].get("phase") in OVER


def url_of(pod: JSON, port: int | None) -> str | None:
    """Where it answers by itself: its address with that port, or the first port that its main container declares."""
    address = pod["status"].get("podIP")
    main = next(each for each in pod["spec"]["containers"] if each["name"] == main_container(pod))
    declared = [each["containerPort"] for each in main.get("ports") or [] if each.get("protocol", "TCP") == "TCP"]
    number = port or (declared[0] if declared else None)
    if not address or not number:
        return None
    return url(address, number)


def url(host: str, port: int) -> str:
    """With the brackets that IPv6 takes."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def waiting(pod: JSON) -> str:
    """What the kubelet says that a container of it waits for: `ImagePullBackOff`, `CrashLoopBackOff`; empty: none does."""
    status = pod.get("status") or {}
    every = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return next((str(each["state"]["waiting"].get("reason", "")) for each in every if each["state"].get("waiting")), "")


def volume_of(pod: JSON, container: str, path: str) -> tuple[str, bool]:
    """What holds a path of a container, named so that two pods which see the same file name it alike; whether it outlives the pod."""
    mount, volume = mounted(pod, container, path)
    inside = mount.get("subPath") or mount.get("subPathExpr") or ""
    if not mount or PODS_OWN & volume.keys():
        return f"pod {pod['metadata']['uid']}", False
    if claim := volume.get("persistentVolumeClaim"):
        return f"claim {claim['claimName']} {inside}", True
    if host := volume.get("hostPath"):
        return f"node {pod['spec'].get('nodeName')} {host['path']} {inside}", True
    return f"{json.dumps({key: value for key, value in volume.items() if key != 'name'}, sort_keys=True)} {inside}", True


def secret_of(pod: JSON, container: str, path: str) -> tuple[str, str]:
    """Secret and key whose value the kubelet writes at that path and keeps up to date; both empty: it is none, or a subPath, which stays."""
    mount, volume = mounted(pod, container, path)
    source = volume.get("secret")
    if not source or mount.get("subPath") or mount.get("subPathExpr"):
        return "", ""
    inside = path[len(mount["mountPath"].rstrip("/")) + 1 :]
    items = {each["path"]: str(each["key"]) for each in source.get("items") or []}
    return str(source["secretName"]), items.get(inside, "") if items else inside


def uses_secret(pod: JSON, name: str) -> bool:
    """Whether it reads that Secret, from a volume or as variables."""
    spec = pod["spec"]
    found = [(each.get("secret") or {}).get("secretName") for each in spec.get("volumes") or []]
    for each in spec.get("volumes") or []:
        found += [(source.get("secret") or {}).get("name") for source in (each.get("projected") or {}).get("sources") or []]
    for each in [*spec["containers"], *(spec.get("initContainers") or [])]:
        found += [(source.get("secretRef") or {}).get("name") for source in each.get("envFrom") or []]
        variables = [variable.get("valueFrom") or {} for variable in each.get("env") or []]
        found += [(variable.get("secretKeyRef") or {}).get("name") for variable in variables]
    return name in found


def unfit(pod: JSON, container: str, path: str, changed_s: float | None) -> str:
    """Why nothing at that path may be changed; empty: it may. `changed_s`: its ctime; what an image brought is older than its container."""
    mount, volume = mounted(pod, container, path)
    if not mount:
        return _unfit_layer(pod, container, changed_s)
    if name := (volume.get("secret") or {}).get("secretName"):
        return f"comes from Secret {name}, which the kubelet mounts read-only; only credential-expire can change it, with `secret: true`"
    if given := GIVEN & volume.keys():
        return f"comes from a volume of kind {min(given)}, which the kubelet mounts read-only; copy it to a claim"
    if only_read(pod, container, path):
        return f"lies on a mount that {container} may only read ({mount['mountPath']})"
    return ""


def only_read(pod: JSON, container: str, path: str) -> bool:
    """Whether a path lies on a volume that others may write to, and this container may not."""
    mount, volume = mounted(pod, container, path)
    read = bool(mount.get("readOnly") or (volume.get("persistentVolumeClaim") or {}).get("readOnly"))
    return read and not GIVEN & volume.keys()


def _unfit_layer(pod: JSON, container: str, changed_s: float | None) -> str:
    main = next(each for each in pod["spec"]["containers"] if each["name"] == container)
    if (main.get("securityContext") or {}).get("readOnlyRootFilesystem"):
        return f"lies in the own layer of {container}, which is read-only; put it on a claim"
    began = _started(pod, container)
    if began is None or (changed_s or 0.0) <= began + 1:  # the kubelet says it in whole seconds
        return f"is of the image of {container}: who has it open would not see a change; put it on a claim"
    return ""


def _started(pod: JSON, container: str) -> float | None:
    """When that container started, in UNIX time; None where it does not run."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    state = next((each["state"].get("running") for each in statuses if each["name"] == container), None)
    return datetime.fromisoformat(state["startedAt"]).timestamp() if state else None


def on_the_nodes_disk(pod: JSON, container: str, path: str) -> bool:
    """Whether a path of a container lies on a volume that shares the node's own disk with whatever else runs there."""
    _, volume = mounted(pod, container, path)
    return "hostPath" in volume or ("emptyDir" in volume and (volume["emptyDir"] or {}).get("medium") != "Memory")


def mounted(pod: JSON, container: str, path: str) -> tuple[JSON, JSON]:
    """The mount that holds a path of a container, and its volume; both empty for the container's own layer."""
    main = next(each for each in pod["spec"]["containers"] if each["name"] == container)
    mounts = [each for each in main.get("volumeMounts") or [] if f"{path}/".startswith(f"{each['mountPath'].rstrip('/')}/")]
    if not mounts:
        return {}, {}
    mount = max(mounts, key=lambda each: len(each["mountPath"]))
    return mount, next(each for each in pod["spec"]["volumes"] if each["name"] == mount["name"])


def owner_of(thing: JSON) -> str | None:
    """The UID of its controller."""
    owners = thing["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


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
