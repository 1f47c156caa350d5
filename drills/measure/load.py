"""How much load there really was, where several pods give it: each told by its own samples, on its own clock.

Only those of the prober's own pod are what a drill is judged by. A pod that did not give its share puts the drill in doubt: with less load
than the scenario asks for, the service had an easier time.
"""

from collections.abc import Mapping, Sequence

from ..scenario import Scenario
from .classify import Grade
from .figures import streams
from .lane import Lane, build_lanes, by_kind
from .lanes import load_named
from .load_values import LoadGiven, PodLoad
from .observed import Observed, on_the_probers_clock
from .prober_health import kept_schedule, neglected

LEAST_OF_LOAD = 0.95  # of a pod's own requests; a few of hundreds are no easier time for the service
LEAST_GOOD = 0.5  # before the fault; a pod that cannot reach the service asks nobody
PROBER = "prober"  # the pod that the drill is measured from


def load_given(scenario: Scenario, observed: Sequence[Observed], lost: Mapping[int, str]) -> LoadGiven:
    """From what each pod saw, the prober's own first, with the journal's moments; the window ends where the load did.

    `lost`: by index of the others, why one did not last to the end, or what of its samples is missing.
    """
    found = [_given(scenario, PROBER, observed[0], None)]
    found += [_given(scenario, load_named(index), each, lost.get(index, "")) for index, each in enumerate(observed[1:])]
    return LoadGiven(tuple(found))


def _given(scenario: Scenario, name: str, seen: Observed, lost: str | None) -> PodLoad:
    """`lost` None: the prober's own, whose failings are told elsewhere."""
    observed = on_the_probers_clock(seen)
    lanes = build_lanes(scenario, observed)
    start_s, end_s = observed.window.baseline_start_s, observed.window.end_s
    asked = scenario.load.share_of(0).rate * max(0.0, end_s - start_s)
    marks = [mark for lane in by_kind(lanes, "workload") for mark in _within(lane, start_s, end_s)]
    why_not = "" if lost is None else lost or "; ".join(_why_not(scenario, observed, lanes))
    return PodLoad(name, round(asked), len(marks), marks.count(Grade.GOOD), streams(observed, lanes), why_not)


def _why_not(scenario: Scenario, observed: Observed, lanes: Sequence[Lane]) -> list[str]:
    """Why the share of a pod that does nothing else was not given. Its control lane is even, and must not make up for the load itself."""
    found, workload = neglected(*kept_schedule(observed, lanes)), by_kind(lanes, "workload")
    coverage, void_share = kept_schedule(observed, workload) if workload else (1.0, 0.0)
    if not found and (coverage < LEAST_OF_LOAD or void_share > 1 - LEAST_OF_LOAD):
        found.append(f"{coverage * (1 - void_share):.0%} of its requests were really made, {LEAST_OF_LOAD:.0%} are needed")
    window = observed.window
    before = [mark for lane in workload for mark in _within(lane, window.baseline_start_s, window.fault_s or window.end_s)]
    if before and before.count(Grade.GOOD) < LEAST_GOOD * len(before):
        found.append(
            f"{before.count(Grade.GOOD)} of its {len(before)} requests before the fault were answered rightly and in time"
        )
    wanted = scenario.load.share_of(1).streams
    begun = sum(probe.tokens > 0 for lane in by_kind(lanes, "stream") for probe in lane.probes)
    if begun < wanted:
        found.append(f"{begun} of {wanted} streams began")
    return found


def _within(lane: Lane, start_s: float, end_s: float) -> list[Grade]:
    """Of what was due between these moments and sent."""
    probes = zip(lane.probes, lane.grades, strict=True)
    return [mark for probe, mark in probes if start_s <= probe.intended_s <= end_s and mark is not Grade.VOID]
