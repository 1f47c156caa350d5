"""The auditor's section: what the figures stand on, how far each may be off, and how to get them again."""

import shlex
from typing import Any

from ..drills.finished import FinishedRun
from ..drills.watched import measured_from
from . import figures
from .sentence import undo_command

# An NTP-disciplined clock is within 50 ppm of true time (RFC 5905, section 11).
_CLOCK_PPM = 50

RAW_FILES = (
    ("journal.jsonl", "what was done, line by line, each chained to the one before"),
    ("samples/probes.bin", "every probe, as sent and answered"),
    ("samples/texts.jsonl", "wrong answers and errors as they came"),
    ("samples/ledger.jsonl", "every write and its read-back"),
    ("samples/clock.jsonl", "the two clocks, once a second"),
    ("samples/exchanges.jsonl", "from a pod: how its clock stood to the drill's"),
    ("scenario.yaml, service.yaml, plan.json", "what was asked for, and what it resolved to"),
    ("result.json, junit.xml, summary.md", "this report for machines"),
)
LOAD_FILES = (("samples/load-*/", "the same of each pod that only gave load"),)


def provenance(run: FinishedRun) -> dict[str, Any]:
    """Digests, journal chain, clocks, uncertainty, versions, commands, raw files."""
    return {
        "digests": _digests(run),
        "intact": run.journal_intact,
        "uncertainty": uncertainty(run),
        "prober": _prober(run),
        "trusted": run.measurement.prober.trusted,
        "doubts": run.measurement.prober.why_not,
        "versions": sorted(run.environment.items()),
        "commands": commands(run),
        "files": RAW_FILES + LOAD_FILES * (run.load is not None),
        "missing": sorted(run.measurement.missing.items()),
    }


def _digests(run: FinishedRun) -> list[tuple[str, str]]:
    head = run.journal[-1].digest.removeprefix("sha256:") if run.journal else ""
    found = [("scenario.yaml", run.scenario_digest), (f"journal.jsonl, record {len(run.journal) - 1}", f"sha256:{head}")]
    for record in run.journal:
        digests = record.fields.get("digests")
        if isinstance(digests, dict):
            found += [(str(name), str(digest)) for name, digest in digests.items()]
    return found if run.journal else found[:1]


def uncertainty(run: FinishedRun) -> list[tuple[str, str]]:
    """Where the width of the recovery time comes from, in milliseconds; empty where there is no recovery time."""
    recovery = run.measurement.recovery
    if recovery.recovery_time is None or recovery.impact is None or recovery.recovered is None:
        return []
    drift = recovery.recovery_time.hi_s * _CLOCK_PPM / 1e6
    return [
        ("when the impact began", _ms(recovery.impact.width_s)),
        ("when the recovery was complete", _ms(recovery.recovered.width_s)),
        (f"the clock's rate, {_CLOCK_PPM} ppm of the length", _ms(drift)),
        ("the interval as printed, from its lower to its upper bound", _ms(recovery.recovery_time.width_s)),
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _prober(run: FinishedRun) -> list[tuple[str, str]]:
    prober = run.measurement.prober
    elsewhere = (
        []
        if run.service.probe.from_ == "here"
        else [("the prober's clock against the journal's", f"± {_ms(prober.clock_uncertainty_s)}")]
    )
    return [
        ("measured from", measured_from(run.service)),
        *elsewhere,
        ("period of the finest lane", _ms(prober.period_s)),
        ("probes sent late, median", _ms(prober.late_p50_s)),
        ("probes sent late, 99th percentile", _ms(prober.late_p99_s)),
        ("probes sent late, worst", _ms(prober.late_max_s)),
        ("probes sent, of those due", figures.share(prober.coverage)),
        ("probes void by the prober's own fault", figures.share(prober.void_share)),
        ("largest step of the wall clock", _ms(prober.clock_step_s)),
    ]


def commands(run: FinishedRun) -> list[tuple[str, str]]:
    """What runs the drill again, and what computes this report again."""
    folder = run.folder
    seed = run.plan.get("seed", run.scenario.seed)
    again = ["blackstart", "run", str(folder / "scenario.yaml"), "--service", str(folder / "service.yaml")]
    again += ["--set", f"seed={seed}"] if seed is not None else []
    found = [
        ("the same drill again", shlex.join(again)),
        ("every figure again, from the raw samples", shlex.join(["blackstart", "report", str(folder), "--format", "html"])),
    ]
    if any(fault.injecting_s is not None and not fault.undo_verified for fault in run.faults):
        found.insert(0, ("put back what is left", undo_command(run)))
    return found
