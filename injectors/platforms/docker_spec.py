"""What a service file says about a service in containers (`platform: docker`)."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Compose:
    """A service of a Compose project."""

    project: Annotated[str, "the project's name"]
    service: Annotated[str, "the service's name in it"]


@dataclass(frozen=True)
class Part:
    """Which containers one part of the service is, by exactly one of the three."""

    role: Annotated[
        str,
        "what it is to the service: gateway, store, standby, ...; prefill and decode are protected and compared as replicas are, and never "
        "asked by themselves",
    ]
    compose: Annotated[Compose | None, "all containers of a Compose service"] = None
    label: Annotated[str | None, "all containers with a label: `app=llm`"] = None
    containers: Annotated[tuple[str, ...], "these containers, by name"] = ()
    port: Annotated[int | None, "where each of them answers; by default the first port that it exposes"] = None


@dataclass(frozen=True)
class DockerSpec:
    """Which containers the service's replicas are, by exactly one of the three, and what else there is of it."""

    compose: Annotated[Compose | None, "all containers of a Compose service"] = None
    label: Annotated[str | None, "all containers with a label: `app=llm`"] = None
    containers: Annotated[tuple[str, ...], "these containers, by name"] = ()
    port: Annotated[int | None, "where each replica answers by itself; by default the first port that it exposes"] = None
    components: Annotated[tuple[Part, ...], "what else the service is made of"] = ()
    context: Annotated[str | None, "the Docker context; by default DOCKER_HOST, or the current context"] = None

    def parts(self) -> tuple[Part, ...]:
        """The replicas and the rest."""
        return (Part("replica", self.compose, self.label, self.containers, self.port), *self.components)
