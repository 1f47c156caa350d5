"""Pods of our own beside a target, each for one agent: how they are made, found and ended, and those that have the target's claims.

Such a pod is a Job's, on the target's own node, and ends by itself: at the deadline, or once the agent in it has let go.
"""

import hashlib
import math
import os
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any, ClassVar, Final

from ..values import JSON
from .base import PlatformError, Target, Unsupported, came
from .kube_agents import PodAgents, PodDoors
from .kube_api import ApiError, Conflict, Forbidden, KubeApi, place
from .kube_exec import Container
from .kube_find import Finder, pod_of
from .kube_own_pods import BATCH, await_running, own_pod
from .kube_pods import GIVEN, PODS_OWN, main_container, mounted, runs
from .kube_records import OURS, SELECTOR
from .own_rooms import FILE_RIGHTS, MOST, SLACK_S, SLEEP, OwnRooms, Wanted, WithVolumes, run_of

GONE_S, LOOK_EVERY_S, KEPT_S = 30.0, 0.2, 60
MOUNTED: Final = ("name", "mountPath", "subPath")  # what another pod takes over of a mount
MEMORY: Final = "256Mi"


@dataclass
class PodRooms(OwnRooms[Container]):
    """Those of one service. `image`: with python3; None: the service file names none. `privilege`: the most that is allowed."""

    api: KubeApi
    finder: Finder
    agents: PodAgents
    image: str | None
    given_up: Event
    privilege: str = MOST

    called: ClassVar[str] = "pod"
    purpose: ClassVar[str]  # the name of the container
    does: ClassVar[str]  # what such a pod is for, in words

    @property
    def mark(self) -> str:
        """The label that tells one such pod from another."""
        return f"blackstart-{self.purpose}"

    @property
    def annotation(self) -> str:
        """That names the run."""
        return f"blackstart/{self.purpose}-for"

    @abstractmethod
    def _pod(self, wanted: Wanted, image: str) -> JSON:
        """Its spec. Raises Unsupported."""

    def vanished(self, target: Target) -> str:
        """The target's node, with all that ran on it; a login that may not look at nodes takes none for gone."""
        node = target.details["node"]
        with suppress(Forbidden):
            if self.api.there(place("nodes", name=node)) is None:
                return f"node {node}"
        return ""

    def abandon(self, run: str) -> None:
        """Remove what is left of that run."""
        for each in self.api.items(place("jobs", self._namespace, group=BATCH), labels=f"{SELECTOR},{self.mark}")[0]:
            if each["metadata"]["annotations"][self.annotation] == run:
                self._end(each["metadata"]["name"])

    @property
    def _namespace(self) -> str:
        return self.finder.spec.namespace

    @property
    def _doors(self) -> PodDoors:
        return PodDoors(self.api)

    def _name(self, fault: str, target: Target) -> str:
        return f"{self.mark}-{hashlib.sha256(f'{fault}/{target.name}'.encode()).hexdigest()[:12]}"

    def _look_name(self, target: Target) -> str:
        return self._name(f"look {os.getpid()} {id(self)}", target)

    def _holding(self, name: str) -> Container | None:
        pod = next((each for each in self._pods(name) if runs(each)), None)
        return Container(self._namespace, pod["metadata"]["name"], self.purpose) if pod else None

    def _pods(self, name: str) -> list[JSON]:
        return self.api.items(place("pods", self._namespace), labels=f"{self.mark}={name}")[0]

    def _place(self, room: Container, target: Target) -> JSON:
        del target
        return {"pod": room.pod, "container": room.container}

    def _begun(self, wanted: Wanted) -> Container:
        """By the API server's own word, from a dry run: of a Job's pods nobody hears before they are missing."""
        if self.image is None:
            raise Unsupported("a pod of ours has to stand beside the target; name an image with python3: probe.image")
        name, target, spec = wanted.name, wanted.target, self._pod(wanted, self.image)
        meta = {"name": name, "namespace": self._namespace, "labels": {**OURS, self.mark: name}}
        job = {
            "backoffLimit": 0,
            "activeDeadlineSeconds": math.ceil(wanted.seconds + SLACK_S),
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {"metadata": {"labels": meta["labels"]}, "spec": spec},
        }
        whole = {
            "apiVersion": BATCH,
            "kind": "Job",
            "metadata": {**meta, "annotations": {self.annotation: run_of(wanted.fault)}},
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
                f"a pod of ours on node {target.details['node']} that {self.does} is not taken in namespace {self._namespace}: {error}; "
                "let the namespace take privileged pods, or drill another fault"
            ) from error
        what = f"the pod beside {target.name} (image {self.image})"
        await_running(partial(self._pods, name), what, self._namespace, self.given_up.wait)
        if (room := self._holding(name)) is None:
            raise PlatformError(f"{what} has ended already")
        return room

    def _beside(self, wanted: Wanted, image: str, container: JSON, **more: Any) -> JSON:
        """A pod's spec on the target's node, which stays up for as long as it is wanted."""
        details = wanted.target.details
        node = {"nodeName": details["node"], "tolerations": details.get("tolerations", [])}
        return own_pod(self.purpose, image, ["-c", SLEEP, str(wanted.seconds)], "1Mi", container, **node, **more)

    def _end(self, name: str) -> None:
        self.api.delete(place("jobs", self._namespace, name, BATCH))
        if not came(lambda: not self._pods(name), GONE_S, Event(), LOOK_EVERY_S):  # also where the drill is given up
            raise PlatformError(f"the pod of job/{name} in namespace {self._namespace} is not gone")


@dataclass
class VolumePods(PodRooms, WithVolumes[Container]):
    """Pods with the target's claims, to read; a `SlowSite`."""

    purpose: ClassVar[str] = "files"
    does: ClassVar[str] = f"may have the kernel ask before the target's files are read ({', '.join(FILE_RIGHTS)})"

    def _given(self, target: Target, parameters: JSON) -> JSON:
        """The volumes that hold these paths, and their mounts in the target's container, to read; its labels for SELinux."""
        pod = pod_of(self.api, target)
        if pod is None:
            raise PlatformError(f"{target.name} ({target.identity}) is gone, and with it what tells which volumes it had")
        name = target.details.get("container") or main_container(pod)
        main = next(each for each in pod["spec"]["containers"] if each["name"] == name)
        held = {path: mounted(pod, name, path) for path in parameters["paths"]}
        for path, (mount, volume) in held.items():
            _refuse_unshared(path, mount, volume)
        mounts = {mount["mountPath"]: mount for mount, _ in held.values()}
        contexts = [each.get("securityContext") or {} for each in (main, pod["spec"])]
        return {
            "volumes": list({volume["name"]: volume for _, volume in held.values()}.values()),
            "mounts": [{key: each[key] for key in MOUNTED if key in each} | {"readOnly": True} for each in mounts.values()],
            "labels": next((each["seLinuxOptions"] for each in contexts if each.get("seLinuxOptions")), None),
        }

    def _pod(self, wanted: Wanted, image: str) -> JSON:
        """As root, since that alone has capabilities; without a group for its volumes, which would be written into whole claims."""
        labels = (
            {"seLinuxOptions": wanted.way["labels"]} if wanted.way["labels"] else {}
        )  # other ones a runtime would write into the volume
        rights = {"capabilities": {"drop": ["ALL"], "add": list(FILE_RIGHTS)}, "readOnlyRootFilesystem": True, "runAsUser": 0}
        resources = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": MEMORY}}
        container = {"securityContext": {**rights, **labels}, "volumeMounts": wanted.way["mounts"], "resources": resources}
        profile = {"seccompProfile": {"type": "RuntimeDefault"}}
        return self._beside(wanted, image, container, volumes=wanted.way["volumes"], securityContext=profile)


def _refuse_unshared(path: str, mount: JSON, volume: JSON) -> None:
    """Raises Unsupported where another pod cannot have the very same file."""
    if not mount or (PODS_OWN | GIVEN | {"csi"}) & volume.keys():
        kind = next((key for key in volume if key != "name"), "own layer")
        raise Unsupported(f"{path} lies in the target's {kind}, which no other pod has; put it on a claim")
    if mount.get("subPathExpr"):
        raise Unsupported(
            f"{mount['mountPath']} is mounted by a `subPathExpr`, which no other pod can follow; mount it by a `subPath`"
        )
