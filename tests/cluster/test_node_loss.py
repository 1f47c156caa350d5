"""A node that dies while a fault is on it: nothing is claimed that cannot be seen, and `recover` proves it later."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.commands.demo_kubernetes import deployed
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.tests.cluster.conftest import DEVKUBE
from blackstart.tests.cluster.test_objects import everything_ours, in_fault
from blackstart.tests.command import Blackstart, await_well, events, until


@pytest.fixture(scope="module")
def service(api: KubeApi, cluster: Path, image: str) -> Iterator[Path]:
    if api.context != "devkube":
        pytest.skip("only devkube's nodes can be stopped")
    os.environ["KUBECONFIG"] = str(cluster)
    with deployed(api, image, hardened=True, tell=print) as file:
        yield file
    del os.environ["KUBECONFIG"]


def node_ready(api: KubeApi, name: str) -> bool:
    conditions = api.get(place("nodes", name=name))["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.mark.timeout(400)
def test_a_fault_on_a_node_that_is_lost_is_closed_once_that_can_be_seen(
    blackstart: Blackstart, service: Path, api: KubeApi
) -> None:
    await_well(service)
    process, folder = in_fault(blackstart, service, "{kind: process-hang, role: engine, target: {names: [replica-0]}, for: 10s}")
    namespace = next(each for each in api.items(place("pods"))[0] if each["metadata"]["name"] == "replica-0")["metadata"][
        "namespace"
    ]
    node = api.get(place("pods", namespace, "replica-0"))["spec"]["nodeName"]
    number = node.removeprefix("node")
    subprocess.run([DEVKUBE, "node", "stop", number], check=True, capture_output=True)
    try:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 5, err
        assert "undo-failed" in events(folder)
        assert everything_ours(api, service), "its record stays until it is proven undone"
    finally:
        subprocess.run([DEVKUBE, "node", "start", number], check=True, capture_output=True)
    until(f"{node} to be ready", lambda: node_ready(api, node), 60)
    until("replica-0 to stand", lambda: recovered(blackstart), 120)
    assert everything_ours(api, service) == []


def recovered(blackstart: Blackstart) -> bool:
    return blackstart("recover", "--all", within_s=170).code == 0
