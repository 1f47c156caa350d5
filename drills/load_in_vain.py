"""Load that a service cannot be given, and objectives that rest on it: refused, since a whole drill would judge nothing by them."""

from .scenario import Scenario
from .service import STREAMED, Service


def load_in_vain(scenario: Scenario, service: Service) -> list[str]:
    """Every reason why not to inject, as `plan` gives it."""
    return _streams_of_none(scenario, service) + _pods_without_use(scenario, service)


def _streams_of_none(scenario: Scenario, service: Service) -> list[str]:
    protocol, objectives = service.endpoint.protocol, scenario.objectives
    if protocol == STREAMED:
        return []
    return [
        f"not injecting: objective `{name}` is judged by open streams, which exist in protocol {STREAMED} only, and {service.name} is asked "
        f"by {protocol}; leave it out"
        for name in ("streams_cut", "stream_gap")
        if getattr(objectives, name) is not None
    ]


def _pods_without_use(scenario: Scenario, service: Service) -> list[str]:
    """Load from several pods where no pod can be started, or where there is nothing for them to do."""
    load = scenario.load
    if load.pods == 1:
        return []
    if service.probe.from_ != "in-cluster":
        todo = "write `probe: {from: in-cluster, image: ...}` into the service file, or leave `pods` out"
        return [f"not injecting: `load.pods` is {load.pods}, but the service is probed from {service.probe.from_}; {todo}"]
    if not load.rate and service.endpoint.protocol != STREAMED:
        todo = "set `load.rate`, or leave `pods` out"
        return [f"not injecting: `load.pods` is {load.pods}, but streams exist in protocol {STREAMED} only; {todo}"]
    return []
