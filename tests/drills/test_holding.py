"""A fault counts for as long as it held, and no longer; what is under way can be stopped, closed or recovered at any moment."""

import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from blackstart.drills.measure.samples import read_samples
from blackstart.drills.measure.steadiness import UNJUDGED
from blackstart.injectors.platforms.process_table import alive
from blackstart.scenarios.demo import Demo
from blackstart.tests.command import Blackstart, await_well, events, kill_quietly
from blackstart.tests.journal import fields, moment
from blackstart.tests.ports import free_port

from .test_survival import HELD, in_fault


@pytest.fixture(autouse=True)
def well(demo: Demo) -> None:
    await_well(demo.service_file)


def scenario(folder: Path, fault: str, rto: str, observe: str) -> Path:
    path = folder / "holding.yaml"
    path.write_text(
        f"apiVersion: blackstart/v1\nkind: Scenario\nname: holding\nobjectives: {{rto: {rto}}}\nsteady_state: {{hold: 4s}}\n"
        f"settle: 3s\nobserve: {observe}\nfaults:\n  - {fault}\n",
        encoding="utf-8",
    )
    return path


def test_a_baseline_goes_on_until_it_has_answers_enough(blackstart: Blackstart, demo: Demo) -> None:
    """In 2 s a lane that is asked once a second has two answers, and three are needed."""
    path = scenario(blackstart.folder, "{kind: replica-kill, target: {count: 1}}", "60s", "20s")
    done = blackstart.telling("run", path, "--set", "steady_state.hold=2s", "--service", demo.service_file, "--yes")
    assert done.code == 0, done.out + done.err
    baseline_s, steady_s = moment(done.folder, "baseline"), moment(done.folder, "steady")
    assert steady_s - baseline_s > 2.0
    samples = read_samples(done.folder / "samples")
    answers = Counter({lane.name: 0 for lane in samples.lanes if lane.period_s >= 1 and lane.kind not in UNJUDGED})
    within = [
        probe for probe in samples.probes if baseline_s <= probe.sent_s and probe.end_s <= steady_s and probe.outcome != "void"
    ]
    answers.update(probe.lane for probe in within if probe.lane in answers)
    assert 3 <= min(answers.values()) <= 4, answers


def test_a_fault_lasts_as_long_as_it_says_also_beyond_observe(blackstart: Blackstart, demo: Demo) -> None:
    fault = "{kind: network-partition, target: {role: gateway}, peers: [client], for: 12s}"
    done = blackstart.telling("run", scenario(blackstart.folder, fault, "8s", "5s"), "--service", demo.service_file, "--yes")
    assert fields(done.folder, "recovering")["t_s"] - fields(done.folder, "injecting")["t_s"] >= 12
    assert done.code == 1, done.out + done.err
    assert done.result["measurements"]["recovery_time"]["lo_s"] > 11


def test_watching_for_less_than_the_objective_decides_nothing(blackstart: Blackstart, demo: Demo) -> None:
    fault = "{kind: network-partition, target: {role: gateway}, peers: [client]}"
    done = blackstart.telling("run", scenario(blackstart.folder, fault, "60s", "6s"), "--service", demo.service_file, "--yes")
    assert done.code == 3, done.out + done.err
    (rto,) = done.result["objectives"]
    assert rto["verdict"] == "inconclusive"  # at the very end of watching it may be unclear, too, whether it came back by itself
    assert "let `observe` be longer" in done.out or "came back about when the fault ended" in " ".join(done.out.split())


def test_a_fault_that_somebody_else_ended_is_no_recovery(blackstart: Blackstart, demo: Demo) -> None:
    fault = "{kind: process-hang, target: {role: gateway}}"
    process, folder = blackstart.in_fault(scenario(blackstart.folder, fault, "60s", "30s"), demo.service_file)
    os.kill(int((demo.folder / "pids" / "gateway.pid").read_text()), signal.SIGCONT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 3, out + err
    assert "fault-lapsed" in {reason["code"] for reason in json.loads((folder / "result.json").read_text())["reasons"]}


def test_a_fault_whose_agent_was_killed_is_no_recovery(blackstart: Blackstart, demo: Demo) -> None:
    path = scenario(blackstart.folder, "{kind: cpu-stress, workers: 1, target: {names: [r0]}, for: 6s}", "60s", "10s")
    process, folder = blackstart.in_fault(path, demo.service_file)
    agents = Path(os.environ["BLACKSTART_STATE_DIR"]) / "agents"
    (record,) = (path for path in agents.glob("*.json") if folder.name in path.name)
    os.kill(int(re.findall(r"\d+", json.loads(record.read_text())["agent"])[0]), signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 3, out + err
    assert "no longer proven" in out


def test_the_kill_switch_ends_an_injection_that_takes_long(blackstart: Blackstart, demo: Demo) -> None:
    mark, python = blackstart.folder / "mark", json.dumps(sys.executable)
    inject = f'[{python}, -c, "import time; time.sleep(60)"]'
    verify = f'[{python}, -c, "import os, sys; sys.exit(not os.path.exists({str(mark)!r}))"]'
    undo = f"[{python}, -c, pass]"
    fault = f"{{kind: command, inject: {inject}, verify: {verify}, recover: {undo}, deadline: 100s}}"
    path = scenario(blackstart.folder, fault, "60s", "20s")
    process, folder = blackstart.under_way("run", path, "--service", demo.service_file, "--yes", event="injecting")
    (folder / "STOP").touch()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 4, out + err
    assert "undo-verified" in events(folder)


def test_a_fault_holds_for_so_long_once_it_is_proven(blackstart: Blackstart, demo: Demo) -> None:
    """One that takes longer than its `for` to come about (its command sleeps) would else be taken away as soon as it is there."""
    mark, python = str(blackstart.folder / "mark"), json.dumps(sys.executable)
    inject = f"[{python}, -c, \"import time; time.sleep(3); open({mark!r}, 'w').close()\"]"
    verify = f'[{python}, -c, "import os, sys; sys.exit(not os.path.exists({mark!r}))"]'
    undo = f'[{python}, -c, "import os; os.path.exists({mark!r}) and os.remove({mark!r})"]'
    path = scenario(
        blackstart.folder, f"{{kind: command, inject: {inject}, verify: {verify}, recover: {undo}, for: 2s}}", "60s", "10s"
    )
    done = blackstart.telling("run", path, "--service", demo.service_file, "--yes")
    assert done.code == 0, done.out + done.err
    injected, undone = fields(done.folder, "effective"), fields(done.folder, "undo-verified")
    assert injected["hi_s"] - injected["lo_s"] >= 3
    assert undone["t_s"] - injected["hi_s"] >= 2


def test_a_run_that_is_under_way_cannot_be_closed(blackstart: Blackstart, demo: Demo) -> None:
    process, folder = in_fault(blackstart, demo, HELD["hang"])
    refused = blackstart("recover", folder.name, "--accept")
    assert refused.code == 2
    assert "is being drilled" in refused.err
    kill_quietly(process)
    assert blackstart("recover", "--all").code == 0
    assert "undo-verified" in events(folder)
    assert blackstart("recover", "--all", "--accept").code == 2


def test_one_run_that_cannot_be_recovered_keeps_no_other_from_it(
    blackstart: Blackstart, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("BLACKSTART_STATE_DIR", str(state))
    with Demo.started() as other:
        killed, folder = in_fault(blackstart, other, HELD["hang"])
        kill_quietly(killed)
        (tmp_path / "second").mkdir()
        second = Blackstart(tmp_path / "second")
        process, _ = in_fault(second, demo, HELD["partition"])
        (state / "open" / "0-damaged.json").write_text("{", encoding="utf-8")
        done = blackstart("recover", "--all")
        assert done.code == 5
        assert "0-damaged: STILL BROKEN" in done.out
        assert "not recovering" in done.err
        assert "undo-verified" in events(folder)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert "0-damaged" in blackstart("plan", "store-loss", "--service", demo.service_file).err
        assert blackstart("recover", "0-damaged", "--accept").code == 0
        assert blackstart("recover", "--all").code == 0


def test_what_a_killed_run_had_started_ends_with_its_recovery(blackstart: Blackstart, demo: Demo) -> None:
    port = free_port()
    service = blackstart.folder / "service.yaml"
    start = json.dumps([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)])
    service.write_text(
        f"apiVersion: blackstart/v1\nkind: Service\nname: own\nplatform: process\n"
        f"process: {{components: [{{name: web, role: replica, port: {port}, start: {start}}}]}}\n"
        f'endpoint: {{url: "http://127.0.0.1:{port}", protocol: http}}\n',
        encoding="utf-8",
    )
    process, folder = blackstart.in_fault(scenario(blackstart.folder, "{kind: process-hang, for: 50s}", "60s", "60s"), service)
    identity = fields(folder, "undo-recorded")["undo"]["targets"][0]["identity"]
    kill_quietly(process)
    done = blackstart("recover", "--all")
    assert done.code == 0, done.out + done.err
    assert "stopped what the run had started: web" in done.out
    assert alive(identity) is None


FALTERS = """
import http.server, json, sys, time
kept, until = {}, [0.0]

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self, status, body=b"{}"):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kept[json.loads(body)["id"]] = body
        self.answer(201)
    def do_GET(self):
        if self.path.startswith("/kept/"):
            until[0] = time.monotonic() + 1.5
            return self.answer(200, kept[self.path[len("/kept/"):]])
        self.answer(503 if time.monotonic() < until[0] else 200)

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_an_outage_that_begins_while_writes_are_read_back_is_watched_to_its_end(blackstart: Blackstart, demo: Demo) -> None:
    port = free_port()
    service = blackstart.folder / "service.yaml"
    start = json.dumps([sys.executable, "-c", FALTERS, str(port)])
    service.write_text(
        f"apiVersion: blackstart/v1\nkind: Service\nname: own\nplatform: process\n"
        f"process: {{components: [{{name: web, role: replica, port: {port}, start: {start}}}]}}\n"
        f'endpoint: {{url: "http://127.0.0.1:{port}", protocol: http}}\n'
        "ledger: {write: POST /kept, read: 'GET /kept/{id}'}\n",
        encoding="utf-8",
    )
    path = scenario(blackstart.folder, "{kind: cpu-stress, workers: 1, for: 2s}", "60s", "40s")
    done = blackstart.telling("run", path, "--service", service, "--yes")
    outage = next(each for each in done.result["outages"] if each["lane"] == "fresh" and "status-5xx" in each["classes"])
    assert outage["start_s"][1] > fields(done.folder, "undo-verified")["t_s"]
    assert outage["end_s"], done.out
    assert outage["hi_s"] > 1.4
    assert (done.result["verdict"], done.code) == ("passed", 0), done.out
