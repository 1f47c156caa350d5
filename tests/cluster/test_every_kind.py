"""Every kind of fault that has means in a cluster, on the demo service: it is proven, and nothing of it outlives a SIGKILL and `recover`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.commands.demo_kubernetes import deployed
from blackstart.injectors import registry
from blackstart.injectors.platforms.kube_api import KubeApi
from blackstart.tests.cluster.conftest import volumes_of
from blackstart.tests.cluster.test_objects import everything_ours, in_fault
from blackstart.tests.command import Blackstart, await_well, events, kill_quietly

FAULTS = {
    "replica-kill": "{kind: replica-kill, target: {names: [replica-0]}}",
    "store-kill": "{kind: store-kill}",
    "process-kill": "{kind: process-kill, role: engine, target: {names: [replica-0]}}",
    "process-hang": "{kind: process-hang, role: engine, target: {names: [replica-0]}}",
    "rollout-restart": "{kind: rollout-restart, target: {names: [replica-0]}}",
    "cpu-stress": "{kind: cpu-stress, target: {names: [replica-0]}}",
    "disk-fill": "{kind: disk-fill, path: /tmp, at_most: 16MiB, target: {names: [replica-0]}}",
    "model-corrupt": "{kind: model-corrupt, mutation: nan-one, target: {names: [replica-0]}}",
    "network-partition": "{kind: network-partition, peers: [gateway], target: {names: [replica-1]}}",
    "dns-break": "{kind: dns-break, target: {role: gateway}}",
    "scale-down": "{kind: scale-down, target: {names: [replica-1]}}",
    "bad-image": "{kind: bad-image, target: {names: [replica-1]}}",
    "bad-config": "{kind: bad-config, environment: {PYTHONHOME: /nonexistent}, target: {share: 100%}}",
    "node-cordon": "{kind: node-cordon}",
    "node-drain": "{kind: node-drain}",
    "node-taint": "{kind: node-taint, whole_node: true}",
}

ELSEWHERE = {"memory-stress"}  # in test_objects.py: the demo's pods have less memory than the reserve that its agent keeps


@pytest.fixture(scope="module")
def service(api: KubeApi, cluster: Path, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    os.environ["KUBECONFIG"] = str(cluster)
    with (
        volumes_of(api, tmp_path_factory.mktemp("volumes")) as storage_class,
        deployed(api, image, hardened=True, tell=print, storage_class=storage_class) as file,
    ):
        yield file
    del os.environ["KUBECONFIG"]


def test_all_kinds_are_here() -> None:
    assert FAULTS.keys() | ELSEWHERE == {kind for kind, injector in registry().items() if "kubernetes" in injector.platforms}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", FAULTS)
def test_a_killed_drill_is_recovered_from_another_machine(
    blackstart: Blackstart, service: Path, api: KubeApi, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_well(service)
    process, folder = in_fault(blackstart, service, FAULTS[kind])
    kill_quietly(process)
    monkeypatch.setenv("BLACKSTART_STATE_DIR", str(tmp_path / "other-machine"))
    second = tmp_path / "second"
    second.mkdir()
    done = Blackstart(second)("recover", "--all", within_s=170)
    assert done.code == 0, done.out + done.err
    assert f"{kind}: undone" in done.out
    assert "undo-verified" in events(second / "blackstart-runs" / folder.name)
    assert everything_ours(api, service) == []
    monkeypatch.undo()
    assert blackstart("recover", "--all").code == 0  # this machine's own record of it
