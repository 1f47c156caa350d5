"""Changes to a cluster's own objects, each under a guard (object_guard.py): a Job that runs beside the service before anything is
changed, under a ServiceAccount that may put back exactly these objects, and nothing else.

All that a guard is made of carries one name, the labels of blackstart, and is removed when its changes are undone.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from ..values import JSON
from . import object_guard
from .base import PlatformError, Unavailable, Unsupported, came
from .kube_api import ApiError, Forbidden, KubeApi, place
from .kube_own_pods import BATCH, own_pod, packed, why
from .kube_pods import ready
from .kube_records import LEASES, OURS, RUN, SELECTOR, lease_of
from .kube_rights import bound
from .object_guard import MARK, MOVED_ON, VERSION, Answer, MovedOn, at, digest_of, pointer, restored, revert

ARMED_S, GONE_S, LOOK_EVERY_S = 90.0, 60.0, 0.25  # an image may have to be pulled
SILENCE_S = 45.0
RBAC = "rbac.authorization.k8s.io/v1"
TRIES = 20
KEPT = "blackstart-kept-"  # how the Secrets begin in which values are that were changed


@dataclass
class Guards:
    """Begins and ends changes. `image`: any with python3; None: the service file names none."""

    api: KubeApi
    namespace: str
    image: str | None
    given_up: Event

    def needed(self) -> str:
        """The image. Raises Unsupported where there is none."""
        if self.image is None:
            raise Unsupported(
                "a guard beside the service has to be able to put it back; name any image with python3: probe.image"
            )
        return self.image

    def begin(self, fault: str, changes: Sequence[JSON], workload: str, deadline_s: float, nodes: Sequence[str] = ()) -> None:
        """Put a guard there, and once it is armed make the changes. It watches the Lease of that workload.

        `fault` may have a part of its own behind a `/`. `nodes`: where the guard must not run, if it can be helped.
        """
        if not changes:
            return
        name = name_of(fault)
        lease_path = place("leases", self.namespace, lease_of(workload), LEASES)
        now_s = self.api.dated("GET", lease_path)[1]
        request = {
            "changes": [{key: value for key, value in change.items() if key != "body"} for change in changes],
            "lease": lease_path,
            "holder": run_of(fault),
            "until": now_s + deadline_s,
            "silence_s": SILENCE_S,
        }
        for path, body in self._parts(name, changes, lease_path):
            self.api.create(path, body)
        self.api.create(place("jobs", self.namespace, group=BATCH), self._job(name, request, nodes))
        self._await_armed(name)
        for change in changes:
            self._make(change)
        if gone := self.unguarded(fault):  # while this machine slept, say: what it has changed is undone now
            raise PlatformError(gone)

    def unguarded(self, fault: str) -> str:
        """Why nobody would put the changes back now; empty: an armed guard would."""
        name = name_of(fault)
        return "" if any(map(ready, self._pods(name))) else f"the guard is not there any more: {self._why_not(name)}"

    def end(self, fault: str, changes: Sequence[JSON]) -> JSON:
        """Undo the changes, the latest first, from any process and as often as wished; then the guard goes. Raises PlatformError."""
        answers: list[JSON] = []
        problems = []
        for change in reversed(changes):  # one that cannot be put back keeps no other from it
            try:
                answers.insert(0, revert(change, self._ask))
            except (object_guard.Failed, PlatformError) as error:
                problems.append(error)
        if problems:
            raise problems[0] if isinstance(problems[0], PlatformError) else PlatformError("; ".join(map(str, problems)))
        self._remove(name_of(fault), beyond=any("/namespaces/" not in change["object"] for change in changes))
        first = answers[0] if answers else {"event": "undone", "reason": "nothing was changed"}
        return {**next((each for each in answers if each["event"] == "foreign"), first), "each": answers}

    def abandon(self, run: str) -> None:
        """Remove every guard of that run, which puts back first what it still holds. Copies of values stay: there may be no other."""
        for each in self.api.items(place("jobs", self.namespace, group=BATCH), labels=SELECTOR)[0]:
            if (each["metadata"].get("annotations") or {}).get(RUN) == run:
                self._remove(each["metadata"]["name"], beyond=False)
                with suppress(Forbidden):  # who may not has made none there
                    self._remove(each["metadata"]["name"], beyond=True)

    def seen(self, change: JSON) -> bool:
        """Whether it is there, by the API server's word."""
        found = self.api.there(change["object"])
        if found is None or change["how"] == "object":
            return found is not None
        value = at(found, change["path"])
        if change["how"] == "value":
            return bool(found["metadata"]["uid"] == change["uid"] and digest_of(value) == change["ours"])
        if change["how"] == "field":
            return bool(found["metadata"]["uid"] == change["uid"] and value == change["ours"])
        return any(change["item"].items() <= entry.items() for entry in value or [])

    def _make(self, change: JSON) -> None:
        """Only where it is still as it was when that was planned, and only if what comes of it is just what is ours."""
        if change["how"] == "object":
            self.api.create(change["object"].rpartition("/")[0], change["body"])
            return
        was = self._keep(change) if change["how"] == "value" else None
        try:
            self._patch(change)
        finally:  # also where its answer was lost
            if was is not None:
                self._assure_kept(change, was)

    def _patch(self, change: JSON) -> None:
        for left in reversed(range(TRIES)):
            found = self.api.get(change["object"])
            try:
                operations = _operations(change, found)
                made = self.api.patch(f"{change['object']}?dryRun=All", operations)
                if change["how"] == "field" and (now := at(made, change["path"])) != change["ours"]:
                    raise Unsupported(f"admission makes {now} of {change['ours']} in {change['object']}")
                self.api.patch(change["object"], operations)
            except ApiError as error:
                if error.status not in MOVED_ON or not left:
                    raise
            else:
                return

    def _keep(self, change: JSON) -> str:
        """What a value is before it is changed, in a Secret of ours; also returned, as the API has it."""
        found = self.api.get(change["object"])
        value: str = at(found, change["path"])
        home, _, name = change["kept"].rpartition("/")
        meta = {**self._meta(name), "annotations": {MARK: change["mark"], VERSION: found["metadata"]["resourceVersion"]}}
        self.api.create(home, {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"value": value}})
        return value

    def _assure_kept(self, change: JSON, was: str) -> None:
        """A guard that ended while this machine slept found all as before, and took the copy away: then `was` goes back at once."""
        limit = time.monotonic() + GONE_S
        while True:
            try:
                if self.api.there(change["kept"]):
                    return
                if self.seen(change):
                    restored(change, change["body"], was, self._ask)
                break
            except (MovedOn, object_guard.Failed, Unavailable) as error:
                if time.monotonic() >= limit:
                    raise PlatformError(f"what {change['object']} was, {change['kept']}, may be gone: {error}") from error
                time.sleep(LOOK_EVERY_S)
        raise PlatformError(f"the guard was over before {change['object']} was changed; it does not have our value any more")

    def _ask(self, method: str, path: str, body: Any) -> Answer:
        try:
            return Answer(200, *self.api.dated(method, path, body))
        except ApiError as error:
            return Answer(error.status, {"message": str(error)}, 0.0)

    # --- what a guard is made of ---

    def _parts(self, name: str, changes: Sequence[JSON], lease_path: str) -> list[tuple[str, JSON]]:
        """Its account, and the rights to put back what is changed: a Role, and a ClusterRole for what lies in no namespace."""
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": self._meta(name),
            "automountServiceAccountToken": False,
        }
        parts = [(place("serviceaccounts", self.namespace), account)]
        inside = [change["object"] for change in changes if "/namespaces/" in change["object"]]
        inside += [change["kept"] for change in changes if "kept" in change]
        beyond = [change["object"] for change in changes if "/namespaces/" not in change["object"]]
        parts += self._grant(name, "Role", [*inside, lease_path], self.namespace)
        return parts + (self._grant(name, "ClusterRole", beyond, "") if beyond else [])

    def _grant(self, name: str, kind: str, objects: Sequence[str], namespace: str) -> list[tuple[str, JSON]]:
        rules = [_rule(path) for path in dict.fromkeys(objects)]
        role: JSON = {"apiVersion": RBAC, "kind": kind, "metadata": self._meta(name, namespace), "rules": rules}
        return bound(role, name, self.namespace)

    def _meta(self, name: str, namespace: str | None = None) -> JSON:
        where = self.namespace if namespace is None else namespace
        return {"name": name, "labels": OURS, **({"namespace": where} if where else {})}

    def _job(self, name: str, request: JSON, nodes: Sequence[str]) -> JSON:
        container = {
            "readinessProbe": {"exec": {"command": ["cat", object_guard.ARMED]}, "periodSeconds": 1, "timeoutSeconds": 2},
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        }
        pod = own_pod(
            "guard",
            self.needed(),
            packed(Path(object_guard.__file__).read_bytes(), json.dumps(request)),
            "1Mi",
            container,
            serviceAccountName=name,
            automountServiceAccountToken=True,
            restartPolicy="OnFailure",
            terminationGracePeriodSeconds=20,
            tolerations=[{"operator": "Exists", "effect": "NoExecute", "key": MARK}],
            affinity=away(nodes),
        )
        alone = {"sidecar.istio.io/inject": "false"}  # a proxy that ends first would cut its last words off
        template = {"metadata": {"labels": {**OURS, **alone, "blackstart-guard": name}}, "spec": pod}
        spec = {"backoffLimit": TRIES, "template": template}
        meta = {**self._meta(name), "annotations": {RUN: request["holder"]}}
        return {"apiVersion": BATCH, "kind": "Job", "metadata": meta, "spec": spec}

    def _pods(self, name: str) -> list[JSON]:
        return self.api.items(place("pods", self.namespace), labels=f"blackstart-guard={name}")[0]

    def _await_armed(self, name: str) -> None:
        if not came(lambda: any(map(ready, self._pods(name))), ARMED_S, self.given_up, LOOK_EVERY_S):
            raise PlatformError(f"the guard is not armed after {ARMED_S:g} s: {self._why_not(name)}")

    def _why_not(self, name: str) -> str:
        pods = self._pods(name)
        return why(pods[-1]) if pods else "its Job has no pod; quotas or admission may forbid it"

    def _remove(self, name: str, *, beyond: bool) -> None:
        """Its rights last: until it has ended it may want to look. `beyond`: it had some beyond the namespace."""
        self.api.delete(place("jobs", self.namespace, name, BATCH))
        if not came(lambda: not self._pods(name), GONE_S, self.given_up, LOOK_EVERY_S):
            raise PlatformError(f"the guard's pods in namespace {self.namespace} have not ended after {GONE_S:g} s")
        for kind in ("clusterrolebindings", "clusterroles") if beyond else ():
            self.api.delete(place(kind, name=name, group=RBAC))
        for kind in ("rolebindings", "roles"):
            self.api.delete(place(kind, self.namespace, name, RBAC))
        self.api.delete(place("serviceaccounts", self.namespace, name))


def run_of(fault: str) -> str:
    return fault.partition("/")[0].rpartition(".")[0]


def name_of(fault: str) -> str:
    return f"blackstart-guard-{hashlib.sha256(fault.encode()).hexdigest()[:12]}"


def _operations(change: JSON, found: JSON) -> list[JSON]:
    """The patch that makes a change of what was just read. Raises PlatformError where somebody has changed it since the plan."""
    path, meta = change["path"], found["metadata"]
    value = at(found, path)
    same = [{"op": "test", "path": f"/metadata/{key}", "value": meta[key]} for key in ("uid", "resourceVersion")]
    seen = digest_of(value) if change["how"] == "value" else value
    if meta["uid"] != change["uid"] or ("before" in change and seen != change["before"]):
        raise PlatformError(f"{change['object']} has changed since it was planned")
    if change["how"] != "item":
        ours = change["body" if change["how"] == "value" else "ours"]
        return [*same, *_parents(found, path), {"op": "add", "path": pointer(path), "value": ours}]
    added = [change["item"]] if value is None else change["item"]
    return [
        *same,
        *_parents(found, path),
        {"op": "add", "path": pointer(path if value is None else [*path, "-"]), "value": added},
    ]


def _parents(found: JSON, path: Sequence[Any]) -> list[JSON]:
    """Empty objects for what is missing on the way to a field: a JSON Patch adds nothing below nothing."""
    return [
        {"op": "add", "path": pointer(list(path[:depth])), "value": {}}
        for depth in range(1, len(path))
        if at(found, list(path[:depth])) is None
    ]


def _rule(path: str) -> JSON:
    """The rights that putting one object back takes. A Lease is only looked at."""
    group, _, rest = (
        path.removeprefix("/apis/").partition("/") if path.startswith("/apis/") else ("", "", path.removeprefix("/api/"))
    )
    *_, resource, name = rest.split("/")
    verbs = {"leases": ["get"], "networkpolicies": ["get", "delete"]}.get(resource, ["get", "patch"])
    verbs = ["get", "delete"] if name.startswith(KEPT) else verbs
    return {"apiGroups": [group], "resources": [resource], "resourceNames": [name], "verbs": verbs}


def away(nodes: Sequence[str]) -> JSON:
    """The affinity of a pod that runs elsewhere than on these nodes, if it can be helped."""
    if not nodes:
        return {}
    term = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": list(nodes)}]}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": term}]}}
