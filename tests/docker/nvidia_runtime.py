"""Stands in for NVIDIA's container runtime: runc, but a container whose environment names GPUs (NVIDIA_VISIBLE_DEVICES) gets the driver.

The driver is the simulated one, in the folder that DRIVER links to: its libraries where the linker looks, its state as a device.
"""

import json
import os
import sys
from pathlib import Path

RUN = Path("/run/blackstart-docker")
DRIVER = RUN / "driver"
PLACES = {
    "libcuda.so.1": "/usr/lib/libcuda.so.1",
    "libnvidia-ml.so.1": "/usr/lib/libnvidia-ml.so.1",
    "state": "/dev/blackstart-fake-gpu",
}


def given(config: Path) -> None:
    """What is to be run in the container, with the driver where it asks for one."""
    spec = json.loads(config.read_text(encoding="utf-8"))
    said = dict(each.partition("=")[::2] for each in spec["process"]["env"])
    if said.get("NVIDIA_VISIBLE_DEVICES", "void") in {"", "void"}:
        return
    for name, place in PLACES.items():
        mount = {"destination": place, "type": "bind", "source": str((DRIVER / name).resolve()), "options": ["bind", "rw"]}
        spec["mounts"].append(mount)
    config.write_text(json.dumps(spec), encoding="utf-8")


def main(words: list[str]) -> None:
    if "create" in words:
        given(Path(words[words.index("--bundle") + 1]) / "config.json")
    os.execvp("runc", ["runc", *words])


if __name__ == "__main__":
    main(sys.argv[1:])
