"""Where a drill is measured from: here, or from an outpost beside the service, which stands for as long as the drill lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..injectors.platforms.base import Platform, PlatformError
from ..injectors.platforms.outposts import Crowds
from .load_pods import LoadPods
from .measure.distant import KEEP, Distant, programs
from .measure.golden import Fetch
from .measure.lanes import load_named
from .measure.probing import Prober
from .plan import Plan
from .progress import Progress
from .refusal import Refused
from .scenario import Scenario

SLACK_S = 900.0  # questions before a drill, undos and reading back are waited for, each with a limit of its own


@contextmanager
def outpost(
    decided: Plan, platform: Platform, probers: tuple[Prober, LoadPods], folder: Path, progress: Progress
) -> Iterator[Fetch]:
    """Begins the prober in an outpost, and those that only give load; gives the way to ask a question from there. Raises Refused."""
    service, outposts, run, (prober, load) = decided.service, platform.outposts, folder.name, probers
    more = decided.scenario.load.pods - 1
    image = service.probe.image
    if outposts is None or image is None:
        raise Refused([f"not injecting: platform {service.platform} has no place for a prober; write `probe: {{from: here}}`"])
    needs = (run, image, programs(), KEEP, longest_s(decided.scenario), decided.nodes_to_leave)
    try:
        try:
            outposts.outpost_begin(*needs)
            distant = Distant(partial(outposts.outpost_line, run), partial(outposts.outpost_lost, run), folder / "samples")
            prober.begin(distant)
            if more and isinstance(outposts, Crowds):  # the plan has refused others
                outposts.crowd_begin(more, *needs)
                load.begin([_of_crowd(outposts, index, folder) for index in range(more)])
        except PlatformError as error:
            raise Refused([f"not injecting: {error}"]) from error
        yield distant.fetch
    finally:
        prober.stop()
        load.stop()
        try:
            outposts.outpost_end(run)
        except PlatformError as error:  # nothing of it is a fault, and it ends by itself
            progress.note(f"what the prober ran in is not removed: {error}; it ends by itself")


def _of_crowd(crowds: Crowds, index: int, folder: Path) -> Distant:
    samples, run = folder / "samples" / load_named(index), folder.name
    samples.mkdir()
    return Distant(partial(crowds.crowd_line, index, run), partial(crowds.crowd_lost, index, run), samples)


def longest_s(scenario: Scenario) -> float:
    """What no drill of this scenario exceeds: each injection begins `observe` anew, and each undo may take as long."""
    observe_s, settle_s = scenario.observe.total_seconds(), scenario.settle.total_seconds()
    each_s = [
        fault.at.total_seconds() + fault.injector.patience.total_seconds() + (fault.for_.total_seconds() if fault.for_ else 0.0)
        for fault in scenario.faults
    ]
    watched_s = scenario.steady_state.hold.total_seconds() + 2 * observe_s * (1 + len(each_s)) + 2 * settle_s
    return watched_s + sum(each_s) + SLACK_S
