"""A run's folder -> FinishedRun: every figure recomputed from the journal and the raw samples alone."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .finished import FinishedRun, InjectedFault, Record
from .journal import NAME as JOURNAL
from .journal import read_journal
from .loading import load_scenario, load_service
from .measure.digest_samples import DIGESTS, DigestSamples, read_digests
from .measure.lanes import load_named
from .measure.load import load_given
from .measure.load_values import LoadGiven
from .measure.measurement import Observed, Window, measure
from .measure.observed import on_the_probers_clock
from .measure.samples import Samples, read_samples
from .measure.values import Interval, Milestone, Probe
from .refusal import Refused
from .scenario import Scenario
from .service import Service
from .verdict import Ended, judge


def read_run(folder: Path) -> FinishedRun:
    """Read, measure and judge a stored run, also one that died. Raises Refused, InvalidFiles."""
    records, intact = _journal(folder)
    scenario, service = load_scenario(folder / "scenario.yaml"), load_service(folder / "service.yaml")
    text = (folder / "scenario.yaml").read_text(encoding="utf-8")
    every = samples_of(folder, scenario)
    samples = every["samples"]
    faults = tuple(replace(fault, undo_revives=_undo_revives(fault, service)) for fault in faults_of(records))
    ended_s = _ended(records, samples.probes)
    window = _window(records, faults, ended_s)
    load = _load(scenario, every.values(), faults, window, records)
    seen = read_digests(folder)
    observed = on_the_probers_clock(_with_digests(_observed(samples, faults, window, records), seen, records))
    faults = tuple(observed.faults)
    measurement = measure(scenario, observed)
    changed = _changed(folder, records, digests_of(every, seen), intact=intact)
    ended = replace(how_it_ended(records, faults), changed=changed, too_little_load=load.why_not if load else ())
    started = records[0]
    return FinishedRun(
        folder=folder,
        run=started.fields["run"],
        scenario=scenario,
        scenario_text=text,
        scenario_digest=digest_of_file(folder / "scenario.yaml"),
        service=service,
        plan=json.loads((folder / "plan.json").read_text(encoding="utf-8")),
        journal=records,
        journal_intact=intact,
        faults=faults,
        probes=samples.probes,
        writes=samples.writes,
        read_back=samples.read_back,
        measurement=measurement,
        judgement=judge(scenario, measurement, faults, ended),
        started_wall=started.wall,
        ended_s=ended_s,
        hardware=hardware_of(faults),
        environment=started.fields["environment"],
        load=load,
    )


def _journal(folder: Path) -> tuple[tuple[Record, ...], bool]:
    """The records of what is a run's folder, and whether their chain is whole."""
    for name in (JOURNAL, "scenario.yaml", "service.yaml", "plan.json"):
        if not (folder / name).is_file():
            raise Refused([f"{folder} is not a run's folder: it has no {name}"])
    records, intact = read_journal(folder / JOURNAL)
    if not records:
        raise Refused([f"{folder / JOURNAL} holds no readable record"])
    return records, intact


def samples_of(folder: Path, scenario: Scenario) -> dict[str, Samples]:
    """Every prober's, by the folder within the run's; `samples` are those that the drill is judged by."""
    more = [f"samples/{load_named(index)}" for index in range(scenario.load.pods - 1)]
    return {name: read_samples(folder / name) for name in ("samples", *more)}


def _load(
    scenario: Scenario, every: Iterable[Samples], faults: tuple[InjectedFault, ...], window: Window, records: Sequence[Record]
) -> LoadGiven | None:
    if scenario.load.pods == 1:
        return None
    ended, lost = _first(records, "load-ends"), {}
    for record in records:
        if record.event == "load-lost":
            lost[record.fields["pod"]] = record.fields["why"]
    window = replace(window, end_s=ended.t_s if ended else window.end_s)
    return load_given(scenario, [_observed(samples, faults, window, records) for samples in every], lost)


def _ended(records: tuple[Record, ...], probes: Sequence[Probe]) -> float:
    """When watching ended. What `recover` did later was not watched, and a run that died saw nothing after its last sample."""
    own = list(itertools.takewhile(lambda record: record.event not in LATER, records)) or records[:1]
    last_s = max((probe.end_s for probe in probes), default=None)
    if last_s is None:
        return own[-1].t_s
    return last_s if _died(records) else max(own[-1].t_s, last_s)


def _died(records: Iterable[Record]) -> bool:
    return not any(record.event in {"sampled", "ended"} for record in records)


INPUTS = ("scenario.yaml", "service.yaml", "plan.json")
LATER = frozenset({"recover-started", "accepted"})  # from here on the journal tells of another command


def digest_of_file(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def digests_of(every: Mapping[str, Samples], seen: DigestSamples) -> dict[str, str]:
    """Of all raw samples, by their place in the run's folder."""
    found = {name: f"sha256:{samples.digest}" for name, samples in every.items()}
    return {**found, DIGESTS: f"sha256:{seen.digest}"} if seen.looks else found


def _changed(folder: Path, records: tuple[Record, ...], raw: Mapping[str, str], *, intact: bool) -> tuple[str, ...]:
    """What is not as the drill wrote it, by the digests in its journal."""
    written = {name: digest for record in records for name, digest in record.fields.get("digests", {}).items()}
    now = {name: digest_of_file(folder / name) for name in INPUTS} | dict(raw)
    found = [f"{name} was changed after the drill" for name, digest in written.items() if now.get(name) != digest]
    if not intact:
        found.insert(0, "the journal's chain is broken: lines were changed or lost after they were written")
    return tuple(found)


def _undo_revives(fault: InjectedFault, service: Service) -> bool:
    components = service.process.components if service.process else ()
    revived = {component.name for component in components if component.start and not component.supervised}
    return any(target["name"] in revived for target in fault.targets)


def _observed(samples: Samples, faults: tuple[InjectedFault, ...], window: Window, records: Sequence[Record]) -> Observed:
    milestones, unseen = _milestones(records)
    return Observed(
        samples.lanes,
        samples.probes,
        samples.writes,
        samples.read_back,
        samples.clock,
        faults,
        window,
        samples.clocks,
        milestones=milestones,
        unseen=unseen,
    )


def _with_digests(observed: Observed, seen: DigestSamples, records: Iterable[Record]) -> Observed:
    lane = _first(records, "digest-lane")
    told = lane.fields if lane else {}
    manifest, prefill = str(told.get("manifest", "")), tuple(told.get("prefill", ()))
    return replace(observed, digests=seen.looks, manifest=manifest, prefill=prefill, contents=seen.contents)


def _milestones(records: Iterable[Record]) -> tuple[tuple[Milestone, ...], tuple[str, ...]]:
    """What the platform recorded of replicas, and which of it could not be seen."""
    found, unseen = [], ()
    for record in records:
        fields = record.fields
        if record.event == "milestone":
            at = Interval(fields["lo_s"], fields["hi_s"])
            found.append(Milestone(fields["what"], fields["name"], fields["identity"], fields["service"], at))
        elif record.event == "milestones-unseen":
            unseen = tuple(fields["why"])
    return tuple(found), unseen


def _first(records: Iterable[Record], *events: str) -> Record | None:
    return next((record for record in records if record.event in events), None)


def _window(records: tuple[Record, ...], faults: tuple[InjectedFault, ...], ended_s: float) -> Window:
    """The moments between which figures are taken; a run that died in its baseline has only a beginning."""
    baseline = _first(records, "baseline")
    start_s = baseline.t_s if baseline else records[0].t_s
    over = _first(records, "steady", "not-steady", "aborting", "inconclusive", "internal-error")
    fault_s = min((fault.injecting_s for fault in faults if fault.injecting_s is not None), default=None)
    end_s = max((record.t_s for record in records if record.event in {"read-back", "watched"}), default=ended_s)
    return Window(start_s, over.t_s if over else ended_s, fault_s, max(end_s, fault_s or 0.0))


def how_it_ended(records: tuple[Record, ...], faults: tuple[InjectedFault, ...]) -> Ended:
    """Why the run stopped where it did, and what may still be broken."""
    run = records[0].fields["run"]
    todo = "a person has closed the run without proof" if _first(records, "accepted") else f"run: blackstart recover {run}"
    dirty = tuple(
        f"{fault.kind} on {', '.join(target['name'] for target in fault.targets)}: "
        f"{fault.undo_problem or 'its undo was never proven'}; {todo}"
        for fault in faults
        if fault.undo and not fault.undo_verified
    )
    aborting = _first(records, "aborting")
    internal = _first(records, "internal-error")
    unproven, unsteady = _first(records, "not-effective", "inconclusive"), _first(records, "not-steady")
    died = _died(records)
    return Ended(
        aborted=aborting.fields["why"] if aborting else "the run died before its end" if died and not internal else None,
        internal=internal.fields["why"] if internal else None,
        dirty=dirty,
        no_fault=unproven.fields["why"]
        if unproven
        else f"the service was not steady before it: {'; '.join(unsteady.fields['why'])}"
        if unsteady
        else None,
    )


def hardware_of(faults: Iterable[InjectedFault]) -> str:
    """What a drill of accelerators was carried out on, by its evidence, the least real first; `none` where there was none."""
    told = {(fault.evidence or {}).get("facts", {}).get("hardware") for fault in faults}
    return next((word for word in ("simulated", "opencl-cpu", "real") if word in told), "none")


def faults_of(records: Iterable[Record]) -> tuple[InjectedFault, ...]:
    """Each planned fault with what the journal tells of it. A later `undo-verified` (by `recover`) heals an `undo-failed`."""
    told: dict[int, dict[str, Any]] = {}
    for record in records:
        fields = record.fields
        if record.event == "planned":
            for fault in fields["faults"]:
                told[fault["index"]] = _untouched(fault)
        elif "fault" in fields and fields["fault"] in told:
            _tell(told[fields["fault"]], record)
    return tuple(InjectedFault(**fault) for _, fault in sorted(told.items()))


def _untouched(planned: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: planned[name] for name in ("index", "kind", "certifies", "bites")},
        "targets": tuple(planned["targets"]),
        "injecting_s": None,
        "effective": None,
        "evidence": None,
        "recovering_s": None,
        "undone": None,
        "undo_verified": False,
        "undo_evidence": None,
        "undo_problem": "",
        "undo": None,
        "problem": "",
        "lapsed": "",
        "replaced": (),
        "fallen": (),
    }


def _tell(fault: dict[str, Any], record: Record) -> None:
    fields = record.fields
    match record.event:
        case "undo-recorded":
            fault.update(undo=fields["undo"], targets=tuple(fields["undo"]["targets"]), bites=fields["bites"])
        case "injecting":
            fault["injecting_s"] = record.t_s
        case "effective":
            fault.update(effective=(fields["lo_s"], fields["hi_s"]), evidence=fields["evidence"])
        case "not-effective":
            fault["problem"] = fields["why"]
        case "lapsed":
            fault["lapsed"] = fields["why"]
        case _:
            _tell_undo(fault, record)


def _tell_undo(fault: dict[str, Any], record: Record) -> None:
    fields = record.fields
    match record.event:
        case "recovering" if not fault["fallen"]:
            fault["recovering_s"] = record.t_s
        case "undone" if not fault["fallen"]:
            fault["undone"] = (fields["lo_s"], fields["hi_s"])
        case "fallen":
            why = f"nothing stands under {', '.join(fields['targets'])} at the end of the drill"
            fault.update(fallen=tuple(fields["targets"]), undo_verified=False, undo_problem=why)
        case "undo-failed":
            fault.update(undo_verified=False, undo_problem=fields["why"])
        case "undo-verified":
            replaced = fault["replaced"] if fault["fallen"] else tuple(fields.get("replaced", ()))
            fault.update(undo_verified=True, undo_evidence=fields["evidence"], undo_problem="", replaced=replaced)
