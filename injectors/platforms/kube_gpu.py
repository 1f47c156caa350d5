"""GPUs of pods in which no agent can work: a pod of ours on the target's node, to which NVIDIA's runtime gives that one GPU as well.

It asks for the GPU by the variable that NVIDIA's runtime heeds, with the target's own RuntimeClass and tolerations, and requests none of
the node's: a device plugin would give it another one. Whose the GPU is, is looked at before a fault and after it by another one, which
asks for all GPUs, changes nothing and lasts for seconds. Either sees the node's processes (hostPID), since NVML tells the node's pids, and
the target's among them by their control group; it has an ordinary user and no capability. It is a Job's, and ends by itself: at the
deadline, or once the agent in it has let go, as it does when the target's pod is gone: nothing keeps the GPU for that pod's replacement,
and it may be a stranger's by then. With it ends the agent, and the driver takes back what that had. It is no ephemeral container of the
target's pod: that is given no device, and could never be removed from the pod again.
"""

import hashlib
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import ClassVar, Final

from ..values import JSON
from .base import PlatformError, Target, Unsupported, came
from .kube_agents import PodAgents, PodDoors
from .kube_api import ApiError, Conflict, Forbidden, KubeApi, place
from .kube_exec import Container
from .kube_find import Finder, pod_of
from .kube_own_pods import BATCH, await_running, own_pod
from .kube_pods import main_container, parts_of, runs
from .kube_records import OURS, SELECTOR
from .own_rooms import MOST, SLACK_S, SLEEP, VISIBLE, BesideGpu, Wanted, given, run_of

MARK: Final = "blackstart-gpu"  # the label that tells one such pod from another
RUN_OF: Final = "blackstart/gpu-for"  # the annotation that names the run
CONTAINER: Final = "gpu"
GONE_S, LOOK_EVERY_S, KEPT_S = 30.0, 0.2, 60
MEMORY: Final = "2Gi"  # a context of CUDA's takes some hundred MiB of the node's


@dataclass
class GpuPods(BesideGpu[Container]):
    """Those of one service; a `BesideSite`. `image`: with python3; None: the service file names none. `privilege`: the most that is
    allowed.
    """

    api: KubeApi
    finder: Finder
    agents: PodAgents
    image: str | None
    given_up: Event
    privilege: str = MOST

    outlives: ClassVar[bool] = False  # a pod that starts again may be given another GPU, and this one another pod
    called: ClassVar[str] = "pod"

    def knowing(self, device: JSON) -> "GpuPods":
        """What else it takes the target's record says."""
        del device
        return self

    def vanished(self, target: Target) -> str:
        """The target's node, with all that ran on it; a login that may not look at nodes takes none for gone."""
        node = target.details["node"]
        with suppress(Forbidden):
            if self.api.there(place("nodes", name=node)) is None:
                return f"node {node}"
        return ""

    def abandon(self, run: str) -> None:
        """Remove what is left of that run."""
        for each in self.api.items(place("jobs", self._namespace, group=BATCH), labels=f"{SELECTOR},{MARK}")[0]:
            if each["metadata"]["annotations"][RUN_OF] == run:
                self._end(each["metadata"]["name"])

    @property
    def _namespace(self) -> str:
        return self.finder.spec.namespace

    @property
    def _doors(self) -> PodDoors:
        return PodDoors(self.api)

    def _name(self, fault: str, target: Target) -> str:
        return f"{MARK}-{hashlib.sha256(f'{fault}/{target.name}'.encode()).hexdigest()[:12]}"

    def _look_name(self, target: Target) -> str:
        return self._name(f"look {os.getpid()} {id(self)}", target)

    def _number(self, target: Target) -> str:
        """The ID of the target's main container as its runtime has it; empty: it is gone, or was not started yet."""
        pod = pod_of(self.api, target)
        statuses = (pod or {}).get("status", {}).get("containerStatuses") or []
        main = target.details.get("container") or (main_container(pod) if pod else "")
        return next((str(each.get("containerID") or "").partition("://")[2] for each in statuses if each["name"] == main), "")

    def _holding(self, name: str) -> Container | None:
        pod = next((each for each in self._pods(name) if runs(each)), None)
        return Container(self._namespace, pod["metadata"]["name"], CONTAINER) if pod else None

    def _pods(self, name: str) -> list[JSON]:
        return self.api.items(place("pods", self._namespace), labels=f"{MARK}={name}")[0]

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
        return {"pod": room.pod, "container": room.container, "beside_pod": parts_of(target.identity)[2]}

    def _begun(self, wanted: Wanted) -> Container:
        """By the API server's own word, from a dry run: of a Job's pods nobody hears before they are missing."""
        name, target, spec = wanted.name, wanted.target, self._pod(wanted)
        meta = {"name": name, "namespace": self._namespace, "labels": {**OURS, MARK: name}}
        job = {
            "backoffLimit": 0,
            "activeDeadlineSeconds": math.ceil(wanted.seconds + SLACK_S),
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {"metadata": {"labels": meta["labels"]}, "spec": spec},
        }
        whole = {
            "apiVersion": BATCH,
            "kind": "Job",
            "metadata": {**meta, "annotations": {RUN_OF: run_of(wanted.fault)}},
            "spec": job,
        }
        try:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
            self.api.create(f"{place('pods', self._namespace)}?dryRun=All", pod)
            self.api.create(place("jobs", self._namespace, "", BATCH), whole)
        except Conflict as error:
            raise PlatformError(f"there is a {name} in namespace {self._namespace} already") from error
        except ApiError as error:
            raise Unsupported(
                f"a pod of ours that sees the processes of node {target.details['node']} is not taken in namespace {self._namespace}: {error}"
            ) from error
        what = f"the pod beside {target.name} (image {self.image})"
        await_running(partial(self._pods, name), what, self._namespace, self.given_up.wait)
        if (room := self._holding(name)) is None:
            raise PlatformError(f"{what} has ended already")
        return room

    def _pod(self, wanted: Wanted) -> JSON:
        if self.image is None:
            raise Unsupported("a pod of ours has to stand beside the target; name an image with python3: probe.image")
        container = {
            "env": [{"name": key, "value": value} for key, value in wanted.way.items()],
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": MEMORY}},
        }
        details = wanted.target.details
        runtime = details.get("runtime")
        return own_pod(
            CONTAINER,
            self.image,
            ["-c", SLEEP, str(wanted.seconds)],
            "1Mi",
            container,
            nodeName=details["node"],
            hostPID=True,
            tolerations=details.get("tolerations", []),
            **({"runtimeClassName": runtime} if runtime else {}),
        )

    def _end(self, name: str) -> None:
        self.api.delete(place("jobs", self._namespace, name, BATCH))
        if not came(lambda: not self._pods(name), GONE_S, Event(), LOOK_EVERY_S):  # also where the drill is given up
            raise PlatformError(f"the pod of job/{name} in namespace {self._namespace} is not gone")
