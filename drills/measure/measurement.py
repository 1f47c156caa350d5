"""Raw samples and the journal -> Measurement. Pure: the same samples give the same figures, on any machine, at any time."""

from collections.abc import Sequence
from dataclasses import replace

from ..scenario import Scenario
from ..service import STREAMED
from .anatomy import anatomy
from .digests import digests
from .figures import availability, honesty_gap, quality_loss, streams, time_to_detect
from .lane import Lane, build_lanes, report
from .ledger import data_loss
from .observed import Observed, Window
from .prober_health import prober_health
from .service_state import redundancy, service_state
from .steadiness import steady
from .values import Measurement, Outage
from .ways import endpoint_removal, ways

__all__ = ["Observed", "Window", "measure", "steady"]


def measure(scenario: Scenario, observed: Observed) -> Measurement:
    """Every figure of a drill, as far as the samples yield it; `missing` says why one is not there."""
    lanes = build_lanes(scenario, observed)
    service = service_state(scenario, observed, lanes)
    redundant = redundancy(observed, lanes)
    impact, steps = service.recovery.impact, ways(observed)
    found = Measurement(
        baseline=steady(scenario, observed),
        recovery=replace(service.recovery, redundancy=redundant.time, not_redundant_s=redundant.longer_than_s),
        time_to_detect={**time_to_detect(impact, observed, lanes), **endpoint_removal(impact, observed, steps)},
        health_honesty_gap=honesty_gap(observed, lanes, service.all),
        data_loss=data_loss(observed, scenario.objectives.rpo),
        quality_loss=quality_loss(observed, lanes),
        availability=availability(observed, lanes, service.all),
        streams=streams(observed, lanes),
        lanes=tuple(report(lane, observed) for lane in lanes),
        outages=_outages(lanes),
        prober=prober_health(observed, lanes, service.all),
        ways=steps,
        digests=digests(observed),
    )
    return replace(
        found, anatomy=anatomy(found, observed.faults), missing=_missing(found, observed, (service.why_not, redundant.why_not))
    )


def _outages(lanes: Sequence[Lane]) -> tuple[Outage, ...]:
    """Of every lane, in order of their beginning."""
    return tuple(sorted((found for lane in lanes for found in lane.outages), key=lambda found: found.start.lo_s))


def _missing(found: Measurement, observed: Observed, why_not: tuple[str, str]) -> dict[str, str]:
    """Why each figure that is not there is not there."""
    injected = observed.window.fault_s is not None
    why = {
        "recovery_time": why_not[0],
        "time_to_redundancy": why_not[1],
        "data_loss": "" if found.data_loss else "no write was made: the service file has no `ledger`",
        "quality_loss": "" if found.quality_loss else "no lane asks a question whose answer is known",
        "availability": "" if found.availability else "no request was made after the fault",
        "streams": ""
        if found.streams
        else f"no long streams were asked for (`load.streams`; they exist in protocol {STREAMED} only)",
        "time_to_detect": "" if found.time_to_detect else "no health endpoint was watched (`health` in the service file)",
        "anatomy": "; ".join(observed.unseen),
    }
    if observed.digests and found.digests and (nothing := found.digests.why_not):
        why |= dict.fromkeys(("time_to_single_digest", "mixed_answers"), nothing)
    recovery = found.recovery
    if recovery.impact is None and not recovery.masked and recovery.degraded_s > 0:
        why["recovery_time"] = f"no interruption, but for {recovery.degraded_s:.1f} s a part of the answers was bad"
    if not injected:
        # A figure of what a fault did needs one.
        why |= dict.fromkeys(("quality_loss", "availability", "streams", "time_to_redundancy"), "nothing was injected")
    blind = [source for source, gap in found.health_honesty_gap.items() if gap is None]
    if injected and blind:
        why["health_honesty_gap"] = f"{', '.join(blind)}: never 2xx before the fault"
    return {name: reason for name, reason in why.items() if reason}
