"""Accelerators for tests on a machine that has none: PoCL from PyPI is a real OpenCL on the processor."""

import importlib.util
import os
from pathlib import Path

import pytest


def pocl(folder: Path, limit_gib: int = 1) -> dict[str, str]:
    """An environment in which `libOpenCL.so.1` is a loader that finds PoCL, with a device of so much memory."""
    spec = importlib.util.find_spec("pyopencl")
    libraries = Path(spec.origin).parent / ".libs" if spec and spec.origin else Path("/nonexistent")
    loader, driver = next(libraries.glob("libOpenCL-*"), None), next(libraries.glob("libpocl-*"), None)
    if not loader or not driver:
        if os.environ.get("CI"):
            pytest.fail("pyopencl and pocl-binary-distribution are missing; pip install '.[test]'")
        pytest.skip("pyopencl or pocl-binary-distribution is missing")
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
