"""A model that is slow to read, under a server that loads it when it starts: what users wait for, and that nobody waits on after the drill."""

import os

import pytest
from blackstart.tests.command import Blackstart
from blackstart.tests.drills.test_standing import Server, drilled, server, told
from blackstart.tests.unit.test_slow_file import took_s

__all__ = ["server"]
DELAY_S = 3.0
SLOW = f"{{kind: model-corrupt, mutation: slow-read, delay: {DELAY_S}s, target: {{names: [r0]}}}}"
RESTART = "{kind: rollout-restart, target: {names: [r0]}, at: 1s}"


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel gives permission events to root alone")
@pytest.mark.parametrize("server", ["strict"], indirect=True)
def test_who_loads_a_slow_model_is_waited_for(blackstart: Blackstart, server: Server) -> None:
    """To open it and to read it once (Python reads more than it is asked for) it takes twice the delay; two seconds are allowed."""
    plain = drilled(blackstart, server, RESTART.replace("at: 1s", "at: 0s"))
    assert plain.result["measurements"]["recovery_time"]["lo_s"] < 2 * DELAY_S, plain.out + plain.err
    done = drilled(blackstart, server, SLOW, RESTART)
    assert (done.code, done.result["verdict"]) == (1, "failed"), done.out + done.err
    assert done.result["measurements"]["recovery_time"]["hi_s"] > 2 * DELAY_S
    assert [fault["undo_verified"] for fault in done.result["faults"]] == [True, True]
    (evidence, _) = [fault["evidence"] for fault in done.result["faults"]]
    assert evidence["facts"]["r0"]["took_s"] >= 2 * DELAY_S
    assert told(done.folder, "lapsed") == []
    assert min(took_s(server.model) for _ in range(5)) < DELAY_S
