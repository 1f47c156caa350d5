"""The bundled model service as Kubernetes objects: any image with python3, nothing built, nothing mounted from a node.

`service.py` and the model lie in a ConfigMap; each role is a StatefulSet of the same name, so that a pod has a name in DNS
(`replica-0.replica`) that outlives its address. All runs under the restricted Pod Security profile.

What differs from the same service as local processes:

- A replica's model lies on a volume of its pod. Without a storage class that is an emptyDir: it outlives the container, not the pod,
  so that deleting the pod heals a damaged model as it does wherever a replica fetches its model when it starts. With a class it is a claim,
  which outlives the pod, as a folder on a disk outlives a process.
- The kubelet restarts a container that ended at once, then after 10 s, 20 s, and so on.
- A deleted pod comes back under another address; the gateway asks DNS at each connection.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .profile import service_file

HERE = Path(__file__).parent
FILES = (
    "manifest.json",
    "model-stale.safetensors",
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MANAGED_BY, PART_OF, COMPONENT = "app.kubernetes.io/managed-by", "app.kubernetes.io/part-of", "app.kubernetes.io/component"
OURS = {MANAGED_BY: "blackstart", PART_OF: "blackstart-demo"}
REPLICAS, PORT, CODE, FOLDER, ORACLE = 2, 8000, "/demo", "/models/demo", "/tmp/oracle.jsonl"  # noqa: S108 - a volume of the pod's own
PROGRAM = ("python3", "-I", "-S", f"{CODE}/service.py")
USER = 1000

Manifest = dict[str, Any]


def namespace_manifest(namespace: str, creator: str, *, privileged: bool) -> Manifest:
    """The demo's own namespace, with the Pod Security Standard `restricted` for pods in it, or `privileged`. `creator` tells later whether whoever made it still lives."""
    labels = {**OURS, "pod-security.kubernetes.io/enforce": "privileged" if privileged else "restricted"}
    metadata = {"name": namespace, "labels": labels, "annotations": {"blackstart-creator": creator}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def manifests(namespace: str, image: str, *, hardened: bool, storage_class: str | None = None) -> list[Manifest]:
    """Everything inside the namespace, in the order in which it is to be created."""
    objects = [
        _code(),
        *(_headless(role) for role in ("replica", "store", "standby")),
        _service("replicas", "replica", {}),
        _service("demo", "gateway", {"type": "NodePort"}),
        _budget("replica"),
        _workload("standby", image, _command("standby", ["--peer", _address("store")], hardened=hardened)),
        _workload("store", image, _command("store", ["--peer", _address("standby")], hardened=hardened)),
        _replicas(image, storage_class, hardened=hardened),
        _workload("gateway", image, _command("gateway", _routes(), hardened=hardened)),
    ]
    for each in objects:
        each["metadata"]["namespace"] = namespace
    return objects


def _address(role: str, number: int = 0) -> str:
    return f"{role}-{number}.{role}:{PORT}"


def _routes() -> list[str]:
    backends = [f"--backend=replica-{number}={_address('replica', number)}" for number in range(REPLICAS)]
    return [*backends, f"--store=store={_address('store')}", f"--store=standby={_address('standby')}"]


def _command(role: str, more: Sequence[str], *, hardened: bool) -> list[str]:
    """As the supervisor of the local service starts it. Costs and limits are service.py's own defaults on both platforms."""
    common = ["--name", "$(POD)", "--host", "0.0.0.0", "--port", str(PORT), "--package", CODE]  # noqa: S104 - the pod's address
    return [*PROGRAM, role, *common, "--oracle", ORACLE, *more, *(["--hardened"] if hardened else [])]


def _metadata(name: str, role: str) -> Manifest:
    return {"name": name, "labels": _labels(role)}


def _labels(role: str) -> dict[str, str]:
    return {**OURS, "app.kubernetes.io/name": role, COMPONENT: role}


def _selector(role: str) -> dict[str, str]:
    return {PART_OF: OURS[PART_OF], COMPONENT: role}


def _code() -> Manifest:
    binary = {name: base64.b64encode((HERE / name).read_bytes()).decode("ascii") for name in FILES}
    text = {"service.py": (HERE / "service.py").read_text(encoding="utf-8")}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata("code", "code"), "data": text, "binaryData": binary}


def _service(name: str, role: str, more: Manifest) -> Manifest:
    ports = [{"name": "http", "port": PORT, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, role),
        "spec": {"selector": _selector(role), "ports": ports, **more},
    }


def _headless(role: str) -> Manifest:
    """Names for pods, ready or not: whom to route to is the gateway's own decision, and its flaw when it decides badly.

    What Kubernetes itself holds of the replicas shows in the Service `replicas`.
    """
    return _service(role, role, {"clusterIP": "None", "publishNotReadyAddresses": True})


def _budget(role: str) -> Manifest:
    """What a drain of nodes may take away at one time."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _selector(role)}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": _metadata(role, role), "spec": spec}


def _workload(role: str, image: str, command: list[str]) -> Manifest:
    """One pod; `_replicas` changes what differs."""
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "dnsConfig": {"options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "2"}]},  # by default 5 s each
        "terminationGracePeriodSeconds": 40,  # service.py drains for 30 s at most
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [_apart(role)],
        "containers": [_container(role, image, command)],
        "volumes": [{"name": "code", "configMap": {"name": "code"}}, {"name": "tmp", "emptyDir": {}}],
    }
    spec = {
        "serviceName": role,
        "replicas": 1,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": _selector(role)},
        "template": {"metadata": {"labels": {**_labels(role), "blackstart-spread": _group(role)}}, "spec": pod},
    }
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": _metadata(role, role), "spec": spec}


def _group(role: str) -> str:
    return "store" if role == "standby" else role


def _apart(role: str) -> Manifest:
    """Replicas on several nodes where there are several, and a standby not beside its store: else one node's end ends both."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {PART_OF: OURS[PART_OF], "blackstart-spread": _group(role)}},
    }


def _container(name: str, image: str, command: list[str]) -> Manifest:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "http", "containerPort": PORT}],
        # Not the gateway's /ready: it would take the gateway out of service when a store is lost, and its waiting requests with it.
        "readinessProbe": _probe("/ready" if name == "replica" else "/health", periodSeconds=1, timeoutSeconds=1),
        # Of the API process alone and generous, as charts for vLLM have them: a dead or hung engine passes.
        "livenessProbe": _probe("/health", periodSeconds=10, timeoutSeconds=5),
        "startupProbe": _probe("/health", periodSeconds=1, timeoutSeconds=1, failureThreshold=120),
        "resources": {"requests": {"cpu": "20m", "memory": "48Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _locked(),
        "volumeMounts": _mounts(),
    }


def _probe(path: str, **limits: int) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}, "failureThreshold": 3, **limits}


def _locked() -> Manifest:
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def _mounts() -> list[Manifest]:
    return [{"name": "code", "mountPath": CODE, "readOnly": True}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - as above


def _replicas(image: str, storage_class: str | None, *, hardened: bool) -> Manifest:
    workload = _workload("replica", image, _command("replica", ["--folder", FOLDER], hardened=hardened))
    workload["spec"]["replicas"] = REPLICAS
    pod = workload["spec"]["template"]["spec"]
    volume = {"name": "models", "mountPath": str(Path(FOLDER).parent)}
    pod["containers"][0]["volumeMounts"].append(volume)
    pod["initContainers"] = [
        {
            "name": "model",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": [*PROGRAM, "install", "--package", CODE, "--folder", FOLDER],
            "resources": pod["containers"][0]["resources"],
            "securityContext": _locked(),
            "volumeMounts": [*_mounts(), volume],
        }
    ]
    if storage_class is None:
        pod["volumes"].append({"name": "models", "emptyDir": {}})
    else:
        room = {"requests": {"storage": "64Mi"}}
        spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": storage_class, "resources": room}
        workload["spec"]["volumeClaimTemplates"] = [{"metadata": _metadata("models", "replica"), "spec": spec}]
    return workload


def profile(namespace: str, url: str, image: str, *, hardened: bool, context: str | None) -> str:
    """service.yaml of what was deployed. `context` is the kubeconfig's; None: the current one, or this pod's own account."""
    roles = ("gateway", "store", "standby")
    cluster: Manifest = {"namespace": namespace, "workload": "statefulset/replica"}
    cluster["components"] = [{"role": role, "workload": f"statefulset/{role}"} for role in roles]
    if context is not None:
        cluster["context"] = context
    return service_file("kubernetes", cluster, url, image, f"{FOLDER}/model.safetensors", hardened=hardened)
