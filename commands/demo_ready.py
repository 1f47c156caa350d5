"""What a demo elsewhere than in local processes waits for: its first good answers, from a service that its users would call warm."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..drills.machine import boot_id
from ..injectors.platforms.process_table import LINUX, snapshot
from ..injectors.values import JSON
from ..scenarios.demo import DemoFailed

TELL_S, LOOK_S, ANSWER_S = 4.0, 0.2, 2.0
WARM_TOKENS, WARM_S = 60, 30.0  # as many as service.py's --cold-steps; the first answer of a cold engine takes seconds

Tell = Callable[[str], None]


def creator() -> str:
    """Who made a demo, so that a later demo on this machine can tell that it is dead; empty where it could not tell.

    A pid says nothing outside its pid namespace: containers share their machine's boot, and not its pids.
    """
    if not LINUX:
        return ""
    return f"{boot_id()} {Path('/proc/self/ns/pid').readlink()} {snapshot()[os.getpid()].identity}"


def until(look: Callable[[], str], limit_s: float, tell: Tell, explain: Callable[[], str]) -> None:
    """Wait until `look` has nothing more to name; say now and then what it named."""
    limit, told = time.monotonic() + limit_s, time.monotonic()
    while missing := look():
        now = time.monotonic()
        if now > limit:
            raise DemoFailed(f"waited {limit_s:g} s in vain: {missing}\n{explain()}")
        if now - told > TELL_S:
            told = now
            tell(f"waiting: {missing}")
        time.sleep(LOOK_S)


def ask(url: str, path: str, body: JSON | None = None, limit_s: float = ANSWER_S) -> Any:
    """A JSON answer with the gateway's choice of a replica as `backend`, whatever its status; without an answer what was wrong."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=limit_s)
    try:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return {**json.load(answer), "backend": answer.headers.get("x-backend")}
    except (OSError, HTTPException, ValueError) as error:
        return {"error": str(error)}
    finally:
        connection.close()


def warm_up(url: str, replicas: int) -> None:
    """What a careful person does after a deployment: requests until each replica had one, so that users meet warm engines."""
    warm: set[str] = set()
    limit = time.monotonic() + WARM_S * replicas
    body = {"prompt": "", "max_tokens": WARM_TOKENS}
    while len(warm) < replicas:
        with ThreadPoolExecutor(replicas) as pool:  # at once: in each round the gateway asks each replica once
            answers = list(pool.map(lambda _: ask(url, "/v1/completions", body, WARM_S), range(replicas)))
        warm |= {said["backend"] for said in answers if "choices" in said}
        if time.monotonic() > limit:
            raise DemoFailed(f"the demo service does not answer at {url}: {answers}")
