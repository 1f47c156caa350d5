"""A service that nobody here wrote, three of python's own web servers in a cluster."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blackstart.injectors.platforms import Where
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kubernetes import KubernetesPlatform
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec
from blackstart.tests.command import until

APPS, PORT, REPLICAS, NOBODY = "apps/v1", 8000, 3, 65534
# Ends on SIGTERM, as a good server does; the first process of a container ignores it unless it says otherwise.
SERVER = (
    "import http.server,os,signal,sys;signal.signal(signal.SIGTERM,lambda *_:sys.exit(0));"
    "http.server.ThreadingHTTPServer(('',int(os.environ['PORT'])),http.server.SimpleHTTPRequestHandler).serve_forever()"
)


def pod(image: str) -> dict[str, Any]:
    container = {
        "name": "web",
        "image": image,
        "command": ["python3", "-I", "-c", SERVER],
        "env": [{"name": "PORT", "value": str(PORT)}],
        "ports": [{"containerPort": PORT}],
        "workingDir": "/tmp",
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    return {
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": NOBODY, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [{**spread, "labelSelector": {"matchLabels": {"app": "web"}}}],
        "containers": [container],
    }


@contextmanager
def running(api: KubeApi, image: str, profile: str = "restricted") -> Iterator[str]:
    """Three of them behind a Service, in a namespace of their own, which takes only pods of that Pod Security profile."""
    with own_namespace(api, profile) as name:
        serve(api, name, pod(image), REPLICAS)
        yield name


@contextmanager
def own_namespace(api: KubeApi, profile: str) -> Iterator[str]:
    name = f"blackstart-test-{secrets.token_hex(2)}"
    labels = {"pod-security.kubernetes.io/enforce": profile}
    api.create(place("namespaces"), {"metadata": {"name": name, "labels": labels}})
    try:
        yield name
    finally:
        api.delete(place("namespaces", name=name))


def serve(api: KubeApi, namespace: str, replica: dict[str, Any], replicas: int) -> None:
    """Returns once so many pods of a Deployment are ready, behind a Service."""
    template = {"metadata": {"labels": {"app": "web"}}, "spec": replica}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    api.create(place("deployments", namespace, "", APPS), {"metadata": {"name": "web"}, "spec": spec})
    ports = {"selector": {"app": "web"}, "ports": [{"port": PORT}], "type": "NodePort"}
    api.create(place("services", namespace), {"metadata": {"name": "web"}, "spec": ports})
    await_ready(api, namespace, replicas)


def await_ready(api: KubeApi, namespace: str, replicas: int) -> None:
    until("all pods to be ready", lambda: deployment(api, namespace)["status"].get("readyReplicas") == replicas, 90)


def deployment(api: KubeApi, namespace: str) -> dict[str, Any]:
    return api.get(place("deployments", namespace, "web", APPS))


def await_standing(api: KubeApi, namespace: str) -> None:
    await_ready(api, namespace, REPLICAS)
    until("old pods to be gone", lambda: len(api.items(place("pods", namespace), labels="app=web")[0]) == REPLICAS, 60)


def profile_of(namespace: str, image: str, folder: Path, rate: str = "20/s") -> Path:
    """Its service file."""
    path = folder / "web.yaml"
    profile = {
        "apiVersion": "blackstart/v1",
        "kind": "Service",
        "name": "web",
        "platform": "kubernetes",
        "kubernetes": {"namespace": namespace, "workload": "deployment/web"},
        "endpoint": {"service": "web", "port": PORT, "protocol": "http"},
        "probe": {"rate": rate, "image": image},
    }
    path.write_text(json.dumps(profile), encoding="utf-8")
    return path


def opened(kubeconfig: str, namespace: str, image: str | None = None) -> KubernetesPlatform:
    """The platform of its Deployment, as another process would open it, too: it can be pickled with its arguments."""
    where = Where("kubernetes", Path(), {}, kubernetes=KubernetesSpec(namespace, "deployment/web"), image=image)
    return KubernetesPlatform(KubeApi.opened({"KUBECONFIG": kubeconfig}), where)
