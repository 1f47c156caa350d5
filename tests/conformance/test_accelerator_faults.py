"""Faults of accelerators on a live service: by OpenCL on the processor for real, by the CUDA driver and NVML simulated."""

import copy
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blackstart.injectors.base import Differs, NotYet, Refusal, Undo
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.gpu_lost import GpuLost
from blackstart.injectors.gpu_trouble import GpuThrottle
from blackstart.injectors.platforms import local_agents
from blackstart.injectors.platforms.base import PlatformError
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import ProcessSpec
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.accelerators import AMD_OTHER, AMD_WHOLE, MIB_OF, OTHER, SLICE, WHOLE, FakeGpus, pocl
from blackstart.tests.conformance.test_process_faults import agents, resident, victim

MIB = 1 << 20
LEAVE = Size(768 * MIB)  # of 1 GiB, so that little is held at a time
LOST = {
    "CUDA": ("nvmlDeviceGetCount_v2", "nvmlDeviceGetCount_v2: the GPU is lost"),
    "HIP": ("topology", "the kernel \\(amdgpu, amdkfd\\) does not list it"),
}
HOST = 1 << 23  # what the fake adds to pids that are told as the host's
OWN_MIB = 500  # what the victim has on its simulated GPU
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may set a limit of power")
Opened = Callable[[], ProcessPlatform]


def opened_on(folder: Path, environment: dict[str, str], names: tuple[str, ...] = ("r0",)) -> Iterator[Opened]:
    """How to open a platform with live replicas, whose agents have such an environment."""
    spec = ProcessSpec(tuple(victim(name, "replica") for name in names))
    opened = functools.partial(ProcessPlatform, spec, folder, folder / "state", {**os.environ, **environment})
    with closing(opened()) as platform:
        try:
            assert platform.start_missing() == names
            yield opened
        finally:
            platform.stop_started()


@pytest.fixture
def processor(tmp_path):
    yield from opened_on(tmp_path, pocl(tmp_path / "opencl"))


@pytest.fixture
def fakes(tmp_path):
    return FakeGpus(tmp_path / "fake", sliced=True)


@pytest.fixture
def simulated(tmp_path, fakes):
    """r0 has memory on WHOLE."""
    for opened in opened_on(tmp_path, fakes.environment):
        with closing(opened()) as platform:
            fakes.process(0, platform.current("r0").details["pid"], OWN_MIB)
        yield opened


def opened_beside(folder: Path, gpus: FakeGpus) -> Iterator[Opened]:
    """r0 has memory on `gpus.whole`."""
    for opened in opened_on(folder, gpus.environment):
        with closing(opened()) as platform:
            gpus.process(0, platform.current("r0").details["pid"], OWN_MIB)
        yield opened


@pytest.fixture
def on_drivers(tmp_path, drivers):
    yield from opened_beside(tmp_path, drivers)


@pytest.fixture
def on_gpu(tmp_path, gpus):
    yield from opened_beside(tmp_path, gpus)


@pytest.fixture
def on_opencl(tmp_path, opencl):
    yield from opened_beside(tmp_path, opencl)


def ticks(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total


def planned(injector, platform, deadline_s: float = 60.0) -> Undo:
    found = tuple(platform.current(name) for name in platform.finder.components)
    fault = f"run.{time.time_ns()}"  # agents are found by it among all of this machine, those of tests beside this one too
    undo = injector.plan(found, platform).stamped(fault, injector.kind, {}, deadline_s)
    return Undo.from_json(undo.to_json())


def proven(injector, undo, platform):
    limit = time.monotonic() + injector.patience.total_seconds()
    while True:
        try:
            return injector.verify(undo, platform)
        except NotYet:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)


def until_lapsed(injector, undo, platform):
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        injector.verify(undo, platform)


# --- the conformance suite ---


def test_gpu_saturate_on_a_processor(processor, tmp_path):
    injector = GpuSaturate(duty=Share(0.2), device="opencl:0")
    check_injector(injector, processor, ("r0",), effect=lambda: ticks(agents(tmp_path, "saturate-gpu")) > 10)


def test_gpu_memory_fill_on_a_processor(processor, tmp_path):
    injector = GpuMemoryFill(leave=LEAVE, device="opencl:0")
    check_injector(injector, processor, ("r0",), effect=lambda: resident(agents(tmp_path, "fill-gpu")) > 224 * MIB)


def test_gpu_saturate_simulated(on_drivers, drivers):
    check_injector(GpuSaturate(duty=Share(0.5)), on_drivers, ("r0",), effect=lambda: drivers.share(0) > 10)


def test_gpu_memory_fill_simulated(on_gpu, gpus):
    injector = GpuMemoryFill(leave=Size(256 * MIB))
    check_injector(injector, on_gpu, ("r0",), effect=lambda: gpus.used_mib(0) > 3000)
    assert gpus.used_mib(0) == OWN_MIB


@needs_root
def test_gpu_throttle_simulated(simulated, fakes):
    check_injector(GpuThrottle(power=Share(0.5)), simulated, ("r0",), effect=lambda: fakes.limit_w(0) == 350)
    assert fakes.limit_w(0) == 700


@pytest.mark.parametrize("injector", [GpuSaturate(duty=Share(0.5)), GpuMemoryFill()], ids=lambda injector: injector.kind)
def test_a_slice_simulated(injector, fakes, tmp_path):
    """MIG: the victim has one, and the GPU that it is cut from is left alone."""
    for opened in opened_on(tmp_path, fakes.environment):
        with closing(opened()) as platform:
            fakes.process(2, platform.current("r0").details["pid"], OWN_MIB)
            undo = planned(injector, platform)
            assert undo.prior["devices"]["r0"]["device"] == SLICE
            injector.inject(undo, platform)
            found = proven(injector, undo, platform)
            assert {"gpu-saturate": "no utilisation told", "gpu-memory-fill": "MiB free"}[injector.kind] in found.detail
            assert fakes.used_mib(2) > OWN_MIB
            assert fakes.used_mib(0) == fakes.used_mib(1) == 0
            injector.recover(undo, platform)
            injector.verify_recovered(undo, platform)
            assert fakes.used_mib(2) == OWN_MIB


# --- evidence ---


def test_evidence_on_a_processor_says_what_it_is(processor):
    with closing(processor()) as platform:
        injector = GpuSaturate(duty=Share(0.2), device="opencl:0")
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        found = proven(injector, undo, platform)
        assert found.source == "OpenCL event times"
        assert found.facts["hardware"] == "opencl-cpu"
        assert found.facts["targets"]["r0"]["cores_in_demand"] > 0.1
        injector.recover(undo, platform)
        after = injector.verify_recovered(undo, platform)
        assert (after.source, after.facts["hardware"]) == ("the kernel's process table", "opencl-cpu")


def test_evidence_of_a_gpu_is_not_that_of_its_own_driver(on_drivers, drivers):
    with closing(on_drivers()) as platform:
        injector = GpuMemoryFill(leave_share=Share(0.25))
        undo = planned(injector, platform)
        assert undo.prior["devices"]["r0"] == {
            "device": drivers.whole,
            "name": "Simulated GPU",
            "hardware": "simulated",
            "total_bytes": MIB_OF * MIB,
            "used_bytes": OWN_MIB * MIB,
            "pids": [platform.current("r0").details["pid"]],
            "target_bytes": OWN_MIB * MIB,
            "where": "here",
            "because": None,
            "grant": None,
            "ends_with_target": False,
        }
        assert injector.bites(undo) == "now"
        injector.inject(undo, platform)
        found = proven(injector, undo, platform)
        assert (found.source, found.facts["hardware"]) == (drivers.teller, "simulated")
        assert found.facts["targets"]["r0"]["agent_bytes"] >= (MIB_OF * 3 // 4 - OWN_MIB - 2) * MIB
        assert found.facts["targets"]["r0"]["pid"] != platform.current("r0").details["pid"]
        injector.recover(undo, platform)
        after = injector.verify_recovered(undo, platform)
        assert (after.source, "500 MiB in use before and 500 after" in after.detail) == (
            f"{drivers.teller} and the kernel's process table",
            True,
        )
    assert drivers.used_mib(1) == 0


def test_evidence_of_an_opencl_gpu_is_the_kernels_as_well(on_opencl, opencl):
    """The target's device is the one that it has open; what its kernels took and what the agent has the kernel tells."""
    with closing(on_opencl()) as platform:
        undo = planned(injector := GpuSaturate(duty=Share(0.5)), platform)
        prior = undo.prior["devices"]["r0"]
        assert (prior["device"], prior["pci"], prior["hardware"]) == ("opencl:0", "0000:43:00.0", "simulated")
        assert (prior["used_bytes"], prior["target_bytes"]) == (OWN_MIB * MIB, OWN_MIB * MIB)
        injector.inject(undo, platform)
        found = proven(injector, undo, platform)
        assert (found.source, found.facts["hardware"]) == ("OpenCL event times and the kernel (drm)", "simulated")
        assert found.facts["targets"]["r0"]["engine_s"] > 0.3
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
        undo = planned(injector := GpuMemoryFill(leave=Size(512 * MIB)), platform)
        injector.inject(undo, platform)
        found = proven(injector, undo, platform)
        assert (found.source, found.facts["targets"]["r0"]["agent_bytes"] > 2900 * MIB) == ("OpenCL and the kernel (drm)", True)
        assert found.facts["targets"]["r0"]["next_allocation"] == "CL_MEM_OBJECT_ALLOCATION_FAILURE"
        injector.recover(undo, platform)
        assert injector.verify_recovered(undo, platform).source == "the kernel's process table"
    assert opencl.used_mib(0) == OWN_MIB


def test_where_the_kernel_tells_no_memory_only_a_refused_allocation_is_proof(on_opencl, opencl):
    opencl.library.fake_untold()
    opencl.library.fake_generous()
    opencl.settle()
    with closing(on_opencl()) as platform:
        undo = planned(injector := GpuMemoryFill(leave=Size(512 * MIB)), platform)
        assert injector.bites(undo) == "on-restart"
        injector.inject(undo, platform)
        with pytest.raises(NotYet, match="the kernel does not tell how much pid"):
            injector.verify(undo, platform)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)


def test_an_opencl_gpu_that_nobody_answers_for_is_refused(on_opencl, opencl):
    with closing(on_opencl()) as platform:
        assert "opencl:1 belongs to no target: r0's processes have opencl:0 open" in refused(
            platform, GpuSaturate(device="opencl:1")
        )
        opencl.fail("hwmon3", 1)
        why = refused(platform, GpuSaturate())
        assert "the kernel tells no temperature of opencl:0 (Simulated GPU) at 0000:43:00.0 (hwmon), so nothing could stop" in why
        opencl.fail("cl_khr_pci_bus_info", 1)
        assert "does not tell where it is (cl_khr_pci_bus_info)" in refused(platform, GpuMemoryFill(device="opencl:0"))
        assert "no process of r0 has one of OpenCL's GPUs open" in refused(platform, GpuMemoryFill())


def test_an_opencl_gpu_with_a_driver_of_its_own_is_left_to_that(on_opencl, opencl, amd):
    opencl.library.fake_vendor(0x1002)
    with closing(on_opencl()) as platform:
        platform.agents.environment["LD_LIBRARY_PATH"] += ":" + amd.environment["LD_LIBRARY_PATH"]
        assert "is AMD's, whose own driver is here; name it by its UUID" in refused(platform, GpuSaturate(device="opencl:0"))


def test_a_replica_that_has_most_of_its_gpu_is_hit_when_it_starts_again(on_drivers, drivers):
    with closing(on_drivers()) as platform:
        drivers.process(0, platform.current("r0").details["pid"], 3000)
        injector = GpuMemoryFill()
        assert injector.bites(planned(injector, platform)) == "on-restart"


@pytest.mark.parametrize("who_tells", ["no bytes", "pids of the host"])
def test_what_nobody_tells_is_not_taken_for_memory_that_the_replica_lacks(who_tells, fakes, tmp_path):
    if who_tells == "no bytes":
        fakes.library.fake_untold()
    else:
        fakes.library.fake_container()
    for opened in opened_on(tmp_path, {**fakes.environment, "NVIDIA_VISIBLE_DEVICES": "0"}):
        with closing(opened()) as platform:
            fakes.process(0, platform.current("r0").details["pid"], 3000)
            injector = GpuMemoryFill(shared=True)
            undo = planned(injector, platform)
            assert undo.prior["devices"]["r0"]["target_bytes"] is None
            assert injector.bites(undo) == "on-restart"


def test_one_of_several_that_is_hit_when_it_starts_again_is_enough(tmp_path):
    fakes = FakeGpus(tmp_path / "whole")
    for opened in opened_on(tmp_path, fakes.environment, ("r0", "r1")):
        with closing(opened()) as platform:
            fakes.process(0, platform.current("r0").details["pid"], OWN_MIB)
            fakes.process(1, platform.current("r1").details["pid"], 3000)
            injector = GpuMemoryFill()
            undo = planned(injector, platform)
            assert [undo.prior["devices"][name]["device"] for name in ("r0", "r1")] == [WHOLE, OTHER]
            assert injector.bites(undo) == "on-restart"


def test_memory_stays_taken_while_the_replica_is_replaced(on_drivers, drivers):
    """What it gives back is taken as well: its replacement finds no more than what was to be left."""
    with closing(on_drivers()) as platform:
        injector = GpuMemoryFill(leave=Size(1 << 30))
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        platform.kill(platform.current("r0"))
        platform.revive("r0")
        limit = time.monotonic() + 20
        while drivers.used_mib(0) < MIB_OF - 1024 - 2 and time.monotonic() < limit:
            time.sleep(0.1)
        found = proven(injector, undo, platform)
        assert found.facts["targets"]["r0"]["agent_bytes"] >= (MIB_OF - 1024 - 2) * MIB
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
    assert drivers.used_mib(0) == 0


def test_an_agent_that_let_go_by_itself_is_no_proof_and_says_why(on_drivers, drivers):
    with closing(on_drivers()) as platform:
        injector = GpuSaturate(duty=Share(0.5))
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        proven(injector, undo, platform)
        drivers.heat(0, 99)
        with pytest.raises(NotYet, match=r"let go of GPU-\S+ by itself: 99 C is beyond the limit of 87 C"):
            until_lapsed(injector, undo, platform)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)


def test_a_gpu_that_is_lost_is_no_proof_of_an_undo(on_drivers, drivers):
    with closing(on_drivers()) as platform:
        injector = GpuSaturate(duty=Share(0.5))
        undo = planned(injector, platform)
        call, why = LOST[drivers.driver]
        drivers.fail(call, 15)
        with pytest.raises(Differs, match=f"not there any more: {why}"):
            injector.verify_recovered(undo, platform)


@pytest.mark.parametrize("injector", [GpuSaturate(duty=Share(0.3)), GpuMemoryFill()], ids=lambda injector: injector.kind)
def test_a_killed_agent_leaves_nothing_on_a_gpu(injector, on_gpu, gpus, tmp_path):
    """SIGKILL of the agent, nobody tells whoever injected; recover from the record alone, in a platform that has seen nothing."""
    with closing(on_gpu()) as platform:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        proven(injector, undo, platform)
        (pid,) = agents(tmp_path, "saturate-gpu") + agents(tmp_path, "fill-gpu")
        os.kill(pid, signal.SIGKILL)
        with closing(on_gpu()) as fresh:
            injector.recover(undo, fresh)
            injector.verify_recovered(undo, fresh)
            injector.recover(undo, fresh)
        assert gpus.used_mib(0) == OWN_MIB
        assert list((tmp_path / "state" / "agents").glob("*.json*")) == []


@pytest.mark.parametrize("where", ["processor", "simulated"])
def test_an_agent_whose_record_is_lost_is_no_proof_of_an_undo(where, request, tmp_path):
    opened = request.getfixturevalue(where)
    injector = GpuMemoryFill(leave=LEAVE, device="opencl:0" if where == "processor" else None)
    with closing(opened()) as platform, closing(opened()) as fresh:
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        proven(injector, undo, platform)
        for path in (tmp_path / "state" / "agents").glob("*.json*"):
            path.unlink()
        injector.recover(undo, fresh)
        (pid,) = agents(tmp_path, "fill-gpu")
        with pytest.raises(Differs, match=f"pid {pid} is an agent of this fault and still there, beside r0"):
            injector.verify_recovered(undo, fresh)
        platform.agent_end(undo.fault, undo.targets[0])
        injector.verify_recovered(undo, fresh)


@needs_root
@pytest.mark.parametrize("after", ["another limit", "no limit told"])
def test_only_the_limit_of_before_is_an_undo(after, simulated, fakes):
    with closing(simulated()) as platform:
        injector = GpuThrottle(power=Share(0.5))
        undo = planned(injector, platform)
        injector.inject(undo, platform)
        proven(injector, undo, platform)
        injector.recover(undo, platform)
        assert injector.verify_recovered(undo, platform).facts["targets"]["r0"]["power_set_w"] == [700, 700]
        fakes.library.fake_set_limit_w(0, 500)
        if after == "no limit told":
            fakes.fail("nvmlDeviceGetPowerManagementLimit", 3)
        there = {"another limit": "is limited to 500 W", "no limit told": "tells no limit of power"}[after]
        with pytest.raises(Differs, match=f"{there}, and was to 700 W before"):
            injector.verify_recovered(undo, platform)
        with pytest.raises(NotYet, match=there):
            injector.verify(undo, platform)


@needs_root
def test_another_limiter_that_comes_or_goes_is_no_part_of_a_fault_or_its_undo(simulated, fakes):
    """As a rack that runs short of power sets one, past NVML: what is in force is the least of all limits."""
    with closing(simulated()) as platform:
        injector = GpuThrottle(power=Share(0.5))
        fakes.library.fake_other_limit_w(0, 600)
        undo = planned(injector, platform)
        assert undo.prior["limits"]["r0"] == {"device": WHOLE, "hardware": "simulated", "before_w": 700, "limit_w": 300}
        injector.inject(undo, platform)
        assert proven(injector, undo, platform).facts["targets"]["r0"]["power_limit_w"] == 300
        for other, shown in ((500, "is limited to 700 W (500 W in force)"), (0, "is limited to 700 W;")):
            fakes.library.fake_other_limit_w(0, other)
            injector.recover(undo, platform)
            assert shown in injector.verify_recovered(undo, platform).detail
        assert fakes.limit_w(0) == 700


@needs_root
def test_a_limit_that_cannot_be_told_cannot_be_put_back(simulated, fakes):
    with closing(simulated()) as platform:
        fakes.fail("nvmlDeviceGetPowerManagementLimit", 3)
        assert f"NVML tells no limits of power of {WHOLE}" in refused(platform, GpuThrottle())


def test_beside_the_agent_of_an_earlier_fault_a_later_one_is_planned_and_proven(simulated):
    """Of one drill, on the same replica; a later fault is planned again right before it is injected."""
    with closing(simulated()) as platform:
        first, second = GpuSaturate(duty=Share(0.3)), GpuMemoryFill(leave=Size(1 << 30))
        undone = [(first, planned(first, platform))]
        first.inject(undone[0][1], platform)
        proven(first, undone[0][1], platform)
        undone.append((second, planned(second, platform)))
        second.inject(undone[1][1], platform)
        pids = {proven(injector, undo, platform).facts["targets"]["r0"]["pid"] for injector, undo in undone}
        assert len(pids) == len(undone)
        for injector, undo in reversed(undone):
            injector.recover(undo, platform)
            injector.verify_recovered(undo, platform)


# --- refusals, before anything changes ---


def refused(platform, injector) -> str:
    with pytest.raises(Refusal) as problem:
        planned(injector, platform)
    return str(problem.value)


def test_a_gpu_that_belongs_to_no_target_is_refused(simulated):
    with closing(simulated()) as platform:
        why = refused(platform, GpuSaturate(device=SLICE))
        assert why == f"not injecting: {SLICE} belongs to no target: r0's processes are on {WHOLE}"
        assert "there is no GPU-ffff" in refused(platform, GpuMemoryFill(device="GPU-ffff"))


def test_a_gpu_that_cannot_be_shared_without_harm_is_refused(simulated, fakes):
    with closing(simulated()) as platform:
        fakes.library.fake_sharing(0, 3, 0)
        assert "takes one process at a time or none (NVML's compute mode 3)" in refused(platform, GpuSaturate())
        fakes.library.fake_sharing(0, 0, 1)
        assert f"processes share {WHOLE} through MPS" in refused(platform, GpuSaturate())


def test_memory_that_is_not_there_is_not_taken(simulated, fakes, tmp_path):
    with closing(simulated()) as platform:
        fakes.process(0, platform.current("r0").details["pid"], MIB_OF - 100)
        assert f"{WHOLE} has 100 MiB free, and 256 MiB are to be left; write less as `leave`" in refused(
            platform, GpuMemoryFill()
        )
        platform.agents.environment.update(pocl(tmp_path / "opencl"))
        platform.memory_available = lambda _: 600 * MIB
        assert "uses the machine's own memory: 768 MiB would be taken" in refused(platform, GpuMemoryFill(device="opencl:0"))


def test_a_gpu_that_others_use_as_well_is_refused(on_gpu, gpus):
    with closing(on_gpu()) as platform:
        gpus.process(0, os.getpid(), 10)
        for injector in (GpuSaturate(), GpuMemoryFill()):
            why = refused(platform, injector)
            assert gpus.whole in why
            assert f"is also used by pid {os.getpid()}, no target's; with `shared: true`" in why
        assert planned(GpuSaturate(shared=True), platform).prior["devices"]["r0"]["device"] == gpus.whole


@needs_root
def test_what_cannot_be_throttled_is_refused(simulated, fakes):
    with closing(simulated()) as platform:
        assert "opencl:0 has no limit of power that could be set" in refused(platform, GpuThrottle(device="opencl:0"))
        fakes.fail("nvmlDeviceGetPowerManagementLimitConstraints", 3)
        assert f"NVML tells no limits of power of {WHOLE}" in refused(platform, GpuThrottle())
        fakes.fail("", 0)
        fakes.library.fake_set_limit_w(0, 200)
        assert "200 W is the least that can be set" in refused(platform, GpuThrottle())
        fakes.process(0, os.getpid(), 10)
        assert f"is also used by pid {os.getpid()}" in refused(platform, GpuThrottle())


def test_a_target_without_cuda_cannot_lose_it(simulated):
    with closing(simulated()) as platform:
        assert "no process of r0 has CUDA's driver (libcuda.so) loaded; choose a target that computes on a GPU" in refused(
            platform, GpuLost()
        )


def test_a_missing_driver_is_named(tmp_path, processor):
    with closing(processor()) as platform:
        why = refused(platform, GpuSaturate())
        assert "libnvidia-ml.so.1 cannot be loaded" in why
        assert "run blackstart where the GPU's driver is installed, or name a processor by OpenCL (`device: opencl:0`)" in why
        assert "there is no opencl:7; OpenCL has opencl:0 (pthread" in refused(platform, GpuMemoryFill(device="opencl:7"))
        platform.agents.environment["LD_LIBRARY_PATH"] = ""
        why = refused(platform, GpuSaturate(device="opencl:0"))
        assert "libOpenCL.so.1 cannot be loaded" in why
        assert "install an OpenCL loader and a driver (PoCL for a processor)" in why
    assert not (tmp_path / "state" / "agents").exists()


AMD_SHOWN = [
    ({"ROCR_VISIBLE_DEVICES": "1"}, AMD_OTHER),
    ({"ROCR_VISIBLE_DEVICES": "1,0"}, f"r0's environment shows it {AMD_OTHER}, {AMD_WHOLE}; name one of them as `device`"),
    ({}, "none of ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES of its environment names one"),
]


@pytest.mark.parametrize(("variables", "found"), AMD_SHOWN)
def test_an_amd_gpu_by_the_targets_environment(variables, found, amd, tmp_path, monkeypatch):
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for opened in opened_on(tmp_path, {**amd.environment, **variables}):
        with closing(opened()) as platform:
            if found in {AMD_WHOLE, AMD_OTHER}:
                assert planned(GpuSaturate(), platform).prior["devices"]["r0"]["device"] == found
            else:
                assert found in refused(platform, GpuSaturate())


def test_what_amd_lacks_is_refused_by_name(amd, tmp_path):
    for opened in opened_on(tmp_path, amd.environment):
        with closing(opened()) as platform:
            amd.process(0, platform.current("r0").details["pid"], OWN_MIB)
            why = refused(platform, GpuSaturate(device=AMD_OTHER))
            assert why == f"not injecting: {AMD_OTHER} belongs to no target: r0's processes are on {AMD_WHOLE}"
            assert "NVML" in refused(platform, GpuThrottle())
            (Path(amd.environment["LD_LIBRARY_PATH"]) / "libhiprtc.so.6").unlink()
            assert "libhiprtc.so cannot be loaded" in refused(platform, GpuSaturate())
            amd.fail("kfd", 1)
            assert "amdkfd, /sys/class/kfd/kfd) is not there; so nobody tells which GPU is r0's" in refused(
                platform, GpuSaturate()
            )


def test_in_a_container_the_process_that_came_to_an_amd_gpu_is_the_agent(amd, tmp_path):
    """The kernel's account has the pids of the host there."""
    amd.library.fake_container()
    injector = GpuMemoryFill(shared=True)
    for opened in opened_on(tmp_path, {**amd.environment, "ROCR_VISIBLE_DEVICES": "0"}):
        with closing(opened()) as platform:
            amd.process(0, platform.current("r0").details["pid"], OWN_MIB)
            assert "of the host, which cannot be told apart from in here" in refused(platform, GpuMemoryFill())
            undo = planned(injector, platform)
            injector.inject(undo, platform)
            assert proven(injector, undo, platform).facts["targets"]["r0"]["pid"] > HOST
            injector.recover(undo, platform)
            assert amd.teller in injector.verify_recovered(undo, platform).source


def test_a_driver_that_hangs_or_crashes_is_told_and_not_waited_for(simulated, fakes, monkeypatch):
    with closing(simulated()) as platform:
        (Path(fakes.environment["LD_LIBRARY_PATH"]) / "libnvidia-ml.so.1").unlink()
        os.mkfifo(Path(fakes.environment["LD_LIBRARY_PATH"]) / "libnvidia-ml.so.1")  # whoever opens it waits
        monkeypatch.setattr(local_agents, "LOOK_S", 1.0)
        with pytest.raises(PlatformError, match=r"did not end within 1 s"):
            planned(GpuSaturate(), platform)
        monkeypatch.setattr(local_agents, "program", lambda _: Path("/nonexistent"))
        with pytest.raises(PlatformError, match=r"cannot be looked at: .*nonexistent"):
            planned(GpuSaturate(), platform)


def test_without_the_cuda_driver_nothing_is_done(tmp_path, fakes, simulated):
    (tmp_path / "fake" / "libcuda.so.1").unlink()
    with closing(simulated()) as platform:
        assert "libcuda.so.1 cannot be loaded" in refused(platform, GpuSaturate())


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"CUDA_VISIBLE_DEVICES": WHOLE[:12]}, WHOLE),
        ({"NVIDIA_VISIBLE_DEVICES": "1"}, SLICE),
        ({"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "all"}, WHOLE),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, f"r0's environment shows it {WHOLE}, {SLICE}; name one of them as `device`"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, "no process of r0 is on a GPU by NVML's list"),
        ({}, "neither CUDA_VISIBLE_DEVICES nor NVIDIA_VISIBLE_DEVICES of its environment names one"),
    ],
)
def test_a_device_by_the_targets_environment(variables, found, fakes, tmp_path, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for opened in opened_on(tmp_path, {**fakes.environment, **variables}):
        with closing(opened()) as platform:
            if found in {WHOLE, SLICE}:
                assert planned(GpuSaturate(), platform).prior["devices"]["r0"]["device"] == found
            else:
                assert found in refused(platform, GpuSaturate())


def test_two_targets_on_one_device_are_refused(tmp_path):
    for opened in opened_on(tmp_path, pocl(tmp_path / "opencl"), ("r0", "r1")):
        with closing(opened()) as platform:
            assert "r0 and r1 share opencl:0; take one of them" in refused(platform, GpuSaturate(device="opencl:0"))


@pytest.mark.parametrize("injector", [GpuSaturate(shared=True), GpuMemoryFill(shared=True)], ids=lambda injector: injector.kind)
def test_in_a_container_the_process_that_came_is_the_agent(injector, fakes, tmp_path):
    """NVML tells the pids of the host there: the target's device is known from its environment."""
    fakes.library.fake_container()
    for opened in opened_on(tmp_path, {**fakes.environment, "NVIDIA_VISIBLE_DEVICES": "0"}):
        with closing(opened()) as platform:
            fakes.process(0, platform.current("r0").details["pid"], OWN_MIB)
            assert "of the host, which cannot be told apart from in here" in refused(platform, type(injector)())
            undo = planned(injector, platform)
            before = copy.deepcopy(undo.prior)
            injector.inject(undo, platform)
            found = proven(injector, undo, platform)
            assert found.facts["targets"]["r0"]["pid"] > HOST
            assert found.facts["targets"]["r0"]["pid"] not in undo.prior["devices"]["r0"]["pids"]
            injector.recover(undo, platform)
            assert injector.verify_recovered(undo, platform).source == "NVML and the kernel's process table"
            again = Undo.from_json({**undo.to_json(), "prior": before})  # as another process has it, which has seen no pid
            assert injector.verify_recovered(again, platform).source == "the kernel's process table"
            with pytest.raises(NotYet):
                injector.verify(undo, platform)


def test_in_a_container_the_process_that_was_the_agent_has_to_be_gone(fakes, tmp_path):
    """Its pid is kept when it is proven: a context that the driver still has is of nobody in here."""
    fakes.library.fake_container()
    for opened in opened_on(tmp_path, {**fakes.environment, "NVIDIA_VISIBLE_DEVICES": "0"}):
        with closing(opened()) as platform:
            injector = GpuMemoryFill(shared=True)
            undo = planned(injector, platform)
            injector.inject(undo, platform)
            pid = proven(injector, undo, platform).facts["targets"]["r0"]["pid"]
            fakes.process(0, os.getpid(), 10)
            assert proven(injector, undo, platform).facts["targets"]["r0"]["pid"] == pid  # and not whoever came since
            injector.recover(undo, platform)
            injector.verify_recovered(undo, platform)
            undo.prior["devices"]["r0"]["agent_pid"] = os.getpid() + HOST
            with pytest.raises(Differs, match=f"pid {os.getpid() + HOST} of the host, the agent, is still on {WHOLE}"):
                injector.verify_recovered(undo, platform)


def test_a_gpu_that_is_broken_keeps_no_other_from_being_used(simulated, fakes):
    with closing(simulated()) as platform:
        fakes.fail("nvmlDeviceGetName", 15, after=1)
        assert planned(GpuSaturate(), platform).prior["devices"]["r0"]["device"] == WHOLE
        fakes.fail("nvmlDeviceGetName", 15, after=1)
        assert f"there is no {SLICE}; NVML has {WHOLE}; nvmlDeviceGetName: the GPU is lost" in refused(
            platform, GpuSaturate(device=SLICE)
        )


@pytest.mark.parametrize(
    ("driver", "uuid", "why"),
    [
        (False, "", "no GPU can be tried here: libnvidia-ml.so.1 cannot be loaded"),
        (True, "GPU-ffff", f"there is no GPU-ffff; NVML has {WHOLE}, {SLICE}; name one of them"),
        (True, "", f"there is no GPU that nobody uses; NVML has {WHOLE}, {SLICE}; name one of them"),
    ],
)
def test_the_check_for_machines_with_a_gpu_says_why_it_cannot_begin(driver, uuid, why, fakes):
    environment = {**os.environ, **(fakes.environment if driver else {"LD_LIBRARY_PATH": ""})}
    for index in (0, 2):
        fakes.process(index, os.getpid(), 10)
    command = [sys.executable, "-m", "blackstart.tests.on_gpu", *([uuid] if uuid else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(why), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(300)
def test_the_check_for_machines_with_a_gpu_works(fakes):
    """tests/on_gpu.py, which waits for such a machine, on simulated GPUs."""
    environment = {**os.environ, **fakes.environment}
    command = [sys.executable, "-m", "blackstart.tests.on_gpu", WHOLE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the whole contract is kept") == 4
    assert done.stdout.count('"hardware": "simulated"') == 15  # of the GPU, and of each fault while it holds and after it
    assert fakes.used_mib(0) == 0
