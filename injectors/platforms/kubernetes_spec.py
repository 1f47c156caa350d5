"""What a service file says about a service in a cluster (`platform: kubernetes`)."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Workload:
    """One more workload of the service, beside its replicas."""

    role: Annotated[
        str,
        "what it is to the service: gateway, store, standby, ...; prefill and decode are protected and compared as replicas are, and never "
        "asked by themselves",
    ]
    workload: Annotated[str, "what runs its pods: `deployment/NAME`, `statefulset/NAME` or `daemonset/NAME`"]


@dataclass(frozen=True)
class KubernetesSpec:
    """Where a service in a cluster lives."""

    namespace: Annotated[str, "its namespace"]
    workload: Annotated[str, "what runs its replicas: `deployment/NAME`, `statefulset/NAME` or `daemonset/NAME`"]
    context: Annotated[str | None, "the kubeconfig's context; by default the current one"] = None
    components: Annotated[tuple[Workload, ...], "what else the service is made of"] = ()
