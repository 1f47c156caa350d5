"""Two mlservers in a cluster: a StatefulSet whose model lies on a claim of each pod, behind a Service, with KServe's probes."""

import base64
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.tests.cluster.steps import stands
from blackstart.tests.command import until
from blackstart.tests.servers.mlservers import COMMAND, LIBRARIES, MODELS, MOUNTED, PORT, contained, contents, environment

NAME, APPS, REPLICAS, NOBODY = "mlserver", "apps/v1", 2, 65534
# Brings the model to the claim where that is empty, as a pod does that fetches its model when it starts for the first time.
FETCH = f"test -d {MODELS}/small || cp -rL /source {MODELS}/small"


@contextmanager
def running(api: KubeApi, image: str, storage_class: str, folder: Path) -> Iterator[Path]:
    """Their service file, once all are ready, in a namespace of their own."""
    if api.context != "devkube":
        pytest.skip("the nodes of this cluster do not see this machine's files, among which mlserver is")
    namespace = f"blackstart-test-{secrets.token_hex(2)}"
    api.create(place("namespaces"), {"metadata": {"name": namespace}})
    try:
        model = {name: base64.b64encode(content).decode("ascii") for name, content in contents(folder).items()}
        api.create(place("configmaps", namespace), {"metadata": {"name": "model"}, "binaryData": model})
        ports = [{"name": "http", "port": PORT}]
        api.create(
            place("services", namespace), {"metadata": {"name": NAME}, "spec": {"selector": {"app": NAME}, "ports": ports}}
        )
        api.create(place("statefulsets", namespace, "", APPS), workload(image, storage_class))
        until("both mlservers to be ready", lambda: all_stand(api, namespace), 90)
        where = {"namespace": namespace, "workload": f"statefulset/{NAME}"}
        endpoint = {"service": NAME, "port": PORT, "model": "small"}
        yield contained(folder, "kubernetes", where, endpoint=endpoint, probe={"image": image})
    finally:
        api.delete(place("namespaces", name=namespace))


def workload(image: str, storage_class: str) -> dict[str, Any]:
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": storage_class, "resources": {"requests": {"storage": "64Mi"}}}
    spec = {
        "serviceName": NAME,
        "replicas": REPLICAS,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": NAME}},
        "template": {"metadata": {"labels": {"app": NAME}}, "spec": pod(image)},
        "volumeClaimTemplates": [{"metadata": {"name": "models"}, "spec": claim}],
    }
    return {"metadata": {"name": NAME}, "spec": spec}


def pod(image: str) -> dict[str, Any]:
    models = {"name": "models", "mountPath": MODELS}
    locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    server = {
        "name": NAME,
        "image": image,
        "command": list(COMMAND),
        "env": [{"name": "PYTHONPATH", "value": f"{MOUNTED}/{LIBRARIES}"}],
        "workingDir": "/tmp",
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": probe("/v2/health/live", periodSeconds=1, failureThreshold=60),
        "livenessProbe": probe("/v2/health/live", periodSeconds=2, failureThreshold=3),
        "readinessProbe": probe("/v2/models/small/ready", periodSeconds=1, failureThreshold=1),
        "securityContext": locked,
        "volumeMounts": [models, {"name": "servers", "mountPath": MOUNTED, "readOnly": True}],
    }
    source = {"name": "source", "mountPath": "/source"}
    fetch = {"name": "fetch", "image": image, "command": ["sh", "-c", FETCH], "securityContext": locked}
    return {
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": NOBODY, "fsGroup": NOBODY},
        "initContainers": [{**fetch, "volumeMounts": [models, source]}],
        "containers": [server],
        "volumes": [
            {"name": "servers", "hostPath": {"path": str(environment()), "type": "Directory"}},
            {"name": "source", "configMap": {"name": "model"}},
        ],
    }


def probe(path: str, **limits: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 1, **limits}


def pods(api: KubeApi, namespace: str) -> list[dict[str, Any]]:
    return api.items(place("pods", namespace), labels=f"app={NAME}")[0]


def all_stand(api: KubeApi, namespace: str) -> bool:
    found = pods(api, namespace)
    return len(found) == REPLICAS and all(map(stands, found))


def restarts(api: KubeApi, namespace: str) -> dict[str, tuple[str, int]]:
    """Name of each pod -> its UID, and how often the kubelet has started its container again."""
    return {
        each["metadata"]["name"]: (each["metadata"]["uid"], each["status"]["containerStatuses"][0]["restartCount"])
        for each in pods(api, namespace)
    }
