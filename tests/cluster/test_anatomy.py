"""Milestones of real pods: each is there, in a sane order, and its moment holds what the API's own timestamps say."""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.base import STEPS
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_find import Finder
from blackstart.injectors.platforms.kube_pods import parts_of
from blackstart.injectors.platforms.kube_watch import READ_EVERY_S, Watcher
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec
from blackstart.tests.cluster.steps import wall_of_zero
from blackstart.tests.command import Blackstart, until

CUT_S = 1.0  # the API's timestamps are cut to whole seconds
REPORT_S = 2.5  # by which a kubelet may report later that a container started or an image was there
NARROW_S = READ_EVERY_S + 1.0
WATCHINGS = 3
DRILL = (
    "apiVersion: blackstart/v1\nkind: Scenario\nname: kill\nobjectives: {rto: 60s}\nsteady_state: {hold: 4s}\nsettle: 6s\nobserve: 60s\n"
    "faults: [{kind: replica-kill, target: {names: [replica-0]}}]\n"
)
LABELS = {"app": "web"}


def api_says(api: KubeApi, identity: str, service: str) -> dict[str, float]:
    """Step -> UNIX time by the API's own timestamps, of a pod that stands now."""
    namespace, name, uid = parts_of(identity)
    pod = api.get(place("pods", namespace, name))
    assert pod["metadata"]["uid"] == uid
    conditions = {each["type"]: each["lastTransitionTime"] for each in pod["status"]["conditions"]}
    events, _ = api.items(place("events", namespace), fields=f"involvedObject.uid={uid},reason=Pulled")
    slices = api.items(
        place("endpointslices", namespace, group="discovery.k8s.io/v1"), labels=f"kubernetes.io/service-name={service}"
    )
    (slice_,) = slices[0]
    found = {
        "created": pod["metadata"]["creationTimestamp"],
        "scheduled": conditions["PodScheduled"],
        "pulled": max(each["lastTimestamp"] for each in events),
        "started": pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"],
        "ready": stored(pod, "kubelet"),  # a kubelet dates it by its own clock, and may report it later
        "endpoint-added": stored(slice_, "kube-controller-manager"),
    }
    return {step: datetime.fromisoformat(moment).timestamp() for step, moment in found.items()}


def stored(found: dict[str, Any], manager: str) -> str:
    """When the API server last took a change from that component."""
    return max(str(each["time"]) for each in found["metadata"]["managedFields"] if each["manager"] == manager)


def check(moments: Mapping[str, tuple[float, float]], said: Mapping[str, float]) -> None:
    """`moments` in UNIX time: in order, and each holding what the API says."""
    assert set(moments) == set(STEPS)
    for before, after in (
        ("created", "scheduled"),
        ("scheduled", "pulled"),
        ("pulled", "started"),
        ("started", "ready"),
        ("ready", "endpoint-added"),
    ):
        assert moments[before][0] <= moments[after][1], f"{before} after {after}"
    assert all(lo_s <= hi_s for lo_s, hi_s in moments.values())
    for step, at_s in said.items():
        lo_s, hi_s = moments[step]
        late_s = REPORT_S if step in {"started", "pulled"} else 0.2
        assert lo_s - late_s <= at_s + CUT_S, f"{step} at {lo_s:.2f} or later, the API says {at_s:.0f}"
        assert at_s <= hi_s + 0.1, f"{step} at {hi_s:.2f} or earlier, the API says {at_s:.0f}"


def widest(moments: Mapping[str, tuple[float, float]]) -> float:
    return max(hi_s - lo_s for lo_s, hi_s in moments.values())


@pytest.fixture
def deployment(api: KubeApi, image: str) -> Iterator[KubernetesSpec]:
    """Two pods behind a Service that are ready one second after their start."""
    namespace = f"blackstart-anatomy-{secrets.token_hex(2)}"
    program = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)"
    probe = {"httpGet": {"path": "/", "port": 8000}, "initialDelaySeconds": 1, "periodSeconds": 1}
    container = {"name": "web", "image": image, "command": ["python3", "-c", program], "ports": [{"containerPort": 8000}]}
    pod = {
        "terminationGracePeriodSeconds": 0,
        "containers": [container | {"imagePullPolicy": "IfNotPresent", "readinessProbe": probe}],
    }
    spec = {"replicas": 2, "selector": {"matchLabels": LABELS}, "template": {"metadata": {"labels": LABELS}, "spec": pod}}
    api.create(place("namespaces"), {"metadata": {"name": namespace}})
    try:
        api.create(
            place("services", namespace), {"metadata": {"name": "web"}, "spec": {"selector": LABELS, "ports": [{"port": 8000}]}}
        )
        api.create(place("deployments", namespace, group="apps/v1"), {"metadata": {"name": "web"}, "spec": spec})
        until("two ready pods", lambda: ready_pods(api, namespace) == 2, 60)
        yield KubernetesSpec(namespace, "deployment/web")
    finally:
        api.delete(place("namespaces", name=namespace))


def ready_pods(api: KubeApi, namespace: str) -> int:
    status = api.get(place("deployments", namespace, "web", "apps/v1"))["status"]
    return int(status.get("readyReplicas", 0))


def test_a_deployments_replacement_is_followed_and_dated(api: KubeApi, deployment: KubernetesSpec) -> None:
    """Each moment to within a read of the store, in one of three: a machine that stands still for a second widens what it hits."""
    assert any(replaced(api, deployment) < NARROW_S for _ in range(WATCHINGS))


def replaced(api: KubeApi, deployment: KubernetesSpec) -> float:
    """A pod is, and everything about that holds; returns how widely the widest moment is known."""
    watcher = Watcher(api, Finder(api, deployment))
    found: list[Any] = []

    def whats(name: str) -> list[str]:
        found.extend(watcher.milestones())
        return [one.what for one in found if one.name == name]

    try:
        watcher.begin_from(watcher.finder.all())
        until("both in rotation", lambda: whats("web-0") == whats("web-1") == ["in-rotation"], 20)
        victim = watcher.finder.one("web-0")
        assert victim is not None
        namespace, name, uid = parts_of(victim.identity)
        before_s = time.monotonic()
        api.delete(place("pods", namespace, name), uid=uid, grace_s=0)
        until("every step", lambda: set(STEPS) <= set(whats("web-0")), 60)
        offset_s = time.time() - time.monotonic()
    finally:
        watcher.close()
    last = {one.what: one for one in found if one.name == "web-0"}
    assert last["endpoint-removed"].identity == victim.identity
    assert last["endpoint-removed"].hi_s >= before_s
    assert {last[step].identity for step in STEPS[1:]} == {last["created"].identity} != {victim.identity}
    moments = {step: (last[step].lo_s + offset_s, last[step].hi_s + offset_s) for step in STEPS}
    check(moments, api_says(api, last["created"].identity, "web"))
    assert whats("web-1") == ["in-rotation"]
    assert [slot for slot, _ in watcher.moved()] == ["web-0"]
    assert watcher.unseen() == []
    return widest(moments)


def test_a_rollout_is_followed_into_its_new_replica_set(api: KubeApi, deployment: KubernetesSpec) -> None:
    watcher = Watcher(api, Finder(api, deployment))
    found: list[Any] = []

    def added() -> set[str]:
        found.extend(watcher.milestones())
        return {one.identity for one in found if one.what == "endpoint-added"}

    path = place("deployments", deployment.namespace, "web", "apps/v1")
    try:
        watcher.begin_from(watcher.finder.all())
        until("both in rotation", lambda: added() == set() and len(found) == 2, 20)
        current = api.get(path)
        current["spec"]["template"]["metadata"]["labels"]["version"] = "2"
        api.replace(path, current)
        until("two new pods", lambda: len(added()) == 2, 60)
    finally:
        watcher.close()
    old = {one.identity for one in found if one.what == "in-rotation"}
    assert not old & added()
    for pod in added():
        assert {one.what for one in found if one.identity == pod} >= set(STEPS[1:])


@pytest.mark.timeout(300)
def test_a_drill_shows_where_its_recovery_went(blackstart: Blackstart, plain_demo: Path, api: KubeApi) -> None:
    assert any(shown(blackstart, plain_demo, api) < NARROW_S for _ in range(WATCHINGS))


def shown(blackstart: Blackstart, plain_demo: Path, api: KubeApi) -> float:
    """By a drill and its report; returns how widely the widest moment is known."""
    (blackstart.folder / "kill.yaml").write_text(DRILL, encoding="utf-8")
    done = blackstart.telling("run", "kill.yaml", "--service", plain_demo, "--yes", within_s=200.0)
    result = done.result
    assert result["faults"][0]["undo_verified"], done.out + done.err  # on a busy machine the users' part may be inconclusive
    parts, steps = result["anatomy"]["parts"], result["anatomy"]["steps"]
    assert {step["name"] for step in steps} == {"replica-0"}
    assert sum(part["share"] for part in parts) == pytest.approx(1, abs=1e-5)
    ends = {part["until"] for part in parts}
    assert ends >= set(STEPS)
    assert ({"impact", "recovered"} <= ends) == (result["measurements"]["recovery_time"] is not None)
    assert all(part["lo_s"] <= part["end_s"] - part["start_s"] + 1e-6 for part in parts)
    assert all(part["hi_s"] >= part["end_s"] - part["start_s"] - 1e-6 for part in parts)
    by_step = {step["what"]: step for step in steps}
    assert by_step["endpoint-added"]["service"] == "replicas"  # the headless one takes pods that are not ready
    assert "endpoint-removed" in result["measurements"]["time_to_detect"]
    began_s = wall_of_zero(done.folder)
    moments = {step["what"]: (step["at_s"][0] + began_s, step["at_s"][1] + began_s) for step in steps}
    check(moments, api_says(api, by_step["created"]["identity"], "replicas"))
    again = json.loads(blackstart("report", done.folder, "--format", "json").out)
    assert again["anatomy"] == result["anatomy"]
    assert "\n  recovery  " in done.out
    return widest(moments)
