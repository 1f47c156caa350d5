"""The prober's process: its commands, its end whatever ends its parent, what it costs."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.measure import prober as program
from blackstart.drills.measure.probing import Prober, ProbingError
from blackstart.drills.measure.samples import read_samples

CONTROL = {"name": "control", "kind": "control", "period_s": 0.05}


def config(folder: Path, **more: Any) -> dict[str, Any]:
    return {"origin": time.monotonic(), "folder": str(folder), "seed": 5, "service": {}, "lanes": [CONTROL], **more}


def until(condition: Callable[[], Any], awaited: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {awaited}"
        select.select([], [], [], 0.02)


def running(pid: int) -> bool:
    """Of a process that need not be a child: a zombie has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_stop_ends_it_in_order_and_compresses(tmp_path: Path) -> None:
    with Prober() as prober:
        prober.start(config(tmp_path))
        assert prober.pid is not None
        family = [prober.pid, *children(prober.pid)]
        assert prober.alive()
        until(lambda: len(read_samples(tmp_path).probes) >= 3, "three pings")
        plain = read_samples(tmp_path)
        said = prober.stop()
        assert not prober.alive()
    assert said is not None
    whole = read_samples(tmp_path)
    assert said["sent"] == len(whole.probes) >= len(plain.probes)
    assert len(whole.clock) >= 2
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "clock.jsonl", "lanes.json", "ledger.jsonl.gz", "probes.bin.gz", "texts.jsonl",
    ]  # fmt: skip
    assert len(family) == 2, "the prober and its echo"
    until(lambda: not any(map(running, family)), "the end of both processes")


@pytest.mark.parametrize("how", ["input", "term"])
def test_it_ends_when_its_input_closes_and_on_sigterm(tmp_path: Path, how: str) -> None:
    argv = [sys.executable, "-I", program.__file__, "-"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(config(tmp_path)).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["event"] == "ready"
        until(lambda: read_samples(tmp_path).probes, "a ping")
        if how == "input":
            process.stdin.close()
        else:
            process.terminate()
        assert process.wait(20) == 0
        assert json.loads(process.stdout.readline())["event"] == "stopped"
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
    assert read_samples(tmp_path).probes


def test_one_that_was_begun_and_never_told_what_to_probe_leaves_nothing(tmp_path: Path) -> None:
    with Prober() as prober:
        prober.begin(tmp_path)
        pid = prober.pid
        assert pid is not None
        assert running(pid)
    assert not running(pid)
    assert not list(tmp_path.iterdir())


PARENT = """
import json, sys
from blackstart.drills.measure.probing import Prober
prober = Prober()
prober.start(json.loads(sys.argv[1]))
print(prober.pid, flush=True)
sys.stdin.read()
"""


def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, json.dumps(config(tmp_path))]
    parent = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    family = [pid, *children(pid)]
    parent.kill()
    parent.communicate(timeout=20)
    until(lambda: not any(map(running, family)), "the end of the prober and its echo")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_does_not_outlive_a_killed_parent_even_when_its_input_stays_open(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    settings = tmp_path / "config.json"
    tied = (
        "import json, os, subprocess, sys, time\n"
        "config = json.loads(sys.argv[1]); config['parent'] = os.getpid()\n"
        f"open({str(settings)!r}, 'w').write(json.dumps(config))\n"
        f"p = subprocess.Popen([sys.executable, '-I', {program.__file__!r}, {str(settings)!r}], stdin={reading})\n"
        "p.wait()\n"
    )
    argv = [sys.executable, "-c", tied, json.dumps(config(tmp_path / "samples"))]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=[reading])
    try:
        assert parent.stdout is not None
        pid = json.loads(parent.stdout.readline())["pid"]
        parent.kill()
        parent.wait()
        until(lambda: not running(pid), "the prober's end")
    finally:
        os.close(reading)
        os.close(writing)
        parent.communicate(timeout=20)


def test_stop_does_not_wait_for_a_prober_that_hangs(tmp_path: Path) -> None:
    prober = Prober()
    prober.start(config(tmp_path))
    assert prober.pid is not None
    os.kill(prober.pid, signal.SIGSTOP)
    began = time.monotonic()
    assert prober.stop(0.5) is None
    assert time.monotonic() - began < 20
    assert not prober.alive()
    assert read_samples(tmp_path).lanes, "what it had written is there"


def test_what_it_says_at_a_failed_start_is_in_the_error(tmp_path: Path) -> None:
    with Prober() as prober, pytest.raises(ProbingError, match="KeyError"):
        prober.start(config(tmp_path, lanes=[{"name": "x", "kind": "unheard-of", "period_s": 1}]))
    with pytest.raises(ProbingError, match="has not been started"):
        Prober().read_back(1)


def test_it_costs_little(tmp_path: Path) -> None:
    """A generous bound for a busy machine; the figure itself is in the documentation of the measurements."""
    with Prober() as prober:
        prober.start(config(tmp_path, lanes=[{**CONTROL, "period_s": 0.02}]))
        began = time.monotonic()
        until(lambda: len(read_samples(tmp_path).probes) >= 50, "fifty pings")
        said = prober.stop()
    assert said is not None
    assert said["cpu_s"] < 0.5 + 0.25 * (time.monotonic() - began)
