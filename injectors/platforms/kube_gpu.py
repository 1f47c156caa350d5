"""GPUs of pods in which no agent can work: a pod of ours on the target's node, to which NVIDIA's runtime gives that one GPU as well.

It asks for the GPU by the variable that NVIDIA's runtime heeds, with the target's own RuntimeClass and tolerations, and requests none of
the node's: a device plugin would give it another one. Whose the GPU is, is looked at before a fault and after it by another one, which
asks for all GPUs, changes nothing and lasts for seconds. Either sees the node's processes (hostPID), since NVML tells the node's pids, and
the target's among them by their control group; it has an ordinary user and no capability. It is a Job's, and ends by itself: at the
deadline, or once the agent in it has let go, as it does when the target's pod is gone: nothing keeps the GPU for that pod's replacement,
and it may be a stranger's by then. With it ends the agent, and the driver takes back what that had. It is no ephemeral container of the
target's pod: that is given no device, and could never be removed from the pod again.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from ..values import JSON
from .base import Target
from .kube_exec import Container
from .kube_find import pod_of
from .kube_pods import main_container, parts_of
from .kube_rooms import PodRooms
from .own_rooms import VISIBLE, BesideGpu, Wanted, given

MEMORY: Final = "2Gi"  # a context of CUDA's takes some hundred MiB of the node's


@dataclass
class GpuPods(PodRooms, BesideGpu[Container]):
    """Those of one service; a `BesideSite`."""

    outlives: ClassVar[bool] = False  # a pod that starts again may be given another GPU, and this one another pod
    purpose: ClassVar[str] = "gpu"
    does: ClassVar[str] = "sees its processes"

    def knowing(self, device: JSON) -> "GpuPods":
        """What else it takes the target's record says."""
        del device
        return self

    def _number(self, target: Target) -> str:
        """The ID of the target's main container as its runtime has it; empty: it is gone, or was not started yet."""
        pod = pod_of(self.api, target)
        statuses = (pod or {}).get("status", {}).get("containerStatuses") or []
        main = target.details.get("container") or (main_container(pod) if pod else "")
        return next((str(each.get("containerID") or "").partition("://")[2] for each in statuses if each["name"] == main), "")

    def _way(self, target: Target, device: str) -> JSON:
        """By the variable that NVIDIA's runtime heeds, whatever the target's pod has."""
        del target
        return given(device)

    def _shown(self, target: Target, way: JSON) -> JSON:
        """What a device plugin gave the target no API tells."""
        del target, way
        return {"environment": {}}

    def _blind(self, target: Target, why: str) -> str:
        node, runtime = target.details["node"], target.details["runtime"]
        return (
            f"a pod of image {self.image} on node {node} that asks for GPUs by {VISIBLE}, with RuntimeClass {runtime}, sees none: {why}; let "
            "the target have NVIDIA's RuntimeClass (runtimeClassName), or let that runtime heed the variable in unprivileged pods"
        )

    def _place(self, room: Container, target: Target) -> JSON:
        return {**super()._place(room, target), "beside_pod": parts_of(target.identity)[2]}

    def _pod(self, wanted: Wanted, image: str) -> JSON:
        container = {
            "env": [{"name": key, "value": value} for key, value in wanted.way.items()],
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": MEMORY}},
        }
        runtime = wanted.target.details.get("runtime")
        return self._beside(wanted, image, container, hostPID=True, **({"runtimeClassName": runtime} if runtime else {}))
