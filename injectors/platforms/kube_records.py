"""What blackstart keeps in the cluster while it drills: a Lease on each workload, and the record by which anybody can undo.

The record is a ConfigMap with the run's inputs and its journal up to the injection, written before each injection: with it, a
machine that has nothing but a kubeconfig has the whole of the run's folder. All objects carry the label `managed-by: blackstart`.
"""

import hashlib
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ..values import JSON
from .base import Busy, PlatformError
from .kube_api import Conflict, Forbidden, KubeApi, NotThere, place

OURS = {"app.kubernetes.io/managed-by": "blackstart"}
SELECTOR = "app.kubernetes.io/managed-by=blackstart"
RUN, WORKLOADS = "blackstart/run", "blackstart/workloads"
LEASES = "coordination.k8s.io/v1"
LEASE_S, RENEW_S, LOOK_S = 15, 4.0, 1.0  # the first as in client-go's leader election


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

    def hold(self, holder: str, patience_s: float, dead: str = "") -> None:
        """Take the Lease on every workload, and renew it until `release`. Raises Busy, naming who holds one.

        A holder is dead when its Lease has not changed for 15 s while we looked, as in client-go's leader election: clocks of
        two machines are never held against each other. `patience_s` says how long to look; one that seems old is looked at so long.
        What the holder `dead` has is taken at once.
        """
        began, watches = time.monotonic(), {workload: _Watch() for workload in self.workloads}
        while busy := self._held({holder, dead}, watches) or self._take_all(holder, watches):
            if time.monotonic() - began >= max(patience_s, *(each.worth_s for each in watches.values())):
                raise Busy(busy)
            self._over.wait(LOOK_S)
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

    def _held(self, ours: Collection[str], watches: Mapping[str, "_Watch"]) -> str:
        """Who holds a workload and may live; empty: nobody."""
        busy = ""
        for workload, watch in watches.items():
            watch.lease = self.api.there(self._path(workload))
            if watch.may_live(ours):
                busy = busy or f"{workload} in namespace {self.namespace} is being drilled by {watch.holder}"
        return busy

    def _take_all(self, holder: str, watches: Mapping[str, "_Watch"]) -> str:
        """Takes all workloads as they were seen, or none where somebody else was quicker with one, which it names."""
        taken: list[str] = []
        try:
            for workload, watch in watches.items():
                mine = self._lease(workload, holder)
                if watch.lease is None:
                    self.api.create(place("leases", self.namespace, "", LEASES), mine)
                else:
                    self.api.replace(self._path(workload), {**watch.lease, "spec": mine["spec"]})
                taken.append(workload)
        except PlatformError as error:
            for each in taken:
                self._drop(each, holder)
            if isinstance(error, NotThere):
                raise PlatformError(f"there is no namespace {self.namespace} (context {self.api.context})") from error
            if not isinstance(error, Conflict):
                raise
            return f"{workload} in namespace {self.namespace} is being taken by somebody else"
        return ""

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


@dataclass
class _Watch:
    """What was seen of the Lease on one workload."""

    lease: JSON | None = None  # as it was last
    holder: str = ""
    worth_s: float = 0.0  # so long it is looked at, although nobody said that there is time: it seems dead
    _renewed: str = ""
    _since: float = 0.0

    def may_live(self, ours: Collection[str]) -> bool:
        """Whether somebody else than these has it, who may still renew it."""
        if self.lease is None:
            return False
        spec = self.lease["spec"]
        self.holder = spec.get("holderIdentity") or ""
        if self.holder in {"", *ours}:
            return False
        now = time.monotonic()
        if spec["renewTime"] != self._renewed:
            seems_dead = not self._renewed and _age_s(spec["renewTime"]) > LEASE_S
            self._renewed, self._since, self.worth_s = spec["renewTime"], now, 2.0 * LEASE_S if seems_dead else 0.0
        return now - self._since < float(spec.get("leaseDurationSeconds", LEASE_S))


def _age_s(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment.replace("Z", "+00:00"))).total_seconds()


def _records(api: KubeApi, path: str, workloads: set[str]) -> Iterator[tuple[str, JSON]]:
    for found in api.items(path, labels=SELECTOR)[0]:
        about = found["metadata"].get("annotations") or {}
        if RUN in about and (not workloads or workloads & set(about[WORKLOADS].split())):
            yield about[RUN], found


def everywhere(api: KubeApi) -> tuple[dict[str, tuple[str, JSON]], str]:
    """Every record in the cluster: run -> its namespace, and file name -> content.

    A login that may not look everywhere looks in its own namespace, which is then the second value.
    """
    try:
        found, only = list(_records(api, place("configmaps"), set())), ""
    except Forbidden:
        found, only = list(_records(api, place("configmaps", api.namespace), set())), api.namespace
    return {run: (record["metadata"]["namespace"], record["data"]) for run, record in found}, only
