"""The link proxy with real sockets: every rule, its end in each way, and streams that stay whole through all of it."""

import json
import os
import random
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from blackstart.injectors import proxy
from blackstart.injectors.platforms.base import PlatformError, Target, Unavailable, Unsupported
from blackstart.injectors.platforms.link_probe import probe
from blackstart.injectors.platforms.links import Control, LinkControl, runtime_folder
from blackstart.injectors.platforms.process_spec import Link

PATIENCE_S = 20.0
QUIET_S = 0.3  # how long nothing must arrive for a path to count as cut


def awaited(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.01)


class Component:
    """A server behind the link: says back what it is told (`echo`), or sends `answer` to whoever connects."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = answer
        self.accepted = 0
        self.ends: list[str] = []
        self.received = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.accepted += 1
                self.open.append(connection)
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self.answer is not None:
                    connection.sendall(self.answer)
                while data := connection.recv(65536):
                    self.received += data
                    if self.answer is None:
                        connection.sendall(data)
                self.ends.append("end")
            except OSError as error:
                self.ends.append(type(error).__name__)

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Running:
    """A proxy process, and ways to talk to it."""

    def __init__(self, runtime: Path, target: int, *flags: str) -> None:
        self.runtime = runtime
        self.process = subprocess.Popen(
            [sys.executable, proxy.__file__, "--name", "gw-r0", "--listen", "127.0.0.1:0", "--to", f"127.0.0.1:{target}", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "BLACKSTART_RUNTIME_DIR": str(runtime)},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr and self.process.stderr.read().decode()
        self.ready = json.loads(line)
        self.port: int = self.ready["port"]
        self.links = LinkControl((Link("gw-r0", "gw", "r0", self.port),), runtime, {"gw": "gateway", "r0": "replica"})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def set(self, fault: str = "f", deadline_s: float = 60.0, **rule: object) -> None:
        self.links.link_begin(fault, "gw-r0", rule, deadline_s)

    def clear(self, fault: str = "f") -> dict[str, object]:
        return self.links.link_end(fault, "gw-r0")

    def counted(self, name: str) -> int:
        found: int = self.links.link_rules("gw-r0")[0][name]
        return found

    def end(self) -> str:
        self.links.close()
        self.process.terminate()
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return errors.decode()


@pytest.fixture
def runtime() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bs-") as folder:  # a short path: socket names are limited to 107 bytes
        yield Path(folder)


@contextmanager
def standing(runtime: Path, answer: bytes | None = None, *flags: str) -> Iterator[tuple[Running, Component]]:
    component = Component(answer)
    running = Running(runtime, component.port, *flags)
    try:
        yield running, component
    finally:
        errors = running.end()
        component.close()
        assert errors == ""
        assert list(runtime.iterdir()) == []


@pytest.fixture
def echo(runtime: Path) -> Iterator[tuple[Running, Component]]:
    with standing(runtime) as both:
        yield both


def said_back(connection: socket.socket, data: bytes) -> bool:
    connection.sendall(data)
    return received(connection, len(data)) == data


def received(connection: socket.socket, size: int) -> bytes:
    connection.settimeout(PATIENCE_S)
    data = b""
    while len(data) < size:
        some = connection.recv(size - len(data))
        if not some:
            break
        data += some
    return data


def silent(connection: socket.socket, seconds: float = QUIET_S) -> bool:
    connection.settimeout(seconds)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    return False


def reset_on_arrival(running: Running) -> bool:
    """A new connection is reset, be it before the connect call has returned."""
    try:
        with running.connect() as connection:
            return was_reset(connection)
    except ConnectionResetError:
        return True


def was_reset(connection: socket.socket) -> bool:
    connection.settimeout(PATIENCE_S)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def pour(connection: socket.socket, data: bytes, randomness: random.Random) -> None:
    while data:
        size = randomness.choice((1, 7, 1000, 65536, 300_000))
        connection.sendall(data[:size])
        data = data[size:]
        if randomness.random() < 0.05:
            time.sleep(0.001)
    connection.shutdown(socket.SHUT_WR)


def collect(connection: socket.socket, into: bytearray, randomness: random.Random) -> None:
    connection.settimeout(PATIENCE_S)
    while data := connection.recv(randomness.choice((10, 4096, 200_000))):
        into += data


def through(running: Running, data: bytes, seed: int) -> bytes:
    """Send and collect at once, in random pieces, closing one's own side first: what comes back until the end."""
    back = bytearray()
    with running.connect() as connection:
        sender = threading.Thread(target=pour, args=(connection, data, random.Random(seed)))
        sender.start()
        collect(connection, back, random.Random(seed + 1))
        sender.join()
    return bytes(back)


def test_streams_stay_whole_with_and_without_rules(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    data = random.Random(1).randbytes(3_000_000)
    assert through(running, data, 1) == data
    running.set("slow", type="delay", delay_s=0.02, jitter_s=0.02)
    assert through(running, data[:1_000_000], 2) == data[:1_000_000]
    assert running.clear("slow")["bytes_delayed"] >= 2_000_000


def test_streams_stay_whole_through_cuts(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    data, randomness, result = random.Random(2).randbytes(4_000_000), random.Random(3), []
    stream = threading.Thread(target=lambda: result.append(through(running, data, 4)))
    stream.start()
    for number in range(40):
        rule = randomness.choice(
            (
                {"type": "partition", "direction": "to"},
                {"type": "partition", "direction": "from"},
                {"type": "stall", "after_bytes": 999},
            )
        )
        running.set(f"f{number}", **rule)
        threading.Event().wait(0.005)  # a rule of any length will do: the bytes must survive every interleaving
        running.clear(f"f{number}")
    stream.join(PATIENCE_S)
    assert result == [data]


def test_partition_holds_and_flows_on(echo: tuple[Running, Component]) -> None:
    running, component = echo
    with running.connect() as old:
        assert said_back(old, b"before")
        running.set(type="partition", direction="both")
        old.sendall(b"held")
        with running.connect() as new:  # the kernel accepts; nobody answers
            new.sendall(b"new")
            assert silent(old)
            assert silent(new)
            assert component.accepted == 1
            awaited(lambda: running.counted("bytes_held") == 7, "4 + 3 bytes held")
            assert running.counted("connections") == 2
            ended = running.clear()
            assert (ended["cleared"], ended["ended"], ended["bytes_held"]) == (True, "cleared", 7)
            assert received(old, 4) == b"held"
            assert received(new, 3) == b"new"
    assert running.links.link_rules("gw-r0") == []


def test_partition_of_one_direction(echo: tuple[Running, Component]) -> None:
    running, component = echo
    with running.connect() as connection:
        running.set(type="partition", direction="from")
        connection.sendall(b"question")
        awaited(lambda: component.received == b"question", "the question arrives")
        assert silent(connection)
        running.clear()
        assert received(connection, 8) == b"question"
        running.set(type="partition", direction="to")
        component.open[0].sendall(b"news")
        assert received(connection, 4) == b"news"
        connection.sendall(b"lost?")
        assert silent(connection)
        assert component.received == b"question"
        running.clear()
        assert received(connection, 5) == b"lost?"


def test_an_end_is_held_in_its_place(echo: tuple[Running, Component]) -> None:
    running, component = echo
    with running.connect() as connection:
        assert said_back(connection, b"x")
        running.set(type="partition", direction="to")
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert silent(connection)
        assert component.ends == []
        running.clear()
        assert received(connection, 100) == b"last words"  # and then its own end
        awaited(lambda: component.ends == ["end"], "an orderly end behind the link")


@pytest.mark.skipif(not hasattr(proxy.select, "POLLRDHUP"), reason="this system does not tell that a client has gone")
def test_who_gave_up_during_the_cut_is_not_delivered_after_it(echo: tuple[Running, Component]) -> None:
    running, component = echo
    running.set(type="partition", direction="both")
    for _ in range(20):
        with running.connect() as gone:
            gone.sendall(b"too late")
    awaited(lambda: running.counted("connections") == 20, "all were seen")
    with running.connect() as patient:
        patient.sendall(b"still here")
        running.clear()
        assert received(patient, 10) == b"still here"
    assert (component.accepted, component.received) == (1, b"still here")


def test_delay_is_one_way_and_keeps_the_order(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    running.set(type="delay", delay_s=0.15, jitter_s=0.1)
    with running.connect() as connection:
        began = time.monotonic()
        assert said_back(connection, b"?")
        assert time.monotonic() - began >= 2 * (0.15 - 0.1)
        for number in range(50):
            connection.sendall(struct.pack("<I", number))
        assert received(connection, 200) == b"".join(struct.pack("<I", number) for number in range(50))
        running.clear()
        running.set(type="delay", delay_s=2 * PATIENCE_S, jitter_s=0.0)
        connection.sendall(b"late")
        assert silent(connection)
        running.clear()  # what was kept flows at once
        assert received(connection, 4) == b"late"
        assert said_back(connection, b"quick")


def test_reset_at_once(echo: tuple[Running, Component]) -> None:
    running, component = echo
    with running.connect() as old:
        assert said_back(old, b"x")
        running.set(type="reset", after_bytes=None)
        assert was_reset(old)
        awaited(lambda: component.ends == ["ConnectionResetError"], "the component sees the reset as well")
        assert reset_on_arrival(running)
    ended = running.clear()
    assert (ended["resets"], ended["connections"]) == (2, 2)
    with running.connect() as connection:
        assert said_back(connection, b"back")


def connected(running: Running) -> socket.socket | None:
    """None: on a busy machine the answer and its reset were here before the client had learnt that it is connected."""
    with suppress(ConnectionResetError):
        return running.connect()
    return None


@pytest.mark.parametrize(("kind", "after"), [("reset", 1000), ("truncate", 1000), ("stall", 1000), ("stall", 0), ("truncate", 0)])
def test_answers_that_end_midway(runtime: Path, kind: str, after: int) -> None:
    answer = random.Random(5).randbytes(200_000)
    with standing(runtime, answer) as (running, _):
        running.set(type=kind, after_bytes=after)
        early = 0
        while (connection := connected(running)) is None:
            early += 1
        with connection:
            assert received(connection, after) == answer[:after]
            if kind == "reset":
                assert was_reset(connection)
                assert running.clear()["resets"] == 1 + early
            elif kind == "truncate":
                assert received(connection, 1) == b""
                assert running.clear()["truncated"] == 1
            else:
                assert silent(connection)
                awaited(lambda: running.counted("bytes_held"), "held bytes are counted")
                assert running.clear()["connections"] == 1
                assert received(connection, 200_000 - after) == answer[after:]


def test_after_counts_from_the_rule_on_open_connections(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    with running.connect() as connection:
        assert said_back(connection, b"x" * 500)
        running.set(type="stall", after_bytes=3)
        assert said_back(connection, b"abc")
        connection.sendall(b"d")
        assert silent(connection)
        running.clear()
        assert received(connection, 1) == b"d"


def test_refuse_leaves_open_connections_alone(echo: tuple[Running, Component]) -> None:
    running, component = echo
    with running.connect() as old:
        assert said_back(old, b"x")
        running.set(type="refuse")
        assert reset_on_arrival(running)
        assert said_back(old, b"y")
    assert component.accepted == 1


def test_a_refusal_behind_the_link_is_seen_as_a_reset(echo: tuple[Running, Component]) -> None:
    running, component = echo
    component.close()
    assert reset_on_arrival(running)
    assert {probe("127.0.0.1", running.port, 1.0, 0)["outcome"] for _ in range(20)} == {"reset"}


def test_a_reset_on_either_side_is_passed_on(echo: tuple[Running, Component]) -> None:
    running, component = echo
    with running.connect() as connection:
        assert said_back(connection, b"x")
        component.open[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        component.open[0].shutdown(socket.SHUT_RD)
        component.open[0].close()
        assert was_reset(connection)
    with running.connect() as connection:
        assert said_back(connection, b"x")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    awaited(lambda: "ConnectionResetError" in component.ends, "the component sees the client's reset")


def test_rule_ends_at_its_deadline(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    running.set(deadline_s=0.3, type="partition", direction="both")
    with running.connect() as connection:
        assert said_back(connection, b"after the deadline")
    ended = running.clear()
    assert (ended["cleared"], ended["ended"]) == (False, "deadline")


def test_rule_ends_with_the_connection_that_set_it(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    running.set(type="partition", direction="both")
    with running.connect() as connection:
        connection.sendall(b"held")
        assert silent(connection)
        running.links.close()  # as the kernel does for a process that is killed
        assert received(connection, 4) == b"held"
    assert running.clear()["ended"] == "holder gone"


def test_any_connection_clears_and_the_old_holder_does_not_clear_the_new_rule(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    other = LinkControl((Link("gw-r0", "gw", "r0", running.port),), running.runtime)
    running.set(type="refuse")
    with pytest.raises(PlatformError, match="already"):
        other.link_begin("f", "gw-r0", {"type": "refuse"}, 60.0)
    assert other.link_end("f", "gw-r0")["cleared"] is True
    assert other.link_end("f", "gw-r0")["cleared"] is False
    other.link_begin("f", "gw-r0", {"type": "refuse"}, 60.0)
    running.links.close()
    assert [rule["fault"] for rule in other.link_rules("gw-r0")] == ["f"]
    other.close()
    awaited(lambda: other.link_rules("gw-r0") == [], "the rule ends with its own holder")


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b'{"do": "dance"}',
        b'{"do": "set", "fault": "f", "deadline_s": 1}',
        b'{"do": "set", "fault": "", "rule": {"type": "refuse"}, "deadline_s": 1}',
        b'{"do": "set", "fault": "f", "rule": {"type": "refuse"}}',
        b'{"do": "set", "fault": "f", "rule": {"type": "delay"}, "deadline_s": 1}',
        b'{"do": "set", "fault": "f", "rule": {"type": "delay", "delay_s": NaN}, "deadline_s": 1}',
        b'{"do": "set", "fault": "f", "rule": {"type": "partition", "direction": "up"}, "deadline_s": 1}',
        b'{"do": "set", "fault": "f", "rule": {"type": "refuse", "aftr_bytes": 1}, "deadline_s": 1}',
        b"\xff\xfe",
        b"[" * 60_000,
    ],
)
def test_bad_requests_are_refused_and_change_nothing(echo: tuple[Running, Component], line: bytes) -> None:
    running, _ = echo
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(PATIENCE_S)
        channel.connect(running.ready["control"])
        channel.sendall(line + b"\n")
        answer = json.loads(channel.recv(65536))
        assert answer["ok"] is False
        assert answer["why"]
        channel.sendall(b'{"do": "ping"}\n')
        assert json.loads(channel.recv(65536))["rules"] == 0


def test_an_endless_request_ends_the_conversation_only(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(PATIENCE_S)
        channel.connect(running.ready["control"])
        with suppress(BrokenPipeError, ConnectionResetError):
            channel.sendall(b"x" * 1_000_000)
        with suppress(ConnectionResetError):
            assert channel.recv(1) == b""
    with running.connect() as connection:
        assert said_back(connection, b"alive")


def test_control_socket_is_private_and_the_only_one(echo: tuple[Running, Component], runtime: Path) -> None:
    running, component = echo
    path = Path(running.ready["control"])
    assert path == runtime / f"link-{running.port}.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = [sys.executable, proxy.__file__, "--name", "x", "--to", f"127.0.0.1:{component.port}", "--listen"]
    environment = {**os.environ, "BLACKSTART_RUNTIME_DIR": str(runtime)}

    def refused(listen: str, **changed: str) -> str:
        ended = subprocess.run([*second, listen], env={**environment, **changed}, capture_output=True, text=True, check=False)
        assert ended.returncode == 3
        return ended.stderr

    assert "cannot listen" in refused(f"127.0.0.1:{running.port}")
    if sys.platform == "linux":  # other loopback addresses exist without further ado
        assert "another link proxy answers" in refused(f"127.0.0.2:{running.port}")
    assert "open the link to the network" in refused("0.0.0.0:0")
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o755)
        assert "0700" in refused("127.0.0.1:0", BLACKSTART_RUNTIME_DIR=shared)
    assert "too long" in refused("127.0.0.1:0", BLACKSTART_RUNTIME_DIR=str(runtime / ("x" * 100)))
    (runtime / ("x" * 100)).rmdir()
    with running.connect() as connection:
        assert said_back(connection, b"unharmed")


def test_killed_proxy_leaves_a_stale_socket_that_the_next_one_replaces(runtime: Path) -> None:
    component = Component()
    first = Running(runtime, component.port)
    first.set(type="partition", direction="both")
    first.process.kill()
    first.process.communicate(timeout=PATIENCE_S)
    assert (runtime / f"link-{first.port}.sock").exists()
    assert first.clear()["cleared"] is False  # a proxy that is gone took its rules with it
    with pytest.raises(Unavailable, match="gw-r0"):
        first.links.link_rules("gw-r0")
    assert probe("127.0.0.1", first.port, 1.0, 0)["outcome"] == "refused"
    again = subprocess.Popen(
        [
            sys.executable,
            proxy.__file__,
            "--name",
            "gw-r0",
            "--listen",
            f"127.0.0.1:{first.port}",
            "--to",
            f"127.0.0.1:{component.port}",
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, "BLACKSTART_RUNTIME_DIR": str(runtime)},
    )
    assert again.stdout is not None
    assert again.stdout.readline()
    assert first.links.link_rules("gw-r0") == []
    with first.connect() as connection:
        assert said_back(connection, b"again")
    again.terminate()
    again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0
    component.close()


def test_tied_proxy_ends_with_standard_input(runtime: Path) -> None:
    with standing(runtime, None, "--tied") as (running, _):
        assert running.process.stdin is not None
        running.process.stdin.close()
        running.process.stdin = None
        assert running.process.wait(PATIENCE_S) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_proxy_ends_with_its_parent(runtime: Path) -> None:
    component = Component()
    arguments = [sys.executable, proxy.__file__, "--name", "x", "--listen", "127.0.0.1:0", "--to", f"127.0.0.1:{component.port}"]
    program = f"import subprocess, sys; subprocess.Popen({[*arguments, '--with-parent']!r}).wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "BLACKSTART_RUNTIME_DIR": str(runtime)}
    )
    assert parent.stdout is not None
    ready = json.loads(parent.stdout.readline())
    parent.kill()
    parent.wait()
    awaited(lambda: not Path(ready["control"]).exists(), "the proxy ends in order after its parent was killed")
    parent.stdout.close()
    component.close()


def test_many_connections_cost_little(echo: tuple[Running, Component]) -> None:
    """100 short connections a second take less than 3 % of a core: 300 ms of CPU for 1,000 of them."""
    running, _ = echo

    def used() -> float:
        fields = Path(f"/proc/{running.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    if sys.platform != "linux":
        pytest.skip("CPU time of another process is read from /proc")
    before = used()
    for _ in range(1000):
        with running.connect() as connection:
            assert said_back(connection, b"x")
    assert used() - before < 0.3 * 2  # a busy machine with cold caches doubles it


def test_hundreds_of_open_connections(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(300, soft // 4)
    connections = [running.connect() for _ in range(number)]
    try:
        for connection in connections:
            connection.sendall(b"hello")
        assert all(received(connection, 5) == b"hello" for connection in connections)
        with Control("gw-r0", Path(running.ready["control"])).channel as channel:
            channel.sendall(b'{"do": "ping"}\n')
            assert json.loads(channel.recv(65536))["connections"] == number
    finally:
        for connection in connections:
            connection.close()


def test_links_are_found_by_name_role_and_client(runtime: Path) -> None:
    links = (
        Link("gw-r0", "gw", "r0", 1),
        Link("gw-r1", "gw", "r1", 2),
        Link("client-gw", "client", "gw", 3),
        Link("gw-store", "gw", "store", 4),
    )
    control = LinkControl(links, runtime, {"gw": "gateway", "r0": "replica", "r1": "replica", "store": "store"})
    replica, gateway = Target("pid:1@1", "r0", "replica"), Target("pid:2@1", "gw", "gateway")
    assert control.links((replica,), ()) == ("gw-r0",)
    assert control.links((replica,), ("gateway",)) == ("gw-r0",)
    for targets, peers, apart in (
        ((replica,), ("store",), "r0 and store;"),
        ((replica,), ("gateway", "store"), "r0 and store;"),
        ((replica, Target("pid:4@1", "r9", "replica")), (), "r9 and anybody;"),
    ):
        with pytest.raises(Unsupported, match=f"no link proxy stands between {apart}"):
            control.links(targets, peers)
    with pytest.raises(Unsupported, match=r"nothing is called gatway or has that role: there is gw \(gateway\), r0 \(replica\)"):
        control.links((replica,), ("gatway",))
    assert control.links((gateway,), ()) == ("gw-r0", "gw-r1", "client-gw", "gw-store")
    assert control.links((gateway,), ("client",)) == ("client-gw",)
    assert control.links((gateway,), ("replica",)) == ("gw-r0", "gw-r1")
    assert control.links((Target("pid:3@1", "r0/engine", "engine"),), ("gw",)) == ("gw-r0",)
    with pytest.raises(Unsupported, match="gw-r0, gw-r1"):
        control.link_rules("gw-r9")
    assert runtime_folder({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/blackstart")
    assert runtime_folder({}) == Path(f"/tmp/blackstart-{os.getuid()}")


def test_direction_is_seen_from_the_target(echo: tuple[Running, Component]) -> None:
    running, _ = echo
    for towards, direction in ((["r0"], "to"), (["gw"], "from")):
        record = running.links.link_begin("f", "gw-r0", {"type": "partition", "direction": "to", "towards": towards}, 60.0)
        assert record["rule"]["direction"] == direction
        running.clear()


def test_signal_ends_it_while_connections_are_open(runtime: Path) -> None:
    with standing(runtime) as (running, _), running.connect() as connection:
        assert said_back(connection, b"x")
        running.set(type="partition", direction="both")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == 0
