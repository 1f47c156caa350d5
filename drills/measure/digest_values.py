"""What the digest lane saw, and what it yields. Moments are seconds on the drill's clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .values import Interval

HAS, SERVES = "has", "serves"


class DigestSample(NamedTuple):
    """One look at one replica, at some moment between `lo_s` and `hi_s`."""

    kind: str  # has: the digest of its model on disk; serves: the revision that it names itself
    replica: str
    identity: str
    lo_s: float
    hi_s: float
    digest: str  # empty: unknown
    why: str = ""  # it is unknown


@dataclass(frozen=True)
class DigestStretch:
    """What a replica had for a while: good (as it should be), bad (another), unknown. The edges lie in the middle of what is known."""

    state: str
    digest: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class DigestRow:
    """One replica over the whole drill."""

    kind: str
    replica: str
    looks: int
    unknown: int
    stretches: tuple[DigestStretch, ...]
    longest_gap_s: float  # between two looks that told something


@dataclass(frozen=True)
class Deviation:
    """A replica had another digest than it should, first from `since` on. `what` differs in the files, as far as they were read."""

    kind: str
    replica: str
    digest: str
    since: Interval
    what: tuple[str, ...]


@dataclass(frozen=True)
class MixedAnswers:
    """Answers of the mixed window: of so many, at least `lo` and at most `hi` came from a replica that deviated then."""

    answers: int
    lo: int
    hi: int


@dataclass(frozen=True)
class Digests:
    """The lane's figures. `reference`: by kind, what every replica should have: the manifest's, else what all had before the fault.

    `skew` is the mixed window, from the first moment at which replicas differed to the last one: moments; its end is None where it
    had not ended by itself. `single_again` is its length; `longer_than_s` stands in its place where only our undo, or nothing, ended it.
    """

    reference: Mapping[str, str]
    seen: Mapping[str, int]  # how many different ones, by kind
    rows: tuple[DigestRow, ...]
    deviations: tuple[Deviation, ...]
    skew: tuple[Interval, Interval | None] | None
    single_again: Interval | None
    longer_than_s: float | None
    mixed: MixedAnswers | None
    why_not: str = ""  # there is no skew to tell of
