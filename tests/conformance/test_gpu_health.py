"""gpu-health-signal on a live service: the kernel's log is the machine's own, the GPU is simulated."""

import functools
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from blackstart.injectors import gpu_agent
from blackstart.injectors.base import Differs, NotYet, Refusal, Undo
from blackstart.injectors.gpu_health import GpuHealthSignal
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.testing import check_injector
from blackstart.tests.accelerators import FakeGpus, needs_log
from blackstart.tests.conformance.test_accelerator_faults import OWN_MIB, opened_on

Opened = Callable[[], ProcessPlatform]
LINE = "NVRM: Xid (PCI:ffff:17:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus. [blackstart {fault} r0]"
CONSENTED = GpuHealthSignal(kernel_log=True)


@pytest.fixture
def fakes(tmp_path):
    return FakeGpus(tmp_path / "fake")


@pytest.fixture
def simulated(tmp_path, fakes):
    """r0 has memory on the first GPU."""
    for opened in opened_on(tmp_path, fakes.environment):
        with closing(opened()) as platform:
            fakes.process(0, platform.current("r0").details["pid"], OWN_MIB)
        yield opened


def planned(platform: ProcessPlatform, injector: GpuHealthSignal) -> Undo:
    undo = injector.plan((platform.current("r0"),), platform)
    return undo.stamped(f"signal.{time.time_ns()}", injector.kind, {}, 60.0)


def refused(platform: ProcessPlatform, injector: GpuHealthSignal) -> str:
    with pytest.raises(Refusal) as problem:
        planned(platform, injector)
    return str(problem.value)


def alarmed(since: int) -> bool:
    """Whether a monitor of the log would have a GPU as ill, by util-linux's reader, from what came since the test began."""
    said = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [
        line
        for line in said
        if "[blackstart check." in line and int(line.partition("[blackstart check.")[2].partition(".")[0]) > since
    ]
    return bool(ours) and "NVRM: Xid" in ours[-1]


@needs_log
def test_the_whole_contract(simulated):
    check_injector(CONSENTED, simulated, ("r0",), effect=functools.partial(alarmed, time.time_ns()))


@needs_log
def test_the_line_is_read_by_another_process_and_is_said_to_be_over(simulated):
    with closing(simulated()) as platform:
        undo = planned(platform, CONSENTED)
        with pytest.raises(NotYet, match="but nothing of this drill"):
            CONSENTED.verify(undo, platform)
        assert "nothing of this drill" in CONSENTED.verify_recovered(undo, platform).detail
        CONSENTED.inject(undo, platform)
        found = CONSENTED.verify(undo, platform)
        assert found.source == "the kernel's log, as another process reads it"
        assert found.detail == f"{LINE.format(fault=undo.fault)}; hardware: simulated"
        with pytest.raises(Differs, match="says of r0's GPU last: NVRM: Xid"):
            CONSENTED.verify_recovered(undo, platform)
        CONSENTED.recover(undo, platform)
        assert "the drill is over; the XID of PCI:ffff:17:00 before" in CONSENTED.verify_recovered(undo, platform).detail
        with pytest.raises(NotYet, match="does not have the line of r0's GPU last"):
            CONSENTED.verify(undo, platform)


def test_without_consent_or_means_it_is_refused_by_name(simulated, fakes):
    with closing(simulated()) as platform:
        why = refused(platform, GpuHealthSignal())
        assert "say `kernel_log: true` where that may be. DCGM's field injection (dcgmi test --inject) is not reached" in why
        fakes.fail("nvmlDeviceGetPciInfo_v3", 3)
        platform.accelerators = functools.partial(writable, platform.accelerators)
        assert "NVML does not tell where GPU-1" in refused(platform, CONSENTED)
        platform.accelerators = functools.partial(
            writable, platform.accelerators, why="/dev/kmsg cannot be written to by this user"
        )
        assert "/dev/kmsg cannot be written to by this user; run blackstart as root" in refused(platform, CONSENTED)


def writable(looked: Callable[..., dict], *arguments: object, why: str = "", **more: object) -> dict:
    return {**looked(*arguments, **more), "unwritable": why}


def test_a_log_that_takes_no_lines_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_agent, "KMSG", str(tmp_path / "missing"))
    assert gpu_agent.unwritable() == f"{tmp_path}/missing cannot be written to by this user"
    monkeypatch.setattr(gpu_agent, "KMSG", os.devnull)
    monkeypatch.setattr(gpu_agent, "SWITCH", str(tmp_path / "switch"))
    (tmp_path / "switch").write_text("off\n")
    assert gpu_agent.unwritable() == f"this kernel drops what is written to /dev/null ({tmp_path}/switch is off)"
    (tmp_path / "switch").write_text("ratelimit\n")
    assert gpu_agent.unwritable() == ""
