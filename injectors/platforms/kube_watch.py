"""What changes about a service's pods while a drill runs, seen by a watch in a thread of its own."""

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .base import PlatformError, Target
from .kube_api import KubeApi, place
from .kube_find import Finder

RETRY_S = 1.0


@dataclass
class Watcher:
    """Follows the pods of a namespace; whenever one changes, looks which of the service's slots answer somewhere else."""

    api: KubeApi
    finder: Finder
    _moves: deque[tuple[str, str]] = field(default_factory=deque)
    _known: dict[str, str] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def moved(self) -> tuple[tuple[str, str], ...]:
        """Slot and URL of what moved since the last call; the first call begins to watch."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="pod watch", daemon=True)
            self._thread.start()
        return tuple(self._moves.popleft() for _ in range(len(self._moves)))

    def begin_from(self, targets: Sequence[Target]) -> None:
        """Where everything stood when somebody last looked; what moves from there on is told."""
        if self._thread is None:
            self._known = {target.name: target.details["url"] for target in targets if target.details["url"]}

    def close(self) -> None:
        """The thread ends with its next event or its request's time-out; it holds nothing that must be waited for."""
        self._over.set()

    def _follow(self) -> None:
        pods = place("pods", self.finder.spec.namespace)
        while not self._over.is_set():
            with suppress(
                PlatformError
            ):  # the API server is away, or a right is missing: what stands where stays as it was known
                _, version = self.api.items(pods)
                self._look()
                for _ in self.api.watch(pods, version, self._over.is_set):
                    self._look()
            self._over.wait(RETRY_S)

    def _look(self) -> None:
        for target in self.finder.all():
            url = target.details["url"]
            if url and self._known.get(target.name, url) != url:
                self._moves.append((target.name, url))
            if url:
                self._known[target.name] = url
