"""Commands around drills: run them, plan them, render what they left, undo what dead ones left."""

import json
import os
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..drills.loading import InvalidFiles, Problem, load_scenario, load_service
from ..drills.refusal import Refused
from ..drills.scenario import Scenario
from ..drills.service import Service
from ..drills.state import BeingDrilled
from ..drills.verdict import ExitCode, worst
from ..scenarios import shipped
from .console import EXPECTED, say, tell, unheard

if TYPE_CHECKING:
    from ..drills.finished import FinishedRun
    from ..drills.plan import Plan


@dataclass(frozen=True)
class RunOptions:
    """The options of `run`."""

    settings: Sequence[str]
    out: Path
    kill_switch: Path | None
    yes: bool
    repeat: int
    as_json: bool


def find_scenario(name: str) -> Path:
    """A file, or a shipped scenario by its name."""
    if name in shipped() and not Path(name).exists():
        return shipped()[name]
    if not Path(name).exists() and not name.endswith((".yaml", ".yml")):
        raise Refused([f"{name} is neither a file nor a scenario that ships; those are: {', '.join(shipped())}"])
    return Path(name)


def demo(name: str, settings: Sequence[str], out: Path, *, hardened: bool, show: bool) -> ExitCode:
    """Start the bundled service, drill it, stop it."""
    from ..scenarios.demo import Demo, DemoFailed

    scenario = load_scenario(find_scenario(name), settings)
    _forget_dead_demos(out)
    tell(f"starting the {'hardened ' if hardened else ''}demo service on this machine")
    try:
        with Demo.started(hardened=hardened) as running:
            finished = _drill(scenario, load_service(running.service_file), RunOptions(settings, out, None, True, 1, False))
    except DemoFailed as failed:
        raise Refused([f"not injecting: {failed}"]) from failed
    if show:
        webbrowser.open((finished.folder / "report.html").resolve().as_uri())
    return finished.judgement.exit_code


def _forget_dead_demos(out: Path) -> None:
    """A demo that was killed took its service with it: what it left is recovered without asking."""
    from ..drills.recovery import recover_run, runs_to_recover

    for name, folder in runs_to_recover(None, out, os.environ).items():
        with suppress(BeingDrilled, InvalidFiles, OSError):  # another demo is under way, or its folder is gone
            if load_service(folder / "service.yaml").demo:
                recover_run(name, folder, os.environ, tell)


def run(names: Sequence[str], service_file: Path, options: RunOptions) -> ExitCode:
    """Drills one after another; files are all read before the first one starts."""
    problems: list[Problem] = []
    scenarios: list[Scenario] = []
    try:
        service = load_service(service_file)
    except InvalidFiles as invalid:
        problems += invalid.problems
    for name in names:
        try:
            scenarios.append(load_scenario(find_scenario(name), options.settings))
        except InvalidFiles as invalid:
            problems += invalid.problems
    if problems:
        raise InvalidFiles(tuple(problems))
    codes: list[ExitCode] = []
    for scenario in [scenario for scenario in scenarios for _ in range(options.repeat)]:
        try:
            finished = _drill(scenario, service, options)
        except EXPECTED as error:
            if not codes:
                raise
            tell(str(error))
            codes.append(ExitCode.INCONCLUSIVE)  # something was drilled, and this was not
            continue
        codes.append(finished.judgement.exit_code)
        if finished.judgement.exit_code in {ExitCode.ABORTED, ExitCode.DIRTY, ExitCode.INTERNAL}:
            break  # a stopped or broken drill is no ground to start the next one on
    return worst(codes)


def _drill(scenario: Scenario, service: Service, options: RunOptions) -> "FinishedRun":
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
                lambda plan: options.yes or service.demo or _agreed(plan),
                interruption,
                options.kill_switch,
                _load_reports,
            )
            folder = run_drill(request)
        from ..reports.files import render, write_reports
        from ..reports.text import show

        finished = read_run(folder)
        write_reports(finished)
        _point_latest(folder)
    if options.as_json:
        say(render(finished, "json"))
    else:
        with unheard():
            show(finished, sys.stdout, os.environ)
    return finished


def _agreed(plan: "Plan") -> bool:
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


def _point_latest(folder: Path) -> None:
    link = folder.parent / "latest"
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)


def report(runs: Sequence[str], form: str, output: Path | None, out: Path) -> ExitCode:
    """Render stored runs, one after another."""
    from ..drills.replay import read_run
    from ..reports.files import render

    texts = [render(read_run(_run_folder(name, out)), form) for name in runs]
    if output:
        output.write_text("\n".join(texts), encoding="utf-8")
    else:
        say("\n".join(texts))
    return ExitCode.PASSED


def _run_folder(name: str, out: Path) -> Path:
    return Path(name) if Path(name).is_dir() else out / name


def recover(name: str | None, out: Path, *, everything: bool, accept: bool) -> ExitCode:
    """Undo what dead runs left. One that cannot be undone now keeps none of the others from it."""
    from ..drills.recovery import runs_to_recover

    if (name is None) != everything or (accept and everything):
        tell("name a run to close it" if accept else "name a run, or give --all")
        return ExitCode.USAGE
    try:
        runs = runs_to_recover(name, out, os.environ)
    except KeyError:
        tell(f"no run is called {name}: neither a folder, nor in {out}, nor among the runs that may have left something")
        return ExitCode.USAGE
    codes = [ExitCode.PASSED]
    for run_name, folder in runs.items():
        try:
            codes.append(_recovered(run_name, folder, accept=accept))
        except BeingDrilled as busy:
            tell(f"{run_name}: not recovering: {str(busy).removeprefix('not injecting: ')}")
            codes.append(ExitCode.USAGE)
        except EXPECTED as error:
            say(f"{run_name}: STILL OPEN: {error}")
            codes.append(ExitCode.DIRTY)
    if not runs:
        say("nothing was left by any run")
    return max(codes)  # dirty above usage above passed


def _recovered(name: str, folder: Path, *, accept: bool) -> ExitCode:
    from ..drills.recovery import accept as close
    from ..drills.recovery import recover_run

    if accept:
        close(name, folder, os.environ)
        say(f"{name}: closed on your word")
        return ExitCode.PASSED
    done = recover_run(name, folder, os.environ, tell)
    if not done.left:
        say(f"{name}: {'; '.join(done.lines)}")
        return ExitCode.PASSED
    for left in done.left:
        say(f"{name}: STILL BROKEN: {left}; run: blackstart recover {name}")
    tell(f"If you have looked and all is well: blackstart recover {name} --accept")
    return ExitCode.DIRTY


def plan(name: str, service_file: Path, settings: Sequence[str], *, as_json: bool) -> ExitCode:
    """The dry run: exactly what `run` would do."""
    from ..drills.drill import planned
    from ..reports.plan_text import plan_text

    found = planned(load_scenario(find_scenario(name), settings), load_service(service_file), os.environ)
    say(json.dumps(found.to_json(), indent=1) if as_json else plan_text(found))
    return ExitCode.PASSED
