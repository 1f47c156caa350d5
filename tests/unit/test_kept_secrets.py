"""What a Secret was is lost by nothing that may happen to a drill, and no word of an undo says what nobody has read: on a small API in memory."""

from dataclasses import dataclass, field
from threading import Event
from typing import Any, cast

import pytest
from blackstart.injectors import processes, secret_values
from blackstart.injectors.base import Differs, ForeignChange, Undo
from blackstart.injectors.platforms import kube_guard
from blackstart.injectors.platforms.base import Platform, PlatformError, Target, Unavailable
from blackstart.injectors.platforms.kube_api import place
from blackstart.injectors.platforms.kube_find import Finder
from blackstart.injectors.platforms.kube_guard import Guards
from blackstart.injectors.platforms.kube_own_pods import BATCH
from blackstart.injectors.platforms.kube_records import LEASES, RUN, lease_of
from blackstart.injectors.platforms.kube_secrets import ClusterSecrets
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec
from blackstart.injectors.platforms.object_guard import revert
from blackstart.injectors.values import JSON
from blackstart.tests.unit.small_cluster import BEFORE, CHANGE, HOME, KEPT_AT, KEY, OURS, PATH, ROTATED, Cluster, Objects, secret

WORKLOAD = "deployment/llm"
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
SECOND: JSON = {**CHANGE, "object": f"{HOME}/key", "kept": f"{KEPT_AT}2", "uid": "u2", "targets": ["llm-1"]}


def guards(objects: Objects) -> Guards:
    return Guards(Cluster(objects), "models", "python:3.13", Event())


def secrets_of(objects: Objects) -> ClusterSecrets:
    return ClusterSecrets(Cluster(objects), Finder(Cluster(objects), KubernetesSpec("models", WORKLOAD)), guards(objects))


# --- a change, and a machine that slept while it was made ---


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Objects:
    """Nothing is changed yet, and a guard's pod is ready."""
    monkeypatch.setattr(kube_guard, "LOOK_EVERY_S", 0.0)
    objects = Objects(BEFORE, kept=False)
    objects.there[place("pods", "models", "guard")] = READY
    objects.there[place("leases", "models", lease_of(WORKLOAD), LEASES)] = {}
    return objects


def begin(objects: Objects) -> None:
    guards(objects).begin("run.1", [{**CHANGE, "mark": "run.1", "body": OURS}], WORKLOAD, 60.0)


def cut_off(times: int, objects: Objects, request: tuple[str, str]) -> None:
    """The answers to so many of these requests are lost."""

    def lose() -> None:
        if times > 1:
            cut_off(times - 1, objects, request)
        raise Unavailable("no answer")

    objects.after[request] = lose


def test_a_change_keeps_what_it_was(begun: Objects) -> None:
    begin(begun)
    assert begun.value == OURS
    assert revert(CHANGE, begun)["reason"] == "put back"
    assert begun.value == BEFORE


def test_a_guard_that_was_over_before_the_change_has_it_put_back_from_memory(begun: Objects) -> None:
    begun.after["POST", HOME] = lambda: revert(CHANGE, begun)
    with pytest.raises(PlatformError, match="the guard was over before"):
        begin(begun)
    assert (begun.value, KEPT_AT in begun.there) == (BEFORE, False)


def test_nor_is_it_lost_with_answers_that_are_lost(begun: Objects) -> None:
    begun.after["POST", HOME] = lambda: revert(CHANGE, begun)
    cut_off(1, begun, ("PATCH", PATH))
    begun.after["DELETE", KEPT_AT] = lambda: cut_off(3, begun, ("GET", KEPT_AT))
    with pytest.raises(PlatformError, match="the guard was over before"):
        begin(begun)
    assert begun.value == BEFORE


def test_what_cannot_be_put_back_is_said(begun: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_guard, "GONE_S", 0.0)
    begun.after["POST", HOME] = lambda: revert(CHANGE, begun)
    begun.after["DELETE", KEPT_AT] = lambda: cut_off(1, begun, ("GET", KEPT_AT))
    with pytest.raises(PlatformError, match=f"what {PATH} was, {KEPT_AT}, may be gone"):
        begin(begun)


# --- a run that a person closes ---


@pytest.mark.parametrize("value", [OURS, ROTATED])
def test_a_run_that_is_closed_on_a_persons_word_leaves_the_only_copy(value: str) -> None:
    objects = Objects(value, kept=True)
    job = place("jobs", "models", "guard", BATCH)
    objects.there[job] = {"metadata": {"name": "guard", "annotations": {RUN: "run"}}}
    guards(objects).abandon("run")
    assert (job in objects.there, objects.there[KEPT_AT]["data"]["value"]) == (False, BEFORE)


# --- what is left ---


@pytest.mark.parametrize(
    ("value", "kept", "told"),
    [
        (BEFORE, False, "^$"),
        (BEFORE, True, f"{KEPT_AT}, which has what {PATH} was, is still there"),
        (OURS, False, f"{PATH} still has our value"),
        (ROTATED, False, f"{PATH} has sha256:.*, before {CHANGE['before']}: not by us"),
        ("", False, f"{PATH} is gone: not by us"),
    ],
    ids=["as before", "kept", "ours", "rotated", "gone"],
)
def test_what_is_left_is_told_by_what_was_read(value: str, kept: bool, told: str) -> None:
    objects = Objects(value, kept=kept)
    if not value:
        del objects.there[PATH]
    site = Site(objects, [replica("llm-0", "a")])
    if told == "^$":
        assert "again" in secret_values.verify_recovered(undo(site), cast(Platform, site)).detail
        return
    with pytest.raises(Differs, match=told) as raised:
        secret_values.verify_recovered(undo(site), cast(Platform, site))
    assert "again" not in str(raised.value)


# --- who starts again after an undo ---


@dataclass
class Site:
    """Replicas, as a platform tells of them, and a cluster's Secrets. `passing`: processes that are seen once; `refuses`: a restart, once."""

    objects: Objects
    replicas: list[Target]
    restarted: list[str] = field(default_factory=list)
    given_up: Event = field(default_factory=Event)
    passing: list[str] = field(default_factory=list)
    refuses: bool = False
    name: str = "kubernetes"

    @property
    def secrets(self) -> ClusterSecrets:
        return secrets_of(self.objects)

    def current(self, name: str) -> Target | None:
        return next((each for each in self.replicas if each.name == name), None)

    def own(self, target: Target) -> tuple[str, ...]:
        passing = [self.passing.pop()] if self.passing else []
        return (*target.details["own"], *passing)

    def restart(self, target: Target) -> None:
        if self.refuses:
            self.refuses = False
            raise PlatformError("not now")
        self.restarted.append(target.name)

    def digest(self, target: Target, path: str) -> str:
        raise PlatformError(f"{path} of {target.name} is not read here")

    def replaced(self, name: str, identity: str, own: tuple[str, ...] = ("new/1",)) -> None:
        self.replicas = [replica(name, identity, own) if each.name == name else each for each in self.replicas]


def replica(name: str, identity: str, own: tuple[str, ...] = ("a/1",)) -> Target:
    return Target(identity, name, "replica", {"own": own})


def undo(site: Site, *changes: JSON) -> Undo:
    """What was planned of the replicas that stand there now."""
    targets = tuple(site.replicas)
    own = {each.name: list(site.own(each)) for each in targets}
    paths = {each.name: "/secret/token" for each in targets}
    return Undo(targets, {"paths": paths, "changes": list(changes or (CHANGE,)), "own": own}, fault="run.1")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STAYS_S", 0.0)


def by_nobody_yet(objects: Objects) -> None:
    del objects


def by_a_guard(objects: Objects) -> None:
    revert(CHANGE, objects)


def by_an_undo_that_was_cut_off(objects: Objects) -> None:
    objects.become(BEFORE)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("put_back", [by_nobody_yet, by_a_guard, by_an_undo_that_was_cut_off])
@pytest.mark.parametrize(
    ("now", "restarted"),
    [
        (("b", ("b/1",)), ["llm-0"]),
        (("b", ()), ["llm-0"]),
        (("a", ("a/1", "a/2")), ["llm-0"]),
        (("a", ("a/1",)), []),
    ],
    ids=["another pod", "one that cannot start", "a worker in the same", "nothing came"],
)
def test_what_came_meanwhile_starts_again_whoever_put_the_value_back(put_back: Any, now: Any, restarted: list[str]) -> None:
    site = Site(Objects(OURS, kept=True), [replica("llm-0", "a")])
    planned = undo(site)
    site.replaced("llm-0", *now)
    put_back(site.objects)
    secret_values.recover(planned, cast(Platform, site))
    assert (site.objects.value, KEPT_AT in site.objects.there, site.restarted) == (BEFORE, False, restarted)


@pytest.mark.usefixtures("at_once")
def test_what_passes_by_has_nobody_start_again() -> None:
    site = Site(Objects(OURS, kept=True), [replica("llm-0", "a")])
    planned = undo(site)
    site.passing.append("a/probe")
    secret_values.recover(planned, cast(Platform, site))
    assert (site.passing, site.restarted) == ([], [])


def test_a_restart_that_failed_is_made_by_the_next_undo() -> None:
    site = Site(Objects(OURS, kept=True), [replica("llm-0", "a")], refuses=True)
    planned = undo(site)
    site.replaced("llm-0", "b")
    with pytest.raises(PlatformError, match="not now"):
        secret_values.recover(planned, cast(Platform, site))
    secret_values.recover(planned, cast(Platform, site))
    assert site.restarted == ["llm-0"]


def test_nobody_starts_again_where_nothing_was_ever_changed() -> None:
    site = Site(Objects(BEFORE, kept=True), [replica("llm-0", "a")])
    planned = undo(site)
    site.replaced("llm-0", "b")
    secret_values.recover(planned, cast(Platform, site))
    assert site.restarted == []


@pytest.mark.parametrize(
    ("first", "second", "restarted"),
    [(OURS, BEFORE, ["llm-0"]), (BEFORE, OURS, ["llm-1"]), (OURS, OURS, ["llm-0", "llm-1"])],
)
def test_each_of_two_secrets_counts(first: str, second: str, restarted: list[str]) -> None:
    site = two(first, second)
    planned = undo(site, CHANGE, SECOND)
    for name in ("llm-0", "llm-1"):
        site.replaced(name, "new")
    secret_values.recover(planned, cast(Platform, site))
    assert site.restarted == restarted


@pytest.mark.parametrize(("first", "second", "restarted"), [(ROTATED, OURS, "llm-1"), (OURS, ROTATED, "llm-0")])
def test_a_foreign_one_keeps_no_other_from_it_and_is_said(first: str, second: str, restarted: str) -> None:
    site = two(first, second)
    planned = undo(site, CHANGE, SECOND)
    for name in ("llm-0", "llm-1"):
        site.replaced(name, "new")
    with pytest.raises(ForeignChange, match="neither ours nor as before"):
        secret_values.recover(planned, cast(Platform, site))
    assert site.restarted == [restarted]


def two(first: str, second: str) -> Site:
    objects, other = Objects(first, kept=True), Objects(second, kept=True)
    value, kept = other.there.values()
    objects.there[SECOND["object"]] = secret("u2", value["data"], value["metadata"]["resourceVersion"])
    objects.there[SECOND["kept"]] = kept
    return Site(objects, [replica("llm-0", "a"), replica("llm-1", "b")])


def test_a_plan_says_which_processes_there_were() -> None:
    objects = Objects(BEFORE, kept=False)
    mounted = {"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/secret"}]}]}
    items = [{"key": KEY, "path": "token"}]
    objects.there[place("pods", "models", "llm-0")] = {
        "metadata": {"uid": "p", "name": "llm-0"},
        "spec": {**mounted, "volumes": [{"name": "v", "secret": {"secretName": "hub", "items": items}}]},
    }
    target = Target("pod:models/llm-0@p", "llm-0", "replica", {"container": "c", "own": ("p/1", "p/7")})
    planned = secret_values.planned((target,), {"llm-0": "/secret/token"}, cast(Platform, Site(objects, [target])), bytes.upper)
    assert planned.prior["own"] == {"llm-0": ["p/1", "p/7"]}
    assert [(each["before"], each["targets"]) for each in planned.prior["changes"]] == [(CHANGE["before"], ["llm-0"])]
