"""What a drill will measure, known before it starts: the prober's lanes with their rates, and the objectives as written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..injectors.platforms.base import Platform, PlatformError, Target
from ..injectors.values import JSON
from .language.writing import written
from .measure.lanes import probe_config
from .refusal import Refused
from .scenario import Load, Scenario
from .service import Service


@dataclass(frozen=True)
class Lane:
    """One stream of probes. `rate` is probes a second; None for streams, of which so many are `open` at any time."""

    name: str
    kind: str
    rate: float | None
    open: int | None

    def to_json(self) -> JSON:
        return {"name": self.name, "kind": self.kind, "rate_per_s": self.rate, "open": self.open}


def watched(service: Service, scenario: Scenario, everything: Sequence[Target]) -> tuple[Lane, ...]:
    """The lanes that the prober will run, without their URLs, none where the service has no URL; and the digest lane, where it is on."""
    digest = scenario.digest
    compared = (Lane("digest", "digest", round(1 / digest.every.total_seconds(), 3), None),) if digest else ()
    if service.endpoint.url is None:
        return compared
    config = probe_config(service, scenario, replica_urls(everything), Path(), 0.0, 0)
    return (
        tuple(
            Lane(
                lane["name"],
                lane["kind"],
                round(1 / lane["period_s"], 3) if lane["period_s"] else None,
                lane.get("concurrency"),
            )
            for lane in config["lanes"]
        )
        + compared
    )


def objectives(scenario: Scenario) -> JSON:
    """Those that are set, with their units."""
    return written(scenario.objectives)


def load_told(load: Load) -> str:
    """How much load the scenario asks for, from how many pods, in words; empty where the prober gives all of it."""
    if load.pods == 1:
        return ""
    asked = [f"{load.rate:g}/s"] * bool(load.rate) + [f"{load.streams} streams"] * bool(load.streams)
    return f"{' and '.join(asked)}, from {load.pods} pods"


def replica_urls(everything: Sequence[Target]) -> tuple[tuple[str, str], ...]:
    """Where each replica answers by itself, past the gateway."""
    return tuple((each.name, each.asked) for each in everything if each.asked)


def measured_from(service: Service) -> str:
    """Where the prober runs, in words."""
    if not service.probe.beside:
        return "where blackstart runs"
    if service.kubernetes is None:
        return f"a container on the service's network ({service.probe.image})"
    return f"a pod in namespace {service.kubernetes.namespace} ({service.probe.image})"


def addressed(service: Service, platform: Platform) -> Service:
    """The service with a URL: where the file names a service of the platform, its address from where it is probed. Raises Refused.

    Also with the context that is in use: another one may be when it is recovered.
    """
    if service.kubernetes:
        service = replace(service, kubernetes=replace(service.kubernetes, context=platform.context))
    if service.docker:
        service = replace(service, docker=replace(service.docker, context=platform.context))
    endpoint = service.endpoint
    if endpoint.url is not None or endpoint.service is None or endpoint.port is None:
        return service
    if service.kubernetes and service.probe.from_ == "in-cluster":
        url = f"http://{endpoint.service}.{service.kubernetes.namespace}.svc:{endpoint.port}"
        return replace(service, endpoint=replace(endpoint, url=url))
    try:
        url = platform.address(endpoint.service, endpoint.port)
    except PlatformError as error:
        raise Refused([f"not injecting: {error}"]) from error
    return replace(service, endpoint=replace(endpoint, url=url))
