"""What faults do with the objects that a cluster keeps: change them and put them back, and move pods off their nodes; and with nodes."""

from datetime import timedelta
from typing import ClassVar

from .base import ForeignChange, Injector, Privilege, Refusal, Undo
from .means import PATCH, Means
from .platforms.abilities import Isolation, Objects
from .platforms.base import GivenUp, Platform, PlatformError, Target

AGAIN_S = 1.0
NOWHERE = "registry.invalid/blackstart/no-such-image:0"  # RFC 2606: the name `invalid` never resolves


def objects_of(platform: Platform) -> Objects:
    """Its ability to change them. Raises Refusal."""
    found: Objects | None = getattr(platform, "objects", None)
    if found is None:
        raise Refusal(f"not injecting: platform {platform.name} keeps no workloads and nodes of its own")
    return found


def isolation_of(platform: Platform) -> Isolation:
    """Its ability to cut nodes off. Raises Refusal."""
    found: Isolation | None = getattr(platform, "isolation", None)
    if found is None:
        raise Refusal(f"not injecting: platform {platform.name} has no nodes that could be cut off")
    return found


class ObjectFault(Injector):
    """A change of objects of the cluster, kept in the undo record's `changes`, under a guard that would put it back."""

    done_by: ClassVar[Means] = PATCH
    undone_by: ClassVar[str] = "blackstart, or its guard in the cluster, by a patch that tests that the value is still ours"
    platforms: ClassVar[frozenset[str]] = frozenset({"kubernetes"})
    privilege: ClassVar[Privilege] = Privilege.API
    patience: ClassVar[timedelta] = timedelta(seconds=180)  # pods of model servers end slowly

    def inject(self, undo: Undo, platform: Platform) -> None:
        objects_of(platform).begin(undo.fault, undo.prior["changes"], undo.deadline_s)

    def recover(self, undo: Undo, platform: Platform) -> None:
        """Raises ForeignChange when somebody else had changed it since."""
        answer = objects_of(platform).end(undo.fault, undo.prior["changes"])
        if answer["event"] == "foreign":
            raise ForeignChange(str(answer["why"]))


def may_be_evicted(targets: tuple[Target, ...], platform: Platform) -> None:
    """Each of them now, by the platform's own word. Raises Refusal."""
    for target in targets:
        if why := objects_of(platform).evict(target, only_ask=True):
            raise Refusal(f"not injecting: {target.name} may not be evicted: {why}")


def evict_all(targets: tuple[Target, ...], platform: Platform, limit_s: float) -> None:
    """As a drain does: one that a budget forbids is asked for again. Raises PlatformError at the limit."""
    objects, waiting, waited = objects_of(platform), list(targets), 0.0
    while waiting:
        refused = [(target, why) for target in waiting if (why := objects.evict(target))]
        waiting = [target for target, _ in refused]
        if waiting and waited >= limit_s:
            raise PlatformError(f"{waiting[0].name} is not evicted: {refused[0][1]}")
        if waiting and platform.given_up.wait(AGAIN_S):
            raise GivenUp("the drill was stopped while pods were evicted")
        waited += AGAIN_S
