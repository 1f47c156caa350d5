"""Pause or unpause one very container: `engine_switch.py SOCKET pause|unpause ID STARTED`.

An agent on the engine's own machine runs it (agent.py, hold-command), so that a pause, which the engine itself never ends, ends when
blackstart dies or the deadline comes. One file and the standard library: the agent starts it without blackstart's environment.
"""

import http.client
import json
import socket
import sys
from typing import Any

ANSWER_S = 20.0


class Engine(http.client.HTTPConnection):
    """Its API on a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(self.path)

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        self.request(method, path)
        answer = self.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else None


def main(path: str, verb: str, number: str, started: str) -> int:
    """0 when it is so now, or there is nothing left to unpause."""
    engine = Engine(path)
    status, found = engine.ask("GET", f"/containers/{number}/json")
    same = status == 200 and found["State"]["StartedAt"] == started and found["State"]["Running"]
    if not same:
        sys.stderr.write("the container is gone, or was started anew\n")
        return 1 if verb == "pause" else 0
    if found["State"]["Paused"] is (verb == "pause"):
        sys.stderr.write(f"it is {verb}d already\n")
        return 1 if verb == "pause" else 0
    status, found = engine.ask("POST", f"/containers/{number}/{verb}")
    if status >= 300:
        sys.stderr.write(f"{status}: {found}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
