"""What a drill yields: figures as intervals, on the drill's monotonic clock (0 = the drill's start, unit seconds)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # which are made of intervals
    from .digest_values import Digests

ROUNDING = 1e-6  # 2.91 * 100 is 291.00000000000006, and no bound must move by a digit for that


@dataclass(frozen=True)
class Interval:
    """A moment or a duration known to lie within [lo_s, hi_s]."""

    lo_s: float
    hi_s: float

    @property
    def middle_s(self) -> float:
        return (self.lo_s + self.hi_s) / 2

    @property
    def width_s(self) -> float:
        return self.hi_s - self.lo_s

    def minus(self, earlier: "Interval") -> "Interval":
        """The duration from `earlier` to this moment; never below zero."""
        return Interval(max(0.0, self.lo_s - earlier.hi_s), max(0.0, self.hi_s - earlier.lo_s))


@dataclass(frozen=True)
class Range:
    """A count known to lie within [lo, hi]."""

    lo: int
    hi: int

    def __str__(self) -> str:
        return f"{self.lo:,}" if self.lo == self.hi else f"{self.lo:,} to {self.hi:,}"


def format_interval(value: Interval) -> str:
    """`2.93 s [2.91, 2.95]`: no more digits than the half-width justifies; bounds are rounded outward, so they still hold."""
    half_s = value.width_s / 2
    digits = 3 if half_s <= 0 else min(3, max(0, math.ceil(-math.log10(half_s) - ROUNDING)))
    scale = 10**digits
    lo, hi = math.floor(value.lo_s * scale + ROUNDING) / scale, math.ceil(value.hi_s * scale - ROUNDING) / scale
    return f"{value.middle_s:.{digits}f} s [{lo:.{digits}f}, {hi:.{digits}f}]"


def noticed_by(source: str) -> str:
    """A name of `time_to_detect` as people call it."""
    return {"endpoint-removed": "Kubernetes (endpoint removed)"}.get(source, source)


class Probe(NamedTuple):
    """One observation by a lane. `sent_s`, `end_s` are absolute on the drill's clock; `first_s` is None without a first byte."""

    lane: str
    sequence: int
    intended_s: float
    sent_s: float
    first_s: float | None
    end_s: float
    outcome: str  # a name of prober.OUTCOMES: ok, refused, reset, timeout, stall, truncated, status-5xx, wrong-answer, void, ...
    status: int  # HTTP status, 0 without one
    backend: str  # who answered, by the x-backend or server's own header; "" unknown
    tokens: int  # stream lanes: tokens delivered
    gap_s: float  # stream lanes: the longest silence between tokens
    text: str  # wrong answers and errors: what came instead, shortened


@dataclass(frozen=True)
class LaneInfo:
    """What a lane does, as the prober was told."""

    name: str
    kind: str  # fresh, reuse, semantic, stream, replica, workload, health, ledger, control
    url: str
    period_s: float
    component: str = ""  # replica lanes: which one


@dataclass(frozen=True)
class Milestone:
    """A step of one replica's way out of service or back (injectors.platforms.base.STEPS), as the platform's record dates it."""

    what: str
    name: str  # the slot that the replica stands in
    identity: str
    service: str  # whose endpoint, where it is one
    at: Interval


@dataclass(frozen=True)
class Part:
    """One stretch of a recovery, from `start_s` to `end_s`, which lie in the middle of what is known of these moments.

    `until` says what ended it and `of` whose moment that was; `share` is of the whole recovery.
    """

    until: str  # a name of anatomy.ORDER
    of: str
    start_s: float
    end_s: float
    length: Interval
    share: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Write:
    """One ledger entry. Moments are on the drill's clock; `acknowledged_s` is None unless the service acknowledged it."""

    id: str
    invoked_s: float
    acknowledged_s: float | None
    outcome: str  # acked, failed, indeterminate


@dataclass(frozen=True)
class ReadBack:
    """What became of one write: `present`, `lost`, `corrupt`, `duplicated`, `unread` (the read never got an answer)."""

    id: str
    found: str


@dataclass(frozen=True)
class Stretch:
    """A lane in one state for a while: up, down, degraded, recovering, unknown."""

    state: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Outage:
    """A lane was down: `start` and `end` are moments, `duration` follows; `end` None: it had not ended when watching ended."""

    lane: str
    start: Interval
    end: Interval | None
    duration: Interval | None
    classes: Mapping[str, int]
    flaps: int = 0


@dataclass(frozen=True)
class LaneReport:
    """One lane over the whole drill."""

    info: LaneInfo
    good: int
    slow: int
    bad: int
    void: int
    classes: Mapping[str, int]
    latency_median_s: float | None  # of right answers in the baseline
    latency_p95_s: float | None
    first_token_p95_s: float | None
    slow_limit_s: float
    stretches: tuple[Stretch, ...]
    blips: int  # bad runs too short to be an outage
    longest_gap_s: float  # the longest time without an observation
    hold_s: float = 0.0  # how long right answers had to hold for a recovery
    hold_scaled: bool = False  # a short `settle` shrank that window below what shows an error rate
    overdue_s: float = 0.0  # what was unanswered for no longer when watching ended says nothing


@dataclass(frozen=True)
class Baseline:
    """The watch before the first fault, held against `steady_state`."""

    start_s: float
    end_s: float
    steady: bool
    why_not: tuple[str, ...] = ()
    too_few: bool = False  # a lane has too few answers: more may come


@dataclass(frozen=True)
class Recovery:
    """The interruption as users saw it. No impact: `masked`, and nothing longer than `longest_gap_s` can have gone unseen."""

    impact: Interval | None = None
    recovered: Interval | None = None
    recovery_time: Interval | None = None
    from_fault: Interval | None = None
    redundancy: Interval | None = None
    not_redundant_s: float | None = None  # replicas were still missing when watching ended: longer than this
    censored_after_s: float | None = None  # not recovered: longer than this
    masked: bool = False
    longest_gap_s: float = 0.0
    follows: str = ""  # which event the impact follows: fault 0 effective, fault 0 undone, ...
    degraded_s: float = 0.0  # some answers were bad without an interruption, for so long
    revived: bool = False  # a target was killed that nothing but the undo starts again


@dataclass(frozen=True)
class DataLoss:
    """Counts of acknowledged writes after settling, with the age of the oldest lost one when the fault struck."""

    acknowledged: int
    lost: int
    duplicated: int
    corrupt: int
    indeterminate: int
    unread: int
    oldest_lost: Interval | None
    newest_survivor: Interval | None
    lost_ids: tuple[str, ...] = ()
    before_fault: int = 0  # acknowledged in the time before the fault that the objective looks at
    reaches_back: bool = False  # nothing older than the oldest lost write survived: the loss may be older than the ledger


@dataclass(frozen=True)
class QualityLoss:
    """Wrong answers served with 200."""

    checked: int
    wrong_answers: int
    first_s: float | None = None
    last_s: float | None = None
    expected: str = ""
    example: str = ""
    backends: tuple[str, ...] = ()
    on_replicas: int = 0  # seen only by asking replicas directly: users did not get these


@dataclass(frozen=True)
class Availability:
    """From the first fault to the end of watching: of time, of requests, and over lanes (user-uptime)."""

    time: float
    requests: float
    users: float
    requests_total: int


@dataclass(frozen=True)
class Streams:
    """Long streaming answers from the first fault on.

    `at_stake` of them were open on a target when it was hit; None: the answers do not tell who gave them, or no replica was a target.
    """

    opened: int
    completed: int
    cut: int
    tokens_lost: int
    longest_gap_s: float
    at_stake: int | None = None


@dataclass(frozen=True)
class ProberHealth:
    """Whether the measurement can be trusted."""

    period_s: float
    late_p50_s: float
    late_p99_s: float
    late_max_s: float
    coverage: float
    void_share: float
    clock_step_s: float
    trusted: bool
    why_not: tuple[str, ...] = ()
    clock_uncertainty_s: float = 0.0  # how far a moment of the journal may be off against the probes, where they have two clocks


@dataclass(frozen=True)
class Measurement:
    """Everything that the raw samples and the journal yield; None where a figure could not be had, with why in `missing`."""

    baseline: Baseline
    recovery: Recovery
    time_to_detect: Mapping[str, Interval | None]
    health_honesty_gap: Mapping[str, Interval | None]
    data_loss: DataLoss | None
    quality_loss: QualityLoss | None
    availability: Availability | None
    streams: Streams | None
    lanes: tuple[LaneReport, ...]
    outages: tuple[Outage, ...]
    prober: ProberHealth
    missing: Mapping[str, str] = field(default_factory=dict)
    ways: Mapping[str, tuple[Milestone, ...]] = field(default_factory=dict)  # by slot
    anatomy: tuple[Part, ...] = ()
    digests: "Digests | None" = None  # where the lane was on
