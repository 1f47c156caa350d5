"""A drill that runs in the cluster: a Job in the service's namespace, under an account that may do just what that drill does.

All that it is made of carries one name, the labels of blackstart and the run's name, and belongs to the Job, which begins suspended until
the rest of it is there. So whatever becomes of whoever made it, the cluster removes all of it some time after the drill is over; only a
ClusterRole belongs to nothing, and is given up by the pod itself (drill_keeper.py).
"""

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final, NamedTuple

from ..values import JSON
from . import drill_keeper
from .base import PlatformError, Unavailable, came
from .exec_agents import EXEC_S
from .kube_api import KNOWN_AS, Forbidden, KubeApi, place
from .kube_exec import Container, Session, begin_python
from .kube_guard import RBAC, away
from .kube_own_pods import BATCH, TMP, await_running, own_pod, packed, why
from .kube_pods import OVER, runs
from .kube_records import OURS, SELECTOR, Records
from .kube_rights import BY_NAME, JOB, JOB_BEYOND, PULLS, Right, bound, denied
from .object_guard import MARK as OURS_ON_A_NODE

RUN_OF: Final = "blackstart/drill"  # the annotation that names the run
MARK: Final = "blackstart-drill"  # the label that tells the objects of one run from another's
FILES, RUNS = "/blackstart", "/blackstart-runs"
CLAIM: Final = "persistentVolumeClaim"
CONTAINER: Final = "drill"
KEPT_S = 600  # a Job that is over and was not fetched, for a look at why
LEAVE_S = 20.0  # for whoever follows to fetch the folder of a pod that is being ended
ANSWER_S, GONE_S, LOOK_S = 10.0, 60.0, 0.2
SLOWEST = 100_000  # bytes a second; what comes slower is asked for again
ROOM, RUNS_ROOM = "256Mi", "1Gi"
RESOURCES = {"requests": {"cpu": "250m", "memory": "192Mi"}, "limits": {"memory": "1Gi"}}
KEEPER = Path(drill_keeper.__file__)


class Order(NamedTuple):
    """What is to run: `files` by name, the command that drills with them, the least Role or Roles for it (as `kube_rights.roles`),
    `nodes` to stay away from. The pod is kept for `keep_s` after the drill, which lasts `longest_s` at most and undoes within `stop_s`.
    """

    image: str
    files: Mapping[str, str]
    command: Sequence[str]
    environment: Mapping[str, str]
    role: JSON
    nodes: Sequence[str]
    claim: str | None
    keep_s: float
    longest_s: float
    stop_s: float


def name_of(run: str) -> str:
    return f"blackstart-drill-{hashlib.sha256(run.encode()).hexdigest()[:12]}"


def drills_in(api: KubeApi, namespace: str) -> list[str]:
    """The runs that have a Job there, the newest last."""
    jobs, _ = api.items(place("jobs", namespace, group=BATCH), labels=f"{SELECTOR},{MARK}")
    return sorted(each["metadata"]["annotations"][RUN_OF] for each in jobs)


@dataclass
class DrillJob:
    """The one of that run. Not for two threads at once."""

    api: KubeApi
    namespace: str
    run: str
    _line: Session | None = None

    @property
    def name(self) -> str:
        return name_of(self.run)

    def refusals(self, role: JSON, claim: str | None) -> list[str]:
        """Why no Job that grants such rights can be made there by this login, in words."""
        beyond = JOB_BEYOND if len(_each(role)) > 1 else ()
        found = [f"{why}, which a drill by a Job there takes" for why in denied(self.api, self.namespace, (*JOB, *beyond))]
        granted: tuple[Right, ...] = (BY_NAME, PULLS)  # the rest was asked for the plan
        nobody = "and nobody can grant what he may not do himself; the drill's account needs it"
        found += [f"{why}, {nobody}" for why in denied(self.api, self.namespace, granted)]
        with suppress(Forbidden):
            if claim and self.api.there(place("persistentvolumeclaims", self.namespace, claim)) is None:
                found.append(f"there is no persistentvolumeclaim {claim} in namespace {self.namespace}")
        return found

    def begin(self, order: Order, given_up: Callable[[float], bool]) -> None:
        """Make it, and wait until its pod runs. Raises PlatformError, GivenUp, with nothing left of it."""
        try:
            job = self.api.create(place("jobs", self.namespace, group=BATCH), self._job(order))
            owner = {"apiVersion": BATCH, "kind": "Job", "name": self.name, "uid": job["metadata"]["uid"]}
            files = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": self._metadata(owner), "data": dict(order.files)}
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": self._metadata(owner)}
            self.api.create(place("configmaps", self.namespace), files)
            self.api.create(place("serviceaccounts", self.namespace), account)
            for role in _each(order.role):
                self._grant(role, owner)
            begin = {"op": "replace", "path": "/spec/suspend", "value": False}
            self.api.patch(place("jobs", self.namespace, self.name, BATCH), [begin])
            await_running(self._pods, f"the drill's pod (image {order.image})", self.namespace, given_up)
        except PlatformError:
            with suppress(PlatformError):  # the first problem is the one to tell
                self.end()
            raise

    def ask(self, question: JSON) -> JSON:
        """One question to the keeper in the pod, over a new connection where the last one was cut. Raises PlatformError."""
        try:
            if self._line is None:
                self._line = begin_python(self.api, self._container(), KEEPER.read_bytes(), ["reach"])
            self._line.send(json.dumps(question).encode() + b"\n")
            said = self._line.line(ANSWER_S)
            if said is None:
                raise Unavailable(f"the pod of {self} does not answer")
            answer: JSON = json.loads(said)
        except (PlatformError, ValueError) as error:  # ValueError: a line that was cut
            self.hang_up()
            raise error if isinstance(error, PlatformError) else Unavailable(f"the pod of {self} was cut off: {error}") from error
        return answer

    def hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with suppress(Exception):  # whatever a broken connection says when it is closed
                line.close()

    def fetch(self, folder: Path) -> bool:
        """The run's folder whole into that one, compared by size and digest; False: there is none. Raises PlatformError, OSError."""
        files = self.ask({"files": True})["files"]
        limit_s = EXEC_S + sum(size for size, _ in files.values()) / SLOWEST
        code, stream, errors = begin_python(self.api, self._container(), KEEPER.read_bytes(), ["tar"]).finish(limit_s)
        if code:
            raise PlatformError(f"the run's folder could not be read in the pod of {self}: {errors[-300:]}")
        came = _unpacked(stream, folder, set(files))
        if differing := [name for name, seen in files.items() if came.get(name) != tuple(seen)]:
            raise PlatformError(f"not as in the pod of {self}: {', '.join(differing)}")
        return bool(files)

    def lost(self) -> str:
        """Why nothing more comes from its pod, by the API server's own word; empty: it runs, or nobody can say."""
        with suppress(PlatformError):
            pods = self._pods()
            if not pods:
                return f"the pod of {self} is gone"
            if all(pod["status"].get("phase") in OVER for pod in pods):
                return f"the pod of {self} has ended: {why(pods[-1]).strip()}"
        return ""

    def exit_code(self) -> int | None:
        """Of the drill in a pod that has ended, where that is known."""
        with suppress(PlatformError, LookupError):
            statuses = {each["name"]: each["state"] for each in self._pods()[-1]["status"]["containerStatuses"]}
            return int(statuses[CONTAINER]["terminated"]["exitCode"])
        return None

    def claim(self) -> str | None:
        """On which its run's folder lies; None: on a volume of the pod's own, or nobody can say."""
        with suppress(PlatformError, LookupError):
            volumes = self._pods()[-1]["spec"]["volumes"]
            return next((str(each[CLAIM]["claimName"]) for each in volumes if CLAIM in each), None)
        return None

    def left(self) -> bool:
        """Whether the cluster keeps an undo record of the run: it may have left something. Raises PlatformError."""
        return bool(Records(self.api, self.namespace, ()).remembered(self.run))

    def end(self) -> None:
        """Remove all of it, as often as wished. Raises PlatformError."""
        self.hang_up()
        self.api.delete(place("jobs", self.namespace, self.name, BATCH))
        if not came(lambda: not self._pods(), GONE_S, Event(), LOOK_S):
            raise PlatformError(f"the pod of {self} is not gone; the cluster removes it with its Job")
        for kind in ("clusterrolebindings", "clusterroles"):
            with suppress(Forbidden):  # who may not has made none
                self.api.delete(place(kind, name=self.name, group=RBAC))
        for kind in ("rolebindings", "roles"):
            self.api.delete(place(kind, self.namespace, self.name, RBAC))
        for kind in ("serviceaccounts", "configmaps"):
            self.api.delete(place(kind, self.namespace, self.name))

    def __str__(self) -> str:
        return f"job/{self.name} in namespace {self.namespace}"

    def _pods(self) -> list[JSON]:
        return self.api.items(place("pods", self.namespace), labels=f"{MARK}={self.name}")[0]

    def _container(self) -> Container:
        pod = next((each for each in self._pods() if runs(each)), None)
        if pod is None:
            raise PlatformError(f"no pod of {self} runs")
        return Container(self.namespace, pod["metadata"]["name"], CONTAINER)

    # --- what it is made of ---

    def _metadata(self, owner: JSON | None) -> JSON:
        """Of an object in the service's namespace, or of one in none, which nothing there can own."""
        meta = {"name": self.name, "labels": {**OURS, MARK: self.name}, "annotations": {RUN_OF: self.run}}
        if owner is None:
            return meta
        return {**meta, **({} if owner["kind"] == "ClusterRole" else {"namespace": self.namespace}), "ownerReferences": [owner]}

    def _grant(self, role: JSON, owner: JSON) -> None:
        """The binding of a ClusterRole belongs to it, and so goes with it."""
        beyond = role["kind"] == "ClusterRole"
        named = {**role, "metadata": self._metadata(None if beyond else owner)}
        (where, role), (there, binding) = bound(named, self.name, self.namespace)
        made = self.api.create(where, role)
        if beyond:
            of = {"apiVersion": RBAC, "kind": "ClusterRole", "name": self.name, "uid": made["metadata"]["uid"]}
            binding = {**binding, "metadata": self._metadata(of)}
        self.api.create(there, binding)

    def _job(self, order: Order) -> JSON:
        meta = self._metadata(None)
        spec = {
            "suspend": True,
            "backoffLimit": 0,  # a drill that died is not begun again by itself
            "activeDeadlineSeconds": math.ceil(order.longest_s + order.keep_s),
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {
                "metadata": {"labels": meta["labels"], "annotations": meta["annotations"]},
                "spec": self._pod(order),
            },
        }
        return {"apiVersion": BATCH, "kind": "Job", "metadata": {**meta, "namespace": self.namespace}, "spec": spec}

    def _pod(self, order: Order) -> JSON:
        request = {
            "command": list(order.command),
            "folder": f"{RUNS}/{self.run}",
            "keep_s": order.keep_s,
            "leave_s": LEAVE_S,
            "beyond": self.name if len(_each(order.role)) > 1 else None,
        }
        environment = {"HOME": TMP, "BLACKSTART_STATE_DIR": f"{TMP}/state", KNOWN_AS: self.api.context, **order.environment}
        runs_on = {CLAIM: {"claimName": order.claim}} if order.claim else {"emptyDir": {"sizeLimit": RUNS_ROOM}}
        container = {
            "workingDir": TMP,
            "env": [{"name": name, "value": value} for name, value in environment.items()],
            "resources": RESOURCES,
            "volumeMounts": [{"name": "files", "mountPath": FILES, "readOnly": True}, {"name": "runs", "mountPath": RUNS}],
        }
        return own_pod(
            CONTAINER,
            order.image,
            packed(KEEPER.read_bytes(), "keep", json.dumps(request)),
            ROOM,
            container,
            volumes=[{"name": "files", "configMap": {"name": self.name}}, {"name": "runs", **runs_on}],
            serviceAccountName=self.name,
            automountServiceAccountToken=True,
            terminationGracePeriodSeconds=math.ceil(order.stop_s),
            tolerations=[{"operator": "Exists", "effect": "NoExecute", "key": OURS_ON_A_NODE}],
            affinity=away(order.nodes),
        )


def _each(role: JSON) -> list[JSON]:
    """The Roles of which `kube_rights.roles` made one or a List."""
    return list(role.get("items") or [role])


def _unpacked(stream: bytes, folder: Path, names: set[str]) -> dict[str, tuple[int, str]]:
    """Just these files of a tar stream, written into a folder: their sizes and digests as they were read back."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(stream), mode="r|") as archive:
            for each in archive:
                outside = Path(each.name).is_absolute() or ".." in Path(each.name).parts
                content = archive.extractfile(each) if each.isfile() and each.name in names and not outside else None
                if content is not None:
                    path = folder / each.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
                    found[each.name] = (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    except tarfile.TarError as error:
        raise PlatformError(f"what came from the pod is no tar stream: {error}") from error
    return found
