"""The least rights that a drill needs, asked of the API server before it and printed as a Role.

Over a websocket the API server takes `exec` for a `get`, and newer ones demand `create` as well (kubernetes/enhancements, KEP-4006);
so both are asked for.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..values import JSON
from .base import Means
from .kube_api import KubeApi, place


class Right(NamedTuple):
    """Some verbs on one resource; a subresource behind a `/`, as in RBAC. `everywhere`: beyond the service's namespace."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    everywhere: bool = False


ALWAYS = (
    Right("", "pods", ("get", "list", "watch")),
    Right("apps", "deployments", ("get",)),
    Right("apps", "statefulsets", ("get",)),
    Right("apps", "daemonsets", ("get",)),
    Right("apps", "replicasets", ("list",)),
    Right("discovery.k8s.io", "endpointslices", ("list", "watch")),
    Right("", "configmaps", ("get", "list", "create", "update", "delete")),
    Right("coordination.k8s.io", "leases", ("get", "create", "update", "delete")),
)
INSIDE = Right("", "pods/exec", ("get", "create"))
ENDS = Right("", "pods", ("delete",))
BESIDE = Right("batch", "jobs", ("create", "delete"))
BY_NAME = Right("", "services", ("get",))  # where the endpoint is a Service's name
PULLS = Right("", "events", ("list", "watch"))  # when images were pulled: without it that is not known, and said
RBAC = "rbac.authorization.k8s.io"
# A guard's own rights are granted by whoever starts it, and nobody can grant what he does not have.
GUARD = (
    Right("batch", "jobs", ("create", "delete")),
    Right("", "serviceaccounts", ("create", "delete")),
    Right(RBAC, "roles", ("create", "delete")),
    Right(RBAC, "rolebindings", ("create", "delete")),
)
# Who has a Job drill instead makes what that Job is, and grants it the drill's own rights.
JOB = (
    Right("batch", "jobs", ("list", "create", "patch", "delete")),
    Right("", "pods", ("list",)),
    INSIDE,
    Right("", "configmaps", ("create", "delete")),
    *GUARD[1:],
)
JOB_BEYOND = (
    Right(RBAC, "clusterroles", ("create", "delete"), everywhere=True),
    Right(RBAC, "clusterrolebindings", ("create", "delete"), everywhere=True),
)
CHANGES = {
    "workload": (
        Right("apps", "deployments", ("patch",)),
        Right("apps", "statefulsets", ("patch",)),
        Right("apps", "daemonsets", ("patch",)),
        Right("", "pods", ("patch",)),
        Right("autoscaling", "horizontalpodautoscalers", ("list",)),
    ),
    "network": (
        Right("networking.k8s.io", "networkpolicies", ("get", "list", "create", "delete")),
        Right("", "pods", ("patch",)),
        INSIDE,
    ),
    "container": (Right("", "pods/ephemeralcontainers", ("patch",)), INSIDE),
    "node": (
        Right("", "nodes", ("get", "patch"), everywhere=True),
        Right("", "pods", ("list",), everywhere=True),
        *JOB_BEYOND,
    ),
    "helper": (
        Right("batch", "jobs", ("get", "list", "create", "delete")),
        Right("", "pods", ("create",)),  # by a dry run, so that what admission says is heard before a drill
        Right("", "pods", ("list",), everywhere=True),
        Right("", "nodes", ("get", "list"), everywhere=True),
        Right("coordination.k8s.io", "leases", ("get",), everywhere=True),
    ),
    "room": (
        Right("batch", "jobs", ("list", "create", "delete")),  # listed where a run is given up
        Right("", "pods", ("create",)),  # by a dry run, as for a helper
    ),
    "secret": (Right("", "secrets", ("get", "create", "patch", "delete")),),
    "evict": (Right("", "pods/eviction", ("create",)),),
}

UNGUARDED = {"evict", "container", "helper", "room"}


def needed(means: Means) -> tuple[Right, ...]:
    """For a drill that uses such means."""
    inside = means.inside or means.beside
    changes = [right for what in sorted(means.changes) for right in CHANGES[what]]
    return (
        *ALWAYS,
        *((INSIDE,) if inside else ()),
        *((ENDS,) if means.ends else ()),
        *((BESIDE,) if means.beside else ()),
        *(GUARD if means.changes - UNGUARDED else ()),
        *changes,
    )


def denied(api: KubeApi, namespace: str, rights: Sequence[Right]) -> list[str]:
    """What of it this login may not do, by the API server's own word, as sentences."""
    found = []
    for right in rights:
        resource, _, subresource = right.resource.partition("/")
        where = "" if right.everywhere else namespace
        about = {"group": right.group, "resource": resource, "subresource": subresource, "namespace": where}
        verbs = [verb for verb in right.verbs if not api.allowed(verb=verb, **about)]
        if verbs:
            within = "the whole cluster" if right.everywhere else f"namespace {namespace}"
            found.append(f"this login may not {', '.join(verbs)} {right.resource} in {within}")
    return found


def roles(name: str, namespace: str, rights: Sequence[Right]) -> JSON:
    """The rights as a Role; where some reach beyond the namespace, as a List of it and a ClusterRole."""
    inside = [right for right in rights if not right.everywhere]
    beyond = [right for right in rights if right.everywhere]
    role = _role("Role", {"name": name, "namespace": namespace}, inside)
    if not beyond:
        return role
    return {"apiVersion": "v1", "kind": "List", "items": [role, _role("ClusterRole", {"name": name}, beyond)]}


def _role(kind: str, meta: JSON, rights: Sequence[Right]) -> JSON:
    merged: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        merged.setdefault((right.group, right.resource), []).extend(right.verbs)
    rules = [{"apiGroups": [group], "resources": [resource], "verbs": verbs} for (group, resource), verbs in merged.items()]
    return {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": meta, "rules": rules}


def bound(role: JSON, account: str, namespace: str) -> list[tuple[str, JSON]]:
    """A Role or ClusterRole and its binding to an account of that namespace: what is to be created, and where."""
    kind, meta = role["kind"], role["metadata"]
    binding: JSON = {
        "apiVersion": f"{RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": meta,
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": meta["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }
    return [(place(f"{each['kind'].lower()}s", meta.get("namespace", ""), group=f"{RBAC}/v1"), each) for each in (role, binding)]
