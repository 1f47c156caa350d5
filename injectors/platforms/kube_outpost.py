"""A pod of our own in the service's namespace, from any image with python3: a Job, and its programs as a ConfigMap.

It is allowed by the restricted Pod Security profile. Nothing of it stays when everything of ours dies: the Job is over when its program
ends or its deadline passes, the cluster removes it soon after, and the ConfigMap, which it owns, with it.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..values import JSON
from .base import PlatformError, came
from .kube_api import Conflict, KubeApi, place
from .kube_exec import Container, Session, opened
from .kube_guard import away
from .kube_own_pods import BATCH, LOOK_S, await_running, own_pod, why
from .kube_pods import is_ending, runs
from .kube_records import OURS

RUN_OF: Final = "blackstart/prober-of"  # the annotation that names the run
MARK: Final = "blackstart-prober"  # the label that tells the pod of one run from another's
HOME = "/blackstart"
GONE_S = 20.0
KEPT_S = 60  # a Job that is over, for a look at why
ROOM = "256Mi"  # samples of a drill of some hours


def name_of(run: str) -> str:
    return f"blackstart-prober-{hashlib.sha256(run.encode()).hexdigest()[:12]}"


@dataclass
class PodOutposts:
    """Those of one service."""

    api: KubeApi
    namespace: str
    given_up: threading.Event

    def outpost_begin(  # noqa: PLR0913 - as the protocol has it
        self,
        run: str,
        image: str,
        programs: Mapping[str, bytes],
        command: Sequence[str],
        longest_s: float,
        away_from: Sequence[str] = (),
    ) -> None:
        name = name_of(run)
        job_of_it = self._job(run, _pod(run, image, command, away_from), longest_s)
        try:
            job = self.api.create(place("jobs", self.namespace, "", BATCH), job_of_it)
            self.api.create(place("configmaps", self.namespace), self._programs(run, programs, job))
        except Conflict as error:
            raise PlatformError(f"there is a {name} in namespace {self.namespace} already") from error
        await_running(lambda: self._pods(run), f"the prober's pod (image {image})", self.namespace, self.given_up.wait)

    def outpost_line(self, run: str, command: Sequence[str]) -> Session:
        pod = next((each for each in self._pods(run) if runs(each)), None)
        if pod is None:
            raise PlatformError(f"no pod of job/{name_of(run)} runs in namespace {self.namespace}")
        return opened(self.api, Container(self.namespace, pod["metadata"]["name"], "prober"), ["python3", "-I", "-S", *command])

    def outpost_lost(self, run: str) -> str:
        try:
            pods = self._pods(run)
        except PlatformError:  # the cluster cannot be asked now
            return ""
        where = f"job/{name_of(run)} in namespace {self.namespace}"
        if not pods:
            return f"the pod of {where} is gone"
        return f"the pod of {where} has ended: {why(pods[-1])}" if all(map(is_ending, pods)) else ""

    def outpost_end(self, run: str) -> bool:
        name = name_of(run)
        found = self.api.delete(place("jobs", self.namespace, name, BATCH))
        found = self.api.delete(place("configmaps", self.namespace, name)) or found
        if not came(lambda: not self._pods(run), GONE_S, threading.Event(), LOOK_S):  # also where the drill is given up
            raise PlatformError(
                f"the pod of job/{name} in namespace {self.namespace} is not gone; the cluster removes it with its Job"
            )
        return found

    def _pods(self, run: str) -> list[JSON]:
        return self.api.items(place("pods", self.namespace), labels=f"{MARK}={name_of(run)}")[0]

    def _metadata(self, run: str) -> JSON:
        labels = {**OURS, MARK: name_of(run)}
        return {"name": name_of(run), "namespace": self.namespace, "labels": labels, "annotations": {RUN_OF: run}}

    def _programs(self, run: str, programs: Mapping[str, bytes], job: JSON) -> JSON:
        owner = {"apiVersion": BATCH, "kind": "Job", "name": name_of(run), "uid": job["metadata"]["uid"]}
        metadata = {**self._metadata(run), "ownerReferences": [owner]}
        data = {name: program.decode() for name, program in programs.items()}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    def _job(self, run: str, pod: JSON, longest_s: float) -> JSON:
        spec = {
            "backoffLimit": 0,  # a second prober would know nothing of the first one's samples
            "activeDeadlineSeconds": max(1, round(longest_s)),
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {"metadata": {"labels": {**OURS, MARK: name_of(run)}}, "spec": pod},
        }
        return {"apiVersion": BATCH, "kind": "Job", "metadata": self._metadata(run), "spec": spec}


def _pod(run: str, image: str, command: Sequence[str], away_from: Sequence[str]) -> JSON:
    programs = {"name": "programs", "mountPath": HOME, "readOnly": True}
    volume = {"name": "programs", "configMap": {"name": name_of(run)}}
    container = {"workingDir": HOME, "volumeMounts": [programs]}
    return own_pod("prober", image, command, ROOM, container, volumes=[volume], affinity=away(away_from))
