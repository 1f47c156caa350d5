"""A node that dies, or is cut off, while a fault is on it: nothing is claimed that cannot be seen, and `recover` proves it later."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_pods import ready
from blackstart.tests.cluster.steps import DEVKUBE, everything_ours, in_fault, namespace_of, stands
from blackstart.tests.command import Blackstart, events, until

pytestmark = pytest.mark.whole_cluster

HANG = "{kind: process-hang, role: engine, target: {names: [replica-0]}, for: 10s}"


@pytest.fixture
def node(hardened_demo: Path, api: KubeApi) -> str:
    """The one that replica-0 runs on."""
    if api.context != "devkube":
        pytest.skip("only devkube's nodes can be stopped and cut off")
    return str(api.get(place("pods", namespace_of(hardened_demo), "replica-0"))["spec"]["nodeName"])


@contextmanager
def away(node: str, how: str, back: str) -> Iterator[None]:
    number = node.removeprefix("node")
    subprocess.run([DEVKUBE, "node", how, number], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([DEVKUBE, "node", back, number], check=True, capture_output=True)


def node_ready(api: KubeApi, node: str) -> bool:
    return ready(api.get(place("nodes", name=node)))


@pytest.mark.timeout(400)
def test_a_fault_on_a_node_that_is_lost_is_closed_once_that_can_be_seen(
    blackstart: Blackstart, hardened_demo: Path, api: KubeApi, node: str
) -> None:
    process, folder = in_fault(blackstart, hardened_demo, HANG, observe="20s")
    with away(node, "stop", "start"):
        _, err = process.communicate(timeout=200)
        assert process.returncode == 5, err
        assert "undo-failed" in events(folder)
        assert everything_ours(api, hardened_demo), "its record stays until it is proven undone"
    until(f"{node} to be ready", lambda: node_ready(api, node), 60)
    until("replica-0 to stand", lambda: pod_stands(api, hardened_demo), 120)
    done = blackstart("recover", "--all", within_s=170)
    assert done.code == 0, done.out + done.err
    assert everything_ours(api, hardened_demo) == []


def pod_stands(api: KubeApi, service: Path) -> bool:
    found = api.there(place("pods", namespace_of(service), "replica-0"))
    return found is not None and stands(found)


@pytest.mark.timeout(300)
def test_a_node_that_is_cut_off_for_a_while_costs_no_proof(
    blackstart: Blackstart, hardened_demo: Path, api: KubeApi, node: str
) -> None:
    """The agent there goes on and ends its fault by itself; that it did is looked at when the node is back."""
    process, folder = in_fault(blackstart, hardened_demo, HANG)
    with away(node, "isolate", "heal"):
        until("the cluster to miss it", lambda: not node_ready(api, node), 60)
    _, err = process.communicate(timeout=200)
    assert process.returncode in {0, 1, 3}, err
    assert "undo-verified" in events(folder)
    assert everything_ours(api, hardened_demo) == []
