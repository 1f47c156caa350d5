"""The agent that makes the reads of one file slow, against real readers: whoever dies, the kernel lets them all go on."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors import agent
from blackstart.tests.unit.test_agent import LIMIT_S, held, refusal, rest, state, undo, wait_for

__all__ = ["state"]
DELAY_S = 0.4
READ = "import sys; print(len(open(sys.argv[1], 'rb', buffering=0).read(9)))"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel gives permission events to root alone")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights" * 99)
    return path


def slow(*paths: Path, delay_s: float = DELAY_S) -> dict[str, Any]:
    return {"paths": [str(path) for path in paths], "delay_s": delay_s}


def took_s(path: Path) -> float:
    """To open it and read from it, for this process."""
    began = time.monotonic()
    with path.open("rb", buffering=0) as file:
        file.read(1)
    return time.monotonic() - began


@pytest.fixture
def stuck(file: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    """To be filled with those who wait for the file; they end with the test."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for reader in found:
        reader.kill()
        reader.communicate()


def reader(file: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", READ, str(file)], stdout=subprocess.PIPE, text=True)


def test_opening_and_reading_wait_and_nothing_else_does(file: Path, state: Path) -> None:
    other = file.with_name("other.bin")
    other.write_bytes(b"x")
    with held("slow-file", state, **slow(file)) as process:
        assert process.said["event"] == "effective", process.said
        assert took_s(file) >= 2 * DELAY_S
        with ThreadPoolExecutor(60) as pool:  # each waits for itself, and not for those before it
            began = time.monotonic()
            assert min(pool.map(took_s, [file] * 60)) >= 2 * DELAY_S
            assert time.monotonic() - began < 30 * DELAY_S
        assert min(took_s(other) for _ in range(5)) < DELAY_S
        file.write_bytes(b"new")  # by its opening slow as well, and by nothing hindered
        assert file.read_bytes() == b"new"
        process.stdin.close()
        assert rest(process)["reason"] == "standard input closed"
    assert min(took_s(file) for _ in range(5)) < DELAY_S
    assert list(state.parent.iterdir()) == []


def test_a_file_of_many_gigabytes_can_be_read(file: Path, state: Path) -> None:
    """The kernel opens it once more for each that waits, and denies whom it cannot open it for."""
    os.truncate(file, 5 << 30)
    with held("slow-file", state, **slow(file, delay_s=0.1)), file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        assert opened.read() == b"\0"


def workers_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("whom", ["agent", "worker", "both stopped", "agent stopped"])
def test_whoever_dies_or_stops_those_who_wait_go_on(
    file: Path, state: Path, stuck: list["subprocess.Popen[str]"], whom: str
) -> None:
    with held("slow-file", state, **slow(file, delay_s=100.0), deadline_s=5.0 if "agent stopped" in whom else 100.0) as process:
        (worker,) = workers_of(process.pid)
        start = agent.start_and_state(worker)[0]
        stuck += [reader(file), reader(file)]
        wait_for(lambda: all("fanotify" in Path(f"/proc/{each.pid}/wchan").read_text() for each in stuck), "two readers to wait")
        if "stopped" in whom:
            os.kill(process.pid, signal.SIGSTOP)
        if whom == "both stopped":
            os.kill(worker, signal.SIGSTOP)
            assert undo(state)[1]["event"] == "undone"
        elif whom != "agent stopped":  # then the worker lets go by itself at the deadline
            os.kill(process.pid if whom == "agent" else worker, signal.SIGKILL)
        assert [each.communicate(timeout=LIMIT_S)[0] for each in stuck] == ["9\n", "9\n"]
        if whom == "worker":  # then nobody waits, and the agent does not say that it holds anything
            assert rest(process) == {
                "event": "undone",
                "reason": f"signal {int(signal.SIGCHLD)}",
                "ended": [f"pid:{worker}@{start}"],
            }
        os.kill(process.pid, signal.SIGCONT)
        process.kill()
    assert undo(state)[0] == 0
    assert min(took_s(file) for _ in range(5)) < DELAY_S


def test_a_reader_that_waits_can_be_killed(file: Path, state: Path, stuck: list["subprocess.Popen[str]"]) -> None:
    with held("slow-file", state, **slow(file, delay_s=100.0)):
        stuck.append(reader(file))
        wait_for(lambda: "fanotify" in Path(f"/proc/{stuck[0].pid}/wchan").read_text(), "the reader to wait")
        stuck[0].kill()
        assert stuck[0].wait(LIMIT_S) == -signal.SIGKILL


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))


def test_what_it_lacks_is_named(file: Path, state: Path) -> None:
    assert "No such file" in refusal("slow-file", state, **slow(file.with_name("none")))
    assert "is no regular file" in refusal("slow-file", state, **slow(file.parent))
    assert "cannot ask before /proc/version is read" in refusal("slow-file", state, **slow(Path("/proc/version")))
    with held("slow-file", state, limit=few_files, **slow(file)) as process:
        assert process.said == {"event": "refused", "why": "at most 100 files may be open here (ulimit -n), and 128 are needed"}


def test_without_rights_it_is_refused(file: Path) -> None:
    """In a child of this process: another user may not be able to start this interpreter."""
    told, tell = os.pipe()
    if not (child := os.fork()):
        try:
            os.setuid(65534)
            agent.asked_first([str(file)])
        except agent.Refused as why:
            os.write(tell, str(why).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    with os.fdopen(told) as said:
        why = said.read()
    assert "the kernel gives to root alone (CAP_SYS_ADMIN)" in why
    assert why.endswith("Operation not permitted")
