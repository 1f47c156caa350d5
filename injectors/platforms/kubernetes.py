"""Services in a Kubernetes cluster (`platform: kubernetes`).

A target is a pod by its UID, under the name of its slot (kube_find.py), or a process inside one. What needs no more than the API is
done by it; what happens inside a pod is done by an agent in the victim's container, started by `exec`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import ClassVar

from ..values import JSON
from . import Where
from .base import Means, PlatformError, Target, Unavailable, Unsupported, came
from .kube_agents import PodAgents, look, process_of
from .kube_api import Forbidden, KubeApi, place
from .kube_drills import DrillJob
from .kube_files import PodFiles
from .kube_find import Finder, container_of
from .kube_gpu import GpuPods
from .kube_guard import Guards
from .kube_inline import InlineProxies
from .kube_isolation import NodeCuts
from .kube_links import PolicyLinks
from .kube_objects import ClusterObjects
from .kube_outpost import PodOutposts
from .kube_pods import parts_of, runs
from .kube_records import Records
from .kube_rights import BY_NAME, PULLS, denied, needed, roles
from .kube_rooms import VolumePods
from .kube_secrets import ClusterSecrets
from .kube_watch import Watched, Watcher

STAND_LIMIT_S = 120.0  # for a replacement to be scheduled and its containers to run; an image may have to be pulled
LOOK_EVERY_S = 0.25


class KubernetesPlatform(PodFiles, PolicyLinks, Watched):
    """One service in one cluster."""

    name: ClassVar[str] = "kubernetes"
    witness: ClassVar[str] = "pods by UID from the API server, processes from their container's /proc"

    def __init__(self, api: KubeApi, where: Where) -> None:
        super().__init__(api)
        assert where.kubernetes is not None
        spec = self.spec = where.kubernetes
        self.inside_roles, self.protected, self.opt_in = dict(where.inside), where.protected, where.opt_in
        self.given_up = Event()
        self.finder = Finder(api, spec)
        self.agents = PodAgents(self.doors, self.given_up, self._container, self._siblings)
        self.watcher = Watcher(api, self.finder)
        self.guards = Guards(api, spec.namespace, where.image, self.given_up)
        self.inline = InlineProxies(api, self.agents, where.image, self.given_up)
        self.beside_accelerators = GpuPods(api, self.finder, self.agents, where.image, self.given_up, where.privilege)
        self.slow_site = VolumePods(api, self.finder, self.agents, where.image, self.given_up, where.privilege)
        self.objects = ClusterObjects(api, self.finder, self.guards, where.protected)
        self.secrets = ClusterSecrets(api, self.finder, self.guards)
        self.isolation = NodeCuts(api, self.finder, where.image, where.protected, self.given_up)
        self.outposts = PodOutposts(api, spec.namespace, self.given_up)
        self.records = Records(api, spec.namespace, [spec.workload, *(each.workload for each in spec.components)])

    def close(self) -> None:
        self.records.release()
        self.watcher.close()
        self.agents.close()
        self.api.close()

    # --- looking ---

    @property
    def context(self) -> str | None:
        return None if self.api.context == "in-cluster" else self.api.context

    @property
    def place(self) -> str:
        return f"namespace {self.spec.namespace} of context {self.api.context} ({self.api.server})"

    def remarks(self) -> list[str]:
        return self.finder.budgets()

    def objections(self) -> list[str]:
        found = self.finder.not_opted_in(self.opt_in)
        if self.spec.namespace in self.protected:
            found.append(f"namespace {self.spec.namespace} is protected by the service file (protect.namespaces)")
        found += [
            f"{each.kind}/{each.name} is in the middle of a rollout: {why}"
            for each in self.finder.owned()
            if (why := each.rollout)
        ]
        return found

    def denied(self, means: Means) -> list[str]:
        return denied(self.api, self.spec.namespace, needed(means))

    def role(self, name: str, means: Means) -> JSON:
        return roles(f"blackstart-{name}", self.spec.namespace, (*needed(means), BY_NAME, PULLS))

    def find(self) -> tuple[Target, ...]:
        found = self.finder.all()
        self.watcher.begin_from(found)
        return found

    def recall(self, targets: tuple[Target, ...]) -> None:
        self.finder.recall(targets)

    def inside(self, target: Target, role: str) -> tuple[Target, ...]:
        if role not in self.inside_roles:
            known = ", ".join(self.inside_roles) or "none"
            raise Unsupported(f"the service file says of no role {role} how it is found inside a pod (`roles`); it has {known}")
        pattern, pod = re.compile(self.inside_roles[role]), self._pod(target)
        matching: dict[str, tuple[str, JSON]] = {}
        for container in [each["name"] for each in pod["spec"]["containers"]] if pod else []:
            with suppress(Unsupported):  # one without python3, a sidecar as a rule, has no process that could be hit
                around = look(self.api, container_of(target, container), "around", {})["processes"]
                for each in around:
                    if pattern.search(each["command"]):
                        matching.setdefault(each["identity"], (container, each))  # containers may share their processes
        found = []
        for number, (identity, (container, each)) in enumerate(matching.items()):
            name = f"{target.name}/{role}" if len(matching) == 1 else f"{target.name}/{role}-{number}"
            details = {"container": container, "command": each["command"], "component_role": target.role}
            found.append(Target(f"{target.identity}/{container}/{identity}", name, role, details))
        return tuple(found)

    def current(self, name: str) -> Target | None:
        slot, _, inner = name.partition("/")
        target = self.finder.one(slot)
        if target is None or not inner:
            return target
        role = next((role for role in self.inside_roles if inner == role or inner.startswith(f"{role}-")), inner)
        return next((found for found in self.inside(target, role) if found.name == name), None)

    def state(self, target: Target) -> str:
        """Of a pod: `running` when all its containers run, `starting` before; a deleted one is `gone` when its object is."""
        pod = self._pod(target)
        if pod is None:
            return "gone"
        if "/pid:" not in target.identity:
            return "running" if runs(pod) else "starting"
        where, process = container_of(target, target.details["container"]), process_of(target.identity)
        try:
            return str(look(self.api, where, "states", {"identities": [process]})["states"][process])
        except Unavailable:
            raise
        except PlatformError:
            if self._restarted(target, pod):
                return "gone"
            raise

    def _restarted(self, target: Target, pod: JSON) -> bool:
        """Whether the process's container does not run: what ran in it is gone."""
        statuses = (pod.get("status") or {}).get("containerStatuses") or []
        return any(each["name"] == target.details["container"] and "running" not in each["state"] for each in statuses)

    # --- lifecycle ---

    def whole(self, target: Target, number: int) -> str:
        del target, number
        return "is hit through the processes inside it; name theirs by `role`, e.g. role: engine"

    def signal(self, target: Target, number: int) -> None:
        if "/pid:" not in target.identity:
            raise Unsupported(
                f"{target.name} is a pod; only processes inside one can be signalled, and its first one ignores signals from inside"
            )
        process = process_of(target.identity)
        if process.startswith("pid:1@"):
            raise Unsupported(
                f"{target.name} is the first process of its container, which ignores signals from inside; use replica-kill"
            )
        look(self.api, container_of(target, target.details["container"]), "signal", {"identity": process, "number": int(number)})

    def kill(self, target: Target, grace_s: float = 0.0) -> None:
        """Delete the pod. Without a grace period its object is gone at once, its processes within two seconds."""
        namespace, name, uid = parts_of(target.identity)
        self.api.delete(place("pods", namespace, name), uid=uid, grace_s=math.ceil(grace_s))

    def started_s(self, target: Target) -> float | None:
        pod = self._pod(target)
        statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or []
        moments = [each["state"]["running"]["startedAt"] for each in statuses if "running" in each["state"]]
        return min((datetime.fromisoformat(moment).timestamp() for moment in moments), default=None)

    def restart(self, target: Target) -> None:
        """Delete it with its own grace period, and wait until its replacement's containers run."""
        if not self.revivable(target.name):
            raise Unsupported(f"nothing would start {target.name} again: it has no controller")
        namespace, name, uid = parts_of(target.identity)
        grace_s = float((self._pod(target) or {}).get("spec", {}).get("terminationGracePeriodSeconds") or 0)
        self.api.delete(place("pods", namespace, name), uid=uid)
        if not came(lambda: self._replaced(target), STAND_LIMIT_S + grace_s, self.given_up, LOOK_EVERY_S):
            raise PlatformError(f"there is no running pod in place of {name} after {STAND_LIMIT_S + grace_s:g} s")

    def _replaced(self, target: Target) -> bool:
        now = self.finder.one(target.name)
        stands = now is not None and now.identity != target.identity and self.state(now) == "running"
        return stands and self.state(target) == "gone"  # a Deployment's replacement is there long before the old pod has drained

    def revive(self, name: str) -> None:
        """Its controller does."""

    def revivable(self, name: str) -> bool:
        """Whether a workload that wants it controls it."""
        slot = name.partition("/")[0]
        return any(target.name == slot for target in self.finder.all()) or slot in self.finder.slots

    # --- what is remembered in the cluster ---

    def hold(self, holder: str, patience_s: float, dead: str = "") -> None:
        self.records.hold(holder, patience_s, dead)

    def left_by(self) -> list[str]:
        return self.records.left_by()

    def lost(self) -> str:
        return self.records.lost

    def vanished(self) -> str:
        """Pods and their volumes go with their namespace; a login that may not look at namespaces takes none for gone."""
        with suppress(Forbidden):
            if self.api.there(place("namespaces", name=self.spec.namespace)) is None:
                return f"namespace {self.spec.namespace} is gone from context {self.api.context}"
        return ""

    def fingerprint(self) -> str:
        return str(self.finder.owned()[0].workload["metadata"]["uid"])

    def remembered(self, run: str) -> Mapping[str, str]:
        return self.records.remembered(run)

    def remember(self, run: str, files: Sequence[Path]) -> None:
        self.records.remember(run, files)

    def forget(self, run: str) -> None:
        self.records.forget(run)

    def abandon(self, run: str) -> None:
        problems = []
        for given_up in (
            self.records.forget,
            self.guards.abandon,
            self.isolation.abandon,
            self.beside_accelerators.abandon,
            self.slow_site.abandon,
        ):
            try:
                given_up(run)
            except PlatformError as problem:  # as where a login may not look for one of them; the others may be there
                problems.append(problem)
        if problems:
            raise problems[0]

    def sweep(self, run: str) -> None:
        with suppress(PlatformError):  # the cluster removes it later, and who may not has made none
            job = DrillJob(self.api, self.spec.namespace, run)
            if job.lost():
                job.end()

    def start_missing(self) -> tuple[str, ...]:
        return ()

    def started(self) -> tuple[str, ...]:
        return ()

    def stop_started(self) -> None:
        """Nothing is started here."""

    # --- agents ---

    def agent_begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON:
        return self.agents.begin(fault, target, verb, parameters, deadline_s)

    def agent_end(self, fault: str, target: Target, beside: Sequence[str] = ()) -> JSON:
        """Where the pod was replaced, what its volumes kept is undone from the pod that stands in its place."""
        now = target if self._pod(target) else self.finder.one(target.name.partition("/")[0])
        return self.agents.end(fault, target, now, beside)

    def address(self, service: str, port: int) -> str:
        return self.finder.address(service, port)
