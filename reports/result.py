"""result.json: what scripts read. The shape is `blackstart.result/v1`; it only ever grows."""

import math
from collections.abc import Mapping
from typing import Any

from ..drills.finished import FinishedRun, InjectedFault
from ..drills.measure.load_values import PodLoad
from ..drills.measure.values import Interval, LaneReport, Outage, Range
from ..drills.verdict import Judged
from .figures import at_most, bounds
from .result_digests import measured_digests, told_digests
from .result_schema import SCHEMA_NAME, result_schema

__all__ = ["result", "result_schema"]

_DIGITS = 6  # microseconds: below what any clock here resolves


def result(run: FinishedRun) -> dict[str, Any]:
    """The whole of result.json as plain JSON values. Times in seconds; what could not be had is None, with its reason."""
    measurements = _measurements(run)
    return {
        "schema": SCHEMA_NAME,
        "run": run.run,
        "verdict": str(run.judgement.verdict),
        "exit_code": int(run.judgement.exit_code),
        "reasons": [{"code": r.code, "text": r.text} for r in run.judgement.reasons] + _missing(run, measurements),
        "scenario": {"name": run.scenario.name, "title": run.scenario.title, "digest": run.scenario_digest},
        "service": {"name": run.service.name, "platform": run.service.platform},
        "hardware": run.hardware,
        "started": run.started_wall,
        "ended_s": _number(run.ended_s),
        "objectives": [_objective(judged) for judged in run.judgement.objectives],
        "measurements": measurements,
        "faults": [_fault(fault) for fault in run.faults],
        "outages": [_outage(outage) for outage in run.measurement.outages],
        "anatomy": _anatomy(run),
        "lanes": [_lane(lane) for lane in run.measurement.lanes],
        "baseline": _baseline(run),
        "load": _load(run),
        "digests": told_digests(run),
        "clock": _clock(run),
        "journal": {
            "intact": run.journal_intact,
            "records": len(run.journal),
            "head": run.journal[-1].digest if run.journal else None,
        },
        "environment": dict(run.environment),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, _DIGITS)


def _pair(interval: Interval | None, **more: Any) -> dict[str, Any] | None:
    return None if interval is None else {"lo_s": _number(interval.lo_s), "hi_s": _number(interval.hi_s), **more}


def _moment(interval: Interval | tuple[float, float] | None) -> list[float | None] | None:
    if interval is None:
        return None
    lo, hi = (interval.lo_s, interval.hi_s) if isinstance(interval, Interval) else interval
    return [_number(lo), _number(hi)]


def _objective(judged: Judged) -> dict[str, Any]:
    told: dict[str, Any] = {"name": judged.name, "relation": judged.relation, "unit": judged.unit, "measured": judged.measured}
    lo, hi = bounds(judged) or (None, None)
    if judged.unit == "s":
        told |= {"target_s": judged.target, "lo_s": _number(lo), "hi_s": _number(hi)}
    else:
        told |= {"target": judged.target, "value": _number(lo if lo == hi else None)}
        told |= {"lo": judged.value.lo, "hi": judged.value.hi} if isinstance(judged.value, Range) else {}
    return told | {"censored": judged.censored, "verdict": str(judged.verdict), "text": judged.text}


def _measurements(run: FinishedRun) -> dict[str, Any]:
    found = run.measurement
    return {
        "recovery_time": _recovery_time(run),
        "recovery_time_from_fault": _pair(found.recovery.from_fault),
        "time_to_redundancy": _pair(found.recovery.redundancy),
        "time_to_detect": _by_source(found.time_to_detect),
        "data_loss": _data_loss(run),
        "quality_loss": _quality_loss(run),
        "availability": _availability(run),
        "streams": _streams(run),
        "health_honesty_gap": _by_source(found.health_honesty_gap),
        **measured_digests(run),
    }


def _recovery_time(run: FinishedRun) -> dict[str, Any] | None:
    """An interval; from 0 to the longest gap between samples where nothing was seen; open above where it never ended."""
    recovery = run.measurement.recovery
    if recovery.recovery_time is not None and not recovery.masked:
        return _pair(recovery.recovery_time, clock="impact", masked=False, censored=False)
    if recovery.masked:
        return {"lo_s": 0.0, "hi_s": _number(recovery.longest_gap_s), "clock": "impact", "masked": True, "censored": False}
    if recovery.censored_after_s is not None:
        return {"lo_s": _number(recovery.censored_after_s), "hi_s": None, "clock": "impact", "masked": False, "censored": True}
    return None


def _by_source(gaps: Mapping[str, Interval | None]) -> dict[str, Any]:
    return {source: _pair(gap) for source, gap in gaps.items()}


def _data_loss(run: FinishedRun) -> dict[str, Any] | None:
    loss = run.measurement.data_loss
    if loss is None:
        return None
    counts = {name: getattr(loss, name) for name in ("acknowledged", "lost", "duplicated", "corrupt", "indeterminate", "unread")}
    # `oldest_lost_s` is the figure that the objective is held against: the upper bound.
    oldest = None if loss.oldest_lost is None else _number(loss.oldest_lost.hi_s)
    return counts | {
        "oldest_lost_s": oldest,
        "oldest_lost": _pair(loss.oldest_lost),
        "newest_survivor": _pair(loss.newest_survivor),
        "lost_ids": list(loss.lost_ids),
    }


def _quality_loss(run: FinishedRun) -> dict[str, Any] | None:
    loss = run.measurement.quality_loss
    if loss is None:
        return None
    moments = {"first_s": _number(loss.first_s), "last_s": _number(loss.last_s)}
    return {"wrong_answers": loss.wrong_answers, "checked": loss.checked, **moments, "backends": list(loss.backends)}


def _availability(run: FinishedRun) -> dict[str, Any] | None:
    found = run.measurement.availability
    if found is None:
        return None
    shares = {name: _number(getattr(found, name)) for name in ("time", "requests", "users")}
    return shares | {"requests_total": found.requests_total}


def _streams(run: FinishedRun) -> dict[str, Any] | None:
    found = run.measurement.streams
    if found is None:
        return None
    counts = {name: getattr(found, name) for name in ("opened", "completed", "cut", "tokens_lost")}
    return counts | {"longest_gap_s": _number(found.longest_gap_s), "at_stake": found.at_stake}


def _fault(fault: InjectedFault) -> dict[str, Any]:
    return {
        "kind": fault.kind,
        "targets": [str(target["name"]) for target in fault.targets],
        "identities": [str(target["identity"]) for target in fault.targets],
        "injecting_s": _number(fault.injecting_s),
        "effective": None if fault.effective is None else _pair(Interval(*fault.effective)),
        "evidence": None if fault.evidence is None else dict(fault.evidence),
        "evidence_before_undo": None if fault.still is None else dict(fault.still),
        "problem": fault.problem or None,
        "undone": fault.undone is not None,
        "undone_s": _moment(fault.undone),
        "undo_verified": fault.undo_verified,
        "undo_evidence": None if fault.undo_evidence is None else dict(fault.undo_evidence),
        "undo_problem": fault.undo_problem or None,
    }


def _outage(outage: Outage) -> dict[str, Any]:
    duration = outage.duration
    return {
        "lane": outage.lane,
        "lo_s": None if duration is None else _number(duration.lo_s),
        "hi_s": None if duration is None else _number(duration.hi_s),
        "start_s": _moment(outage.start),
        "end_s": _moment(outage.end),
        "classes": dict(outage.classes),
        "flaps": outage.flaps,
    }


def _lane(lane: LaneReport) -> dict[str, Any]:
    counts = {name: getattr(lane, name) for name in ("good", "slow", "bad", "void", "blips")}
    times = {
        name: _number(getattr(lane, name)) for name in ("latency_median_s", "latency_p95_s", "first_token_p95_s", "slow_limit_s")
    }
    return {"name": lane.info.name, "kind": lane.info.kind, **counts, **times, "classes": dict(lane.classes)}


def _anatomy(run: FinishedRun) -> dict[str, Any]:
    """Both lists are empty where there is nothing to tell; a step that never came is not in them."""
    found = run.measurement
    return {
        "parts": [
            {
                "until": part.until,
                "of": part.of or None,
                "start_s": _number(part.start_s),
                "end_s": _number(part.end_s),
                **(_pair(part.length) or {}),
                "share": _number(part.share),
            }
            for part in found.anatomy
        ],
        "steps": [
            {
                "what": one.what,
                "name": one.name,
                "identity": one.identity,
                "service": one.service or None,
                "at_s": _moment(one.at),
            }
            for way in found.ways.values()
            for one in way
        ],
    }


def _baseline(run: FinishedRun) -> dict[str, Any]:
    baseline = run.measurement.baseline
    return {
        "start_s": _number(baseline.start_s),
        "end_s": _number(baseline.end_s),
        "steady": baseline.steady,
        "why_not": list(baseline.why_not),
    }


def _load(run: FinishedRun) -> dict[str, Any] | None:
    """Null where the prober gives all of it. A pod's streams are null where nothing was injected or it had none."""
    given = run.load
    if given is None:
        return None
    counts = {name: getattr(given, name) for name in ("asked", "sent", "streams_opened", "streams_cut")}
    share = _number(given.good_share)
    return {"pods": len(given.pods), **counts, "good_share": share, "per_pod": [_pod_load(pod) for pod in given.pods]}


def _pod_load(pod: PodLoad) -> dict[str, Any]:
    return {
        "pod": pod.name,
        "asked": pod.asked,
        "sent": pod.sent,
        "good_share": _number(pod.good_share),
        "streams_opened": pod.streams.opened if pod.streams else None,
        "streams_cut": pod.streams.cut if pod.streams else None,
        "why_not": pod.why_not or None,
    }


def _clock(run: FinishedRun) -> dict[str, Any]:
    prober = run.measurement.prober
    return {
        "prober_period_s": _number(prober.period_s),
        "prober_late_p50_s": _number(prober.late_p50_s),
        "prober_late_p99_s": _number(prober.late_p99_s),
        "prober_late_max_s": _number(prober.late_max_s),
        "coverage": _number(prober.coverage),
        "void_share": _number(prober.void_share),
        "clock_step_s": _number(prober.clock_step_s),
        "clock_uncertainty_s": _number(prober.clock_uncertainty_s),
        "measured_from": run.service.probe.from_,
        "trusted": prober.trusted,
        "why_not": list(prober.why_not),
    }


def _missing(run: FinishedRun, measurements: Mapping[str, Any]) -> list[dict[str, str]]:
    """A reason for every figure that is null, and those that the measurement gave for anything else."""
    why = dict(run.measurement.missing)
    for figure, value in measurements.items():
        if value is None:
            why.setdefault(figure, _why_null(run, figure))
        elif figure in {"time_to_detect", "health_honesty_gap"}:
            unseen = [source for source, gap in value.items() if gap is None]
            if unseen and figure == "time_to_detect" and run.measurement.recovery.impact is None:
                why.setdefault(figure, "it counts from an interruption, and none was seen")
            elif unseen:
                why.setdefault(figure, f"not seen within {at_most(_watched(run))} on {', '.join(unseen)}")
    for outage in run.measurement.outages:
        if outage.end is None:
            why.setdefault(f"outages.{outage.lane}", "it had not ended when watching ended")
    recovery = run.measurement.recovery
    if recovery.censored_after_s is not None and recovery.recovery_time is None:
        why.setdefault("recovery_time", f"not recovered within {at_most(recovery.censored_after_s)}: only a lower bound is known")
    return [{"code": "not-measured", "figure": figure, "text": f"{figure}: {text}"} for figure, text in sorted(why.items())]


def _watched(run: FinishedRun) -> float:
    impact = run.measurement.recovery.impact
    return run.ended_s - (impact.lo_s if impact else run.measurement.baseline.end_s)


def _why_null(run: FinishedRun, figure: str) -> str:
    if not any(fault.injecting_s is not None for fault in run.faults):
        return "nothing was injected"
    if figure == "recovery_time_from_fault" and run.measurement.recovery.masked:
        return f"no interruption longer than {at_most(run.measurement.recovery.longest_gap_s)} was seen"
    if figure.startswith(("recovery", "time_to_redundancy")):
        return "the end of the recovery was not seen while the service was watched"
    return "the drill had no probes for it"
