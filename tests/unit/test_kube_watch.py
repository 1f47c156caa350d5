"""Milestones of pods: seen by watches that may be late, dated by reads, and true whatever the watch's delay."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from blackstart.injectors.platforms.base import Milestone, Unavailable
from blackstart.injectors.platforms.kube_api import ApiError, Forbidden, KubeApi
from blackstart.injectors.platforms.kube_dates import Dates
from blackstart.injectors.platforms.kube_find import Finder, Owned
from blackstart.injectors.platforms.kube_steps import endpoints, pulled, reached, steps
from blackstart.injectors.platforms.kube_watch import Watcher
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec
from blackstart.tests.command import until
from hypothesis import given, settings
from hypothesis import strategies as st

PODS, SLICES, EVENTS = "pods", "endpointslices", "events"
SET = {"metadata": {"name": "llm-7f", "uid": "rs", "ownerReferences": [{"uid": "d", "controller": True}]}}
DEPLOYMENT = {"metadata": {"uid": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "llm"}}}, "status": {}}


def dates(*reads: tuple[int, float, float]) -> Dates:
    found = Dates()
    for read in reads:
        found.read(*read)
    return found


def test_a_change_lies_between_the_question_before_and_the_answer_after_it() -> None:
    found = dates((10, 1.0, 1.01), (20, 2.0, 2.01), (30, 3.0, 3.01))
    assert found.between(24, 25, 2.4) == (2.0, 2.4)
    assert found.between(24, 25, 9.0) == (2.0, 3.01)  # the watch told it late: a read had seen it by then
    assert found.between(19, 20, 9.0) == (1.0, 2.01)
    assert found.between(29, 30, 2.9) == (2.0, 2.9)


def test_what_was_listed_again_may_have_changed_at_any_time_since() -> None:
    assert dates((10, 1.0, 1.01), (20, 2.0, 2.01), (30, 3.0, 3.01)).between(12, 25, 9.0) == (1.0, 3.01)


def test_a_gap_without_reads_widens_and_never_narrows() -> None:
    assert dates((10, 1.0, 1.01), (40, 21.0, 21.01)).between(24, 25, 21.5) == (1.0, 21.01)


def test_reads_of_a_store_in_which_nothing_is_written_still_narrow() -> None:
    assert dates((10, 1.0, 1.01), (10, 2.0, 2.01), (10, 3.0, 3.01)).between(10, 11, 3.2) == (3.0, 3.2)


def test_reads_that_come_in_the_wrong_order_are_no_contradiction() -> None:
    assert dates((10, 1.0, 1.01), (30, 3.0, 3.01), (20, 2.0, 3.02)).between(24, 25, 9.0) == (1.0, 3.01)


@settings(max_examples=200)
@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=60), st.randoms())
def test_the_truth_is_always_within(gaps: list[float], dice: Any) -> None:
    """A store that is written and read at random; answers and watches take any time."""
    found, now, revision, writes = Dates(), 0.0, 0, []
    for gap in gaps:
        now += gap
        if dice.random() < 0.5:
            revision += dice.randint(1, 3)  # others write as well
            writes.append((revision, now))
        else:
            found.read(revision, now - dice.random() * gap, now + dice.random())
    for at, truth in writes:
        lo, hi = found.between(at - 1, at, truth + dice.random())
        assert lo <= truth <= hi


def pod(name: str, **status: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": f"uid-{name}", "namespace": "models", "creationTimestamp": "2026-01-01T00:00:00Z"}
    meta |= {"ownerReferences": [{"uid": status.pop("owner", "rs"), "controller": True}]}
    spec: dict[str, Any] = {"containers": [{"name": "c", "ports": [{"containerPort": 8000}]}]}
    if status.pop("scheduled", False):
        spec["nodeName"] = "node1"
    started = status.pop("started", "")
    if started:
        status["containerStatuses"] = [{"state": {"running": {}}, "containerID": started}]
    status["conditions"] = [{"type": "Ready", "status": str(status.pop("ready", False))}]
    return {"metadata": meta, "spec": spec, "status": status}


def slice_(service: str, *ready: str, unready: tuple[str, ...] = ()) -> dict[str, Any]:
    def endpoint(name: str, well: bool | None) -> dict[str, Any]:
        about = {"kind": "Pod", "namespace": "models", "name": name, "uid": f"uid-{name}"}
        return {"targetRef": about, "conditions": {} if well is None else {"ready": well}}

    meta = {"name": f"{service}-x", "labels": {"kubernetes.io/service-name": service}}
    return {"metadata": meta, "endpoints": [*(endpoint(n, None) for n in ready), *(endpoint(n, False) for n in unready)]}


def pull(name: str, path: str = "spec.containers{c}") -> dict[str, Any]:
    about = {"kind": "Pod", "namespace": "models", "name": name, "uid": f"uid-{name}", "fieldPath": path}
    return {"metadata": {"name": f"{name}.1", "uid": f"event-of-{name}"}, "reason": "Pulled", "involvedObject": about}


def test_steps_come_in_their_order_and_again_with_another_container() -> None:
    whole = steps(pod("a", scheduled=True, started="one", ready=True))
    assert reached({}, whole) == ["created", "scheduled", "started", "ready"]
    assert reached(whole, steps(pod("a", scheduled=True, started="two", ready=True))) == ["started"]
    unready = steps(pod("a", scheduled=True, started="one"))
    assert reached(whole, unready) == []
    assert reached(unready, whole) == ["ready"]


def test_who_is_in_service_by_a_slice() -> None:
    assert {each.identity for each in endpoints(slice_("llm", "a", unready=("b",)))} == {"pod:models/a@uid-a"}
    assert endpoints({"metadata": {"labels": {}}, "endpoints": None}) == frozenset()


def test_images_of_init_containers_are_none_of_the_service() -> None:
    assert pulled(pull("a")) == "pod:models/a@uid-a"
    assert pulled(pull("a", "spec.initContainers{model}")) is None


@dataclass
class Store:
    """An API server in small: revisions, lists, watches that tell everything `late_s` after it was written; it may be away."""

    late_s: float = 0.0
    denied: tuple[str, ...] = ()
    away: bool = False
    forgot: bool = False
    things: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {PODS: {}, SLICES: {}, EVENTS: {}})
    changes: list[tuple[str, int, str, dict[str, Any], float]] = field(default_factory=list)
    revision: int = 100
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: list[str] = field(default_factory=list)
    ended: int = 0
    turned_away: int = 0

    def write(self, resource: str, thing: dict[str, Any], *, deleted: bool = False) -> tuple[float, float]:
        """Between which moments it was written."""
        before = time.monotonic()
        with self.lock:
            self.revision += 1
            stored = {**thing, "metadata": {**thing["metadata"], "resourceVersion": str(self.revision)}}
            name = str(thing["metadata"].get("uid", thing["metadata"]["name"]))
            kind = "DELETED" if deleted else "MODIFIED" if name in self.things[resource] else "ADDED"
            if deleted:
                self.things[resource].pop(name, None)
            else:
                self.things[resource][name] = stored
            self.changes.append((resource, self.revision, kind, stored, time.monotonic()))
        return before, time.monotonic()

    def _answers(self, path: str) -> str:
        resource = path.rpartition("/")[2]
        if resource in self.denied:
            raise Forbidden(f"{resource}: 403", 403, "Forbidden")
        if self.away:
            self.turned_away += 1
            raise Unavailable("away")
        self.asked.append(path)
        return resource

    def get(self, path: str, **_: Any) -> dict[str, Any]:
        self._answers(path)
        return DEPLOYMENT if "/deployments/" in path else {"metadata": {"resourceVersion": str(self.revision)}}

    def items(self, path: str, **_: str) -> tuple[list[dict[str, Any]], str]:
        resource = self._answers(path)
        with self.lock:
            return [SET] if resource == "replicasets" else list(self.things[resource].values()), str(self.revision)

    def watch(self, path: str, version: str, stop: Callable[[], bool], **_: str) -> Iterator[tuple[str, Any]]:
        told, resource = int(version), path.rpartition("/")[2]
        while not stop():
            if self.forgot and resource == PODS:
                self.ended += 1
                raise ApiError("too old", 410, "Expired")
            with self.lock:
                due = time.monotonic() - self.late_s
                new = [c for c in self.changes if c[0] == resource and c[1] > told and c[4] <= due and not self.away]
            for _, told, kind, thing, _ in new:  # noqa: B007 - what was told last is gone on from
                yield kind, thing
            time.sleep(0.005)


@dataclass
class Watching:
    store: Store
    watcher: Watcher
    found: list[Milestone] = field(default_factory=list)

    def look(self) -> list[Milestone]:
        self.found += self.watcher.milestones()
        return self.found

    def whats(self, name: str) -> list[str]:
        return [one.what for one in self.look() if one.name == name]

    def await_(self, name: str, *whats: str) -> dict[str, Milestone]:
        until(f"{whats} of {name}", lambda: set(whats) <= set(self.whats(name)), 10)
        return {one.what: one for one in self.found if one.name == name}


def watching(**how: Any) -> Watching:
    store = Store(**how)
    for name in ("a", "b"):
        store.write(PODS, pod(name, scheduled=True, started="one", ready=True, podIP=f"10.0.0.{ord(name)}"))
    store.write(PODS, pod("stranger", owner="somebody", scheduled=True))
    store.write(SLICES, slice_("llm", "a", "b", "stranger"))
    api = cast(KubeApi, store)
    watcher = Watcher(api, Finder(api, KubernetesSpec("models", "deployment/llm")))
    watcher.begin_from(watcher.finder.all())
    return Watching(store, watcher)


LATE_S = pytest.mark.parametrize("late_s", [0.0, 0.6], ids=["at-once", "late"])


@pytest.fixture
def seen(late_s: float) -> Iterator[Watching]:
    started = watching(late_s=late_s)
    yield started
    started.watcher.close()


def holds(one: Milestone, truth: tuple[float, float]) -> bool:
    return one.lo_s <= truth[1] and truth[0] <= one.hi_s


@LATE_S
def test_a_replacement_is_followed_step_by_step_and_each_moment_holds_the_truth(late_s: float) -> None:
    """And each is narrow, in one of three watchings: where this machine stands still, moments widen rightly."""
    widest_s = []
    while len(widest_s) < 3 and min(widest_s, default=1.5) >= 1.5:
        seen = watching(late_s=late_s)
        with contextlib.closing(seen.watcher):
            widest_s.append(followed(seen))
    assert min(widest_s) < 1.5, widest_s


def followed(seen: Watching) -> float:
    """A replacement, and how wide its widest moment is."""
    store = seen.store
    seen.await_("llm-0", "in-rotation")
    truth = {"gone": store.write(PODS, pod("a"), deleted=True), "endpoint-removed": store.write(SLICES, slice_("llm", "b"))}
    truth["created"] = store.write(PODS, pod("c"))
    truth["scheduled"] = store.write(PODS, pod("c", scheduled=True))
    truth["pulled"] = store.write(EVENTS, pull("c"))
    truth["started"] = store.write(PODS, pod("c", scheduled=True, started="two", podIP="10.0.0.9"))
    store.write(PODS, pod("stranger-2", owner="somebody", scheduled=True))
    truth["ready"] = store.write(PODS, pod("c", scheduled=True, started="two", ready=True, podIP="10.0.0.9"))
    truth["endpoint-added"] = store.write(SLICES, slice_("llm", "b", "c", "stranger-2"))
    steps_ = ("endpoint-removed", "created", "scheduled", "pulled", "started", "ready", "endpoint-added")
    found = seen.await_("llm-0", *steps_)
    for step in steps_:
        assert holds(found[step], truth[step]), step
    assert found["created"].identity == "pod:models/c@uid-c"
    assert found["endpoint-removed"].identity == "pod:models/a@uid-a"
    assert found["endpoint-added"].service == "llm"
    assert seen.whats("llm-1") == ["in-rotation"]
    assert {one.name for one in seen.found} == {"llm-0", "llm-1"}
    assert seen.watcher.moved() == (("llm-0", "http://10.0.0.9:8000"),)
    return max(found[step].hi_s - found[step].lo_s for step in steps_)


@LATE_S
def test_what_the_watch_tells_is_enough_to_know_who_stands_where(seen: Watching) -> None:
    """No list of pods and no look at a workload comes after the first ones: a big namespace has many changes."""
    seen.await_("llm-1", "in-rotation")
    before = [path for path in seen.store.asked if "deployments" in path or "replicasets" in path]
    for number in range(20):
        seen.store.write(PODS, pod("b", scheduled=True, started=f"again-{number}", ready=True, podIP=f"10.0.0.{ord('b')}"))
    until("all of them", lambda: seen.whats("llm-1").count("started") == 20, 10)
    assert [path for path in seen.store.asked if "deployments" in path or "replicasets" in path] == before


def test_an_api_server_that_is_away_widens_the_moments_and_loses_nothing() -> None:
    seen = watching()
    try:
        seen.await_("llm-0", "in-rotation")
        seen.store.away = True
        gone_s = time.monotonic()
        truth = seen.store.write(SLICES, slice_("llm", "b"))
        until("half a second to be over", lambda: time.monotonic() > gone_s + 0.5)
        back_s, seen.store.away = time.monotonic(), False
        one = seen.await_("llm-0", "endpoint-removed")["endpoint-removed"]
        assert holds(one, truth)
        assert one.lo_s < gone_s
        assert one.hi_s > back_s
    finally:
        seen.watcher.close()


def test_what_happened_while_the_watch_was_forgotten_is_told_after_the_next_list() -> None:
    seen = watching()
    try:
        seen.await_("llm-0", "in-rotation")
        seen.store.forgot = True
        until("the watch to end", lambda: seen.store.ended, 10)
        truth = seen.store.write(PODS, pod("a"), deleted=True), seen.store.write(PODS, pod("c", scheduled=True))
        seen.store.forgot = False
        found = seen.await_("llm-0", "created", "scheduled")
        assert holds(found["created"], truth[1])
        assert found["created"].lo_s == found["scheduled"].lo_s
    finally:
        seen.watcher.close()


def test_without_the_right_to_see_events_that_step_is_absent_and_said() -> None:
    seen = watching(denied=(EVENTS,))
    try:
        seen.await_("llm-0", "in-rotation")
        seen.store.write(PODS, pod("a"), deleted=True)
        seen.store.write(PODS, pod("c", scheduled=True, started="two", ready=True))
        seen.await_("llm-0", "created", "ready")
        until("the reason", seen.watcher.unseen, 20)
        assert seen.watcher.unseen() == ["pulled: this login may not list and watch events"]
        assert "pulled" not in seen.whats("llm-0")
    finally:
        seen.watcher.close()


def test_an_older_view_gives_no_slot_away() -> None:
    """A watch that is behind still shows the victim, when a list has already shown its replacement."""
    finder = Finder(cast(KubeApi, None), KubernetesSpec("models", "deployment/llm"))
    owned = Owned("replica", "deployment", "llm", DEPLOYMENT, (), frozenset({"rs"}))
    assert list(finder.placed(owned.having([pod("a"), pod("b")], 10))) == ["llm-0", "llm-1"]
    finder.placed(owned.having([pod("b"), pod("c")], 30))
    late = finder.placed(owned.having([pod("a"), pod("b")], 20))
    assert {slot: each["metadata"]["name"] for slot, each in late.items()} == {"llm-1": "b"}
    assert finder.slots == {"llm-0": "uid-c", "llm-1": "uid-b"}


def test_a_first_look_that_fails_makes_nothing_new_of_what_was_there() -> None:
    seen = watching()
    try:
        seen.store.away = True
        seen.watcher.milestones()  # begins to watch
        until("an attempt", lambda: seen.store.turned_away > 3, 20)
        seen.store.away = False
        seen.await_("llm-0", "in-rotation")
        seen.store.write(PODS, pod("a"), deleted=True)
        seen.store.write(PODS, pod("c"))
        seen.await_("llm-0", "created")
        assert {one.what for one in seen.found} == {"in-rotation", "created"}
    finally:
        seen.watcher.close()
