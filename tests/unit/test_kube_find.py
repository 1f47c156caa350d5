"""Which pod stands under which name: slots outlive pods, and a neighbour is never taken for a replacement."""

import re
from typing import Any, cast

import pytest
from blackstart.injectors.platforms.base import PlatformError, Target
from blackstart.injectors.platforms.kube_api import KubeApi
from blackstart.injectors.platforms.kube_find import Finder, Owned, split
from blackstart.injectors.platforms.kube_pods import on_the_nodes_disk, parts_of, selector_of, unfit, volume_of
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec


def pod(name: str, created: int = 0, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": f"uid-{name}", "creationTimestamp": f"2026-01-01T00:00:{created:02}Z", "namespace": "models"}
    return {"metadata": meta, "spec": {"containers": [{"name": "c"}], **spec}, "status": {}}


def finder() -> Finder:
    """Pure: nothing here asks a cluster."""
    return Finder(cast(KubeApi, None), KubernetesSpec("models", "deployment/llm"))


def deployment(*pods: dict[str, Any], replicas: int = 2) -> Owned:
    return Owned("replica", "deployment", "llm", {"spec": {"replicas": replicas}, "status": {}, "metadata": {}}, pods)


def names(found: Finder, owned: Owned) -> dict[str, str]:
    return {slot: each["metadata"]["name"] for slot, each in found._placed(owned).items()}


def test_a_slot_keeps_its_pod_and_is_filled_by_the_replacement() -> None:
    found, a, b, c = finder(), pod("a"), pod("b", 1), pod("c", 2)
    assert names(found, deployment(a, b)) == {"llm-0": "a", "llm-1": "b"}
    assert names(found, deployment(b)) == {"llm-1": "b"}
    assert names(found, deployment(b, c)) == {"llm-0": "c", "llm-1": "b"}


def test_in_a_new_process_the_survivor_is_not_taken_for_the_victims_replacement() -> None:
    found, b, c = finder(), pod("b", 1), pod("c", 2)
    found.recall([Target("pod:models/a@uid-a", "llm-0", "replica")])
    assert names(found, deployment(b)) == {"llm-1": "b"}
    assert names(found, deployment(b, c)) == {"llm-0": "c", "llm-1": "b"}


def test_pods_of_a_statefulset_are_their_own_slots() -> None:
    owned = Owned(
        "replica", "statefulset", "llm", {"spec": {"replicas": 2}, "status": {}, "metadata": {}}, (pod("llm-0"), pod("llm-1"))
    )
    assert names(finder(), owned) == {"llm-0": "llm-0", "llm-1": "llm-1"}


def test_identities_come_apart() -> None:
    assert parts_of("pod:models/llm-x@uid-1") == ("models", "llm-x", "uid-1")
    assert parts_of("pod:models/llm-x@uid-1/server/pid:7@99") == ("models", "llm-x", "uid-1")


@pytest.mark.parametrize("workload", ["pod/llm", "llm", "deployment/"])
def test_what_cannot_be_drilled_is_told(workload: str) -> None:
    with pytest.raises(PlatformError, match="no workload that can be drilled"):
        split(workload)


def test_selectors_are_written_as_the_api_takes_them() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "x", "operator": "Exists"},
        {"key": "y", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"app": "llm"}, "matchExpressions": expressions}
    assert selector_of({"spec": {"selector": selector}}) == "app=llm,tier in (a,b),x,!y"


@pytest.mark.parametrize(
    ("volume", "same", "outlives", "nodes"),
    [
        ({"emptyDir": {}}, False, False, True),
        ({"emptyDir": {"medium": "Memory"}}, False, False, False),
        ({"persistentVolumeClaim": {"claimName": "m"}}, True, True, False),
        ({"hostPath": {"path": "/m"}}, True, True, True),
    ],
)
def test_two_pods_see_the_same_file_only_on_a_shared_volume(
    volume: dict[str, Any], same: bool, outlives: bool, nodes: bool
) -> None:
    spec = {
        "nodeName": "n1",
        "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/models"}]}],
        "volumes": [{"name": "v", **volume}],
    }
    one, other = volume_of(pod("a", **spec), "c", "/models/m"), volume_of(pod("b", **spec), "c", "/models/m")
    assert (one == other) is same
    assert one[1] is outlives
    assert on_the_nodes_disk(pod("a", **spec), "c", "/models/m") is nodes
    assert volume_of(pod("a", **spec), "c", "/modelsx/m") == ("pod uid-a", False)
    assert not on_the_nodes_disk(pod("a", **spec), "c", "/dev/shm")


@pytest.mark.parametrize(
    ("volume", "mount", "why"),
    [
        ({"emptyDir": {}}, {}, ""),
        ({"emptyDir": {}}, {"readOnly": True}, r"may only read \(/models\)"),
        ({"persistentVolumeClaim": {"claimName": "m"}}, {}, ""),
        ({"persistentVolumeClaim": {"claimName": "m", "readOnly": True}}, {}, r"may only read \(/models\)"),
        ({"secret": {"secretName": "hub"}}, {}, "Secret hub, which the kubelet mounts read-only"),
        ({"projected": {"sources": []}}, {}, "of kind projected"),
    ],
)
def test_what_nobody_in_a_pod_can_write_to_must_not_be_changed(volume: dict[str, Any], mount: dict[str, Any], why: str) -> None:
    mounts = [{"name": "v", "mountPath": "/models", **mount}]
    spec = {"containers": [{"name": "c", "volumeMounts": mounts}], "volumes": [{"name": "v", **volume}]}
    found = unfit(pod("a", **spec), "c", "/models/m", 1.0)
    assert re.search(why, found) if why else found == ""


@pytest.mark.parametrize(
    ("changed_s", "fit"), [(None, False), (1_699_990_000.0, False), (1_700_000_000.9, False), (1_700_000_002.0, True)]
)
def test_what_an_image_brought_is_older_than_its_container(changed_s: float | None, fit: bool) -> None:
    running = {"state": {"running": {"startedAt": "2023-11-14T22:13:20Z"}}}
    one = pod("a", containers=[{"name": "c"}])
    one["status"] = {"containerStatuses": [{"name": "c", **running}]}
    assert (unfit(one, "c", "/root/m", changed_s) == "") is fit
    assert "read-only" in unfit(
        pod("a", containers=[{"name": "c", "securityContext": {"readOnlyRootFilesystem": True}}]), "c", "/m", 2e9
    )


def rolling(kind: str, generation: int, **status: Any) -> str:
    return Owned(
        "replica", kind, "llm", {"metadata": {"generation": generation}, "spec": {"replicas": 3}, "status": status}, ()
    ).rollout


def test_a_rollout_under_way_is_seen() -> None:
    assert rolling("deployment", 2, observedGeneration=2, updatedReplicas=3) == ""
    assert "1 of 3" in rolling("deployment", 2, observedGeneration=2, updatedReplicas=1)
    assert "not taken up" in rolling("deployment", 3, observedGeneration=2, updatedReplicas=3)
    assert rolling("statefulset", 2, observedGeneration=2, updatedReplicas=0, currentRevision="a", updateRevision="a") == ""
    assert "1 of 3" in rolling("statefulset", 2, observedGeneration=2, updatedReplicas=1, currentRevision="a", updateRevision="b")
