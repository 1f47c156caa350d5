"""What a drill runs on."""

import os
import platform as machine
import sys
from pathlib import Path

from .. import __version__

INSIDE = "BLACKSTART_INSIDE"  # in a pod of ours: where that is, in words


def boot_id() -> str:
    """Tells whether CLOCK_MONOTONIC and pids of another process are from this boot; empty where the system has none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="ascii").strip() if path.exists() else ""


def environment() -> dict[str, str]:
    """What the drill ran on, for the record."""
    return {
        "blackstart": __version__,
        "python": machine.python_version(),
        "system": f"{machine.system()} {machine.release()}",
        "cores": str(os.cpu_count()),
        "executable": Path(sys.executable).name,
        **({"inside": where} if (where := os.environ.get(INSIDE)) else {}),
    }
