"""Every fault that claims Docker, held against the whole contract on live containers."""

import functools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from blackstart.injectors import file_agent, registry, testing
from blackstart.injectors.base import Differs, ForeignChange, Injector, Refusal
from blackstart.injectors.caches import CacheWipe
from blackstart.injectors.compute import CpuStress, MemoryStress
from blackstart.injectors.inline import NetworkDelay, StreamStall, TcpReset
from blackstart.injectors.left_files import left_beside
from blackstart.injectors.lifecycle import ProcessHang, ProcessKill, ReplicaKill, RolloutRestart, StoreKill
from blackstart.injectors.model_files import CheckpointCorrupt, CredentialExpire, ModelCorrupt, ModelStoreOutage
from blackstart.injectors.model_revisions import VersionSkew
from blackstart.injectors.network import DnsBreak, NetworkPartition
from blackstart.injectors.platforms import docker_lifecycle, exec_agents
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
from blackstart.tests.docker.victims import CACHE, CHECKPOINTS, MODEL, REPLICA, SMALL, STORE, TOKEN
from blackstart.tests.unit.test_slow_file import took_s

Open = Callable[[], DockerPlatform]
Eye = Callable[[DockerApi], Callable[[], bool]]
DELAY = timedelta(milliseconds=200)
SLOW = timedelta(milliseconds=400)
INSIDE = ("docker", "--host", f"unix://{SOCKET}", "exec", REPLICA)


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
    command = [*INSIDE, "timeout", "3", "python3", "-c", script]
    return lambda: subprocess.run(command, capture_output=True, check=False).returncode != 0


def changed(folder: str) -> Eye:
    """An eye for what lies there: any other content than now."""

    def seen(api: DockerApi) -> Callable[[], bool]:
        def content() -> dict[str, bytes]:
            there = victims.root(api) / folder.lstrip("/")
            return {str(path): path.read_bytes() for path in [there, *there.rglob("*")] if path.is_file()}

        before = content()
        return lambda: content() != before

    return seen


def cut_off(name: str, host: str) -> Eye:
    """Whether a connection from inside that container reaches the host no more."""
    script = f"import socket; socket.create_connection(({host!r}, {victims.PORT}), 1)"
    command = [*INSIDE[:-1], name, "python3", "-c", script]
    return lambda _: lambda: subprocess.run(command, capture_output=True, check=False).returncode != 0


def full(api: DockerApi) -> Callable[[], bool]:
    def free() -> int:
        found = os.statvfs(victims.root(api) / SMALL.lstrip("/"))
        return found.f_bavail * found.f_frsize

    return lambda: free() < 8 << 20


def slow(api: DockerApi) -> Callable[[], bool]:
    """Whether this machine's own processes wait for the file on the volume."""
    return lambda: took_s(victims.root(api) / MODEL.lstrip("/")) >= 2 * SLOW.total_seconds()


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
    "version-skew": (VersionSkew(file=MODEL), REPLICA, changed(MODEL)),
    "model-corrupt slow-read": (ModelCorrupt("slow-read", file=MODEL, delay=SLOW), REPLICA, slow),
    "network-partition": (NetworkPartition(), REPLICA, lambda api: lambda: victims.met(api)[0] == "silent"),
    "network-delay": (NetworkDelay(DELAY), REPLICA, lambda api: lambda: victims.met(api)[1] > 2 * DELAY.total_seconds()),
    "tcp-reset": (TcpReset(), REPLICA, lambda api: lambda: victims.met(api)[0] == "ConnectionResetError"),
    "stream-stall": (StreamStall(), REPLICA, lambda api: lambda: victims.met(api)[0] == "silent"),
    "dns-break": (DnsBreak(), REPLICA, nameless),
}

HUB = "v-hub"  # a container that is no part of the service
TOGETHER: dict[str, tuple[Injector, str, Eye]] = {  # they harm neither the containers nor each other
    "model-corrupt": (ModelCorrupt("exponent-msb", file=MODEL), REPLICA, changed(MODEL)),
    "checkpoint-corrupt": (CheckpointCorrupt(CHECKPOINTS), REPLICA, changed(CHECKPOINTS)),
    "cache-wipe": (CacheWipe(CACHE), REPLICA, changed(CACHE)),
    "credential-expire": (CredentialExpire(TOKEN), REPLICA, changed(TOKEN)),
    "model-store-outage": (ModelStoreOutage((STORE,)), REPLICA, cut_off(REPLICA, STORE)),
    "model-store-outage elsewhere": (ModelStoreOutage((f"{HUB}:{victims.PORT}",)), STORE, cut_off(STORE, HUB)),
}


def test_every_kind_that_claims_docker_is_here() -> None:
    assert {name.partition(" ")[0] for name in (*CASES, *TOGETHER)} | ON_GPUS == {
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


@pytest.fixture(scope="module")
def verdicts(service: Open, api: DockerApi) -> Iterator[dict[str, Future[None]]]:
    hub = victims.create(api, HUB)
    try:
        until("the hub to answer", lambda: not victims.mute(api, HUB)(), 30)
        with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(len(TOGETHER)) as pool:
            patched.setattr(testing, "SETTLE_S", 12.0)  # half of it is the deadline of what is killed while it is held
            yield {
                name: pool.submit(check_injector, injector, service, (target,), effect=eye(api))
                for name, (injector, target, eye) in TOGETHER.items()
            }
    finally:
        api.delete(at("containers", hub), force="true", v="true")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", TOGETHER)
def test_injector_of_what_lies_beside_the_service(verdicts: dict[str, Future[None]], name: str) -> None:
    verdicts[name].result()


@pytest.mark.timeout(120)
def test_a_killed_agent_and_a_killed_blackstart_leave_every_byte_to_recover(
    service: Open, api: DockerApi, verdicts: dict[str, Future[None]]
) -> None:
    for each in verdicts.values():
        each.result()
    assert victims.helpers(api) == []
    eye = changed(str(Path(MODEL).parent))(api)
    faults = [TOGETHER[kind][0] for kind in ("checkpoint-corrupt", "cache-wipe", "credential-expire")]
    undone = []
    with closing(service()) as platform:  # closed without an undo, as a killed one is; and so are the leases
        (target,) = [each for each in platform.find() if each.name == REPLICA]
        for injector in faults:
            undo = injector.plan((target,), platform).stamped(f"killed.{injector.kind}", injector.kind, {}, 120.0)
            injector.inject(undo, platform)
            undone.append((injector, undo))
        for pid in victims.processes(api, "mutate-file"):
            os.kill(pid, signal.SIGKILL)
    assert eye()
    with closing(service()) as fresh:
        for injector, undo in undone:
            injector.recover(undo, fresh)
            injector.verify_recovered(undo, fresh)
    assert not eye()
    there = victims.root(api) / MODEL.lstrip("/")
    assert not [path for path in there.parent.rglob("*") if "blackstart" in path.name]


def test_a_lease_is_renewed_and_no_deadline_passes_while_a_large_file_is_read(
    service: Open, api: DockerApi, verdicts: dict[str, Future[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is read before the first write, which takes minutes for a model of 100 GB."""
    for verdict in verdicts.values():
        verdict.exception()
    lease_s, size = 4.0, 12 << 30
    monkeypatch.setattr(exec_agents, "LEASE_S", lease_s)
    monkeypatch.setattr(exec_agents, "RENEW_S", 0.3)
    large = victims.root(api) / "models" / "large"
    with large.open("wb") as file:
        file.truncate(size)
    job = {"path": "/models/large", "expected": None, "do": {"op": "cut", "offset": size // 2}}
    request = {"mutation": "truncate", "seed": 0, "reader": None, "readers": None, "jobs": [job]}
    try:
        with closing(service()) as platform:
            (target,) = [each for each in platform.find() if each.name == REPLICA]
            began = time.monotonic()
            assert platform.agent_begin("large.0", target, "mutate-file", request, lease_s)["event"] == "effective"
            assert time.monotonic() - began > lease_s
            until("the deadline to pass", lambda: large.stat().st_size == size)
            platform.agent_end("large.0", target)
    finally:
        large.unlink()


@pytest.mark.timeout(60)
def test_what_somebody_uses_by_a_command_of_his_own_is_left_alone(
    service: Open, api: DockerApi, verdicts: dict[str, Future[None]]
) -> None:
    verdicts["credential-expire"].result()
    before = (victims.root(api) / TOKEN.lstrip("/")).read_bytes()
    holds = f"import sys; f = open({TOKEN!r}); print('open', flush=True); sys.stdin.read()"
    command = [*INSIDE[:-1], "--interactive", REPLICA, "python3", "-c", holds]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger, closing(service()) as platform:
        assert stranger.stdin is not None
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"open\n"
        (target,) = [each for each in platform.find() if each.name == REPLICA]
        injector = CredentialExpire(TOKEN)
        with pytest.raises(Refusal, match=r"token is in use by process \d+ .*, which is no target; end that first"):
            injector.plan((target,), platform)
        stranger.stdin.close()
    assert (victims.root(api) / TOKEN.lstrip("/")).read_bytes() == before


def test_what_stays_beside_a_file_is_named_with_the_container_that_sees_it(service: Open, api: DockerApi) -> None:
    path = f"{TOKEN}-of-its-own"
    token, injector, beside = victims.root(api) / path.lstrip("/"), CredentialExpire(path), file_agent.beside(path, "left.0")
    token.write_text("hf_abcdefgh")
    with closing(service()) as platform:
        (target,) = [each for each in platform.find() if each.name == REPLICA]
        undo = injector.plan((target,), platform).stamped("left.0", injector.kind, {"path": path}, 60.0)
        injector.inject(undo, platform)
        token.write_text("somebody else's")
        with pytest.raises(ForeignChange, match="so it was left alone"):
            injector.recover(undo, platform)
        assert left_beside([undo], platform) == [f"stays: {REPLICA}: {beside}{end}" for end in ("", ".original")]
        for left in (path, beside, f"{beside}.original"):
            (victims.root(api) / left.lstrip("/")).unlink()
        assert left_beside([undo], platform) == []


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
