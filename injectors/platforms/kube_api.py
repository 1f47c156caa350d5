"""The Kubernetes API in raw JSON: the one module that imports the `kubernetes` client (extra `blackstart[kubernetes]`).

The client finds the cluster and proves who asks (kubeconfig, context, in-cluster token, exec credential plugins, proxies); what
it is asked and answers stays JSON, because its typed models cost 1.3 s for 500 pods and raw JSON 22 ms.

Errors
------
PlatformError
    Unavailable     no kubeconfig, no API server, an expired or unknown login
    ApiError        the API said no; `status` and `reason` as in its answer
        Forbidden   the right is missing; the message names verb, resource and namespace
        NotThere    404
        Conflict    409: there is one already, or it changed meanwhile
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from ..values import JSON
from .base import PlatformError, Unavailable, Unsupported

CONNECT_S, ANSWER_S = 5.0, 20.0
KNOWN_AS = "BLACKSTART_CONTEXT"  # in a pod of ours: by which context whoever started it knows this cluster
PAGE = 500


class ApiError(PlatformError):
    """The API server refused or could not do what was asked."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Forbidden(ApiError):
    """The right is missing."""


class NotThere(ApiError):
    """Nothing of that name exists."""


class Conflict(ApiError):
    """It exists already, or was changed in the meantime."""


OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PASSING = {429, 502, 503, 504}  # too many requests, and servers behind it that are away
KINDS: Mapping[int, type[ApiError]] = {403: Forbidden, 404: NotThere, 409: Conflict}


class KubeApi:
    """One cluster as one user. `context` is the kubeconfig's, or `in-cluster`; `namespace` its own; `server` its URL."""

    def __init__(self, configuration: Any, client: Any, context: str, namespace: str) -> None:
        self.configuration, self._client, self.context, self.namespace = configuration, client, context, namespace
        self.server = str(configuration.host)

    @classmethod
    def opened(cls, environment: Mapping[str, str], context: str | None = None) -> "KubeApi":
        """By $KUBECONFIG or ~/.kube/config; without either by the service account of the pod that this runs in."""
        try:
            from kubernetes import client, config  # noqa: PLC0415 - half a second, only when a cluster is used
        except ImportError as error:
            raise Unsupported(
                "the Kubernetes client is not installed; install it with: pip install 'blackstart[kubernetes]'"
            ) from error
        configuration = client.Configuration()
        files = environment.get("KUBECONFIG") or str(Path(environment.get("HOME", "~")).expanduser() / ".kube" / "config")
        known_as = environment.get(KNOWN_AS)
        inside = context in {None, known_as} and "KUBECONFIG" not in environment and not Path(files).exists()
        try:
            if inside and "KUBERNETES_SERVICE_HOST" in environment:
                config.load_incluster_config(client_configuration=configuration)
                name, namespace = known_as or "in-cluster", OWN_NAMESPACE.read_text(encoding="utf-8").strip()
            else:
                contexts, current = config.list_kube_config_contexts(files)
                chosen = next((each for each in contexts if each["name"] == context), None) if context else current
                name = context or str((current or {}).get("name") or "none")
                namespace = str(((chosen or {}).get("context") or {}).get("namespace") or "default")
                config.load_kube_config(files, context=context, client_configuration=configuration)
        except Exception as error:  # a kubeconfig can be broken in many ways, each with an error of its own
            raise Unavailable(
                f"no cluster to talk to: {error}; set KUBECONFIG, or `kubernetes.context` in the service file"
            ) from error
        configuration.retries = False  # what is retried, and how long, is decided where it is asked
        return cls(configuration, client.ApiClient(configuration), name, namespace)

    def close(self) -> None:
        self._client.close()

    def authorize(self, headers: dict[str, str]) -> None:
        """Add what proves who asks; a credential plugin is asked again when its token has run out."""
        self._client.update_params_for_auth(headers, [], ["BearerToken"])

    # --- verbs ---

    def get(self, path: str, **query: Any) -> JSON:
        return self.ask("GET", path, query=query)

    def there(self, path: str) -> JSON | None:
        """The object, or None."""
        with suppress(NotThere):
            return self.get(path)
        return None

    def items(self, path: str, *, labels: str = "", fields: str = "") -> tuple[list[JSON], str]:
        """All items, page by page, and the resourceVersion from which a watch goes on."""
        found: list[JSON] = []
        query: dict[str, Any] = {"limit": PAGE, "labelSelector": labels or None, "fieldSelector": fields or None}
        while True:
            page = self.get(path, **query)
            found += page.get("items") or []
            query["continue"] = page["metadata"].get("continue") or None
            if not query["continue"]:
                return found, page["metadata"].get("resourceVersion", "")

    def create(self, path: str, body: JSON) -> JSON:
        return self.ask("POST", path, body)

    def replace(self, path: str, body: JSON) -> JSON:
        return self.ask("PUT", path, body)

    def patch(self, path: str, operations: list[JSON]) -> JSON:
        return self.ask("PATCH", path, operations)

    def delete(self, path: str, *, uid: str | None = None, grace_s: int | None = None) -> bool:
        """Whether there was something to delete. With `uid`, a namesake is left alone."""
        body: JSON = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            self.ask("DELETE", path, body)
        except NotThere:
            return False
        except Conflict:
            if uid:  # another one stands under that name: ours is gone
                return False
            raise
        return True

    def allowed(self, **attributes: str) -> bool:
        """Whether this login may do that (`verb`, `resource`, `namespace`, `group`, `subresource`, `name`), by the server's own word."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def watch(self, path: str, version: str, stop: Callable[[], bool], *, fields: str = "") -> Iterator[tuple[str, JSON]]:
        """Changes since that resourceVersion as (ADDED | MODIFIED | DELETED, object), until `stop`.

        A dropped connection is resumed from the last change seen. Raises ApiError, 410, when the server has forgotten that point:
        then everything has to be listed anew.
        """
        while not stop():
            try:
                for kind, changed in self._watched(path, version, fields):
                    version = changed["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        yield kind, changed
                    if stop():
                        return
            except Unavailable:
                time.sleep(0.5)  # an API server that restarts is waited for: whoever watches has a deadline of its own

    def _watched(self, path: str, version: str, fields: str) -> Iterator[tuple[str, JSON]]:
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": int(ANSWER_S),
            "fieldSelector": fields or None,
        }
        answer = self._send("GET", f"{path}?{_words(query)}", read_s=ANSWER_S + CONNECT_S, streamed=True)
        held = b""
        try:
            for some in answer.stream(65536, decode_content=True):
                *lines, held = (held + some).split(b"\n")
                for line in lines:
                    if line:
                        event = json.loads(line)
                        _raise_error(event)
                        yield event["type"], event["object"]
        except Exception as error:
            if type(error).__module__.startswith("urllib3"):
                raise Unavailable(f"{self.server}: the watch was cut: {error}") from error
            raise
        finally:
            answer.close()  # what was not read to its end must not be used again

    def ask(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None) -> JSON:
        """One request; the answer's JSON. A PATCH is a JSON Patch (RFC 6902). Raises the errors above."""
        return self.dated(method, path, body, query=query)[0]

    def dated(self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None) -> tuple[JSON, float]:
        """The same, and when that was by the API server's clock: UNIX time in whole seconds."""
        words = _words(query or {})
        answer = self._send(method, f"{path}?{words}" if words else path, body)
        try:
            found: JSON = json.loads(answer.data) if answer.data else {}
        except ValueError:
            found = {"message": answer.data.decode("utf-8", "replace")[:300]}
        stamp = answer.headers.get("Date")
        return found, parsedate_to_datetime(stamp).timestamp() if stamp else time.time()

    def connect(self, path: str, words: list[tuple[str, str]]) -> Any:
        """A websocket to a subresource such as `exec`. Raises the errors above."""
        import websocket  # noqa: PLC0415 - only where something is executed
        from kubernetes.stream import ws_client  # noqa: PLC0415

        websocket.setdefaulttimeout(ANSWER_S)  # an API server that is stopped accepts connections and says nothing
        url = f"{self.server}{path}?{urlencode(words)}".replace("http", "ws", 1)
        headers: dict[str, str] = {}
        try:
            self.authorize(headers)
            return ws_client.create_websocket(self.configuration, url, {key.lower(): value for key, value in headers.items()})
        except Exception as error:
            status, body = getattr(error, "status_code", None), getattr(error, "resp_body", None) or b""
            if status is None:
                raise Unavailable(f"the API server {self.server} does not answer: {_root(error)}") from error
            raise self._refused("GET", path, status, body.decode("utf-8", "replace")) from error

    def _send(self, method: str, path: str, body: Any = None, *, read_s: float = ANSWER_S, streamed: bool = False) -> Any:
        import urllib3  # noqa: PLC0415 - comes with the client

        form = "application/json-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": form}
        try:
            self.authorize(headers)
            answer = self._client.rest_client.pool_manager.request(
                method,
                f"{self.server}{path}",
                headers=headers,
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s),
                retries=False,
                preload_content=not streamed,
            )
        except Exception as error:
            raise Unavailable(f"the API server {self.server} does not answer: {_root(error)}") from error
        if answer.status >= 300:
            text = answer.read() if streamed else answer.data
            raise self._refused(method, path, answer.status, text.decode("utf-8", "replace"))
        return answer

    def _refused(self, method: str, path: str, status: int, text: str) -> PlatformError:
        if status == 401:
            who = f"the API server {self.server} does not know this login (context {self.context})"
            return Unavailable(f"{who}: its token is wrong or has expired; log in again")
        why, reason = text[:300], ""
        with suppress(ValueError, AttributeError):
            said = json.loads(text)
            why, reason = said.get("message") or text, said.get("reason") or ""
        if status in PASSING:
            return Unavailable(f"the API server {self.server} cannot answer now: {status} {reason}: {why}")
        kind = KINDS.get(status, ApiError)
        return kind(f"{method} {path.partition('?')[0]}: {status} {reason}: {why}", status, reason)


def place(resource: str, namespace: str = "", name: str = "", group: str = "", more: str = "") -> str:
    """The path of a resource: `place("deployments", "models", "llm", "apps/v1")`; `more`: a subresource."""
    base = f"/apis/{group}" if group else "/api/v1"
    parts = (["namespaces", namespace] if namespace else []) + [resource] + ([name] if name else []) + ([more] if more else [])
    return "/".join((base, *map(quote, parts)))


def _raise_error(event: JSON) -> None:
    if event["type"] == "ERROR":
        said = event["object"]
        raise ApiError(str(said.get("message")), int(said.get("code", 0)), str(said.get("reason")))


def _words(query: Mapping[str, Any]) -> str:
    return urlencode({key: value for key, value in query.items() if value is not None})


def _root(error: BaseException) -> str:
    """The innermost reason, in a line."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _root(reason)
    cause = error.__cause__ or error.__context__
    return _root(cause) if cause is not None and not str(error) else str(error)[:300]
