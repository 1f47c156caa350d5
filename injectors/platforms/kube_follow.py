"""One resource of a namespace followed over time: every change of its objects, each with the bounds of its moment."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ..values import JSON
from .kube_api import KubeApi
from .kube_dates import Dates

FIRST, AGAIN, CHANGED, DELETED = "first", "again", "changed", "deleted"


class Seen(NamedTuple):
    """What a list shows (the FIRST one, or one AGAIN) or a watch tells (one object, CHANGED or DELETED), at which revision."""

    how: str
    objects: tuple[JSON, ...]
    revision: int

    @property
    def listed(self) -> bool:
        return self.how in {FIRST, AGAIN}


@dataclass
class Followed:
    """`fields` selects which objects are followed. Whoever takes a change asks `between` about it before taking the next."""

    api: KubeApi
    path: str
    fields: str = ""
    monotonic: Callable[[], float] = time.monotonic
    dates: Dates = field(default_factory=Dates)
    _known: int = 0  # everything up to this revision has been taken
    _begun: bool = False  # a list has been taken
    _seen_s: float = 0.0

    def read(self) -> int:
        """The revision that the store is at, by a list of one object; it dates what is seen before and after."""
        asked_s = self.monotonic()
        revision = int(self.api.get(self.path, limit=1)["metadata"]["resourceVersion"])
        self.dates.read(revision, asked_s, self.monotonic())
        return revision

    def changes(self, stop: Callable[[], bool]) -> Iterator[Seen]:
        """First what is there, then what changes, until `stop`. Raises PlatformError; called again, it goes on from there."""
        how = AGAIN if self._begun else FIRST
        revision = self.read()
        if not self._begun:
            self._known = revision
        items, version = self.api.items(self.path, fields=self.fields)
        yield from self._taken(Seen(how, tuple(items), int(version)))
        for kind, changed in self.api.watch(self.path, version, stop, fields=self.fields):
            how = DELETED if kind == "DELETED" else CHANGED
            yield from self._taken(Seen(how, (changed,), revision_of(changed)))

    def _taken(self, seen: Seen) -> Iterator[Seen]:
        self._seen_s = self.monotonic()
        yield seen
        self._known, self._begun = max(self._known, seen.revision), True

    def between(self, seen: Seen, revision: int) -> tuple[float, float]:
        """When a change was made that is known by this revision.

        A watch tells of every change, so that it was made at just that revision; between two lists it may have been at any.
        """
        return self.dates.between(self._known if seen.listed else revision - 1, revision, self._seen_s)


def revision_of(thing: JSON) -> int:
    return int(thing["metadata"]["resourceVersion"])
