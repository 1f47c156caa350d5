"""What pods are, and their files as their containers see them."""

import base64

from ..values import JSON
from .base import PlatformError, Target
from .kube_agents import look
from .kube_api import KubeApi, place
from .kube_exec import Container
from .kube_find import container_of, pod_of
from .kube_inline import running_beside
from .kube_pods import OVER, main_container, volume_of
from .looked_contents import LookedContents


class PodFiles(LookedContents):
    """Looks by look.py, in a process of its own."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api

    def space(self, target: Target, folder: str) -> tuple[int, int]:
        found = self._look(target, "space", path=folder)
        return found["size_bytes"], found["free_bytes"]

    def exists(self, target: Target, path: str) -> bool:
        return bool(self._look(target, "exists", path=path)["exists"])

    def file(self, target: Target, path: str) -> JSON:
        found, pod = self._look(target, "exists", path=path), self._pod(target)
        owner, outlives = volume_of(pod, target.details["container"], found["real"]) if pod else ("", False)
        return {**found, "id": f"{owner}:{found['real']}", "outlives": outlives}

    def around(self, target: Target) -> list[JSON]:
        """Every process that can be seen from inside the target: `identity`, `parent`, `state`, `command`."""
        where = self._container(target)
        found: list[JSON] = look(self.api, where, "around", {})["processes"] if where else []
        return found

    def pids(self, target: Target) -> tuple[int, ...]:
        return tuple(int(each["identity"].removeprefix("pid:").partition("@")[0]) for each in self.around(target))

    def read_file(self, target: Target, path: str, limit: int) -> bytes:
        return base64.b64decode(self._look(target, "read", path=path, limit=limit)["content"])

    def digest(self, target: Target, path: str) -> str:
        return str(self._look(target, "digest", path=path)["digest"])

    def _look(self, target: Target, verb: str, **request: object) -> JSON:
        where = self._container(target)
        if where is None:
            raise PlatformError(f"{target.name} ({target.identity}) is gone")
        return look(self.api, where, verb, request)

    def _pod(self, target: Target) -> JSON | None:
        """The very pod that is meant, as long as its containers may run."""
        pod = pod_of(self.api, target)
        return pod if pod and pod["status"].get("phase") not in OVER else None

    def _container(self, target: Target) -> Container | None:
        pod = self._pod(target)
        return container_of(target, target.details.get("container") or main_container(pod)) if pod else None

    def _siblings(self, main: Container) -> list[Container]:
        """All containers of that pod, the same one first."""
        pod = self.api.there(place("pods", main.namespace, main.pod)) or {"spec": {"containers": []}}
        names = [main.container, *(each["name"] for each in pod["spec"]["containers"] if each["name"] != main.container)]
        return [Container(main.namespace, main.pod, name) for name in (*names, *running_beside(pod))]
