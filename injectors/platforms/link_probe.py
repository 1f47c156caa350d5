"""What an ordinary client meets on its way to a server, or to the address of a name; or which addresses a host has: `link_probe.py
REQUEST`, one JSON line; also imported.

One file for Python 3.8 and the standard library: it is piped into pods, whose way is another than ours.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any, Dict, List

CONNECT_LIMIT_S = 2.0
QUESTIONS = 200  # the most that one probe asks for the sake of a long answer: it must not be a load of its own
QUESTION = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: blackstart\r\nConnection: keep-alive\r\n\r\n"


def probe(host: str, port: int, limit_s: float, want: int) -> Dict[str, Any]:
    """Connect, ask `GET /`, read more than `want` bytes of answer; while it is too short and the connection open, ask again.

    Returns whether it was `connected`, `outcome` (refused, reset, silent: nothing more within `limit_s`, closed: an orderly end at or before `want`,
    short: not so much after 200 questions, answered), `received` bytes, and `first_byte_s` after the question (None without one).
    Any protocol will do: a server that does not speak HTTP says so, or closes.
    """
    try:
        connection = socket.create_connection((host, port), CONNECT_LIMIT_S)
    except socket.timeout:
        return {"outcome": "silent", "received": 0, "first_byte_s": None, "connected": False}
    except OSError as error:  # a reset can come before the connect call has returned
        outcome = "reset" if isinstance(error, ConnectionResetError) else "refused"
        return {"outcome": outcome, "received": 0, "first_byte_s": None, "connected": False}
    received, first_byte_s, questions, asked = 0, None, 1, time.monotonic()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        outcome = "answered"
        try:
            connection.settimeout(limit_s)
            connection.sendall(QUESTION)
            while received <= want and outcome == "answered":
                some = connection.recv(65536)
                if first_byte_s is None:
                    first_byte_s = round(time.monotonic() - asked, 6)
                received += len(some)
                if not some:
                    outcome = "closed"
                elif received <= want and questions == QUESTIONS:
                    outcome = "short"
                elif received <= want:
                    questions += 1
                    ask_again(connection)
        except socket.timeout:
            outcome = "silent"
        except ConnectionError:
            outcome = "reset"
    return {"outcome": outcome, "received": received, "first_byte_s": first_byte_s, "connected": True}


def resolve(name: str, limit_s: float, other: str = "") -> Dict[str, Any]:
    """What a client meets that asks for the address of a name, in the same words. A resolver of its own tries on for long.

    `others`: whether `other` (HOST:PORT; by default the API server's), for which no name is needed, can be connected to all the same.
    """
    found: List[Any] = []
    asked = time.monotonic()
    asking = threading.Thread(target=lambda: found.append("".join(addresses_of(name)[:1])), daemon=True)
    asking.start()
    asking.join(limit_s)
    took_s = round(time.monotonic() - asked, 6)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if other:
        host, _, port = other.rpartition(":")
    others = probe(host, int(port), 1.0, 0)["connected"] if host else None
    outcome = "answered" if found and found[0] else "refused" if found else "silent"
    received = len(found[0]) if found else 0
    return {"outcome": outcome, "received": received, "first_byte_s": took_s if received else None, "others": others}


def addresses_of(name: str) -> List[str]:
    """Each once; none where the name is not known."""
    try:
        return list(dict.fromkeys(str(each[4][0]) for each in socket.getaddrinfo(name, None)))
    except OSError:
        return []


def ask_again(connection: socket.socket) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has closed its side: the rest of its answer is still to be read
        connection.sendall(QUESTION)


if __name__ == "__main__":
    asked_for = json.loads(sys.argv[1])
    seen: Any
    if "name" in asked_for:
        seen = resolve(asked_for["name"], asked_for["limit_s"], asked_for.get("other", ""))
    elif "port" in asked_for:
        seen = probe(asked_for["host"], asked_for["port"], asked_for["limit_s"], asked_for["want"])
    else:
        seen = addresses_of(asked_for["host"])
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a resolver that still tries would keep the process
