"""Which nodes must not be cut off, and what a pod of ours on one has said: decided from plain JSON."""

from typing import Any

import pytest
from blackstart.injectors.platforms.kube_cuttable import must_not_go, must_stay, others_hit
from blackstart.injectors.platforms.kube_isolation import last_word

CONTROL = {"node-role.kubernetes.io/control-plane": ""}
OURS = {"app.kubernetes.io/managed-by": "blackstart"}


def node(name: str, status: str = "True", labels: dict[str, str] | None = None) -> dict[str, Any]:
    condition = {"type": "Ready", "status": status}
    return {"metadata": {"name": name, "labels": labels or {}}, "status": {"conditions": [condition]}}


def pod(name: str, owner: str = "ReplicaSet", labels: dict[str, str] | None = None) -> dict[str, Any]:
    namespace, _, short = name.partition("/")
    meta = {"name": short, "namespace": namespace, "uid": name, "ownerReferences": [{"kind": owner}], "labels": labels or {}}
    return {"metadata": meta, "status": {"phase": "Running"}}


def test_a_node_that_others_can_do_without_may_be_cut_off() -> None:
    assert must_stay([node("a"), node("b"), node("c", labels=CONTROL)], ["a", "b"]) == ""
    of_three = [node(name, labels=CONTROL) for name in "abc"]
    assert must_stay(of_three, ["a"]) == ""


@pytest.mark.parametrize(
    ("nodes", "cut", "why"),
    [
        ([node("a")], ["a"], "no other node is ready"),
        ([node("a"), node("b", "Unknown")], ["a"], "no other node is ready"),
        ([node("a"), node("b")], ["a", "b"], "with a, b the whole cluster"),
        ([node("a", "False"), node("b")], ["a"], "lost already"),
        ([node("b")], ["a"], "lost already"),
        ([node("a", labels=CONTROL), node("b")], ["a"], "node a is of the control plane"),
        ([node("a", labels=CONTROL), node("b", labels=CONTROL)], ["a"], "1 other nodes would be left"),
    ],
)
def test_one_that_the_cluster_lives_by_may_not(nodes: list[dict[str, Any]], cut: list[str], why: str) -> None:
    assert why in must_stay(nodes, cut)


def test_pods_of_others_go_along_only_where_that_is_said() -> None:
    there = [pod("shop/llm-0"), pod("shop/other-0"), pod("kube-system/proxy", "DaemonSet"), pod("kube-system/static", "Node")]
    said = must_not_go("a", there, {"shop/llm-0"}, ("kube-system",), whole_node=False)
    assert said == "pods of others would be cut off with node a: shop/other-0; say `whole_node: true` if that is meant"
    assert must_not_go("a", there, {"shop/llm-0"}, ("kube-system",), whole_node=True) == ""


def test_what_is_protected_never_does() -> None:
    there = [pod("shop/llm-0"), pod("kube-system/coredns-0")]
    assert "kube-system/coredns-0; their namespace is protected" in must_not_go(
        "a", there, set(), ("kube-system",), whole_node=True
    )


@pytest.mark.parametrize(
    ("protected", "said"),
    [
        (("vault",), "vault/keys; their namespace is protected"),
        ((), "shop/a0, shop/a1, shop/a2, shop/a3, shop/a4 and 3 more; say `whole_node: true` if that is meant"),
    ],
)
def test_only_those_that_are_the_reason_are_counted(protected: tuple[str, ...], said: str) -> None:
    others = [*(f"shop/a{n}" for n in range(7)), "vault/keys"]
    assert others_hit(others, protected, whole_node=False) == said


def test_a_pod_of_our_own_never_does() -> None:
    assert "carries pod prober" in must_not_go("a", [pod("shop/prober", "Job", OURS)], set(), (), whole_node=True)
    demo = {**OURS, "app.kubernetes.io/part-of": "blackstart-demo"}
    assert must_not_go("a", [pod("demo/replica-0", labels=demo)], set(), (), whole_node=True) == ""


def told(state: dict[str, Any], last: dict[str, Any] | None = None, phase: str = "Running") -> dict[str, Any]:
    return {"status": {"phase": phase, "containerStatuses": [{"state": state, "lastState": last or {}}]}}


def test_the_last_word_is_what_the_program_wrote() -> None:
    word = last_word(told({"terminated": {"exitCode": 0, "message": '{"event": "undone", "reason": "its time is over"}'}}))
    assert word == {"event": "undone", "reason": "its time is over"}
    assert last_word(told({"running": {}})) is None
    killed = {"terminated": {"exitCode": 137, "reason": "Error"}}
    assert last_word(told({"waiting": {"reason": "CrashLoopBackOff"}}, killed)) is None, "the kubelet starts it again"
    assert "without a word" in (last_word(told({"terminated": {"exitCode": 0, "message": ""}})) or {})["reason"]


def test_what_never_ran_has_cut_nothing() -> None:
    pulled = last_word(told({"waiting": {"reason": "ImagePullBackOff"}}, phase="Pending"))
    assert pulled and "it never ran: ImagePullBackOff" in pulled["reason"]
    no_python = {"terminated": {"exitCode": 128, "reason": "StartError"}}
    assert "it never ran" in (last_word(told({"waiting": {"reason": "CrashLoopBackOff"}}, no_python)) or {})["reason"]
