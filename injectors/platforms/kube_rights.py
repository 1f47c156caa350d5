"""The least rights that a drill needs, asked of the API server before it and printed as a Role.

Over a websocket the API server takes `exec` for a `get`, and newer ones demand `create` as well (kubernetes/enhancements, KEP-4006);
so both are asked for.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..values import JSON
from .base import Means
from .kube_api import KubeApi


class Right(NamedTuple):
    """Some verbs on one resource; a subresource behind a `/`, as in RBAC."""

    group: str
    resource: str
    verbs: tuple[str, ...]


ALWAYS = (
    Right("", "pods", ("get", "list", "watch")),
    Right("apps", "deployments", ("get",)),
    Right("apps", "statefulsets", ("get",)),
    Right("apps", "daemonsets", ("get",)),
    Right("apps", "replicasets", ("list",)),
    Right("", "configmaps", ("create", "update", "delete", "list")),
    Right("coordination.k8s.io", "leases", ("get", "create", "update", "patch", "delete")),
)
INSIDE = Right("", "pods/exec", ("get", "create"))
ENDS = Right("", "pods", ("delete",))
BESIDE = Right("batch", "jobs", ("create", "delete"))
BY_NAME = Right("", "services", ("get",))  # where the endpoint is a Service's name


def needed(means: Means) -> tuple[Right, ...]:
    """For a drill that uses such means."""
    inside = means.inside or means.beside
    return (
        *ALWAYS,
        *((INSIDE,) if inside else ()),
        *((ENDS,) if means.ends else ()),
        *((BESIDE,) if means.beside else ()),
    )


def denied(api: KubeApi, namespace: str, rights: Sequence[Right]) -> list[str]:
    """What of it this login may not do, by the API server's own word, as sentences."""
    found = []
    for right in rights:
        resource, _, subresource = right.resource.partition("/")
        about = {"group": right.group, "resource": resource, "subresource": subresource, "namespace": namespace}
        verbs = [verb for verb in right.verbs if not api.allowed(verb=verb, **about)]
        if verbs:
            found.append(f"this login may not {', '.join(verbs)} {right.resource} in namespace {namespace}")
    return found


def role(name: str, namespace: str, rights: Sequence[Right]) -> JSON:
    """The rights as a Role."""
    merged: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        merged.setdefault((right.group, right.resource), []).extend(right.verbs)
    rules = [{"apiGroups": [group], "resources": [resource], "verbs": verbs} for (group, resource), verbs in merged.items()]
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules}
