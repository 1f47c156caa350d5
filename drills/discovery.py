"""init: ask a running service what it is, and write a service profile and a first scenario for it."""

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from .refusal import Refused

ANSWER_S = 5.0
HEALTH_PATHS = ("/health", "/ready", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


def write_files(folder: Path, url: str) -> tuple[Path, Path]:
    """service.yaml and scenario.yaml for the service at `url`. Raises Refused where nothing answers or a file is there already."""
    url = url.rstrip("/")
    address = urllib.parse.urlsplit(url)
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise Refused([f"{url} is not a URL of a service; write it as http://HOST:PORT"])
    paths = folder / "service.yaml", folder / "scenario.yaml"
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise Refused([f"{', '.join(there)} is there already; nothing was written"])
    service = _service_text(url, address.port or (443 if address.scheme == "https" else 80))
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in zip(paths, (service, SCENARIO), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def _get(url: str) -> tuple[int, Any]:
    """Status and JSON body, or None for a body that is none. Raises OSError when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310 - the scheme was checked when the URL was read
            status, body = answer.status, answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        return error.code, None
    try:
        return status, json.loads(body)
    except ValueError:
        return status, None


def _service_text(url: str, port: int) -> str:
    try:
        status, models = _get(f"{url}/v1/models")
        kserve, _ = _get(f"{url}/v2/health/ready")
        health = [path for path in HEALTH_PATHS if _get(url + path)[0] == 200]
    except OSError as error:
        raise Refused([f"nothing answers at {url}: {error}; start the service, or correct the URL"]) from error
    lines = [
        "apiVersion: blackstart/v1",
        "kind: Service",
        f"name: service-{port}",
        "platform: process",
        f"process: {{port: {port}}}    # one replica that listens there; list components for more",
    ]
    if status == 200 and isinstance(models, dict) and models.get("data"):
        model = models["data"][0]["id"]
        lines.append(f"endpoint: {{url: {json.dumps(url)}, protocol: openai, model: {json.dumps(model)}}}")
        lines.append(
            'golden:\n  - {prompt: "The capital of France is", max_tokens: 8}    # the answer is recorded before each drill'
        )
    elif kserve == 200:
        lines.append(f"endpoint: {{url: {json.dumps(url)}, protocol: kserve-v2}}")
        lines.append("# golden: [{inputs: [...], outputs: [...]}]   # add a question, and the model's name as endpoint.model")
    else:
        lines.append(f"endpoint: {{url: {json.dumps(url)}, protocol: http, path: /}}")
    if health:
        lines.append(f"health: {json.dumps(health)}")
    return "\n".join(lines) + "\n"


SCENARIO = """\
apiVersion: blackstart/v1
kind: Scenario
name: first-drill
title: The process hangs for ten seconds
steady_state: {hold: 10s, success: ">= 99%"}
faults:
  - {kind: process-hang, at: 0s, for: 10s}    # `blackstart faults` lists what else can be injected
objectives: {rto: 30s}
observe: 60s
settle: 10s
"""
