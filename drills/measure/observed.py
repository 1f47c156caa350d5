"""What a drill saw, before anything is made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..finished import InjectedFault
from .values import LaneInfo, Milestone, Probe, ReadBack, Write


@dataclass(frozen=True)
class Window:
    """The moments between which figures are taken, from the journal. `fault_s`: the first injection began; None: there was none."""

    baseline_start_s: float
    baseline_end_s: float
    fault_s: float | None
    end_s: float


@dataclass(frozen=True)
class Observed:
    """The raw samples and what the journal tells. `clock` holds (seconds on the drill's clock, wall clock) pairs."""

    lanes: Sequence[LaneInfo]
    probes: Sequence[Probe]
    writes: Sequence[Write]
    read_back: Sequence[ReadBack]
    clock: Sequence[tuple[float, float]]
    faults: Sequence[InjectedFault]
    window: Window
    milestones: Sequence[Milestone] = ()
    unseen: Sequence[str] = ()  # which milestones the platform could not see, and why
