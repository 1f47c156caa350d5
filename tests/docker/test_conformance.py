"""Every fault that claims Docker, held against the whole contract on live containers."""

import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from blackstart.injectors import registry, testing
from blackstart.injectors.base import Differs, Injector
from blackstart.injectors.compute import CpuStress, MemoryStress
from blackstart.injectors.inline import NetworkDelay, StreamStall, TcpReset
from blackstart.injectors.lifecycle import ProcessHang, ProcessKill, ReplicaKill, RolloutRestart, StoreKill
from blackstart.injectors.model_files import ModelCorrupt
from blackstart.injectors.model_revisions import VersionSkew
from blackstart.injectors.network import DnsBreak, NetworkPartition
from blackstart.injectors.platforms import docker_lifecycle
from blackstart.injectors.platforms.docker import DockerPlatform
from blackstart.injectors.platforms.docker_api import DockerApi, at
from blackstart.injectors.platforms.docker_spec import DockerSpec
from blackstart.injectors.storage import DiskFill
from blackstart.injectors.testing import check_injector
from blackstart.injectors.values import Size
from blackstart.tests.command import until
from blackstart.tests.docker import victims
from blackstart.tests.docker.engine import SOCKET
from blackstart.tests.docker.test_accelerators import KINDS as ON_GPUS
from blackstart.tests.docker.victims import MODEL, REPLICA, SMALL, STORE

Open = Callable[[], DockerPlatform]
Eye = Callable[[DockerApi], Callable[[], bool]]
DELAY = timedelta(milliseconds=200)


@pytest.fixture(scope="module")
def service(api: DockerApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    with victims.service(api):
        yield functools.partial(victims.opened, tmp_path_factory.mktemp("state"), f"unix://{SOCKET}")


def gone(api: DockerApi) -> Callable[[], bool]:
    (pid,) = until("the engine to be there", lambda: victims.processes(api, "victim.py\0engine"))
    return lambda: not Path(f"/proc/{pid}").exists()


def nameless(api: DockerApi) -> Callable[[], bool]:
    """Whether the replica's own resolver gives no address for the store."""
    script = f"import socket; socket.getaddrinfo({STORE!r}, None)"
    command = ["docker", "--host", f"unix://{SOCKET}", "exec", REPLICA, "timeout", "3", "python3", "-c", script]
    return lambda: subprocess.run(command, capture_output=True, check=False).returncode != 0


def damaged(api: DockerApi) -> Callable[[], bool]:
    def digest() -> str:
        return hashlib.sha256((victims.root(api) / MODEL.lstrip("/")).read_bytes()).hexdigest()

    before = digest()
    return lambda: digest() != before


def full(api: DockerApi) -> Callable[[], bool]:
    def free() -> int:
        found = os.statvfs(victims.root(api) / SMALL.lstrip("/"))
        return found.f_bavail * found.f_frsize

    return lambda: free() < 8 << 20


CASES: dict[str, tuple[Injector, str, Eye]] = {
    "replica-kill": (ReplicaKill(), REPLICA, lambda api: victims.started_anew(api, REPLICA)),
    "store-kill": (StoreKill(), STORE, lambda api: victims.started_anew(api, STORE)),
    "rollout-restart": (RolloutRestart(), REPLICA, lambda api: victims.started_anew(api, REPLICA)),
    "process-kill": (ProcessKill(role="engine"), REPLICA, gone),
    "process-hang": (ProcessHang(role="engine"), REPLICA, victims.mute),
    "process-hang of the whole container": (ProcessHang(), REPLICA, victims.mute),
    "cpu-stress": (CpuStress(workers=1), REPLICA, lambda api: lambda: bool(victims.processes(api, "burn-cpu"))),
    "memory-stress": (
        MemoryStress(size=Size(64 << 20)),
        REPLICA,
        lambda api: lambda: victims.resident(victims.processes(api, "hold-memory")) > 60 << 20,
    ),
    "disk-fill": (DiskFill(SMALL, leave=Size(1 << 20)), REPLICA, full),
    "model-corrupt": (ModelCorrupt("exponent-msb", file=MODEL), REPLICA, damaged),
    "version-skew": (VersionSkew(file=MODEL), REPLICA, damaged),
    "network-partition": (NetworkPartition(), REPLICA, lambda api: lambda: victims.met(api)[0] == "silent"),
    "network-delay": (NetworkDelay(DELAY), REPLICA, lambda api: lambda: victims.met(api)[1] > 2 * DELAY.total_seconds()),
    "tcp-reset": (TcpReset(), REPLICA, lambda api: lambda: victims.met(api)[0] == "ConnectionResetError"),
    "stream-stall": (StreamStall(), REPLICA, lambda api: lambda: victims.met(api)[0] == "silent"),
    "dns-break": (DnsBreak(), REPLICA, nameless),
}


def test_every_kind_that_claims_docker_is_here() -> None:
    assert {name.partition(" ")[0] for name in CASES} | ON_GPUS == {
        kind for kind, injector in registry().items() if "docker" in injector.platforms
    }


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", CASES)
def test_injector(service: Open, api: DockerApi, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "SETTLE_S", 10.0)  # half of it is the deadline of what is killed while it is held
    injector, target, eye = CASES[name]
    check_injector(injector, service, (target,), effect=eye(api))
    assert victims.helpers(api) == []


def test_stress_whose_record_is_lost_is_not_called_undone(service: Open, api: DockerApi) -> None:
    """Whoever recovers finds nothing to tell the agent by; the process table still has it."""
    injector = CpuStress(workers=1)
    with closing(service()) as platform, closing(service()) as other:
        found = platform.current(REPLICA)
        assert found is not None
        undo = injector.plan((found,), platform).stamped("lost.0", injector.kind, {}, 12.0)
        injector.inject(undo, platform)
        (record,) = (victims.root(api) / "tmp").glob("blackstart-lost.0*.json")
        record.unlink()
        injector.recover(undo, other)
        with pytest.raises(Differs, match="an agent still uses"):
            injector.verify_recovered(undo, other)
        until("its deadline", lambda: not victims.processes(api, "burn-cpu"), 30)
        injector.verify_recovered(undo, other)


def test_an_engine_elsewhere_is_asked_to_kill(service: Open, api: DockerApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the engine's own kill nothing starts the container again but we, as its restart policy would have."""
    monkeypatch.setattr(docker_lifecycle, "process_of", lambda _: None)
    died = victims.started_anew(api, REPLICA)
    with closing(service()) as platform:
        before = platform.current(REPLICA)
        assert before is not None
        platform.kill(before)
        until("it to stand again", lambda: died() and platform.current(REPLICA), 20)
        assert platform.state(before) == "gone"


def test_a_container_without_python_is_hit_from_here(service: Open, api: DockerApi) -> None:
    """Its processes are stopped through this machine's /proc, also its first one."""
    del service
    program = "import os; os.chmod('/usr/bin/python3', 0); os.execv('/bin/sleep', ['sleep', '600'])"
    made = victims.create(api, "v-bare", Cmd=["python3", "-c", program], HostConfig={"CapDrop": []})
    try:
        until("it to run", lambda: victims.processes(api, "sleep\x00600", "v-bare"), 20)
        (pid,) = victims.processes(api, "sleep\x00600", "v-bare")
        spec = DockerSpec(containers=("v-bare",))
        with (
            tempfile.TemporaryDirectory() as state,
            closing(victims.opened(Path(state), f"unix://{SOCKET}", spec, "sleep")) as platform,
        ):
            (target,) = platform.find()
            injector = ProcessHang(role="engine")
            undo = injector.plan((target,), platform).stamped("here.0", "process-hang", {"role": "engine"}, 60.0)
            injector.inject(undo, platform)
            injector.verify(undo, platform)
            assert stat_of(pid) == "T"
            injector.recover(undo, platform)
            injector.verify_recovered(undo, platform)
            assert stat_of(pid) == "S"
    finally:
        api.delete(at("containers", made), force="true", v="true")


def stat_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
