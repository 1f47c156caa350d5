"""Decides what a drill probes, and how hard: from a Service and a Scenario to the prober's lanes."""

from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from ...injectors.values import JSON
from ..scenario import Load, Scenario
from ..service import STREAMED, Golden, Service
from .prober import joined

LIGHT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 10.0
STREAM_STALL_S = 5.0
STREAM_TOTAL_S = 300.0
STREAM_TOKENS = 200
HEALTH_HZ = 2.0
REPLICA_HZ = 1.0
SEMANTIC_HZ = 2.0
REUSE_HZ = 7.3  # shares no period with the others, so that a fault with a beat cannot hide from all of them
CONTROL: JSON = {"name": "control", "kind": "control", "period_s": 1 / 20.0}
TLS_FRESH_HZ = 20.0  # a handshake for each probe costs the service, too
LIGHT_PATHS = {"openai": "/v1/models", "kserve-v2": "/v2/health/ready"}


class ProbingError(Exception):
    """The service cannot be probed as described, or the prober does not do its work; the message says which and why."""


def probe_config(  # noqa: PLR0913  six independent facts, each from another hand
    service: Service, scenario: Scenario, replicas: tuple[tuple[str, str], ...], folder: Path, origin: float, seed: int
) -> JSON:
    """The prober's configuration for a drill.

    `replicas` are (component name, base URL); `folder` is the run's `samples/`; `origin` is time.monotonic() at
    the drill's start. Raises ProbingError where the service has no URL.
    """
    lanes = [
        *_light_lanes(service, scenario),
        *_golden_lanes(service, scenario, replicas),
        *_health_lanes(service, replicas),
        *_load_lanes(service, scenario, scenario.load.share_of(0)),
        *_ledger_lanes(service, scenario),
        dict(CONTROL),
    ]
    about = {"name": service.name, "protocol": service.endpoint.protocol, "model": service.endpoint.model}
    return {"origin": origin, "folder": str(folder), "seed": seed, "service": about, "lanes": lanes}


def load_configs(service: Service, scenario: Scenario, whole: JSON) -> list[JSON]:
    """Those of the pods that only give their shares of the load, by index; each with another phase. `whole` is the prober's own."""
    shares = [(pod, scenario.load.share_of(pod)) for pod in range(1, scenario.load.pods)]
    return [
        {**whole, "seed": whole["seed"] + pod, "lanes": [*_load_lanes(service, scenario, share), dict(CONTROL)]}
        for pod, share in shares
    ]


def load_named(index: int) -> str:
    """What the samples of such a pod are called: their folder within `samples/`."""
    return f"load-{index}"


def service_url(service: Service) -> str:
    url = service.endpoint.url
    if url is None or urlsplit(url).scheme not in ("http", "https"):
        raise ProbingError(f"service {service.name}: endpoint.url is needed to probe it, and must be http:// or https://")
    return url


def _clamp(value: float, least: float, most: float) -> float:
    return max(least, min(most, value))


def _rto_s(scenario: Scenario) -> float | None:
    return scenario.objectives.rto.total_seconds() if scenario.objectives.rto else None


def fresh_rate(service: Service, scenario: Scenario) -> float:
    """Probes a second of the fresh lane: as the service says, or 100 within the RTO, 10/s to 50/s (20/s over TLS)."""
    if service.probe.rate is not None:
        return float(service.probe.rate)
    rto_s = _rto_s(scenario)
    rate = _clamp(100 / rto_s, 10, 50) if rto_s else 20.0
    return min(rate, TLS_FRESH_HZ) if service_url(service).startswith("https") else rate


def light_url(service: Service) -> str:
    """What the light lanes ask. Raises ProbingError where the service has no URL."""
    return joined(service_url(service), LIGHT_PATHS.get(service.endpoint.protocol, service.endpoint.path))


def _light_lanes(service: Service, scenario: Scenario) -> list[JSON]:
    url = light_url(service)
    common = {"url": url, "timeout_s": LIGHT_TIMEOUT_S}
    return [
        {"name": "fresh", "kind": "fresh", "period_s": 1 / fresh_rate(service, scenario), **common},
        {"name": "reuse", "kind": "reuse", "period_s": 1 / REUSE_HZ, **common},
    ]


def _answer_timeout_s(scenario: Scenario) -> float:
    """Twice what the steady state allows for a first token: an answer that comes later helps no user."""
    bound = scenario.steady_state.first_token_p95
    return max(1.0, 2 * bound.limit) if bound else ANSWER_TIMEOUT_S


def given_up_after_s(allowed_s: float) -> float:
    """When a stream that has fallen silent is given up: long after the objective for that, where there is one (else 0), was missed."""
    return max(STREAM_STALL_S, 2 * allowed_s)


def asking(service: Service) -> JSON:
    """How questions are asked and answers judged."""
    return {
        "protocol": service.endpoint.protocol,
        "model": service.endpoint.model,
        "path": service.endpoint.path,
        "golden": [golden_config(entry) for entry in service.golden],
        "success": asdict(service.success),
    }


def golden_config(entry: Golden) -> JSON:
    return {key: value for key, value in asdict(entry).items() if value is not None}


def _golden_lanes(service: Service, scenario: Scenario, replicas: tuple[tuple[str, str], ...]) -> list[JSON]:
    endpoint = service.endpoint
    if not service.golden and (endpoint.protocol == "http" or not endpoint.model):
        return []
    common = {**asking(service), "timeout_s": _answer_timeout_s(scenario)}
    return [
        {"name": "semantic", "kind": "semantic", "url": service_url(service), "period_s": 1 / SEMANTIC_HZ, **common},
        *(
            {"name": f"replica:{name}", "kind": "replica", "url": url, "period_s": 1 / REPLICA_HZ, "component": name, **common}
            for name, url in replicas
        ),
    ]


def _health_lanes(service: Service, replicas: tuple[tuple[str, str], ...]) -> list[JSON]:
    places = (("", "", service_url(service)), *((name, name, url) for name, url in replicas))
    return [
        {
            "name": f"health:{prefix}{path}",
            "kind": "health",
            "url": joined(url, path),
            "period_s": 1 / HEALTH_HZ,
            "component": component,
            "timeout_s": LIGHT_TIMEOUT_S,
        }
        for path in service.health
        for prefix, component, url in places
    ]


def _load_lanes(service: Service, scenario: Scenario, load: Load) -> list[JSON]:
    """Streams exist in one protocol; elsewhere there is no such lane, and no figure from it."""
    lanes = []
    common = {"url": service_url(service), "timeout_s": _answer_timeout_s(scenario), **asking(service)}
    gap = scenario.objectives.stream_gap
    if load.streams and service.endpoint.protocol == STREAMED:
        limits = {
            "concurrency": load.streams,
            "stall_s": given_up_after_s(gap.total_seconds() if gap else 0.0),
            "total_s": STREAM_TOTAL_S,
            "max_tokens": STREAM_TOKENS,
        }
        lanes.append({"name": "stream", "kind": "stream", "period_s": 0.0, **common, **limits})
    if load.rate:
        lanes.append({"name": "workload", "kind": "workload", "period_s": 1 / load.rate, "retries": load.retries, **common})
    return lanes


def _ledger_lanes(service: Service, scenario: Scenario) -> list[JSON]:
    """Fast enough for ten writes within the RPO, since fewer prove little."""
    if service.ledger is None:
        return []
    rpo = scenario.objectives.rpo
    rate = 2.0 if rpo is None else _clamp(10 / rpo.total_seconds(), 1, 20) if rpo else 10.0
    lane = {"name": "ledger", "kind": "ledger", "url": service_url(service), "period_s": 1 / rate, "timeout_s": LIGHT_TIMEOUT_S}
    return [{**lane, "routes": asdict(service.ledger)}]
