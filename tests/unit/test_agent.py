"""The agent as a process of its own, against real victims: it must undo its fault whoever dies first."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from blackstart.injectors import agent

AGENT = Path(agent.__file__)
LIMIT_S = 30.0


def wait_for(condition, what):
    limit = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < limit, f"waited {LIMIT_S} s for {what}"
        time.sleep(0.01)
    return found


def state_of(pid):
    return agent.start_and_state(pid)[1] or "gone"


@pytest.fixture
def victim():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state" / "f.json"


@contextmanager
def held(verb, state, *, limit=None, **request):
    """An agent that holds a fault; its first line is read. It is killed afterwards, whatever the test did to it.

    `limit` is called in it before it begins.
    """
    state.parent.mkdir(exist_ok=True)
    body = {"fault": "run.0", "state": str(state), "deadline_s": 120.0, "lease_s": None, **request}
    with subprocess.Popen(
        [sys.executable, "-I", str(AGENT), verb, json.dumps(body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        preexec_fn=limit,  # noqa: PLW1509 - limits are set in the agent alone, and this process has one thread
    ) as process:
        try:
            process.said = json.loads(process.stdout.readline() or "{}")
            yield process
        finally:
            process.kill()


def rest(process):
    return json.loads(process.stdout.read() or "{}")


def undo(state):
    ended = subprocess.run([sys.executable, "-I", str(AGENT), "undo", f"@{state}"], capture_output=True, text=True, check=False)
    return ended.returncode, json.loads(ended.stdout)


def test_fault_holds_until_standard_input_closes(victim, state):
    with held("stop-process", state, processes=[agent.identity(victim.pid)]) as process:
        assert process.said["event"] == "effective"
        assert state_of(victim.pid) == "T"
        assert json.loads(state.read_text())["record"] == {"processes": [agent.identity(victim.pid)]}
        process.stdin.close()
        assert rest(process)["reason"] == "standard input closed"
    assert state_of(victim.pid) != "T"
    assert not state.exists()


@pytest.mark.parametrize(("limits", "reason"), [({"deadline_s": 0.3}, "deadline"), ({"lease_s": 0.3}, "lease lapsed")])
def test_fault_ends_by_itself(victim, state, limits, reason):
    with held("stop-process", state, processes=[agent.identity(victim.pid)], **limits) as process:
        assert rest(process)["reason"] == reason
    assert state_of(victim.pid) != "T"
    assert not state.exists()


def test_renewed_lease_goes_on(victim, state):
    with held("stop-process", state, processes=[agent.identity(victim.pid)], lease_s=4.0) as process:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            process.stdin.write("renew\n")
            time.sleep(0.2)
        assert state_of(victim.pid) == "T"
        process.stdin.close()
        assert rest(process)["reason"] == "standard input closed"


def test_a_detached_agent_lives_by_its_lease_alone(victim, state):
    """Its connection may be cut; who asked for it says by another way that it is still wanted."""
    with held("stop-process", state, processes=[agent.identity(victim.pid)], lease_s=4.0, detached=True) as process:
        process.stdin.close()
        until = time.monotonic() + 6
        while time.monotonic() < until:
            renewed = subprocess.run([sys.executable, "-I", str(AGENT), "renew", f"@{state}"], check=False)
            assert renewed.returncode == 0
            assert state_of(victim.pid) == "T"
            time.sleep(0.2)
        assert rest(process)["reason"] == "lease lapsed"
    assert state_of(victim.pid) != "T"
    assert not state.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_undo(victim, state, number):
    with held("stop-process", state, processes=[agent.identity(victim.pid)]) as process:
        process.send_signal(number)
        assert rest(process)["reason"] == f"signal {number:d}"
    assert state_of(victim.pid) != "T"


def test_fault_of_a_killed_agent_is_undone_by_the_next(victim, state):
    with held("stop-process", state, processes=[agent.identity(victim.pid)]) as process:
        process.kill()
        process.wait()
        assert state_of(victim.pid) == "T"
        assert undo(state) == (0, {"event": "undone", "reason": "undo", "continued": [agent.identity(victim.pid)]})
        assert state_of(victim.pid) != "T"
        assert undo(state) == (0, {"event": "undone", "reason": "nothing was left"})


@pytest.mark.parametrize("frozen", [False, True])
def test_undo_ends_a_living_agent(victim, state, frozen):
    with held("stop-process", state, processes=[agent.identity(victim.pid)]) as process:
        if frozen:
            process.send_signal(signal.SIGSTOP)
        code, answer = undo(state)
        assert (code, answer["event"]) == (0, "undone")
        assert process.wait(LIMIT_S) == 0
    assert state_of(victim.pid) != "T"
    assert not state.exists()


def test_recycled_pid_is_left_alone(victim, state):
    """The record names the victim's pid with another start time: somebody else has that number now."""
    victim.send_signal(signal.SIGSTOP)
    wait_for(lambda: state_of(victim.pid) == "T", "the victim to stop")
    state.parent.mkdir()
    body = {"fault": "run.0", "verb": "stop-process", "agent": f"pid:{victim.pid}@1", "boot": agent.boot(), "undo_s": 5}
    state.write_text(json.dumps({**body, "record": {"processes": [f"pid:{victim.pid}@1"]}}))
    assert undo(state) == (0, {"event": "undone", "reason": "undo", "continued": []})
    assert state_of(victim.pid) == "T"
    assert victim.poll() is None
    assert not agent.send(f"pid:{victim.pid}@1", signal.SIGKILL)
    assert state_of(victim.pid) == "T"


def refusal(verb, state, **request):
    with held(verb, state, **request) as process:
        assert process.said["event"] == "refused"
        assert process.wait(LIMIT_S) == 3
        return process.said["why"]


def test_stop_process_refuses_what_it_could_not_undo(victim, state):
    assert "above the agent" in refusal("stop-process", state, processes=[agent.identity(1)])
    assert "above the agent" in refusal("stop-process", state, processes=[agent.identity(os.getpid())])
    assert "is gone" in refusal("stop-process", state, processes=[f"pid:{victim.pid}@1"])
    assert "no process" in refusal("stop-process", state, processes=[])
    victim.send_signal(signal.SIGSTOP)
    wait_for(lambda: state_of(victim.pid) == "T", "the victim to stop")
    assert "stopped already" in refusal("stop-process", state, processes=[agent.identity(victim.pid)])


def test_record_that_cannot_be_written_prevents_the_fault(victim, state):
    why = refusal("stop-process", state.with_name("x" * 300), processes=[agent.identity(victim.pid)])
    assert "too long" in why
    assert state_of(victim.pid) != "T"


def test_same_fault_is_not_held_twice(victim, state):
    with held("stop-process", state, processes=[agent.identity(victim.pid)]):
        assert "already held" in refusal("stop-process", state, processes=[agent.identity(victim.pid)])
        assert state.exists()
        undo(state)


def test_workers_die_with_a_killed_agent(state):
    with held("burn-cpu", state, workers=2, share=0.2) as process:
        workers = process.said["processes"]
        assert len(workers) == 2
        assert all(agent.pid_of(worker) for worker in workers)
        process.kill()
        wait_for(lambda: not any(agent.pid_of(worker) for worker in workers), "the workers to die")
        assert undo(state)[0] == 0
        assert not state.exists()


def load(where, clients):
    return {"url": where, "model": "tiny", "words": 3, "answer": 1, "clients": clients, "limit_s": 60, "pause_s": 0.1}


def test_clients_die_with_a_killed_agent(state):
    """Nothing but their own connections shows them; those are gone with them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT_S)
        where = f"http://127.0.0.1:{server.getsockname()[1]}/v1/completions"
        with held("send-load", state, **load(where, 1)) as process:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(LIMIT_S)
                assert b"/v1/completions" in connection.recv(4096)
                process.kill()
                while connection.recv(4096):
                    pass
        assert undo(state)[0] == 0


def test_more_clients_than_one_process_can_be_are_refused(state):
    assert "1 to 1024 make sense" in refusal("send-load", state, **load("http://127.0.0.1:1/", 1025))


def test_load_that_takes_more_memory_than_there_is_to_spare_is_refused(state):
    words = 2 * agent.available_memory() // (1024 * agent.BYTES_OF_WORD)
    why = refusal("send-load", state, **{**load("http://127.0.0.1:1/", 1024), "words": words})
    assert f"1024 clients with questions of {words} words take {1024 * words * 15} bytes" in why
    assert "stay free" in why
    assert agent.load_prepare({"clients": 1024, "words": 1000}) == {"processes": []}


def few_threads():
    """For some hundreds, each with a stack of 8 MiB."""
    resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))


def test_clients_that_cannot_all_be_had_are_the_agent_s_failure(state):
    """Nobody is asked anything, and nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"http://127.0.0.1:{server.getsockname()[1]}/v1/completions"
        with held("send-load", state, limit=few_threads, **load(where, 1024)) as process:
            assert process.said["event"] == "failed"
            assert re.search(r"only \d+ of 1024 clients can be had: can't start new thread", process.said["why"])
            assert process.wait(LIMIT_S) == 1
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert list(state.parent.iterdir()) == []


def test_what_clients_got_is_counted_until_the_undo(state):
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"http://127.0.0.1:{server.getsockname()[1]}/v1/completions"
    seen = Path(f"{state}.seen")
    with held("send-load", state, **load(where, 2)) as process:
        wait_for(seen.exists, "what the clients got")
        assert json.loads(seen.read_text())["answers"].keys() == {"ConnectionRefusedError"}
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0
    assert list(state.parent.iterdir()) == []


def test_a_child_that_fails_is_never_taken_for_the_agent():
    """It would go through the agent's own undo."""
    code = (
        "import os\n"
        "from blackstart.injectors import agent\n"
        "child = agent.forked(lambda: 1 // 0)\n"
        "print('here', os.WEXITSTATUS(os.waitpid(child, 0)[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "here 1\n", "")


def test_memory_reserve_is_kept(state):
    available = agent.available_memory()
    assert "stay free" in refusal("hold-memory", state, bytes=available)
    assert agent.memory_reserve(1 << 30) == 512 << 20
    assert agent.memory_reserve(100 << 30) == 10 << 30


def fill(folder, leave, most):
    return {"folder": str(folder), "leave_bytes": leave, "max_bytes": most}


def test_fill_disk_refuses_what_is_not_limited(state, tmp_path):
    free = agent.free_bytes(str(tmp_path))
    assert "not the service's own" in refusal("fill-disk", state, **fill(tmp_path, free // 2, None))
    assert "at most 1000" in refusal("fill-disk", state, **fill(tmp_path, free // 2, 1000))
    assert "to be left" in refusal("fill-disk", state, **fill(tmp_path, free * 2, 1000))
    assert "not a folder" in refusal("fill-disk", state, **fill(tmp_path / "none", 0, 1000))
    assert list(tmp_path.glob("*.fill")) == []


def test_fill_of_a_killed_agent_is_undone_by_the_next(state, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    leave = agent.free_bytes(str(tmp_path)) - (256 << 20)  # others write to this disk meanwhile
    with held("fill-disk", state, **fill(folder, leave, 1 << 40)) as process:
        assert process.said["event"] == "effective"
        assert Path(process.said["path"]).stat().st_size == process.said["bytes"] > 0
        process.kill()
        process.wait()
        assert undo(state)[0] == 0
        assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_fill_is_undone_from_the_copy_beside_it_where_the_record_is_gone(state, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    leave = agent.free_bytes(str(tmp_path)) - (256 << 20)  # others write to this disk meanwhile
    with held("fill-disk", state, **fill(folder, leave, 1 << 40)) as process:
        copy = Path(process.said["path"] + ".undo")
        process.kill()
        process.wait()
        state.unlink()
        os.chown(copy, 65534, -1)
        code, said = undo(copy)
        assert (code, said["event"]) == (4, "foreign")
        assert "written by another user" in said["why"]
        os.chown(copy, 0, -1)
        assert undo(copy)[0] == 0
        assert list(folder.iterdir()) == []


def test_fill_that_ends_leaves_no_copy_of_its_record(state, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    leave = agent.free_bytes(str(tmp_path)) - (256 << 20)  # others write to this disk meanwhile
    with held("fill-disk", state, **fill(folder, leave, 1 << 40)) as process:
        assert len(list(folder.iterdir())) == 2
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0
    assert list(folder.iterdir()) == []


def command(inject, recover, limit_s=LIMIT_S):
    return {"inject": inject, "recover": recover, "limit_s": limit_s}


def test_failed_inject_is_recovered(state, tmp_path):
    flag = tmp_path / "flag"
    with held("hold-command", state, **command(["sh", "-c", f"touch {flag}; echo oh; exit 7"], ["rm", str(flag)])) as process:
        assert process.said["event"] == "failed"
        assert "exited with 7: oh" in process.said["why"]
        assert process.wait(LIMIT_S) == 1
    assert not flag.exists()
    assert not state.exists()


def test_inject_that_does_not_end_is_killed_and_recovered(state, tmp_path):
    mark = tmp_path / "recovered"
    with held("hold-command", state, **command(["sleep", "600"], ["touch", str(mark)], 0.3)) as process:
        assert "did not end within 0.3 s" in process.said["why"]
    assert mark.exists()


def test_failed_recover_stays_on_record_for_the_next_attempt(state, tmp_path):
    allowed = tmp_path / "allowed"
    with held("hold-command", state, **command(["true"], ["test", "-e", str(allowed)])) as process:
        process.stdin.close()
        assert rest(process)["event"] == "failed"
        assert process.wait(LIMIT_S) == 1
        assert undo(state)[0] == 1
        assert state.exists()
        allowed.touch()
        assert undo(state)[0] == 0
        assert not state.exists()


def test_deadline_cuts_a_slow_inject_short(state, tmp_path):
    mark = tmp_path / "recovered"
    with held("hold-command", state, deadline_s=0.5, **command(["sleep", "600"], ["touch", str(mark)])) as process:
        assert (process.said["event"], process.said["reason"]) == ("undone", "deadline")
    assert mark.exists()


def test_unknown_commands_and_verbs_are_refused(state):
    assert "nowhere-to-be-found is not a command" in refusal("hold-command", state, **command(["true"], ["nowhere-to-be-found"]))
    assert "usage" in refusal("no-such-verb", state)


@contextmanager
def killing():
    """A kill-tree agent that waits for its request."""
    with subprocess.Popen(
        [sys.executable, "-I", str(AGENT), "kill-tree", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
    ) as process:
        try:
            assert json.loads(process.stdout.readline()) == {"event": "ready"}
            yield process
        finally:
            process.kill()


def to_kill(*processes, **more):
    start_by = time.monotonic() + LIMIT_S
    return {"processes": list(processes), "group": None, "spare": [], "protected": [], "start_by": start_by, **more}


def kill_tree(*processes, **more):
    with killing() as process:
        process.stdin.write(json.dumps(to_kill(*processes, **more)) + "\n")
        return rest(process)


@pytest.fixture
def family():
    """A parent and two children, one of them in a session of its own: their identities, parent first."""
    code = """
import subprocess, time
for own in (False, True):
    print(subprocess.Popen(["sleep", "600"], start_new_session=own).pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, process_group=0) as parent:
        found = [agent.identity(pid) for pid in (parent.pid, int(parent.stdout.readline()), int(parent.stdout.readline()))]
        yield found
        agent.strike(found, signal.SIGKILL)


def states(names):
    return ["moving" if agent.moving(name) else "stopped" if agent.pid_of(name) else "gone" for name in names]


def test_kill_tree_takes_what_is_below(family):
    answer = kill_tree(family[0])
    assert (answer["event"], set(answer["processes"])) == ("effective", set(family))
    assert states(family) == ["gone"] * 3
    assert kill_tree(family[0]) == {"event": "effective", "processes": []}


def test_kill_tree_spares_what_it_is_told_to(family, victim):
    assert kill_tree(family[0], spare=[family[2]])["processes"] == family[:2]
    assert states(family) == ["gone", "gone", "moving"]
    recycled = f"pid:{victim.pid}@1"
    assert kill_tree(recycled, spare=[recycled], group=recycled) == {"event": "effective", "processes": []}
    assert victim.poll() is None


@pytest.mark.parametrize("protected", [False, True])
def test_kill_tree_takes_orphans_of_the_group(protected):
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid, flush=True)"
    program = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {code!r}]); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, process_group=0) as leader:
        names = [agent.identity(leader.pid), agent.identity(int(leader.stdout.readline()))]
        try:
            wait_for(lambda: agent.belonging(to_kill(names[0]), []) == names[:1], "it to be an orphan")
            answer = kill_tree(names[0], group=names[0], protected=names[1:] if protected else [])
            assert answer["processes"] == (names[:1] if protected else names)
            assert states(names) == ["gone", "moving" if protected else "gone"]
        finally:
            agent.strike(names, signal.SIGKILL)


def test_kill_tree_refuses(family):
    assert "init process" in kill_tree(agent.identity(1))["why"]
    assert "init process" in kill_tree(agent.identity(os.getpid()))["why"]
    assert "init process" in kill_tree(family[0], protected=family[:1])["why"]
    assert "too late" in kill_tree(family[0], start_by=time.monotonic() - 1)["why"]
    assert states(family) == ["moving"] * 3


def test_kill_tree_touches_nothing_before_the_whole_request_is_there(family):
    with killing() as process:
        process.stdin.write(json.dumps(to_kill(family[0])))
        process.stdin.close()
        assert rest(process) == {"event": "refused", "why": "no request came"}
        assert process.wait(LIMIT_S) == 3
    assert states(family) == ["moving"] * 3


def test_kill_tree_goes_through_to_the_end_whatever_befalls_whoever_asked(family):
    with killing() as process:
        process.stdin.write(json.dumps(to_kill(family[0])) + "\n")
        process.stdin.close()
        process.stdout.close()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        assert process.wait(LIMIT_S) == 0
    assert states(family) == ["gone"] * 3


def test_what_was_frozen_is_killed_when_the_look_fails(family, monkeypatch):
    def look(request, doomed):
        del request
        if doomed:
            wait_for(lambda: states(family)[0] == "stopped", "the freeze")
            raise OSError("too many open files")
        return family

    monkeypatch.setattr(agent, "belonging", look)
    with pytest.raises(OSError, match="too many"):
        agent.freeze_and_kill({})
    wait_for(lambda: states(family) == ["gone"] * 3, "their end")
