"""For a machine with an NVIDIA GPU: the conformance suite on it, and the evidence that drills there would have.

    python -m blackstart.tests.on_gpu [UUID]     by default the first GPU or slice that nobody uses; needs no package but blackstart's own

Its settings are left as they are: gpu-throttle is not among what is checked.
"""

import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from blackstart.injectors.base import Injector, NotYet
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.gpu_agent import Nvml
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size

PORT = 8767
LEAVE = Size(1 << 30)


def seen(uuid: str) -> dict:
    """By NVML in this process, which neither injects nor proves."""
    nvml = Nvml()
    return nvml.seen(nvml.handle(uuid), None)


def busy(uuid: str) -> bool:
    return (seen(uuid)["utilisation"] or 0) > 20


def full(uuid: str) -> bool:
    now = seen(uuid)
    return now["total_bytes"] - now["used_bytes"] < 1.2 * LEAVE


def shown(injector: Injector, platform: ProcessPlatform) -> None:
    undo = injector.plan((platform.current("r0"),), platform).stamped("on-gpu.1", injector.kind, {}, 120.0)
    injector.inject(undo, platform)
    limit = time.monotonic() + injector.patience.total_seconds()
    time.sleep(5)
    while True:
        try:
            evidence = injector.verify(undo, platform)
            break
        except NotYet:
            if time.monotonic() > limit:
                raise
            time.sleep(0.2)
    injector.recover(undo, platform)
    after = injector.verify_recovered(undo, platform)
    print(json.dumps({"kind": injector.kind, "evidence": evidence.to_json(), "after": after.to_json()}), flush=True)


def quiet(effect: Callable[[], bool]) -> None:
    """NVML's figures are those of the last second or so."""
    limit = time.monotonic() + 30
    while effect():
        if time.monotonic() > limit:
            sys.exit("the GPU is in use by somebody else")
        time.sleep(0.5)


def checks(uuid: str) -> list[tuple[Injector, Callable[[], bool]]]:
    """`shared`, because in a container NVML may tell the host's pids, and the victim is then nobody that is known."""
    return [
        (GpuSaturate(duty=Share(0.5), kernels="fma", shared=True), functools.partial(busy, uuid)),
        (GpuSaturate(duty=Share(1.0), shared=True), functools.partial(busy, uuid)),
        (GpuMemoryFill(leave=LEAVE, shared=True), functools.partial(full, uuid)),
    ]


def main(wanted: str | None) -> None:
    nvml = Nvml()
    handles, broken = nvml.devices()
    found = [nvml.seen(handle, parent) for handle, parent in handles]
    print(json.dumps({"broken": broken}), flush=True)
    uuid = wanted or next(gpu["uuid"] for gpu in found if not gpu["processes"])
    print(json.dumps(next(gpu for gpu in found if gpu["uuid"] == uuid)), flush=True)
    start = (
        "env",
        f"CUDA_VISIBLE_DEVICES={uuid}",
        sys.executable,
        str(Path(__file__).with_name("gpu_victim.py")),
        str(PORT),
        uuid,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = ProcessSpec((Component("r0", "replica", port=PORT, start=start),))
        opened = functools.partial(ProcessPlatform, spec, folder, folder / "state", dict(os.environ))
        with closing(opened()) as platform:
            try:
                platform.start_missing()
                for injector, effect in checks(uuid):
                    shown(injector, platform)
                    quiet(effect)
                    check_injector(injector, opened, ("r0",), effect=effect)
                    print(f"{injector}: the whole contract is kept", flush=True)
            finally:
                platform.stop_started()


if __name__ == "__main__":
    main(next(iter(sys.argv[1:]), None))
