"""Every fault of the process platform, held against the whole contract on a live service."""

import functools
import json
import os
import signal
import sys
import time
import urllib.request
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from blackstart.injectors import testing
from blackstart.injectors.base import Differs, ForeignChange, NotYet, Refusal, Undo
from blackstart.injectors.command import Command
from blackstart.injectors.compute import CpuStress, MemoryStress
from blackstart.injectors.lifecycle import ProcessHang, ProcessKill, ReplicaKill, RolloutRestart, StoreKill
from blackstart.injectors.platforms import process_table
from blackstart.injectors.platforms.base import PlatformError
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
from blackstart.injectors.storage import DiskFill
from blackstart.injectors.testing import ConformanceError, check_injector
from blackstart.injectors.values import Share, Size
from blackstart.tests.ports import free_port

HERE = Path(__file__).parent
SHM = Path("/dev/shm")


def victim(name, role):
    port = free_port()
    return Component(name, role, port=port, start=(sys.executable, str(HERE / "victim.py"), "serve", str(port)))


@pytest.fixture
def service(tmp_path):
    """How to open a platform with a live replica r0 and a live store s0."""
    spec = ProcessSpec((victim("r0", "replica"), victim("s0", "store")), {"engine": r"victim\.py engine", "scheduler": "no such"})
    factory = functools.partial(ProcessPlatform, spec, tmp_path, tmp_path / "state", dict(os.environ))
    with closing(factory()) as platform:
        try:
            assert platform.start_missing() == ("r0", "s0")
            yield factory
        finally:
            platform.stop_started()
            assert platform.find() == ()


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def died(factory, name):
    """An eye for kills: the process that stands there now is gone."""
    with closing(factory()) as platform:
        pid = platform.current(name).details["pid"]
    return lambda: gone(pid)


def mute(factory):
    """An eye for hangs: r0 gives no right answer."""
    with closing(factory()) as platform:
        url = platform.current("r0").details["url"]

    def asked():
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                return answer.status != 200
        except OSError:
            return True

    return asked


def agents(folder, verb):
    """Pids of the agents that keep their records below this folder."""
    marks = (verb.encode(), str(folder / "state" / "agents").encode())
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if all(mark in command for mark in marks):
            found.append(int(path.parent.name))
    return found


def workers(folder):
    """Pids of the children of the agents that compute."""
    found, now = agents(folder, "burn-cpu"), process_table.snapshot()
    return [pid for pid in found if pid in now and now[pid].parent in found]


def resident(pids):
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total


def test_replica_kill(service):
    check_injector(ReplicaKill(), service, ("r0",), effect=died(service, "r0"))


def test_store_kill(service):
    check_injector(StoreKill(), service, ("s0",), effect=died(service, "s0"))


def test_process_kill_inside(service):
    check_injector(ProcessKill(role="engine"), service, ("r0",), effect=died(service, "r0/engine"))


def test_process_kill_of_the_main_process(service):
    check_injector(ProcessKill(), service, ("r0",), effect=died(service, "r0"))


def test_process_hang_inside(service):
    check_injector(ProcessHang(role="engine"), service, ("r0",), effect=mute(service))


def test_process_hang_of_the_whole_tree(service):
    check_injector(ProcessHang(), service, ("r0",), effect=mute(service))


def test_rollout_restart(service):
    check_injector(RolloutRestart(), service, ("r0", "s0"), effect=died(service, "s0"))


def test_cpu_stress(service, tmp_path):
    injector = CpuStress(workers=2, share=Share(0.3))
    check_injector(injector, service, ("r0",), effect=lambda: len(workers(tmp_path)) == 2)


def test_memory_stress(service, tmp_path):
    injector = MemoryStress(size=Size(96 << 20))
    check_injector(injector, service, ("r0",), effect=lambda: resident(agents(tmp_path, "hold-memory")) > 90 << 20)


def test_disk_fill(service, tmp_path_factory, request):
    folder = Path(f"{SHM}/blackstart-test-{os.getpid()}") if SHM.is_dir() else tmp_path_factory.mktemp("disk")
    folder.mkdir(exist_ok=True)
    request.addfinalizer(folder.rmdir)
    before = os.statvfs(folder)
    free = before.f_bavail * before.f_frsize

    def filled():
        now = os.statvfs(folder)
        return now.f_bavail * now.f_frsize < free - (8 << 20)

    injector = DiskFill(str(folder), leave=Size(free - (16 << 20)), at_most=Size(64 << 20))
    check_injector(injector, service, ("r0",), effect=filled)
    assert list(folder.iterdir()) == []


def test_command(service, tmp_path):
    flag = tmp_path / "flag"
    injector = Command(("touch", "flag"), ("test", "-e", "flag"), ("rm", "-f", "flag"), limit=timedelta(seconds=20))
    check_injector(injector, service, ("r0",), effect=flag.exists)


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        ("Leaky", "recover works from the record alone, in another process"),
        ("Idle", "the effect is there"),
        ("Unproven", "verify proves"),
        ("Eager", "plan changes nothing"),
        ("Undying", "the fault ends by itself at its deadline"),
    ],
)
def test_suite_names_the_broken_clause(service, monkeypatch, name, clause):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(testing, "SETTLE_S", 2.0 if name == "Idle" else 6.0)  # more where another process is waited for
    monkeypatch.setattr(testing, "SHORT_S", 0.5)
    import broken  # noqa: PLC0415 - importable by the suite's other processes, too

    injector = getattr(broken, name)(role="engine")
    type(injector).patience = timedelta(seconds=1 if name == "Unproven" else 10)
    with pytest.raises(ConformanceError) as problem:
        check_injector(injector, service, ("r0",), effect=mute(service))
    assert problem.value.clause == clause


def test_refusals_come_before_anything_changes(tmp_path, service):
    with closing(service()) as platform:
        r0 = platform.current("r0")
        with pytest.raises(Refusal, match=r"no process inside r0 .* has the role scheduler"):
            ProcessHang(role="scheduler").plan((r0,), platform)
        with pytest.raises(PlatformError, match="no processes of role nope"):
            ProcessKill(role="nope").plan((r0,), platform)
        with pytest.raises(Refusal, match="exits 0 before anything was injected"):
            Command(("true",), ("true",), ("true",)).plan((r0,), platform)
        with pytest.raises(Refusal, match=r"leaving 65536 bytes free in .* takes \d+ bytes, and `at_most` allows 4096"):
            DiskFill(str(tmp_path), at_most=Size(4096)).plan((r0,), platform)
        with pytest.raises(Refusal, match="available"):
            MemoryStress(size=Size(1 << 50)).plan((r0,), platform)
        port = r0.details["pid"]
    bare = ProcessSpec((Component("r0", "replica", command_line=f"victim.py serve {service.args[0].components[0].port}$"),))
    with closing(ProcessPlatform(bare, tmp_path, tmp_path / "state", dict(os.environ))) as platform:
        assert platform.current("r0").details["pid"] == port
        for injector in (ReplicaKill(), ProcessKill(), RolloutRestart()):
            with pytest.raises(Refusal, match="nothing would bring r0 back"):
                injector.plan((platform.current("r0"),), platform)


def test_disk_fill_leaves_a_foreign_file_alone(service, tmp_path):
    """The file was replaced by somebody else while the fault was on: recover says so and touches nothing."""
    space = os.statvfs(tmp_path)
    injector = DiskFill(str(tmp_path), leave=Size(space.f_bavail * space.f_frsize // 2), at_most=Size(1 << 50))
    with closing(service()) as platform:
        undo = injector.plan((platform.current("r0"),), platform).stamped("run.0", "disk-fill", {}, 60)
        fill = tmp_path / "blackstart-run.0.fill"
        fill.write_text("somebody's own")
        record = tmp_path / "state" / "agents" / "run.0--r0.json"
        record.parent.mkdir(parents=True)
        body = {"fault": "run.0", "verb": "fill-disk", "agent": "pid:999999@1", "boot": "", "undo_s": 1.0}
        record.write_text(json.dumps({**body, "record": {"path": str(fill), "bytes": 1, "leave": 1, "inode": 1}}))
        with pytest.raises(ForeignChange, match="left alone"):
            injector.recover(undo, platform)
        assert fill.read_text() == "somebody's own"
        fill.unlink()
        injector.recover(undo, platform)
        assert not record.exists()


def test_hang_that_somebody_else_ended_is_not_proven(service):
    with closing(service()) as platform:
        injector = ProcessHang(role="engine")
        undo = Undo.from_json(
            injector.plan((platform.current("r0"),), platform).stamped("run.1", "process-hang", {}, 60).to_json()
        )
        injector.inject(undo, platform)
        injector.verify(undo, platform)
        platform.signal(platform.current("r0/engine"), signal.SIGCONT)
        with pytest.raises(NotYet, match="not stopped"):
            injector.verify(undo, platform)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)


@pytest.mark.parametrize(
    "injector", [CpuStress(workers=1), MemoryStress(size=Size(32 << 20))], ids=["cpu-stress", "memory-stress"]
)
def test_stress_whose_record_is_lost_is_not_called_undone(service, tmp_path, injector):
    """Whoever recovers finds nothing to tell the agent by; the process table still has it."""
    with closing(service()) as platform, closing(service()) as other:
        undo = injector.plan((platform.current("r0"),), platform).stamped("run.4", injector.kind, {}, 60)
        injector.inject(undo, platform)
        (tmp_path / "state" / "agents" / "run.4--r0.json").unlink()
        injector.recover(undo, other)
        with pytest.raises(Differs, match="an agent still uses"):
            injector.verify_recovered(undo, other)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, other)


def test_stress_by_workers_that_do_not_work_is_not_proven(service, tmp_path):
    with closing(service()) as platform:
        injector = CpuStress(workers=1)
        undo = injector.plan((platform.current("r0"),), platform).stamped("run.2", "cpu-stress", {}, 60)
        injector.inject(undo, platform)
        for pid in workers(tmp_path):
            os.kill(pid, signal.SIGSTOP)
        while platform.agent_usage("run.2", undo.targets[0]).age_s < 3:
            time.sleep(0.1)
        with pytest.raises(NotYet, match="cores are in demand"):
            injector.verify(undo, platform)
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
