"""The engine's eye: the prober's process, and a live view of what it has seen so far."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .digests import Lookout
from .finished import InjectedFault
from .measure.live import LiveView
from .measure.measurement import Observed, Window, steady
from .measure.probing import Prober, ProbingError
from .measure.samples import SampleTail
from .measure.values import Baseline, LaneInfo, Probe
from .scenario import Scenario


class ProberLost(Exception):
    """The prober ended by itself: from here on nothing was observed."""


@dataclass
class Observer:
    """Polls the prober's samples into the live view. Keeps the probes of the baseline to judge the steady state."""

    scenario: Scenario
    lanes: Sequence[LaneInfo]
    prober: Prober
    tail: SampleTail
    view: LiveView
    moved: Callable[[], Iterable[tuple[str, str]]] = tuple  # replicas with a new address since the last call: name, URL
    digests: Lookout = field(default_factory=Lookout)
    _seen: list[Probe] = field(default_factory=list)
    _judged: bool = False

    @property
    def has_ledger(self) -> bool:
        return any(lane.kind == "ledger" for lane in self.lanes)

    def poll(self) -> None:
        """Take in what is new. Raises ProberLost when the prober is gone."""
        new = self.tail.new()
        self.view.feed(new)
        if not self._judged:
            self._seen.extend(new)
        if not self.prober.alive():
            raise ProberLost("the prober ended by itself; nothing was observed from then on")
        try:
            for name, url in self.moved():
                self.prober.move(name, url)
        except ProbingError as error:
            raise ProberLost(str(error)) from error

    def baseline(self, start_s: float, end_s: float) -> Baseline:
        """The watch from `start_s` to `end_s` held against the scenario's steady state; the last such look is before the first fault."""
        faults: tuple[InjectedFault, ...] = ()
        window = Window(start_s, end_s, None, end_s)
        observed = Observed(tuple(self.lanes), tuple(self._seen), (), (), (), faults, window)
        return steady(self.scenario, observed)

    def judged(self) -> None:
        """The baseline is over; its answers need not be kept any longer."""
        self._judged, self._seen = True, []

    def read_back(self, timeout_s: float) -> dict[str, int]:
        """Have every acknowledged write read again; returns counts by what was found. Raises ProberLost."""
        try:
            return self.prober.read_back(timeout_s)
        except ProbingError as error:  # a prober that cannot write what it reads is as good as gone
            raise ProberLost(str(error)) from error
