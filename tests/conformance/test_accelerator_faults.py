"""Faults of accelerators on a live service: by OpenCL on the processor, for real."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import ProcessSpec
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.accelerators import pocl
from blackstart.tests.conformance.test_process_faults import agents, resident, victim

MIB = 1 << 20
LEAVE = Size(768 * MIB)  # of 1 GiB, so that little is held at a time


def opened_on(folder: Path, environment: dict[str, str]) -> Iterator[Callable[[], ProcessPlatform]]:
    """How to open a platform with a live replica r0, whose agents have such an environment."""
    spec = ProcessSpec((victim("r0", "replica"),))
    opened = functools.partial(ProcessPlatform, spec, folder, folder / "state", {**os.environ, **environment})
    with closing(opened()) as platform:
        try:
            assert platform.start_missing() == ("r0",)
            yield opened
        finally:
            platform.stop_started()


@pytest.fixture
def service(tmp_path):
    yield from opened_on(tmp_path, pocl(tmp_path / "opencl"))


def ticks(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total


def test_gpu_saturate(service, tmp_path):
    injector = GpuSaturate(duty=Share(0.2), device="opencl:0")
    check_injector(injector, service, ("r0",), effect=lambda: ticks(agents(tmp_path, "saturate-gpu")) > 10)


def test_gpu_memory_fill(service, tmp_path):
    injector = GpuMemoryFill(leave=LEAVE, device="opencl:0")
    check_injector(injector, service, ("r0",), effect=lambda: resident(agents(tmp_path, "fill-gpu")) > 224 * MIB)
