"""Every kind of fault that has means in a cluster, on the demo service: it is proven, and nothing of it outlives a SIGKILL and `recover`."""

from pathlib import Path

import pytest
from blackstart.injectors import registry
from blackstart.injectors.platforms.kube_api import KubeApi
from blackstart.tests.cluster.steps import in_fault, kind_of, recovered_elsewhere
from blackstart.tests.cluster.test_accelerators import FAULTS as ON_GPUS
from blackstart.tests.cluster.test_conformance import DRILLED
from blackstart.tests.cluster.test_drills import ALL_AT_ONCE
from blackstart.tests.cluster.test_inline import FAULTS as INLINE
from blackstart.tests.cluster.test_node_isolate import FAULT as ISOLATED
from blackstart.tests.cluster.test_objects import RECOVERED
from blackstart.tests.command import Blackstart, kill_quietly

R0, R1 = "target: {names: [replica-0]}", "target: {names: [replica-1]}"
# Several at once: a dead drill's hold on the service takes a while to run out, each time.
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
        f"{{kind: version-skew, {R1}}}",
        f"{{kind: process-kill, role: engine, {R1}}}",
        "{kind: rollout-restart, target: {role: standby}}",
    ),
    "rollout": (f"{{kind: bad-image, {R1}}}",),
    "node": ("{kind: node-drain}",),
}
# Killed and recovered in test_objects.py, test_drills.py, test_inline.py, test_accelerators.py, test_conformance.py and test_node_isolate.py.
ELSEWHERE = {kind_of(fault) for fault in (*RECOVERED, *ALL_AT_ONCE, *INLINE, *ON_GPUS, *DRILLED, ISOLATED)}


def test_all_kinds_are_here() -> None:
    here = {kind_of(fault) for faults in FAULTS.values() for fault in faults}
    assert here | ELSEWHERE == {kind for kind, injector in registry().items() if "kubernetes" in injector.platforms}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "group", [pytest.param(group, marks=pytest.mark.whole_cluster if group == "node" else ()) for group in FAULTS]
)
def test_a_killed_drill_is_recovered_from_another_machine(
    blackstart: Blackstart, hardened_demo: Path, api: KubeApi, group: str
) -> None:
    faults = FAULTS[group]
    process, folder = in_fault(blackstart, hardened_demo, "\n  - ".join(faults), len(faults))
    kill_quietly(process)
    recovered_elsewhere(blackstart, api, hardened_demo, folder, *faults)
