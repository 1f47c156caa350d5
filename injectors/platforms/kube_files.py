"""What pods are, and their files as their containers see them."""

from collections.abc import Sequence

from ..values import JSON
from .base import Target, Unsupported
from .container_files import ContainerFiles
from .kube_agents import PodAgents, PodDoors
from .kube_api import KubeApi, place
from .kube_exec import Container
from .kube_find import Finder, container_of, pod_of
from .kube_inline import running_beside
from .kube_pods import OVER, main_container, on_the_nodes_disk, only_read, unfit, volume_of
from .kube_sharers import strangers


class PodFiles(ContainerFiles[Container]):
    """Looks by look.py, in a process of its own."""

    agents: PodAgents
    finder: Finder

    def __init__(self, api: KubeApi) -> None:
        self.api, self.doors = api, PodDoors(api)

    def file(self, target: Target, path: str) -> JSON:
        found, pod = self._look(target, "exists", path=path), self._pod(target)
        if pod is None:
            return {**found, "id": f":{found['real']}", "outlives": False}
        place = (pod, target.details["container"], found["real"])
        owner, outlives = volume_of(*place)
        about = {"id": f"{owner}:{found['real']}", "outlives": outlives, "apart": not on_the_nodes_disk(*place)}
        return {**found, **about, "unfit": unfit(*place, found["changed_s"]), "only_read": only_read(*place)}

    def strangers(self, files: Sequence[tuple[Target, str]]) -> str:
        return strangers(self.finder, files)

    def _refuse_foreign(self, target: Target) -> None:
        pod = self._pod(target)
        if pod and pod["spec"].get("hostPID"):
            raise Unsupported(
                f"{target.name} sees all processes of its node (hostPID), and none of them can be told to be its own"
            )

    def _shares_processes(self, target: Target) -> bool:
        spec = (self._pod(target) or {"spec": {}})["spec"]
        return bool(spec.get("shareProcessNamespace") or spec.get("hostPID"))

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
