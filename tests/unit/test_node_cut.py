"""The program that cuts a node off, on a node that is a network namespace: one cable leads off it, and a pod of its own hangs on another."""

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms import node_cut
from blackstart.tests.command import until
from blackstart.tests.unit import net_namespaces
from blackstart.tests.unit.net_namespaces import inside, ip, refuse

PROGRAM = node_cut.__file__
LIMIT_S, QUIET_S, FOR_S = 20.0, 0.5, 6
OUTSIDE, NODE, NODES_POD_SIDE, POD = "10.78.0.1", "10.78.0.2", "10.78.1.1", "10.78.1.2"
PORT = 8000


run = functools.partial(net_namespaces.run, timeout=LIMIT_S)


class Place:
    """Three network namespaces, an echo on each, and the program's files; everything ends with `close`."""

    def __init__(self, folder: Path) -> None:
        mark = secrets.token_hex(3)
        self.names = {each: f"bs-{mark}-{each}" for each in ("outside", "node", "pod")}
        self.folder, self.opened = folder, contextlib.ExitStack()
        self.request = {"table": "blackstart_test", "for_s": FOR_S, "armed_s": 30.0, "word": str(folder / "word")}

    def make(self) -> None:
        outside, node, pod = self.names.values()
        lines = (
            *(f"netns add {name}" for name in self.names.values()),
            f"-n {node} link add eth0 type veth peer name eth0 netns {outside}",
            f"-n {node} link add pod0 type veth peer name eth0 netns {pod}",
            f"-n {outside} address add {OUTSIDE}/24 dev eth0",
            f"-n {node} address add {NODE}/24 dev eth0",
            f"-n {node} address add {NODES_POD_SIDE}/24 dev pod0",
            f"-n {pod} address add {POD}/24 dev eth0",
            *(f"-n {name} link set {device} up" for name in self.names.values() for device in ("lo", "eth0")),
            f"-n {node} link set pod0 up",
            f"-n {node} route add default via {OUTSIDE}",
            f"-n {pod} route add default via {NODES_POD_SIDE}",
            f"-n {outside} route add 10.78.1.0/24 via {NODE}",
            f"netns exec {node} sysctl -qw net.ipv4.ip_forward=1",
        )
        ip(lines)
        for where in self.names:
            self.serve(where)

    def close(self) -> None:
        self.opened.close()
        for name in self.names.values():
            run("ip", "netns", "delete", name)

    def serve(self, where: str) -> None:
        with inside(self.names[where]):
            listener = self.opened.enter_context(socket.create_server(("", PORT)))
        self.opened.callback(listener.shutdown, socket.SHUT_RDWR)
        threading.Thread(target=echo, args=(listener,), daemon=True).start()

    def connected(self, where: str, address: str) -> socket.socket:
        with inside(self.names[where]):
            return self.opened.enter_context(socket.create_connection((address, PORT), QUIET_S))

    def reaches(self, where: str, address: str) -> bool:
        try:
            return answers(self.connected(where, address))
        except TimeoutError:
            return False

    def program(self, *words: str) -> "subprocess.Popen[str]":
        command = ["ip", "netns", "exec", self.names["node"], sys.executable, "-I", "-S", PROGRAM, *words]
        environment = {**os.environ, "BLACKSTART_CUT_DIR": str(self.folder)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.opened.enter_context(process)
        self.opened.callback(process.kill)
        return process

    def holder(self, **request: Any) -> "subprocess.Popen[str]":
        return self.program("hold", json.dumps({**self.request, **request}))

    def asked(self, verb: str) -> dict[str, Any]:
        return json.loads(self.program(verb).communicate(timeout=LIMIT_S)[0])

    def tables(self) -> str:
        return run("ip", "netns", "exec", self.names["node"], "nft", "list", "tables").stdout

    def cut(self) -> "subprocess.Popen[str]":
        """A holder that has cut the node off just now."""
        holder = self.holder()
        assert self.asked("armed") == {"event": "armed", "interfaces": ["eth0"]}
        assert self.reaches("outside", NODE), "armed is not cut"
        assert self.asked("go") == {"event": "noted"}
        until("the node to be cut off", lambda: not self.reaches("outside", NODE), LIMIT_S)
        return holder

    def word(self, holder: "subprocess.Popen[str]") -> dict[str, Any]:
        said = json.loads(holder.communicate(timeout=LIMIT_S)[0])
        assert holder.returncode == 0
        assert json.loads((self.folder / "word").read_text(encoding="utf-8")) == said
        assert self.tables() == ""
        return said


def echo(listener: socket.socket) -> None:
    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()


def answers(connection: socket.socket) -> bool:
    connection.settimeout(QUIET_S)
    try:
        connection.sendall(b"?")
        return bool(connection.recv(1))
    except TimeoutError:
        return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    missing = [name for name in ("nft", "ip") if not shutil.which(name, path=node_cut.PROGRAMS)]
    if os.geteuid() != 0 or missing:
        refuse(f"network namespaces need root, nft and ip; missing: {', '.join(missing) or 'root'}")
    made = Place(tmp_path)
    try:
        made.make()
        yield made
    finally:
        made.close()


def test_all_that_leads_off_the_node_is_cut_and_comes_back_by_itself(place: Place) -> None:
    standing = place.connected("pod", OUTSIDE)
    assert answers(standing)
    holder = place.cut()
    assert not answers(standing), "what passes through the node is cut as well, and what stood before"
    assert not place.reaches("node", OUTSIDE)
    assert place.reaches("node", POD) and place.reaches("pod", NODES_POD_SIDE) and place.reaches("node", "127.0.0.1")
    said = place.word(holder)
    assert place.reaches("outside", NODE) and place.reaches("pod", OUTSIDE)
    standing.settimeout(LIMIT_S)
    assert standing.recv(1) == b"?", "what was sent meanwhile arrives"
    assert (said["event"], said["reason"], said["interfaces"]) == ("undone", "its time is over", ["eth0"])
    assert said["held_s"] == FOR_S and said["back"] == pytest.approx(said["cut"] + FOR_S)
    assert all(said["counters"][name]["packets"] for name in ("arriving", "leaving"))


def test_the_kernel_lets_go_when_all_else_is_killed(place: Place) -> None:
    holder = place.cut()
    holder.kill()
    holder.wait(LIMIT_S)
    assert not place.reaches("outside", NODE)
    until("the kernel to let go", lambda: place.reaches("outside", NODE), FOR_S + 2)
    assert "blackstart_test" in place.tables(), "nobody has cleared up so far"
    said = place.word(place.holder())
    assert said["reason"] == "what held it was killed, and the kernel let go"
    assert said["killed"] and said["held_s"] == FOR_S


def test_what_takes_the_place_of_a_killed_one_begins_nothing_anew(place: Place) -> None:
    place.cut().kill()
    successor = place.holder()
    until("its word that it would not begin", lambda: place.asked("armed")["event"] == "refused", LIMIT_S)
    assert place.word(successor)["held_s"] == FOR_S
    assert place.reaches("outside", NODE)


def test_a_pod_that_is_ended_lets_go_at_once(place: Place) -> None:
    holder = place.cut()
    holder.send_signal(signal.SIGTERM)
    said = place.word(holder)
    assert said["reason"] == "signal 15" and said["held_s"] < FOR_S
    assert place.reaches("outside", NODE)


@pytest.mark.parametrize("how", ["told", "forgotten"])
def test_what_nobody_begins_is_given_up(place: Place, how: str) -> None:
    holder = place.holder(armed_s=0.3 if how == "forgotten" else 30.0)
    if how == "told":
        assert place.asked("armed")["event"] == "armed"
        place.asked("end")
    assert place.word(holder)["reason"].startswith("it was never begun")
    assert place.reaches("outside", NODE)


def test_a_node_with_no_way_off_is_refused(place: Place) -> None:
    run("ip", "-n", place.names["node"], "link", "delete", "eth0")
    holder = place.holder()
    said = place.asked("armed")
    assert said["event"] == "refused" and "no interface that leads off" in said["why"]
    place.asked("end")
    assert "no interface" in place.word(holder)["reason"]


def test_what_reaches_another_gateway_leads_off_as_well(place: Place) -> None:
    """A second network, or a tunnel to the pods of other nodes."""
    run("ip", "-n", place.names["node"], "route", "add", "10.99.0.0/24", "via", POD)
    holder = place.holder()
    assert place.asked("armed")["interfaces"] == ["eth0", "pod0"]
    place.asked("end")
    place.word(holder)
