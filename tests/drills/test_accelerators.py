"""Whole drills of accelerators: on a processor by OpenCL, and on a simulated GPU whatever is killed."""

import json
import os
import re
import signal
from contextlib import closing
from pathlib import Path

import pytest
from blackstart.scenarios.demo import Demo
from blackstart.tests.accelerators import WHOLE, FakeAmd, FakeGpus, FakeOpenCl, pocl
from blackstart.tests.command import Blackstart, await_well, kill_quietly

from .test_survival import in_fault, scenario

OWN_MIB = 500
SHORT = ("steady_state.hold=4s", "settle=3s", "faults[0].for=5s", "observe=15s")


@pytest.fixture(autouse=True)
def well(demo: Demo) -> None:
    await_well(demo.service_file)


def test_the_report_says_that_a_processor_is_no_gpu(blackstart: Blackstart, demo: Demo, tmp_path: Path) -> None:
    fault = "{kind: gpu-saturate, duty: 20%, device: 'opencl:0', target: {names: [r0]}, for: 5s}"
    environment = pocl(tmp_path / "opencl")
    path = scenario(blackstart.folder, fault)
    done = blackstart.telling("run", path, "--set", "observe=6s", "--service", demo.service_file, "--yes", **environment)
    assert done.result["hardware"] == "opencl-cpu", done.out + done.err
    (told,) = done.result["faults"]
    assert (told["undone"], told["undo_verified"]) == (True, True)
    assert "hardware: opencl-cpu" in told["evidence"]["detail"]
    assert done.code in {0, 3}, done.out + done.err


@pytest.mark.parametrize(
    ("kind", "gpus"),
    [
        ("gpu-saturate, duty: 30%", FakeGpus),
        ("gpu-memory-fill, leave: 1GiB", FakeGpus),
        ("gpu-saturate, duty: 30%", FakeAmd),
        ("gpu-memory-fill, leave: 1GiB", FakeOpenCl),
    ],
)
def test_sigkill_of_blackstart_and_of_the_agent_leaves_no_megabyte(
    kind: str, gpus: type[FakeGpus], blackstart: Blackstart, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(gpus(tmp_path / "fake")) as fakes:
        fakes.process(0, int((demo.folder / "pids" / "r0.pid").read_text()), OWN_MIB)
        for name, value in fakes.environment.items():
            monkeypatch.setenv(name, value)
        process, folder = in_fault(blackstart, demo, f"{{kind: {kind}, target: {{names: [r0]}}, for: 50s}}")
        assert fakes.used_mib(0) > OWN_MIB + 100
        records = Path(os.environ["BLACKSTART_STATE_DIR"]) / "agents"
        (record,) = records.glob("*.json")
        agent = int(re.findall(r"\d+", json.loads(record.read_text())["agent"])[0])
        process.send_signal(signal.SIGSTOP)  # so that it cannot see its agent die
        os.kill(agent, signal.SIGKILL)
        kill_quietly(process)
        done = Blackstart(tmp_path)("recover", folder.name)
        assert done.code == 0, done.out + done.err
        assert fakes.used_mib(0) == OWN_MIB
        assert list(records.glob("*.json*")) == []


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("gpu-compute-saturation", ("objectives.availability=>= 90%",)),
        ("vram-hog-on-restart", ()),
    ],  # 99 % take 100 requests to tell
)
def test_a_shipped_scenario_is_refused_without_a_gpu_and_drilled_with_one(
    name: str, more: tuple[str, ...], blackstart: Blackstart, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = blackstart("plan", name, "--service", demo.service_file, LD_LIBRARY_PATH="")
    assert refused.code == 2
    assert "so nobody tells which GPU is r" in " ".join(refused.err.split())
    fakes = FakeGpus(tmp_path / "fake")
    for place, replica in enumerate(("r0", "r1")):
        fakes.process(place, int((demo.folder / "pids" / f"{replica}.pid").read_text()), OWN_MIB)
    for variable, value in fakes.environment.items():
        monkeypatch.setenv(variable, value)
    words = [word for setting in (*SHORT, *more) for word in ("--set", setting)]
    done = blackstart.telling("run", name, *words, "--service", demo.service_file, "--yes", within_s=110.0, wanted="passed")
    assert (done.code, done.result["verdict"]) == (0, "passed"), done.out + done.err
    assert done.result["hardware"] == "simulated"
    assert all(fault["evidence"] and fault["undo_verified"] for fault in done.result["faults"])
    assert fakes.used_mib(0) + fakes.used_mib(1) <= 2 * OWN_MIB


def test_a_gpu_of_somebody_else_is_refused_before_anything_changes(
    blackstart: Blackstart, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = FakeGpus(tmp_path / "fake")
    for name, value in fakes.environment.items():
        monkeypatch.setenv(name, value)
    path = scenario(blackstart.folder, f"{{kind: gpu-saturate, device: {WHOLE}, target: {{names: [r0]}}, for: 5s}}")
    done = blackstart("plan", path, "--service", demo.service_file)
    assert done.code == 2
    assert f"{WHOLE} belongs to no target" in " ".join(done.err.split())
