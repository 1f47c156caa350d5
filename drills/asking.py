"""One question to a service over HTTP, outside a drill: what `init` and `doctor` ask."""

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

ANSWER_S = 5.0
LARGEST = 1 << 20


@dataclass(frozen=True)
class Heard:
    """An answer: its status, the header `Server`, and at most a MiB of its body."""

    status: int
    server: str
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """The body's value; None for one that is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def heard(url: str, limit_s: float = ANSWER_S, body: Any = None) -> Heard:
    """GET, or POST of a JSON body. Raises OSError when nothing answers, or not in HTTP."""
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        return _heard(urllib.request.Request(url, data, headers), limit_s)  # noqa: S310 - checked when the URL was read
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"the answer is not HTTP ({type(error).__name__})") from error


def _heard(request: urllib.request.Request, limit_s: float) -> Heard:
    try:
        with urllib.request.urlopen(request, timeout=limit_s) as answer:  # noqa: S310
            return Heard(answer.status, answer.headers.get("Server") or "", answer.read(LARGEST))
    except urllib.error.HTTPError as error:
        with error:
            return Heard(error.code, error.headers.get("Server") or "", error.read(LARGEST))


def get(url: str, limit_s: float = ANSWER_S) -> tuple[int, Any]:
    """Status and JSON body, or None for a body that is none. Raises OSError like `heard`."""
    answer = heard(url, limit_s)
    return answer.status, answer.json if answer.status < 300 else None
