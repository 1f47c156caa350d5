"""Whether the real tritonserver of the wheel nvidia-pytriton can run here. Asked by the Makefile too, so standard library alone."""

import platform
import sys
import sysconfig
from pathlib import Path

LIBC = (2, 35)  # of the wheel's name: manylinux_2_35_x86_64
PYTHONS = ((3, 11), (3, 12))  # it has stubs for others, but they need numpy 1, which has no wheels for later ones
LIBRARY = Path(sysconfig.get_config_var("LIBDIR") or "/", sysconfig.get_config_var("INSTSONAME") or "none")


def unfit() -> str | None:
    """Why not; None: it can."""
    name, version = platform.libc_ver()
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "tritonserver is there for Linux on x86-64 alone"
    if name != "glibc" or tuple(map(int, version.split("."))) < LIBC:
        return f"tritonserver needs glibc 2.35, and here is {name or 'another libc'} {version}"
    if sys.version_info[:2] not in PYTHONS:
        return "the stub of tritonserver works with Python 3.11 and 3.12"
    return None if LIBRARY.is_file() else f"the stub of tritonserver loads Python as a library, and {LIBRARY} is not there"


if __name__ == "__main__":
    sys.exit(unfit())
