"""Commands: parse, call, print, exit. What they need is imported when they run, so that `--help` stays quick."""

import io
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .commands.choices import Format, RunFormat

app = typer.Typer(
    name="blackstart",
    help="Disaster drills for AI model services: inject faults, measure what users went through, prove that all was put back.",
    epilog="Exit codes: 0 passed, 1 failed, 2 usage, 3 inconclusive, 4 aborted, 5 dirty (something may still be broken), 70 internal.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RUNS = Path("blackstart-runs")
ServiceFile = Annotated[Path, typer.Option("--service", "-s", help="The service profile.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="The folder that run folders are made in.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a scenario's field, e.g. observe=20s. Repeatable."),
]
OneRun = Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's name or folder.")]
Scenarios = Annotated[list[str], typer.Argument(metavar="SCENARIO...", help="Scenario files, or names of shipped scenarios.")]


class On(StrEnum):
    """Where the demo service runs."""

    PROCESS = "process"
    KUBERNETES = "kubernetes"
    DOCKER = "docker"


class Means(StrEnum):
    """The ladder of privileges, lowest first."""

    API = "api"
    EXEC = "exec"
    EPHEMERAL = "ephemeral"
    HELPER = "helper"


MaxPrivilege = Annotated[
    Means | None, typer.Option(help="Refuse faults that take more: the API alone, exec, an ephemeral container, a helper pod.")
]


@app.command(epilog="Example: blackstart demo engine-hang-zombie --hardened")
def demo(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario.")] = "replica-kill-midstream",
    *,
    hardened: Annotated[bool, typer.Option(help="Switch the demo service's flaws off.")] = False,
    on: Annotated[
        On,
        typer.Option(
            "--on", help="Where the service runs: as processes here, in the current context's cluster, or on a Docker engine."
        ),
    ] = On.PROCESS,
    image: Annotated[str, typer.Option(help="On kubernetes and docker: any image with python3.")] = "python:3.12-slim",
    show: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    settings: Settings = None,
    out: Out = RUNS,
) -> None:
    """Drill the bundled model service, which has what the scenario names: start it, break it, measure, undo, report."""
    from .commands.drilling import DemoOptions
    from .commands.drilling import demo as command

    _leave(command(scenario, settings or [], out, DemoOptions(hardened, show, on.value, image)))


@app.command(epilog="Example: blackstart init drills --from-cluster deployment/llm -n models")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")] = Path(),
    *,
    url: Annotated[
        str | None, typer.Option("--from-url", help="Where a service of this machine answers.", show_default=False)
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option("--from-cluster", metavar="KIND/NAME", help="Its workload, e.g. deployment/llm.", show_default=False),
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="With --from-cluster: where that is.")] = "default",
    container: Annotated[str | None, typer.Option("--from-docker", metavar="NAME", help="A container of it.")] = None,
) -> None:
    """Write service.yaml and a first scenario, with what the service says of itself."""
    from .commands.looking import init as command

    _leave(command(folder, url, workload, namespace, container))


@app.command(epilog="Example: blackstart validate service.yaml drills/*.yaml")
def validate(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Scenarios and service profiles.")]) -> None:
    """Show all errors of all files at once. Touches nothing."""
    from .commands.looking import validate as command

    _leave(command(files))


@app.command(epilog="Example: blackstart doctor --service service.yaml")
def doctor(service: ServiceFile) -> None:
    """Tell per fault kind whether this machine and these rights can drill the service, or what is missing. Reads only; for GPUs of
    containers without python3 a container or pod of ours looks, for seconds, and ends by itself.
    """
    from .commands.looking import doctor as command

    _leave(command(service))


@app.command(epilog="Example: blackstart plan store-loss --service service.yaml")
def plan(
    scenario: Annotated[str, typer.Argument(help="A scenario file, or the name of a shipped one.")],
    *,
    service: ServiceFile,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    rbac: Annotated[bool, typer.Option("--rbac", help="Print instead the least Role that it needs on Kubernetes.")] = False,
    max_privilege: MaxPrivilege = None,
) -> None:
    """Show exact targets, blast radius, undo records and probes. Touches nothing; for GPUs of containers without python3 a container or pod
    of ours looks, for seconds, and ends by itself.
    """
    from .commands.drilling import plan as command

    _leave(command(scenario, service, settings or [], "rbac" if rbac else "json" if as_json else "text", max_privilege))


@app.command(
    epilog="Examples: blackstart run drills/replica-kill.yaml --service service.yaml --yes --format json; or from within the cluster: "
    "blackstart run store-loss --service service.yaml --in-cluster --image blackstart:0.1.0 --detach"
)
def run(
    scenarios: Scenarios,
    *,
    service: ServiceFile,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask after showing the plan.")] = False,
    out: Out = RUNS,
    repeat: Annotated[int, typer.Option(min=1, help="Run each scenario so often.")] = 1,
    settings: Settings = None,
    form: Annotated[
        RunFormat,
        typer.Option("--format", help="What is printed on stdout; json: one object, of several drills one array at the end."),
    ] = RunFormat.TEXT,
    kill_switch: Annotated[Path | None, typer.Option(help="Stop and undo as soon as this file exists.")] = None,
    max_privilege: MaxPrivilege = None,
    inside: Annotated[bool, typer.Option("--in-cluster", help="The drill itself runs as a Job beside the service.")] = False,
    image: Annotated[str | None, typer.Option(help="Of that Job: one with blackstart[kubernetes].", show_default=False)] = None,
    claim: Annotated[str | None, typer.Option(help="A claim there that keeps the run's folder.", show_default=False)] = None,
    keep: Annotated[str, typer.Option(help="How long it waits there to be fetched; without --claim it is lost then.")] = "1h",
    detach: Annotated[bool, typer.Option("--detach", help="Leave once the Job runs; `blackstart fetch` follows it.")] = False,
) -> None:
    """Run drills one after another; the worst verdict is the exit code."""
    from .commands.drilling import RunOptions
    from .commands.drilling import run as command
    from .commands.inside import options

    job = options(service, image, claim, keep, wanted=inside, detach=detach)
    as_json = form is RunFormat.JSON
    _leave(command(scenarios, service, RunOptions(settings or [], out, kill_switch, yes, repeat, as_json, max_privilege, job)))


@app.command(epilog="Example: blackstart fetch 20261122T101500-store-loss-7f3a --service service.yaml")
def fetch(run: OneRun = None, *, service: ServiceFile, out: Out = RUNS) -> None:
    """Follow a drill that `run --in-cluster` began to its end, and bring its folder here; without RUN the only one there."""
    from .commands.inside import fetch as command

    _leave(command(run, service, out))


@app.command(epilog="Example: blackstart recover --all")
def recover(
    name: OneRun = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every run that may have left something.")] = False,
    accept: Annotated[
        bool, typer.Option(help="Close the named run on your word: you looked, and what is not proven is well.")
    ] = False,
    out: Out = RUNS,
) -> None:
    """Undo what a dead run left, and prove it. Safe to repeat."""
    from .commands.recovering import recover as command

    _leave(command(name, out, everything=everything, accept=accept))


@app.command(epilog="Example: blackstart report latest --format markdown")
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names or folders of runs; `latest` is the newest.")],
    *,
    form: Annotated[
        Format, typer.Option("--format", help="How; html takes one run, json makes an array of several.")
    ] = Format.TEXT,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Into this file instead of stdout.")] = None,
    out: Out = RUNS,
) -> None:
    """Render stored runs; every figure is recomputed from the journal and the raw samples."""
    from .commands.drilling import report as command

    _leave(command(runs, form.value, output, out))


@app.command(epilog="Examples: blackstart manifest /models/tiny; and after a restore: blackstart manifest /models/tiny --check")
def manifest(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The model's folder, or one file.")],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with what was written, and exit with 1 where it differs.")
    ] = False,
    file: Annotated[Path | None, typer.Option(help="Where the digests are; by default in DIR.", show_default=False)] = None,
) -> None:
    """Write the SHA-256 of a model's files (all but .git, .cache/huggingface) and tensors, or check them. Reads every byte."""
    from .commands.artefacts import manifest as command

    _leave(command(folder, file, check=check))


@app.command(epilog="Example: blackstart scenarios store-loss --copy drills")
def scenarios(
    name: Annotated[str | None, typer.Argument(help="Show this one.")] = None,
    *,
    copy: Annotated[Path | None, typer.Option(metavar="DIR", help="Copy the file (or all) into a folder.")] = None,
) -> None:
    """List the scenarios that ship, show or copy one."""
    from .commands.looking import scenarios as command

    _leave(command(name, copy))


@app.command(epilog="Example: blackstart faults network-partition")
def faults(kind: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List the kinds of faults: what each does, proves, needs and undoes."""
    from .commands.looking import faults as command

    _leave(command(kind))


@app.command(epilog="Example: blackstart schema --explain 'faults[].at', or --explain gpu-saturate.duty")
def schema(
    which: Annotated[str, typer.Argument(metavar="[scenario|service|result]", help="Which JSON Schema.")] = "scenario",
    *,
    explain: Annotated[str | None, typer.Option(metavar="PATH", help="Tell about one field, or a fault's KIND.KEY.")] = None,
) -> None:
    """Print a JSON Schema, or explain one field."""
    from .commands.looking import schema as command

    _leave(command(which, explain))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"blackstart {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """What is common to all commands."""
    del version


def _leave(code: int) -> None:
    raise typer.Exit(int(code))


def _stop(number: int, _frame: Any) -> None:
    """Outside a drill nothing is injected: a signal just ends the command. Within one, drills/interruption.py takes over."""
    sys.stderr.write(f"\nstopped by {signal.Signals(number).name}\n")
    raise SystemExit(4)


def main() -> None:
    """Run the command line. Catches what nobody caught: a person's mistake never shows a traceback, a bug of ours exits with 70."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the sign must not cost the verdict
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        app()
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes an exit code
        from .commands.console import confess

        sys.exit(confess(error, sys.argv[1:]))
