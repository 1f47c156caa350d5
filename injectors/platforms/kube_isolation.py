"""Nodes that are cut off from everything for a while: by a pod of ours on each, in the node's own network namespace (node_cut.py).

Nobody can reach such a node to end that, so it ends there by itself, kept by the node's kernel. The pod is a Job's, bound to its node,
tolerates everything, and is started again by the kubelet, without the API server, when it dies: its last word, which the kubelet hands on
once the node is back, says that the node's firewall is as it was. What the API server has of the node meanwhile is the proof.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Final

from ..values import JSON
from . import node_cut
from .abilities import nodes_of
from .base import PlatformError, Target, Unavailable, Unsupported, came
from .kube_api import ApiError, KubeApi, place
from .kube_cuttable import must_not_go, must_stay
from .kube_exec import Container, run_python
from .kube_find import Finder
from .kube_inline import LOCKED, ROOT
from .kube_own_pods import BATCH, await_running, own_pod, packed, why
from .kube_pods import OVER, runs
from .kube_records import LEASES, OURS, SELECTOR

RUN_OF: Final = "blackstart/isolates-for"  # the annotation that names the run
MARK: Final = "blackstart-isolation"  # the label that tells the pod on one node from another's
CONTAINER: Final = "isolation"
WORD = "/dev/termination-log"  # where the kubelet looks for a container's last word
NODE_LEASES = "kube-node-lease"  # the namespace of the kubelets' heartbeats
NEVER_RENEWED: JSON = {"spec": {"renewTime": "", "leaseDurationSeconds": 40}}  # the kubelet's usual
RENEWED_EVERY = 0.25  # of a lease's duration (k8s.io/component-helpers, and the kubelet's nodeLeaseRenewIntervalFraction)
LOST = {"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"}  # the node controller's taints
ARMED_S, BACK_S, GONE_S, KEPT_S, LOOK_S = 120.0, 180.0, 60.0, 600, 0.5
TRIES = 20
UNSTARTED = {"StartError", "ContainerCannotRun"}
PROGRAM = Path(node_cut.__file__)


@dataclass
class _Watch:
    """A lease as it was last, and since when it has been so for whoever looks here: no two clocks are compared."""

    renewed: str
    since: float


class NodeCuts:
    """Those of one service. `image`: with python3 and nft; None: the service file names none."""

    def __init__(self, api: KubeApi, finder: Finder, image: str | None, protected: Sequence[str], given_up: Event) -> None:
        self.api, self.finder, self.image, self.protected, self.given_up = api, finder, image, protected, given_up
        self.namespace = finder.spec.namespace
        self._watches: dict[str, _Watch] = {}
        self._begun_s = math.inf
        self._words: dict[str, JSON] = {}  # fault -> node -> what was said there last

    # --- before ---

    def refuse(self, targets: tuple[Target, ...], *, whole_node: bool) -> None:
        if self.image is None:
            raise Unsupported("a pod of ours on the node has to cut it off; name an image with python3 and nft: probe.image")
        nodes = nodes_of(targets)
        if objection := must_stay(self.api.items(place("nodes"))[0], nodes):
            raise Unsupported(objection)
        mine = {pod["metadata"]["uid"] for owned in self.finder.owned() for pod in owned.pods}
        for node in nodes:
            there, _ = self.api.items(place("pods"), fields=f"spec.nodeName={node}")
            if objection := must_not_go(node, there, mine, self.protected, whole_node=whole_node):
                raise Unsupported(objection)
            self._refuse_pod(node)

    def _refuse_pod(self, node: str) -> None:
        """In the API server's own words, by a dry run: of a Job's pods nobody hears before they are missing."""
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "blackstart-isolation-try", "labels": OURS}}
        try:
            self.api.create(f"{place('pods', self.namespace)}?dryRun=All", {**pod, "spec": self._pod("try", node, 1.0)})
        except ApiError as error:
            raise Unsupported(
                f"node {node} has to be cut off from inside, and a pod in its own network with the capability NET_ADMIN is not taken in "
                f"namespace {self.namespace}: {error}"
            ) from error

    # --- doing ---

    def begin(self, fault: str, nodes: Sequence[str], for_s: float) -> None:
        """All of them at one time, once each could be. Raises PlatformError with nothing cut, unless it is GivenUp in between."""
        names = {node: name_of(fault, node) for node in nodes}
        for node in nodes:
            self.api.create(place("jobs", self.namespace, "", BATCH), self._job(fault, node, for_s))
        for node, name in names.items():
            what = f"the pod that is to cut off node {node} (image {self.image})"
            await_running(partial(self._pods, name), what, self.namespace, self.given_up.wait)
        for node, name in names.items():
            if (answer := self._asked(name, "armed"))["event"] != "armed":
                raise Unsupported(f"node {node} cannot be cut off by image {self.image}: {answer['why']}")
        for node in nodes:
            self.seen(node)
        for name in names.values():
            self._asked(name, "go")
        self._begun_s = time.monotonic()

    def end(self, fault: str, nodes: Sequence[str], for_s: float) -> JSON:
        """Wait until each has come back by itself, or end what can still be reached; what each said last. From any process."""
        names = {node: name_of(fault, node) for node in nodes}
        words = self._words.setdefault(fault, {})

        def all_are_back() -> bool:
            for node, name in names.items():
                with suppress(Unavailable):  # the API server is away: that says nothing of the node
                    if node not in words and (word := self._word(node, name)):
                        words[node] = word
            return len(words) == len(names)

        if not came(all_are_back, for_s + BACK_S, self.given_up, LOOK_S):
            missing = ", ".join(node for node in names if node not in words)
            raise PlatformError(
                f"nothing was heard of node {missing} for {for_s + BACK_S:g} s, although it ends by itself after {for_s:g} s"
            )

        def all_are_gone() -> bool:
            with suppress(Unavailable):
                for name in names.values():
                    self.api.delete(place("jobs", self.namespace, name, BATCH))
                return not self.left(fault, nodes)
            return False

        if not came(all_are_gone, GONE_S, self.given_up, LOOK_S):
            raise PlatformError(f"not gone after {GONE_S:g} s: {self.left(fault, nodes)}")
        return words

    def _word(self, node: str, name: str) -> JSON | None:
        """The last one of the pod there; None: there is none yet, and it was told to end where that may reach it."""
        pods = self._pods(name)
        if not pods:
            there = self.api.there(place("jobs", self.namespace, name, BATCH)) is not None
            return {"event": "undone", "reason": "its pod is gone" if there else "nothing of it is there"}
        for pod in pods:
            if word := last_word(pod):
                return word
        if self.api.there(place("nodes", name=node)) is None:
            return {"event": "undone", "reason": f"node {node} is gone"}
        before = self._watches.get(node)
        since = before.since if before else math.inf
        self.seen(node)
        if since < self._watches[node].since:  # it was heard of meanwhile
            with suppress(PlatformError):
                self._asked(name, "end")
        return None

    def words(self, fault: str) -> JSON:
        """What this process has heard of that fault's nodes."""
        return self._words.get(fault, {})

    def left(self, fault: str, nodes: Sequence[str]) -> str:
        """Which pod or Job is still there; empty: none is."""
        for node in nodes:
            name = name_of(fault, node)
            if self._pods(name):
                return f"the pod of job/{name} in namespace {self.namespace}"
        return ""

    def abandon(self, run: str) -> None:
        """Without waiting: a node that cannot be reached comes back by itself."""
        for each in self.api.items(place("jobs", self.namespace, group=BATCH), labels=f"{SELECTOR},{MARK}")[0]:
            if each["metadata"]["annotations"][RUN_OF] == run:
                self.api.delete(place("jobs", self.namespace, each["metadata"]["name"], BATCH))

    # --- looking ---

    def seen(self, node: str) -> JSON | None:
        """What the API server has of it; None: it is gone. `ready` is the node controller's word, `silent_s` how long the node's lease
        has not been renewed while it was looked at here, which is `every_s` as a rule, `cut_s` how long ago this process cut it off.
        """
        found = self.api.there(place("nodes", name=node))
        if found is None:
            return None
        lease = (self.api.there(place("leases", NODE_LEASES, node, LEASES)) or NEVER_RENEWED)["spec"]
        watch, now = self._watches.get(node), time.monotonic()
        if watch is None or watch.renewed != lease["renewTime"]:
            watch = self._watches[node] = _Watch(lease["renewTime"], now)
        condition: JSON = next((each for each in found["status"]["conditions"] if each["type"] == "Ready"), {})
        return {
            "ready": condition.get("status", "Unknown"),
            "reason": condition.get("reason", ""),
            "taints": sorted({each["key"] for each in found["spec"].get("taints") or []} & LOST),
            "renewed": lease["renewTime"],
            "silent_s": round(now - watch.since, 3),
            "every_s": float(lease["leaseDurationSeconds"]) * RENEWED_EVERY,
            "cut_s": max(0.0, round(now - self._begun_s, 3)),
        }

    # --- what it is made of ---

    def _pods(self, name: str) -> list[JSON]:
        return self.api.items(place("pods", self.namespace), labels=f"{MARK}={name}")[0]

    def _asked(self, name: str, verb: str) -> JSON:
        pod = next((each for each in self._pods(name) if runs(each)), None)
        if pod is None:
            raise PlatformError(f"no pod of job/{name} runs in namespace {self.namespace}")
        where = Container(self.namespace, pod["metadata"]["name"], CONTAINER)
        code, said, errors = run_python(self.api, where, PROGRAM.read_bytes(), [verb])
        if code or not said:
            raise PlatformError(f"{where}: {errors.strip()[-300:] or f'exit {code}'}")
        answer: JSON = json.loads(said)
        return answer

    def _job(self, fault: str, node: str, for_s: float) -> JSON:
        name = name_of(fault, node)
        labels = {**OURS, MARK: name}
        spec = {
            "backoffLimit": TRIES,
            "activeDeadlineSeconds": math.ceil(2 * ARMED_S + for_s + BACK_S),
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {"metadata": {"labels": labels}, "spec": self._pod(name, node, for_s)},
        }
        meta = {"name": name, "namespace": self.namespace, "labels": labels}
        meta["annotations"] = {RUN_OF: fault.partition("/")[0].rpartition(".")[0]}
        return {"apiVersion": BATCH, "kind": "Job", "metadata": meta, "spec": spec}

    def _pod(self, name: str, node: str, for_s: float) -> JSON:
        assert self.image is not None
        table = f"blackstart_{name.rpartition('-')[2]}"
        request = {"table": table, "for_s": math.ceil(for_s), "armed_s": ARMED_S, "word": WORD}
        container = {
            "securityContext": {**LOCKED, **ROOT, "readOnlyRootFilesystem": True},
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        }
        return own_pod(
            CONTAINER,
            self.image,
            packed(PROGRAM.read_bytes(), "hold", json.dumps(request)),
            "1Mi",
            container,
            nodeName=node,
            hostNetwork=True,
            tolerations=[{"operator": "Exists"}],
            restartPolicy="OnFailure",  # by the kubelet, which needs nobody for that
            terminationGracePeriodSeconds=10,
        )


def name_of(fault: str, node: str) -> str:
    return f"blackstart-isolation-{hashlib.sha256(f'{fault}/{node}'.encode()).hexdigest()[:12]}"


def last_word(pod: JSON) -> JSON | None:
    """What the program said when it had cleared up; None: it has not ended. Where it could not say it, why, as far as that is known."""
    statuses = pod["status"].get("containerStatuses") or []
    if all(map(_never_ran, statuses)):
        return {"event": "undone", "reason": f"it never ran: {why(pod)}"}
    for each in statuses:
        over = each["state"].get("terminated")
        if over and over["exitCode"] == 0:
            with suppress(ValueError):
                word: JSON = json.loads(over.get("message") or "")
                return word
            return {"event": "undone", "reason": "it ended without a word"}
    if pod["status"].get("phase") in OVER:
        return {"event": "undone", "reason": f"its pod has ended, and the kernel let go: {why(pod)}"}
    return None


def _never_ran(status: JSON) -> bool:
    """It waits for its image, say, or has no python3."""
    ended = [state["terminated"] for state in (status["state"], status.get("lastState") or {}) if "terminated" in state]
    return "running" not in status["state"] and all(each.get("reason") in UNSTARTED for each in ended)
