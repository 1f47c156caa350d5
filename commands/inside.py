"""run --in-cluster: the drill is carried out by a Job in the service's namespace; planned and agreed to here, followed (following.py) or left."""

import os
import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..drills.errand import Errand, errand
from ..drills.interruption import Interruption, interruptible
from ..drills.language.quantities import parse_duration
from ..drills.loading import load_service
from ..drills.machine import INSIDE
from ..drills.refusal import Refused
from ..drills.scenario import Scenario
from ..drills.service import Service
from ..drills.state import NAMED
from ..drills.verdict import ExitCode
from ..injectors.platforms.base import GivenUp, PlatformError
from ..injectors.platforms.kube_api import KubeApi
from ..injectors.platforms.kube_drills import FILES, RUNS, DrillJob, Order, drills_in
from .console import say, tell
from .following import Trip, brought_home

if TYPE_CHECKING:
    from ..drills.finished import FinishedRun
    from .drilling import RunOptions


@dataclass(frozen=True)
class Inside:
    """The options of `run --in-cluster`. `keep`: how long the pod waits after the drill for its folder to be fetched."""

    image: str
    claim: str | None
    keep: timedelta
    detach: bool
    service_file: Path


def options(service_file: Path, image: str | None, claim: str | None, keep: str, *, wanted: bool, detach: bool) -> Inside | None:  # noqa: PLR0913 - the options as they are given
    """What these options ask for; None: a drill from here. Raises Refused where they do not fit together."""
    if not wanted:
        if others := [name for name, given in (("--image", image), ("--claim", claim), ("--detach", detach)) if given]:
            raise Refused(
                [f"not injecting: {', '.join(others)} without --in-cluster, for which it is meant; add it, or leave that out"]
            )
        return None
    if not image:
        why = "the drill runs in a pod, and nothing says from which image; build one from the Dockerfile of blackstart"
        raise Refused([f"not injecting: --in-cluster without --image: {why}, and name it with --image"])
    try:
        return Inside(image, claim, parse_duration(keep), detach, service_file)
    except ValueError as error:
        raise Refused([f"not injecting: --keep {keep} is no duration: {error}"]) from error


def drill_inside(scenario: Scenario, service: Service, asked: "RunOptions") -> "tuple[FinishedRun | None, ExitCode]":
    """One drill by a Job, and what came of it; nothing, where it is left running. Raises Refused with nothing made."""
    from .drilling import agreed

    assert asked.inside is not None
    how = asked.inside
    where = namespace_of(service, "--in-cluster")
    _fits(asked)
    remark = f"carried out by a Job there (image {how.image}): blackstart runs in its pod"
    with (
        errand(scenario, service, asked.out, os.environ, remark) as order,
        closing(_opened(service)) as api,
        interruptible() as interruption,
    ):
        job = DrillJob(api, where, order.run)
        if refusals := job.refusals(order.role, how.claim):
            raise Refused([f"not injecting: {why}" for why in refusals])
        if not (asked.yes or service.demo or agreed(order.plan)):
            raise Refused(["not injecting: the plan was not agreed to"])
        interruption.arm()
        if not _begun(job, order, how, interruption):
            return None, ExitCode.ABORTED
        trip = Trip(job, asked.out, come_back(order.run, how.service_file, asked.out), interruption, asked.kill_switch)
        if how.detach:
            say(order.run)
            tell(f"it goes on without this command; to follow it, and for its report: {trip.come_back}")
            return None, ExitCode.PASSED
        return brought_home(trip, quietly=asked.as_json)


def _fits(options: "RunOptions") -> None:
    if options.inside and options.inside.detach and options.kill_switch:
        raise Refused(["not injecting: --kill-switch with --detach: nobody would look at that file; leave one of the two out"])


def _begun(job: DrillJob, order: Errand, how: Inside, interruption: Interruption) -> bool:
    """The Job runs; False: it was stopped before, and is removed. Raises Refused where it cannot run."""

    def given_up(seconds: float) -> bool:
        interruption.wait(seconds)
        return interruption.requested

    url = order.plan.service.endpoint.url
    asked = f"; {url} is asked from inside its pod" if order.plan.service.probe.from_ == "here" else ""
    tell(f"drilling by {job}, context {job.api.context} ({job.api.server}), as run {order.run}{asked}")
    try:
        job.begin(_order(order, how, job.namespace), given_up)
    except GivenUp:
        tell("stopped before the drill began; what was made for it is removed")
        return False
    except PlatformError as error:
        raise Refused([f"not injecting: {error}"]) from error
    return True


def _order(order: Errand, how: Inside, namespace: str) -> Order:
    scenario, service = (f"{FILES}/{name}" for name in ("scenario.yaml", "service.yaml"))
    return Order(
        image=how.image,
        files=order.files,
        command=("blackstart", "run", scenario, "--service", service, "--yes", "--out", RUNS),
        environment={NAMED: order.run, INSIDE: f"a pod in namespace {namespace} ({how.image})"},
        role=order.role,
        nodes=order.nodes,
        claim=how.claim,
        keep_s=how.keep.total_seconds(),
        longest_s=order.longest_s,
        stop_s=order.stop_s,
    )


def fetch(run: str | None, service_file: Path, out: Path) -> ExitCode:
    """Follow the drill that a Job carries out, to its end, and bring its folder here; without a name the only one."""
    service = load_service(service_file)
    where = namespace_of(service, "fetch")
    with closing(_opened(service)) as api, interruptible() as interruption:
        there = drills_in(api, where)
        name = there[0] if run is None and len(there) == 1 else run
        name = Path(name).name if name else name  # its folder, as `recover` takes it
        if name not in there or name is None:
            raise Refused([_not_there(run, there, f"namespace {where} of context {api.context}")])
        interruption.arm()
        return brought_home(Trip(DrillJob(api, where, name), out, come_back(name, service_file, out), interruption))[1]


def _not_there(run: str | None, there: Sequence[str], where: str) -> str:
    if run is None:
        return f"name the run; {where} has {', '.join(there)}" if there else f"no drill by a Job is in {where}"
    others = f"; there is {', '.join(there)}" if there else ""
    return f"no drill {run} is in {where}: it was fetched already, or nobody did in time{others}"


def namespace_of(service: Service, what: str) -> str:
    """Raises Refused where it lives in none."""
    if service.kubernetes is None:
        why = f"{service.name} lives on platform {service.platform}, and a Job needs kubernetes"
        raise Refused([f"not injecting: {what}: {why}; leave the option out" if what.startswith("--") else f"{what}: {why}"])
    return service.kubernetes.namespace


def _opened(service: Service) -> KubeApi:
    return KubeApi.opened(os.environ, service.kubernetes.context if service.kubernetes else None)


def come_back(run: str, service_file: Path, out: Path) -> str:
    """The command with which anybody comes back to a run."""
    words = ["blackstart", "fetch", run, "--service", str(service_file)]
    return shlex.join([*words, *(["--out", str(out)] if out != Path("blackstart-runs") else [])])
