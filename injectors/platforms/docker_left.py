"""What runs have left on an engine, told by the labels of our own containers there: also where a run's folder is on another machine."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Event

from .docker_agents import RoomAgents
from .docker_api import DockerApi
from .docker_exec import RoomDoors
from .docker_helpers import RUN, Helpers
from .docker_inline import InlineRooms


@dataclass
class EngineLeft:
    """Looks, and undoes from the labels alone."""

    api: DockerApi

    @property
    def _helpers(self) -> Helpers:
        return Helpers(self.api, None, Event())

    def runs(self) -> Mapping[str, list[str]]:
        """Run -> names of its containers that are there."""
        found: dict[str, list[str]] = defaultdict(list)
        for each in self._helpers.all():
            if run := each["Labels"].get(RUN):
                found[run].append(str(each["Names"][0]).lstrip("/"))
        return found

    def end(self, run: str) -> list[str]:
        """Undo what they hold, remove them, and say so. Raises PlatformError."""
        agents = RoomAgents(RoomDoors(self.api), Event(), lambda _: None, lambda where: [where])
        return InlineRooms(self.api, agents, self._helpers).end_run(run)


@contextmanager
def opened_left(environment: Mapping[str, str]) -> Iterator[EngineLeft]:
    """Raises PlatformError where the engine cannot be asked."""
    with closing(DockerApi.opened(environment)) as api:
        yield EngineLeft(api)
