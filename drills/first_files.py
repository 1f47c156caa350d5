"""The first service profile and scenario: what a service says of itself, and how it is written down."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .refusal import Refused

ANSWER_S = 5.0
HEALTH_PATHS = ("/health", "/ready", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


@dataclass(frozen=True)
class Answers:
    """What the service says of itself."""

    protocol: str
    model: str | None
    health: tuple[str, ...]

    def lines(self, address: Sequence[str]) -> list[str]:
        """Of service.yaml: the endpoint at that address, golden questions, health endpoints."""
        endpoint = [*address, f"protocol: {self.protocol}"]
        if self.model:
            endpoint.append(f"model: {json.dumps(self.model)}")
        elif self.protocol == "http":
            endpoint.append("path: /")
        lines = [f"endpoint: {{{', '.join(endpoint)}}}"]
        if self.protocol == "openai":
            lines.append(
                'golden:\n  - {prompt: "The capital of France is", max_tokens: 8}    # the answer is recorded before each drill'
            )
        elif self.protocol == "kserve-v2":
            lines.append("# golden: [{inputs: [...], outputs: [...]}]   # add a question, and the model's name as endpoint.model")
        if self.health:
            lines.append(f"health: {json.dumps(self.health)}")
        return lines


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


def get(url: str, limit_s: float = ANSWER_S) -> tuple[int, Any]:
    """Status and JSON body, or None for a body that is none. Raises OSError when nothing answers, or not in HTTP."""
    try:
        with urllib.request.urlopen(url, timeout=limit_s) as answer:  # noqa: S310 - the scheme was checked when the URL was read
            status, body = answer.status, answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        return error.code, None
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"the answer is not HTTP ({type(error).__name__})") from error
    try:
        return status, json.loads(body)
    except ValueError:
        return status, None


def model_of(status: int, models: Any) -> str | None:
    """The first model of an answer to /v1/models; None for an answer that is none."""
    data = models.get("data") if status == 200 and isinstance(models, dict) else None
    first = data[0] if isinstance(data, list) and data else None
    return str(first["id"]) if isinstance(first, dict) and "id" in first else None


def asked(url: str) -> Answers:
    """Protocol, model and health endpoints, by asking. Raises Refused where nothing answers."""
    try:
        model = model_of(*get(f"{url}/v1/models"))
        kserve, _ = get(f"{url}/v2/health/ready")
        health = tuple(path for path in HEALTH_PATHS if get(url + path)[0] == 200)
    except OSError as error:
        raise Refused([f"nothing answers at {url}: {error}; start the service, or correct the URL"]) from error
    return Answers("openai" if model else "kserve-v2" if kserve == 200 else "http", model, health)
