"""Drills on nginx, a server that nobody here wrote, as a plain HTTP service: a master, two workers, answers from memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blackstart.tests.command import Blackstart, events, until
from blackstart.tests.journal import held_s
from blackstart.tests.ports import free_port
from blackstart.tests.servers.machine import demanded, living, scenario

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
CONFIG = Path(__file__).with_name("nginx.conf")
RIGHT = {"model": "weather", "answer": {"city": "Paris", "degrees": 21}}


@dataclass(frozen=True)
class Nginx:
    """An nginx that may or may not be running, in a folder of its own."""

    program: str
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def start(self) -> list[str]:
        return [self.program, "-p", str(self.folder / "nginx"), "-c", "nginx.conf", "-e", "error.log"]

    def service(self, found_by: str, *, start: bool) -> Path:
        """A service file whose one component is found by its port or its pid file."""
        by = {"port": f"port: {self.port}", "pid_file": "pid_file: nginx/nginx.pid"}[found_by]
        started = f", start: {json.dumps(self.start)}" if start else ""
        path = self.folder / "service.yaml"
        path.write_text(
            "apiVersion: blackstart/v1\nkind: Service\nname: weather\nplatform: process\nprocess:\n"
            f"  components: [{{name: web, role: replica, {by}, url: {json.dumps(self.url)}{started}}}]\n"
            '  inside: {worker: "nginx: worker process"}\n'
            f"endpoint: {{url: {json.dumps(self.url)}, protocol: http}}\nhealth: [/health]\n"
            'golden: [{request: "GET /", status: 200, json: {answer: {city: Paris}}}]\n',
            encoding="utf-8",
        )
        return path

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=2) as answer:
                return json.load(answer) == RIGHT
        except OSError:
            return False

    def workers(self) -> int:
        return sum("worker process" in command for command in living(self.folder).values())

    def master(self) -> int:
        return int((self.folder / "nginx" / "nginx.pid").read_text())


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    program = demanded(shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), "apt-get install nginx")
    prefix = tmp_path / "nginx"
    prefix.mkdir()
    port = free_port()
    (prefix / "nginx.conf").write_text(CONFIG.read_text(encoding="utf-8").replace("PORT", str(port)), encoding="utf-8")
    yield Nginx(program, tmp_path, port)
    left = living(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def running(nginx: Nginx) -> Iterator[Nginx]:
    """Started by somebody else. It may be dead, and another one in its place, when the test is over."""
    process = subprocess.Popen(nginx.start, cwd=nginx.folder)
    until("nginx to answer and to have both workers", lambda: nginx.answers() and nginx.workers() == 2)
    yield nginx
    for pid in {process.pid, nginx.master()} & living(nginx.folder).keys():
        os.kill(pid, signal.SIGTERM)
    process.wait(30)
    until("nginx to be gone", lambda: not living(nginx.folder))


@pytest.mark.parametrize(("allowed", "verdict", "code"), [("10s", "passed", 0), ("1s", "failed", 1)])
def test_a_hang_lasts_as_long_as_it_was_told_to(
    blackstart: Blackstart, nginx: Nginx, allowed: str, verdict: str, code: int
) -> None:
    """blackstart starts nginx, stops master and workers for 2 s, and ends nginx again."""
    drill = scenario(nginx.folder, "hang", "{kind: process-hang, for: 2s}", f"{{rto: {allowed}}}")
    done = blackstart.telling("run", drill, "--service", nginx.service("port", start=True), "--yes")
    assert (done.result["verdict"], done.code) == (verdict, code), done.out + done.err
    figure = done.result["measurements"]["recovery_time"]
    assert 1.5 <= figure["lo_s"] <= figure["hi_s"] <= held_s(done.folder) + 1
    (fault,) = done.result["faults"]
    assert len(fault["evidence"]["facts"]["stopped"]) == 3  # the master and its two workers
    assert fault["undo_verified"]
    down = {outage["lane"] for outage in done.result["outages"]}
    assert {"fresh", "reuse", "semantic", "health:/health"} <= down
    assert done.result["measurements"]["time_to_detect"]["/health"] is not None
    assert not living(nginx.folder)
    assert not nginx.answers()


def test_killed_workers_are_replaced_by_their_master(blackstart: Blackstart, running: Nginx) -> None:
    """nginx mends that by itself within milliseconds: too short for an interruption, and the master is the same."""
    before = running.master(), set(living(running.folder))
    drill = scenario(running.folder, "workers", "{kind: process-kill, role: worker}", "{rto: 5s}")
    done = blackstart.telling("run", drill, "--service", running.service("port", start=True), "--yes", wanted="passed")
    assert (done.result["verdict"], done.code) == ("passed", 0), done.out + done.err
    (fault,) = done.result["faults"]
    gone = {int(identity.removeprefix("pid:").partition("@")[0]) for identity in fault["evidence"]["facts"]["gone"]}
    assert gone == before[1] - {before[0]}
    assert fault["undo_verified"]
    after = set(living(running.folder))
    assert running.master() == before[0]
    assert len(after) == 3
    assert not gone & after
    assert running.answers()


def test_what_only_blackstart_starts_again_did_not_recover(blackstart: Blackstart, running: Nginx) -> None:
    """Found by its pid file and killed: nothing starts it again for as long as the drill watches, so no RTO is met, however long.

    The undo starts it with the component's `start`; since somebody else had started the first one, the new one stays.
    """
    before = running.master()
    drill = scenario(running.folder, "kill", "{kind: replica-kill}", "{rto: 60s}")
    done = blackstart.telling("run", drill, "--service", running.service("pid_file", start=True), "--yes", "--set", "observe=6s")
    assert (done.result["verdict"], done.code) == ("failed", 1), done.out + done.err
    figure = done.result["measurements"]["recovery_time"]
    assert figure["censored"]
    assert 4 <= figure["lo_s"] <= 10
    assert "until the fault was undone" in " ".join(done.out.split())
    (fault,) = done.result["faults"]
    assert fault["undo_verified"]
    assert "not-recovered-live" in events(done.folder)
    assert running.master() != before
    assert before not in living(running.folder)
    assert running.answers()


def test_without_a_start_command_nothing_is_killed(blackstart: Blackstart, running: Nginx) -> None:
    drill = scenario(running.folder, "kill", "{kind: replica-kill}", "{rto: 10s}")
    before = living(running.folder)
    done = blackstart("run", drill, "--service", running.service("pid_file", start=False), "--yes")
    assert done.code == 2
    assert "give its `start` command" in done.err
    assert living(running.folder) == before


def test_a_service_that_is_not_running_is_refused(blackstart: Blackstart, nginx: Nginx) -> None:
    drill = scenario(nginx.folder, "hang", "{kind: process-hang, for: 2s}", "{rto: 10s}")
    service = nginx.service("port", start=False)
    for words in (("run", drill, "--yes"), ("plan", drill)):
        done = blackstart(*words, "--service", service)
        assert done.code == 2
        assert "nothing of service weather is running (looked for web); start it" in done.err
    looked = blackstart("doctor", "--service", service)
    assert looked.code == 2
    assert f"{nginx.url}/ does not answer" in looked.out
    asked = blackstart("init", "drills", "--from-url", nginx.url)
    assert asked.code == 2
    assert "nothing answers" in asked.err
    assert not (nginx.folder / "drills").exists()


def test_a_broken_configuration_is_told_with_its_last_words(blackstart: Blackstart, nginx: Nginx) -> None:
    (nginx.folder / "nginx" / "nginx.conf").write_text("daemon off; listen nowhere;", encoding="utf-8")
    drill = scenario(nginx.folder, "hang", "{kind: process-hang, for: 2s}", "{rto: 10s}")
    done = blackstart("run", drill, "--service", nginx.service("port", start=True), "--yes")
    assert done.code == 2
    assert "listen" in done.err
    assert "not allowed here" in done.err


def test_from_an_address_to_a_drill(blackstart: Blackstart, running: Nginx) -> None:
    """init, validate, doctor, plan and run with what init wrote; nginx is the same afterwards."""
    before = living(running.folder)
    assert blackstart("init", "drills", "--from-url", running.url).code == 0
    files = running.folder / "drills" / "scenario.yaml", running.folder / "drills" / "service.yaml"
    assert blackstart("validate", *files).code == 0
    looked = blackstart("doctor", "--service", files[1])
    assert looked.code == 0, looked.out
    assert str(running.master()) in looked.out
    planned = blackstart("plan", files[0], "--service", files[1])
    assert planned.code == 0
    assert str(running.master()) in planned.out
    assert living(running.folder) == before
    shorter = ("steady_state.hold=4s", "settle=4s", "observe=20s", "faults[0].for=2s")
    words = [word for setting in shorter for word in ("--set", setting)]
    done = blackstart.telling("run", files[0], "--service", files[1], "--yes", *words, wanted="passed")
    assert (done.result["verdict"], done.code) == ("passed", 0), done.out + done.err
    assert done.result["faults"][0]["undo_verified"]
    assert "/health" in done.result["measurements"]["time_to_detect"]
    assert living(running.folder) == before
    assert running.answers()
