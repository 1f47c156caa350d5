"""Faults of workloads and nodes on a real cluster: what they take away, and that a guard puts it back whatever dies."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.tests.cluster.steps import (
    DEVKUBE,
    NETWORKING,
    drilled,
    everything_ours,
    everywhere,
    in_fault,
    kind_of,
    login,
    nodes,
    scenario,
)
from blackstart.tests.cluster.web import APPS, REPLICAS, await_standing, deployment, pod, profile_of, running
from blackstart.tests.command import Blackstart, events, kill_quietly, until

OF_NODES = pytest.mark.whole_cluster  # they refuse to move the pods of others
RECOVERED = (
    "{kind: node-cordon}",
    "{kind: node-taint, whole_node: true}",
    "{kind: bad-config, environment: {PORT: nonsense}, target: {share: 100%}}",
    "{kind: memory-stress, size: 64MiB}",
)


def with_nodes_marked(faults: tuple[str, ...]) -> list[Any]:
    return [pytest.param(fault, marks=OF_NODES if "kind: node-" in fault else ()) for fault in faults]


@pytest.fixture(scope="module")
def namespace(api: KubeApi, image: str) -> Iterator[str]:
    with running(api, image) as name:
        yield name


@pytest.fixture
def service(api: KubeApi, namespace: str, image: str, tmp_path: Path) -> Path:
    await_standing(api, namespace)
    return profile_of(namespace, image, tmp_path)


def closed(api: KubeApi) -> list[str]:
    """Nodes that take no more pods."""
    return [each["metadata"]["name"] for each in nodes(api) if each["spec"].get("unschedulable") or each["spec"].get("taints")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("fault", "source"),
    [
        ("{kind: scale-down, target: {count: 2}, for: 6s}", "pods by UID"),
        ("{kind: replica-kill, evict: true}", "pods by UID"),
        ("{kind: replica-kill, grace: 2s}", "pods by UID"),
        ("{kind: bad-image, for: 6s}", "the kubelet"),
        ("{kind: bad-config, environment: {PORT: nonsense}, target: {share: 100%}, for: 6s}", "the kubelet"),
        ("{kind: network-partition, for: 6s}", "a client's connection"),
        ("{kind: dns-break, for: 6s}", "a client's connection"),
        ("{kind: memory-stress, size: 64MiB, for: 6s}", "kernel"),
        pytest.param("{kind: node-cordon, for: 6s}", "node controller", marks=OF_NODES),
        pytest.param("{kind: node-taint, whole_node: true, for: 6s}", "pods by UID", marks=OF_NODES),
    ],
    ids=lambda value: value.partition("kind: ")[2].rstrip("}"),  # a kind may be here twice
)
def test_it_bites_is_proven_and_is_put_back(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str, fault: str, source: str
) -> None:
    before = deployment(api, namespace)["spec"]
    done = drilled(blackstart, service, fault)
    assert done.code == 0, done.out + done.err
    (told,) = done.result["faults"]
    assert told["undo_verified"]
    assert source in told["evidence"]["source"]
    assert "replica-kill" in fault or "still-effective" in events(done.folder)
    assert deployment(api, namespace)["spec"] == before
    assert not closed(api)
    assert everything_ours(api, service) == []


@pytest.mark.whole_cluster  # for a while no policy in the cluster is enforced
@pytest.mark.timeout(240)
def test_a_policy_that_nobody_enforces_is_no_partition(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    if api.context != "devkube":
        pytest.skip("only devkube's network can be told to ignore policies")
    subprocess.run([DEVKUBE, "up", "--no-netpol"], check=True, capture_output=True)
    try:
        done = drilled(blackstart, service, "{kind: network-partition, for: 6s}")
    finally:
        subprocess.run([DEVKUBE, "up"], check=True, capture_output=True)
    assert done.code == 3, done.out + done.err
    assert "does not enforce it" in done.out + done.err
    assert everything_ours(api, service) == []


@pytest.mark.timeout(240)
def test_a_guard_that_is_ended_puts_back_first(blackstart: Blackstart, service: Path, api: KubeApi, namespace: str) -> None:
    process, folder = in_fault(blackstart, service, "{kind: scale-down, target: {count: 1}, for: 20s}")
    (guard,) = api.items(place("pods", namespace), labels="blackstart-guard")[0]
    api.delete(place("pods", namespace, guard["metadata"]["name"]))
    until("the guard to put it back", lambda: deployment(api, namespace)["spec"]["replicas"] == REPLICAS, 20)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "lapsed" in events(folder)
    assert everything_ours(api, service) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", with_nodes_marked(RECOVERED), ids=kind_of)
def test_recover_puts_back_at_once_what_a_killed_drill_left(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str, fault: str
) -> None:
    before = deployment(api, namespace)["spec"]
    process, folder = in_fault(blackstart, service, fault)
    kill_quietly(process)
    changed = deployment(api, namespace)["spec"] != before or bool(closed(api))
    assert changed is (kind_of(fault) != "memory-stress")
    done = blackstart("recover", folder.name)
    assert done.code == 0, done.out + done.err
    assert f"{kind_of(fault)}: undone" in done.out
    assert deployment(api, namespace)["spec"] == before
    assert not closed(api)
    assert everything_ours(api, service) == []


@OF_NODES
@pytest.mark.timeout(240)
def test_a_node_is_opened_also_when_the_namespace_is_gone(
    blackstart: Blackstart, service: Path, api: KubeApi, image: str
) -> None:
    with running(api, image) as namespace:
        profile = json.loads(service.read_text(encoding="utf-8"))
        profile["kubernetes"]["namespace"] = namespace
        service.write_text(json.dumps(profile), encoding="utf-8")
        process, folder = in_fault(blackstart, service, "{kind: node-cordon}")
        kill_quietly(process)
    until("the namespace to be gone", lambda: api.there(place("namespaces", name=namespace)) is None, 90)
    done = blackstart("recover", folder.name)
    assert done.code == 0, done.out + done.err
    assert not closed(api)
    assert everything_ours(api, service) == []


@pytest.mark.timeout(240)
def test_what_somebody_else_changed_since_is_left_alone(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str
) -> None:
    process, folder = in_fault(blackstart, service, "{kind: scale-down, target: {count: 1}, for: 8s}")
    path = place("deployments", namespace, "web", APPS)
    api.patch(path, [{"op": "replace", "path": "/spec/replicas", "value": REPLICAS + 1}])
    _, err = process.communicate(timeout=120)
    try:
        assert process.returncode == 5, err
        assert deployment(api, namespace)["spec"]["replicas"] == REPLICAS + 1
        assert "neither ours nor as before" in (folder / "journal.jsonl").read_text(encoding="utf-8")
    finally:
        api.patch(path, [{"op": "replace", "path": "/spec/replicas", "value": REPLICAS}])
    assert blackstart("recover", folder.name, "--accept").code == 0
    assert everything_ours(api, service) == []


@pytest.mark.parametrize(
    ("fault", "change", "why"),
    [
        ("{kind: scale-down}", {"probe": {"rate": "20/s"}}, "probe.image"),
        ("{kind: bad-image, target: {count: 1}}", {"strategy": {"type": "Recreate"}}, "write `target: {count: 3}`"),
        pytest.param("{kind: node-drain}", {"budget": REPLICAS}, "disruption budget", marks=OF_NODES),
        ("{kind: replica-kill, evict: true}", {"budget": REPLICAS}, "disruption budget"),
        pytest.param("{kind: node-taint}", {"stranger": True}, "would move pods of others", marks=OF_NODES),
        ("{kind: bad-config, environment: {PORT: nonsense}}", {}, "write `target: {count: 3}`"),
        ("{kind: network-partition}", {"policy": True}, "no other policy can take them back"),
        ("{kind: network-partition, peers: [gateway]}", {}, "nothing is called gateway"),
        ("{kind: network-partition, direction: to}", {}, "violates PodSecurity"),
        ("{kind: network-delay, delay: 300ms}", {}, "violates PodSecurity"),
    ],
)
def test_what_cannot_be_done_safely_is_refused(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str, image: str, fault: str, change: dict[str, Any], why: str
) -> None:
    path = place("deployments", namespace, "web", APPS)
    if "probe" in change:
        service.write_text(json.dumps({**json.loads(service.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    if "strategy" in change:
        api.patch(path, [{"op": "replace", "path": "/spec/strategy", "value": change["strategy"]}])
    if "budget" in change:
        spec = {"minAvailable": change["budget"], "selector": {"matchLabels": {"app": "web"}}}
        api.create(place("poddisruptionbudgets", namespace, "", "policy/v1"), {"metadata": {"name": "web"}, "spec": spec})
        until("the budget to be counted", lambda: budget(api, namespace)["status"].get("currentHealthy") == REPLICAS, 30)
    if "policy" in change:
        spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": [{}]}
        api.create(place("networkpolicies", namespace, "", NETWORKING), {"metadata": {"name": "theirs"}, "spec": spec})
    if "stranger" in change:
        for node in nodes(api):
            name = f"stranger-{node['metadata']['name']}"
            spec = {**pod(image), "nodeName": node["metadata"]["name"], "terminationGracePeriodSeconds": 0}
            api.create(place("pods", namespace), {"metadata": {"name": name}, "spec": spec})
    try:
        refused = blackstart("run", scenario(blackstart, fault), "--service", service, "--yes")
        assert refused.code == 2, refused.out + refused.err
        assert why in refused.err
    finally:
        if "strategy" in change:
            api.patch(path, [{"op": "replace", "path": "/spec/strategy", "value": {"type": "RollingUpdate"}}])
        api.delete(place("poddisruptionbudgets", namespace, "web", "policy/v1"))
        api.delete(place("networkpolicies", namespace, "theirs", NETWORKING))
        for node in nodes(api):
            api.delete(place("pods", namespace, f"stranger-{node['metadata']['name']}"), grace_s=0)
    assert everything_ours(api, service) == []


def budget(api: KubeApi, namespace: str) -> dict[str, Any]:
    return api.get(place("poddisruptionbudgets", namespace, "web", "policy/v1"))


@OF_NODES
@pytest.mark.timeout(240)
def test_a_node_drain_takes_the_rights_that_are_printed(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str
) -> None:
    fault = "{kind: node-drain, for: 4s}"
    printed = json.loads(blackstart("plan", scenario(blackstart, fault), "--service", service, "--rbac").out)
    role, cluster_role = printed["items"]
    role["metadata"]["name"] = cluster_role["metadata"]["name"] = f"drain-{namespace}"
    kubeconfig = login(api, namespace, role, blackstart.folder)
    refused = drilled(blackstart, service, fault, KUBECONFIG=str(kubeconfig))
    assert refused.code == 2
    assert "nodes in the whole cluster" in refused.err
    with everywhere(api, cluster_role, namespace):
        done = drilled(blackstart, service, fault, KUBECONFIG=str(kubeconfig))
        assert done.code == 0, done.out + done.err
    assert everything_ours(api, service) == []
