"""The scenario: a platform-neutral drill, as typed values."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated, Any, Literal

from ..injectors.base import Injector
from ..injectors.values import Rate, Share, Size

# Notes beside the documentation of a field (language/shapes.py): which whole numbers are allowed, and what a Bound's limit is.
ANY_NUMBER = range(2**63)
AT_LEAST_ONE = range(1, 2**63)


@dataclass(frozen=True)
class Bound:
    """A comparison with a limit: `>= 99%` or `<= 1s`. The limit is a Share (0 to 1), or seconds for a duration."""

    relation: Literal["<", "<=", ">", ">="]
    limit: float

    def holds(self, value: float) -> bool:
        return {
            "<": value < self.limit,
            "<=": value <= self.limit,
            ">": value > self.limit,
            ">=": value >= self.limit,
        }[self.relation]


@dataclass(frozen=True)
class Condition:
    """A bound that must hold for a while: `< 20% for 30s`."""

    bound: Bound
    window: timedelta


@dataclass(frozen=True)
class SteadyState:
    """What healthy means before anything is injected; not met, nothing is injected."""

    hold: Annotated[timedelta, "how long the service is watched before a fault"] = timedelta(seconds=10)
    success: Annotated[Bound | None, "share of right answers on every lane, e.g. `>= 99%`", Share] = Bound(">=", 0.99)
    first_token_p95: Annotated[Bound | None, "time to the first token, 95th percentile, e.g. `<= 1s`", timedelta] = None
    golden: Annotated[Literal["all", "off"], "every golden question must be answered right"] = "all"


@dataclass(frozen=True)
class Load:
    """Traffic beside the probes."""

    streams: Annotated[int, "long streaming completions open at once", ANY_NUMBER] = 0
    rate: Annotated[Rate, "short requests in one second, sent on schedule whether or not earlier ones are answered"] = Rate(0)
    retries: Annotated[int, "how often a client of `rate` asks again after a failure", ANY_NUMBER] = 0
    pods: Annotated[
        int, "how many pods share `rate` and `streams` evenly; more than one only with `probe: {from: in-cluster}`", range(1, 21)
    ] = 1

    def share_of(self, pod: int) -> "Load":
        """What one of the pods gives. The first, 0, is the prober's own, and takes the streams that are left over."""
        left_over = self.streams % self.pods if pod == 0 else 0
        return replace(self, streams=self.streams // self.pods + left_over, rate=Rate(self.rate / self.pods), pods=1)


@dataclass(frozen=True)
class DigestLane:
    """The lane that compares what model replicas have: its digest on disk and, where `model.served` says how, what they serve."""

    every: Annotated[
        timedelta, "how often each replica is looked at; a file is read again only once it was written or replaced"
    ] = timedelta(seconds=1)
    per_second: Annotated[Size, "the most that is read of model files within a second"] = Size(64 << 20)
    role: Annotated[
        Literal["replica", "prefill", "decode"] | None,
        "only workers of this role are compared, where those of others have another model file by design; by default all of the three",
    ] = None


@dataclass(frozen=True)
class Selector:
    """Which targets a fault hits: of one role, by name, at most so many."""

    role: Annotated[str | None, "what the target is to the service; by default the fault's usual victim"] = None
    names: Annotated[tuple[str, ...], "only these"] = ()
    count: Annotated[int | None, "how many; by default one", AT_LEAST_ONE] = None
    share: Annotated[Share | None, "how many, as a share of those there, rounded up"] = None


@dataclass(frozen=True)
class Fault:
    """One injection: what, where, when, for how long."""

    kind: Annotated[str, "what kind of fault; `blackstart faults` lists them"]
    injector: Injector = field(metadata={"yaml": False})
    target: Annotated[Selector, "what it hits; by default one of the fault's usual victims"] = field(default_factory=Selector)
    at: Annotated[timedelta, "when, from the moment that the steady state was met"] = timedelta(0)
    for_: Annotated[
        timedelta | None, "how long it holds, from its proof on; by default until recovery or the end of `observe`"
    ] = None
    deadline: Annotated[timedelta | None, "when the site ends it by itself; by default after all the drill's own times"] = None
    parameters: dict[str, Any] = field(default_factory=dict, metadata={"yaml": False})  # as written, to rebuild from a journal


@dataclass(frozen=True)
class Objectives:
    """What the drill is judged by; at least one is needed."""

    rto: Annotated[timedelta | None, "the longest interruption that users may see"] = None
    rpo: Annotated[timedelta | None, "the oldest acknowledged write that may be lost; 0s: none"] = None
    quality_loss: Annotated[int | None, "wrong answers served as right ones", ANY_NUMBER] = None
    availability: Annotated[Bound | None, "share of requests answered right, from the fault to the end, e.g. `>= 99%`", Share] = (
        None
    )
    time_to_detect: Annotated[timedelta | None, "from impact to the first sign on the service's own health endpoints"] = None
    time_to_redundancy: Annotated[timedelta | None, "from the fault to the last replica answering again"] = None
    streams_cut: Annotated[int | None, "open streams that may break", ANY_NUMBER] = None
    stream_gap: Annotated[timedelta | None, "the longest silence in the middle of an open stream"] = None
    time_to_single_digest: Annotated[
        timedelta | None, "how long replicas may have different models, or another than the manifest's; needs `digest`"
    ] = None
    mixed_answers: Annotated[
        int | None, "answers that replicas with another model may give meanwhile; needs `digest`", ANY_NUMBER
    ] = None


@dataclass(frozen=True)
class Abort:
    """When to stop and undo at once."""

    success: Annotated[Condition | None, "e.g. `< 20% for 30s`, over all model answers"] = None


@dataclass(frozen=True)
class BlastRadius:
    """The most that may be hit at one time."""

    targets: Annotated[int | None, "so many targets", AT_LEAST_ONE] = None
    share: Annotated[Share | None, "so large a share of the role's targets"] = None


@dataclass(frozen=True)
class RunbookStep:
    """A step for people, acknowledged with a time stamp."""

    step: Annotated[str, "what to do"]
    by: Annotated[str, "who"] = ""


@dataclass(frozen=True)
class Scenario:
    """A whole scenario file."""

    name: Annotated[str, "[a-z0-9-], at most 63 characters"]
    faults: Annotated[tuple[Fault, ...], "what is injected, in order of `at`"]
    objectives: Annotated[Objectives, "what the drill is judged by"]
    title: Annotated[str, "free text"] = ""
    rehearses: Annotated[tuple[str, ...], "the incident or published figure that this is about"] = ()
    certifies: Annotated[str, "what a pass proves, and what it does not"] = ""
    steady_state: Annotated[SteadyState, "what healthy means"] = field(default_factory=SteadyState)
    load: Annotated[Load, "traffic beside the probes"] = field(default_factory=Load)
    digest: Annotated[DigestLane | None, "compare the digests of what replicas have; `{}` for its defaults"] = None
    abort: Annotated[Abort, "when to stop at once"] = field(default_factory=Abort)
    blast_radius: Annotated[BlastRadius, "the most that may be hit"] = field(default_factory=BlastRadius)
    observe: Annotated[timedelta, "the longest wait for recovery"] = timedelta(seconds=90)
    settle: Annotated[timedelta, "how long recovery must hold"] = timedelta(seconds=10)
    seed: Annotated[int | None, "of the random choice of victims and phase; drawn and kept when left out", ANY_NUMBER] = None
    runbook: Annotated[tuple[RunbookStep, ...], "steps for people"] = ()
    lessons: Annotated[str, "shown in the report"] = ""
