"""recover: undo what a dead run left, from its folder alone, and prove it."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..injectors.base import Evidence, Injector, Undo
from ..injectors.platforms import open_platform
from ..injectors.platforms.base import Platform
from .drill import boot_id
from .engine import undo_one
from .finished import InjectedFault, Record
from .interruption import interruptible
from .journal import NAME as JOURNAL
from .journal import DrillClock, Journal, read_journal
from .loading import InvalidFiles, decode_injector, load_service
from .plan import resolve
from .replay import faults_of
from .service import Service
from .state import drilling, mark_clean, open_runs, state_folder


@dataclass(frozen=True)
class Recovered:
    """What became of one run: nothing was left, all was put back, or `left` names what is still broken."""

    run: str
    lines: tuple[str, ...]
    left: tuple[str, ...]


def runs_to_recover(named: str | None, runs: Path, environment: Mapping[str, str]) -> dict[str, Path]:
    """The folders of the named run, or of all that may have left something. Raises KeyError for a run that nobody knows."""
    known = open_runs(state_folder(environment))
    if named is None:
        return known
    for candidate in (Path(named), runs / named):
        if (candidate / JOURNAL).is_file():
            return {candidate.resolve().name: candidate.resolve()}
    return {named: known[named]}


def recover_run(run: str, folder: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> Recovered:
    """Undo, newest first, everything of this run that has no proof of its undo. Idempotent; raises BeingDrilled while it runs."""
    state = state_folder(environment)
    if not (folder / JOURNAL).is_file():
        lost = f"{folder} is damaged" if folder.is_file() else f"its folder {folder} is gone"
        what = f"{lost}, and with it the record of what was injected"
        return Recovered(run, (), (what,))
    records, _ = read_journal(folder / JOURNAL)
    if not records:
        return Recovered(run, (), (f"its journal in {folder} holds no readable record of what was injected",))
    service = load_service(folder / "service.yaml")
    service = replace(service, folder=Path(records[0].fields["service_folder"]))  # where its paths and what was started belong
    lines: list[str] = []
    with (
        drilling(state, service, f"recover {run}"),
        open_platform(service.where(), state, environment) as platform,
    ):
        if any(_open(fault) for fault in faults_of(records)):
            lines += _undo_left(folder, records, service, platform, say)
        lines += _end_started(platform)
    after, _ = read_journal(folder / JOURNAL)
    left = tuple(f"{fault.kind}: {fault.undo_problem}" for fault in faults_of(after) if _open(fault))
    if not left:
        mark_clean(state, run)
    return Recovered(run, tuple(lines) or ("nothing was left",), left)


def _open(fault: InjectedFault) -> bool:
    return fault.undo is not None and not fault.undo_verified


def _undo_left(
    folder: Path, records: tuple[Record, ...], service: Service, platform: Platform, say: Callable[[str], None]
) -> list[str]:
    lines = []
    with interruptible() as interruption, Journal(folder / JOURNAL, _continued(records)) as journal:
        interruption.arm()
        journal.append("recover-started")
        gone = service.demo and not platform.find()
        for fault in reversed([fault for fault in faults_of(records) if _open(fault)]):
            if gone:  # the bundled service ends with the command that started it, and takes what was done to it along
                evidence = Evidence("process table", "nothing of the demo service is left")
                journal.append("undo-verified", fault=fault.index, evidence=evidence.to_json())
                lines.append(f"{fault.kind}: {evidence.detail}")
                continue
            undo = Undo.from_json(dict(fault.undo or {}))
            platform.recall(undo.targets)
            lines.append(undo_one(_rebuilt(undo, service), undo, platform, journal, fault.index, interruption.wait))
            say(lines[-1])
        journal.append("recover-ended")
    return lines


def _end_started(platform: Platform) -> list[str]:
    """Components that the dead run had started end with it, as they would have with one that lived."""
    names = platform.started()
    platform.stop_started()
    return [f"stopped what the run had started: {', '.join(names)}"] if names else []


def accept(run: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Close a run on a person's word: somebody looked, and what cannot be proven here is well or is nobody's concern any more.

    Raises BeingDrilled for a run that is under way.
    """
    state = state_folder(environment)
    with ExitStack() as stack:
        if (folder / "service.yaml").is_file():
            with suppress(InvalidFiles):  # a profile that cannot be read any more keeps nobody from closing the run
                stack.enter_context(drilling(state, load_service(folder / "service.yaml"), f"recover {run}"))
        if (folder / JOURNAL).is_file() and (records := read_journal(folder / JOURNAL)[0]):
            journal = stack.enter_context(Journal(folder / JOURNAL, _continued(records)))
            journal.append("accepted")
        mark_clean(state, run)


def _rebuilt(undo: Undo, service: Service) -> Injector:
    return resolve(decode_injector(undo.kind, undo.parameters), service)


def _continued(records: tuple[Record, ...]) -> DrillClock:
    """The dead run's own clock in the same boot; after a reboot its last moment, with what the wall clock says has passed."""
    started = records[0]
    if started.fields["boot"] == boot_id() and boot_id():
        return DrillClock(started.fields["origin"])
    return DrillClock(time.monotonic() - records[-1].t_s)
