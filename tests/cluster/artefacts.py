"""A service for faults of what models come from: a pod with a claim, and a store beside it."""

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blackstart.injectors.platforms import Where
from blackstart.injectors.platforms.kube_agents import PodDoors
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_exec import Container
from blackstart.injectors.platforms.kubernetes import KubernetesPlatform
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec, Workload
from blackstart.scenarios.demo import HERE
from blackstart.tests.cluster.steps import stands
from blackstart.tests.cluster.web import APPS, PORT, pod
from blackstart.tests.command import until

FOLDER, TOKEN, REPLICAS = "/models", "hf_AbcXyz0189", {"llm": 2, "store": 1}
# Two checkpoints, a cache and a credential, on the claim: once, since what is there outlives the pod.
FILL = (
    "import os,shutil,sys;os.path.exists('/models/token') and sys.exit(0)\nos.makedirs('/models/cache/blobs')\n"
    "for step in (900,1000):\n os.makedirs(f'/models/checkpoints/checkpoint-{step}')\n"
    " shutil.copy('/given/model.safetensors',f'/models/checkpoints/checkpoint-{step}/')\n"
    "shutil.copy('/given/model.safetensors','/models/')\n"
    "open('/models/cache/blobs/one','w').write('one');open('/models/cache/version','w').write('1')\n"
    f"open('/models/token','w').write('{TOKEN}')\n"
)
# What lies below a folder, by its digest; or whether the store can be connected to.
DIGESTS = (
    "import hashlib,pathlib,sys\nroot=pathlib.Path(sys.argv[1])\nfor path in sorted([root,*root.rglob('*')]):\n"
    " print(path, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else '')"
)
READ = "print(open('/secret/token').read(), end='')"
TOOK = "import sys,time\nbegan=time.monotonic()\nopen(sys.argv[1],'rb',buffering=0).read(1)\nprint(time.monotonic()-began)"
CONNECT = "import socket,sys\ntry:\n socket.create_connection((sys.argv[1],int(sys.argv[2])),1).close();print('connected')\nexcept OSError:\n print('silent')"

Open = Callable[[], KubernetesPlatform]


def opened(kubeconfig: str, namespace: str, image: str, state: Path) -> KubernetesPlatform:
    """As another process would open it, too."""
    spec = KubernetesSpec(namespace, "statefulset/llm", components=(Workload("model-store", "statefulset/store"),))
    where = Where("kubernetes", state, {}, kubernetes=spec, image=image)
    return KubernetesPlatform(KubeApi.opened({"KUBECONFIG": kubeconfig}), where)


def workload(name: str, image: str, classes: str) -> dict[str, Any]:
    """Two replicas with a claim each, or the store."""
    spec = pod(image)
    spec.pop("topologySpreadConstraints")
    claims = []
    if name == "llm":
        spec["securityContext"]["fsGroup"] = spec["securityContext"]["runAsUser"]
        mounts = [
            {"name": "models", "mountPath": FOLDER},
            {"name": "given", "mountPath": "/given"},
            {"name": "own", "mountPath": "/own"},
            {"name": "secret", "mountPath": "/secret"},
            {"name": "models", "mountPath": "/read-only", "readOnly": True},
        ]
        spec["volumes"] = [
            {"name": "given", "configMap": {"name": "given"}},
            {"name": "own", "emptyDir": {}},
            {"name": "secret", "secret": {"secretName": "token"}},
        ]
        spec["containers"][0]["volumeMounts"] = mounts
        spec["initContainers"] = [{**spec["containers"][0], "name": "fill", "command": ["python3", "-I", "-c", FILL]}]
        for key in ("readinessProbe", "ports"):
            spec["initContainers"][0].pop(key)
        room = {"accessModes": ["ReadWriteOnce"], "storageClassName": classes, "resources": {"requests": {"storage": "16Mi"}}}
        claims = [{"metadata": {"name": "models"}, "spec": room}]
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    body = {
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "replicas": REPLICAS[name],
        "selector": {"matchLabels": {"app": name}},
        "template": template,
    }
    return {"metadata": {"name": name}, "spec": {**body, "volumeClaimTemplates": claims}}


def profile_of(namespace: str, image: str, folder: Path) -> Path:
    """Its service file."""
    path = folder / "llm.yaml"
    components = [{"role": "model-store", "workload": "statefulset/store"}]
    profile = {
        "apiVersion": "blackstart/v1",
        "kind": "Service",
        "name": "llm",
        "platform": "kubernetes",
        "kubernetes": {"namespace": namespace, "workload": "statefulset/llm", "components": components},
        "endpoint": {"service": "llm", "port": PORT, "protocol": "http"},
        "probe": {"rate": "10/s", "image": image},
    }
    path.write_text(json.dumps(profile), encoding="utf-8")
    return path


@contextmanager
def running(api: KubeApi, image: str, classes: str) -> Iterator[str]:
    """Its namespace. `classes`: a storage class whose claims outlive pods."""
    namespace = f"blackstart-test-{secrets.token_hex(2)}"
    api.create(place("namespaces"), {"metadata": {"name": namespace}})
    model = {"model.safetensors": base64.b64encode((HERE / "model.safetensors").read_bytes()).decode("ascii")}
    api.create(place("configmaps", namespace), {"metadata": {"name": "given"}, "binaryData": model})
    api.create(place("secrets", namespace), {"metadata": {"name": "token"}, "stringData": {"token": TOKEN}})
    ports = {"selector": {"app": "llm"}, "ports": [{"port": PORT}], "type": "NodePort"}
    api.create(place("services", namespace), {"metadata": {"name": "llm"}, "spec": ports})
    for name in REPLICAS:
        api.create(place("statefulsets", namespace, "", APPS), workload(name, image, classes))
    try:
        until("all pods to be ready", lambda: standing(api, namespace), 90)
        yield namespace
    finally:
        api.delete(place("namespaces", name=namespace))
        until("the claim to be gone", lambda: not api.items(place("persistentvolumeclaims", namespace))[0], 60)


def standing(api: KubeApi, namespace: str) -> bool:
    """Whether all pods are ready."""
    pods = api.items(place("pods", namespace), labels="app")[0]
    return len(pods) == sum(REPLICAS.values()) and all(map(stands, pods))


def inside(api: KubeApi, namespace: str, program: str, *words: str, name: str = "llm-0") -> bytes:
    """What a program says in a replica's container."""
    where = Container(namespace, name, "web")
    return PodDoors(api).run(where, program.encode(), words)[1]


def changed(api: KubeApi, namespace: str, folder: str) -> Callable[[], bool]:
    before = inside(api, namespace, DIGESTS, folder)
    assert before
    return lambda: inside(api, namespace, DIGESTS, folder) != before


def slow(api: KubeApi, namespace: str, path: str, least_s: float) -> Callable[[], bool]:
    """Whether a process in the replica's container takes so long to open that file and read from it."""
    return lambda: float(inside(api, namespace, TOOK, path)) >= least_s


def secret_of(api: KubeApi, namespace: str) -> str:
    """What the Secret holds."""
    return base64.b64decode(api.get(place("secrets", namespace, "token"))["data"]["token"]).decode()


def storeless(api: KubeApi, namespace: str) -> Callable[[], bool]:
    (store,) = api.items(place("pods", namespace), labels="app=store")[0]
    return lambda: inside(api, namespace, CONNECT, store["status"]["podIP"], str(PORT), name="llm-1") == b"silent\n"
