"""The first service profile and scenario: what a service says of itself, and how it is written down."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .asking import Heard, get, heard
from .recognition import Recognised, engine_pattern, recognised
from .refusal import Refused

NO_PATH = "/no-such-path-of-any-service"
HEALTH_PATHS = ("/health", "/ready", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


@dataclass(frozen=True)
class Answers:
    """What the service says of itself. `tensors`: the inputs that its model names, where the protocol has them."""

    protocol: str
    model: str | None
    health: tuple[str, ...]
    tensors: tuple[Any, ...] = ()
    engine: Recognised | None = None

    def lines(self, address: Sequence[str]) -> list[str]:
        """Of service.yaml: the engine, the endpoint at that address, golden questions, health endpoints."""
        endpoint = [*address, f"protocol: {self.protocol}"]
        if self.model:
            endpoint.append(f"model: {json.dumps(self.model)}")
        elif self.protocol == "http":
            endpoint.append("path: /")
        lines = [f"endpoint: {{{', '.join(endpoint)}}}"]
        if self.engine:
            known = self.engine.profile
            lines.insert(
                0, f"engine: {known.name}    # {known.title}, known {self.engine.by}; `blackstart doctor` tells about it"
            )
        if self.protocol == "openai":
            lines.append(
                'golden:\n  - {prompt: "The capital of France is", max_tokens: 8}    # the answer is recorded before each drill'
            )
        elif self.protocol == "kserve-v2":
            named = "" if self.model else ", and the model's name as endpoint.model"
            lines.append(
                f"# golden: [{{inputs: [{self._inputs()}]}}]    # add a question{named}; without outputs its answer is recorded"
            )
        if self.health:
            lines.append(f"health: {json.dumps(self.health)}")
        return lines

    def _inputs(self) -> str:
        """The model's inputs as a question has them, without the numbers."""
        named = [each for each in self.tensors if isinstance(each, dict) and {"name", "shape", "datatype"} <= each.keys()]
        example = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
        told = [{key: each[key] for key in example} for each in named or [example]]
        return ", ".join(
            f"{{{', '.join(f'{key}: {json.dumps(value)}' for key, value in each.items())}, data: [...]}}" for each in told
        )

    def model_line(self) -> str:
        """A comment that says where the model goes, and when a change of it shows."""
        how = {"mmap": "maps it: a change shows at once", "at-start": "reads it at start: a change shows after a restart"}
        engine = f"; {self.engine.profile.title} {how[self.engine.profile.model.load]}" if self.engine else ""
        return f"# model: {{path: /models/...}}    # where a replica finds it, for faults of model files{engine}"

    def roles_line(self, commands: Sequence[str] | None) -> str:
        """How processes that compute are found inside a pod or container, where they were seen; a comment where they were not."""
        pattern = engine_pattern(commands, self.engine.profile if self.engine else None)
        if pattern:
            return f"roles: {{engine: {{command_line: {json.dumps(pattern)}}}}}"
        return '# roles: {engine: {command_line: "..."}}'


@dataclass(frozen=True)
class Written:
    """The files, and what a person should know before using them."""

    paths: tuple[Path, Path]
    warnings: tuple[str, ...]


def free(folder: Path) -> tuple[Path, Path]:
    """Where the two files go. Raises Refused where one is there already."""
    paths = folder / "service.yaml", folder / "scenario.yaml"
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise Refused([f"{', '.join(there)} is there already; nothing was written"])
    return paths


def write(folder: Path, service: str, scenario: str, warnings: tuple[str, ...]) -> Written:
    """Write both files; nothing that is there is overwritten."""
    paths = free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, (service, scenario), strict=True):
        path.write_text(text, encoding="utf-8")
    return Written(paths, warnings)


def model_of(status: int, models: Any) -> str | None:
    """The first model of an answer to /v1/models; None for an answer that is none."""
    data = models.get("data") if status == 200 and isinstance(models, dict) else None
    first = data[0] if isinstance(data, list) and data else None
    return str(first["id"]) if isinstance(first, dict) and "id" in first else None


def asked(url: str) -> Answers:
    """Protocol, model and health endpoints, by asking. Raises Refused where nothing answers."""
    try:
        model = model_of(*get(f"{url}/v1/models"))
        anything = get(url + NO_PATH)[0] == 200  # it would say so of a health endpoint that it does not have
        health = () if anything else tuple(path for path in HEALTH_PATHS if get(url + path)[0] == 200)
        _, about = get(f"{url}/v2")
        if not model and isinstance(about, dict) and "name" in about and get(f"{url}/v2/health/ready")[0] == 200:
            model, tensors = _kserve_model(url)
            return Answers("kserve-v2", model, health, tensors)
    except OSError as error:
        raise Refused([f"nothing answers at {url}: {error}; start the service, or correct the URL"]) from error
    return Answers("openai" if model else "http", model, health)


def with_engine(answers: Answers, url: str, commands: Sequence[str] | None) -> Answers:
    """The same with the engine that it looks like, and with the health endpoints of that one which answer 200."""
    found = recognised(url, commands or ())
    if found is None:
        return answers
    known = [each for each in found.profile.health_paths(answers.model) if each not in answers.health]
    health = (*answers.health, *(path for path in known if _heard(url + path).status == 200))
    protocol = found.profile.protocol if answers.protocol == "http" else answers.protocol
    return replace(answers, engine=found, health=health, protocol=protocol)


def _heard(url: str, body: Any = None) -> Heard:
    """The answer; status 0 for none, since a server that answers elsewhere need not know this path."""
    try:
        return heard(url, body=body)
    except OSError:
        return Heard(0, "", b"")


def _kserve_model(url: str) -> tuple[str | None, tuple[Any, ...]]:
    """The one model that a server of KServe's protocol has, with the inputs that it names; None where there are several, or it tells none.

    The protocol itself lists no models; Triton and MLServer do by an extension of it, KServe's own servers by a path.
    """
    index, listed = _heard(f"{url}/v2/repository/index", {}), _heard(f"{url}/v2/models").json
    entries = index.json if index.status == 200 and isinstance(index.json, list) else []
    names = [str(each["name"]) for each in entries if isinstance(each, dict) and "name" in each]
    if not names and isinstance(listed, dict) and isinstance(listed.get("models"), list):
        names = [each for each in listed["models"] if isinstance(each, str)]
    if len(names) != 1:
        return None, ()
    about = _heard(f"{url}/v2/models/{names[0]}").json
    inputs = about.get("inputs") if isinstance(about, dict) else None
    return names[0], tuple(inputs) if isinstance(inputs, list) else ()
