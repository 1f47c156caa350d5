"""Faults of accelerators in pods: the whole contract, and a drill that is killed; the driver is simulated."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from blackstart.injectors import testing
from blackstart.injectors.base import Injector
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms.kube_api import KubeApi
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.accelerators import FakeGpus
from blackstart.tests.cluster.gpu_replica import OWN_MIB, SLOT, pod, standing
from blackstart.tests.cluster.steps import in_fault, recovered_elsewhere
from blackstart.tests.cluster.web import PORT, opened, profile_of
from blackstart.tests.command import Blackstart, kill_quietly, proven_by

FOLDER = "/gpu"
BESIDE = f"target: {{names: [{SLOT}]}}, for: 60s"
FAULTS = (f"{{kind: gpu-saturate, duty: 50%, {BESIDE}}}", f"{{kind: gpu-memory-fill, leave: 1GiB, {BESIDE}}}")
CASES: dict[str, tuple[Injector, Callable[[FakeGpus], bool]]] = {
    "gpu-saturate": (GpuSaturate(duty=Share(0.5)), lambda gpus: gpus.share(0) > 10),
    "gpu-memory-fill": (GpuMemoryFill(leave=Size(256 << 20)), lambda gpus: gpus.used_mib(0) > 3000),
}


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> FakeGpus:
    return FakeGpus(tmp_path_factory.mktemp("driver") / "gpu")


@pytest.fixture(scope="module")
def namespace(api: KubeApi, image: str, gpus: FakeGpus) -> Iterator[str]:
    command, environment = gpus.victim(FOLDER, PORT)
    with standing(api, pod(image, command, environment, {FOLDER: gpus.folder})) as name:
        yield name


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", CASES)
def test_the_whole_contract(namespace: str, cluster: Path, gpus: FakeGpus, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "SETTLE_S", 8.0)  # half of it is the deadline of what is killed while it is held
    injector, effect = CASES[kind]
    check_injector(injector, functools.partial(opened, str(cluster), namespace), (SLOT,), effect=lambda: effect(gpus))
    assert (gpus.used_mib(0), gpus.used_mib(1)) == (OWN_MIB, 0)


@pytest.mark.timeout(240)
def test_a_killed_drill_is_recovered_from_another_machine(
    blackstart: Blackstart, api: KubeApi, namespace: str, gpus: FakeGpus, image: str
) -> None:
    """Both at once, and with blackstart dies the agent that holds the memory."""
    service = profile_of(namespace, image, blackstart.folder)
    process, folder = in_fault(blackstart, service, "\n  - ".join(FAULTS), 2)
    assert gpus.used_mib(0) >= 3000
    assert gpus.share(0) > 10
    kill_quietly(process)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
            if folder.name.encode() in (words := path.read_bytes()) and b"fill-gpu" in words:
                os.kill(int(path.parent.name), 9)
    recovered_elsewhere(blackstart, api, service, folder, *FAULTS)
    assert {each["facts"]["hardware"] for each in proven_by(folder)} == {"simulated"}
    assert gpus.used_mib(0) == OWN_MIB
