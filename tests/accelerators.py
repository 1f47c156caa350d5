"""Accelerators for tests on a machine that has none: PoCL from PyPI is a real OpenCL on the processor, `fake_gpu.c` stands in for the
driver of GPUs.
"""

import atexit
import ctypes
import fcntl
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from blackstart.injectors import gpu_agent

HERE = Path(__file__).parent
WHOLE, OTHER = "GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
SLICE = "MIG-0a0b0c0d-0e0f-1011-1213-141516171819"
AMD_WHOLE, AMD_OTHER = "GPU-0123456789abcdef", "GPU-fedcba9876543210"
AMD_WHOLE_AT, AMD_OTHER_AT = "PCI-0000:43:00.0", "PCI-0000:53:00.0"
MIB_OF = 4096
HANGS = -1  # as the code of a call: it never returns


def _no_log() -> str:
    """Why no line goes into this machine's kernel log. Monitors may read it there, so whoever tests has to allow it."""
    allowed = "BLACKSTART_TEST_KERNEL_LOG" in os.environ
    return gpu_agent.unwritable() if allowed else "set BLACKSTART_TEST_KERNEL_LOG to let tests write to the kernel's log"


needs_log = pytest.mark.skipif(bool(_no_log()), reason=_no_log() or "it may be written")


def missing(what: str) -> None:
    """Skips the test; on CI, where nothing may be missing, fails it."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def pocl(folder: Path, limit_gib: int = 1) -> dict[str, str]:
    """An environment in which `libOpenCL.so.1` is a loader that finds PoCL, with a device of so much memory."""
    spec = importlib.util.find_spec("pyopencl")
    libraries = Path(spec.origin).parent / ".libs" if spec and spec.origin else Path("/nonexistent")
    loader, driver = next(libraries.glob("libOpenCL-*"), None), next(libraries.glob("libpocl-*"), None)
    if not loader or not driver:
        missing("pyopencl or pocl-binary-distribution is missing; pip install '.[test]'")
    vendors = folder / "vendors"
    vendors.mkdir(parents=True)
    (vendors / "pocl.icd").write_text(f"{driver}\n")
    (folder / "libOpenCL.so.1").symlink_to(loader)
    return {
        "LD_LIBRARY_PATH": str(folder),
        "OCL_ICD_VENDORS": str(vendors),
        "PYOPENCL_HOME": str(libraries.parent),  # that loader reads it without asking whether it is there
        "POCL_CACHE_DIR": str(folder / "cache"),
        "POCL_MEMORY_LIMIT": str(limit_gib),
    }


@functools.cache
def compiled(source: str, *options: str) -> Path:
    """What gcc makes of it, once in a process."""
    if not shutil.which("gcc"):
        missing("gcc is missing")
    folder = Path(tempfile.mkdtemp(prefix="blackstart-fake-"))
    atexit.register(shutil.rmtree, folder)
    subprocess.run(["gcc", "-O1", *options, "-o", str(folder / "out"), str(HERE / source)], check=True)
    return folder / "out"


class FakeGpus:
    """Two simulated GPUs of 4 GiB, WHOLE and OTHER; with `sliced` the second is cut, and SLICE is one half of it."""

    source, names = "fake_gpu.c", ("libcuda.so.1", "libnvidia-ml.so.1")
    driver, teller = "CUDA", "NVML"
    whole, other = WHOLE, OTHER

    def __init__(self, folder: Path, *, sliced: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in self.names:  # each test has its state in its own; no links, or the linker would take one for the other
            shutil.copy(compiled(self.source, "-shared", "-fPIC"), folder / name)
        library = folder / self.names[0]
        self.environment = {"LD_LIBRARY_PATH": str(folder), "BLACKSTART_FAKE_GPU": str(folder / "state")}
        self.library = ctypes.CDLL(str(library))
        self.library.fake_used.restype = ctypes.c_ulonglong
        assert self.library.fake_open(str(folder / "state").encode()) == 0
        self.add(0, self.whole)
        self.add(1, self.other)
        if sliced:
            self.add(2, SLICE, OTHER)

    def victim(self, at: str, port: int) -> tuple[list[str], dict[str, str]]:
        """Command and environment of tests/gpu_victim.py on WHOLE, in a container that has this folder mounted there."""
        for program in (HERE / "gpu_victim.py", HERE.parent / "injectors" / "gpu_agent.py"):
            shutil.copy(program, self.folder)
        (self.folder / "state").chmod(0o666)  # whoever it runs as
        return ["python3", f"{at}/gpu_victim.py", str(port), WHOLE, "0.0.0.0"], {
            "LD_LIBRARY_PATH": at,
            "BLACKSTART_FAKE_GPU": f"{at}/state",
        }

    def add(self, index: int, uuid: str, parent: str = "", capability: int = 90) -> None:
        name = b"Simulated GPU"
        self.library.fake_gpu(index, uuid.encode(), parent.encode(), name, ctypes.c_ulonglong(MIB_OF), capability)

    def process(self, index: int, pid: int, mib: int) -> None:
        self.library.fake_process(index, pid, ctypes.c_ulonglong(mib))

    def fail(self, call: str, code: int, after: int = 0) -> None:
        """From its so many next calls on it returns that code."""
        self.library.fake_fail(call.encode(), code, after)

    def used_mib(self, index: int) -> int:
        return int(self.library.fake_used(index))

    def share(self, index: int) -> int:
        """Percent of the last second."""
        return int(self.library.fake_share(index))

    def heat(self, index: int, temperature_c: int, power_mw: int = 90_000) -> None:
        self.library.fake_set(index, temperature_c, power_mw)

    def limit_w(self, index: int) -> int:
        """The limit of power."""
        return int(self.library.fake_limit_w(index))

    def close(self) -> None:
        """There is nothing to end."""


class FakeDcgm:
    """A host engine of DCGM that has the GPUs of FakeGpus by numbers of its own, and fake_dcgmi.py as `dcgmi` in PATH."""

    numbers: ClassVar = {OTHER: 0, WHOLE: 1}

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.state, program = folder / "state.json", folder / "dcgmi"
        program.write_text(f"#!{sys.executable} -IS\n{(HERE / 'fake_dcgmi.py').read_text()}")
        program.chmod(0o755)
        self.environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
        self.become(gpus=self.numbers, samples={}, fails={}, hangs=[], slow={}, begun=[], late=0, queued=[])

    def become(self, **changed: object) -> None:
        """`samples` by a GPU's number, each a stamp in microseconds and an XID; `fails`, what a command prints instead and exits with;
        `hangs`, commands that never end; `slow`, how many seconds pass before a command does anything, and `begun`, pids of those;
        `late`, how many samples more the engine lets wait in `queued`, and whoever asked with them.
        """
        with self.told() as now:
            now.update(changed)

    @contextmanager
    def told(self) -> Iterator[dict]:
        """Its state, which nobody else changes meanwhile, and which is kept as it is then."""
        with self.state.with_name("state.json.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            now = json.loads(self.state.read_text()) if self.state.exists() else {}
            yield now
            self.state.write_text(json.dumps(now))

    def state_of(self, word: str) -> object:
        with self.told() as now:
            return now[word]

    def goes_on(self) -> None:
        """It takes the samples that it let wait, whatever became of who asked, with the stamps that they have."""
        with self.told() as now:
            for gpu, sample in now["queued"]:
                now["samples"].setdefault(gpu, []).append(sample)
            now["queued"] = []

    def samples(self, uuid: str = WHOLE) -> list[int]:
        """XIDs of that GPU, the newest last."""
        with self.told() as now:
            return [xid for _, xid in sorted(now["samples"].get(str(self.numbers[uuid]), []))]

    def happens(self, xid: int, at_s: float | None = None) -> None:
        """WHOLE has that XID really; or had it, of which DCGM hears now."""
        with self.told() as now:
            now["samples"].setdefault(str(self.numbers[WHOLE]), []).append([int((at_s or time.time()) * 1e6), xid])


class OfKernel(FakeGpus):
    """Simulated GPUs, and beside them a process that writes what the kernel would tell of them."""

    told_as = "kfd"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "kernel"
        self.root.mkdir()
        self.environment["BLACKSTART_KERNEL_ROOT"] = str(self.root)
        environment = {**os.environ, **self.environment}
        command = [str(compiled("fake_kernel.c")), str(self.root), self.told_as]
        self.kernel = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        self.settle()

    def add(self, index: int, uuid: str, parent: str = "", capability: int = 90) -> None:
        """Without a UUID it has no unique_id; with a `parent` it is another partition of the one before it."""
        super().add(index, uuid, parent, capability)
        self.settle()

    def settle(self) -> None:
        """Until the kernel tells of all that was said here."""
        if hasattr(self, "kernel"):
            self.library.fake_settle()

    def process(self, index: int, pid: int, mib: int) -> None:
        super().process(index, pid, mib)
        self.settle()

    def fail(self, call: str, code: int, after: int = 0) -> None:
        """A file of the kernel's that is called so is not there."""
        super().fail(call, code, after)
        self.settle()

    def heat(self, index: int, temperature_c: int, power_mw: int = 90_000) -> None:
        super().heat(index, temperature_c, power_mw)
        self.settle()

    def close(self) -> None:
        self.kernel.stdin.close()
        self.kernel.wait()


class FakeAmd(OfKernel):
    """AMD's: HIP and its compiler."""

    source, names = "fake_hip.c", ("libamdhip64.so.6", "libhiprtc.so.6")
    driver, teller = "HIP", "the kernel (amdgpu, amdkfd)"
    whole, other = AMD_WHOLE, AMD_OTHER

    def chip(self, version: int) -> None:
        self.library.fake_chip(version)
        self.settle()


class FakeOpenCl(OfKernel):
    """GPUs that only OpenCL reaches."""

    source, names, told_as = "fake_opencl.c", ("libOpenCL.so.1",), "drm"
    driver, teller = "OpenCL", "the kernel (drm)"
    whole, other = "opencl:0", "opencl:1"
