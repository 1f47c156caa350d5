"""When a change was made, on this machine's clock, by the order in which the cluster's store wrote.

A timestamp in an object is cut to whole seconds and comes from another machine's clock; a watch tells of a change late by an amount
that nobody knows. So neither bounds a moment from below. What does is a read: a list without a resourceVersion is answered from
the store as it stands after the question was asked, and says which revision that is. A change with a later revision was made after
that question; one with that revision or an earlier one was made before the answer. Revisions are numbers that grow with
every change (kubernetes/enhancements, KEP-5504, and etcd's), comparable within one resource: events may lie in a store of their own.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class Dates:
    """The reads of one resource so far."""

    _revisions: list[int] = field(default_factory=list)  # ascending, each once
    _asked_s: list[float] = field(default_factory=list)  # of the last read that found this revision
    _answered_s: list[float] = field(default_factory=list)  # of the first one
    _lock: Lock = field(default_factory=Lock)

    def read(self, revision: int, asked_s: float, answered_s: float) -> None:
        """A read that was asked and answered at these moments found the store at that revision."""
        with self._lock:
            if self._revisions and revision == self._revisions[-1]:
                self._asked_s[-1] = max(self._asked_s[-1], asked_s)
            elif not self._revisions or revision > self._revisions[-1]:  # two reads that overlap may end in the wrong order
                self._revisions.append(revision)
                self._asked_s.append(asked_s)
                self._answered_s.append(answered_s)

    def between(self, after: int, revision: int, seen_s: float) -> tuple[float, float]:
        """The bounds of a change that was made after one revision and by another, and known here at `seen_s`.

        Without a read as early as that nothing bounds it from below but the beginning of this clock.
        """
        with self._lock:
            earlier, later = bisect_right(self._revisions, after) - 1, bisect_left(self._revisions, revision)
            lo_s = self._asked_s[earlier] if earlier >= 0 else 0.0
            hi_s = min(seen_s, self._answered_s[later]) if later < len(self._revisions) else seen_s
        return min(lo_s, hi_s), hi_s
