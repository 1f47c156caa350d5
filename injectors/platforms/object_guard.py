"""The guard of what a drill changes about a cluster's own objects: puts them back when nobody else does.

    python3 -I object_guard.py REQUEST      REQUEST: {"changes": [...], "lease": PATH, "holder": RUN, "until": UNIX time, "silence_s": S}

It runs in a pod beside the service, with a ServiceAccount that may do just that, before anything is changed. It ends the changes when
the drill's Lease has not been renewed for `silence_s`, is gone or somebody else's, at `until` by the API server's own clock, and when it is
itself told to end.
blackstart undoes by the same rules, from any machine; whoever comes second finds nothing left. One file that needs nothing but
Python 3.8 and its standard library, because it is handed to the pod as an argument.

A change is {"how", "object": PATH, "uid", ...}:

    field   {"path": [KEY, ...], "ours": VALUE, "before": VALUE or null}    one value of an object; null: it was not there
    item    {"path": [KEY, ...], "item": {...}}                            one more entry of a list, told by all that it says
    object  {"mark": FAULT}                                                an object of ours, told by its annotation MARK
    value   {"path": ["data", KEY], "ours": DIGEST, "before": DIGEST, "kept": PATH}   of a Secret; what it was is in the Secret `kept`
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import signal
import ssl
import sys
import time
from email.utils import parsedate_to_datetime
from typing import Any, Callable, NamedTuple

MARK = "blackstart/fault"
VERSION = "blackstart/version"  # on a kept Secret: the resourceVersion that the other one had before its value was changed
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ARMED = "/tmp/armed"  # noqa: S108 - a volume of the pod's own; its readiness probe looks for it
LOOK_EVERY_S, AGAIN_S, ANSWER_S = 3.0, 2.0, 20.0
AS_BEFORE = "it was as before"
OK = range(200, 300)
MOVED_ON = {409, 422}
ROUNDS, ROUND_S = 5, 0.2


class Failed(Exception):
    """The API server did not do it."""


class MovedOn(Exception):
    """A test in a patch failed, or admission refused it: the same answer for both."""


class Ended(Exception):
    """The pod is told to end: its node is emptied, or its namespace deleted."""


class Answer(NamedTuple):
    """Of the API server; `at_s` is its own clock, in whole seconds of UNIX time."""

    status: int
    body: Any
    at_s: float


Ask = Callable[[str, str, Any], Answer]  # method, path, body; a PATCH is a JSON Patch (RFC 6902)


def revert(change: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """Put one change back; may be repeated. `undone`, or `foreign` where somebody else changed it since. Raises Failed."""
    refused = ""
    for _ in range(ROUNDS):
        status, found, _at = ask("GET", change["object"], None)
        if status not in OK and status != 404:
            raise Failed("GET %s: %s" % (change["object"], said(found)))
        try:
            if status == 404:
                return let_go(change, found, "it is gone", ask)
            if change["how"] != "object" and found["metadata"]["uid"] != change["uid"]:
                return let_go(change, found, "another object stands in its place", ask)
            return HOW[change["how"]](change, found, ask)
        except MovedOn as moved:  # read again; one that is refused for good says so each time
            refused = str(moved)
            time.sleep(ROUND_S)
    raise Failed("%s cannot be put back: %s" % (change["object"], refused))


def revert_field(change: dict[str, Any], found: dict[str, Any], ask: Ask) -> dict[str, Any]:
    value = at(found, change["path"])
    if value == change["before"]:
        return {"event": "undone", "reason": AS_BEFORE}
    if value != change["ours"]:
        what = (".".join(map(str, change["path"])), change["object"], json.dumps(value))
        return {"event": "foreign", "why": "%s of %s is %s, neither ours nor as before" % what}
    path = pointer(change["path"])
    back = (
        {"op": "remove", "path": path} if change["before"] is None else {"op": "replace", "path": path, "value": change["before"]}
    )
    return patched(change, [{"op": "test", "path": path, "value": change["ours"]}, back], ask)


def revert_item(change: dict[str, Any], found: dict[str, Any], ask: Ask) -> dict[str, Any]:
    for number, entry in enumerate(at(found, change["path"]) or []):
        if all(entry.get(key) == value for key, value in change["item"].items()):
            path = pointer([*change["path"], number])
            return patched(change, [{"op": "test", "path": path, "value": entry}, {"op": "remove", "path": path}], ask)
    return {"event": "undone", "reason": "the entry is not there"}


def revert_object(change: dict[str, Any], found: dict[str, Any], ask: Ask) -> dict[str, Any]:
    if (found["metadata"].get("annotations") or {}).get(MARK) != change["mark"]:
        return {"event": "undone", "reason": "an object of somebody else stands there"}
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": found["metadata"]["uid"]}}
    status, answer, _ = ask("DELETE", change["object"], options)
    if status in MOVED_ON:
        raise MovedOn(said(answer))
    if status not in OK and status != 404:
        raise Failed("DELETE %s: %s" % (change["object"], said(answer)))
    return {"event": "undone", "reason": "deleted"}


def revert_value(change: dict[str, Any], found: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """`kept` is there from before the change until it is put back; without it nothing of ours is there."""
    value, what, kept = at(found, change["path"]), "the value of " + change["object"], kept_for(change, ask)
    ours = digest_of(value) == change["ours"]
    if kept is None:
        if ours:  # or just being put back by somebody else
            raise MovedOn("what %s was, %s, is gone" % (what, change["kept"]))
        return {"event": "undone", "reason": "nothing of ours is there"}
    if ours:
        told = restored(change, value, kept["data"]["value"], ask)
        drop(change, kept, ask)
        return told
    if digest_of(value) != change["before"]:
        return {"event": "foreign", "why": "%s is neither ours nor as before; what it was is in %s" % (what, change["kept"])}
    drop(change, kept, ask)
    now = at(ask("GET", change["object"], None).body, change["path"])
    if digest_of(now) == change["ours"]:  # changed while the copy went; a change after this look finds none (kube_guard.py)
        return restored(change, now, kept["data"]["value"], ask)
    never = found["metadata"]["resourceVersion"] == kept["metadata"]["annotations"][VERSION]
    return {"event": "undone", "reason": AS_BEFORE if never else "it is as before again"}


def let_go(change: dict[str, Any], found: Any, reason: str, ask: Ask) -> dict[str, Any]:
    """What we changed is not there any more, so that nobody needs what it was; unless what took its place has our value."""
    kept = kept_for(change, ask) if change["how"] == "value" else None
    if kept and digest_of(at(found, change["path"])) == change["ours"]:
        return {"event": "foreign", "why": "another %s has our value; what it was is in %s" % (change["object"], change["kept"])}
    if kept:
        drop(change, kept, ask)
    return {"event": "undone", "reason": reason}


def kept_for(change: dict[str, Any], ask: Ask) -> dict[str, Any] | None:
    """The Secret that has what a value was; None: it is gone. Raises Failed."""
    status, kept, _ = ask("GET", change["kept"], None)
    if status not in OK and status != 404:
        raise Failed("GET %s: %s" % (change["kept"], said(kept)))
    return kept if status in OK else None


def drop(change: dict[str, Any], kept: dict[str, Any], ask: Ask) -> None:
    revert_object({"object": change["kept"], "mark": kept["metadata"]["annotations"][MARK]}, kept, ask)


def restored(change: dict[str, Any], value: str, was: str, ask: Ask) -> dict[str, Any]:
    """`value` is ours, `was` takes its place, both as the API has them. Raises MovedOn, Failed."""
    path = pointer(change["path"])
    return patched(change, [{"op": "test", "path": path, "value": value}, {"op": "replace", "path": path, "value": was}], ask)


def digest_of(value: str | None) -> str:
    """Of a Secret's value, as the API has it: the digest of the file that the kubelet writes."""
    return "none" if value is None else "sha256:" + hashlib.sha256(base64.b64decode(value)).hexdigest()


HOW = {"field": revert_field, "item": revert_item, "object": revert_object, "value": revert_value}


def patched(change: dict[str, Any], operations: list[dict[str, Any]], ask: Ask) -> dict[str, Any]:
    """Carried out whole or not at all. Raises MovedOn where something had changed since it was read, or nobody lets us."""
    same = {"op": "test", "path": "/metadata/uid", "value": change["uid"]}
    status, answer, _ = ask("PATCH", change["object"], [same, *operations])
    if status in MOVED_ON:
        raise MovedOn(said(answer))
    if status not in OK and status != 404:
        raise Failed("PATCH %s: %s" % (change["object"], said(answer)))
    return {"event": "undone", "reason": "put back"}


def at(thing: Any, path: list[Any]) -> Any:
    """The value at a path of keys and indices; None where there is none."""
    for key in path:
        try:
            thing = thing[key]
        except (KeyError, IndexError, TypeError):
            return None
    return thing


def pointer(path: list[Any]) -> str:
    """RFC 6901."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def said(answer: Any) -> str:
    return str(answer.get("message") if isinstance(answer, dict) else answer)[:300]


# --- in the pod ---


class InCluster:
    """The API server as a pod's ServiceAccount reaches it; a connection and a token for each request, since tokens change."""

    def __init__(self) -> None:
        self.host, self.port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
        self.trust = ssl.create_default_context(cafile=os.path.join(ACCOUNT, "ca.crt"))

    def __call__(self, method: str, path: str, body: Any) -> Answer:
        with open(os.path.join(ACCOUNT, "token"), encoding="ascii") as file:
            headers = {"Authorization": "Bearer " + file.read().strip(), "Accept": "application/json"}
        headers["Content-Type"] = "application/json-patch+json" if method == "PATCH" else "application/json"
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=ANSWER_S, context=self.trust)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
            stamp = answer.headers.get("Date")
            at_s = parsedate_to_datetime(stamp).timestamp() if stamp else time.time()
            return Answer(answer.status, json.loads(text) if text.startswith("{") else text, at_s)
        finally:
            connection.close()


def arm(request: dict[str, Any], ask: Ask) -> None:
    """Prove, before anything is changed, that all of it could be put back from here. Raises Failed."""
    for change in request["changes"]:
        if change["how"] == "object":
            status, answer, _ = ask("DELETE", change["object"] + "?dryRun=All", None)
        else:
            nothing = [{"op": "test", "path": "/metadata/uid", "value": change["uid"]}]
            status, answer, _ = ask("PATCH", change["object"] + "?dryRun=All", nothing)
        if status not in OK and status not in {404, 422}:  # gone, or another in its place: nothing to put back
            raise Failed("%s could not be put back from here: %s" % (change["object"], said(answer)))
    with open(ARMED, "w", encoding="ascii"):
        pass
    tell(event="armed")


def disarm() -> None:
    """Not ready any more, or not yet: the volume outlives a container that is started again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(ARMED)


def await_end(request: dict[str, Any], ask: Ask) -> str:
    """Arms, and then says why the changes end. A guard that cannot arm keeps watch all the same: it may be one that is started again.

    Time counts as silence only while the API server answers: nobody can renew while it does not.
    """
    renewed, silent_s, heard, armed = None, 0.0, None, False
    while True:
        try:
            status, lease, at_s = ask("GET", request["lease"], None)
            if status == 404 or (status in OK and lease["spec"].get("holderIdentity") != request["holder"]):
                return "the drill is over"
            if status in OK and not armed:
                arm(request, ask)
                armed = True
        except (Failed, OSError, http.client.HTTPException) as error:
            tell(event="not-armed" if not armed else "away", why=str(error))
            heard = None
            time.sleep(LOOK_EVERY_S)
            continue
        if at_s >= request["until"]:
            return "its time is up"
        if status in OK:
            now = time.monotonic()
            silent_s = 0.0 if lease["spec"].get("renewTime") != renewed else silent_s + (now - heard if heard else 0.0)
            renewed, heard = lease["spec"].get("renewTime"), now
            if silent_s >= request["silence_s"]:
                return "nobody has renewed %s for %d s" % (request["lease"], silent_s)
        else:
            heard = None
        time.sleep(LOOK_EVERY_S)


def put_back(changes: list[dict[str, Any]], ask: Ask) -> None:
    """Until all are, the latest first; one that cannot be keeps no other from it."""
    left = list(reversed(changes))
    while left:
        failed = []
        for change in left:
            try:
                tell(object=change["object"], **revert(change, ask))
            except (Failed, OSError, http.client.HTTPException) as error:
                tell(event="failed", object=change["object"], why=str(error))
                failed.append(change)
        left = failed
        if left:
            time.sleep(AGAIN_S)


def tell(**what: Any) -> None:
    """A line of the pod's log."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def stop(_number: int, _frame: Any) -> None:
    raise Ended


def main(arguments: list[str]) -> int:
    request = json.loads(arguments[0])
    ask = InCluster()
    signal.signal(signal.SIGTERM, stop)  # as the first process of its container it would ignore it
    disarm()
    try:
        why = await_end(request, ask)
    except Ended:
        why = "the guard itself is being ended"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    disarm()
    tell(event="ending", why=why)
    put_back(request["changes"], ask)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
