"""Agents inside pods (exec_agents.py), by the API's `exec`: which container of a pod they go into."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..values import JSON
from .base import Target, Unsupported
from .exec_agents import EXEC_S, ContainerAgents, process_of, source
from .exec_agents import look as look_by
from .kube_api import KubeApi
from .kube_exec import Container, Session, begin_python, run_python

__all__ = ["PodAgents", "PodDoors", "look", "process_of", "source"]


@dataclass(frozen=True)
class PodDoors:
    """The API's `exec`."""

    api: KubeApi

    def begin(self, where: Container, source: bytes, arguments: Sequence[str]) -> Session:
        return begin_python(self.api, where, source, arguments)

    def run(self, where: Container, source: bytes, arguments: Sequence[str], limit_s: float = EXEC_S) -> tuple[int, bytes, str]:
        return run_python(self.api, where, source, arguments, limit_s)


def look(api: KubeApi, where: Container, verb: str, request: JSON) -> JSON:
    """What look.py says of the container's inside. Raises Unsupported where there is no python3."""
    return look_by(PodDoors(api), where, verb, request)


@dataclass
class PodAgents(ContainerAgents[Container]):
    """Those of one namespace."""

    def chosen(self, where: Container, target: Target, parameters: JSON) -> Container:
        """The one that is named, in a pod of ours where that is named as well, or that of the processes which are meant, or the main one."""
        if "container" in parameters:
            return Container(where.namespace, parameters.get("pod", where.pod), parameters["container"])
        names = {identity.rpartition("/pid:")[0].rpartition("/")[2] for identity in parameters.get("processes", ())}
        if len(names) > 1:
            raise Unsupported(
                f"the processes lie in several containers of {target.name}: {', '.join(sorted(names))}; take one role each"
            )
        return Container(where.namespace, where.pod, names.pop()) if names else where
