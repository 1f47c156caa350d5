"""Faults of a workload as the cluster keeps it: scale-down, bad-image, bad-config. All are put back by a guard in the cluster, too."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from .base import Differs, Evidence, NotYet, Undo
from .objects import NOWHERE, ObjectFault, objects_of
from .platforms.base import Platform, Target
from .values import JSON

NOT_YET_STARTED = {"ContainerCreating", "PodInitializing", "CreateContainerConfigError", "starting", "gone"}
IMAGE = "Image"  # in all of the kubelet's reasons for one that it does not get


class WorkloadFault(ObjectFault):
    """A change of the targets' workload, and its end. Subclasses say which, and what shows that its controller took it up."""

    changes: ClassVar[frozenset[str]] = frozenset({"workload"})

    @abstractmethod
    def changed(self, targets: tuple[Target, ...], platform: Platform) -> list[JSON]: ...

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        beside = objects_of(platform).beside(targets[0])
        prior = {
            "standing": [each.identity for each in beside],
            "versions": sorted({each.details["revision"] for each in beside}),
        }
        return Undo(targets, {"changes": self.changed(targets, platform), **prior})

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        """The workload is as it was, and its controller has made it so."""
        objects, target = objects_of(platform), undo.targets[0]
        if still := objects.left(undo.prior["changes"]):
            raise Differs(f"still there: {still}")
        if left := objects.unfinished(target):
            raise Differs(f"{target.details['workload']}: {left}")
        now = [each.identity for each in objects.beside(target)]
        return Evidence(platform.witness, f"{target.details['workload']} is as before, {len(now)} pods ready", {"running": now})


@dataclass(frozen=True)
class ScaleDown(WorkloadFault):
    """Take replicas away: the workload wants so many fewer, and its controller ends just the targets."""

    kind: ClassVar[str] = "scale-down"
    summary: ClassVar[str] = "replicas are taken away in order, and do not come back"
    certifies: ClassVar[str] = (
        "that the service bears its load with so many replicas fewer, and sheds none while they end in order; not that it bears "
        "their sudden death"
    )
    proven_by: ClassVar[str] = "the pods by UID: just the targets are gone, and none stands in their place"

    def changed(self, targets: tuple[Target, ...], platform: Platform) -> list[JSON]:
        return objects_of(platform).fewer(targets)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        objects = objects_of(platform)
        if why := objects.missing(undo.fault, undo.prior["changes"][-1:]):  # what marked the pods is gone with them
            raise NotYet(f"not there: {why}")
        for target in undo.targets:
            if platform.state(target) != "gone":
                raise NotYet(f"{target.name} ({target.identity}) is still {platform.state(target)}")
        now = [each.identity for each in objects.beside(undo.targets[0])]
        if len(now) > len(undo.prior["standing"]) - len(undo.targets):
            raise NotYet(f"{len(now)} pods stand, {len(undo.prior['standing'])} stood before")
        gone = [target.identity for target in undo.targets]
        detail = f"gone: {', '.join(gone)}; {len(now)} of {len(undo.prior['standing'])} pods are left"
        return Evidence(platform.witness, detail, {"gone": gone, "left": now})


class RolloutFault(WorkloadFault):
    """A new version of the workload that does not work, rolled out as its own update strategy says."""

    proven_by: ClassVar[str] = "a pod of the changed version by its UID, and the kubelet's word on it"

    @abstractmethod
    def shows(self, reason: str) -> bool:
        """Whether what a new pod waits for, by the kubelet's word, is this fault."""

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        objects = objects_of(platform)
        if why := objects.missing(undo.fault, _of_workload(undo)):
            raise NotYet(f"not there: {why}")
        for each in objects.beside(undo.targets[0]):
            reason = str(each.details["waiting"]) or platform.state(each)
            if each.details["revision"] not in undo.prior["versions"] and self.shows(reason):
                return Evidence(
                    "the kubelet", f"{each.name} ({each.identity}): {reason}", {"pod": each.identity, "reason": reason}
                )
        raise NotYet(f"no pod of the changed version of {undo.targets[0].details['workload']} shows it")


@dataclass(frozen=True)
class BadImage(RolloutFault):
    """Roll out an image that cannot be pulled."""

    image: Annotated[str, "the image that is rolled out; one that nobody has by default"] = NOWHERE

    kind: ClassVar[str] = "bad-image"
    summary: ClassVar[str] = "a new version is rolled out whose image cannot be pulled"
    certifies: ClassVar[str] = (
        "that a rollout which cannot start stops before users notice; not that a version that starts and is wrong is stopped"
    )

    def changed(self, targets: tuple[Target, ...], platform: Platform) -> list[JSON]:
        return objects_of(platform).another_template(targets, self.image, {}, starts=self.image != NOWHERE)

    def shows(self, reason: str) -> bool:
        return IMAGE in reason


@dataclass(frozen=True)
class BadConfig(RolloutFault):
    """Roll out other environment variables."""

    environment: Annotated[dict[str, str], "variables of the main container with the values that are rolled out"] = field(
        default_factory=dict
    )

    kind: ClassVar[str] = "bad-config"
    summary: ClassVar[str] = "a new version is rolled out with wrong environment variables"
    certifies: ClassVar[str] = "that a rollout with this very mistake stops before users notice; not one with another mistake"
    example: ClassVar[Mapping[str, Any]] = {"environment": {"MODEL_PATH": "/nonexistent"}}
    depends_on: ClassVar[str] = "`environment`"

    def problems(self) -> tuple[str, ...]:
        if not self.environment:
            return ("`environment` is empty, so nothing is rolled out; name a variable",)
        return () if all(self.environment.values()) else ("`environment` has an empty value; write one that is wrong",)

    def changed(self, targets: tuple[Target, ...], platform: Platform) -> list[JSON]:
        return objects_of(platform).another_template(targets, None, self.environment, starts=True)

    def shows(self, reason: str) -> bool:
        return IMAGE not in reason and reason not in NOT_YET_STARTED


def _of_workload(undo: Undo) -> list[JSON]:
    """Without what marks its pods, which go with them."""
    return [change for change in undo.prior["changes"] if "/pods/" not in change["object"]]
