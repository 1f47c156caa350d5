"""For a machine with an NVIDIA GPU: the conformance suite on it, how exactly a duty is kept, and the evidence that drills there would have.

    python -m blackstart.tests.on_gpu [UUID]     by default the first GPU or slice that nobody uses; needs a C compiler for gpu-lost,
                                                 and no package but blackstart's own

Its settings and the kernel's log are left as they are: gpu-throttle and gpu-health-signal are not among what is checked.
"""

import functools
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

from blackstart.commands import cuda_shim
from blackstart.injectors import gpu_agent
from blackstart.injectors.base import Evidence, FaultError, Injector, NotYet, Undo
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.gpu_duty import LONGEST_LOOK_S
from blackstart.injectors.gpu_lost import GpuLost
from blackstart.injectors.platforms.base import PlatformError
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size

PORT = 8767
LEAVE = Size(1 << 30)
DUTIES, DUTY_WITHIN = (0.2, 0.5, 0.8), 0.05


def seen(uuid: str) -> dict:
    """By NVML in this process, which neither injects nor proves."""
    nvml = gpu_agent.Nvml()
    return nvml.seen(nvml.handle(uuid), None)


def busy(uuid: str) -> bool:
    return (seen(uuid)["utilisation"] or 0) > 20


def full(uuid: str) -> bool:
    now = seen(uuid)
    return now["total_bytes"] - now["used_bytes"] < 1.2 * LEAVE


def ill() -> bool:
    with closing(HTTPConnection("127.0.0.1", PORT, timeout=5)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status != HTTPStatus.OK
        except OSError:
            return True


def proven(injector: Injector, undo: Undo, platform: ProcessPlatform, over_s: float) -> Evidence:
    """After so many seconds of the fault."""
    begun = time.monotonic()
    while True:
        try:
            evidence = injector.verify(undo, platform)
            if time.monotonic() - begun > over_s:
                return evidence
        except NotYet:
            if time.monotonic() - begun > over_s + injector.patience.total_seconds():
                raise
        time.sleep(0.2)


def shown(injector: Injector, platform: ProcessPlatform, over_s: float = 3.0) -> Evidence:
    undo = injector.plan((platform.current("r0"),), platform).stamped("on-gpu.1", injector.kind, {}, 120.0)
    injector.inject(undo, platform)
    try:
        evidence = proven(injector, undo, platform, over_s)
    finally:
        injector.recover(undo, platform)
    after = injector.verify_recovered(undo, platform)
    print(json.dumps({"kind": injector.kind, "evidence": evidence.to_json(), "after": after.to_json()}), flush=True)
    return evidence


def check_duty(duty: float, platform: ProcessPlatform) -> None:
    """By the device's own events, over the last 10 s of 12. NVML's figure, of a second or less, is printed with it."""
    evidence = shown(GpuSaturate(duty=Share(duty), shared=True), platform, LONGEST_LOOK_S + 2)
    kept = evidence.facts["targets"]["r0"]["duty"]
    assert abs(kept - duty) <= DUTY_WITHIN, f"{duty:.0%} of the time were asked for, and the device worked {kept:.1%}"


def quiet(effect: Callable[[], bool]) -> None:
    """NVML's figures are those of the last second or so."""
    limit = time.monotonic() + 30
    while effect():
        assert time.monotonic() < limit, "the GPU is in use by somebody else"
        time.sleep(0.5)


def effects(uuid: str) -> list[tuple[Injector, Callable[[], bool]]]:
    """Faults, and how their effect is seen past them. `shared`, because in a container NVML may tell the host's pids, and the victim is then nobody that is known."""
    return [
        (GpuSaturate(duty=Share(0.5), kernels="fma", shared=True), functools.partial(busy, uuid)),
        (GpuSaturate(duty=Share(1.0), shared=True), functools.partial(busy, uuid)),
        (GpuMemoryFill(leave=LEAVE, shared=True), functools.partial(full, uuid)),
        (GpuLost(), ill),
    ]


def check_contract(
    injector: Injector, effect: Callable[[], bool], platform: ProcessPlatform, opened: Callable[[], ProcessPlatform]
) -> None:
    shown(injector, platform)
    quiet(effect)
    check_injector(injector, opened, ("r0",), effect=effect)
    print(f"{injector}: the whole contract is kept", flush=True)


def failed(checks: Iterable[Callable[[], None]]) -> int:
    """How many of them; each goes ahead whatever became of those before it."""
    count = 0
    for check in checks:
        try:
            check()
        except (AssertionError, FaultError, PlatformError):
            traceback.print_exc()
            count += 1
    return count


def chosen(wanted: str | None) -> str:
    """That GPU, or the first that nobody uses; prints what NVML tells of it. Exits with what is missing where there is none."""
    try:
        nvml = gpu_agent.Nvml()
        handles, broken = nvml.devices()
        found = [nvml.seen(handle, parent) for handle, parent in handles]
    except (gpu_agent.Refused, gpu_agent.Failed) as problem:
        sys.exit(f"no GPU can be tried here: {problem}; run this where NVIDIA's driver is installed")
    print(json.dumps({"broken": broken}), flush=True)
    gpu = next((gpu for gpu in found if (gpu["uuid"] == wanted if wanted else not gpu["processes"])), None)
    if gpu is None:
        there = "; ".join([", ".join(gpu["uuid"] for gpu in found) or "no GPU", *broken])
        sys.exit(
            f"{f'there is no {wanted}' if wanted else 'there is no GPU that nobody uses'}; NVML has {there}; name one of them"
        )
    print(json.dumps(gpu), flush=True)
    return gpu["uuid"]


def main(wanted: str | None) -> None:
    uuid = chosen(wanted)
    start = (sys.executable, str(Path(__file__).with_name("gpu_victim.py")), str(PORT), uuid)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {"CUDA_VISIBLE_DEVICES": uuid, "LD_AUDIT": str(cuda_shim.built(folder))}
        environment["BLACKSTART_CUDA"] = str(folder / "r0.control")
        spec = ProcessSpec((Component("r0", "replica", port=PORT, start=start, environment=environment),))
        opened = functools.partial(ProcessPlatform, spec, folder, folder / "state", dict(os.environ))
        with closing(opened()) as platform:
            try:
                platform.start_missing()
                duties = [functools.partial(check_duty, duty, platform) for duty in DUTIES]
                contracts = [functools.partial(check_contract, *each, platform, opened) for each in effects(uuid)]
                sys.exit(failed([*duties, *contracts]))
            finally:
                platform.stop_started()


if __name__ == "__main__":
    main(next(iter(sys.argv[1:]), None))
