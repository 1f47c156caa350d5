"""A credential that the cluster keeps in a Secret: changed there, under a guard, and seen where the kubelet writes it, in the targets' pods."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .base import Differs, Evidence, ForeignChange, NotYet, Refusal, Undo
from .platforms.base import Platform, PlatformError, Target
from .platforms.object_guard import AS_BEFORE
from .processes import newcomers
from .values import JSON

Change = Callable[[bytes], bytes]
WRITTEN = "sha256 of the file that the kubelet writes, read inside the pod"
KEPT = "sha256 of the Secret's value, by the API server"


class SecretValues(Protocol):
    """The ability to change a value of a Secret and to have a guard at the site put it back. Records hold digests alone."""

    def behind(self, targets: Sequence[Target], paths: Mapping[str, str], changed: Change) -> list[JSON]:
        """The values that the targets see at these paths (target's name -> path), and what they would be. Raises Unsupported."""

    def begin(self, fault: str, changes: Sequence[JSON], changed: Change, deadline_s: float) -> None:
        """Arm a guard, then change. Raises PlatformError."""

    def end(self, fault: str, changes: Sequence[JSON]) -> JSON:
        """Undo, from any process, as often as wished: under `each` an answer for every change, in their order. It is `undone`, with a
        `reason`, or `foreign` where somebody else changed it since.
        """

    def missing(self, fault: str, changes: Sequence[JSON]) -> str:
        """Which change is not there, by the API server's word, or why no guard is; empty: all are."""

    def left(self, changes: Sequence[JSON]) -> str:
        """What of ours is still there, or why a value that was read just now is not what it was; empty: all are as before."""


def values_of(platform: Platform) -> SecretValues:
    """Raises Refusal."""
    found: SecretValues | None = getattr(platform, "secrets", None)
    if found is None:
        raise Refusal(f"not injecting: platform {platform.name} keeps no Secrets; leave `secret` out")
    return found


def planned(targets: tuple[Target, ...], paths: Mapping[str, str], platform: Platform, changed: Change) -> Undo:
    changes = values_of(platform).behind(targets, paths, changed)
    for change in changes:
        if change["before"] == change["ours"]:
            raise Refusal(f"not injecting: what {change['object']} holds is worthless already")
    try:
        own = {target.name: list(platform.own(target)) for target in targets}
    except PlatformError as error:
        raise Refusal(f"not injecting: {error}") from error
    return Undo(targets, {"paths": dict(paths), "changes": changes, "own": own})


def inject(undo: Undo, platform: Platform, changed: Change) -> None:
    values_of(platform).begin(undo.fault, undo.prior["changes"], changed, undo.deadline_s)


def verify(undo: Undo, platform: Platform) -> Evidence:
    """A Secret that is changed in the API alone has hit nobody yet."""
    if why := values_of(platform).missing(undo.fault, undo.prior["changes"]):
        raise NotYet(f"not there: {why}")
    facts = {}
    for name, change in _each(undo):
        digest = _written(undo, name, platform)
        if digest != change["ours"]:
            raise NotYet(f"{undo.prior['paths'][name]} of {name} has {digest}: the kubelet has not written it yet")
        facts[name] = {"path": undo.prior["paths"][name], "digest_before": change["before"], "digest_after": digest}
    told = [
        f"{each['path']} of {name}: {each['digest_before'][:23]} became {each['digest_after'][:23]}"
        for name, each in facts.items()
    ]
    return Evidence(WRITTEN, "; ".join(told), facts)


def recover(undo: Undo, platform: Platform) -> None:
    """Put it back; then what started meanwhile, and so may hold the worthless one in memory, starts again. Raises ForeignChange.

    Whoever put it back: a guard has nobody start again, nor has an undo that was cut off. Only what was never changed nobody can hold.
    """
    changes, foreign = undo.prior["changes"], []
    planned_as = {target.name: target for target in undo.targets}
    for change, answer in zip(changes, values_of(platform).end(undo.fault, changes)["each"], strict=True):
        if answer["event"] == "foreign":
            foreign.append(str(answer["why"]))
        elif answer["reason"] != AS_BEFORE:
            for name in change["targets"]:
                _start_again(planned_as[name], undo.prior["own"][name], platform)
    if foreign:
        raise ForeignChange("; ".join(foreign))


def _start_again(target: Target, own: Sequence[str], platform: Platform) -> None:
    """Where it, or a process in it, came since the plan."""
    now = platform.current(target.name)
    if now is not None and (now.identity != target.identity or newcomers(now, {"own": own}, platform)):
        platform.restart(now)


def verify_recovered(undo: Undo, platform: Platform) -> Evidence:
    """The Secret is as it was. When a pod has it is the kubelet's own affair, and is told."""
    if still := values_of(platform).left(undo.prior["changes"]):
        raise Differs(still)
    told, facts = [], {}
    for name, change in _each(undo):
        written = _written(undo, name, platform) == change["before"]
        facts[name] = {"object": change["object"], "digest": change["before"], "written": written}
        told.append(f"{change['object']}: {change['before'][:23]} again, {'and' if written else 'not yet'} in {name}")
    return Evidence(KEPT, "; ".join(told), facts)


def _each(undo: Undo) -> list[tuple[str, JSON]]:
    """Target's name and the change that it sees."""
    return [(name, change) for change in undo.prior["changes"] for name in change["targets"]]


def _written(undo: Undo, name: str, platform: Platform) -> str:
    now = platform.current(name)
    try:
        return platform.digest(now, undo.prior["paths"][name]) if now else "none: nothing stands there"
    except PlatformError as error:
        return f"none ({error})"
