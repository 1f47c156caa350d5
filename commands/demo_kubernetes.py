"""The bundled model service in a cluster: a namespace of its own, up to its first good answers, and away with it at the end."""

import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..injectors.platforms.base import PlatformError
from ..injectors.platforms.kube_api import Forbidden, KubeApi, NotThere, place
from ..injectors.platforms.process_table import alive
from ..scenarios.demo import DemoFailed
from ..scenarios.demo.kubernetes import OURS, REPLICAS, manifests, namespace_manifest, profile
from .demo_pods import EveryPod
from .demo_ready import Tell, ask, creator, until, warm_up

DEPLOY_S, HOPELESS_S, PODS_S, DELETE_S = 240.0, 20.0, 30.0, 120.0
RESOURCES = {
    "ConfigMap": ("configmaps", ""),
    "PodDisruptionBudget": ("poddisruptionbudgets", "policy/v1"),
    "Service": ("services", ""),
    "StatefulSet": ("statefulsets", "apps/v1"),
}
SELECTOR = ",".join(f"{key}={value}" for key, value in OURS.items())


@dataclass(frozen=True)
class Given:
    """What the cluster gives the demo.

    `storage_class` puts the replicas' models on claims of that class, by default of the cluster's default class, else on emptyDirs.
    `privileged`: its namespace takes what faults of a pod's own network put there; the demo's own pods are locked down all the same.
    """

    storage_class: str | None = None
    privileged: bool = False


BY_DEFAULT = Given()


@contextmanager
def deployed(api: KubeApi, image: str, *, hardened: bool, tell: Tell, given: Given = BY_DEFAULT) -> Iterator[Path]:
    """The service file of the bundled service, deployed for as long as the context lasts.

    Raises DemoFailed when it does not become ready or does not go away, PlatformError when the cluster refuses something.
    """
    _remove_leftovers(api, tell)
    namespace = f"blackstart-demo-{secrets.token_hex(2)}"
    where = f"{'the privileged ' if given.privileged else ''}namespace {namespace} of {api.context}"
    tell(f"deploying the {'hardened ' if hardened else ''}demo service into {where} ({image})")
    api.create(place("namespaces"), namespace_manifest(namespace, creator(), privileged=given.privileged))
    try:
        for each in manifests(namespace, image, hardened=hardened, storage_class=given.storage_class or _default_class(api)):
            resource, group = RESOURCES[each["kind"]]
            api.create(place(resource, namespace, group=group), each)
        url = _ready(api, namespace, tell)
        if not hardened:
            warm_up(url, REPLICAS)
        with tempfile.TemporaryDirectory(prefix="blackstart-demo-") as folder:
            service_file = Path(folder) / "service.yaml"
            context = None if api.context == "in-cluster" else api.context
            service_file.write_text(profile(namespace, url, image, hardened=hardened, context=context), encoding="utf-8")
            yield service_file
    finally:
        remove(api, namespace, tell)


def _remove_leftovers(api: KubeApi, tell: Tell) -> None:
    """Demos whose command was killed on this machine. Everybody else's are left alone, dead or not: who could tell from here?"""
    here = creator().rpartition(" ")[0]
    with suppress(Forbidden):
        for found in api.items(place("namespaces"), labels=SELECTOR)[0]:
            where, _, who = found["metadata"].get("annotations", {}).get("blackstart-creator", "").rpartition(" ")
            if where and where == here and alive(who) is None and not found["metadata"].get("deletionTimestamp"):
                tell(f"removing namespace {found['metadata']['name']}, whose demo died")
                api.delete(place("namespaces", name=found["metadata"]["name"]), uid=found["metadata"]["uid"])


def _default_class(api: KubeApi) -> str | None:
    """The storage class that a claim gets when it names none."""
    mark = "storageclass.kubernetes.io/is-default-class"
    with suppress(Forbidden):
        for found in api.items(place("storageclasses", group="storage.k8s.io/v1"))[0]:
            if found["metadata"].get("annotations", {}).get(mark) == "true":
                return str(found["metadata"]["name"])
    return None


def _ready(api: KubeApi, namespace: str, tell: Tell) -> str:
    """Wait until the gateway routes to all replicas and has a store. Its URL from here."""
    pods = EveryPod(api, namespace)
    hopeless_since: float | None = None

    def look() -> str:
        nonlocal hopeless_since
        missing = pods.missing()
        if missing:
            hopeless_since = (hopeless_since or time.monotonic()) if pods.hopeless() else None
            if hopeless_since and time.monotonic() - hopeless_since > HOPELESS_S:
                raise DemoFailed(f"the demo service cannot start: {missing}\n{pods.last_words()}")
            return missing
        said = ask(url(), "/ready")
        ready = len(said.get("routed", ())) == REPLICAS and said.get("status") == "ready"
        return "" if ready else f"all pods are ready, but {url()}/ready says from here: {said.get('error') or said}"

    def url() -> str:
        service = api.get(place("services", namespace, "demo"))
        return f"http://{pods.node_address('gateway-0')}:{service['spec']['ports'][0]['nodePort']}"

    until(look, DEPLOY_S, tell, pods.last_words)
    return url()


def remove(api: KubeApi, namespace: str, tell: Tell) -> None:
    """Delete a demo's namespace and wait until it is gone.

    Its pods go first: the namespace controller waits for half of their grace period before it looks again, and for claims again.
    """
    tell(f"removing namespace {namespace}")
    try:
        with suppress(NotThere):
            for found in api.items(place("statefulsets", namespace, group="apps/v1"))[0]:
                api.delete(place("statefulsets", namespace, found["metadata"]["name"], group="apps/v1"))
            _end_pods(api, namespace, tell)
        if api.delete(place("namespaces", name=namespace)):
            until(lambda: _namespace_left(api, namespace), DELETE_S, tell, lambda: "")
    except (PlatformError, DemoFailed) as error:
        command = f"kubectl --context {api.context} delete namespace {namespace}"
        raise DemoFailed(f"namespace {namespace} is not gone: {error}; remove it with: {command}") from error


def _end_pods(api: KubeApi, namespace: str, tell: Tell) -> None:
    """Shortly, and by force where a node is gone that would have to confirm it: nothing of a demo is worth waiting for."""
    for grace_s, limit_s in ((1, PODS_S), (0, DELETE_S)):
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace_s}
        for resource in ("pods", "persistentvolumeclaims"):
            api.ask("DELETE", place(resource, namespace), options)
        with suppress(*([DemoFailed] if grace_s else [])):
            until(lambda: _pods_left(api, namespace), limit_s, tell, lambda: "")
            return


def _pods_left(api: KubeApi, namespace: str) -> str:
    names = [found["metadata"]["name"] for found in api.items(place("pods", namespace))[0]]
    return f"{', '.join(names)} still there" if names else ""


def _namespace_left(api: KubeApi, namespace: str) -> str:
    found = api.there(place("namespaces", name=namespace))
    if found is None:
        return ""
    conditions = found["status"].get("conditions", ())
    return "; ".join(each["message"] for each in conditions if each["status"] == "True") or f"{namespace} is being deleted"
