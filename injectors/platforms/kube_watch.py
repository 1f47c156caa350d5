"""What becomes of a service's pods while a drill runs: where they answer, and the steps of their way out of service and back.

Pods, EndpointSlices and the events of image pulls are watched, each in a thread of its own, and what is seen is dated by reads of
their revisions (kube_dates.py). Which slot a pod stands in is known from the watch's own objects; only a controller that is new,
a rollout's ReplicaSet, is asked for.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..values import JSON
from .base import Milestone, PlatformError, Target, Unavailable
from .kube_api import Forbidden, KubeApi, place
from .kube_find import Finder, Owned
from .kube_follow import CHANGED, DELETED, FIRST, Followed, Seen, revision_of
from .kube_pods import identity_of, owner_of, parts_of, url_of
from .kube_steps import PULLED, Rotation, pulled, reached, steps

RETRY_S = 1.0
READ_EVERY_S = 0.25  # the width of a milestone; four small requests a second and resource
DISCOVERY = "discovery.k8s.io/v1"


@dataclass
class Watcher:
    """Follows a namespace. Each thread has its own part of the state; what they find is taken from their queues."""

    api: KubeApi
    finder: Finder
    _moves: deque[tuple[str, str]] = field(default_factory=deque)
    _told: deque[Milestone] = field(default_factory=deque)  # without a name yet
    _unseen: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _watching: bool = False
    # of the thread that follows pods
    _known: dict[str, str] = field(default_factory=dict)  # slot -> URL
    _slots: dict[str, str | None] = field(default_factory=dict)  # UID -> slot; None: not known yet, empty: not of this service
    _pods: dict[str, JSON] = field(default_factory=dict)
    _steps: dict[str, dict[str, str]] = field(default_factory=dict)
    _workloads: list[Owned] = field(default_factory=list)
    _foreign: set[str | None] = field(default_factory=set)  # controllers
    # of the thread that follows slices
    _rotation: Rotation = field(default_factory=Rotation)

    def moved(self) -> tuple[tuple[str, str], ...]:
        """Slot and URL of what moved since the last call; the first call begins to watch."""
        self._begin()
        return tuple(self._moves.popleft() for _ in range(len(self._moves)))

    def milestones(self) -> tuple[Milestone, ...]:
        """Those whose pod's slot is known by now. What is not of this service is left out."""
        self._begin()
        found = []
        for one in [self._told.popleft() for _ in range(len(self._told))]:
            slot = self._slots.get(parts_of(one.identity)[2])
            if slot is None:  # the watch of pods is behind
                self._told.append(one)
            elif slot:
                found.append(one._replace(name=slot))
        return tuple(found)

    def unseen(self) -> list[str]:
        return list(self._unseen)

    def begin_from(self, targets: Sequence[Target]) -> None:
        """Where everything stood when somebody last looked; what moves from there on is told."""
        if not self._watching:
            self._known = {target.name: target.details["url"] for target in targets if target.details["url"]}

    def close(self) -> None:
        """The threads end with their next event or their request's time-out; they hold nothing that must be waited for."""
        self._over.set()

    def _begin(self) -> None:
        if self._watching:
            return
        self._watching = True
        namespace = self.finder.spec.namespace
        pods = Followed(self.api, place("pods", namespace))
        slices = Followed(self.api, place("endpointslices", namespace, group=DISCOVERY))
        pulls = Followed(self.api, place("events", namespace), PULLED)
        for followed, take, steps_ in (
            (pods, self._take_pods, "created, scheduled, started and ready"),
            (slices, self._take_slices, "endpoint-removed and endpoint-added"),
            (pulls, self._take_pulls, "pulled"),
        ):
            threading.Thread(target=self._follow, args=(followed, take, steps_), daemon=True).start()
            threading.Thread(target=self._read, args=(followed,), daemon=True).start()

    def _follow(self, followed: Followed, take: Callable[[Followed, Seen], None], steps_: str) -> None:
        while not self._over.is_set():
            try:
                for seen in followed.changes(self._over.is_set):
                    take(followed, seen)
            except Forbidden:
                self._unseen.append(f"{steps_}: this login may not list and watch {followed.path.rpartition('/')[2]}")
                return
            except PlatformError:
                self._over.wait(RETRY_S)  # the API server is away: what stands where stays as it was known

    def _read(self, followed: Followed) -> None:
        with suppress(Forbidden):  # the other thread says so
            while not self._over.wait(READ_EVERY_S):
                with suppress(Unavailable):  # a read that does not come widens what is seen meanwhile
                    followed.read()

    def _tell(self, what: str, identity: str, when: tuple[float, float], service: str = "") -> None:
        self._told.append(Milestone(what, "", identity, service, *when))

    # --- pods ---

    def _take_pods(self, followed: Followed, seen: Seen) -> None:
        if seen.listed:
            self._pods.clear()
        self._know({owner_of(pod) for pod in seen.objects})
        mine = {str(pod["metadata"]["uid"]): pod for pod in seen.objects if self._owns(owner_of(pod))}
        for uid, pod in mine.items():
            if seen.how == DELETED:
                self._pods.pop(uid, None)
            else:
                self._pods[uid] = pod
        for pod in seen.objects:
            self._slots.setdefault(pod["metadata"]["uid"], None if pod["metadata"]["uid"] in mine else "")
        self._place(seen.revision)
        for uid, pod in mine.items() if seen.how != DELETED else ():
            now = steps(pod)
            new = reached(self._steps.get(uid, {}), now)
            self._steps[uid] = now
            for step in new if seen.how != FIRST else ():
                self._tell(step, identity_of(pod), followed.between(seen, revision_of(pod)))

    def _know(self, owners: set[str | None]) -> None:
        """Look for controllers that are not known yet: ours, or somebody else's from now on."""
        if any(not self._owns(owner) and owner not in self._foreign for owner in owners):
            self._workloads = self.finder.empty()
            self._foreign |= {owner for owner in owners if not self._owns(owner)}

    def _owns(self, owner: str | None) -> bool:
        return any(owner in workload.owners for workload in self._workloads)

    def _place(self, revision: int) -> None:
        """Who stands in which slot now, and who answers somewhere else than before."""
        for workload in self._workloads:
            for slot, pod in self.finder.placed(workload.having(self._pods.values(), revision)).items():
                self._slots[pod["metadata"]["uid"]] = slot
                url = url_of(pod, None)
                if url and self._known.get(slot, url) != url:
                    self._moves.append((slot, url))
                if url:
                    self._known[slot] = url

    # --- endpoints ---

    def _take_slices(self, followed: Followed, seen: Seen) -> None:
        before = self._rotation.all()
        if seen.listed:
            self._rotation.keep({each["metadata"]["name"] for each in seen.objects})
        for each in seen.objects:
            (self._rotation.drop if seen.how == DELETED else self._rotation.put)(each)
        after, when = self._rotation.all(), followed.between(seen, seen.revision)
        for service, identity in sorted(before - after):
            self._tell("endpoint-removed", identity, when, service)
        for service, identity in sorted(after - before):
            self._tell("in-rotation" if seen.how == FIRST else "endpoint-added", identity, when, service)

    # --- image pulls ---

    def _take_pulls(self, followed: Followed, seen: Seen) -> None:
        for event in seen.objects if seen.how == CHANGED else ():
            if identity := pulled(event):
                self._tell("pulled", identity, followed.between(seen, revision_of(event)))


class Watched:
    """What a platform says of it."""

    watcher: Watcher

    def moved(self) -> tuple[tuple[str, str], ...]:
        return self.watcher.moved()

    def milestones(self) -> tuple[Milestone, ...]:
        return self.watcher.milestones()

    def unseen(self) -> list[str]:
        return self.watcher.unseen()
