"""The network agent in real network namespaces: a victim and a peer, a veth pair between them, real connections through it."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from blackstart.injectors import agent, net_agent, proxy
from blackstart.injectors.platforms.agent_programs import program
from blackstart.tests.unit.net_namespaces import inside, ip, refuse, run

SOURCE = Path(net_agent.__file__).read_text(encoding="utf-8")
PROXY = Path(proxy.__file__).read_text(encoding="utf-8")
LIMIT_S = 30.0
QUIET_S = 0.4  # how long nothing must arrive for a path to count as silent
VICTIM, PEER, OTHER = "10.77.0.2", "10.77.0.1", "10.77.0.3"
VICTIM6, PEER6 = "fd77::2", "fd77::1"
DELAY, SLOW_S = {"type": "delay", "delay_s": 0.25}, 0.5  # a question and its answer, one way each


def wait_for(condition, what):
    limit = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < limit, f"waited {LIMIT_S} s for {what}"
        time.sleep(0.01)
    return found


class Echo:
    """A server that says back what it is told, and remembers it."""

    def __init__(self, listener):
        self.listener, self.received, self.open, self.peers = listener, b"", [], []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self.listener.accept()
                self.open.append(connection)
                self.peers.append(peer[0])
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.received += data
                connection.sendall(data)

    def close(self):
        for each in (self.listener, *self.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class Net:
    """Two namespaces and all that is opened in them; everything ends with `close`."""

    def __init__(self, folder):
        mark = secrets.token_hex(3)
        self.victim, self.peer, self.folder = f"bs-{mark}-victim", f"bs-{mark}-peer", folder
        self.short = Path(tempfile.mkdtemp(prefix="bs-"))  # pytest's folders have names too long for sockets
        self.opened = contextlib.ExitStack()
        self.ipv6 = Path("/proc/net/if_inet6").exists()

    def make(self):
        v6 = (
            f"netns exec {self.victim} ip address add {VICTIM6}/64 dev eth0 nodad",
            f"netns exec {self.peer} ip address add {PEER6}/64 dev eth0 nodad",
        )
        lines = (
            f"netns add {self.victim}",
            f"netns add {self.peer}",
            f"-n {self.victim} link add eth0 type veth peer name eth0 netns {self.peer}",
            f"-n {self.victim} address add {VICTIM}/24 dev eth0",
            f"-n {self.peer} address add {PEER}/24 dev eth0",
            f"-n {self.peer} address add {OTHER}/24 dev eth0",
            *(v6 if self.ipv6 else ()),
            *(f"-n {name} link set {device} up" for name in (self.victim, self.peer) for device in ("lo", "eth0")),
        )
        ip(lines)

    def close(self):
        self.opened.close()
        for name in (self.victim, self.peer):
            for pid in run("ip", "netns", "pids", name).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "delete", name)
        shutil.rmtree(self.short)

    def serve(self, name, address, port, dual=False):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside(name):
            server = Echo(socket.create_server((address, port), family=family, dualstack_ipv6=dual))
        self.opened.callback(server.close)
        return server

    def connect(self, name, address, port, source=None):
        with inside(name):
            return self.opened.enter_context(socket.create_connection((address, port), LIMIT_S, source and (source, 0)))

    def needs(self, address):
        if ":" in address and not self.ipv6:
            pytest.skip("this kernel has no IPv6")

    def nft(self, *words):
        done = run("ip", "netns", "exec", self.victim, "nft", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def agent(self, verb, request, *before, **more):
        """To its end: exit status and what it said."""
        text = request if isinstance(request, str) else json.dumps(request)
        done = run("ip", "netns", "exec", self.victim, *before, sys.executable, "-I", "-c", SOURCE, verb, text, **more)
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)

    def count(self, fault="run.0"):
        code, answer = self.agent("count", {"fault": fault})
        assert code == 0
        return answer["counters"] if answer["there"] else None

    def begin(self, verb, more=None, **request):
        """The agent and the first line that it said."""
        state = self.folder / "state" / f"{request.get('fault', 'run.0')}.json"
        state.parent.mkdir(exist_ok=True)
        body = {"fault": "run.0", "state": str(state), "deadline_s": 120.0, "lease_s": None, **request}
        text = json.dumps({"program": PROXY, **body} if verb == "proxy" else body)
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.victim, sys.executable, "-I", "-c", SOURCE, verb, text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "TMPDIR": str(self.short), **(more or {})},
        )
        self.opened.enter_context(process)
        self.opened.callback(process.kill)
        process.state = Path(body["state"])
        return process, json.loads(process.stdout.readline() or "{}")

    def hold(self, verb, **request):
        """An agent whose fault is in effect, and the facts."""
        process, said = self.begin(verb, **request)
        assert said["event"] == "effective", said
        return process, said

    def left(self, process):
        """What is still there of a fault that is over: nothing, if all is well."""
        return [*process.state.parent.iterdir(), *self.short.iterdir()], self.nft("list", "ruleset"), proxies(self)


NOTHING = ([], "", [])


@pytest.fixture
def net(tmp_path):
    missing = [name for name in ("nft", "ip", "ss") if not shutil.which(name, path=net_agent.PROGRAMS)]
    if os.geteuid() != 0 or missing:
        refuse(f"network namespaces need root, nft, ip and ss; missing: {', '.join(missing) or 'root'}")
    made = Net(tmp_path)
    try:
        made.make()
        yield made
    finally:
        made.close()


def rest(process):
    return json.loads(process.stdout.read() or "{}")


def end(process):
    process.stdin.close()
    answer = rest(process)
    assert answer["event"] == "undone", answer
    assert not process.state.exists()
    return answer


def said_back(connection, data=b"x"):
    """In seconds; None when something else comes back, or nothing."""
    began = time.monotonic()
    connection.sendall(data)
    return time.monotonic() - began if received(connection, len(data)) == data else None


def received(connection, size):
    connection.settimeout(LIMIT_S)
    data = b""
    while len(data) < size and (some := connection.recv(size - len(data))):
        data += some
    return data


def silent(connection):
    connection.settimeout(QUIET_S)
    try:
        return connection.recv(65536) is None
    except TimeoutError:
        return True


def unreachable(net, address, port, name=None, source=None):
    """A new connection gets no answer at all: neither accepted nor refused."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(name or net.peer), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(QUIET_S)
        if source:
            probe.bind((source, 0))
        try:
            probe.connect((address, port))
        except TimeoutError:
            return True
    return False


def gone(connection):
    """Cut: an error, be it on the first or on the next use. An end in order does not count."""
    connection.settimeout(LIMIT_S)
    try:
        return connection.recv(1) is None
    except ConnectionError:
        return True


# --- cut ------------------------------------------------------------------------------------------------------------------


def test_cut_silences_both_directions_and_what_stood_goes_on_after_it(net):
    server = net.serve(net.victim, VICTIM, 8000)
    connection = net.connect(net.peer, VICTIM, 8000)
    assert said_back(connection)
    process, said = net.hold("cut", but=[], peers=[])
    assert said["table"] == net_agent.table_of("run.0")
    connection.sendall(b"held")
    server.open[0].sendall(b"back")
    assert silent(connection)
    assert server.received == b"x"
    assert unreachable(net, VICTIM, 8000)
    counted = net.count()
    assert counted["to"]["packets"] > 0 < counted["from"]["packets"]
    assert counted["to"]["bytes"] > 0 < counted["from"]["bytes"]
    answer = end(process)
    assert answer["reason"] == "standard input closed"
    assert answer["counters"]["to"]["packets"] >= counted["to"]["packets"]
    assert received(connection, 8) == b"backheld"
    assert server.received == b"xheld"
    assert said_back(net.connect(net.peer, VICTIM, 8000))
    assert net.count() is None
    assert net.nft("list", "ruleset") == ""


@pytest.mark.parametrize("direction", ["to", "from"])
def test_cut_in_one_direction_is_seen_from_the_victim(net, direction):
    server = net.serve(net.victim, VICTIM, 8000)
    connection = net.connect(net.peer, VICTIM, 8000)
    assert said_back(connection)
    process, _ = net.hold("cut", direction=direction, ports=[8000])
    if direction == "to":
        connection.sendall(b"question")
        server.open[0].sendall(b"told")
        assert received(connection, 4) == b"told"
        assert silent(connection)
        assert server.received == b"x"
    else:
        connection.sendall(b"question")
        wait_for(lambda: server.received == b"xquestion", "the question arrives")
        assert silent(connection)
    assert unreachable(net, VICTIM, 8000)
    counted = net.count()
    assert list(counted) == [direction]
    assert counted[direction]["packets"] > 0
    end(process)
    assert received(connection, 8) == b"question"


def test_cut_respects_ports_peers_and_but(net):
    for port in (8000, 8001):
        net.serve(net.victim, VICTIM, port)
    ours = net.serve(net.peer, PEER, 9000)
    process, _ = net.hold("cut", ports=[8000], but=[OTHER])
    assert unreachable(net, VICTIM, 8000, source=PEER)
    assert said_back(net.connect(net.peer, VICTIM, 8000, source=OTHER))
    assert said_back(net.connect(net.peer, VICTIM, 8001, source=PEER))
    assert said_back(net.connect(net.victim, PEER, 9000))
    end(process)
    process, _ = net.hold("cut", peers=[f"{PEER}/32", "192.0.2.0/24", "192.0.2.0/28"])
    assert unreachable(net, VICTIM, 8001, source=PEER)
    assert unreachable(net, PEER, 9000, name=net.victim)
    assert said_back(net.connect(net.peer, VICTIM, 8001, source=OTHER))
    end(process)
    assert said_back(net.connect(net.victim, PEER, 9000))
    assert len(ours.open) == 2


def test_cut_leaves_loopback_alone(net):
    net.serve(net.victim, "0.0.0.0", 8000)
    process, _ = net.hold("cut")
    for address in ("127.0.0.1", VICTIM):
        assert said_back(net.connect(net.victim, address, 8000))
    assert unreachable(net, VICTIM, 8000)
    end(process)


def test_cut_of_ipv6_leaves_ipv4_and_neighbours_alone(net):
    net.needs(VICTIM6)
    server = net.serve(net.victim, "::", 8000, dual=True)
    process, _ = net.hold("cut", peers=[f"{PEER6}/64"])
    run("ip", "-n", net.peer, "-6", "neigh", "flush", "dev", "eth0")
    assert unreachable(net, VICTIM6, 8000)
    assert VICTIM6 in run("ip", "-n", net.peer, "-6", "neigh", "show", "nud", "reachable").stdout
    assert said_back(net.connect(net.peer, VICTIM, 8000))
    assert net.count()["to"]["packets"] > 0
    end(process)
    assert said_back(net.connect(net.peer, VICTIM6, 8000))
    process, _ = net.hold("cut", peers=[f"::ffff:{PEER}"], but=[PEER6])
    assert unreachable(net, VICTIM, 8000)
    assert said_back(net.connect(net.peer, VICTIM6, 8000))
    end(process)
    assert len(server.open) == 3


# --- names ----------------------------------------------------------------------------------------------------------------


def asked(net, port, kind=socket.SOCK_DGRAM):
    """What comes back to a question; None when nothing does. An error while asking is an error."""
    with inside(net.victim), socket.socket(socket.AF_INET, kind) as asking:
        asking.settimeout(QUIET_S)
        try:
            asking.connect((PEER, port))
            asking.send(b"who?")
            return asking.recv(100)
        except TimeoutError:
            return None


def answer_by_udp(net, port):
    with inside(net.peer):
        server = net.opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind((PEER, port))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                data, whom = server.recvfrom(100)
                if data == b"end":
                    return
                server.sendto(b"you " + data, whom)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def stop():
        with inside(net.peer), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", (PEER, port))
        thread.join(LIMIT_S)

    net.opened.callback(stop)


def test_names_silences_port_53_and_nothing_else(net):
    for port in (53, 5353):
        answer_by_udp(net, port)
        net.serve(net.peer, PEER, port)
    assert asked(net, 53) == b"you who?"
    process, _ = net.hold("names")
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        assert asked(net, 53, kind) is None
    assert asked(net, 5353) == b"you who?"
    assert asked(net, 5353, socket.SOCK_STREAM) == b"who?"
    counted = net.count()
    assert counted["to"]["packets"] >= 2 <= counted["asked"]["packets"]
    end(process)
    assert asked(net, 53) == b"you who?"
    assert asked(net, 53, socket.SOCK_STREAM) == b"who?"


# --- proxy ----------------------------------------------------------------------------------------------------------------


def proxies(net):
    return [pid for pid in run("ip", "netns", "pids", net.victim).stdout.split() if b"--transparent" in command_line(pid)]


def command_line(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.parametrize("victim", [VICTIM, VICTIM6])
def test_delay_of_what_comes_in(net, victim):
    net.needs(victim)
    net.serve(net.victim, victim, 8000)
    net.serve(net.victim, victim, 8001)
    assert said_back(net.connect(net.peer, victim, 8000)) < SLOW_S
    process, said = net.hold("proxy", sides=["in"], ports=[8000], rule=DELAY)
    assert said["cut"] == 1
    slow = net.connect(net.peer, victim, 8000)
    assert said_back(slow) >= SLOW_S
    assert said_back(net.connect(net.peer, victim, 8001)) < SLOW_S
    assert net.count()["in"]["packets"] == 1
    answer = end(process)
    assert (answer["rule"]["connections"], answer["rule"]["bytes_delayed"]) == (1, 2)
    assert gone(slow)
    assert said_back(net.connect(net.peer, victim, 8000)) < SLOW_S
    assert net.left(process) == NOTHING


@pytest.mark.parametrize(("victim", "peer"), [(VICTIM, PEER), (VICTIM6, PEER6)])
def test_delay_of_what_goes_out(net, victim, peer):
    net.needs(victim)
    server = net.serve(net.peer, peer, 9000)
    net.serve(net.peer, peer, 9001)
    net.serve(net.victim, victim, 9000)
    process, said = net.hold("proxy", sides=["out"], ports=[9000], peers=[peer], rule=DELAY)
    assert said["cut"] == 0
    assert said_back(net.connect(net.victim, peer, 9000)) >= SLOW_S
    assert server.peers == [victim]
    assert said_back(net.connect(net.victim, peer, 9001)) < SLOW_S
    assert said_back(net.connect(net.peer, victim, 9000)) < SLOW_S
    end(process)
    assert said_back(net.connect(net.victim, peer, 9000)) < SLOW_S


def test_both_sides_of_any_port_but_not_of_everybody(net):
    net.serve(net.victim, VICTIM, 8000)
    net.serve(net.peer, "0.0.0.0", 9000)
    process, _ = net.hold("proxy", sides=["in", "out"], but=[OTHER], rule=DELAY)
    assert said_back(net.connect(net.peer, VICTIM, 8000)) >= SLOW_S
    assert said_back(net.connect(net.victim, PEER, 9000)) >= SLOW_S
    assert said_back(net.connect(net.peer, VICTIM, 8000, source=OTHER)) < SLOW_S
    assert said_back(net.connect(net.victim, OTHER, 9000)) < SLOW_S
    assert said_back(net.connect(net.victim, VICTIM, 8000)) < SLOW_S
    end(process)


def test_link_local_addresses_of_ipv6_are_not_redirected(net):
    net.needs(VICTIM6)
    for name, address in ((net.victim, "fe80::77:2"), (net.peer, "fe80::77:1")):
        assert run("ip", "-n", name, "address", "add", f"{address}/64", "dev", "eth0", "nodad").returncode == 0
    net.serve(net.victim, "::", 8000)
    net.serve(net.peer, "::", 9000)
    old = net.connect(net.peer, "fe80::77:2%eth0", 8000)
    process, said = net.hold("proxy", sides=["in", "out"], rule=DELAY)
    assert said["cut"] == 0
    assert said_back(old) < SLOW_S
    assert said_back(net.connect(net.peer, "fe80::77:2%eth0", 8000)) < SLOW_S
    assert said_back(net.connect(net.victim, "fe80::77:1%eth0", 9000)) < SLOW_S
    end(process)


def test_reset_and_stall(net):
    net.serve(net.victim, VICTIM, 8000)
    process, _ = net.hold("proxy", sides=["in"], ports=[8000], rule={"type": "reset", "after_bytes": None})
    with contextlib.suppress(ConnectionResetError):  # it may be there before `connect` returns
        assert gone(net.connect(net.peer, VICTIM, 8000))
    assert end(process)["rule"]["resets"] == 1
    process, _ = net.hold("proxy", sides=["in"], ports=[8000], rule={"type": "stall", "after_bytes": 3})
    connection = net.connect(net.peer, VICTIM, 8000)
    assert said_back(connection, b"abc")
    connection.sendall(b"def")
    assert silent(connection)
    end(process)
    with contextlib.suppress(ConnectionResetError):  # what was held flows on, and then the proxy is gone
        assert received(connection, 3) == b"def"
        assert gone(connection)


@pytest.mark.parametrize(("address", "dual"), [(VICTIM, False), ("::", True)])
def test_what_stood_before_is_cut_once_and_comes_back_through_the_proxy(net, address, dual):
    net.needs(address)
    server = net.serve(net.victim, address, 8000, dual=dual)
    elsewhere = net.serve(net.peer, PEER, 9000)
    old = [net.connect(net.peer, VICTIM, 8000) for _ in range(70)]
    spared, outgoing = net.connect(net.peer, VICTIM, 8000, source=OTHER), net.connect(net.victim, PEER, 9000)
    own = net.connect(net.victim, VICTIM, 8000)
    assert all(said_back(each) for each in (*old, spared, outgoing, own))
    process, said = net.hold("proxy", sides=["in"], but=[OTHER], rule=DELAY)
    assert (said["cut"], "left" in said, "established" in said) == (70, False, False)
    assert all(gone(each) for each in old)
    assert all(said_back(each) < SLOW_S for each in (spared, outgoing, own))
    assert said_back(net.connect(net.peer, VICTIM, 8000)) >= SLOW_S
    end(process)
    process, said = net.hold("proxy", sides=["out"], rule=DELAY)
    assert said["cut"] == 1
    assert gone(outgoing)
    assert said_back(spared) < SLOW_S
    end(process)
    assert (len(server.open), len(elsewhere.open)) == (73, 1)


@pytest.mark.skipif(bool(shutil.which("ss", path="/usr/sbin:/sbin")), reason="ss lies where nft lies and cannot be hidden")
def test_without_ss_what_stood_goes_on_and_the_facts_say_so(net, tmp_path):
    net.serve(net.victim, VICTIM, 8000)
    net.serve(net.peer, PEER, 9000)
    old, outgoing = net.connect(net.peer, VICTIM, 8000), net.connect(net.victim, PEER, 9000)
    assert said_back(old)
    assert said_back(outgoing)
    (tmp_path / "ip").symlink_to(shutil.which("ip"))
    process, said = net.begin("proxy", {"PATH": str(tmp_path)}, sides=["in", "out"], rule=DELAY)
    assert (said["event"], said["cut"], said["established"]) == ("effective", 0, "go on untouched")
    assert "ss" in said["why"]
    assert said_back(old) < SLOW_S  # a packet in mid-stream is the first that the firewall ever sees of it, and is not redirected
    assert said_back(outgoing) < SLOW_S
    assert said_back(net.connect(net.peer, VICTIM, 8000)) >= SLOW_S
    end(process)
    assert said_back(old) < SLOW_S


def test_the_proxys_port_is_no_open_door(net):
    server = net.serve(net.victim, VICTIM, 8000)
    process, said = net.hold("proxy", sides=["in"], ports=[8000], rule=DELAY)
    with contextlib.suppress(ConnectionResetError):
        assert gone(net.connect(net.peer, VICTIM, said["port"]))
    assert proxies(net) != []
    assert said_back(net.connect(net.peer, VICTIM, 8000))
    end(process)
    assert len(server.open) == 1


def test_a_proxy_listens_on_named_addresses_only(tmp_path):
    for address, why in (("0.0.0.0:0", "every network"), ("[::]:0", "every network"), ("[::ffff:0.0.0.0]:0", "every network")):
        command = [sys.executable, proxy.__file__, "--name", "x", "--listen", address, "--transparent", "7"]
        ended = run(*command, env={**os.environ, "BLACKSTART_RUNTIME_DIR": str(tmp_path / "rt")})
        assert (ended.returncode, why in ended.stderr or "marked" in ended.stderr) == (3, True)
    for words in (
        ["--to", "127.0.0.1:1", "--transparent", "7"],
        ["--transparent", "0"],
        [],
        ["--to", "x:1", "--listen", "127.0.0.1:0"],
    ):
        ended = run(sys.executable, proxy.__file__, "--name", "x", "--listen", "127.0.0.1:0", *words)
        assert ended.returncode == 2, ended.stderr


def test_a_bad_rule_leaves_nothing(net):
    process, said = net.begin("proxy", sides=["in"], rule={"type": "dance"})
    assert said["event"] == "failed"
    assert "one of partition" in said["why"]
    assert process.wait(LIMIT_S) == 1
    assert net.left(process) == NOTHING


# --- endings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["cut", "proxy"])
@pytest.mark.parametrize(("limits", "reason"), [({"deadline_s": 2.5}, "deadline"), ({"lease_s": 2.5}, "lease lapsed")])
def test_fault_ends_by_itself(net, verb, limits, reason):
    net.serve(net.victim, VICTIM, 8000)
    process, said = net.begin(verb, sides=["in"], rule=DELAY, **limits)
    assert said["event"] == "effective"
    assert rest(process)["reason"] == reason
    assert said_back(net.connect(net.peer, VICTIM, 8000)) < SLOW_S
    assert net.left(process) == NOTHING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_undo(net, number):
    process, _ = net.hold("cut")
    process.send_signal(number)
    assert rest(process)["reason"] == f"signal {number:d}"
    assert net.nft("list", "ruleset") == ""


def seconds_left(net):
    found = re.search(r"expires (?:(\d+)s)?", net.nft("list", "ruleset"))
    return int(found[1] or 0)


def test_a_detached_agent_lives_by_its_lease_and_so_does_the_kernels(net):
    process, _ = net.hold("cut", lease_s=6.0, detached=True)
    process.stdin.close()
    for _ in range(2):
        wait_for(lambda: seconds_left(net) <= 9, "the kernel's clock runs")
        done = run(sys.executable, "-I", agent.__file__, "renew", f"@{process.state}")
        assert (done.returncode, done.stderr) == (0, "")
        wait_for(lambda: seconds_left(net) >= 10, "the kernel's clock is set back")
    assert rest(process)["reason"] == "lease lapsed"
    assert net.nft("list", "ruleset") == ""
    assert run(sys.executable, "-I", agent.__file__, "renew", f"@{process.state}").returncode == 1


def test_the_kernel_lets_go_when_nobody_else_is_left(net):
    net.serve(net.victim, VICTIM, 8000)
    process, _ = net.hold("cut", deadline_s=2.0)
    process.kill()
    process.wait()
    assert unreachable(net, VICTIM, 8000)
    assert said_back(net.connect(net.peer, VICTIM, 8000))  # within the patience of a connecting client
    assert net.count()["to"]["packets"] > 0


def test_the_cut_of_a_killed_agent_is_undone_by_the_next(net):
    net.serve(net.victim, VICTIM, 8000)
    connection = net.connect(net.peer, VICTIM, 8000)
    process, _ = net.hold("cut")
    process.kill()
    process.wait()
    connection.sendall(b"x")
    assert silent(connection)
    code, answer = net.agent("undo", f"@{process.state}")
    assert (code, answer["event"], answer["reason"]) == (0, "undone", "undo")
    assert answer["counters"]["to"]["packets"] > 0
    assert received(connection, 1) == b"x"
    assert net.agent("undo", f"@{process.state}") == (0, {"event": "undone", "reason": "nothing was left"})


def test_a_killed_agent_takes_the_rule_along_and_the_next_ends_its_proxy(net):
    net.serve(net.victim, VICTIM, 8000)
    process, _ = net.hold("proxy", sides=["in"], rule=DELAY)
    connection = net.connect(net.peer, VICTIM, 8000)
    assert said_back(connection) >= SLOW_S
    process.kill()
    process.wait()
    wait_for(lambda: said_back(connection) < SLOW_S, "no rule without its holder")
    assert said_back(net.connect(net.peer, VICTIM, 8000)) < SLOW_S
    assert len(proxies(net)) == 1
    code, answer = net.agent("undo", f"@{process.state}")
    assert (code, answer["event"], answer["counters"]["in"]["packets"]) == (0, "undone", 2)
    assert gone(connection)
    assert net.left(process) == NOTHING
    assert said_back(net.connect(net.peer, VICTIM, 8000)) < SLOW_S


def test_a_proxy_whose_agent_was_killed_ends_after_the_deadline(net):
    process, _ = net.hold("proxy", sides=["in"], rule=DELAY, deadline_s=2.0)
    process.kill()
    assert proxies(net)
    wait_for(lambda: not proxies(net), "the proxy ends")


@pytest.mark.parametrize("verb", ["cut", "proxy"])
@pytest.mark.parametrize("frozen", [False, True])
def test_undo_ends_a_living_agent(net, verb, frozen):
    process, _ = net.hold(verb, sides=["out"], rule=DELAY)
    if frozen:
        process.send_signal(signal.SIGSTOP)
    code, answer = net.agent("undo", f"@{process.state}")
    assert (code, answer["event"]) == (0, "undone")
    assert process.wait(LIMIT_S) == 0
    assert net.left(process) == NOTHING


def test_an_undo_in_another_namespace_undoes_nothing_and_says_so(net):
    process, _ = net.hold("cut")
    process.kill()
    process.wait()
    done = run("ip", "netns", "exec", net.peer, sys.executable, "-I", "-c", SOURCE, "undo", f"@{process.state}")
    assert done.returncode == 1
    assert "network namespace" in json.loads(done.stdout)["why"]
    assert net.count()
    assert net.agent("undo", f"@{process.state}")[0] == 0


# --- refusals, and what is not ours ---------------------------------------------------------------------------------------


def test_the_same_fault_is_not_held_twice(net, tmp_path):
    process, _ = net.hold("cut")
    before = net.nft("-s", "list", "ruleset")
    for state, why in ((process.state, "record"), (tmp_path / "other.json", "network namespace")):
        code, answer = net.agent("cut", {"fault": "run.0", "state": str(state), "deadline_s": 9.0, "lease_s": None})
        assert (code, answer["event"]) == (3, "refused")
        assert why in answer["why"]
    assert net.nft("-s", "list", "ruleset") == before
    assert not (tmp_path / "other.json").exists()
    second, _ = net.hold("cut", fault="run.1")
    assert net.count("run.1")
    end(process)
    assert net.count("run.1")
    end(second)


@pytest.mark.parametrize(
    ("verb", "wrong", "why"),
    [
        ("cut", {"peers": ["10.0.0.0/33"]}, "peers"),
        ("cut", {"but": ["nonsense"]}, "but"),
        ("cut", {"ports": [0]}, "ports"),
        ("cut", {"direction": "up"}, "direction"),
        ("proxy", {"sides": ["up"]}, "sides"),
    ],
)
def test_what_makes_no_sense_is_refused(net, verb, wrong, why):
    process, said = net.begin(verb, **{"sides": ["in"], "rule": DELAY, **wrong})
    assert (said["event"], process.wait(LIMIT_S)) == ("refused", 3)
    assert why in said["why"]
    assert net.left(process) == NOTHING


def test_foreign_tables_are_never_touched(net):
    net.nft("add table inet someone; add chain inet someone x; add rule inet someone x tcp dport 1 counter drop")
    net.nft("add table ip blackstar")
    before = net.nft("list", "ruleset")
    for verb in ("cut", "proxy"):
        process, _ = net.hold(verb, sides=["in", "out"], rule=DELAY)
        assert len(net.nft("list", "tables").splitlines()) == 3
        end(process)
        assert net.nft("list", "ruleset") == before
    process, said = net.hold("cut")
    code, answer = net.agent("sweep", "-")
    assert (code, answer) == (0, {"swept": [said["table"]]})
    assert net.nft("list", "ruleset") == before
    assert end(process).get("counters") is None


def test_a_table_that_somebody_else_made_in_its_place_is_left_alone(net):
    process, said = net.hold("cut")
    process.kill()
    process.wait()
    net.nft(f"delete table inet {said['table']}; add table inet {said['table']}")
    code, answer = net.agent("undo", f"@{process.state}")
    assert (code, answer["event"]) == (4, "foreign")
    assert said["table"] in net.nft("list", "tables")
    assert process.state.exists()
    net.nft(f"delete table inet {said['table']}")
    assert net.agent("undo", f"@{process.state}")[0] == 0
    assert not process.state.exists()


# --- what holds nothing ---------------------------------------------------------------------------------------------------


def test_able_with_the_right(net):
    code, answer = net.agent("able", "-")
    assert code == 0
    assert re.fullmatch(r"v\d+\.\d+(\.\d+)?", answer.pop("nft"))
    assert answer == {"admin": True, "redirect": True, "cut_established": True, "why": []}
    assert net.nft("list", "ruleset") == ""


@pytest.mark.parametrize("without", [("--bounding-set", "-net_admin"), ("--reuid", "65534", "--clear-groups")])
def test_able_without_the_right(net, without):
    code, answer = net.agent("able", "-", "setpriv", *without)
    assert code == 0
    assert answer.pop("nft")
    why = answer.pop("why")
    assert answer == {"admin": False, "redirect": False, "cut_established": False}
    assert "not permitted" in why[0]
    assert "ss" in why[1]


def test_without_the_right_nothing_is_begun(net):
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "f.json"
        request = {"fault": "f", "state": str(state), "deadline_s": 9.0, "lease_s": None}
        code, answer = net.agent("cut", request, "setpriv", "--bounding-set", "-net_admin")
        assert (code, answer["event"]) == (3, "refused")
        assert "not permitted" in answer["why"]
        assert not state.exists()
        code, answer = net.agent("count", {"fault": "f"}, "setpriv", "--bounding-set", "-net_admin")
        assert (code, answer["event"]) == (1, "failed")  # not "there is none": that is unknown


def test_count_of_what_is_not_there(net):
    assert net.agent("count", {"fault": "f"}) == (0, {"there": False, "table": net_agent.table_of("f"), "counters": {}})
    assert net.agent("sweep", "-") == (0, {"swept": []})


def test_its_verbs_are_known_to_be_its_own():
    for verb in net_agent.VERBS:
        assert program(verb) == Path(net_agent.__file__)
