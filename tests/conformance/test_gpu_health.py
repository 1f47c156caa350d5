"""gpu-health-signal on a live service: the kernel's log is the machine's own, the GPU and DCGM are simulated."""

import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from blackstart.injectors import gpu_agent
from blackstart.injectors.base import Differs, ForeignChange, NotYet, Refusal, Undo
from blackstart.injectors.gpu_health import GpuHealthSignal
from blackstart.injectors.platforms.base import PlatformError
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.testing import check_injector
from blackstart.tests.accelerators import OTHER, SLICE, WHOLE, FakeDcgm, FakeGpus, needs_log
from blackstart.tests.command import until
from blackstart.tests.conformance.test_accelerator_faults import OWN_MIB, opened_on

Opened = Callable[[], ProcessPlatform]
LINE = "NVRM: Xid (PCI:ffff:17:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus. [blackstart {fault} r0]"
CONSENTED, BY_DCGM = GpuHealthSignal(kernel_log=True), GpuHealthSignal(dcgm=True)
NO_ENGINE = "Error: unable to establish a connection to the specified host: localhost\nError: Unable to connect to host engine. Not valid."


@pytest.fixture
def fakes(tmp_path):
    return FakeGpus(tmp_path / "fake", sliced=True)


@pytest.fixture
def dcgm(tmp_path):
    return FakeDcgm(tmp_path / "dcgm")


@pytest.fixture
def simulated(tmp_path, fakes, dcgm):
    """r0 has memory on the first GPU."""
    for opened in opened_on(tmp_path, {**fakes.environment, **dcgm.environment}):
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
        assert "say `kernel_log: true` (a line in the kernel's log), `dcgm: true` (a sample in DCGM's cache), or both" in why
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


def ill(dcgm: FakeDcgm) -> bool:
    return dcgm.samples()[-1:] == [79]


def test_the_whole_contract_by_dcgm(simulated, dcgm):
    check_injector(BY_DCGM, simulated, ("r0",), effect=functools.partial(ill, dcgm))
    assert set(dcgm.samples()) == {79, 0}
    assert not dcgm.samples(OTHER)


def test_dcgm_has_the_xid_and_then_none(simulated, dcgm):
    with closing(simulated()) as platform:
        undo = planned(platform, BY_DCGM)
        with pytest.raises(NotYet, match="DCGM has no XID as the newest of r0's GPU, not 79"):
            BY_DCGM.verify(undo, platform)
        BY_DCGM.inject(undo, platform)
        found = BY_DCGM.verify(undo, platform)
        assert found.source == "DCGM's host engine, as another client reads it"
        assert found.detail == "DCGM has XID 79 as the newest of its GPU 1; hardware: simulated"
        with pytest.raises(Differs, match="DCGM has XID 79 as the newest of r0's GPU"):
            BY_DCGM.verify_recovered(undo, platform)
        BY_DCGM.recover(undo, platform)
        said = BY_DCGM.verify_recovered(undo, platform).detail
        assert "DCGM has no XID as the newest of its GPU 1 (its health watches, where set, remember XID 79 until the host" in said
        assert dcgm.samples() == [79, 0]


def test_an_xid_is_told_once_and_again_only_where_dcgm_has_lost_it(simulated, dcgm):
    with closing(simulated()) as platform:
        undo, asked = planned(platform, BY_DCGM), platform.current("r0")
        BY_DCGM.inject(undo, platform)
        seen = platform.agent_seen(undo.fault, asked)["t"]
        until("two looks of the agent's", lambda: platform.agent_seen(undo.fault, asked)["t"] > seen + 2)
        assert dcgm.samples() == [79]
        dcgm.become(samples={})  # as a host engine that started again
        until("the XID to be there again", lambda: dcgm.samples() == [79])
        BY_DCGM.recover(undo, platform)


def test_a_killed_agents_xid_is_taken_back_by_whoever_recovers(simulated, dcgm):
    with closing(simulated()) as platform:
        undo = planned(platform, BY_DCGM)
        BY_DCGM.inject(undo, platform)
        (agent,) = platform.accelerators(undo.targets[0], undo.fault, opencl=False)["agents"]
        os.kill(agent, signal.SIGKILL)
    with closing(simulated()) as fresh:
        with pytest.raises(Differs, match="XID 79"):
            BY_DCGM.verify_recovered(undo, fresh)
        BY_DCGM.recover(undo, fresh)
        BY_DCGM.verify_recovered(undo, fresh)
        assert dcgm.samples() == [79, 0]


def test_another_xid_that_comes_meanwhile_is_left_alone_and_told(simulated, dcgm):
    with closing(simulated()) as platform:
        undo = planned(platform, BY_DCGM)
        BY_DCGM.inject(undo, platform)
        dcgm.happens(48)
        stopped = until("the agent to stop", lambda: platform.agent_seen(undo.fault, undo.targets[0])["stopped"])
        assert stopped == "DCGM has XID 48 as the newest of its GPU 1, which is none of this drill's; it was left alone"
        with pytest.raises(NotYet, match="XID 48"):
            BY_DCGM.verify(undo, platform)
        for _ in range(2):
            with pytest.raises(ForeignChange, match="r0: DCGM has XID 48 as the newest of its GPU 1"):
                BY_DCGM.recover(undo, platform)
        with pytest.raises(Differs, match="DCGM has XID 48 as the newest of r0's GPU"):
            BY_DCGM.verify_recovered(undo, platform)
        assert dcgm.samples() == [79, 48]


LACKING = (
    ({"gpus": {OTHER: 0}}, f"DCGM's host engine does not list {WHOLE}, but {OTHER}; `dcgm` needs dcgmi in PATH"),
    ({"samples": {"1": [[1, 31]]}}, f"DCGM has XID 31 of {WHOLE} already, which a drill must not cover"),
    ({"fails": {"dmon": ["# Entity  XIDER\n      Id\n    GPU 1     31", 0]}}, f"DCGM has XID 31 of {WHOLE} already"),  # DCGM 2
    ({"fails": {"discovery": [NO_ENGINE, 235]}}, "no host engine of DCGM (nv-hostengine) answers dcgmi on this machine; `dcgm`"),
    ({"fails": {"discovery": ["Error: Cannot get GPU list from remote node.", 1]}}, f"{WHOLE}, but Error: Cannot get GPU list"),
    (
        {"fails": {"dmon": ["Error setting watches. Result: -29: x", 1]}},
        "does not tell the XIDs of its GPU 1: Error setting watches",
    ),
    ({"hangs": ["dmon"]}, "dcgmi dmon -e 230 -i 1 -c 1 did not end within 2.5 s: DCGM's host engine hangs; `dcgm` needs"),
)


def test_what_dcgm_lacks_is_refused_by_name(simulated, dcgm):
    with closing(simulated()) as platform:
        for changed, why in LACKING:
            dcgm.become(gpus=dcgm.numbers, samples={}, fails={}, hangs=[])
            dcgm.become(**changed)
            assert why in refused(platform, BY_DCGM)
            assert 79 not in dcgm.samples()


def test_without_dcgmi_or_for_a_slice_or_for_two_on_one_gpu_it_is_refused(tmp_path, fakes, dcgm):
    for opened in opened_on(tmp_path, {**fakes.environment, "PATH": str(tmp_path)}, ("r0", "r1")):
        with closing(opened()) as platform:
            r0, r1 = platform.current("r0"), platform.current("r1")
            fakes.process(2, r0.details["pid"], OWN_MIB)
            assert f"{SLICE} is a slice of {OTHER}, and dcgmi injects into whole GPUs only" in refused(platform, BY_DCGM)
            fakes.process(2, r0.details["pid"], 0)
            fakes.process(0, r0.details["pid"], OWN_MIB)
            named = GpuHealthSignal(dcgm=True, device=WHOLE)
            assert "dcgmi, DCGM's client, cannot be run (No such file or directory); `dcgm` needs" in refused(platform, named)
            fakes.process(0, r1.details["pid"], OWN_MIB)
            platform.dcgm = {WHOLE: {"why": "", "gpu": 1, "xid": 0}}.__getitem__
            with pytest.raises(Refusal, match="several targets share a GPU"):
                named.plan((r0, r1), platform)


def test_a_host_engine_that_hangs_holds_nobody_up_and_leaves_the_record(simulated, dcgm):
    with closing(simulated()) as platform:
        undo = planned(platform, BY_DCGM)
        dcgm.become(fails={"test": ["Error: Unable to inject info. Return: x", 1]})
        with pytest.raises(PlatformError, match="DCGM took no XID 79 for its GPU 1: Error: Unable to inject info"):
            BY_DCGM.inject(undo, platform)
        dcgm.become(fails={})
        BY_DCGM.inject(undo, platform)
        dcgm.become(hangs=["dmon"])
        with pytest.raises(PlatformError, match="could not be undone: dcgmi dmon -e 230 -i 1 -c 1 did not end"):
            BY_DCGM.recover(undo, platform)
        dcgm.become(hangs=[])
        BY_DCGM.recover(undo, platform)
        BY_DCGM.verify_recovered(undo, platform)


@needs_log
def test_both_signals_are_proven_and_undone(simulated, dcgm):
    both = GpuHealthSignal(kernel_log=True, dcgm=True)
    with closing(simulated()) as platform:
        undo = planned(platform, both)
        both.inject(undo, platform)
        logged_s = time.time()
        found = both.verify(undo, platform)
        assert found.source.startswith("the kernel's log, as another process reads it; DCGM's host engine")
        assert "NVRM: Xid (PCI:ffff:17:00): 79" in found.detail
        assert "; DCGM has XID 79 as the newest of its GPU 1; hardware: simulated" in found.detail
        dcgm.become(samples={})
        with pytest.raises(NotYet, match="DCGM has no XID"):
            both.verify(undo, platform)
        both.recover(undo, platform)
        dcgm.happens(79, logged_s)  # so late DCGM 4 hears of the line
        assert "the drill is over" in both.verify_recovered(undo, platform).detail


def test_an_xid_that_would_blind_dcgm_is_refused_in_the_log_alone():
    (problem,) = GpuHealthSignal(kernel_log=True, xid=119).problems()
    assert "`xid` is 119 in the kernel's log: DCGM 4, which reads that log, asks the driver nothing more" in problem
    assert not GpuHealthSignal(dcgm=True, xid=119).problems()
    assert not GpuHealthSignal(kernel_log=True, xid=79).problems()
