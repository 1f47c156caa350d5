"""Which accelerator is a target's own, by what NVML and its environment tell."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from blackstart.injectors.base import Refusal
from blackstart.injectors.devices import own_gpu
from blackstart.injectors.platforms.base import Target, Unsupported
from blackstart.injectors.platforms.kube_files import PodFiles

R0 = Target("pid:10@1", "r0", "replica")


def gpu(uuid: str, *pids: int, name: str = "A", parent: str | None = None) -> dict:
    return {"uuid": uuid, "name": name, "parent": parent, "processes": [{"pid": pid, "bytes": 1} for pid in pids]}


def chosen(gpus: list[dict], wanted: str | None = None, broken: tuple[str, ...] = (), **environment: str) -> str:
    seen = {"nvml": "", "cuda": "", "broken": list(broken), "gpus": gpus, "environment": {"10": environment, "11": environment}}
    return own_gpu(seen, R0, {10, 11}, wanted)["uuid"]


def refused(gpus: list[dict], wanted: str | None = None, broken: tuple[str, ...] = (), **environment: str) -> str:
    with pytest.raises(Refusal) as problem:
        chosen(gpus, wanted, broken, **environment)
    return str(problem.value)


def test_who_is_on_a_gpu_has_it_whatever_the_environment_says() -> None:
    gpus = [gpu("GPU-0", 99), gpu("GPU-1", 11), gpu("GPU-2")]
    assert chosen(gpus, CUDA_VISIBLE_DEVICES="2", NVIDIA_VISIBLE_DEVICES="all") == "GPU-1"
    assert "GPU-2 belongs to no target: r0's processes are on GPU-1" in refused(gpus, "GPU-2", NVIDIA_VISIBLE_DEVICES="all")


def test_one_of_several_has_to_be_named() -> None:
    gpus = [gpu("GPU-0", 10), gpu("GPU-1", 11), gpu("GPU-2")]
    assert "r0's processes are on GPU-0, GPU-1; name one of them as `device`" in refused(gpus)
    assert chosen(gpus, "GPU-1") == "GPU-1"


@pytest.mark.parametrize(
    ("environment", "uuid"),
    [
        ({"CUDA_VISIBLE_DEVICES": "GPU-1"}, "GPU-1"),
        ({"CUDA_VISIBLE_DEVICES": "1", "NVIDIA_VISIBLE_DEVICES": "0,1"}, "GPU-1"),
        ({"NVIDIA_VISIBLE_DEVICES": "0"}, "GPU-0"),
        ({"NVIDIA_VISIBLE_DEVICES": "2"}, "MIG-a"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-a"}, "MIG-a"),
    ],
)
def test_what_the_environment_shows(environment: dict[str, str], uuid: str) -> None:
    assert chosen([gpu("GPU-0"), gpu("GPU-1"), gpu("MIG-a", parent="GPU-2")], **environment) == uuid


def test_an_index_of_cudas_means_nothing_where_gpus_differ() -> None:
    """CUDA counts the fastest first, NVML by the bus."""
    gpus = [gpu("GPU-0", name="slow"), gpu("GPU-1", name="fast")]
    assert "CUDA_VISIBLE_DEVICES=0 of r0 is an index, which CUDA counts by speed" in refused(gpus, CUDA_VISIBLE_DEVICES="0")
    assert chosen(gpus, CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="PCI_BUS_ID") == "GPU-0"
    assert chosen(gpus, NVIDIA_VISIBLE_DEVICES="0") == "GPU-0"


@pytest.mark.parametrize(
    ("environment", "uuid"),
    [
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-2", "CUDA_VISIBLE_DEVICES": "0"}, "GPU-2"),
        ({"NVIDIA_VISIBLE_DEVICES": "2,1", "CUDA_VISIBLE_DEVICES": "0"}, "GPU-1"),
        ({"NVIDIA_VISIBLE_DEVICES": "2,7", "CUDA_VISIBLE_DEVICES": "GPU-2"}, "GPU-2"),
    ],
)
def test_cuda_counts_what_a_container_has(environment: dict[str, str], uuid: str) -> None:
    gpus = [gpu("GPU-0", name="another"), gpu("GPU-1"), gpu("GPU-2")]
    assert chosen(gpus, **environment) == uuid


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"])
def test_an_index_means_nothing_beside_a_broken_gpu(variable: str) -> None:
    """With the first of three broken, the second of those that are left is the third."""
    gpus, broken = [gpu("GPU-1"), gpu("GPU-2")], ("GPU 0 of NVML's: the GPU is lost",)
    why = refused(gpus, None, broken, **{variable: "1"})
    assert f"{variable}=1 of r0 is an index, and nobody tells where a broken GPU would be counted (GPU 0 of NVML's" in why
    assert chosen(gpus, None, broken, **{variable: "GPU-2"}) == "GPU-2"


def test_an_index_of_the_hosts_means_nothing_where_not_all_are_seen() -> None:
    """In a container with the second and third of the host, these are the first and second."""
    why = refused([gpu("GPU-1"), gpu("GPU-2")], NVIDIA_VISIBLE_DEVICES="1,2")
    assert "NVIDIA_VISIBLE_DEVICES=2 of r0 is an index, and NVML has 2 here" in why


@pytest.mark.parametrize("environment", [{}, {"NVIDIA_VISIBLE_DEVICES": "void"}, {"CUDA_VISIBLE_DEVICES": "7"}])
def test_nothing_is_guessed(environment: dict[str, str]) -> None:
    assert "no process of r0 is on a GPU by NVML's list (GPU-0)" in refused([gpu("GPU-0", 99)], **environment)


def test_a_pod_that_sees_its_nodes_processes_is_refused() -> None:
    for spec, refused in (({"hostPID": True}, True), ({"shareProcessNamespace": True}, False)):
        seen = SimpleNamespace(_pod=lambda _, spec=spec: {"spec": spec})
        with pytest.raises(Unsupported, match="r0 sees all processes of its node") if refused else nullcontext():
            PodFiles._refuse_foreign(seen, R0)
