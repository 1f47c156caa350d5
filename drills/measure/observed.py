"""What a drill saw, before anything is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..finished import InjectedFault
from .clocks import Clocks
from .digest_values import DigestSample
from .values import Interval, LaneInfo, Milestone, Probe, ReadBack, Write


@dataclass(frozen=True)
class Window:
    """The moments between which figures are taken, from the journal. `fault_s`: the first injection began; None: there was none."""

    baseline_start_s: float
    baseline_end_s: float
    fault_s: float | None
    end_s: float


@dataclass(frozen=True)
class Observed:
    """The raw samples and what the journal tells. `clock` holds (seconds on the prober's clock, wall clock) pairs.

    `clocks` says how the prober's clock stands to the journal's, and how far off what was moved between them may be.
    """

    lanes: Sequence[LaneInfo]
    probes: Sequence[Probe]
    writes: Sequence[Write]
    read_back: Sequence[ReadBack]
    clock: Sequence[tuple[float, float]]
    faults: Sequence[InjectedFault]
    window: Window
    clocks: Clocks = Clocks()
    clock_uncertainty_s: float = 0.0
    milestones: Sequence[Milestone] = ()
    unseen: Sequence[str] = ()  # which milestones the platform could not see, and why
    digests: Sequence[DigestSample] = ()
    prefill: Sequence[str] = ()  # replicas of that role among those of the digests: decode workers answer from what they computed
    manifest: str = ""  # the digest that every replica must have; empty: none is named
    contents: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of a digest: file, or FILE:TENSOR -> its own digest


def on_the_probers_clock(observed: Observed) -> Observed:
    """The same with the journal's moments on the prober's clock, so that whatever follows from both is widened by what is not known."""
    clocks, window = observed.clocks, observed.window
    moments_s = [
        moment_s for fault in observed.faults for moment_s in (fault.injecting_s, fault.recovering_s) if moment_s is not None
    ]
    return replace(
        observed,
        faults=tuple(_moved(fault, clocks) for fault in observed.faults),
        window=Window(
            clocks.there(window.baseline_start_s).hi_s,
            clocks.there(window.baseline_end_s).lo_s,  # nothing of the fault is in it
            None if window.fault_s is None else clocks.there(window.fault_s).lo_s,
            clocks.there(window.end_s).middle_s,
        ),
        milestones=tuple(replace(each, at=_interval(each.at, clocks)) for each in observed.milestones),
        digests=tuple(
            each._replace(lo_s=clocks.there(each.lo_s).lo_s, hi_s=clocks.there(each.hi_s).hi_s) for each in observed.digests
        ),
        clock_uncertainty_s=clocks.uncertainty(moments_s or [window.end_s]),
    )


def _moved(fault: InjectedFault, clocks: Clocks) -> InjectedFault:
    """Of its two plain moments, the injection is the earliest possible, since no impact precedes its cause, and the undo the latest: what
    it does reaches the service no sooner than after the half round trip that lies between the two.
    """
    return replace(
        fault,
        injecting_s=None if fault.injecting_s is None else clocks.there(fault.injecting_s).lo_s,
        effective=_pair(fault.effective, clocks),
        recovering_s=None if fault.recovering_s is None else clocks.there(fault.recovering_s).hi_s,
        undone=_pair(fault.undone, clocks),
    )


def _pair(pair: tuple[float, float] | None, clocks: Clocks) -> tuple[float, float] | None:
    return None if pair is None else (clocks.there(pair[0]).lo_s, clocks.there(pair[1]).hi_s)


def _interval(known: Interval, clocks: Clocks) -> Interval:
    return Interval(clocks.there(known.lo_s).lo_s, clocks.there(known.hi_s).hi_s)
