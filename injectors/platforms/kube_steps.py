"""What objects of the API say of a pod's way: which steps it has behind it, and whose endpoint it is.

A step is dated when the cluster's record says so. A kubelet reports a container that started up to a second late, and who sends
requests to an endpoint learns of its removal after it was recorded: these delays belong to the steps on either side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..values import JSON
from .kube_pods import ready, runs

PULLED = "involvedObject.kind=Pod,reason=Pulled"  # as a field selector
OF_CONTAINER = "spec.containers{"  # init containers have images of their own, which are pulled on the way to these


def steps(pod: JSON) -> dict[str, str]:
    """Step -> what it was reached by: containers that are started again reach it again."""
    found = {"created": str(pod["metadata"]["uid"])}
    if node := pod["spec"].get("nodeName"):
        found["scheduled"] = str(node)
    if runs(pod):
        found["started"] = " ".join(sorted(str(each.get("containerID")) for each in pod["status"]["containerStatuses"]))
    if ready(pod):
        found["ready"] = "True"
    return found


def reached(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The steps that are new, in the order in which they come."""
    return [step for step, by in now.items() if before.get(step) != by]


def pulled(event: JSON) -> str | None:
    """Identity of the pod that an event says an image is there for; None where it tells of something else."""
    about = event["involvedObject"]
    if event.get("reason") != "Pulled" or not str(about.get("fieldPath", "")).startswith(OF_CONTAINER):
        return None
    return f"pod:{about['namespace']}/{about['name']}@{about['uid']}"


class Endpoint(NamedTuple):
    """A pod that a Service sends requests to."""

    service: str
    identity: str


@dataclass
class Rotation:
    """Which pods are in service, by the EndpointSlices of their namespace; one Service may have several slices."""

    _slices: dict[str, frozenset[Endpoint]] = field(default_factory=dict)

    def all(self) -> frozenset[Endpoint]:
        return frozenset[Endpoint]().union(*self._slices.values())

    def put(self, slice_: JSON) -> None:
        """A slice as it is now."""
        self._slices[slice_["metadata"]["name"]] = endpoints(slice_)

    def drop(self, slice_: JSON) -> None:
        self._slices.pop(slice_["metadata"]["name"], None)

    def keep(self, names: set[str]) -> None:
        """Forget every other slice: it is not there any more."""
        self._slices = {name: found for name, found in self._slices.items() if name in names}


def endpoints(slice_: JSON) -> frozenset[Endpoint]:
    """Its pods that are ready; a condition that is not given counts as true (discovery.k8s.io/v1)."""
    service = (slice_["metadata"].get("labels") or {}).get("kubernetes.io/service-name", "")
    found = set()
    for each in slice_.get("endpoints") or []:
        pod = each.get("targetRef") or {}
        if pod.get("kind") == "Pod" and (each.get("conditions") or {}).get("ready") is not False:
            found.add(Endpoint(service, f"pod:{pod['namespace']}/{pod['name']}@{pod['uid']}"))
    return frozenset(found)
