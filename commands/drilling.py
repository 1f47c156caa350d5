"""Commands around drills: run them, plan them, render what they left, undo what dead ones left."""

import json
import os
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..drills.loading import InvalidFiles, Problem, load_scenario, load_service
from ..drills.refusal import Refused
from ..drills.scenario import Scenario
from ..drills.service import Service
from ..drills.state import BeingDrilled
from ..drills.verdict import ExitCode, worst
from ..injectors.base import Privilege
from ..injectors.platforms.base import HALVES, PlatformError
from ..scenarios import shipped
from .console import EXPECTED, insist, say, tell

if TYPE_CHECKING:
    from ..drills.finished import FinishedRun
    from ..drills.plan import Plan
    from .inside import Inside


MODEL_STORE = "model-store"  # the demo service's component
DISAGGREGATED = "--disaggregated"  # with prefill and decode workers in place of replicas


@dataclass(frozen=True)
class RunOptions:
    """The options of `run`. `inside`: the drill is carried out by a Job in the service's namespace."""

    settings: Sequence[str]
    out: Path
    kill_switch: Path | None
    yes: bool
    repeat: int
    as_json: bool
    max_privilege: str | None = None
    inside: "Inside | None" = None


def find_scenario(name: str) -> Path:
    """A file, or a shipped scenario by its name."""
    if name in shipped() and not Path(name).exists():
        return shipped()[name]
    if not Path(name).exists() and not name.endswith((".yaml", ".yml")):
        raise Refused([f"{name} is neither a file nor a scenario that ships; those are: {', '.join(shipped())}"])
    return Path(name)


@dataclass(frozen=True)
class DemoOptions:
    """The options of `demo`. `on`: process, kubernetes or docker; `image`: what the service runs in there."""

    hardened: bool
    show: bool
    on: str
    image: str


def demo(name: str, settings: Sequence[str], out: Path, options: DemoOptions) -> ExitCode:
    """Start the bundled service, drill it, stop it."""
    from ..scenarios.demo import DemoFailed

    scenario = load_scenario(find_scenario(name), settings)
    _forget_dead_demos(out)
    try:
        with _demo_service(options, scenario) as service_file:
            finished, code = _drill(scenario, load_service(service_file), RunOptions(settings, out, None, True, 1, False))
    except DemoFailed as failed:
        raise Refused([f"not injecting: {failed}"]) from failed
    if options.show and finished:
        webbrowser.open((finished.folder / "report.html").resolve().as_uri())
    return code


def demo_parts(scenario: Scenario) -> tuple[str, ...]:
    """Options of the bundled service by which it has the components that the scenario names: nobody should have to know of them."""
    named = {fault.target.role for fault in scenario.faults}
    named |= {peer for fault in scenario.faults for peer in getattr(fault.injector, "peers", ())}
    named |= {scenario.digest.role} if scenario.digest else set()
    return (*[f"--with-{MODEL_STORE}"] * (MODEL_STORE in named), *[DISAGGREGATED] * bool(HALVES & named))


def demo_privileged(scenario: Scenario) -> bool:
    """Whether a fault puts something into the demo's namespace in a cluster that no locked one takes."""
    return any(fault.injector.privilege_on("kubernetes") >= Privilege.EPHEMERAL for fault in scenario.faults)


@contextmanager
def _demo_service(options: DemoOptions, scenario: Scenario) -> Iterator[Path]:
    """The service file of the bundled service, which runs for as long as the context lasts. It has what the scenario is about."""
    more = demo_parts(scenario)
    if options.on == "process":
        from ..scenarios.demo import Demo

        told = " ".join(more).replace("--", "")
        tell(f"starting the {'hardened ' if options.hardened else ''}demo service on this machine{f' ({told})' if told else ''}")
        with Demo.started(hardened=options.hardened, arguments=more) as running:
            yield running.service_file
        return
    if DISAGGREGATED in more:
        raise Refused(
            [f"not injecting: the demo on {options.on} has no prefill and decode workers; leave --on out: as processes it has"]
        )
    if options.on == "docker":
        from ..injectors.platforms.docker_api import DockerApi
        from .demo_docker import contained

        with (
            closing(DockerApi.opened(os.environ)) as engine,
            contained(engine, options.image, hardened=options.hardened, tell=tell) as service_file,
        ):
            yield service_file
        return
    from ..injectors.platforms.kube_api import KubeApi
    from .demo_kubernetes import Given, deployed

    with (
        closing(KubeApi.opened(os.environ)) as api,
        deployed(
            api, options.image, hardened=options.hardened, tell=tell, given=Given(privileged=demo_privileged(scenario))
        ) as service_file,
    ):
        yield service_file


def _forget_dead_demos(out: Path) -> None:
    """A demo that was killed took its service with it: what it left is recovered without asking."""
    from ..drills.recovery import recover_run, runs_to_recover

    for name, folder in runs_to_recover(None, out, os.environ).items():
        with suppress(BeingDrilled, InvalidFiles, OSError, PlatformError):  # another demo is under way, or its folder is gone
            left = load_service(folder / "service.yaml")
            if left.demo and left.platform in {"process", "docker"}:
                recover_run(name, folder, os.environ, tell)


def run(names: Sequence[str], service_file: Path, options: RunOptions) -> ExitCode:
    """Drills one after another; files are all read before the first one starts."""
    problems: list[Problem] = []
    scenarios: list[Scenario] = []
    try:
        service = load_service(service_file).limited(options.max_privilege)
    except InvalidFiles as invalid:
        problems += invalid.problems
    for name in names:
        try:
            scenarios.append(load_scenario(find_scenario(name), options.settings))
        except InvalidFiles as invalid:
            problems += invalid.problems
    if problems:
        raise InvalidFiles(tuple(problems))
    drills = [scenario for scenario in scenarios for _ in range(options.repeat)]
    if options.inside and options.inside.detach and len(drills) > 1:
        raise Refused([f"not injecting: --detach with {len(drills)} drills, which run one after another; start one at a time"])
    done: list[FinishedRun] = []
    try:
        return _each(drills, service, options, done)
    finally:
        if options.as_json and done:
            from ..reports.files import array, render

            insist(array(done) if len(drills) > 1 else render(done[0], "json"))


def _each(drills: Sequence[Scenario], service: Service, options: RunOptions, done: "list[FinishedRun]") -> ExitCode:
    """Drills them in order into `done`; the worst exit code."""
    codes: list[ExitCode] = []
    for scenario in drills:
        try:
            finished, code = _drill(scenario, service, options)
        except EXPECTED as error:
            if not codes:
                raise
            tell(str(error))
            codes.append(ExitCode.INCONCLUSIVE)  # something was drilled, and this was not
            continue
        codes.append(code)
        if finished:
            done.append(finished)
        if codes[-1] in {ExitCode.ABORTED, ExitCode.DIRTY, ExitCode.INTERNAL}:
            break  # a stopped or broken drill is no ground to start the next one on
    return worst(codes)


def _drill(scenario: Scenario, service: Service, options: RunOptions) -> "tuple[FinishedRun | None, ExitCode]":
    """One drill and its exit code; nothing of it is there yet where a Job goes on with it."""
    if options.inside:
        from .inside import drill_inside

        return drill_inside(scenario, service, options)
    from ..drills.drill import Request, run_drill
    from ..drills.interruption import interruptible
    from ..drills.progress import Quieted
    from ..drills.replay import read_run
    from ..reports.progress import progress_for

    with interruptible() as interruption:  # armed once the plan is agreed to, until the reports are written
        with progress_for(sys.stderr, os.environ) as progress:
            request = Request(
                scenario,
                service,
                options.out,
                os.environ,
                Quieted(progress),
                lambda plan: options.yes or service.demo or agreed(plan),
                interruption,
                options.kill_switch,
                _load_reports,
            )
            folder = run_drill(request)
        from ..reports.files import write_reports
        from ..reports.text import show, text

        finished = read_run(folder)
        for problem in write_reports(finished):
            tell(problem)
        point_latest(folder)
    if not options.as_json:
        insist(text(finished), lambda: show(finished, sys.stdout, os.environ))
    return finished, finished.judgement.exit_code


def agreed(plan: "Plan") -> bool:
    """Show the plan and ask."""
    from ..reports.plan_text import plan_text

    tell(plan_text(plan))
    if not sys.stdin.isatty():
        hint = "look at it with `blackstart plan`, then give --yes"
        raise Refused([f"not injecting: there is nobody to ask whether this plan is right; {hint}"])
    tell("Run this drill? [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _load_reports() -> None:
    """Imports and a compiled template, which take a tenth of a second."""
    from ..reports.html import template

    template()


def point_latest(folder: Path) -> None:
    """`latest` is the newest run."""
    link = folder.parent / "latest"
    try:
        if link.is_symlink() or not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(folder.name)
    except OSError as error:  # the drill is over and judged
        tell(f"{link} does not point at this run: {error.strerror or error}")


def report(runs: Sequence[str], form: str, output: Path | None, out: Path) -> ExitCode:
    """Render stored runs in one document."""
    from ..drills.replay import read_run
    from ..reports.files import document

    told = document([read_run(_run_folder(name, out)) for name in runs], form)
    if not output:
        say(told)
        return ExitCode.PASSED
    try:
        output.write_text(told, encoding="utf-8")
    except OSError as error:
        tell(f"{output} could not be written: {error.strerror or error}")
        return ExitCode.USAGE
    return ExitCode.PASSED


def _run_folder(name: str, out: Path) -> Path:
    return Path(name) if Path(name).is_dir() else out / name


def plan(name: str, service_file: Path, settings: Sequence[str], form: str, max_privilege: str | None) -> ExitCode:
    """The dry run: exactly what `run` would do, as text or json; or with rbac the least rights that it takes."""
    from ..drills.drill import planned, rights
    from ..reports.plan_text import plan_text

    scenario, service = load_scenario(find_scenario(name), settings), load_service(service_file).limited(max_privilege)
    if form == "rbac":
        say(json.dumps(rights(scenario, service, os.environ), indent=1))
        return ExitCode.PASSED
    found = planned(scenario, service, os.environ, tell)
    say(json.dumps(found.to_json(), indent=1) if form == "json" else plan_text(found))
    return ExitCode.PASSED
