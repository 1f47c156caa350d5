"""Whose an AMD GPU is, by what the kernel and the target's environment tell, and beside GPUs of NVIDIA's."""

import pytest
from blackstart.injectors.amd_devices import own_amd
from blackstart.injectors.base import Refusal
from blackstart.injectors.device_needs import Needs
from blackstart.injectors.devices import devices_of
from blackstart.injectors.platforms.base import Target

R0 = Target("pid:10@1", "r0", "replica")
AMD = ("GPU-0000000000000001", "GPU-0000000000000002", "PCI-0000:43:00.0")


def gpu(uuid: str, *pids: int) -> dict:
    return {"uuid": uuid, "name": "A", "parent": None, "processes": [{"pid": pid, "bytes": 1} for pid in pids]}


def amd(**processes: int) -> list[dict]:
    """`on_1=10`: pid 10 has memory on the second of three."""
    return [gpu(uuid, *(pid for name, pid in processes.items() if name.endswith(str(n)))) for n, uuid in enumerate(AMD)]


def seen_of(gpus: list[dict], broken: tuple[str, ...] = (), **environment: str) -> dict:
    words = dict.fromkeys(("nvml", "cuda", "kfd", "hip", "opencl"), "")
    return {**words, "gpus": [], "broken": [], "amd": gpus, "amd_broken": list(broken), "environment": {"10": environment}}


@pytest.mark.parametrize(
    ("environment", "uuid"),
    [
        ({"ROCR_VISIBLE_DEVICES": "1"}, AMD[1]),
        ({"HIP_VISIBLE_DEVICES": "2"}, AMD[2]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, AMD[1]),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, AMD[0]),
        ({"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "1"}, AMD[1]),
        ({"ROCR_VISIBLE_DEVICES": AMD[1]}, AMD[1]),
        ({"ROCR_VISIBLE_DEVICES": "1,9,0"}, AMD[1]),
    ],
)
def test_what_the_environment_shows_of_amd(environment: dict[str, str], uuid: str) -> None:
    """HIP counts within what ROCr lets in, and nothing counts that comes after what is not there."""
    assert own_amd(seen_of(amd(), **environment), R0, {10}, None)["uuid"] == uuid


def test_an_index_means_nothing_beside_an_amd_gpu_that_is_not_as_it_should_be() -> None:
    seen = seen_of(amd(), ("the GPU at 0000:53:00.0 is partitioned",), ROCR_VISIBLE_DEVICES="1")
    with pytest.raises(Refusal, match="ROCR_VISIBLE_DEVICES=1 of r0 is an index, and nobody tells where a GPU would be counted"):
        own_amd(seen, R0, {10}, None)


class Beside:
    """A platform that sees just that, and has pid 10 of every target."""

    name = "here"

    def __init__(self, seen: dict) -> None:
        self.seen = seen

    def pids(self, _: Target) -> tuple[int, ...]:
        return (10,)

    def accelerators(self, target: Target, *_: object, **__: object) -> dict:
        return {**self.seen, "pids": self.pids(target), "where": "here"}

    def agent_seen(self, *_: object) -> None:
        return None


def of_both(nvidia: list[dict], of_amd: list[dict], wanted: str | None = None) -> str:
    more = {
        "name": "A",
        "total_bytes": 4,
        "used_bytes": 1,
        "hardware": "real",
        "compute_mode": 0,
        "mps": False,
        "temperature_c": 40,
        "power_w": None,
    }
    for each in (*nvidia, *of_amd):
        each.update(more)
        for process in each["processes"]:
            process.update(here=True, agent=False)
    seen = {**seen_of(of_amd), "gpus": nvidia}
    return devices_of((R0,), Beside(seen), wanted, Needs())["r0"]["device"]


def test_beside_gpus_of_both_the_one_that_the_target_is_on_is_its_own() -> None:
    assert of_both([gpu("GPU-0")], amd(on_1=10)) == AMD[1]
    assert of_both([gpu("GPU-0", 10)], amd()) == "GPU-0"
    assert of_both([gpu("GPU-0", 10)], amd(on_1=10), AMD[1]) == AMD[1]
    with pytest.raises(Refusal, match=f"r0's processes are on NVIDIA's GPUs and on {AMD[1]}; name one of them as `device`"):
        of_both([gpu("GPU-0", 10)], amd(on_1=10))


def test_an_amd_gpu_of_somebody_else_is_refused() -> None:
    with pytest.raises(Refusal, match=f"{AMD[0]} belongs to no target: r0's processes are on {AMD[1]}"):
        own_amd(seen_of(amd(on_1=10, of_0=99)), R0, {10}, AMD[0])
    with pytest.raises(Refusal, match=f"{AMD[1]} is also used by pid 99, no target's"):
        of_both([], amd(on_1=10, of_1=99))
