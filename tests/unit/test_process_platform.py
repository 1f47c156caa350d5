"""Finding, killing, restarting and starting real local processes."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from blackstart.injectors.platforms import listening, process_table
from blackstart.injectors.platforms.base import PlatformError, Target, Unsupported
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
from blackstart.tests.ports import free_port

LIMIT_S = 30.0
SLEEPER = "import time; time.sleep(120)"
LISTENER = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
time.sleep(120)
"""
# A main process that does not listen, with a child that does and another in a session of its own.
TREE = """
import subprocess, sys, time
code, port = sys.argv[1:3]
subprocess.Popen([sys.executable, "-c", code, port])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)", "own-session"], start_new_session=True)
time.sleep(120)
"""
# A supervisor of two services; each line it reads stays unread: it only lives.
SUPERVISOR = """
import subprocess, sys, time
for port in sys.argv[2:]:
    subprocess.Popen([sys.executable, "-c", sys.argv[1], port])
time.sleep(120)
"""


def wait_for(condition, what):
    limit = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < limit, f"waited {LIMIT_S} s for {what}"
        time.sleep(0.01)
    return found


@pytest.fixture
def run():
    """Start python code in a process group of its own; everything it started is gone afterwards."""
    with ExitStack() as stack:

        def start(code, *arguments):
            command = [sys.executable, "-c", code, *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(command, process_group=0, stdout=subprocess.DEVNULL))
            stack.callback(end_tree, process.pid)
            return process

        yield start


def end_tree(pid):
    table = process_table.snapshot()
    for doomed in (pid, *process_table.descendants(table, pid)):
        if doomed in table:
            process_table.send(table[doomed].identity, signal.SIGKILL)


@pytest.fixture
def opened(tmp_path):
    """Open a platform on the given components; what it started is ended afterwards."""
    with ExitStack() as stack:

        def open_platform(*components, **spec):
            platform = ProcessPlatform(ProcessSpec(components, **spec), tmp_path, tmp_path / "state", dict(os.environ))
            stack.callback(platform.close)
            stack.callback(platform.stop_started)
            return platform

        yield open_platform


def standing(platform, name):
    return wait_for(lambda: platform.current(name), f"{name} to stand")


def test_component_is_the_top_of_the_tree_that_listens(run, opened):
    port = free_port()
    main = run(TREE, LISTENER, port)
    platform = opened(Component("r0", "replica", port=port))
    target = standing(platform, "r0")
    assert target.details["pid"] == main.pid
    assert target.identity == f"pid:{main.pid}@{process_table.snapshot()[main.pid].start}"
    wait_for(lambda: len(platform.current("r0").details["tree"]) == 3, "both children")
    assert platform.find() == (platform.current("r0"),)
    assert platform.state(target) == "running"


def test_port_alone_is_short_for_one_replica(run, tmp_path):
    port = free_port()
    main = run(LISTENER, port)
    with closing(ProcessPlatform(ProcessSpec(port=port), tmp_path, tmp_path, {})) as platform:
        assert standing(platform, "r0").details["pid"] == main.pid
        assert standing(platform, "r0").details["url"] == f"http://127.0.0.1:{port}"


def two_below_a_supervisor(run, **more):
    """Both listen, so that the supervisor can be seen above both."""
    ports = free_port(), free_port()
    supervisor = run(SUPERVISOR, LISTENER, *ports)
    wait_for(lambda: len(listening.listeners(ports)) == 2, "both to listen")
    return supervisor, [Component(f"r{number}", "replica", port=port, **more) for number, port in enumerate(ports)]


def test_shared_supervisor_belongs_to_no_component(run, opened):
    supervisor, components = two_below_a_supervisor(run)
    platform = opened(*components)
    r0, r1 = platform.find()
    assert len({r0.details["pid"], r1.details["pid"], supervisor.pid}) == 3
    platform.kill(r0)
    assert platform.state(r0) == "gone"
    assert platform.current("r0") is None
    assert platform.state(r1) == "running"
    assert supervisor.poll() is None
    # Alone below the supervisor it is still what it was, for this platform object and for the next.
    assert platform.current("r1").identity == r1.identity
    assert opened(*components).find() == (platform.current("r1"),)


def test_supervised_component_never_includes_its_supervisor(run, opened):
    supervisor, components = two_below_a_supervisor(run, supervised=True)
    platform = opened(components[0])
    (r0,) = platform.find()
    assert r0.details["pid"] != supervisor.pid
    assert process_table.snapshot()[r0.details["pid"]].parent == supervisor.pid


def test_killed_supervisor_leaves_other_components_alone(run, opened):
    port = free_port()
    supervisor = run(SUPERVISOR, LISTENER, port, free_port())
    platform = opened(
        Component("r0", "replica", port=port), Component("boss", "supervisor", command_line=f"time.sleep.* {port} ")
    )
    r0, boss = standing(platform, "r0"), standing(platform, "boss")
    assert boss.details["pid"] == supervisor.pid
    platform.kill(boss)
    assert platform.state(boss) == "gone"
    assert platform.state(r0) == "running"
    platform.kill(standing(platform, "r0"))


def test_kill_takes_the_whole_tree_even_one_that_keeps_forking(run, opened):
    port = free_port()
    # The kernel itself ends stopped members of a group that nobody controls any more, by SIGHUP; these do not mind it.
    deaf = "import os, signal, sys, time\nfor n in (signal.SIGCHLD, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)\n"
    forking = deaf + LISTENER.replace(
        "time.sleep(120)",
        "\nwhile True:\n    if os.fork() == 0:\n        time.sleep(5); os._exit(0)\n    time.sleep(0.001)",
    )
    main = run(TREE, forking, port)
    platform = opened(Component("r0", "replica", port=port))
    target = standing(platform, "r0")
    wait_for(lambda: len(platform.current("r0").details["tree"]) > 5, "some forks")
    platform.kill(target)
    assert main.wait(LIMIT_S) == -signal.SIGKILL
    marked = [pid for pid in process_table.snapshot() if process_table.command_line(pid).endswith(f" {port}")]
    assert marked == []
    platform.kill(target)


# Says when it asks for the kill, and asks.
KILLER = """
import os, sys
from pathlib import Path
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
spec = ProcessSpec((Component("r0", "replica", port=int(sys.argv[1])),))
platform = ProcessPlatform(spec, Path(sys.argv[2]), Path(sys.argv[2]), dict(os.environ))
target = platform.current("r0")
print("asks", flush=True)
platform.kill(target)
print("done", flush=True)
sys.stdin.read()
"""


def kill_and_die(port, folder, moment):
    """Kill the caller of `kill` with SIGKILL as soon as `moment()` is true."""
    program = f"import sys; sys.path[:] = {sys.path!r}\n{KILLER}"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(port), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as caller:
        try:
            assert caller.stdout.readline() == b"asks\n"
            limit = time.monotonic() + LIMIT_S
            while not moment():
                assert time.monotonic() < limit
        finally:
            caller.kill()


def is_first_stopped(identities):
    return any((process := process_table.alive(identity)) is None or process.stopped for identity in identities)


def still_there(identities):
    return [process for identity in identities if (process := process_table.alive(identity))]


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.05, 0.1, 0.15, None])
def test_caller_that_dies_leaves_the_tree_untouched_or_gone_but_never_stopped(run, opened, tmp_path, delay_s):
    """After `delay_s`; None: at the very moment when the first of the tree is seen stopped."""
    port = free_port()
    run(TREE, LISTENER, port)
    platform = opened(Component("r0", "replica", port=port))
    wait_for(lambda: platform.current("r0") and len(platform.current("r0").details["tree"]) == 3, "the tree")
    tree = platform.current("r0").details["tree"]
    asked = time.monotonic()
    kill_and_die(port, tmp_path, lambda: is_first_stopped(tree) if delay_s is None else time.monotonic() > asked + delay_s)
    until = time.monotonic() + 5.0
    if delay_s is not None:  # an agent that will still begin has begun by then
        time.sleep(0.5)
    wanted = (0, len(tree)) if delay_s is not None else (0,)
    while len(left := still_there(tree)) not in wanted or any(process.stopped for process in left):
        assert time.monotonic() < until, left
        time.sleep(0.01)


def test_own_process_is_never_a_target(opened):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        platform = opened(Component("r0", "replica", port=server.getsockname()[1]))
        with pytest.raises(PlatformError, match=f"pid {os.getpid()}, which is blackstart itself"):
            platform.find()
    me = process_table.snapshot()[os.getpid()]
    parent = process_table.snapshot()[os.getppid()]
    for process in (me, parent):
        with pytest.raises(PlatformError, match="never a target"):
            platform.signal(Target(process.identity, "r0", "replica"), 0)
        with pytest.raises(PlatformError, match="never a target"):
            platform.kill(Target(process.identity, "r0", "replica"))


def test_command_line_that_matches_two_trees_is_an_error(run, opened):
    mark = f"twin-{os.getpid()}"
    one, two = run(SLEEPER, mark), run(SLEEPER, mark)
    platform = opened(Component("r0", "replica", command_line=mark))
    wait_for(lambda: process_table.command_line(two.pid).endswith(mark) and process_table.command_line(one.pid), "both")
    pids = f"pids {min(one.pid, two.pid)}, {max(one.pid, two.pid)}"
    for look in (platform.find, lambda: platform.current("r0")):
        with pytest.raises(PlatformError, match=pids):
            look()
    end_tree(two.pid)
    two.wait()
    assert platform.current("r0").details["pid"] == one.pid


def test_port_that_two_strangers_listen_on_is_an_error(run, opened):
    port = free_port()
    reusing = LISTENER.replace(
        'server = socket.create_server(("127.0.0.1", int(sys.argv[1])))',
        "server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        'server.bind(("127.0.0.1", int(sys.argv[1]))); server.listen()',
    )
    one, two = run(reusing, port), run(reusing, port)
    platform = opened(Component("r0", "replica", port=port))
    wait_for(lambda: listening.listeners([port]).get(port) == {one.pid, two.pid}, "both to listen")
    with pytest.raises(PlatformError, match="several processes"):
        platform.find()


def test_a_listener_that_dies_while_it_is_looked_for_is_no_stranger(run, monkeypatch):
    """Its socket was in the kernel's table, and nobody holds it any more."""
    port = free_port()
    main = run(LISTENER, port)
    wait_for(lambda: listening.listeners([port]), "it to listen")
    sockets_of = listening._sockets

    def dying(process):
        main.kill()
        main.wait()
        return sockets_of(process)

    monkeypatch.setattr(listening, "_sockets", dying)
    assert listening.listeners([port]) == {}


def test_components_that_are_one_process_are_an_error(run, opened):
    port = free_port()
    main = run(LISTENER, port)
    wait_for(lambda: listening.listeners([port]), "it to listen")
    platform = opened(Component("a", "replica", port=port), Component("b", "replica", command_line=f"create_server.* {port}$"))
    with pytest.raises(PlatformError, match=f"components a and b are the same process, pid {main.pid}"):
        platform.find()


def test_pid_file(run, opened, tmp_path):
    file = tmp_path / "r0.pid"
    platform = opened(Component("r0", "replica", pid_file=Path("r0.pid")))
    assert platform.current("r0") is None
    main = run(SLEEPER)
    file.write_text(f"{main.pid}\n")
    assert platform.current("r0").details["pid"] == main.pid
    os.utime(file, (time.time() - 3600,) * 2)
    assert platform.current("r0") is None  # the file is older than the process: the pid was recycled
    file.write_text("soon")
    with pytest.raises(PlatformError, match="'soon', which is not a pid"):
        platform.current("r0")


def test_signal_hits_only_that_identity(run, opened):
    main = run(SLEEPER)
    platform = opened(Component("r0", "replica", command_line="no such thing"))
    real = Target(process_table.snapshot()[main.pid].identity, "r0", "replica")
    recycled = dataclasses.replace(real, identity=f"pid:{main.pid}@1")
    platform.signal(recycled, signal.SIGKILL)
    platform.kill(recycled)
    assert platform.state(recycled) == "gone"
    assert main.poll() is None
    platform.signal(real, signal.SIGSTOP)
    wait_for(lambda: platform.state(real) == "stopped", "it to stop")
    platform.signal(real, signal.SIGKILL)
    assert main.wait(LIMIT_S) == -signal.SIGKILL
    assert platform.state(real) == "gone"
    platform.signal(real, signal.SIGKILL)


def test_processes_inside(run, opened):
    port = free_port()
    run(TREE, LISTENER, port)
    platform = opened(Component("r0", "replica", port=port), inside={"loner": "own-session", "any": "python"})
    target = standing(platform, "r0")
    wait_for(lambda: len(platform.inside(target, "any")) == 2, "both children")
    (loner,) = platform.inside(target, "loner")
    assert (loner.name, loner.role) == ("r0/loner", "loner")
    assert platform.current("r0/loner") == loner
    assert [found.name for found in platform.inside(target, "any")] == ["r0/any", "r0/any-2"]
    assert platform.current("r0/any-2").identity == platform.inside(target, "any")[1].identity
    with pytest.raises(Unsupported, match="no processes of role engine"):
        platform.inside(target, "engine")
    platform.kill(loner)
    assert platform.current("r0/loner") is None
    assert platform.state(target) == "running"


def startable(name, port, code=LISTENER, **more):
    return Component(name, "replica", port=port, start=(sys.executable, "-c", code, str(port)), **more)


def test_starts_what_is_missing_and_ends_exactly_that(run, opened):
    there, missing = free_port(), free_port()
    main = run(LISTENER, there)
    platform = opened(startable("r0", there), startable("r1", missing))
    standing(platform, "r0")
    assert platform.start_missing() == ("r1",)
    assert platform.start_missing() == ()
    r1 = platform.current("r1")
    assert os.getsid(r1.details["pid"]) == r1.details["pid"]
    platform.kill(r1)
    platform.revive("r1")
    platform.revive("r1")
    assert standing(platform, "r1").identity != r1.identity
    platform.stop_started()
    assert platform.current("r1") is None
    assert main.poll() is None
    assert list((platform.starter.started).iterdir()) == []


def test_another_platform_object_ends_what_was_started(opened):
    component = startable("r0", free_port())
    opened(component).start_missing()
    other = opened(component)
    assert other.start_missing() == ()
    other.stop_started()
    assert other.current("r0") is None


def test_another_service_of_the_same_folder_ends_nothing_that_it_did_not_start(opened):
    """Both call their component r0; which is whose is told by how it is found."""
    first, second = opened(startable("r0", free_port())), opened(startable("r0", free_port()))
    assert first.start_missing() == ("r0",)
    assert second.started() == ()
    second.stop_started()
    assert standing(first, "r0")
    assert second.start_missing() == ("r0",)
    assert first.current("r0").identity != second.current("r0").identity


def test_revived_component_of_the_user_is_not_ended(run, opened):
    port = free_port()
    main = run(LISTENER, port)
    platform = opened(startable("r0", port))
    platform.kill(standing(platform, "r0"))
    main.wait()
    platform.revive("r0")
    revived = standing(platform, "r0")
    platform.stop_started()
    assert platform.state(revived) == "running"
    platform.kill(revived)


def test_failed_start_shows_its_last_words(opened):
    dying = startable("r1", free_port(), code="raise SystemExit('no model here')")
    good = startable("r0", free_port())
    platform = opened(good, dying)
    with pytest.raises(PlatformError, match="no model here"):
        platform.start_missing()
    assert platform.find() == ()
    with pytest.raises(PlatformError, match="nothing-like-it: No such file"):
        opened(dataclasses.replace(good, start=("nothing-like-it",))).start_missing()


def test_environment_and_folder_of_a_component(opened, tmp_path):
    (tmp_path / "below").mkdir()
    code = "import os; print(os.environ['COLOUR'], os.path.basename(os.getcwd()), flush=True)\n" + LISTENER
    port = free_port()
    component = startable("r0", port, code=code, directory=Path("below"), environment={"COLOUR": "blue"})
    platform = opened(component)
    platform.start_missing()
    assert "blue below" in platform.starter.last_words("r0")


def test_restart_replaces_the_process(opened):
    platform = opened(startable("r0", free_port()))
    platform.start_missing()
    before = platform.current("r0")
    platform.restart(before)
    after = platform.current("r0")
    assert after.identity != before.identity
    assert platform.state(before) == "gone"
    assert platform.state(after) == "running"


def test_restart_of_what_nothing_brings_back_is_refused(run, opened):
    port = free_port()
    main = run(LISTENER, port)
    platform = opened(Component("r0", "replica", port=port))
    target = standing(platform, "r0")
    assert not platform.revivable("r0")
    with pytest.raises(Unsupported, match="nothing would start r0 again"):
        platform.restart(target)
    assert main.poll() is None
    assert opened(Component("r0", "replica", port=port, supervised=True)).revivable("r0")


def test_agents_and_files(run, opened, tmp_path):
    main = run(SLEEPER)
    platform = opened(Component("r0", "replica", pid_file=Path("r0.pid")))
    (tmp_path / "r0.pid").write_text(str(main.pid))
    target = platform.current("r0")
    with pytest.raises(Unsupported, match="is gone"):
        platform.agent_begin("run.0", target, "stop-process", {"processes": [f"pid:{main.pid}@1"]}, 60)
    request = {"inject": ["sh", "-c", "exit 3"], "recover": ["true"], "limit_s": 60}
    with pytest.raises(PlatformError, match="exited with 3"):
        platform.agent_begin("run.0", target, "hold-command", request, 60)
    assert platform.agent_end("run.0", target)["event"] == "undone"
    assert platform.agent_usage("run.0", target) is None
    assert platform.agent_begin("run.0", target, "burn-cpu", {"workers": 1, "share": 0.5}, 60)["event"] == "effective"
    wait_for(lambda: platform.agent_usage("run.0", target).cpu_s > 0, "the agent to compute")
    platform.close()
    assert platform.agent_usage("run.0", target) is None
    assert platform.target_usage(target).resident_bytes > 0
    assert list((tmp_path / "state" / "agents").glob("*.json")) == []
    assert platform.read_file(target, "r0.pid", 1) == str(main.pid)[:1].encode()
    assert platform.digest(target, "/dev/null").startswith("sha256:e3b0c442")
    with pytest.raises(PlatformError, match="none: No such file"):
        platform.read_file(target, "none", 1)
    assert platform.execute(("sh", "-c", "pwd; exit 4"), 10) == (4, f"{tmp_path}\n")
    with pytest.raises(PlatformError, match="did not end within"):
        platform.execute(("sleep", "60"), 0.1)
    size, free = platform.space(target, ".")
    assert size >= free > 0
    assert platform.exists(target, "r0.pid")
    assert not platform.exists(target, "none")


def test_ps_and_proc_tell_the_same(run):
    main = run(SLEEPER)
    wait_for(lambda: process_table.command_line(main.pid), "it to run")
    here, there = process_table.snapshot()[main.pid], process_table.from_ps()[main.pid]
    assert (here.pid, here.parent, here.group) == (there.pid, there.parent, there.group)
    assert process_table.from_ps(main.pid)[main.pid].start == there.start
    assert process_table.ancestors(process_table.from_ps(), main.pid)[0] == os.getpid()


def test_lsof_output():
    listed = "p12\nf3\nn127.0.0.1:8000\np14\nf3\nn127.0.0.1:8000\nf4\nn[::1]:9000\nf5\nn*:*\n"
    assert listening.parse_lsof(listed) == {8000: {12, 14}, 9000: {14}}
