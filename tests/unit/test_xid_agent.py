"""gpu_agent.py's log-xid by itself: what becomes of a false XID where agent, dcgmi or host engine die or are late. DCGM is simulated."""

import json

import pytest
from blackstart.injectors import gpu_agent
from blackstart.tests.accelerators import OTHER, WHOLE, FakeDcgm
from blackstart.tests.command import until
from blackstart.tests.unit.test_gpu_agent import Agent, agent, done_with

SAMPLE = {"line": None, "over": "over", "dcgm": {"uuid": WHOLE, "xid": 79}}
SLOW_S = 1.8  # less than dcgmi may take, more than an undo takes that does not wait for it


@pytest.fixture
def dcgm(tmp_path):
    return FakeDcgm(tmp_path / "dcgm")


def kill(running: Agent) -> None:
    running.process.kill()
    running.process.wait()


def test_an_undo_waits_for_the_injection_of_an_agent_that_died(dcgm, tmp_path):
    with agent(tmp_path, dcgm.environment, "log-xid", SAMPLE) as running:
        assert running.said()["event"] == "effective"
        dcgm.become(slow={"test": SLOW_S}, samples={})  # as a host engine that started again
        (orphan,) = until("the XID to be told again", lambda: dcgm.state_of("begun"))
        kill(running)
        dcgm.become(slow={})
        assert running.undo()["event"] == "undone"
        until("what the agent left to end", lambda: not gpu_agent.start_of(orphan))
        assert (dcgm.samples()[-1:], running.left()) == ([0], [])


def test_a_sample_that_the_host_engine_takes_after_the_undo_is_covered_before(dcgm, tmp_path):
    """dcgmi, whose time is over, had asked already; with its stamp that sample is older than the one of the undo."""
    dcgm.become(late=1)
    request = {"fault": "f.1", "state": str(tmp_path / "held.json"), "deadline_s": 60.0, **SAMPLE}
    done = done_with("gpu_agent.DCGMI_S = 1.0", f"hold('log-xid', {request!r})", dcgm.environment)
    assert "did not end within 1 s: DCGM's host engine hangs" in json.loads(done.stdout)["why"], done.stderr
    assert not (tmp_path / "held.json").exists()  # it is undone
    assert len(dcgm.state_of("queued")) == 1
    dcgm.goes_on()
    assert dcgm.samples() == [79, 0]


def test_a_gpu_is_known_by_its_uuid_when_the_host_engine_numbers_anew(dcgm, tmp_path):
    with agent(tmp_path, dcgm.environment, "log-xid", SAMPLE) as running:
        assert running.said()["event"] == "effective"
        dcgm.numbers = {WHOLE: 0, OTHER: 1}
        dcgm.become(gpus=dcgm.numbers, samples={"1": [[1_000_000, 79]]})  # and the other one really has that XID
        until("the XID to be told again", lambda: dcgm.samples() == [79])
        kill(running)
        assert running.undo()["event"] == "undone"
        assert (dcgm.samples(), dcgm.samples(OTHER)) == ([79, 0], [79])


def test_what_was_in_memory_is_none_of_the_drills_after_another_boot(dcgm, tmp_path):
    with agent(tmp_path, dcgm.environment, "log-xid", SAMPLE) as running:
        assert running.said()["event"] == "effective"
        kill(running)
        running.state.write_text(running.state.read_text().replace(gpu_agent.boot(), "another"))
        assert running.undo()["event"] == "undone"
        assert (dcgm.samples(), running.left()) == ([79], [])


def record(dcgm: FakeDcgm, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Of a fault of both signals that DCGM has; this process is who undoes it."""
    monkeypatch.setenv("PATH", dcgm.environment["PATH"])
    dcgm.happens(79)
    return {"line": "line", "over": "over", "dcgm": {**SAMPLE["dcgm"], "unanswered": False}, "boot": gpu_agent.boot()}


def test_dcgm_is_undone_where_the_log_cannot_be_written(dcgm, tmp_path, monkeypatch):
    left = record(dcgm, monkeypatch)
    monkeypatch.setattr(gpu_agent, "KMSG", str(tmp_path / "missing" / "kmsg"))
    with pytest.raises(gpu_agent.Failed, match="kmsg cannot be written"):
        gpu_agent.log_undo(left)
    assert dcgm.samples() == [79, 0]
    dcgm.happens(48)
    with pytest.raises(gpu_agent.Failed, match=r"DCGM has XID 48 .* left alone; .*kmsg cannot be written"):
        gpu_agent.log_undo(left)


def test_a_drill_is_said_to_be_over_once_and_not_after_another_boot(dcgm, monkeypatch):
    """However often it is undone, and although DCGM's part of it is not."""
    left, log = record(dcgm, monkeypatch), ["line"]
    monkeypatch.setattr(gpu_agent, "logged", lambda word: [line for line in log if word in line])
    monkeypatch.setattr(gpu_agent, "log_line", log.append)
    dcgm.happens(48)
    with pytest.raises(gpu_agent.Foreign, match="XID 48"):
        gpu_agent.log_undo(left)
    gpu_agent.log_undo({**left, "dcgm": None})
    assert log == ["line", "over"]
    left["boot"] = "another"
    log.clear()
    gpu_agent.log_undo(left)
    assert (log, dcgm.samples()) == ([], [79, 48])
