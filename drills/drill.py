"""One whole drill: a run's folder, the lock, the plan, the prober, the engine; what comes out is the folder."""

import json
import os
import random
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..injectors.platforms import open_platform
from ..injectors.platforms.base import Busy, Platform, PlatformError
from ..injectors.values import JSON
from .beside import outpost
from .digests import watching
from .engine import Engine
from .guard import Guard
from .interruption import Interruption
from .journal import NAME as JOURNAL
from .journal import DrillClock, Journal, read_journal
from .load_pods import LoadPods
from .loading import dump_scenario, dump_service
from .machine import boot_id, environment
from .measure.digest_samples import read_digests
from .measure.lanes import load_configs
from .measure.live import LiveView
from .measure.prober import fetched
from .measure.probing import Prober, ProbingError, await_right, probe_config, record_golden
from .measure.samples import SampleTail, read_samples
from .observer import Observer
from .plan import Plan, means, plan
from .progress import Phase, Progress
from .refusal import Refused
from .replay import INPUTS, digest_of_file, digests_of, faults_of, read_run, samples_of
from .scenario import Scenario
from .service import Service
from .state import BeingDrilled, drilling, left_on, mark_clean, mark_open, name_of_run, state_folder
from .watched import addressed, replica_urls

ROOM_NEEDED = 64 * 1024 * 1024  # bytes free in the run's folder before anything is injected: an hour of samples and reports
KILL_SWITCH = "STOP"
READY_S = 60.0  # for what was just started to answer right; after that the baseline says what is wrong with it


@dataclass(frozen=True)
class Request:
    """What `run` was asked for. `agree` is shown the plan and says whether to go on; `meanwhile` is called once, while the
    baseline is watched: what takes a moment and is needed only at the end is done then.
    """

    scenario: Scenario
    service: Service
    runs: Path
    environment: Mapping[str, str]
    progress: Progress
    agree: Callable[[Plan], bool]
    interruption: Interruption
    kill_switch: Path | None = None
    meanwhile: Callable[[], None] = lambda: None


def run_drill(request: Request) -> Path:
    """Run the drill and return its folder; `replay.read_run` makes sense of it. Raises Refused, with nothing touched."""
    scenario, service = request.scenario, request.service
    state = state_folder(request.environment)
    run = name_of_run(scenario.name, request.environment)
    with ExitStack() as stack:
        stack.enter_context(drilling(state, service, run))
        nothing_left(state, service)
        folder = make_folder(request.runs, run)
        stack.callback(remove_if_unused, folder)
        prober, here = stack.enter_context(Prober()), not service.probe.beside
        if here:
            prober.begin(folder / "samples")
        request.progress.phase(Phase.STARTING, None, service.name)
        platform = stack.enter_context(_service_started(request, state))
        held(platform, run)
        service = addressed(service, platform)
        decided = plan(scenario, service, platform, seed_of(scenario))
        if not request.agree(decided):
            raise Refused(["not injecting: the plan was not agreed to"])
        probers = (prober, LoadPods())
        fetch = fetched if here else stack.enter_context(outpost(decided, platform, probers, folder, request.progress))
        request.interruption.arm()
        try:
            service = record_golden(service, fetch)
        except ProbingError as error:
            raise Refused([f"not injecting: {error}"]) from error
        _write_inputs(folder, decided, service)
        _conduct(replace(request, service=service), decided, platform, probers, (folder, state))
    return folder


def planned(scenario: Scenario, service: Service, environment: Mapping[str, str], warn: Callable[[str], None]) -> Plan:
    """The dry run: what `run_drill` would do now, short of doing it; a drill that is under way is no hindrance. Raises Refused."""
    state = state_folder(environment)
    if under_way := _under_way(state, service):
        warn(f"warning: {under_way}; this plan is made amid its faults")
    else:
        nothing_left(state, service)
    with open_platform(service.where(), state, environment) as platform:
        return plan(scenario, addressed(service, platform), platform, seed_of(scenario))


def seed_of(scenario: Scenario) -> int:
    """The scenario's own, or a fresh one that the journal keeps."""
    return scenario.seed if scenario.seed is not None else random.SystemRandom().randrange(2**32)


@contextmanager
def _service_started(request: Request, state: Path) -> Iterator[Platform]:
    """The platform, with those components running that the service file has a `start` for; ours are stopped at the end."""
    service, environment = request.service, request.environment
    with open_platform(service.where(), state, environment) as platform:
        try:
            if platform.start_missing():  # it listens; a model may still be loading, which is no unsteadiness
                await_right(service, [url for _, url in replica_urls(platform.find())], READY_S)
            yield platform
        finally:
            try:
                platform.stop_started()
            except PlatformError as error:  # the drill is over and judged: what cannot be stopped is told, not its verdict
                request.progress.note(f"not stopped: {error}")


def rights(scenario: Scenario, service: Service, environment: Mapping[str, str]) -> JSON:
    """The least rights that this scenario takes on this service, as its platform grants them; asks the platform nothing."""
    with open_platform(service.where(), state_folder(environment), environment) as platform:
        try:
            return platform.role(service.name, means(scenario, service))
        except PlatformError as error:
            raise Refused([str(error)]) from error


def _under_way(state: Path, service: Service) -> str:
    """Who drills this service now; empty when nobody does.

    The lock is tried for a moment, and only where a run is open: no other could start in that moment anyway.
    """
    if left_on(state, service):
        try:
            with drilling(state, service, "a plan"):
                pass
        except BeingDrilled as held:
            return str(held).removeprefix("not injecting: ").partition(";")[0]
    return ""


def held(platform: Platform, run: str) -> None:
    """The service is this run's on the platform's side, too: no other machine drills it, or has left something on it."""
    try:
        reasons = platform.objections()
        if not reasons:
            platform.hold(run, 0.0)
            reasons = [f"{each} may have left something; run: blackstart recover {each}" for each in platform.left_by()]
    except Busy as busy:
        raise BeingDrilled(f"not injecting: {busy}; wait for it, or stop it where it runs") from busy
    except PlatformError as error:
        raise Refused([f"not injecting: {error}"]) from error
    if reasons:
        raise Refused([f"not injecting: {reason}" for reason in reasons])


def nothing_left(state: Path, service: Service) -> None:
    left = left_on(state, service)
    if left:
        raise Refused(
            [f"not injecting: {run} may have left something on {service.name}; run: blackstart recover {run}" for run in left]
        )


def make_folder(runs: Path, run: str) -> Path:
    """The run's folder, proven writable and roomy before anything is injected."""
    folder = runs / run
    try:
        folder.mkdir(parents=True)
        (folder / "samples").mkdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise Refused(
            [f"not injecting: the run's folder {folder} cannot be made: {error.strerror}; give another with --out"]
        ) from error
    if free < ROOM_NEEDED:
        remove_if_unused(folder)
        raise Refused(
            [
                f"not injecting: {free // 2**20} MiB are free for {folder} and {ROOM_NEEDED // 2**20} MiB are needed; give another with --out"
            ]
        )
    return folder


def remove_if_unused(folder: Path) -> None:
    if not (folder / JOURNAL).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _write_inputs(folder: Path, decided: Plan, service: Service) -> None:
    (folder / "scenario.yaml").write_text(dump_scenario(decided.scenario), encoding="utf-8")
    (folder / "service.yaml").write_text(dump_service(service), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(decided.to_json(), indent=1) + "\n", encoding="utf-8")


def _begun(journal: Journal, decided: Plan, service: Service, platform: Platform) -> None:
    folder = journal.path.parent
    journal.append(
        "started",
        run=folder.name,
        pid=os.getpid(),
        origin=journal.clock.origin,
        boot=boot_id(),
        fingerprint=platform.fingerprint(),
        service_folder=str(service.folder.resolve()),
        environment=environment(),
        digests={name: digest_of_file(folder / name) for name in INPUTS},
    )
    journal.append("planned", seed=decided.seed, phase_s=decided.phase_s, faults=[f.to_json() for f in decided.faults])


def _conduct(
    request: Request, decided: Plan, platform: Platform, probers: tuple[Prober, LoadPods], places: tuple[Path, Path]
) -> None:
    (prober, load), (folder, state) = probers, places
    service = request.service
    clock = DrillClock.starting_now()
    replicas = replica_urls(decided.everything)
    config = probe_config(service, decided.scenario, replicas, folder / "samples", clock.origin, decided.seed)
    interruption, progress = request.interruption, request.progress
    load.start(load_configs(service, decided.scenario, config))
    with Journal(folder / JOURNAL, clock) as journal:
        write_down = partial(_write_down, journal, progress)
        _begun(journal, decided, service, platform)
        second = open_platform(service.where(), state, request.environment)
        with prober, watching(decided, second, clock, folder, write_down) as digests:
            prober.start(config)
            mark_open(state, folder.name, folder, service)
            lanes = read_samples(folder / "samples").lanes
            view = LiveView(decided.scenario, lanes)
            observer = Observer(decided.scenario, lanes, prober, SampleTail(folder / "samples"), view, platform.moved, digests)
            switches = tuple(path for path in (folder / KILL_SWITCH, request.kill_switch) if path)
            files = [folder / name for name in (*INPUTS, JOURNAL)]
            guard = Guard(decided.scenario.abort, switches, interruption, view, platform.lost)
            engine = Engine(decided, platform, journal, observer, interruption, progress, guard, request.meanwhile, files)
            try:
                engine.run()
            except Exception as error:  # noqa: BLE001 - all is undone by now; a bug of ours becomes a verdict that says so
                write_down("internal-error", why=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
            if decided.scenario.load.pods > 1:
                write_down("load-ends")
        load.stop(partial(write_down, "load-lost"))
        progress.phase(Phase.JUDGING, None)
        if prober.missing:
            write_down("inconclusive", why=prober.missing)
        write_down("sampled", digests=digests_of(samples_of(folder, decided.scenario), read_digests(folder)))
        judgement = read_run(folder).judgement
        reasons = [{"code": reason.code, "text": reason.text} for reason in judgement.reasons]
        write_down("judged", verdict=judgement.verdict, exit_code=judgement.exit_code, reasons=reasons)
        write_down("ended", signals=list(interruption.signals))
    if clean(folder):
        _closed(platform, folder.name, state, progress)


def _closed(platform: Platform, run: str, state: Path, progress: Progress) -> None:
    """Nothing of the run is left: neither this machine nor the platform needs to remember it."""
    try:
        platform.forget(run)
    except PlatformError as error:  # it stays listed on both sides, and `recover` removes it
        progress.note(f"the run's record is not removed: {error}; run: blackstart recover {run}")
    else:
        mark_clean(state, run)


def _write_down(journal: Journal, progress: Progress, event: str, **fields: Any) -> None:
    """What comes after the undo. A disk that is full by now must not cost the verdict: it is judged by what could be written."""
    try:
        journal.append(event, **fields)
    except OSError as error:
        progress.note(f"`{event}` could not be written to {journal.path}: {error.strerror or error}")


def clean(folder: Path) -> bool:
    """Whether every undo record of the run has its proof."""
    records, _ = read_journal(folder / JOURNAL)
    return all(fault.undo_verified for fault in faults_of(records) if fault.undo)
