"""gpu_agent.py by itself: its kernels, its duty, and a driver that fails at any call."""

import contextlib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.injectors import gpu_agent
from blackstart.injectors.gpu_duty import LONGEST_LOOK_S, WITHIN, kept
from blackstart.tests.accelerators import (
    AMD_OTHER,
    AMD_WHOLE,
    AMD_WHOLE_AT,
    HANGS,
    HERE,
    MIB_OF,
    OTHER,
    SLICE,
    WHOLE,
    FakeAmd,
    FakeGpus,
    missing,
    pocl,
)

AGENT = Path(gpu_agent.__file__)
LIMITS = {"hottest_c": 85, "most_w": None}
BURN = {"duty": 0.4, "kernels": "auto", **LIMITS}
FILL = {"leave_bytes": 512 << 20, **LIMITS}
AWAIT_S = 30.0
KILLS, LATEST_KILL_S = 16, 0.3
LATER = {  # how each driver calls what fails later
    "CUDA": {"temperature": "nvmlDeviceGetTemperature"},
    "HIP": {"temperature": "hwmon3", "LaunchKernel": "hipModuleLaunchKernel"},
    "OpenCL": {
        "temperature": "hwmon3",
        "LaunchKernel": "clEnqueueNDRangeKernel",
        "EventQuery": "clGetEventInfo",
        "EventElapsedTime": "clGetEventProfilingInfo",
    },
}
POWER = {
    "CUDA": "nvmlDeviceGetPowerUsage",
    "HIP": "power1_average",
    "OpenCL": "power1_input",
}  # a call, or a file of the kernel's


class Agent:
    """A running one. `state` is its record, `seen` what it measured."""

    def __init__(self, folder: Path, environment: dict[str, str], verb: str, request: dict, more: dict) -> None:
        self.state, self.environment = folder / "held.json", {**os.environ, **environment}
        body = {"fault": "f.1", "state": str(self.state), "deadline_s": 60.0, **request}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(AGENT), verb, json.dumps(body)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            **more,
        )

    def said(self) -> dict:
        return json.loads(self.process.stdout.readline() or b'{"event": "nothing"}')

    @property
    def seen(self) -> dict:
        try:
            return json.loads(Path(f"{self.state}.seen").read_text())
        except FileNotFoundError:
            return {}

    def undo(self) -> dict:
        command = [sys.executable, "-I", "-S", str(AGENT), "undo", f"@{self.state}"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return json.loads(done.stdout)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.state.parent.glob("held.json*"))


@contextlib.contextmanager
def agent(folder: Path, environment: dict[str, str], verb: str, request: dict, **more: object) -> Iterator[Agent]:
    running = Agent(folder, environment, verb, request, more)
    try:
        yield running
    finally:
        running.process.stdin.close()
        running.process.wait(AWAIT_S)
        running.process.stdout.close()


def came(condition) -> bool:
    limit = time.monotonic() + AWAIT_S
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def looked(environment: dict[str, str], **request: object) -> dict:
    command = [sys.executable, "-I", "-S", str(AGENT), "look", json.dumps(request)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def told(gpus: FakeGpus, **request: object) -> list[dict]:
    """What another process is told of these GPUs, past the driver that works on them."""
    return looked(gpus.environment, **request)["amd" if isinstance(gpus, FakeAmd) else "gpus"]


@pytest.fixture
def fakes(tmp_path):
    return FakeGpus(tmp_path / "fake", sliced=True)


# --- kernels ---


@pytest.mark.parametrize("chip", ["gfx906", "gfx90a", "gfx942", "gfx1100"])
def test_kernels_of_hip_are_compiled_for_every_chip(chip, tmp_path):
    """By clang, of which AMD's compiler is a version; with what the chip has for it in the code."""
    compiler = shutil.which("clang-19")
    if not compiler:
        missing("clang-19 is missing")
    for kernel, instruction in (("fma", "fma"), ("tensor", "mfma" if chip.startswith("gfx9") else "wmma")):
        source = gpu_agent.hip_source(kernel, chip)
        assert bool(source) == (kernel == "fma" or chip != "gfx906")
        if source:
            (tmp_path / "burn.hip").write_text(source)
            command = [compiler, "-x", "hip", "--cuda-device-only", f"--offload-arch={chip}", "-nogpulib", "-nogpuinc", "-O3"]
            command += ["-Wall", "-Werror", "-S", "burn.hip", "-o", "burn.s"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            assert (tmp_path / "burn.s").read_text().count(instruction) >= 8


COMPUTES = {
    "fma": ("fma.rn.f32 ", 32, {0x23}),
    "tensor": ("wmma.mma.sync.", 8, {0x36, 0x3C}),
}  # FFMA; HMMA of sm_70, and of later ones


def instructions(path: Path) -> list[int]:
    """The numbers of what a chip would be told to do, from sm_70 on 16 bytes each, as nvdisasm has them. The assembler's file is an ELF
    of 64 bits (https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html).
    """
    content = path.read_bytes()
    ((table,), (size, count, names)) = struct.unpack_from("<Q", content, 0x28), struct.unpack_from("<HHH", content, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", content, table + size * n) for n in range(count)]
    start = sections[names][4]
    code = next(each for each in sections if content[start + each[0] :].startswith(b".text.burn\0"))
    return [struct.unpack_from("<H", content, at)[0] & 0x1FF for at in range(code[4], code[4] + code[5], 16)]


@pytest.mark.parametrize("chip", [70, 75, 80, 86, 89, 90, 100])
@pytest.mark.parametrize("kernel", sorted(gpu_agent.PTX))
def test_kernels_are_assembled_for_every_chip(kernel, chip, tmp_path):
    """By NVIDIA's own assembler, which refuses what a driver would; and what they are for is in the code that it makes."""
    spec = importlib.util.find_spec("nvidia.cuda_nvcc")
    places = [Path(place) / "bin" / "ptxas" for place in (spec.submodule_search_locations or ())] if spec else []
    assembler = next((place for place in places if place.exists()), None)
    if not assembler:
        missing("nvidia-cuda-nvcc-cu12 is missing; pip install '.[test]'")
    word, least, opcodes = COMPUTES[kernel]
    assert gpu_agent.PTX[kernel][0].count(word) == least
    (tmp_path / "burn.ptx").write_text(gpu_agent.PTX[kernel][0])
    command = [str(assembler), f"-arch=sm_{chip}", "--warning-as-error", str(tmp_path / "burn.ptx"), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sum(each in opcodes for each in instructions(tmp_path / "out")) >= least


# --- OpenCL on the processor, for real ---


def wanted_s(pid: int) -> float:
    """How long threads of that process have worked or waited for a core by the kernel, without the first, which only tells the others what to
    do.
    """
    found = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        worked, waited, _ = map(int, (thread / "schedstat").read_text().split())
        found += (worked + waited) * (thread.name != str(pid))
    return found / 1e9


@pytest.mark.parametrize("asked", [0.2, 0.5, 0.8])
def test_the_duty_is_kept_over_ten_seconds(asked, tmp_path):
    """Within 5 points by the events' times over the last ten seconds, whichever those are; on a machine that is busy with other tests what
    the agent waited for a core counts as well. What its threads wanted of all cores is the kernel's word, and a coarse one: a thread that has
    done its part of a kernel waits for the others.
    """
    with agent(tmp_path, pocl(tmp_path / "opencl"), "saturate-gpu", {**BURN, "device": "opencl:0", "duty": asked}) as running:
        assert running.said()["hardware"] == "opencl-cpu"
        began, before_s = time.monotonic(), wanted_s(running.process.pid)
        assert came(lambda: running.seen["marks"][-1][0] - running.seen["marks"][0][0] > LONGEST_LOOK_S)
        marks, wanted = running.seen["marks"], wanted_s(running.process.pid) - before_s
        fact = kept(marks, asked, {"device": "opencl:0", "hardware": "opencl-cpu"})
        assert fact["over_s"] > LONGEST_LOOK_S - 0.5
        assert fact["duty"] <= asked + WITHIN
        assert asked / 2 <= wanted / (time.monotonic() - began) / os.cpu_count() <= asked + 0.2, (fact, wanted)
    assert running.left() == []


def test_the_allocation_that_fails_is_named(tmp_path):
    """A limit of the process's own address space makes the driver itself refuse more."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2000 << 20, 2000 << 20))

    request = {"leave_bytes": 256 << 20, **LIMITS, "device": "opencl:0"}
    with agent(tmp_path, pocl(tmp_path / "opencl", 4), "fill-gpu", request, preexec_fn=limited) as running:
        said = running.said()
        assert said["event"] == "effective", said
        assert 256 << 20 <= said["bytes"] < 2000 << 20
        assert running.seen["next_allocation"] == "CL_OUT_OF_HOST_MEMORY"
    assert running.left() == []


def done_with(settings: str, call: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What becomes of a call of gpu_agent's with other limits, in a process of its own."""
    program = f"import sys; sys.path.insert(0, {str(AGENT.parent)!r}); import gpu_agent; {settings}\nsys.exit(gpu_agent.{call})"
    command = [sys.executable, "-B", "-c", program]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=AWAIT_S
    )


def test_a_processor_keeps_memory_for_its_machine(tmp_path):
    request = {"fault": "f.1", "state": str(tmp_path / "held.json"), "deadline_s": 60.0, **FILL, "device": "opencl:0"}
    done = done_with("gpu_agent.HOST_RESERVE = 1 << 50", f"hold('fill-gpu', {request!r})", pocl(tmp_path / "opencl"))
    assert done.returncode == 3, done.stderr
    assert "uses the machine's own memory: 536870912 bytes would be taken, and 0 can be" in json.loads(done.stdout)["why"]
    assert list(tmp_path.glob("held.json*")) == []


def test_a_gpu_that_uses_the_machines_memory_is_not_filled(drivers, tmp_path):
    drivers.library.fake_integrated(0)
    with agent(tmp_path, drivers.environment, "fill-gpu", {**FILL, "device": drivers.whole}) as running:
        assert "has no memory of its own" in running.said()["why"]


# --- a driver that is simulated, and fails ---


def test_both_kinds_of_kernels_keep_a_simulated_gpu_busy(drivers, tmp_path):
    with agent(tmp_path, drivers.environment, "saturate-gpu", {**BURN, "device": drivers.whole}) as running:
        said = running.said()
        assert (said["event"], said["hardware"], said["kernels"]) == ("effective", "simulated", ["fma", "tensor"])
        assert came(lambda: 30 <= drivers.share(0) <= 50)
        assert drivers.used_mib(1) == 0
        drivers.process(0, os.getpid(), 10)
        for fault, ours in (("f.1", True), ("f.2", False)):
            known = {each["pid"]: (each["ours"], each["agent"]) for each in told(drivers, fault=fault)[0]["processes"]}
            assert known == {os.getpid(): (False, False), running.process.pid: (ours, True)}
        drivers.process(0, os.getpid(), 0)
    assert (drivers.used_mib(0), running.left()) == (0, [])


def test_memory_is_filled_and_what_others_free_is_taken(gpus, tmp_path):
    gpus.process(0, os.getpid(), 2048)
    with agent(tmp_path, gpus.environment, "fill-gpu", {**FILL, "device": gpus.whole}) as running:
        assert running.said()["event"] == "effective"
        assert MIB_OF - 512 - 2 <= gpus.used_mib(0) <= MIB_OF - 512
        gpus.process(0, os.getpid(), 0)
        assert came(lambda: gpus.used_mib(0) >= MIB_OF - 512 - 2)
    assert gpus.used_mib(0) == 0


def test_a_slice_is_filled_and_its_neighbours_are_not(fakes, tmp_path):
    with agent(tmp_path, fakes.environment, "fill-gpu", {**FILL, "leave_share": 0.5, "device": SLICE}) as running:
        assert running.said()["event"] == "effective"
        assert MIB_OF // 2 - 2 <= fakes.used_mib(2) <= MIB_OF // 2
        assert (fakes.used_mib(0), fakes.used_mib(1)) == (0, 0)
        seen = {gpu["uuid"]: gpu for gpu in looked(fakes.environment)["gpus"]}
        assert seen.keys() == {WHOLE, SLICE}
        assert (seen[SLICE]["parent"], seen[SLICE]["utilisation"], seen[SLICE]["temperature_c"]) == (OTHER, None, 40)


@pytest.mark.parametrize(
    ("verb", "request_"),
    [("saturate-gpu", BURN), ("fill-gpu", FILL), ("limit-gpu", {"limit_w": 400}), ("lose-gpu", {"controls": ["control"]})],
)
def test_an_agent_that_is_killed_at_whatever_moment_leaves_nothing(verb, request_, fakes, tmp_path):
    """At moments that a seed chooses: half of them from its first instruction on, half from when it is in effect."""
    control, moments = tmp_path / "control", random.Random(7)
    control.write_bytes(bytes(gpu_agent.CONTROL.size))
    whole = {**request_, "device": WHOLE} | ({"controls": [str(control)]} if "controls" in request_ else {})
    for number in range(KILLS):
        with agent(tmp_path, fakes.environment, verb, whole) as running:
            assert number % 2 == 0 or running.said()["event"] == "effective"
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(moments.uniform(0, LATEST_KILL_S))
            assert running.process.poll() is None
            running.process.kill()
            running.process.wait()
            assert running.undo()["event"] == "undone"
            assert running.left() == []
        assert (fakes.used_mib(0), fakes.limit_w(0), gpu_agent.until_of(control.read_bytes())) == (0, 700, 0)


@pytest.mark.parametrize("verb", ["saturate-gpu", "fill-gpu"])
def test_a_killed_agent_leaves_no_megabyte(verb, gpus, tmp_path):
    with agent(tmp_path, gpus.environment, verb, {**BURN, **FILL, "device": gpus.whole}) as running:
        assert running.said()["event"] == "effective"
        assert gpus.used_mib(0) >= 300
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        assert gpus.used_mib(0) == 0
        assert running.undo()["event"] == "undone"
        assert running.undo()["reason"] == "nothing was left"
        assert running.left() == []


def test_it_ends_at_its_deadline(gpus, tmp_path):
    with agent(tmp_path, gpus.environment, "saturate-gpu", {**BURN, "device": gpus.whole, "deadline_s": 1.5}) as running:
        assert running.said()["event"] == "effective"
        assert running.said() == {"event": "undone", "reason": "deadline"}
        assert gpus.used_mib(0) == 0


UID = "0a1b-22"


@pytest.mark.parametrize(
    ("verb", "group"),
    [
        ("saturate-gpu", f"4:memory:/kubepods/besteffort/pod{UID}/abc"),
        ("fill-gpu", "0::/../kubepods-pod0a1b_22.slice/crio-abc.scope"),
    ],
)
def test_it_ends_with_the_pod_that_it_is_beside(verb, group, fakes, tmp_path):
    """Not while one process of that is left, whichever: its containers may start again."""
    here, there = (tmp_path / "proc" / str(pid) / "cgroup" for pid in (os.getpid(), os.getppid()))
    for file in (here, there):
        file.parent.mkdir(parents=True)
        file.write_text(f"{group}\n")
    environment = {**fakes.environment, "BLACKSTART_KERNEL_ROOT": str(tmp_path)}
    with agent(tmp_path, environment, verb, {**BURN, **FILL, "device": WHOLE, "beside_pod": UID}) as running:
        assert running.said()["event"] == "effective"
        for file in (here, there):
            file.unlink()
            began = running.seen["t"]
            assert came(lambda began=began: running.seen["t"] > began + 2 * gpu_agent.WATCH_EVERY_S), running.said()
            file.write_text(group)
        here.unlink()
        there.unlink()
        began = time.monotonic()
        assert running.said() == {"event": "undone", "reason": f"pod {UID}, which this was beside, is gone"}
        assert time.monotonic() - began < 5.0  # four times as long as it may take, where nothing else is done
        assert (fakes.used_mib(0), running.left()) == (0, [])


def test_a_pod_of_which_nothing_is_seen_is_refused(fakes, tmp_path):
    with agent(tmp_path, fakes.environment, "fill-gpu", {**FILL, "device": WHOLE, "beside_pod": "no-such-pod"}) as running:
        said = running.said()
        assert (said["event"], fakes.used_mib(0), running.left()) == ("refused", 0, [])
        assert "no process of pod no-such-pod is seen here by its control group" in said["why"]


@pytest.mark.parametrize(
    ("heat", "why"), [((86, 90_000), "86 C is beyond the limit of 85 C"), ((50, 900_000), "900 W is beyond")]
)
def test_it_lets_go_when_the_gpu_is_too_hot_or_takes_too_much(heat, why, gpus, tmp_path):
    with agent(tmp_path, gpus.environment, "fill-gpu", {**FILL, "device": gpus.whole}) as running:
        assert running.said()["event"] == "effective"
        gpus.heat(0, *heat)
        assert came(lambda: why in running.seen["stopped"])
        assert came(lambda: gpus.used_mib(0) == 0)
        assert running.process.poll() is None
        assert running.undo()["event"] == "undone"


def test_a_limit_of_watts_is_kept_or_refused(gpus, tmp_path):
    """Where nobody tells the power nothing could keep it; without `watts` the temperature is what stops the fault."""
    gpus.fail(POWER[gpus.driver], 3)
    with agent(tmp_path, gpus.environment, "fill-gpu", {**FILL, "most_w": 300, "device": gpus.whole}) as running:
        said = running.said()
        assert (said["event"], running.left()) == ("refused", [])
        assert f"nobody tells how much power {gpus.whole} takes, so nothing could stop the fault at 300 W" in said["why"]


@pytest.mark.parametrize(("most_w", "limit"), [(300, 300), (None, 770)])
def test_it_lets_go_when_nobody_tells_the_power_any_more(most_w, limit, gpus, tmp_path):
    with agent(tmp_path, gpus.environment, "fill-gpu", {**FILL, "most_w": most_w, "device": gpus.whole}) as running:
        assert running.said()["event"] == "effective"
        gpus.fail(POWER[gpus.driver], 3)
        assert came(lambda: running.seen["stopped"] == f"nobody tells the power any more, and {limit} W are the limit")
        assert came(lambda: gpus.used_mib(0) == 0)


@pytest.mark.parametrize("hangs", ["a call", "a library that is loaded"])
def test_an_agent_that_hangs_before_it_has_begun_ends_all_the_same(hangs, fakes, tmp_path):
    """It hears nothing, neither that its standard input is closed nor its deadline."""
    if hangs == "a call":
        fakes.fail("nvmlDeviceGetHandleByUUID", HANGS)
    else:
        library = Path(fakes.environment["LD_LIBRARY_PATH"]) / "libnvidia-ml.so.1"
        library.unlink()
        os.mkfifo(library)  # whoever opens it waits
    request = {"fault": "f.1", "state": str(tmp_path / "held.json"), "deadline_s": 1.0, **FILL, "device": WHOLE}
    program = f"import sys; sys.path.insert(0, {str(AGENT.parent)!r}); import gpu_agent; gpu_agent.UNDO_S = 0.5\n"
    program += f"sys.exit(gpu_agent.hold('fill-gpu', {request!r}))"
    environment = {**os.environ, **fakes.environment}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGALRM, done.stderr
    assert time.monotonic() - began >= 1.5
    assert list(tmp_path.glob("held.json*")) == []


def test_agents_are_found_without_their_records(gpus, tmp_path):
    fault = f"f.{time.time_ns()}"
    with agent(tmp_path, gpus.environment, "fill-gpu", {**FILL, "fault": fault, "device": gpus.whole}) as running:
        assert running.said()["event"] == "effective"
        running.state.unlink()
        assert looked(gpus.environment, fault=fault)["agents"] == [running.process.pid]
        assert looked(gpus.environment, fault="")["agents"] == []
    assert looked(gpus.environment, fault=fault)["agents"] == []


def calls(source: str) -> list[str]:
    return re.findall(r"(?:FAIL|GIVE)\((\w+)(?:\);|, [^o])", (HERE / source).read_text())


OPTIONAL = {  # what an agent does not call, or does without: such calls are for whoever looks
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetPowerManagementLimit",
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceSetPowerManagementLimit",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
}
FILES = {  # of the kernel's, with what is said where one is not there
    "gpu_id": "is not there; the kernel (amdkfd) has no GPU",
    "properties": "is not there; the kernel (amdkfd) has no GPU",
    "kfd": "the kernel's driver of AMD's GPUs (amdkfd, /sys/class/kfd/kfd) is not there",
    "hwmon3": f"nobody tells how hot {AMD_WHOLE} is",
    "mem_info_vram_total": "mem_info_vram_*",
    "mem_info_vram_used": "mem_info_vram_*",
    "gpu_busy_percent": "",
    "power1_average": "",
    "power1_cap": "",
    "temp1_label": "",
}
OF_MEMORY = {"hipDeviceGetAttribute", "hipMemGetInfo", "mem_info_vram_total", "mem_info_vram_used"}
OPENCL_FAILS = {
    "hwmon3": "nobody tells how hot opencl:0 is",
    "cl_khr_pci_bus_info": "does not tell where it is: nothing here tells whose it is or how hot",
    "clFinish": "clEnqueueFillBuffer",
}
UNHEEDED_OF_AMD = {  # when these fail, the end of the process frees what is left; or they are for whoever looks
    *("hipFree", "hipDeviceReset", "hiprtcGetProgramLogSize", "hiprtcGetProgramLog"),
    *("gpu_busy_percent", "power1_average", "power1_cap", "temp1_label"),
}
# When these fail, the end of the process frees what is left; where a GPU is on its bus only gpu-health-signal asks.
UNHEEDED = {"cuMemFree_v2", "cuCtxDestroy_v2", "nvmlDeviceGetPciInfo_v3"}


@pytest.mark.parametrize("call", calls("fake_gpu.c"))
def test_whatever_call_of_the_driver_fails(call, fakes, tmp_path):
    """It is named where it matters, and nothing is left in any case."""
    fakes.fail(call, 999)
    events = []
    for verb, own in (("saturate-gpu", BURN), ("fill-gpu", FILL)):
        with agent(tmp_path, fakes.environment, verb, {**own, "device": WHOLE}) as running:
            said = running.said()
            events.append((said["event"], call in said.get("why", "")))
        assert fakes.used_mib(0) == 0
        assert running.left() == []
    seen = looked(fakes.environment)
    if call in OPTIONAL | UNHEEDED:
        assert events == [("effective", False)] * 2
    else:
        assert set(events) <= {("refused", True), ("failed", True), ("effective", False)}
        assert ("refused", True) in events or ("failed", True) in events
    assert seen["nvml"] == "" or call in seen["nvml"]


@pytest.mark.parametrize("call", [*calls("fake_hip.c"), *FILES])
def test_whatever_call_of_hip_or_file_of_the_kernels_fails(call, amd, tmp_path):
    amd.fail(call, 999)
    verb, own = ("fill-gpu", FILL) if call in OF_MEMORY else ("saturate-gpu", BURN)
    with agent(tmp_path, amd.environment, verb, {**own, "device": AMD_WHOLE}) as running:
        said = running.said()
    assert amd.used_mib(0) == 0
    assert running.left() == []
    if call in UNHEEDED_OF_AMD:
        assert said["event"] == "effective"
    else:
        assert said["event"] in {"refused", "failed"}
        assert FILES.get(call, call) in said["why"]


@pytest.mark.parametrize("call", [*calls("fake_opencl.c"), "hwmon3", "cl_khr_pci_bus_info"])
def test_whatever_call_of_opencl_fails_on_a_gpu(call, opencl, tmp_path):
    opencl.fail(call, 999)
    verb, own = ("fill-gpu", FILL) if "FillBuffer" in call or call == "clFinish" else ("saturate-gpu", BURN)
    with agent(tmp_path, opencl.environment, verb, {**own, "device": "opencl:0"}) as running:
        said = running.said()
    assert opencl.used_mib(0) == 0
    assert running.left() == []
    if call in {"clReleaseMemObject", "clReleaseCommandQueue", "clReleaseContext"}:
        assert said["event"] == "effective"
    else:
        assert said["event"] in {"refused", "failed"}
        assert OPENCL_FAILS.get(call, call) in said["why"]


def test_memory_that_others_have_by_the_kernels_word_is_not_asked_for(opencl, tmp_path):
    opencl.library.fake_generous()
    opencl.process(0, os.getpid(), 2048)
    with agent(tmp_path, opencl.environment, "fill-gpu", {**FILL, "device": "opencl:0"}) as running:
        assert running.said()["event"] == "effective"
        assert MIB_OF - 512 - 2 <= opencl.used_mib(0) <= MIB_OF - 512
        assert running.seen["next_allocation"] == ""


def test_what_hiprtc_says_of_a_kernel_is_told(amd, tmp_path):
    amd.fail("hiprtcCompileProgram", 6)
    with agent(tmp_path, amd.environment, "saturate-gpu", {**BURN, "device": AMD_WHOLE}) as running:
        assert "the kernel cannot be compiled: burn.hip:1: what is this" in running.said()["why"]
    assert (amd.used_mib(0), running.left()) == (0, [])


def test_an_amd_gpu_is_the_one_of_its_name_and_place(amd, tmp_path):
    """Whatever the agent's own environment shows it: it is found by the place that the kernel tells, and HIP's UUID has to be its."""
    environment = {**amd.environment, "HIP_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "0"}
    with agent(tmp_path, environment, "fill-gpu", {**FILL, "device": AMD_OTHER}) as running:
        assert running.said()["event"] == "effective"
        assert amd.used_mib(0) == 0 < amd.used_mib(1)
    amd.library.fake_swapped()
    with agent(tmp_path, amd.environment, "fill-gpu", {**FILL, "device": AMD_WHOLE}) as running:
        assert f"HIP gives device {AMD_OTHER} where {AMD_WHOLE} was asked for" in running.said()["why"]


def test_an_amd_gpu_without_a_unique_id_is_known_by_its_place(amd, tmp_path):
    amd.add(0, "")
    assert [gpu["uuid"] for gpu in told(amd)] == [AMD_WHOLE_AT, AMD_OTHER]
    with agent(tmp_path, amd.environment, "fill-gpu", {**FILL, "device": AMD_WHOLE_AT}) as running:
        assert running.said()["event"] == "effective"
        assert amd.used_mib(0) > 3000


@pytest.mark.parametrize("there", ["all parts", "one part"])
def test_a_partitioned_amd_gpu_is_none_that_anybody_tells_of(there, amd, tmp_path):
    """Of which a container may see one part alone."""
    amd.add(2, "GPU-fedcba9876543211", AMD_OTHER)
    amd.fail({"all parts": "", "one part": "3/gpu_id"}[there], 1)
    seen = looked(amd.environment)
    assert ([gpu["uuid"] for gpu in seen["amd"]], len(seen["amd_broken"])) == ([AMD_WHOLE], 1)
    with agent(tmp_path, amd.environment, "fill-gpu", {**FILL, "device": AMD_OTHER}) as running:
        assert "the GPU at 0000:53:00.0 is partitioned" in running.said()["why"]


def test_a_kernel_that_is_too_old_to_tell_of_processes_tells_of_no_gpu(amd):
    amd.fail("proc", 1)
    seen = looked(amd.environment)
    assert seen["amd"] == []
    assert "does not tell whose memory is on GPU-0123456789abcdef" in seen["amd_broken"][0]


def test_a_hip_runtime_that_is_too_old_is_refused(amd, tmp_path):
    amd.library.fake_version(40000000)
    with agent(tmp_path, amd.environment, "fill-gpu", {**FILL, "device": AMD_WHOLE}) as running:
        assert "older than 5.0" in running.said()["why"]


@pytest.mark.parametrize(("chip", "kernels"), [(90010, ["fma", "tensor"]), (90006, ["fma"])])
def test_the_chip_is_the_one_that_the_kernel_names(chip, kernels, amd, tmp_path):
    """gfx90a and gfx906: the latter has no matrix cores."""
    amd.chip(chip)
    with agent(tmp_path, amd.environment, "saturate-gpu", {**BURN, "device": AMD_WHOLE}) as running:
        assert running.said()["kernels"] == kernels
    with agent(tmp_path, amd.environment, "saturate-gpu", {**BURN, "kernels": "tensor", "device": AMD_WHOLE}) as running:
        said = running.said()
    assert said["event"] == "effective" or "is a gfx906, and there is no kernel of kind tensor for it" in said["why"]
    assert (said["event"] == "effective") == ("tensor" in kernels)


@pytest.mark.parametrize("call", ["LaunchKernel", "EventQuery", "EventElapsedTime", "temperature"])
def test_a_driver_that_fails_later_ends_the_work_and_is_named(call, gpus, tmp_path):
    with agent(tmp_path, gpus.environment, "saturate-gpu", {**BURN, "device": gpus.whole}) as running:
        assert running.said()["event"] == "effective"
        gpus.fail(LATER[gpus.driver].get(call, {"CUDA": "cu", "HIP": "hip"}.get(gpus.driver, "") + call), 15)
        assert came(lambda: running.seen["stopped"])
        assert re.search(r"15|the GPU is lost|tells no temperature of 0000:43:00.0 \(hwmon\)", running.seen["stopped"])
        assert came(lambda: gpus.used_mib(0) == 0)
        assert running.undo()["event"] == "undone"


def test_what_a_driver_does_not_take_back_goes_with_the_process(gpus, tmp_path):
    with agent(tmp_path, gpus.environment, "fill-gpu", {**FILL, "device": gpus.whole}) as running:
        assert running.said()["event"] == "effective"
        gpus.fail({"CUDA": "cuMemFree_v2", "HIP": "hipFree", "OpenCL": "clReleaseMemObject"}[gpus.driver], 719)
        gpus.heat(0, 99)
        assert came(lambda: running.process.poll() is not None)
        assert gpus.used_mib(0) == 0
        assert running.seen["stopped"] == "99 C is beyond the limit of 85 C"
        assert running.undo()["event"] == "undone"
        assert running.left() == []


@pytest.mark.parametrize(
    "call",
    [
        "nvmlInit_v2",
        "nvmlDeviceGetHandleByUUID",
        "nvmlDeviceGetPowerManagementLimit",
        "nvmlDeviceGetPowerManagementLimitConstraints",
        "nvmlDeviceSetPowerManagementLimit",
    ],
)
def test_a_limit_of_power_is_as_before_whatever_call_fails(call, fakes, tmp_path):
    fakes.fail(call, 4)
    with agent(tmp_path, fakes.environment, "limit-gpu", {"device": WHOLE, "limit_w": 400}) as running:
        said = running.said()
    assert said["event"] in {"refused", "failed"}
    assert call in said["why"]
    assert (fakes.limit_w(0), running.left()) == (700, [])


def test_a_limit_that_a_killed_agent_left_is_put_back_and_a_foreign_one_is_not(fakes, tmp_path):
    with agent(tmp_path, fakes.environment, "limit-gpu", {"device": WHOLE, "limit_w": 400}) as running:
        assert running.said()["limit_w"] == 400
        running.process.kill()
        running.process.wait()
        assert fakes.limit_w(0) == 400
        fakes.library.fake_set_limit_w(0, 350)
        assert running.undo() == {
            "event": "foreign",
            "why": f"{WHOLE} has a limit of 350 W, where 400 had been set; it was left alone",
        }
        assert (fakes.limit_w(0), running.left()) == (350, ["held.json", "held.json.seen"])
        fakes.library.fake_set_limit_w(0, 400)
        fakes.fail("nvmlDeviceSetPowerManagementLimit", 15)
        assert "the GPU is lost" in running.undo()["why"]
        fakes.fail("", 0)
        assert running.undo()["event"] == "undone"
        assert (fakes.limit_w(0), running.left()) == (700, [])


def test_a_limit_that_the_driver_rounds_is_still_ours(fakes, tmp_path):
    fakes.library.fake_step_w(70)
    with agent(tmp_path, fakes.environment, "limit-gpu", {"device": WHOLE, "limit_w": 400}) as running:
        assert running.said()["limit_w"] == 350
        running.process.kill()
        running.process.wait()
        assert running.undo()["event"] == "undone"
        assert (fakes.limit_w(0), running.left()) == (700, [])


def test_a_limit_that_nobody_has_read_back_is_ours_whatever_the_driver_made_of_it(fakes, tmp_path):
    """The agent is killed when it has set the limit and does not know yet to what it was rounded; whoever undoes it waits for no driver."""
    fakes.library.fake_step_w(70)
    fakes.fail("nvmlDeviceGetPowerManagementLimit", HANGS, after=1)
    with agent(tmp_path, fakes.environment, "limit-gpu", {"device": WHOLE, "limit_w": 400}) as running:
        assert came(lambda: fakes.limit_w(0) == 350)
        running.process.kill()
        running.process.wait()
        record = json.loads(running.state.read_text())["record"]
        assert (record["ours_mw"], record["settled"]) == (400_000, False)
        done = done_with("gpu_agent.UNDO_LIMIT_S = 0.3", f"undo({str(running.state)!r})", fakes.environment)
        assert (done.returncode, done.stdout, running.left()) == (-signal.SIGALRM, "", ["held.json"])
        fakes.fail("", 0)
        assert running.undo()["event"] == "undone"
        assert (fakes.limit_w(0), running.left()) == (700, [])


def test_a_look_waits_for_no_driver_that_hangs(fakes):
    fakes.fail("nvmlInit_v2", HANGS)
    assert done_with("gpu_agent.LOOK_S = 0.3", "look({})", fakes.environment).returncode == -signal.SIGALRM


def test_who_has_no_share_of_the_work_where_shares_are_told_has_none(fakes):
    """Two are on the GPU, of which NVML tells the one; then of nobody."""
    fakes.process(0, os.getpid(), 10)
    fakes.process(0, os.getppid(), 10)
    fakes.library.fake_idle(os.getpid())
    assert {process["pid"]: process["sm"] for process in told(fakes)[0]["processes"]} == {os.getpid(): 0, os.getppid(): 0}
    fakes.fail("nvmlDeviceGetProcessUtilization", 3)
    assert {process["sm"] for process in told(fakes)[0]["processes"]} == {None}


def test_a_limit_that_the_gpu_does_not_take_is_refused(fakes, tmp_path):
    for device, why in ((WHOLE, f"100 W for {WHOLE}; it takes 200 to 700"), (SLICE, f"{SLICE} is no GPU of NVML's")):
        with agent(tmp_path, fakes.environment, "limit-gpu", {"device": device, "limit_w": 100}) as running:
            assert why in running.said()["why"]


def test_what_is_missing_is_named(tmp_path):
    for device, library in ((WHOLE, "libnvidia-ml.so.1"), ("opencl:0", "libOpenCL.so.1")):
        with agent(tmp_path, {"LD_LIBRARY_PATH": ""}, "saturate-gpu", {**BURN, "device": device}) as running:
            said = running.said()
        assert said["event"] == "refused"
        assert library in said["why"]
        assert running.left() == []


def test_a_chip_without_tensor_cores_has_no_such_kernel(fakes, tmp_path):
    fakes.add(0, WHOLE, capability=61)
    with agent(tmp_path, fakes.environment, "saturate-gpu", {**BURN, "kernels": "tensor", "device": WHOLE}) as running:
        assert "has compute capability 6.1, and no kernel of kind tensor" in running.said()["why"]
    with agent(tmp_path, fakes.environment, "saturate-gpu", {**BURN, "device": WHOLE}) as running:
        assert running.said()["kernels"] == ["fma"]
