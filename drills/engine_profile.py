"""Profiles of serving engines (`scenarios/servers/*.yaml`): what is known of each beforehand, and from where.

A service file that says `engine: NAME` is completed from that profile; `init` looks for the one that fits, and `doctor` tells what the
engine's own health endpoints do not notice. Every fact names its source: a file or page of the project, or a test here that measured it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

EngineName = Literal["demo", "kserve", "llama-cpp", "mlserver", "ollama", "ray-serve", "sglang", "tgi", "triton", "vllm"]
ENGINE_NAMES: tuple[str, ...] = get_args(EngineName)
FOLDER = Path(__file__).parents[1] / "scenarios" / "servers"


@dataclass(frozen=True)
class Trait:
    """One answer by which an engine gives itself away."""

    path: Annotated[str, "asked with GET"]
    text: Annotated[str | None, "a regular expression that is found in the body of a 2xx answer"] = None
    server: Annotated[str | None, "a regular expression that is found in the header `Server`, whatever the status"] = None


@dataclass(frozen=True)
class Recognition:
    """How the engine is told from others."""

    source: Annotated[str, "where that is from"]
    command_line: Annotated[str | None, "a regular expression that is found in the command line of one of its processes"] = None
    answers: Annotated[tuple[Trait, ...], "each is enough by itself"] = ()


@dataclass(frozen=True)
class EngineRole:
    """Processes of one kind inside a replica. `engine` is those that compute, in every profile whose engine has them apart."""

    command_line: Annotated[str, "found by a regular expression on the command line"]
    does: Annotated[str, "what they are there for"]
    source: Annotated[str, "where that is from"]


@dataclass(frozen=True)
class HealthEndpoint:
    """One of the engine's own health endpoints."""

    path: Annotated[str, "{model} stands for the service's `endpoint.model`"]
    checks: Annotated[str, "what a good answer means"]
    misses: Annotated[str, "what it does not notice"]
    source: Annotated[str, "where that is from"]
    watched: Annotated[bool, "among those that a service of this engine has under `health` when it names none"] = True


@dataclass(frozen=True)
class EngineMetrics:
    """Names in Prometheus' format. An empty list: the engine tells nothing of the kind."""

    source: Annotated[str, "where that is from"]
    path: Annotated[str | None, "where they are; none: there are no metrics"] = None
    port: Annotated[int | None, "where it is another one than the endpoint's, by default", range(1, 65536)] = None
    running: Annotated[tuple[str, ...], "requests that are computed"] = ()
    queued: Annotated[tuple[str, ...], "requests that wait"] = ()
    asked: Annotated[tuple[str, ...], "counters of the tokens of all prompts"] = ()
    cache: Annotated[tuple[str, ...], "use of the key-value or prefix cache"] = ()
    needs: Annotated[str | None, "what must be switched on for them"] = None


@dataclass(frozen=True)
class Drain:
    """What SIGTERM does to requests that are under way."""

    does: Annotated[str, "by default, and what changes it"]
    source: Annotated[str, "where that is from"]


@dataclass(frozen=True)
class Loading:
    """How the model comes into memory: whether a damaged file bites at once or on restart."""

    load: Annotated[
        Literal["mmap", "at-start"], "read through a mapping (a change bites now) or copied at start, mapped or not (on restart)"
    ]
    does: Annotated[str, "in words, with what changes it"]
    source: Annotated[str, "where that is from"]


@dataclass(frozen=True)
class Behaviour:
    """What the engine does when something is wrong with it."""

    when: Annotated[str, "what happened to it"]
    does: Annotated[str, "what came of it"]
    source: Annotated[str, "where that is from; a test here where it was measured"]


@dataclass(frozen=True)
class EngineProfile:
    """A whole profile of a serving engine."""

    name: Annotated[str, "[a-z0-9-], at most 63 characters; the file's name"]
    title: Annotated[str, "as the project calls it"]
    version: Annotated[str, "the one that the facts are of, where a source names no other"]
    protocol: Annotated[Literal["openai", "kserve-v2", "http"], "how a question is asked"]
    recognised: Annotated[Recognition, "how the engine is told from others"]
    health: Annotated[tuple[HealthEndpoint, ...], "its own health endpoints"]
    metrics: Annotated[EngineMetrics, "its own figures"]
    drain: Annotated[Drain, "what SIGTERM does to requests that are under way"]
    model: Annotated[Loading, "how the model comes into memory"]
    project: Annotated[str | None, "the project's address; none: it ships with blackstart"] = None
    roles: Annotated[dict[str, EngineRole], "processes below a replica's first one"] = field(default_factory=dict)
    halves: Annotated[
        dict[str, EngineRole], "replicas that do one half of an answer, as components of the role prefill or decode"
    ] = field(default_factory=dict)
    behaviour: Annotated[tuple[Behaviour, ...], "what it does when something is wrong with it"] = ()

    def health_paths(self, model: str | None) -> tuple[str, ...]:
        """Those that are watched where a service names none; one of a model only where the model is known."""
        paths = (each.path for each in self.health if each.watched)
        return tuple(path.replace("{model}", model or "") for path in paths if model or "{model}" not in path)

    def endpoint_of(self, path: str, model: str | None) -> HealthEndpoint | None:
        """What is known of a path; None: nothing."""
        return next((each for each in self.health if each.path.replace("{model}", model or "{model}") == path), None)


def profile_file(name: str) -> Path:
    """Where the profile of that name is."""
    return FOLDER / f"{name}.yaml"
