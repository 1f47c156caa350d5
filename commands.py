"""What each command does: call drills, hand the result to reports, return the exit code. cli.py parses, this calls and prints."""

import json
import os
import sys
import traceback
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .drills.loading import InvalidFiles, Problem, explain, json_schema, load_files, load_scenario, load_service
from .drills.refusal import Refused
from .drills.scenario import Scenario
from .drills.service import Service
from .drills.state import BeingDrilled
from .drills.verdict import ExitCode, worst
from .injectors import registry
from .injectors.base import FaultError
from .injectors.platforms.base import PlatformError
from .scenarios import shipped, shipped_text

if TYPE_CHECKING:
    from .drills.finished import FinishedRun
    from .drills.plan import Plan

EXPECTED = (InvalidFiles, Refused, BeingDrilled, FaultError, PlatformError)  # a person's mistake, or the world's: exit 2


@dataclass(frozen=True)
class RunOptions:
    """The options of `run`."""

    settings: Sequence[str]
    out: Path
    kill_switch: Path | None
    yes: bool
    repeat: int
    as_json: bool


def say(line: str) -> None:
    """The result, on stdout."""
    sys.stdout.write(line.rstrip("\n") + "\n")


def tell(line: str) -> None:
    """Progress and problems, on stderr."""
    sys.stderr.write(line.rstrip("\n") + "\n")


def confess(error: Exception) -> ExitCode:
    """An error nobody caught: a known kind is explained in a sentence, anything else is a bug of ours, with its traceback."""
    if isinstance(error, EXPECTED):
        tell(str(error))
        return ExitCode.USAGE
    tell(f"internal error: {type(error).__name__}: {error}")
    tell(
        "Everything that was injected is undone, or `blackstart recover --all` undoes it. Please report this with the lines below."
    )
    tell("".join(traceback.format_exception(error)))
    return ExitCode.INTERNAL


def find_scenario(name: str) -> Path:
    """A file, or a shipped scenario by its name."""
    if name in shipped() and not Path(name).exists():
        return shipped()[name]
    return Path(name)


def demo(name: str, settings: Sequence[str], out: Path, *, hardened: bool, show: bool) -> ExitCode:
    """Start the bundled service, drill it, stop it."""
    from .scenarios.demo import Demo

    scenario = load_scenario(find_scenario(name), settings)
    with ExitStack() as stack:
        _forget_dead_demos(out)
        tell(f"starting the {'hardened ' if hardened else ''}demo service on this machine")
        running = stack.enter_context(Demo.started(hardened=hardened))
        finished = _drill(scenario, load_service(running.service_file), RunOptions(settings, out, None, True, 1, False))
    if show:
        webbrowser.open((finished.folder / "report.html").resolve().as_uri())
    return finished.judgement.exit_code


def _forget_dead_demos(out: Path) -> None:
    """A demo that was killed took its service with it: what it left is recovered without asking."""
    from .drills.recovery import recover_run, runs_to_recover

    for name, folder in runs_to_recover(None, out, os.environ).items():
        service = folder / "service.yaml"
        if service.exists() and load_service(service).demo:
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
    codes = []
    for scenario in [scenario for scenario in scenarios for _ in range(options.repeat)]:
        finished = _drill(scenario, service, options)
        codes.append(finished.judgement.exit_code)
        if finished.judgement.exit_code in {ExitCode.ABORTED, ExitCode.DIRTY, ExitCode.INTERNAL}:
            break  # a stopped or broken drill is no ground to start the next one on
    return worst(codes)


def _drill(scenario: Scenario, service: Service, options: RunOptions) -> "FinishedRun":
    from .drills.drill import Request, run_drill
    from .drills.interruption import interruptible
    from .drills.replay import read_run
    from .reports.files import render, write_reports
    from .reports.plan_text import plan_text
    from .reports.progress import progress_for
    from .reports.text import text

    def agree(plan: "Plan") -> bool:
        if options.yes or service.demo:
            return True
        tell(plan_text(plan))
        if not sys.stdin.isatty():
            raise Refused(
                [
                    "not injecting: there is nobody to ask whether this plan is right; look at it with `blackstart plan`, then give --yes"
                ]
            )
        sys.stderr.write("Run this drill? [y/N] ")
        return input().strip().lower() in {"y", "yes"}

    with progress_for(sys.stderr, os.environ) as progress:
        folder = run_drill(Request(scenario, service, options.out, os.environ, progress, agree, options.kill_switch))
    with interruptible():  # a second Ctrl-C must not cost the report
        finished = read_run(folder)
        write_reports(finished)
        _point_latest(folder)
    say(render(finished, "json") if options.as_json else text(finished))
    return finished


def _point_latest(folder: Path) -> None:
    link = folder.parent / "latest"
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)


def validate(files: Sequence[Path]) -> ExitCode:
    """Read everything; say so when it is right."""
    try:
        read = load_files(files)
    except InvalidFiles as invalid:
        for problem in invalid.problems:
            say(str(problem))
        tell(f"{len(invalid.problems)} problems; nothing was touched")
        return ExitCode.USAGE
    for path, value in zip(files, read, strict=True):
        say(f"{path}: {type(value).__name__.lower()} {value.name} is valid")
    return ExitCode.PASSED


def report(runs: Sequence[str], form: str, output: Path | None, out: Path) -> ExitCode:
    """Render stored runs, one after another."""
    from .drills.replay import read_run
    from .reports.files import render

    texts = [render(read_run(_run_folder(name, out)), form) for name in runs]
    if output:
        output.write_text("\n".join(texts), encoding="utf-8")
    else:
        say("\n".join(texts))
    return ExitCode.PASSED


def _run_folder(name: str, out: Path) -> Path:
    return Path(name) if Path(name).is_dir() else out / name


def recover(name: str | None, out: Path, *, everything: bool) -> ExitCode:
    """Undo what dead runs left."""
    from .drills.recovery import recover_run, runs_to_recover

    if (name is None) != everything:
        tell("name a run, or give --all")
        return ExitCode.USAGE
    try:
        runs = runs_to_recover(name, out, os.environ)
    except KeyError:
        tell(f"no run is called {name}: neither a folder, nor in {out}, nor among the runs that may have left something")
        return ExitCode.USAGE
    code = ExitCode.PASSED
    for run_name, folder in runs.items():
        done = recover_run(run_name, folder, os.environ, tell)
        if done.left:
            code = ExitCode.DIRTY
            for left in done.left:
                say(f"{run_name}: STILL BROKEN: {left}; run: blackstart recover {run_name}")
        else:
            say(f"{run_name}: {'; '.join(done.lines)}")
    if not runs:
        say("nothing was left by any run")
    return code


def plan(name: str, service_file: Path, settings: Sequence[str], *, as_json: bool) -> ExitCode:
    """The dry run: exactly what `run` would do."""
    from .drills.drill import planned
    from .reports.plan_text import plan_text

    found = planned(load_scenario(find_scenario(name), settings), load_service(service_file), os.environ)
    say(json.dumps(found.to_json(), indent=1) if as_json else plan_text(found))
    return ExitCode.PASSED


def doctor(service_file: Path) -> ExitCode:
    """Per fault kind: possible, or what is missing."""
    from .drills.doctor import examine

    lines = examine(load_service(service_file), os.environ)
    for line in lines:
        say(str(line))
    return ExitCode.PASSED if all(line.fine for line in lines if line.needed) else ExitCode.USAGE


def init(folder: Path, url: str) -> ExitCode:
    """Write a service profile and a first scenario."""
    from .drills.discovery import write_files

    for path in write_files(folder, url):
        say(f"wrote {path}")
    tell(f"Look at them, then: blackstart plan {folder / 'scenario.yaml'} --service {folder / 'service.yaml'}")
    return ExitCode.PASSED


def scenarios(name: str | None, copy: Path | None) -> ExitCode:
    """List, show or copy what ships."""
    found = shipped()
    if name is not None and name not in found:
        tell(f"no shipped scenario is called {name}; there are: {', '.join(found)}")
        return ExitCode.USAGE
    names = [name] if name else list(found)
    if copy:
        copy.mkdir(parents=True, exist_ok=True)
        for each in names:
            (copy / f"{each}.yaml").write_text(shipped_text(each), encoding="utf-8")
            say(f"wrote {copy / f'{each}.yaml'}")
    elif name:
        say(shipped_text(name))
    else:
        for each in names:
            say(f"{each:<28} {load_scenario(found[each]).title}")
    return ExitCode.PASSED


def faults(kind: str | None) -> ExitCode:
    """List the kinds, or tell all about one."""
    kinds = registry()
    if kind is None:
        for name, injector in kinds.items():
            say(f"{name:<20} {injector.summary}")
        return ExitCode.PASSED
    say(explain(kind))  # raises with the nearest name for one that is not known
    return ExitCode.PASSED


def schema(which: str, path: str | None) -> ExitCode:
    """A JSON Schema, or one field."""
    if path:
        say(explain(path))
    elif which == "result":
        from .reports.result import result_schema

        say(json.dumps(result_schema(), indent=1))
    elif which in {"scenario", "service"}:
        say(json.dumps(json_schema("scenario" if which == "scenario" else "service"), indent=1))
    else:
        tell(f"there is no schema {which}; there are scenario, service and result")
        return ExitCode.USAGE
    return ExitCode.PASSED
