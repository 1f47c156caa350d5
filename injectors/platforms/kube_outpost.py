"""A pod of our own in the service's namespace, from any image with python3: a Job, and its programs as a ConfigMap; and a crowd of such
pods, which are one Indexed Job.

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
MARK: Final = "blackstart-prober"  # the label that tells the pods of one Job from another's
HOME = "/blackstart"
GONE_S = 20.0
KEPT_S = 60  # a Job that is over, for a look at why
ROOM = "256Mi"  # samples of a drill of some hours
INDEX: Final = "batch.kubernetes.io/job-completion-index"  # the annotation by which an Indexed Job's pods are told apart


def name_of(run: str, *, crowd: bool = False) -> str:
    return f"blackstart-{'load' if crowd else 'prober'}-{hashlib.sha256(run.encode()).hexdigest()[:12]}"


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
        self._create(name, run, programs, _job(_pod(name, image, command, away_from), longest_s))
        await_running(lambda: self._pods(name), f"the prober's pod (image {image})", self.namespace, self.given_up.wait)

    def crowd_begin(  # noqa: PLR0913 - as the protocol has it
        self,
        number: int,
        run: str,
        image: str,
        programs: Mapping[str, bytes],
        command: Sequence[str],
        longest_s: float,
        away_from: Sequence[str] = (),
    ) -> None:
        name = name_of(run, crowd=True)
        indexed = {"completionMode": "Indexed", "completions": number, "parallelism": number}
        self._create(name, run, programs, {**_job(_pod(name, image, command, away_from), longest_s), **indexed})
        what = f"one of {number} pods that give load (image {image})"
        await_running(lambda: self._pods(name), what, self.namespace, self.given_up.wait, number)

    def outpost_line(self, run: str, command: Sequence[str]) -> Session:
        return self._line(run, command, None)

    def crowd_line(self, index: int, run: str, command: Sequence[str]) -> Session:
        return self._line(run, command, index)

    def outpost_lost(self, run: str) -> str:
        return self._lost(run, None)

    def crowd_lost(self, index: int, run: str) -> str:
        return self._lost(run, index)

    def _line(self, run: str, command: Sequence[str], index: int | None) -> Session:
        pod = next((each for each in self._those(run, index) if runs(each)), None)
        if pod is None:
            raise PlatformError(f"no pod of {_told(run, index)} runs in namespace {self.namespace}")
        return opened(self.api, Container(self.namespace, pod["metadata"]["name"], "prober"), ["python3", "-I", "-S", *command])

    def _lost(self, run: str, index: int | None) -> str:
        try:
            pods = self._those(run, index)
        except PlatformError:  # the cluster cannot be asked now
            return ""
        where = f"{_told(run, index)} in namespace {self.namespace}"
        if not pods:
            return f"the pod of {where} is gone"
        return f"the pod of {where} has ended: {why(pods[-1])}" if all(map(is_ending, pods)) else ""

    def outpost_end(self, run: str) -> bool:
        names, found = (name_of(run), name_of(run, crowd=True)), False
        for name in names:
            for resource, group in (("jobs", BATCH), ("configmaps", "")):
                found = self.api.delete(place(resource, self.namespace, name, group)) or found
        if not came(lambda: not self._pods(*names), GONE_S, threading.Event(), LOOK_S):  # also where the drill is given up
            raise PlatformError(
                f"a pod of job/{names[0]} or job/{names[1]} in namespace {self.namespace} is not gone; the cluster removes it with its Job"
            )
        return found

    def _those(self, run: str, index: int | None) -> list[JSON]:
        """The pods that have been that one."""
        pods = self._pods(name_of(run, crowd=index is not None))
        return [pod for pod in pods if index is None or pod["metadata"].get("annotations", {}).get(INDEX) == str(index)]

    def _pods(self, *names: str) -> list[JSON]:
        return self.api.items(place("pods", self.namespace), labels=f"{MARK} in ({','.join(names)})")[0]

    def _create(self, name: str, run: str, programs: Mapping[str, bytes], spec: JSON) -> None:
        labels = {**OURS, MARK: name}
        metadata = {"name": name, "namespace": self.namespace, "labels": labels, "annotations": {RUN_OF: run}}
        spec["template"]["metadata"] = {"labels": labels}
        try:
            whole = {"apiVersion": BATCH, "kind": "Job", "metadata": metadata, "spec": spec}
            job = self.api.create(place("jobs", self.namespace, "", BATCH), whole)
            self.api.create(place("configmaps", self.namespace), _programs(metadata, programs, job))
        except Conflict as error:
            raise PlatformError(f"there is a {name} in namespace {self.namespace} already") from error


def _told(run: str, index: int | None) -> str:
    return f"job/{name_of(run)}" if index is None else f"index {index} of job/{name_of(run, crowd=True)}"


def _programs(metadata: JSON, programs: Mapping[str, bytes], job: JSON) -> JSON:
    owner = {"apiVersion": BATCH, "kind": "Job", "name": metadata["name"], "uid": job["metadata"]["uid"]}
    data = {name: program.decode() for name, program in programs.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "ownerReferences": [owner]}, "data": data}


def _job(pod: JSON, longest_s: float) -> JSON:
    return {
        "backoffLimit": 0,  # a second prober would know nothing of the first one's samples
        "activeDeadlineSeconds": max(1, round(longest_s)),
        "ttlSecondsAfterFinished": KEPT_S,
        "template": {"spec": pod},
    }


def _pod(name: str, image: str, command: Sequence[str], away_from: Sequence[str]) -> JSON:
    programs = {"name": "programs", "mountPath": HOME, "readOnly": True}
    volume = {"name": "programs", "configMap": {"name": name}}
    container = {"workingDir": HOME, "volumeMounts": [programs]}
    return own_pod("prober", image, command, ROOM, container, volumes=[volume], affinity=away(away_from))
