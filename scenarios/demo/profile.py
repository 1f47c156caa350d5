"""The service file of a demo service that stands elsewhere than on this machine."""

import json
from typing import Any


def model_details(*, hardened: bool) -> dict[str, str]:
    """How the model is held, and where a replica that knows it tells its revision."""
    return {"load": "at-start", "served": "/v1/models#/data/0/digest"} if hardened else {"load": "mmap"}


def service_file(  # noqa: PLR0913 - what differs from place to place
    platform: str, where: dict[str, Any], url: str, image: str, model: str, *, hardened: bool
) -> str:
    """`where` is the platform's own part of it, `model` the path of the model as a replica sees it."""
    service = {
        "apiVersion": "blackstart/v1",
        "kind": "Service",
        "name": "demo-hardened" if hardened else "demo",
        "demo": True,
        "platform": platform,
        platform: where,
        "roles": {"engine": {"command_line": r"service\.py engine "}},
        "endpoint": {"url": url, "protocol": "openai", "model": "demo"},
        "probe": {"rate": "30/s", "image": image},
        "health": ["/health", "/ready"],
        "model": {"path": model, **model_details(hardened=hardened)},
        "golden": [{"prompt": "The capital of France is", "max_tokens": 8}],
        "ledger": {"write": "POST /v1/feedback", "read": "GET /v1/feedback/{id}"},
    }
    return json.dumps(service, indent=1) + "\n"  # JSON is YAML
