"""Where a service's containers answer while a drill runs: the engine gives one that starts again another address as it likes."""

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .base import PlatformError, Target
from .docker_find import Finder

LOOK_EVERY_S = 0.5


@dataclass
class Addresses:
    """Looks in a thread of its own, from the first question on."""

    finder: Finder
    _known: dict[str, str] = field(default_factory=dict)  # name -> URL
    _moves: deque[tuple[str, str]] = field(default_factory=deque)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin_from(self, targets: Sequence[Target]) -> None:
        """Where everything stood when somebody last looked; what moves from there on is told."""
        if self._thread is None:
            self._known = {target.name: target.details["url"] for target in targets if target.details["url"]}

    def moved(self) -> tuple[tuple[str, str], ...]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="addresses", daemon=True)
            self._thread.start()
        return tuple(self._moves.popleft() for _ in range(len(self._moves)))

    def close(self) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            with suppress(PlatformError):  # an engine that restarts: what stands where stays as it was known
                for target in self.finder.all():
                    url = target.details["url"]
                    if url and self._known.get(target.name, url) != url:
                        self._moves.append((target.name, url))
                    if url:
                        self._known[target.name] = url
