"""Values of Secrets as things that a fault can change: told by digests alone, so that no record holds what is secret. What a value was lies
in another Secret of ours, from before the change until it is put back.
"""

import base64
import secrets
from collections.abc import Callable, Mapping, Sequence

from ..values import JSON
from .base import PlatformError, Target, Unsupported
from .kube_api import KubeApi, place
from .kube_find import Finder, standing_pod
from .kube_guard import KEPT, Guards
from .kube_pods import is_ending, owner_of, secret_of, uses_secret
from .object_guard import at, digest_of

Change = Callable[[bytes], bytes]


class ClusterSecrets:
    """Of one service."""

    def __init__(self, api: KubeApi, finder: Finder, guards: Guards) -> None:
        self.api, self.finder, self.guards = api, finder, guards

    def behind(self, targets: Sequence[Target], paths: Mapping[str, str], changed: Change) -> list[JSON]:
        self.guards.needed()
        found: dict[tuple[str, str], JSON] = {}
        for target in targets:
            path, pod = paths[target.name], standing_pod(self.api, target)
            name, key = secret_of(pod, target.details["container"], path)
            if not key:
                raise Unsupported(
                    f"{path} of {target.name} is no value of a Secret that the kubelet writes anew (a volume of kind secret, without "
                    "subPath); leave `secret` out"
                )
            if (name, key) not in found:
                found[name, key] = self._planned(name, key, changed)
                self._refuse_others(name, targets)
            found[name, key]["targets"].append(target.name)
        return list(found.values())

    def _planned(self, name: str, key: str, changed: Change) -> JSON:
        namespace = self.finder.spec.namespace
        thing = self.api.get(place("secrets", namespace, name))
        value = at(thing, ["data", key])
        if value is None:
            raise Unsupported(f"Secret {name} has no key {key}")
        if thing.get("immutable"):
            raise Unsupported(f"Secret {name} is immutable: nobody can change it, and a new one has another name")
        if owner_of(thing):
            raise Unsupported(
                f"a controller keeps Secret {name} as it wants it, and would put it back; change it where that has it from"
            )
        return {
            "how": "value",
            "object": place("secrets", namespace, name),
            "uid": thing["metadata"]["uid"],
            "path": ["data", key],
            "kept": place("secrets", namespace, f"{KEPT}{secrets.token_hex(6)}"),
            "before": digest_of(value),
            "ours": digest_of(_packed(changed, value)),
            "targets": [],
        }

    def _refuse_others(self, name: str, targets: Sequence[Target]) -> None:
        """Whoever else reads it would be hit as well."""
        mine = {standing_pod(self.api, each)["metadata"]["uid"] for each in targets}
        for pod in self.api.items(place("pods", self.finder.spec.namespace))[0]:
            if uses_secret(pod, name) and pod["metadata"]["uid"] not in mine and not is_ending(pod):
                raise Unsupported(
                    f"pod {pod['metadata']['name']} reads Secret {name} as well; make it a target, or give each its own Secret"
                )

    def begin(self, fault: str, changes: Sequence[JSON], changed: Change, deadline_s: float) -> None:
        whole = []
        for change in changes:
            value = at(self.api.get(change["object"]), change["path"])
            if value is None or digest_of(value) != change["before"]:
                raise PlatformError(f"{change['object']} has changed since it was planned")
            whole.append({**change, "mark": fault, "body": _packed(changed, value)})
        self.guards.begin(fault, whole, self.finder.spec.workload, deadline_s)

    def end(self, fault: str, changes: Sequence[JSON]) -> JSON:
        home = place("secrets", self.finder.spec.namespace)
        for change in changes:
            if not (change["object"].startswith(f"{home}/") and change["kept"].startswith(f"{home}/{KEPT}")):
                raise Unsupported(f"a record that was not written by a drill of this service: it would change {change['object']}")
        return self.guards.end(fault, changes)

    def missing(self, fault: str, changes: Sequence[JSON]) -> str:
        gone = next((change["object"] for change in changes if not self.guards.seen(change)), "")
        return f"{gone} has another value than ours" if gone else self.guards.unguarded(fault)

    def left(self, changes: Sequence[JSON]) -> str:
        return next(filter(None, map(self._differs, changes)), "")

    def _differs(self, change: JSON) -> str:
        """By the API server's word, whose value it is now; empty: what it was."""
        what, found = change["object"], self.api.there(change["object"])
        digest = digest_of(at(found, change["path"]))
        if digest == change["ours"]:
            return f"{what} still has our value"
        if self.api.there(change["kept"]):
            return f"{change['kept']}, which has what {what} was, is still there"
        if found is None:
            return f"{what} is gone: not by us"
        return "" if digest == change["before"] else f"{what} has {digest}, before {change['before']}: not by us"


def _packed(changed: Change, value: str) -> str:
    """A value as the API has it, changed."""
    return base64.b64encode(changed(base64.b64decode(value))).decode("ascii")
