"""A drill that a pod in the service's namespace carries out: planned here, with the same refusals as one that runs here, and written down."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..injectors.platforms import open_platform
from ..injectors.platforms.base import Platform, PlatformError
from ..injectors.values import JSON
from .beside import longest_s
from .drill import held, make_folder, nothing_left, remove_if_unused, seed_of
from .loading import dump_scenario, dump_service
from .plan import Plan, means, plan
from .refusal import Refused
from .scenario import Scenario
from .service import Service
from .state import drilling, name_of_run, state_folder
from .undoing import UNDO_PATIENCE_S
from .watched import addressed

LAST_S = 90.0  # for what comes after the undo: reading back, judging, reports


@dataclass(frozen=True)
class Errand:
    """What is to be carried out: `files` by name, and the least rights that it takes, as the platform grants them."""

    run: str
    plan: Plan
    files: Mapping[str, str]
    role: JSON
    nodes: tuple[str, ...]  # that faults will close or empty

    @property
    def longest_s(self) -> float:
        """What the drill does not exceed."""
        return longest_s(self.plan.scenario)

    @property
    def stop_s(self) -> float:
        """What undoing all of it, and writing that down, does not exceed."""
        scenario = self.plan.scenario
        undo_s = max(UNDO_PATIENCE_S, scenario.observe.total_seconds())
        waited_s = sum(each.for_.total_seconds() for each in scenario.faults if each.injector.longest is not None and each.for_)
        return undo_s * len(scenario.faults) + waited_s + scenario.settle.total_seconds() + LAST_S


@contextmanager
def errand(scenario: Scenario, service: Service, runs: Path, environment: Mapping[str, str], remark: str) -> Iterator[Errand]:
    """The plan of it, with that remark for whoever agrees. As long as the context lasts, this machine drills the service no second time.

    Raises Refused, BeingDrilled.
    """
    state = state_folder(environment)
    run = name_of_run(scenario.name, environment)
    with drilling(state, service, run):
        nothing_left(state, service)
        remove_if_unused(make_folder(runs, run))  # what comes back needs a place
        with open_platform(service.where(), state, environment) as platform:
            held(platform, run)  # and let go of at once: the drill takes it itself
            service = _asked_from_there(service, platform)
            decided = plan(scenario, service, platform, seed_of(scenario))
            role = _role(decided, service, platform)
        decided = replace(decided, remarks=(*decided.remarks, remark))
        exactly = replace(scenario, seed=decided.seed)  # the plan that is agreed to, and no other choice of victims
        files = {"scenario.yaml": dump_scenario(exactly), "service.yaml": dump_service(service)}
        yield Errand(run, decided, files, role, decided.nodes_to_leave)


def _asked_from_there(service: Service, platform: Platform) -> Service:
    """Where the file names a Service, it has its name in the cluster for an address: the drill's own pod asks."""
    within = replace(service, probe=replace(service.probe, from_="in-cluster"))
    return replace(addressed(within, platform), probe=service.probe)


def _role(decided: Plan, service: Service, platform: Platform) -> JSON:
    try:
        return platform.role(service.name, means(decided.scenario, service, decided.faults))
    except PlatformError as error:
        raise Refused([f"not injecting: {error}"]) from error
