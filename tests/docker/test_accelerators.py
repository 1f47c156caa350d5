"""Faults of accelerators in containers: the whole contract, a drill that is killed, and refusals; the driver is simulated."""

import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors import testing
from blackstart.injectors.base import Injector, NotYet, Refusal
from blackstart.injectors.gpu import GpuMemoryFill, GpuSaturate
from blackstart.injectors.platforms.base import Unsupported
from blackstart.injectors.platforms.docker import DockerPlatform
from blackstart.injectors.platforms.docker_api import DockerApi, at
from blackstart.injectors.platforms.docker_spec import DockerSpec
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.accelerators import WHOLE, FakeGpus
from blackstart.tests.cluster.steps import in_fault
from blackstart.tests.command import Blackstart, kill_quietly, proven_by, until
from blackstart.tests.docker import victims
from blackstart.tests.docker.engine import IMAGE, SOCKET
from blackstart.tests.docker.victims import NETWORK, PORT

NAME, FOLDER = "v-gpu", "/gpu"
OWN_MIB = 556  # a context and what the victim allocates
SPEC = DockerSpec(containers=(NAME,), port=PORT)
KINDS = {"gpu-saturate", "gpu-memory-fill"}
LEAVE = Size(256 << 20)
CASES: dict[str, tuple[Injector, Callable[[FakeGpus], bool]]] = {
    "gpu-saturate": (GpuSaturate(duty=Share(0.5)), lambda gpus: gpus.share(0) > 10),
    "gpu-memory-fill": (GpuMemoryFill(leave=LEAVE), lambda gpus: gpus.used_mib(0) > 3000),
}


def on_gpu(gpus: FakeGpus) -> dict[str, Any]:
    command, environment = gpus.victim(FOLDER, PORT)
    return {"Cmd": command, "Env": [f"{key}={value}" for key, value in environment.items()]}


def mounted(gpus: FakeGpus) -> dict[str, Any]:
    return {"Binds": [f"{gpus.folder}:{FOLDER}"]}


@contextmanager
def standing(api: DockerApi, gpus: FakeGpus) -> Iterator[str]:
    """A replica on WHOLE, in a container that has the simulated driver."""
    made = victims.create(api, NAME, **on_gpu(gpus), HostConfig=mounted(gpus))
    try:
        until("the replica to answer", lambda: not victims.mute(api, NAME)(), 30)
        yield made
    finally:
        api.delete(at("containers", made), force="true", v="true")


@pytest.fixture(scope="module")
def gpus(api: DockerApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGpus]:
    found = FakeGpus(tmp_path_factory.mktemp("driver") / "gpu")
    api.post("/networks/create", {"Name": NETWORK})
    try:
        yield found
    finally:
        api.delete(at("networks", NETWORK))


@pytest.fixture(scope="module")
def replica(api: DockerApi, gpus: FakeGpus) -> Iterator[str]:
    with standing(api, gpus) as made:
        yield made


@pytest.fixture
def opened(replica: str, tmp_path: Path) -> Callable[[], DockerPlatform]:
    del replica
    return functools.partial(victims.opened, tmp_path, f"unix://{SOCKET}", SPEC, "gpu_victim")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", CASES)
def test_the_whole_contract(
    opened: Callable[[], DockerPlatform], gpus: FakeGpus, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "SETTLE_S", 8.0)  # half of it is the deadline of what is killed while it is held
    injector, effect = CASES[kind]
    check_injector(injector, opened, (NAME,), effect=lambda: effect(gpus))
    assert (gpus.used_mib(0), gpus.used_mib(1)) == (OWN_MIB, 0)


def test_sigkill_of_blackstart_and_of_the_agent_leaves_no_megabyte(
    blackstart: Blackstart, api: DockerApi, gpus: FakeGpus, replica: str
) -> None:
    process, folder = in_memory_fill(blackstart, api, gpus)
    process.send_signal(signal.SIGSTOP)  # so that it cannot see its agent die
    for pid in victims.processes(api, "fill-gpu", NAME):
        os.kill(pid, signal.SIGKILL)
    until("the driver to take back what the agent had", lambda: gpus.used_mib(0) == OWN_MIB, 10)
    kill_quietly(process)
    done = blackstart("recover", folder.name)
    assert done.code == 0, done.out + done.err
    assert "gpu-memory-fill: undone" in done.out
    assert gpus.used_mib(0) == OWN_MIB


def in_memory_fill(blackstart: Blackstart, api: DockerApi, gpus: FakeGpus) -> Any:
    """A drill, and its folder, whose agent holds the replica's GPU, as the drill itself has seen."""
    service = written(blackstart.folder, f"http://{victims.address(api, NAME)}:{PORT}")
    process, folder = in_fault(
        blackstart, service, f"{{kind: gpu-memory-fill, leave: 256MiB, target: {{names: [{NAME}]}}, for: 60s}}"
    )
    assert gpus.used_mib(0) > 3000
    assert [(each["source"], each["facts"]["hardware"]) for each in proven_by(folder)] == [("NVML", "simulated")]
    return process, folder


def refused(folder: Path, name: str, injector: Injector) -> str:
    with closing(victims.opened(folder, f"unix://{SOCKET}", DockerSpec(containers=(name,), port=PORT))) as platform:
        target = until(f"{name} to run", lambda: platform.current(name))
        with pytest.raises((Refusal, Unsupported)) as problem:
            injector.plan((target,), platform)
        return str(problem.value)


def test_what_could_not_be_proven_or_would_hit_others_is_refused(api: DockerApi, gpus: FakeGpus, tmp_path: Path) -> None:
    bare = "import os; os.chmod('/usr/bin/python3', 0); os.execv('/bin/sleep', ['sleep', '600'])"
    with ExitStack() as made:
        for name, more in (
            ("v-host", {"HostConfig": {"PidMode": "host", **mounted(gpus)}, **on_gpu(gpus)}),
            ("v-bare", {"Cmd": ["python3", "-c", bare], "HostConfig": {"CapDrop": []}}),
            ("v-none", {"Cmd": ["sleep", "600"]}),
        ):
            made.callback(api.delete, at("containers", victims.create(api, name, **more)), force="true", v="true")
        until("the python to be gone", lambda: victims.processes(api, "sleep\x00600", "v-bare"))
        assert "sees the processes of the engine's machine as its own" in refused(tmp_path, "v-host", GpuSaturate())
        assert "has no python3, and its faults need one" in refused(tmp_path, "v-bare", GpuSaturate())
        assert "libnvidia-ml.so.1 cannot be loaded" in refused(tmp_path, "v-none", GpuSaturate())
        assert "opencl:0 is drilled beside local processes only" in refused(tmp_path, "v-none", GpuSaturate(device="opencl:0"))


def test_a_container_that_starts_again_takes_the_agent_along(
    opened: Callable[[], DockerPlatform], api: DockerApi, gpus: FakeGpus
) -> None:
    injector = GpuMemoryFill(leave=LEAVE)
    with closing(opened()) as platform:
        target = platform.current(NAME)
        assert target is not None
        undo = injector.plan((target,), platform).stamped("again.0", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        assert gpus.used_mib(0) > 3000
        api.post(at("containers", NAME, "restart"), t=0)
        until("the replica to answer", lambda: not victims.mute(api, NAME)(), 30)
        with pytest.raises(NotYet, match="no agent works on"):
            injector.verify(undo, platform)
        injector.recover(undo, platform)
        found = injector.verify_recovered(undo, platform)
        assert (found.source, "gone" in found.facts["targets"][NAME]) == (platform.witness, True)
        assert gpus.used_mib(0) == OWN_MIB


@pytest.mark.usefixtures("replica")
def test_memory_that_is_had_already_is_not_taken_by_an_agent_that_would_die_with_its_holder(
    gpus: FakeGpus, tmp_path: Path
) -> None:
    """Also where NVML tells pids of the host, so that all that is in use may be the replica's."""
    gpus.process(0, os.getpid(), 2000)
    assert "may hold most of" in refused(tmp_path, NAME, GpuMemoryFill(shared=True))
    assert f"{WHOLE} is also used by pid" in refused(tmp_path, NAME, GpuMemoryFill())


def written(folder: Path, url: str) -> Path:
    """A service file of that one replica."""
    whole = {"apiVersion": "blackstart/v1", "kind": "Service", "name": "gpu", "platform": "docker"}
    whole |= {"docker": {"containers": [NAME], "port": PORT}, "endpoint": {"url": url, "protocol": "http", "path": "/"}}
    path = folder / "service.yaml"
    path.write_text(json.dumps({**whole, "probe": {"image": IMAGE}}), encoding="utf-8")
    return path
