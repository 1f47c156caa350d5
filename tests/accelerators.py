"""Accelerators for tests on a machine that has none: PoCL from PyPI is a real OpenCL on the processor, `fake_gpu.c` stands in for the
driver of GPUs.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WHOLE, OTHER = "GPU-11111111-2222-3333-4444-555555555555", "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
SLICE = "MIG-0a0b0c0d-0e0f-1011-1213-141516171819"
MIB_OF = 4096
HANGS = -1  # as the code of a call: it never returns


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


class FakeGpus:
    """Two simulated GPUs of 4 GiB, WHOLE and OTHER; with `sliced` the second is cut, and SLICE is one half of it."""

    def __init__(self, folder: Path, *, sliced: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        if not shutil.which("gcc"):
            missing("gcc is missing")
        library = folder / "libcuda.so.1"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "fake_gpu.c")], check=True)
        shutil.copy(library, folder / "libnvidia-ml.so.1")  # no link, or the linker would take one for the other
        self.environment = {"LD_LIBRARY_PATH": str(folder), "BLACKSTART_FAKE_GPU": str(folder / "state")}
        self.library = ctypes.CDLL(str(library))
        self.library.fake_used.restype = ctypes.c_ulonglong
        assert self.library.fake_open(str(folder / "state").encode()) == 0
        self.add(0, WHOLE)
        self.add(1, OTHER)
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
