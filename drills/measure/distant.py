"""A prober in an outpost (outpost.py), and its samples here: fetched as they come, so that this folder is at all times a true beginning
of the one there, and compared with it at the end. Each question is also an exchange about the clock (clocks.py).
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue

from ...injectors.platforms.base import PlatformError
from ...injectors.platforms.outposts import Line
from ...injectors.values import JSON
from . import outpost, prober
from .clocks import Exchange
from .lanes import ProbingError
from .samples import EXCHANGES

THERE = "/tmp"  # noqa: S108 - of the outpost
KEEP, REACH, ASK = (("outpost.py", "keep", THERE), ("outpost.py", "reach", THERE), ("prober.py", "--ask"))
POLL_S, RETRY_S = 0.1, 0.5
ANSWER_S = 10.0  # no connection takes so long that still works
CLOCK_EVERY_S = 1.0  # the best exchange of each second is kept
ACQUAINTED = 5  # exchanges before the prober's clock is set to the drill's

Open = Callable[[tuple[str, ...]], Line]  # starts a program in the outpost


def programs() -> dict[str, bytes]:
    """What the outpost runs, by name."""
    return {path.name: path.read_bytes() for path in (Path(outpost.__file__), Path(prober.__file__))}


class Distant:
    """The channel to that prober. A thread keeps asking, and again over a new connection after each one that was cut.

    `lost` says why the outpost is gone for good, where anybody knows.
    """

    pid: int | None = None
    patience_s = outpost.LEASE_S

    def __init__(self, reach: Open, lost: Callable[[], str], folder: Path) -> None:
        self._reach, self._lost, self._folder = reach, lost, folder
        self._have = dict.fromkeys(outpost.FILES, 0)
        self._unheard: Queue[str] = Queue()
        self._heard = self._told = 0
        self._tell: list[tuple[int, str]] = []
        self._lock, self._over, self._wake = threading.Lock(), threading.Event(), threading.Event()
        self._line: Line | None = None
        self._reached = time.monotonic()
        self._gone = ""  # why nothing more will come
        self._exchanges: list[Exchange] = []  # on the two machines' own clocks; what is not yet written
        self._origins: tuple[float, float] | None = None  # of the drill on each of them
        self._thread = threading.Thread(target=self._follow, name="prober's outpost", daemon=True)
        self._thread.start()

    # --- the channel ---

    def configured(self, config: JSON) -> JSON:
        """With a folder there, and with the drill's origin as that machine's clock would have shown it, as well as is known."""
        deadline = time.monotonic() + self.patience_s
        while len(self._exchanges) < ACQUAINTED and not self._gone and time.monotonic() < deadline:
            self._over.wait(POLL_S)
        if not self._exchanges:
            raise ProbingError(f"the prober's outpost has not been reached: {self._gone or f'not within {self.patience_s:g} s'}")
        best = min(self._exchanges, key=lambda exchange: exchange.round_trip_s)
        origin = float(config["origin"])
        self._origins = (origin, origin + best.ahead((best.asked_s + best.heard_s) / 2).middle_s)
        return {**config, "folder": "samples", "origin": self._origins[1], "keep_raw": True}

    def tell(self, line: str) -> None:
        if self._gone:
            raise ProbingError(self._gone)
        with self._lock:
            self._told += 1
            self._tell.append((self._told, line))
        self._wake.set()

    def hear(self, limit_s: float) -> str | None:
        deadline = time.monotonic() + limit_s
        while True:
            gone = self._gone  # looked at first: what was said before the end is heard
            with suppress(Empty):
                return self._unheard.get(timeout=min(POLL_S, max(0.0, deadline - time.monotonic())))
            if gone:
                raise ProbingError(gone)
            if time.monotonic() >= deadline:
                return None

    def alive(self) -> bool:
        return not self._gone

    def close(self, *, orderly: bool) -> str:
        self._over.set()
        self._wake.set()
        self._thread.join()
        missing = self._rest(self.patience_s if orderly else ANSWER_S)
        self._write_exchanges()
        prober.compress(str(self._folder))
        return missing

    def fetch(self, request: prober.Request, limit_s: float) -> bytes:
        """One answer from where the prober stands, by a process of its own (`golden.Fetch`)."""
        host, port, tls, _ = request.target
        url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        asked = {"url": url, "data": base64.b64encode(request.data).decode(), "limit_s": limit_s}
        try:
            line = self._reach(ASK)
            try:
                line.send(json.dumps(asked).encode() + b"\n")
                said: JSON = json.loads(line.line(limit_s + ANSWER_S) or '{"error": "no answer from the outpost"}')
            finally:
                line.close()
        except PlatformError as error:
            raise ConnectionError(str(error)) from error
        if "error" in said:
            raise ConnectionError(said["error"])
        return base64.b64decode(said["answer"])

    # --- the thread ---

    def _follow(self) -> None:
        try:
            while not self._over.is_set() and not self._gone:
                self._once()
        finally:
            if not self._over.is_set():
                self._gone = self._gone or "nobody reads the prober's samples any more"

    def _once(self) -> None:
        try:
            more = self._asked()
        except (PlatformError, OSError, ValueError) as error:  # ValueError: a line that was cut
            self._hang_up()
            self._gone = self._lost()
            if time.monotonic() - self._reached > outpost.LEASE_S:
                self._gone = f"the prober was out of reach for {outpost.LEASE_S:g} s, and has stopped: {error}"
            self._over.wait(RETRY_S)
        else:
            if not more:
                self._wake.wait(POLL_S)
            self._wake.clear()

    def _asked(self) -> bool:
        """One question and what its answer brings; whether there is more to fetch."""
        with self._lock:
            tell = list(self._tell)
        answer = self._exchange({"tell": tell, "heard": self._heard, "have": self._have})
        files = answer["files"]
        for name in sorted(files, key=lambda name: name == "probes.bin"):  # texts before what names them
            self._append(name, base64.b64decode(files[name]))
        with self._lock:
            self._tell = [each for each in self._tell if each[0] > answer["told"]]
        self._heard += len(answer["said"])
        for line in answer["said"]:
            self._unheard.put(line)
        if answer["ended"] is not None and not answer["more"]:
            self._gone = f"the prober has ended ({answer['ended']})"
        return bool(answer["more"])

    def _exchange(self, question: JSON) -> JSON:
        """Raises PlatformError, ValueError."""
        if self._line is None:
            self._line = self._reach(REACH)
        asked_s = time.monotonic()
        self._line.send(json.dumps(question).encode() + b"\n")
        said = self._line.line(ANSWER_S)
        heard_s = time.monotonic()
        if said is None:
            raise PlatformError("the prober's outpost does not answer")
        answer: JSON = json.loads(said)
        self._reached = heard_s
        self._exchanges.append(Exchange(asked_s, answer["clock"], heard_s))
        if self._origins and heard_s - self._exchanges[0].asked_s >= CLOCK_EVERY_S:
            self._write_exchanges()
        return answer

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with suppress(Exception):  # whatever a broken connection says when it is closed
                line.close()

    # --- what it writes ---

    def _append(self, name: str, data: bytes) -> None:
        """What a full disk does not take now is asked for again."""
        with (self._folder / name).open("ab", buffering=0) as file:
            self._have[name] += file.write(data)

    def _write_exchanges(self) -> None:
        """The one with the shortest round trip, on the drill's clock and the prober's."""
        if not self._exchanges or self._origins is None:
            return
        best = min(self._exchanges, key=lambda exchange: exchange.round_trip_s)
        here_s, there_s = self._origins
        told = {"asked": best.asked_s - here_s, "shown": best.shown_s - there_s, "heard": best.heard_s - here_s}
        with suppress(OSError), (self._folder / EXCHANGES).open("a", encoding="ascii") as file:
            file.write(json.dumps(told) + "\n")
        self._exchanges.clear()

    def _rest(self, limit_s: float) -> str:
        """Fetch what is left, compare all of it, and let the outpost end; what is missing or differs, in words."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                while self._asked():
                    pass
                digests = self._exchange({"digests": True})["digests"]
                self._exchange({"end": True})
                self._hang_up()
                break
            except (PlatformError, OSError, ValueError) as error:
                self._hang_up()
                if (lost := self._lost()) or time.monotonic() >= deadline:
                    return f"the rest of the samples could not be fetched from the prober's pod: {lost or error}"
                time.sleep(RETRY_S)
        differing = [name for name, (size, digest) in digests.items() if self._here(name) != (size, digest)]
        return f"not as in the prober's pod: {', '.join(differing)}" if differing else ""

    def _here(self, name: str) -> tuple[int, str]:
        path = self._folder / name
        content = path.read_bytes() if path.exists() else b""
        return len(content), hashlib.sha256(content).hexdigest()
