"""What the page's sections say, as plain values for the templates. A section with nothing to say is None or empty."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from ..drills.finished import FinishedRun, InjectedFault
from ..drills.measure.values import Interval
from ..drills.measure.ways import REMOVED
from . import figures, words
from .anatomy import longest, of_last, steps, until
from .bars import anatomy_bar
from .chart import zero

# 99.9 % over 30 days, the usual error budget (Google SRE workbook, chapter 5).
_MONTHS_BUDGET_S = 43.2 * 60
_MOST_ROWS = 200
_MOST_FACTS = 40

MEANINGS = {
    "refused": "nobody listened",
    "reset": "the connection was cut",
    "unreachable": "no way to the host",
    "timeout": "nothing came before the time limit",
    "unanswered": "nothing had come when watching ended",
    "stall": "the answer fell silent half-way",
    "truncated": "the answer ended too early",
    "status-429": "turned away: too many requests",
    "status-4xx": "turned away as a wrong request",
    "status-5xx": "the server said that it failed",
    "error-in-200": "an error dressed as success",
    "empty": "an answer without content",
    "wrong-answer": "a wrong answer dressed as success",
    "wrong-model": "another model answered",
    "malformed": "an answer that cannot be read",
    "void": "the prober's own fault, not counted",
}


def moments(run: FinishedRun) -> list[dict[str, Any]]:
    """What happened when: seconds since impact, and wall time; in order of time."""
    recovery, found = run.measurement.recovery, []
    for fault in run.faults:
        label = f"{fault.kind}"
        if fault.injecting_s is not None:
            found.append((f"{label}: injected", Interval(fault.injecting_s, fault.injecting_s)))
        if fault.effective is not None:
            found.append((f"{label}: proven to be in effect", Interval(*fault.effective)))
        if fault.undone is not None:
            found.append((f"{label}: undone{'' if fault.undo_verified else ', not proven'}", Interval(*fault.undone)))
    if recovery.impact is not None:
        found.append(("impact: users saw it", recovery.impact))
        for source, gap in run.measurement.time_to_detect.items():
            if gap is not None and source != REMOVED:  # that is one of the steps below
                found.append((f"{source} noticed", Interval(recovery.impact.lo_s + gap.lo_s, recovery.impact.hi_s + gap.hi_s)))
    if recovery.recovered is not None:
        found.append(("recovered: right answers again, and they held", recovery.recovered))
    if (digests := run.measurement.digests) and digests.skew:
        start, end = digests.skew
        found.append(("replicas have different models", start))
        found += [("all replicas have one model again", end)] if end else []
    found += steps(run)
    return [_moment(run, label, moment) for label, moment in sorted(found, key=lambda item: item[1].middle_s)]


def _moment(run: FinishedRun, label: str, moment: Interval) -> dict[str, Any]:
    return {
        "label": label,
        "since": figures.signed(moment.middle_s - zero(run)[0]),
        "within": f"± {figures.latency(moment.width_s / 2)}" if moment.width_s else "exact",
        **_wall(run, moment.middle_s),
    }


def _wall(run: FinishedRun, at_s: float) -> dict[str, Any]:
    moment = datetime.fromisoformat(run.started_wall) + timedelta(seconds=at_s)
    return {"wall": f"{moment:%H:%M:%S}.{moment.microsecond // 10_000:02d}", "epoch": f"{moment.timestamp():.3f}"}


def faults(run: FinishedRun) -> list[dict[str, Any]]:
    """Each fault: identities, evidence and its source, undo and its proof, what a pass certifies."""
    return [
        {
            "kind": fault.kind,
            "targets": [_target(target) for target in fault.targets],
            "evidence": _proof(fault.evidence),
            "evidence_told": words.evidence(fault),
            "still": _proof(fault.still),
            "still_told": words.still(fault),
            "undo": _proof(fault.undo_evidence),
            "undo_told": words.undo(fault),
            "undo_verified": fault.undo_verified,
            "injected": fault.injecting_s is not None,
            "held": _held(fault),
            "certifies": fault.certifies,
            "bites": "at once" if fault.bites == "now" else "only once the target starts again",
        }
        for fault in run.faults
    ]


def _held(fault: InjectedFault) -> str:
    if fault.effective is None or fault.undone is None:
        return ""
    return figures.interval(Interval(*fault.undone).minus(Interval(*fault.effective)))


def _target(target: Mapping[str, Any]) -> dict[str, str]:
    details = ", ".join(f"{name} {_compact(value)}" for name, value in list(target["details"].items())[:8])
    return {"name": str(target["name"]), "role": str(target["role"]), "identity": str(target["identity"]), "details": details}


def _proof(evidence: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Source, detail and facts; facts that exist before and after become one row each."""
    if evidence is None:
        return None
    facts = dict(evidence.get("facts") or {})
    before, after, compared = facts.get("before"), facts.get("after"), []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        del facts["before"], facts["after"]
        names = list(dict.fromkeys([*before, *after]))[:_MOST_FACTS]
        compared = [(str(n), _compact(before.get(n, figures.NONE)), _compact(after.get(n, figures.NONE))) for n in names]
    flat = [(name, _compact(value)) for name, value in list(facts.items())[:_MOST_FACTS]]
    return {"source": str(evidence["source"]), "detail": str(evidence["detail"]), "facts": flat, "compared": compared}


def _compact(value: Any) -> str:
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= 400 else written[:399] + "…"


def recovery_parts(run: FinishedRun) -> dict[str, Any] | None:
    """The recovery cut at its milestones, with shares and the longest part named."""
    parts, recovered = run.measurement.anatomy, run.measurement.recovery.recovered
    if not parts:
        return None
    worst = longest(parts)
    rows = [
        {
            "until": until(part),
            "length": figures.interval(part.length),
            "share": figures.share(round(part.share, 3)),
            "longest": part is worst,
        }
        for part in parts
    ]
    whole = parts[-1].end_s - parts[0].start_s
    told = [
        f"The longest part ended when {until(worst)}: {worst.length_s:.2f} s, {figures.share(round(worst.share, 3))} of {whole:.2f} s.",
        f"Right answers then held for {max(0.0, run.ended_s - recovered.hi_s):.1f} s, until watching ended." if recovered else "",
        of_last(run),
    ]
    return {"rows": rows, "bar": anatomy_bar(parts, worst), "told": " ".join(filter(None, told))}


def answers(run: FinishedRun) -> dict[str, Any]:
    """Lanes, error classes, outages, streams, wrong answers, ledger, availability."""
    measurement = run.measurement
    classes: Counter[str] = Counter()
    for lane in measurement.lanes:
        classes.update(lane.classes)
    return {
        "lanes": [
            {
                "lane": lane,
                "median": figures.latency(lane.latency_median_s),
                "p95": figures.latency(lane.latency_p95_s),
                "first": figures.latency(lane.first_token_p95_s),
                "slow": figures.latency(lane.slow_limit_s),
                "gap": figures.latency(lane.longest_gap_s),
            }
            for lane in measurement.lanes
        ],
        "classes": [(name, number, MEANINGS.get(name, "")) for name, number in classes.most_common()],
        "outages": [_outage(run, outage) for outage in measurement.outages[:_MOST_ROWS]],
        "streams": measurement.streams,
        "quality": measurement.quality_loss,
        "ledger": ledger(run),
        "availability": _availability(run),
        "load": words.load(run),
        "honesty": [(source, _honesty(gap)) for source, gap in sorted(measurement.health_honesty_gap.items())],
    }


def _honesty(gap: Interval | None) -> str:
    return f"told the truth {figures.interval(gap)} late" if gap else "never said so"


def _outage(run: FinishedRun, outage: Any) -> dict[str, Any]:
    told = ", ".join(f"{name} {number:,}" for name, number in sorted(outage.classes.items(), key=lambda item: -item[1]))
    length = figures.interval(outage.duration) if outage.duration else "had not ended"
    return {
        "lane": outage.lane,
        "start": _moment(run, "", outage.start),
        "length": length,
        "classes": told,
        "flaps": outage.flaps,
    }


def ledger(run: FinishedRun) -> dict[str, Any] | None:
    """Acknowledged writes with what became of them; each count with its denominator."""
    loss = run.measurement.data_loss
    if loss is None:
        return None
    whole = f"of {loss.acknowledged:,} acknowledged"
    rows = [(name, getattr(loss, name), whole) for name in ("lost", "corrupt", "duplicated", "unread")]
    rows.append(("indeterminate", loss.indeterminate, "neither acknowledged nor refused: they cannot count as lost"))
    return {
        "rows": rows,
        "oldest": figures.interval(loss.oldest_lost) if loss.oldest_lost else "",
        "survivor": figures.interval(loss.newest_survivor) if loss.newest_survivor else "",
        "ids": loss.lost_ids[:20],
        "more": max(0, len(loss.lost_ids) - 20),
    }


def _availability(run: FinishedRun) -> dict[str, Any] | None:
    found = run.measurement.availability
    if found is None:
        return None
    told = {
        "of time": figures.share(found.time),
        f"of {figures.count(found.requests_total, 'request')}": figures.share(found.requests),
        "of users' time, over lanes": figures.share(found.users),
    }
    recovery = run.measurement.recovery.recovery_time
    budget = figures.share(recovery.hi_s / _MONTHS_BUDGET_S) if recovery else ""
    return {"rows": told, "budget": budget}


def procedure(run: FinishedRun) -> dict[str, Any]:
    """Stages as the journal has them, steps for people, lessons."""
    acknowledged = {str(record.fields["step"]): record for record in run.journal if "step" in record.fields}
    return {
        "stages": [
            {"t": f"{record.t_s:.3f} s", "event": record.event, "told": _fields(record.fields), **_wall(run, record.t_s)}
            for record in run.journal[:_MOST_ROWS]
        ],
        "more": max(0, len(run.journal) - _MOST_ROWS),
        "runbook": [
            (step, _wall(run, acknowledged[step.step].t_s) if step.step in acknowledged else None)
            for step in run.scenario.runbook
        ],
        "lessons": run.scenario.lessons,
        "rehearses": run.scenario.rehearses,
    }


def _fields(fields: Mapping[str, Any]) -> str:
    """A record's fields in one line; records within records are in journal.jsonl."""
    plain: Iterable[tuple[str, Any]] = ((name, value) for name, value in fields.items() if not isinstance(value, Mapping | list))
    return ", ".join(f"{name} {value}" for name, value in plain)[:240]
