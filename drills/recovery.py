"""recover: undo what a dead run left, from its folder alone, and prove it."""

import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ..injectors.base import Evidence, Injector, Undo
from ..injectors.left_files import left_beside
from ..injectors.platforms import cluster_configured, open_platform, opened_records
from ..injectors.platforms.base import Busy, Platform, PlatformError
from .finished import InjectedFault, Record
from .interruption import interruptible
from .journal import NAME as JOURNAL
from .journal import DrillClock, Journal, read_journal
from .loading import InvalidFiles, decode_injector, load_scenario, load_service
from .machine import boot_id
from .replay import INPUTS, faults_of
from .resolving import resolve
from .service import Service
from .state import BeingDrilled, drilling, mark_clean, open_runs, state_folder
from .undoing import UNDO_PATIENCE_S, in_undo_order, patience_of, undo_one

RUN_NAME = re.compile(r"\d{8}T\d{6}-[a-z0-9-]{1,63}-[0-9a-f]{4}")
HOLD_S = 40.0  # a platform that remembers holders forgets a dead one sooner


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


def runs_in_cluster(named: str | None, runs: Path, environment: Mapping[str, str]) -> tuple[dict[str, Path], str, str]:
    """Runs that the current context's cluster remembers and this machine does not: their folders, made anew from there under `runs`.

    Also the context's name, and the one namespace that was asked where this login may look in no other. Nothing where no cluster is
    configured; raises PlatformError where it cannot be asked. Whoever may write a ConfigMap could have written these: names and files
    are taken only as a drill writes them, and only for that very namespace.
    """
    if not cluster_configured(environment):
        return {}, "", ""
    known, found = open_runs(state_folder(environment)), {}
    with opened_records(environment) as (context, records, only):
        for run, (namespace, files) in records.items():
            if run in known or named not in {None, run} or not RUN_NAME.fullmatch(run):
                continue
            folder = runs / run
            if not (folder / JOURNAL).is_file():
                (folder / "samples").mkdir(parents=True, exist_ok=True)
                for name in (*INPUTS, JOURNAL):  # the journal last: with it, the folder is a run's
                    (folder / name).write_text(files.get(name, ""), encoding="utf-8")
            where = load_service(folder / "service.yaml").kubernetes
            if where is None or where.namespace != namespace:
                raise PlatformError(
                    f"the record of {run} in namespace {namespace} is of another service than it says; look at {folder}"
                )
            found[run] = folder.resolve()
    return found, context, only


def recover_run(
    run: str, folder: Path, environment: Mapping[str, str], say: Callable[[str], None], context: str | None = None
) -> Recovered:
    """Undo, newest first, everything of this run that has no proof of its undo. Idempotent; raises BeingDrilled while it runs.

    `context` is used instead of the service file's: another machine's kubeconfig has other names.
    """
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
    if context and service.kubernetes:
        service = replace(service, kubernetes=replace(service.kubernetes, context=context))
    lines: list[str] = []
    with (
        drilling(state, service, f"recover {run}"),
        open_platform(service.where(), state, environment) as platform,
    ):
        gone = platform.vanished()
        if not gone:
            _take(platform, run, records[0], died_here=run in open_runs(state))
            _take_in(folder, platform.remembered(run))
            records, _ = read_journal(folder / JOURNAL)
        if any(_open(fault) for fault in faults_of(records)):
            lines += _undo_left(folder, service, platform, say, gone)
        still_open = any(_open(fault) for fault in faults_of(read_journal(folder / JOURNAL)[0]))
        if not still_open:  # what an undo started may still be loading: the next recover finds it
            lines += _end_started(platform)
        lines += _end_outpost(platform, service, run)
        if not gone and not still_open:
            platform.forget(run)
            platform.sweep(run)
    after, _ = read_journal(folder / JOURNAL)
    left = tuple(f"{fault.kind}: {fault.undo_problem}" for fault in faults_of(after) if _open(fault))
    if not left:
        mark_clean(state, run)
    return Recovered(run, tuple(lines) or ("nothing was left",), left)


def _take_in(folder: Path, remembered: Mapping[str, str]) -> None:
    """A copy that was made while the drill still went on is behind what the platform remembers."""
    path, newer = folder / JOURNAL, remembered.get(JOURNAL, "")
    if len(newer) > path.stat().st_size and newer.startswith(path.read_text(encoding="utf-8")):
        path.write_text(newer, encoding="utf-8")


def _take(platform: Platform, run: str, started: Record, *, died_here: bool) -> None:
    """The dead run's own hold on the service runs out within this time; one that lives keeps it. Raises PlatformError elsewhere.

    `died_here`: the run was this machine's, and whoever calls has its lock. In the boot that it was started in, nobody else can have it.
    """
    if (found := platform.fingerprint()) != started.fields["fingerprint"]:
        raise PlatformError(
            f"this is not the service that was drilled ({found} instead of {started.fields['fingerprint']}): {platform.place}"
        )
    try:
        dead = run if died_here and boot_id() and started.fields["boot"] == boot_id() else ""
        platform.hold(f"recover {run} {secrets.token_hex(2)}", HOLD_S, dead)
    except Busy as busy:
        raise BeingDrilled(f"not injecting: {busy}") from busy


def _open(fault: InjectedFault) -> bool:
    return fault.undo is not None and not fault.undo_verified


class _Left(NamedTuple):
    """A fault that has no proof of its undo."""

    fault: InjectedFault
    undo: Undo
    injector: Injector


def patience_s(folder: Path) -> float:
    """As the drill itself would have had. A scenario that is not read any more, of a kind that is not installed, must not keep a fault in place."""
    try:
        return patience_of(load_scenario(folder / "scenario.yaml"))
    except (InvalidFiles, OSError):
        return UNDO_PATIENCE_S


def _undo_left(folder: Path, service: Service, platform: Platform, say: Callable[[str], None], gone: str) -> list[str]:
    """`gone`: why nothing of what was done to the service itself can be left; empty: it can."""
    lines = []
    records, _ = read_journal(folder / JOURNAL)
    with interruptible() as interruption, Journal(folder / JOURNAL, _continued(records)) as journal:
        interruption.arm()
        journal.append("recover-started")
        longest_s = patience_s(folder)
        if not gone and service.demo and not platform.find():
            gone = "nothing of the demo service is left"  # it ends with the command that started it
        left = [(fault, Undo.from_json(dict(fault.undo or {}))) for fault in faults_of(records) if _open(fault)]
        for _, undo in left:
            platform.recall(undo.targets)
        for fault, undo, injector in in_undo_order([_Left(fault, undo, _rebuilt(undo, service)) for fault, undo in left]):
            if gone and "node" not in injector.changes:
                journal.append("undo-verified", fault=fault.index, evidence=Evidence(platform.witness, gone).to_json())
                lines.append(f"{fault.kind}: {gone}")
                continue
            lines.append(undo_one(injector, undo, platform, journal, fault.index, interruption.wait, longest_s).told)
            say(lines[-1])
        journal.append("recover-ended")
    return lines


def _end_started(platform: Platform) -> list[str]:
    """Components that the dead run had started end with it, as they would have with one that lived."""
    names = platform.started()
    platform.stop_started()
    return [f"stopped what the run had started: {', '.join(names)}"] if names else []


def _end_outpost(platform: Platform, service: Service, run: str) -> list[str]:
    """A prober beside the service ends by itself, too; until then it goes on asking."""
    outposts = platform.outposts if service.probe.beside else None
    what = "pod" if service.kubernetes else "container"
    return [f"removed the prober's {what}"] if outposts and outposts.outpost_end(run) else []


def accept(run: str, folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Close a run on a person's word: somebody looked, and what cannot be proven here is well or is nobody's concern any more.

    Returns what stays beside files, in words: from then on it is that person's to delete. Raises BeingDrilled for a run that is under way.
    """
    state, undos = state_folder(environment), list[Undo]()
    platform: Platform | None = None
    with ExitStack() as stack:
        if (folder / "service.yaml").is_file():
            with suppress(InvalidFiles):  # a profile that cannot be read any more keeps nobody from closing the run
                stack.enter_context(drilling(state, load_service(folder / "service.yaml"), f"recover {run}"))
        if (folder / JOURNAL).is_file() and (records := read_journal(folder / JOURNAL)[0]):
            journal = stack.enter_context(Journal(folder / JOURNAL, _continued(records)))
            journal.append("accepted")
            undos = [Undo.from_json(dict(fault.undo or {})) for fault in faults_of(records) if _open(fault)]
            with suppress(InvalidFiles, PlatformError):  # a platform that is gone remembers nothing
                platform = stack.enter_context(open_platform(load_service(folder / "service.yaml").where(), state, environment))
                for forget in (platform.abandon, platform.sweep):
                    with suppress(PlatformError):
                        forget(run)
        mark_clean(state, run)
        return left_beside(undos, platform)


def _rebuilt(undo: Undo, service: Service) -> Injector:
    return resolve(decode_injector(undo.kind, undo.parameters), service)


def _continued(records: tuple[Record, ...]) -> DrillClock:
    """The dead run's own clock in the same boot; after a reboot its last moment, with what the wall clock says has passed."""
    started = records[0]
    if started.fields["boot"] == boot_id() and boot_id():
        return DrillClock(started.fields["origin"])
    return DrillClock(time.monotonic() - records[-1].t_s)
