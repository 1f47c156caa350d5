"""A service of one process, which ends of a fault in ways of its own: at the end of a drill it stands again, or the drill is dirty."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.journal import DrillClock, Journal, read_journal
from blackstart.drills.undoing import Undone, look_back
from blackstart.injectors.lifecycle import ProcessHang
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
from blackstart.tests.command import TRIES, Blackstart, Done, events, until
from blackstart.tests.journal import fields, moment
from blackstart.tests.ports import free_port
from blackstart.tests.unit.models import write_safetensors

# What it does, by its third word: `clock` ends once it was stopped for a second and told to go on (a machine that stands still tells it
# nothing), as Triton does whose stub was, and `late` once the undo was proven; `mapped` answers out of the file that it has mapped, and dies
# of reading beyond its end; `strict` loads no file whose header is damaged, and ends.
SERVER = """\
import glob, json, mmap, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
port, path, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
model = open(path, "rb")
if kind == "strict":
    json.loads(model.read(8 + int.from_bytes(model.read(8), "little"))[:-8] or b"{}")
mapped = mmap.mmap(model.fileno(), 0, prot=mmap.PROT_READ) if kind == "mapped" else None

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "last": mapped[len(mapped) - 1] if mapped else 0}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def watch():
    seen, stood, told = time.monotonic(), False, False
    while not (stood and told):
        told = bool(signal.sigtimedwait([signal.SIGCONT], 0.05)) or told
        now = time.monotonic()
        stood, seen = stood or now - seen > 1, now
    while kind == "late" and "undo-verified" not in open(max(glob.glob(sys.argv[4] + "/2*/journal.jsonl"))).read():
        time.sleep(0.02)
    open(sys.argv[4] + "/../ended", "w").write(str(time.monotonic()))
    os._exit(3)

if kind in {"clock", "late"}:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])  # it goes on all the same, and the thread is told
    threading.Thread(target=watch, daemon=True).start()
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
HEAD = "apiVersion: blackstart/v1\nkind: Scenario\nname: ends\nobjectives: {rto: 2s}\nsteady_state: {hold: 2s}\nsettle: 1s\nobserve: 8s\n"


class Server:
    """Runs before a drill and is not the drill's own, so that what stands after it can be asked."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.port = free_port()
        self.model, program = write_safetensors(folder / "model.safetensors"), folder / "server.py"
        program.write_text(SERVER, encoding="utf-8")
        self.start = [sys.executable, str(program), str(self.port), str(self.model), kind, str(folder / "blackstart-runs")]
        component = {"name": "r0", "role": "replica", "port": self.port, "start": self.start}
        whole = {"apiVersion": "blackstart/v1", "kind": "Service", "name": "ends", "platform": "process"}
        whole |= {
            "process": {"components": [component]},
            "endpoint": {"url": f"http://127.0.0.1:{self.port}", "protocol": "http"},
        }
        self.file = folder / "service.yaml"
        model = {"path": str(self.model), "load": "mmap" if kind == "mapped" else "at-start"}
        self.file.write_text(json.dumps({**whole, "model": model}), encoding="utf-8")
        self.process = subprocess.Popen(self.start)
        until("it to answer", self.pid)

    def pid(self) -> int:
        """0: nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
                return int(json.load(answer)["pid"])
        except OSError:
            return 0

    def end(self) -> None:
        while pid := self.pid():
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, request.param)
    yield made
    made.end()


def drilled(blackstart: Blackstart, server: Server, *faults: str) -> Done:
    path = blackstart.folder / "ends.yaml"
    listed = "".join(f"  - {each}\n" for each in faults)
    path.write_text(f"{HEAD}blast_radius: {{share: 100%}}\nfaults:\n{listed}", encoding="utf-8")
    return blackstart.telling("run", path, "--service", server.file, "--yes")


def told(folder: Path, event: str) -> list[dict[str, Any]]:
    return [dict(record.fields) for record in read_journal(folder / "journal.jsonl")[0] if record.event == event]


def ended_s(server: Server) -> float:
    return float((server.file.parent / "ended").read_text(encoding="utf-8"))


def proven_s(folder: Path) -> float:
    """When the undo was, on the same clock."""
    return float(fields(folder, "started")["origin"]) + moment(folder, "undo-verified")


@pytest.mark.parametrize(("server", "fallen"), [("clock", []), ("late", [{"fault": 0, "targets": ["r0"]}])], indirect=["server"])
def test_what_ends_of_its_undo_or_after_it_is_started_again(
    blackstart: Blackstart, server: Server, fallen: list[dict[str, Any]]
) -> None:
    for _ in range(TRIES):
        before = server.pid()
        done = drilled(blackstart, server, "{kind: process-hang, target: {names: [r0]}, for: 3s}")
        if fallen or ended_s(server) < proven_s(done.folder):
            break  # else it was so slow to end that it still stood when the undo was proven
    assert (done.code, done.result["verdict"]) == (1, "failed"), done.out + done.err
    assert told(done.folder, "fallen") == fallen
    (fault,) = done.result["faults"]
    assert fault["undo_verified"]
    assert ("r0 had ended by the end of the drill and stands again" in " ".join(done.out.split())) == bool(fallen)
    until("it to stand again", lambda: server.pid() not in {0, before})


@pytest.mark.parametrize("server", ["mapped"], indirect=True)
def test_what_dies_of_a_file_is_started_again_with_the_file_put_back(blackstart: Blackstart, server: Server) -> None:
    before, whole = server.pid(), server.model.read_bytes()
    done = drilled(blackstart, server, "{kind: model-corrupt, mutation: truncate, target: {names: [r0]}, for: 3s}")
    assert done.code == 1, done.out + done.err
    assert server.process.wait(10) == -signal.SIGBUS
    assert server.model.read_bytes() == whole
    assert done.result["faults"][0]["undo_verified"]
    until("it to stand again", lambda: server.pid() not in {0, before})


@pytest.mark.parametrize("server", ["strict"], indirect=True)
def test_one_that_refuses_a_damaged_file_is_back_once_that_is_put_back(blackstart: Blackstart, server: Server) -> None:
    """The kill is undone by its standing again, so after the file is."""
    faults = (
        "{kind: model-corrupt, mutation: header, target: {names: [r0]}}",
        "{kind: replica-kill, target: {names: [r0]}, at: 1s}",
    )
    done = drilled(blackstart, server, *faults)
    assert (done.code, done.result["verdict"]) == (1, "failed"), done.out + done.err
    assert [fault["undo_verified"] for fault in done.result["faults"]] == [True, True]
    assert [each["fault"] for each in told(done.folder, "undo-verified")] == [0, 1]
    until("it to stand again", server.pid)


@pytest.mark.parametrize("server", ["clock"], indirect=True)
def test_where_nobody_starts_it_again_that_is_told(server: Server, tmp_path: Path) -> None:
    spec = ProcessSpec((Component("r0", "replica", port=server.port, supervised=True),))  # which is not true
    with (
        closing(ProcessPlatform(spec, tmp_path, tmp_path / "state", dict(os.environ))) as platform,
        Journal(tmp_path / "journal.jsonl", DrillClock.starting_now()) as journal,
    ):
        target = platform.current("r0")
        assert target is not None
        injector = ProcessHang()
        undo = injector.plan((target,), platform).stamped("run.0", injector.kind, {}, 10.0)
        undone = Undone(injector, undo, 0, "", proven=True)

        def looked() -> list[str]:
            return list(look_back([undone], platform, journal, lambda _: None, 0.5))

        assert looked() == []
        server.end()
        first, second = looked()
    assert first == "process-hang: nothing stands under r0, though it was undone"
    assert "NOT UNDONE: nothing stands under r0" in second
    assert [event for event in events(tmp_path) if event in {"fallen", "undo-failed", "undo-verified"}] == [
        "fallen",
        "undo-failed",
    ]
