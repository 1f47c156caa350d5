"""The digest lane: what model each replica has on disk, and what it says that it serves, looked at during a drill.

It runs here and not in the prober, because files are read through the platform, and in a thread and on a platform object of its
own, so that nothing waits for it. A look is a stat of every file; what was written or replaced since is read again, at a bounded
rate. Looks go to `samples/digests.jsonl` as they come; `read_digests` reads them back.
"""

import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from ..injectors.base import Refusal
from ..injectors.model_formats import read
from ..injectors.model_formats.layout import Unreadable
from ..injectors.model_formats.manifest import Unfit
from ..injectors.platforms.abilities import ModelSight
from ..injectors.platforms.base import HALVES, WORKERS, Platform, PlatformError, Target
from ..injectors.seen_files import seen_by
from ..injectors.values import JSON
from .journal import DrillClock
from .language.quantities import SIZE
from .measure.digest_samples import DIGESTS
from .measure.digest_values import HAS, SERVES, DigestSample
from .measure.digests import Series, single
from .right_digest import manifest_of, misfit, not_single, path_of, whole
from .scenario import DigestLane, Scenario
from .service import Service

if TYPE_CHECKING:  # which asks `why_not`
    from .plan import Plan

REFUSED = "not injecting: the digest lane"
NOT_ASKED = "a worker of its role is asked only where its `url` is written, which only processes have; `digest.role` compares those of another role"
WELL = 200
LATEST_LOOK_S = 10.0  # what looking takes on a busy machine, through an API
LONGEST_QUESTION = 64 << 10  # characters: it is an argument of a command, and Linux takes 128 KiB


def why_not(scenario: Scenario, service: Service, platform: Platform, everything: Sequence[Target]) -> list[str]:
    """Why the lane that the scenario asks for can tell nothing here: one look at every replica, before anything is changed."""
    lane, model = scenario.digest, service.model
    if lane is None:
        return []
    if model is None:
        return [f"{REFUSED} needs to know the model; add `model: {{path: ...}}` to the service file"]
    if not isinstance(platform, ModelSight):
        return [f"{REFUSED} has no means on platform {platform.name}"]
    replicas = replicas_of(everything, lane)
    if not replicas:
        return [f"{REFUSED} compares replicas, and no target has that role"]
    found = []
    try:
        manifest_of(service, replicas)
    except Unfit as problem:
        found.append(f"{REFUSED} cannot compare with the manifest: {problem}")
        service = replace(service, model=replace(model, manifest=None))  # that is said, and cannot be compared with as well
    looked = [_first_look(target, service, platform) for target in replicas]
    found += [why for _, why in looked if why]
    return [*found, *_too_slow([size for sizes, _ in looked for size in sizes], scenario, lane, platform.longest_read_s)]


def _too_slow(sizes: Sequence[int], scenario: Scenario, lane: DigestLane, longest_s: float) -> Iterator[str]:
    """Why files of so many bytes are not read in time, where one is read for that long at the most."""
    all_s, largest_s = sum(sizes) / lane.per_second, max(sizes, default=0) / lane.per_second
    rate, hold_s = SIZE.show(lane.per_second), scenario.steady_state.hold.total_seconds()
    if all_s > hold_s:
        yield (
            f"{REFUSED} reads {sum(sizes)} bytes before the fault, which at {rate} a second takes {all_s:.0f} s, and "
            f"`steady_state.hold` is {hold_s:g} s; hold for longer, or raise `digest.per_second`"
        )
    if largest_s > longest_s:
        yield (
            f"{REFUSED} reads a file of {max(sizes)} bytes, which at {rate} a second takes {largest_s:.0f} s, and in a container none is "
            f"read for longer than {longest_s:g} s; raise `digest.per_second`"
        )


def replicas_of(everything: Sequence[Target], lane: DigestLane) -> list[Target]:
    """Those that are compared."""
    compared = WORKERS if lane.role is None else {lane.role}
    return [target for target in everything if target.role in compared]


def _first_look(target: Target, service: Service, platform: ModelSight) -> tuple[list[int], str]:
    """The sizes of a replica's model files in bytes, and why they cannot be compared."""
    path = path_of(target, service)
    try:
        _, marks = platform.model_marks(target, path)
    except PlatformError as error:
        return [], f"{REFUSED} cannot read the model of {target.name}: {error}; leave `digest` out, or mend that"
    why = "" if marks else f"{REFUSED} finds no files of {target.name} in {path}; correct `model.path`"
    if marks and (unlike := misfit(target, service, marks.keys())):
        why = f"{REFUSED} cannot compare with the manifest: {unlike}"
    if service.model and service.model.served:
        try:
            served(target, service.model.served, platform)
        except (PlatformError, Unknown) as error:
            why = f"{REFUSED} cannot tell what {target.name} serves: {error}; correct `model.served`, or leave it out"
    return [mark[1] for mark in marks.values()], why


class Unknown(Exception):
    """What a replica has, or serves, could not be told; the message says why."""


def served(target: Target, where: str, platform: ModelSight) -> str:
    """The revision that a replica names itself, by its `model.served`. Raises Unknown, PlatformError."""
    path, _, pointer = where.partition("#")
    if target.asked is None:
        half = target.role in HALVES and target.details.get("url")
        raise Unknown(NOT_ASKED if half else "it has no URL of its own")
    answer = platform.ask(target, f"{target.asked.rstrip('/')}{path}")
    try:
        said = pointed(json.loads(answer["body"]), pointer) if answer["status"] == WELL else ""
    except ValueError:
        said = ""
    if not said:
        raise Unknown(f"{path} answered {answer['status']} and names no revision at {pointer}")
    return said


def pointed(value: Any, pointer: str) -> str:
    """The text that a JSON Pointer (RFC 6901) leads to; empty where there is none."""
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return ""
    return value if isinstance(value, str) else ""


class SeeingPlatform(Platform, ModelSight, Protocol):
    """A platform that `why_not` has nothing against."""


@dataclass(frozen=True)
class _File:
    mark: Sequence[int]
    sha256: str
    parts: Mapping[str, str]


@dataclass
class _Watch:
    """The lane under way. `looks` is what its thread does until `over` is set."""

    lane: DigestLane
    service: Service
    platform: SeeingPlatform
    clock: DrillClock
    out: TextIO
    targets: dict[str, Target]
    manifest: str
    latest: dict[Series, DigestSample] = field(default_factory=dict)
    round_s: float = -inf  # when the latest round of looks at all of them that is over began
    _files: dict[tuple[str, str], dict[str, _File]] = field(default_factory=dict)  # by replica and identity
    _written: set[str] = field(default_factory=set)

    def single(self) -> bool:
        """Whether all replicas have one digest by the latest looks."""
        return single(dict(self.latest), self.manifest) is True

    def not_single(self) -> str:
        """Why they do not have one, by what was read of them."""
        known = dict(self._files)  # their thread goes on writing
        read_of = [known.get((name, target.identity)) for name, target in self.targets.items()]
        return not_single([{name: each.sha256 for name, each in files.items()} for files in read_of if files])

    def looked_since(self, moment_s: float) -> bool:
        """Whether each of them was looked at after that moment, whatever was found."""
        return self.round_s >= moment_s

    def looks(self) -> None:
        every_s, next_s = self.lane.every.total_seconds(), self.clock.now()
        while not self.platform.given_up.wait(max(0.0, next_s - self.clock.now())):
            began_s = self.clock.now()
            next_s = max(next_s + every_s, began_s)
            for name in self.targets:
                self._take(HAS, name, self._has)
                if self.service.model and self.service.model.served:
                    self._take(SERVES, name, self._serves)
            self.round_s = began_s

    def _take(self, kind: str, name: str, look: Callable[[Target], tuple[float, str]]) -> None:
        """One look, written down; a second one where another stands in the place of what could not be looked at."""
        before = self.targets[name].identity
        sample = self._looked(kind, name, look)
        if not sample.digest and self._found_again(name) != before:
            sample = self._looked(kind, name, look)
        if self.platform.given_up.is_set():
            return  # the drill is over, and that is no observation
        self._write(sample._asdict())
        self.latest[kind, name] = sample

    def _looked(self, kind: str, name: str, look: Callable[[Target], tuple[float, str]]) -> DigestSample:
        target, lo_s = self.targets[name], self.clock.now()
        try:
            hi_s, digest = look(target)
        except (PlatformError, Unknown) as error:
            return DigestSample(kind, name, target.identity, lo_s, self.clock.now(), "", str(error))
        return DigestSample(kind, name, target.identity, lo_s, hi_s, digest)

    def _found_again(self, name: str) -> str:
        """The identity of what stands under that name now, or stood last."""
        with suppress(PlatformError):  # then the next look asks again
            self.targets[name] = self.platform.current(name) or self.targets[name]
        return self.targets[name].identity

    def _has(self, target: Target) -> tuple[float, str]:
        """When it was looked at, at the latest, and the digest then. Raises Unknown, PlatformError."""
        path, key = path_of(target, self.service), (target.name, target.identity)
        (folder, marks), hi_s = self.platform.model_marks(target, path), self.clock.now()
        if not marks:
            raise Unknown(f"{path} holds no files")
        before, now = self._files.get(key, {}), {}
        for name, mark in marks.items():
            known = before.get(name)
            now[name] = known if known and known.mark == mark else self._read(target, posixpath.join(folder, name), mark)
        self._files[key] = now
        digest = whole({name: each.sha256 for name, each in now.items()})
        if digest not in self._written:
            self._written.add(digest)
            contents = {name: each.sha256 for name, each in now.items()}
            contents |= {f"{name}:{part}": value for name, each in now.items() for part, value in each.parts.items()}
            self._write({"digest": digest, "contents": contents})
        return hi_s, digest

    def _read(self, target: Target, file: str, mark: Sequence[int]) -> _File:
        found = self.platform.model_digests(target, file, self._tensors(target, file), int(self.lane.per_second))
        if not found["before"] == found["after"] == mark:
            raise Unknown(f"{file} was changed while it was read")
        return _File(mark, found["sha256"], found["parts"])

    def _tensors(self, target: Target, file: str) -> dict[str, tuple[int, int]]:
        """Where the tensors lie in it, for who wants to know which of them differ; none in what no format is known of, or has too many."""
        try:
            layout = read(seen_by(target, self.platform).source(file))
            found = {each.name: (each.offset, each.size) for each in layout.tensors if not each.file}
            return found if len(json.dumps(found)) <= LONGEST_QUESTION else {}
        except (Unreadable, Refusal):
            return {}

    def _serves(self, target: Target) -> tuple[float, str]:
        assert self.service.model is not None
        said = served(target, self.service.model.served or "", self.platform)
        return self.clock.now(), said

    def _write(self, line: JSON) -> None:
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()


@dataclass(frozen=True)
class Lookout:
    """What a drill under way learns of the lane; where it is off, that there is nothing to wait for."""

    single: Callable[[], bool] = lambda: True  # whether all replicas have one digest by now
    not_single: Callable[[], str] = lambda: ""  # why they have not
    looked_since: Callable[[float], bool] = lambda _: True  # whether each was looked at after that moment, or no look will come
    patience_s: float = 0.0  # by when each surely was


@contextmanager
def watching(
    plan: "Plan", opened: AbstractContextManager[Platform], clock: DrillClock, folder: Path, write_down: Callable[..., None]
) -> Iterator[Lookout]:
    """Look for as long as the context is open."""
    lane = plan.scenario.digest
    if lane is None:
        yield Lookout()
        return
    with opened as platform, (folder / DIGESTS).open("w", encoding="utf-8") as out, ThreadPoolExecutor(1) as worker:
        assert isinstance(platform, ModelSight)
        platform.recall(plan.everything)
        targets = {target.name: target for target in replicas_of(plan.everything, lane)}
        right = manifest_of(plan.service, list(targets.values()))
        watch = _Watch(lane, plan.service, cast(SeeingPlatform, platform), clock, out, targets, right)
        prefill = sorted(name for name, target in targets.items() if target.role == "prefill")
        write_down("digest-lane", manifest=watch.manifest, replicas=sorted(targets), prefill=prefill)
        doing = worker.submit(watch.looks)
        try:
            hold = plan.scenario.steady_state.hold  # in which all could be read
            patience_s = (hold + lane.every).total_seconds() + LATEST_LOOK_S
            yield Lookout(
                watch.single, watch.not_single, lambda moment_s: watch.looked_since(moment_s) or doing.done(), patience_s
            )
        finally:
            platform.given_up.set()
            if problem := doing.exception():
                write_down("inconclusive", why=f"the digest lane ended by itself: {type(problem).__name__}: {problem}")
