"""What a change of a workload may take away, and label selectors: decided from plain JSON."""

from typing import Any

import pytest
from blackstart.injectors.platforms.base import Target, Unsupported
from blackstart.injectors.platforms.kube_find import Owned
from blackstart.injectors.platforms.kube_pods import selects
from blackstart.injectors.platforms.kube_rollouts import check_exposed
from blackstart.injectors.platforms.object_guard import at, pointer


def owned(kind: str, wanted: int, **spec: Any) -> Owned:
    status = {"desiredNumberScheduled": wanted}
    return Owned("replica", kind, "llm", {"spec": {"replicas": wanted, **spec}, "status": status}, ())


def targets(*numbers: int, kind: str = "deployment") -> tuple[Target, ...]:
    return tuple(Target(f"pod:n/llm-{n}@u{n}", f"llm-{n}", "replica", {"workload": f"{kind}/llm"}) for n in numbers)


@pytest.mark.parametrize(
    ("kind", "wanted", "spec", "fewest"),
    [
        ("deployment", 3, {}, 0),  # a quarter of three, rounded down, and one more than wanted may be made
        ("deployment", 8, {}, 2),
        ("deployment", 8, {"strategy": {"rollingUpdate": {"maxUnavailable": 1}}}, 1),
        ("deployment", 3, {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}}, 1),
        ("deployment", 3, {"strategy": {"type": "Recreate"}}, 3),
        ("daemonset", 4, {}, 1),
        ("daemonset", 4, {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "30%"}}}, 2),
    ],
)
def test_a_rollout_takes_at_most_so_many_at_once(kind: str, wanted: int, spec: dict[str, Any], fewest: int) -> None:
    check_exposed(owned(kind, wanted, **spec), targets(*range(max(1, fewest)), kind=kind), starts=False)
    if fewest > 1:
        with pytest.raises(Unsupported, match=f"may take {fewest} of {wanted} pods"):
            check_exposed(owned(kind, wanted, **spec), targets(*range(fewest - 1), kind=kind), starts=False)


def test_a_rollout_that_may_start_takes_all() -> None:
    check_exposed(owned("deployment", 3), targets(0, 1, 2), starts=True)
    with pytest.raises(Unsupported, match="may take 3 of 3"):
        check_exposed(owned("deployment", 3), targets(0, 1), starts=True)


def test_a_statefulset_in_order_would_keep_its_broken_pod() -> None:
    with pytest.raises(Unsupported, match="would not replace a broken one"):
        check_exposed(owned("statefulset", 3), targets(2, kind="statefulset"), starts=False)


def test_a_statefulset_replaces_its_highest_number_first() -> None:
    stateful = owned("statefulset", 3, podManagementPolicy="Parallel")
    check_exposed(stateful, targets(2, kind="statefulset"), starts=False)
    with pytest.raises(Unsupported, match=r"names: \[llm-2\]"):
        check_exposed(stateful, targets(0, kind="statefulset"), starts=False)
    later = owned("statefulset", 3, podManagementPolicy="Parallel", ordinals={"start": 5})
    check_exposed(later, targets(7, kind="statefulset"), starts=False)


@pytest.mark.parametrize(
    "spec", [{"updateStrategy": {"type": "OnDelete"}}, {"updateStrategy": {"rollingUpdate": {"partition": 3}}}]
)
def test_what_rolls_nothing_out_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="nothing is rolled out"):
        check_exposed(owned("statefulset", 3, **spec), targets(2, kind="statefulset"), starts=False)


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"app": "llm"}}, True),
        ({"matchLabels": {"app": "web"}}, False),
        ({"matchLabels": {"app": "llm", "tier": "x"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "llm"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["llm"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "llm"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
    ],
)
def test_a_selector_takes_as_kubernetes_says(selector: dict[str, Any], chosen: bool) -> None:
    assert selects(selector, {"app": "llm"}) is chosen


def test_paths_into_objects() -> None:
    pod = {"metadata": {"annotations": {"a.b/c~d": "1"}}, "spec": {"containers": [{"image": "x"}]}}
    assert at(pod, ["metadata", "annotations", "a.b/c~d"]) == "1"
    assert at(pod, ["spec", "containers", 0, "image"]) == "x"
    assert at(pod, ["spec", "containers", 1, "image"]) is None
    assert at(pod, ["spec", "taints"]) is None
    assert pointer(["metadata", "annotations", "a.b/c~d"]) == "/metadata/annotations/a.b~1c~0d"  # RFC 6901, section 3
