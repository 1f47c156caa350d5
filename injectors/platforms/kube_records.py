"""What blackstart keeps in the cluster while it drills: a Lease on each workload, and the record by which anybody can undo.

The record is a ConfigMap with the run's inputs and its journal up to the injection, written before each injection: with it, a
machine that has nothing but a kubeconfig has the whole of the run's folder. All objects carry the label `managed-by: blackstart`.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ..values import JSON
from .base import Busy, PlatformError
from .kube_api import Conflict, KubeApi, NotThere, place

OURS = {"app.kubernetes.io/managed-by": "blackstart"}
SELECTOR = "app.kubernetes.io/managed-by=blackstart"
RUN, WORKLOADS = "blackstart/run", "blackstart/workloads"
LEASES = "coordination.k8s.io/v1"
LEASE_S, RENEW_S = 30, 8.0


def lease_of(workload: str) -> str:
    """The name of a workload's Lease."""
    return f"blackstart-{workload.replace('/', '-')}"


def name_of(run: str) -> str:
    return f"blackstart-{hashlib.sha256(run.encode()).hexdigest()[:12]}"


@dataclass
class Records:
    """Of one service: `workloads` as `deployment/llm`."""

    api: KubeApi
    namespace: str
    workloads: Sequence[str]
    holder: str = ""
    lost: str = ""  # who has taken a workload from us, in words
    _over: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    def hold(self, holder: str, patience_s: float) -> None:
        """Take the Lease on every workload, and renew it until `release`. Raises Busy, naming who holds one.

        A holder that is dead loses it within 30 s; `patience_s` says whether to wait for that.
        """
        taken: list[str] = []
        try:
            for workload in self.workloads:
                self._take(workload, holder, patience_s)
                taken.append(workload)
        except PlatformError:
            for workload in taken:
                self._drop(workload, holder)
            raise
        self.holder = holder
        self._keeper = threading.Thread(target=self._renew, name="service lease", daemon=True)
        self._keeper.start()

    def left_by(self) -> list[str]:
        """Runs whose record is still here: they may have left something on these workloads."""
        return [run for run, _ in _records(self.api, place("configmaps", self.namespace), set(self.workloads))]

    def remember(self, run: str, files: Sequence[Path]) -> None:
        """Keep these files in the cluster; they are there when this returns."""
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name_of(run),
                "namespace": self.namespace,
                "labels": OURS,
                "annotations": {RUN: run, WORKLOADS: " ".join(self.workloads)},
            },
            "data": {path.name: path.read_text(encoding="utf-8") for path in files},
        }
        try:
            self.api.create(place("configmaps", self.namespace), body)
        except Conflict:
            self.api.replace(place("configmaps", self.namespace, name_of(run)), body)

    def remembered(self, run: str) -> Mapping[str, str]:
        """The files of that run that are kept here; none when it is not known."""
        found = self.api.there(place("configmaps", self.namespace, name_of(run)))
        files: Mapping[str, str] = (found or {}).get("data") or {}
        return files

    def forget(self, run: str) -> None:
        """All that the run did is undone, and that was proven."""
        self.api.delete(place("configmaps", self.namespace, name_of(run)))

    def release(self) -> None:
        """Let go of the workloads."""
        self._over.set()
        if self._keeper:
            self._keeper.join()
            self._keeper = None
        for workload in self.workloads if self.holder else ():
            with suppress(PlatformError):  # it runs out by itself
                self._drop(workload, self.holder)
        self.holder = ""

    def _path(self, workload: str) -> str:
        return place("leases", self.namespace, lease_of(workload), LEASES)

    def _take(self, workload: str, holder: str, patience_s: float) -> None:
        waited = 0.0
        while True:
            found = self.api.there(self._path(workload))
            try:
                if found is None:
                    self.api.create(place("leases", self.namespace, "", LEASES), self._lease(workload, holder))
                    return
                if not _valid(found) or found["spec"].get("holderIdentity") == holder:
                    self.api.replace(self._path(workload), {**found, "spec": self._lease(workload, holder)["spec"]})
                    return
                busy = f"{workload} in namespace {self.namespace} is being drilled by {found['spec'].get('holderIdentity')}"
            except NotThere as error:
                raise PlatformError(f"there is no namespace {self.namespace} (context {self.api.context})") from error
            except Conflict:  # somebody else was quicker: look again
                busy = f"{workload} in namespace {self.namespace} is being taken by somebody else"
            if waited >= patience_s:
                raise Busy(busy)
            self._over.wait(1.0)
            waited += 1.0

    def _lease(self, workload: str, holder: str) -> JSON:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "apiVersion": LEASES,
            "kind": "Lease",
            "metadata": {"name": lease_of(workload), "namespace": self.namespace, "labels": OURS},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": LEASE_S, "acquireTime": now, "renewTime": now},
        }

    def _drop(self, workload: str, holder: str) -> None:
        found = self.api.there(self._path(workload))
        if found and found["spec"].get("holderIdentity") == holder:
            self.api.delete(self._path(workload), uid=found["metadata"]["uid"])

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            for workload in self.workloads:
                with suppress(PlatformError):  # tried again in a moment; meanwhile it is valid
                    self._renew_one(workload)

    def _renew_one(self, workload: str) -> None:
        """By the version that was read, so that it never takes back what somebody else took while this machine slept."""
        found, mine = self.api.there(self._path(workload)), self._lease(workload, self.holder)
        if found is None:
            self.api.create(place("leases", self.namespace, "", LEASES), mine)
        elif found["spec"].get("holderIdentity") != self.holder:
            self.lost = f"{workload} in namespace {self.namespace} was taken over by {found['spec'].get('holderIdentity')}"
        else:
            spec = {**found["spec"], "renewTime": mine["spec"]["renewTime"]}
            self.api.replace(self._path(workload), {**found, "spec": spec})


def _valid(lease: JSON) -> bool:
    """Whether its holder still renews it. Clocks of two machines may differ by some seconds, and then it is held a little longer."""
    spec = lease["spec"]
    renewed = datetime.fromisoformat(spec["renewTime"].replace("Z", "+00:00"))
    return (datetime.now(UTC) - renewed).total_seconds() < float(spec.get("leaseDurationSeconds", LEASE_S))


def _records(api: KubeApi, path: str, workloads: set[str]) -> Iterator[tuple[str, JSON]]:
    for found in api.items(path, labels=SELECTOR)[0]:
        about = found["metadata"].get("annotations") or {}
        if RUN in about and (not workloads or workloads & set(about[WORKLOADS].split())):
            yield about[RUN], found


def everywhere(api: KubeApi) -> dict[str, tuple[str, JSON]]:
    """Every record in the cluster: run -> its namespace, and file name -> content."""
    return {run: (found["metadata"]["namespace"], found["data"]) for run, found in _records(api, place("configmaps"), set())}
