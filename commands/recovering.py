"""recover: undo what dead runs left, on this machine and in a cluster."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..drills.state import BeingDrilled
from ..drills.verdict import ExitCode
from .console import EXPECTED, insist, tell

if TYPE_CHECKING:
    from ..injectors.platforms.docker_left import EngineLeft


def recover(name: str | None, out: Path, *, everything: bool, accept: bool) -> ExitCode:
    """Undo what dead runs left. One that cannot be undone now keeps none of the others from it."""
    from ..drills.recovery import runs_to_recover

    if (name is None) != everything or (accept and everything):
        tell("name a run to close it" if accept else "name a run, or give --all")
        return ExitCode.USAGE
    codes: list[ExitCode] = [ExitCode.PASSED]
    runs: dict[str, Path] = {}
    with suppress(KeyError):
        runs = runs_to_recover(name, out, os.environ)
    elsewhere: dict[str, Path] = {}
    context = None
    if everything or not runs:
        elsewhere, context, asked = _remembered_by_the_cluster(name, out)
        codes.append(asked)
    if (everything or not runs) and not elsewhere:
        on_engine, asked = _left_on_the_engine(name)
        codes.append(asked)
        if on_engine and name:
            return max(codes)
    if not runs and not elsewhere and name:
        tell(f"no run is called {name}: neither a folder, nor in {out}, nor among the runs that may have left something")
        return ExitCode.USAGE
    for run_name, folder in {**elsewhere, **runs}.items():
        try:
            codes.append(_recovered(run_name, folder, context if run_name in elsewhere else None, accept=accept))
        except BeingDrilled as busy:
            tell(f"{run_name}: not recovering: {str(busy).removeprefix('not injecting: ')}")
            codes.append(ExitCode.USAGE)
        except EXPECTED as error:
            insist(f"{run_name}: STILL OPEN: {error}")
            codes.append(ExitCode.DIRTY)
    if not runs and not elsewhere:
        insist("nothing was left by any run")
    return max(codes)  # dirty above usage above passed


def _remembered_by_the_cluster(name: str | None, out: Path) -> tuple[dict[str, Path], str | None, ExitCode]:
    """Runs of other machines that the current context's cluster tells of, the context, and whether it could be asked."""
    from ..drills.recovery import runs_in_cluster
    from ..injectors.platforms.base import PlatformError

    try:
        found, context, only = runs_in_cluster(name, out, os.environ)
    except PlatformError as error:
        tell(f"the cluster was not asked what other machines left: {error}")
        return {}, None, ExitCode.USAGE if os.environ.get("KUBECONFIG") else ExitCode.PASSED
    if only:
        tell(f"of the cluster only namespace {only} was asked: this login may look in no other")
    return found, None if context == "in-cluster" else context, ExitCode.PASSED


def _left_on_the_engine(name: str | None) -> tuple[bool, ExitCode]:
    """Containers of ours on the Docker engine, of runs that this machine does not know: those of the named one are ended, of others told.

    They are all that can be looked for without its folder, so such a run is never said to be well. Whoever names a run says that it is
    dead: nobody can tell from here.
    """
    from ..drills.recovery import runs_to_recover
    from ..injectors.platforms import engine_configured
    from ..injectors.platforms.base import PlatformError

    if not engine_configured(os.environ):
        return False, ExitCode.PASSED
    from ..injectors.platforms.docker_left import opened_left

    known = runs_to_recover(None, Path(), os.environ)
    try:
        with opened_left(os.environ) as left:
            for run, names in left.runs().items() if name is None else ():
                if run not in known:
                    tell(f"{run} is of another machine and has {', '.join(names)} here; if it is dead: blackstart recover {run}")
            if name is None or name not in left.runs():
                return False, ExitCode.PASSED
            _end_on_the_engine(name, left)
            return True, ExitCode.DIRTY
    except PlatformError as error:
        tell(f"the Docker engine was not asked what other machines left: {error}")
        return False, ExitCode.USAGE if name and os.environ.get("DOCKER_HOST") else ExitCode.PASSED


def _end_on_the_engine(name: str, left: "EngineLeft") -> None:
    try:
        insist(f"{name}: {'; '.join(left.end(name))}")
        insist(
            f"{name}: no more than that was undone; its folder tells what else it left: blackstart recover {name}, on its machine"
        )
    except EXPECTED as error:
        insist(f"{name}: STILL BROKEN: {error}; run: blackstart recover {name}")


def _recovered(name: str, folder: Path, context: str | None, *, accept: bool) -> ExitCode:
    from ..drills.recovery import accept as close
    from ..drills.recovery import recover_run

    if accept:
        staying = close(name, folder, os.environ)
        insist(f"{name}: closed on your word")
        for told in staying:
            insist(f"{name}: {told}")
        if staying:
            insist(
                f"{name}: this is yours to delete once you have looked at the files that it lies beside: what they held before is in it, "
                "and as long as it is there no drill changes them. An agent that still lives puts it back by itself within a minute, or as "
                "long as it takes to write such a file: look again after that"
            )
        return ExitCode.PASSED
    done = recover_run(name, folder, os.environ, tell, context)
    if not done.left:
        insist(f"{name}: {'; '.join(done.lines)}")
        return ExitCode.PASSED
    for left in done.left:
        insist(f"{name}: STILL BROKEN: {left}; run: blackstart recover {name}")
    tell(f"If you have looked and all is well: blackstart recover {name} --accept")
    return ExitCode.DIRTY
