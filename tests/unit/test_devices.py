"""Which accelerator is a target's own, by what NVML and its environment tell."""

import pytest
from blackstart.injectors.base import Refusal
from blackstart.injectors.devices import own_gpu
from blackstart.injectors.platforms.base import Target

R0 = Target("pid:10@1", "r0", "replica")


def gpu(uuid: str, *pids: int, name: str = "A", parent: str | None = None) -> dict:
    return {"uuid": uuid, "name": name, "parent": parent, "processes": [{"pid": pid, "bytes": 1} for pid in pids]}


def chosen(gpus: list[dict], wanted: str | None = None, **environment: str) -> str:
    seen = {"nvml": "", "cuda": "", "broken": [], "gpus": gpus, "environment": {"10": environment, "11": environment}}
    return own_gpu(seen, R0, {10, 11}, wanted)["uuid"]


def refused(gpus: list[dict], wanted: str | None = None, **environment: str) -> str:
    with pytest.raises(Refusal) as problem:
        chosen(gpus, wanted, **environment)
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


@pytest.mark.parametrize("environment", [{}, {"NVIDIA_VISIBLE_DEVICES": "void"}, {"CUDA_VISIBLE_DEVICES": "7"}])
def test_nothing_is_guessed(environment: dict[str, str]) -> None:
    assert "no process of r0 is on a GPU by NVML's list (GPU-0)" in refused([gpu("GPU-0", 99)], **environment)
