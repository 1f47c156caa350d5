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

R0, R1 = "target: {names: [replica-0]}", "target: {names: [replica-1]}"
# Several at once: a dead drill's hold on the service takes half a minute to run out, each time.
FAULTS = {
    "inside": (
        f"{{kind: process-hang, role: engine, {R0}}}",
        f"{{kind: cpu-stress, {R1}}}",
        f"{{kind: disk-fill, path: /dev/shm, leave: 40MiB, {R1}}}",
    ),
    "policies": (f"{{kind: network-partition, peers: [gateway], {R1}}}", "{kind: dns-break, target: {role: gateway}}"),
    "ended": (
        f"{{kind: model-corrupt, mutation: nan-one, {R0}}}",  # seen by what stands in the place of the next one's victim
        f"{{kind: replica-kill, {R0}}}",
        "{kind: store-kill}",
        f"{{kind: process-kill, role: engine, {R1}}}",
        "{kind: rollout-restart, target: {role: standby}}",
    ),
    "rollout": (f"{{kind: bad-image, {R1}}}",),
    "node": ("{kind: node-drain}",),
}
# In test_objects.py: killed in the middle of a scale-down and a cordon, which are undone as the others there are; and the demo's pods have
# less memory than the reserve that the agent of memory-stress keeps.
ELSEWHERE = {"scale-down", "node-cordon", "bad-config", "node-taint", "memory-stress"}


@pytest.fixture(scope="module")
def service(api: KubeApi, cluster: Path, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    os.environ["KUBECONFIG"] = str(cluster)
    with (
        volumes_of(api, tmp_path_factory.mktemp("volumes")) as storage_class,
        deployed(api, image, hardened=True, tell=print, storage_class=storage_class) as file,
    ):
        yield file
    del os.environ["KUBECONFIG"]


def kinds(faults: tuple[str, ...]) -> list[str]:
    return [fault.partition("kind: ")[2].partition(",")[0].rstrip("}") for fault in faults]


def test_all_kinds_are_here() -> None:
    here = {kind for faults in FAULTS.values() for kind in kinds(faults)}
    assert here | ELSEWHERE == {kind for kind, injector in registry().items() if "kubernetes" in injector.platforms}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", FAULTS)
def test_a_killed_drill_is_recovered_from_another_machine(
    blackstart: Blackstart, service: Path, api: KubeApi, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_well(service)
    faults = FAULTS[group]
    process, folder = in_fault(blackstart, service, "\n  - ".join(faults), len(faults))
    kill_quietly(process)
    monkeypatch.setenv("BLACKSTART_STATE_DIR", str(tmp_path / "other-machine"))
    second = tmp_path / "second"
    second.mkdir()
    done = Blackstart(second)("recover", "--all", within_s=170)
    assert done.code == 0, done.out + done.err
    for kind in kinds(faults):
        assert f"{kind}: undone" in done.out
    assert events(second / "blackstart-runs" / folder.name).count("undo-verified") == len(faults)
    assert everything_ours(api, service) == []
    monkeypatch.undo()
    assert blackstart("recover", "--all").code == 0  # this machine's own record of it
