"""The prober's outpost in a cluster: keeps one prober, its files and its clock within reach of a blackstart that is elsewhere.

    python3 outpost.py keep FOLDER      the pod's own process, beside prober.py
    python3 outpost.py reach FOLDER     joins its standard input and output to it; started by `exec`, as often as wished

Like the prober it needs nothing but Python 3.8 and its standard library.

- Each line in is a question, each line out its answer; both are JSON. A question names what the asker has already, so that after
  a connection was cut the next one goes on where it ended: `have` (file: bytes), `heard` (lines of the prober's output), and `tell`
  (numbered lines for its input, of which no number is passed on twice).
- The answer has the outpost's clock, `said`, the next bytes of each file, and whether there are `more`; `ended` tells that the prober has.
- With `digests`, it has the size and the SHA-256 of each file; after `end` the outpost ends.
- The prober goes on through any number of cut connections, and stops when nobody has asked for LEASE_S, or not at all for FIRST_S: then
  blackstart is dead.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import Any

LEASE_S = 60.0
FIRST_S = 180.0  # for the first question: whoever will ask may wait until others like this one have started
# In the order in which they are read: a record of a probe may name a text, which the prober has then written before it.
FILES = ("lanes.json", "probes.bin", "texts.jsonl", "ledger.jsonl", "clock.jsonl")
PIECE = 131072
ANSWER_S = 5.0  # to hand over an answer: who does not take it is gone
LOOK_S = 1.0


class Outpost:
    """All there is of it."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.join(folder, "samples")
        os.makedirs(self.folder, exist_ok=True)
        self.log = os.path.join(folder, "prober.log")
        self.selector = selectors.DefaultSelector()
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(socket_path(folder))
        self.server.listen(8)
        self.selector.register(self.server, selectors.EVENT_READ, self.accept)
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "prober.py")
        with open(self.log, "wb") as log:
            argv, pipe = [sys.executable, "-I", "-S", program, "-"], subprocess.PIPE
            self.prober = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=log, cwd=folder)
        self.output = self.prober.stdout.fileno() if self.prober.stdout else -1
        self.selector.register(self.output, selectors.EVENT_READ, self.hear)
        self.rest = b""
        self.said: list[str] = []
        self.told = 0
        self.asked, self.patience_s = time.monotonic(), FIRST_S
        self.over = self.silent = False

    def run(self) -> None:
        """Until it is told to end, or nobody asks any more."""
        while not self.over and time.monotonic() - self.asked < self.patience_s:
            for key, _ in self.selector.select(LOOK_S):
                key.data(key.fileobj)
        if self.prober.stdin is not None:
            self.prober.stdin.close()  # the prober's sign to stop
        try:
            self.prober.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self.prober.kill()

    def hear(self, output: int) -> None:
        """What the prober says."""
        data = os.read(output, 65536)
        if not data:
            self.selector.unregister(output)
            self.silent = True
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.said += [line.decode("utf-8", "replace") for line in lines]

    def accept(self, server: Any) -> None:
        connection, _ = server.accept()
        connection.settimeout(ANSWER_S)
        Asker(self, connection)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic()
        self.asked, self.patience_s = now, LEASE_S
        self.tell(question.get("tell") or [])
        said = self.said[question.get("heard", 0) :]  # before the files are read: what it said of them is in them
        answer: dict[str, Any] = {"clock": now, "said": said, "told": self.told, "more": False, "ended": self.ended()}
        if question.get("digests"):
            answer["digests"] = {name: self.digest(name) for name in FILES}
        elif "have" in question:
            answer.update(self.news(question["have"]))
        self.over = bool(question.get("end"))
        return answer

    def tell(self, lines: list[Any]) -> None:
        for number, line in lines:
            if number > self.told and self.prober.stdin is not None:
                self.told = number
                try:
                    self.prober.stdin.write(line.encode() + b"\n")
                    self.prober.stdin.flush()
                except OSError:  # it has ended, which the answer says
                    pass

    def ended(self) -> str | None:
        """How the prober did, with its last words; None: it runs, or has not been heard to its end."""
        if not self.silent or self.prober.poll() is None:
            return None
        with open(self.log, errors="replace") as log:
            return "status %s: %s" % (self.prober.returncode, log.read().strip()[-500:] or "without a word")

    def news(self, have: dict[str, int]) -> dict[str, Any]:
        files: dict[str, str] = {}
        more = False
        for name in FILES:
            data = self.read(name, have.get(name, 0))
            if len(data) == PIECE:
                more = True
                if name == "texts.jsonl":
                    files.pop("probes.bin", None)  # the records wait for the texts that they name
            if data:
                files[name] = base64.b64encode(data).decode()
        return {"files": files, "more": more}

    def read(self, name: str, offset: int) -> bytes:
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                file.seek(offset)
                return file.read(PIECE)
        except FileNotFoundError:
            return b""

    def digest(self, name: str) -> list[Any]:
        size, found = 0, hashlib.sha256()
        while True:
            data = self.read(name, size)
            if not data:
                return [size, found.hexdigest()]
            found.update(data)
            size += len(data)


class Asker:
    """One connection. It ends with its peer, and with one that takes no answer."""

    def __init__(self, outpost: Outpost, connection: Any) -> None:
        self.outpost, self.connection, self.rest = outpost, connection, b""
        outpost.selector.register(connection, selectors.EVENT_READ, self.read)

    def read(self, connection: Any) -> None:
        try:
            data = connection.recv(65536)
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                connection.sendall(json.dumps(self.outpost.answer(json.loads(line))).encode() + b"\n")
        except OSError:
            data = b""
        if not data:
            self.outpost.selector.unregister(connection)
            connection.close()


def socket_path(folder: str) -> str:
    return os.path.join(folder, "outpost.sock")


def reach(folder: str) -> None:
    """Byte for byte in both directions, until one of the two ends is closed, or falls silent: not every cut connection tells."""
    joined = socket.socket(socket.AF_UNIX)
    joined.connect(socket_path(folder))
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(joined, selectors.EVENT_READ)
    while ready := selector.select(LEASE_S):
        for key, _ in ready:
            data = os.read(key.fd, 65536)
            if not data:
                return
            if key.fd == 0:
                joined.sendall(data)
            else:
                write(data)


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main(argv: list[str]) -> int:
    if len(argv) != 2 or argv[0] not in {"keep", "reach"}:
        sys.stderr.write("usage: outpost.py keep|reach FOLDER\n")
        return 2
    if argv[0] == "reach":
        reach(argv[1])
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as a pod's first process it would not be ended by it
    Outpost(argv[1]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
