"""A small API in memory: one Secret with a credential, and the copy of what it was; as a guard asks, and as blackstart does."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from blackstart.injectors.platforms.kube_api import KINDS, ApiError, KubeApi, place
from blackstart.injectors.platforms.kube_guard import KEPT
from blackstart.injectors.platforms.object_guard import MARK, VERSION, Answer, digest_of
from blackstart.injectors.values import JSON

HOME = place("secrets", "models")
PATH, KEPT_AT = f"{HOME}/hub", f"{HOME}/{KEPT}1"
KEY = "a/token"
LISTED = {"pods", "jobs", "secrets"}


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


BEFORE, OURS, ROTATED = packed("hf_right"), packed("hf_wrong"), packed("hf_rotated")
CHANGE = {
    "how": "value",
    "object": PATH,
    "uid": "u",
    "path": ["data", KEY],
    "kept": KEPT_AT,
    "before": digest_of(BEFORE),
    "ours": digest_of(OURS),
    "targets": ["llm-0"],
}


class Objects:
    """What an API server does with these requests. A Secret that holds another value than BEFORE was changed once.

    `after` is called once, after the request that it names by method and path, and may change what is there.
    """

    def __init__(self, value: str, *, kept: bool) -> None:
        version = "1" if value == BEFORE else "2"
        self.there: dict[str, Any] = {PATH: secret("u", {KEY: value, "other": "x"}, version)}
        self.after: dict[tuple[str, str], Callable[[], object]] = {}
        if kept:
            self.there[KEPT_AT] = secret("k", {"value": BEFORE}, "1", {MARK: "run.1", VERSION: "1"})

    def __call__(self, method: str, path: str, body: Any) -> Answer:
        told = self._answered(method, path.partition("?")[0], body, dry="dryRun" in path)
        self.after.pop((method, path), lambda: None)()
        return told

    def _answered(self, method: str, path: str, body: Any, *, dry: bool) -> Answer:
        if method == "POST":
            self.there[f"{path}/{body['metadata']['name']}"] = {**body, "metadata": {"uid": "n", **body["metadata"]}}
            return Answer(201, body, 0.0)
        if path not in self.there:
            inside = [each for name, each in self.there.items() if name.rpartition("/")[0] == path]
            listed = path.rpartition("/")[2] in LISTED
            return Answer(200, {"items": inside, "metadata": {}}, 0.0) if listed else Answer(404, {}, 0.0)
        if method == "DELETE":
            return Answer(200, self.there.pop(path), 0.0)
        thing = json.loads(json.dumps(self.there[path]))
        for each in body if method == "PATCH" else ():
            *keys, last = [key.replace("~1", "/") for key in each["path"].split("/")[1:]]
            inner = thing
            for key in keys:
                inner = inner[key]
            if each["op"] == "test" and inner[last] != each["value"]:
                return Answer(422, {}, 0.0)
            if each["op"] in {"add", "replace"}:
                inner[last] = each["value"]
        if thing != self.there[path] and not dry:
            thing["metadata"]["resourceVersion"] += "."
            self.there[path] = thing
        return Answer(200, json.loads(json.dumps(thing)), 0.0)

    @property
    def value(self) -> str:
        return str(self.there[PATH]["data"][KEY])

    def become(self, value: str) -> None:
        """As somebody's change would."""
        self(
            "PATCH",
            PATH,
            [
                {"op": "test", "path": "/metadata/uid", "value": "u"},
                {"op": "replace", "path": "/data/a~1token", "value": value},
            ],
        )


class Cluster(KubeApi):
    """The same, as blackstart asks."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def dated(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None) -> tuple[JSON, float]:
        del query
        status, answer, at_s = self.objects(method, path, body)
        if status >= 300:
            raise KINDS.get(status, ApiError)(f"{method} {path}: {status}", status, "")
        return answer, at_s


def secret(uid: str, data: JSON, version: str, annotations: JSON | None = None) -> JSON:
    return {"metadata": {"uid": uid, "resourceVersion": version, "annotations": annotations or {}}, "data": data}
