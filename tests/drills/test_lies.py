"""The twelve ways in which drill tools lie; each must come out right. Row 9 (a network policy that is not enforced) and the
API's refusal in row 10 need a cluster; here their kin on processes are held: a link without a proxy, and an undo that is refused
(test_survival.py)."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blackstart.scenarios.demo import Demo
from blackstart.tests.command import Blackstart, events, short, until
from blackstart.tests.journal import held_s

KILL = "{kind: replica-kill, target: {count: 1}}"
HANG = "{kind: process-hang, role: engine, target: {names: [r0]}, for: 4s}"


def scenario(folder: Path, fault: str = KILL, objectives: str = "{rto: 60s}", more: str = "") -> Path:
    path = folder / "lie.yaml"
    path.write_text(
        "apiVersion: blackstart/v1\nkind: Scenario\nname: lie\nsteady_state: {hold: 3s}\nsettle: 3s\nobserve: 20s\n"
        f"objectives: {objectives}\nfaults:\n  - {fault}\n{more}",
        encoding="utf-8",
    )
    return path


def failing(*code: str) -> str:
    return json.dumps([sys.executable, "-c", *code])


def test_1_not_steady_at_the_start(blackstart: Blackstart, demo: Demo) -> None:
    profile = json.loads(demo.service_file.read_text())
    profile["golden"] = [{"prompt": "The capital of France is", "max_tokens": 8, "text": " Rome and nothing else"}]
    wrong = blackstart.folder / "service.yaml"
    wrong.write_text(json.dumps(profile), encoding="utf-8")
    done = blackstart("run", scenario(blackstart.folder), "--service", wrong, "--yes")
    assert done.code == 3, done.out + done.err
    assert "not-steady" in events(done.folder)
    assert "injecting" not in events(done.folder)
    assert "not-steady" in done.codes()


def test_2_every_injection_fails(blackstart: Blackstart, demo: Demo) -> None:
    quiet = failing("pass")
    never = failing("import sys; sys.exit(1)")
    fault = f"{{kind: command, inject: {failing('import sys; sys.exit(9)')}, verify: {never}, recover: {quiet}, deadline: 30s}}"
    done = blackstart.telling("run", scenario(blackstart.folder, fault), "--service", demo.service_file, "--yes")
    assert done.code == 3, done.out + done.err
    assert any("command" in reason["text"] for reason in done.result["reasons"])


def test_2b_a_fault_without_evidence(blackstart: Blackstart, demo: Demo) -> None:
    fault = f"{{kind: command, inject: {failing('pass')}, verify: {failing('import sys; sys.exit(1)')}, recover: {failing('pass')}, deadline: 30s}}"
    done = blackstart("run", scenario(blackstart.folder, fault), "--service", demo.service_file, "--yes")
    assert done.code == 3, done.out + done.err
    assert done.result["faults"][0]["evidence"] is None


def test_3_the_selector_matches_nothing(blackstart: Blackstart, demo: Demo) -> None:
    fault = "{kind: replica-kill, target: {role: reranker}}"
    done = blackstart("run", scenario(blackstart.folder, fault), "--service", demo.service_file, "--yes")
    assert done.code == 2
    assert "the selector matches nothing" in done.err
    assert "gateway" in done.err


def test_4_an_outage_is_judged_against_the_objective(blackstart: Blackstart, demo: Demo) -> None:
    fault = "{kind: network-partition, target: {role: gateway}, peers: [client], for: 3s}"
    done = blackstart.telling("run", scenario(blackstart.folder, fault, "{rto: 1s}"), "--service", demo.service_file, "--yes")
    assert done.code == 1, done.out + done.err
    recovery = done.result["measurements"]["recovery_time"]
    assert 2.0 < recovery["lo_s"] <= recovery["hi_s"] <= held_s(done.folder) + 1
    told = " ".join(done.out.split())
    assert "Users were without answers" in told  # nobody got through; what had been held back came only afterwards
    assert "partly" not in told


@pytest.mark.parametrize("objectives", ["{}", "null"])
def test_5_no_objective(blackstart: Blackstart, demo: Demo, objectives: str) -> None:
    done = blackstart("run", scenario(blackstart.folder, objectives=objectives), "--service", demo.service_file, "--yes")
    assert done.code == 2
    assert "lie.yaml:" in done.err


@pytest.mark.parametrize(("wrong", "hint"), [("rollback: []\n", "undo"), ("obsreve: 3s\n", "observe")])
def test_6_a_misspelt_key(blackstart: Blackstart, demo: Demo, wrong: str, hint: str) -> None:
    done = blackstart("run", scenario(blackstart.folder, more=wrong), "--service", demo.service_file, "--yes")
    assert done.code == 2
    assert "lie.yaml:10:1: " in done.err
    assert hint in done.err.lower()


def test_7_no_data_is_no_pass(blackstart: Blackstart, demo: Demo) -> None:
    profile = json.loads(demo.service_file.read_text())
    del profile["ledger"]
    without = blackstart.folder / "service.yaml"
    without.write_text(json.dumps(profile), encoding="utf-8")
    done = blackstart("run", scenario(blackstart.folder, objectives="{rpo: 0s}"), "--service", without, "--yes")
    assert done.code in {2, 3}, done.out + done.err


def test_8_a_hang_is_seen(blackstart: Blackstart, demo: Demo) -> None:
    fault = "{kind: process-hang, target: {role: gateway}, for: 2s}"
    done = blackstart.telling("run", scenario(blackstart.folder, fault, "{rto: 500ms}"), "--service", demo.service_file, "--yes")
    assert done.code == 1, done.out + done.err
    recovery = done.result["measurements"]["recovery_time"]
    assert 1.0 < recovery["lo_s"] <= recovery["hi_s"] <= held_s(done.folder) + 1


def test_9_a_partition_that_nothing_enforces(blackstart: Blackstart, demo: Demo) -> None:
    profile = json.loads(demo.service_file.read_text())
    profile["process"]["links"] = []
    without = blackstart.folder / "service.yaml"
    without.write_text(json.dumps(profile), encoding="utf-8")
    fault = "{kind: network-partition, target: {names: [r0]}, peers: [gateway], for: 4s}"
    done = blackstart("run", scenario(blackstart.folder, fault), "--service", without, "--yes")
    assert done.code == 2
    assert "link" in done.err


def test_11_a_killed_target_is_not_its_own_replacement(blackstart: Blackstart, demo: Demo) -> None:
    done = blackstart.telling("run", scenario(blackstart.folder), "--service", demo.service_file, "--yes")
    assert done.code == 0, done.out + done.err
    (fault,) = done.result["faults"]
    (victim,) = fault["identities"]
    now = json.loads(blackstart("plan", scenario(blackstart.folder), "--service", demo.service_file, "--json").out)
    assert victim not in json.dumps(now)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_12_a_starved_prober_widens_or_is_inconclusive(blackstart: Blackstart, demo: Demo) -> None:
    process, folder = blackstart.in_fault(scenario(blackstart.folder, HANG.replace("4s", "10s")), demo.service_file)
    listing = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    prober = next(
        int(line.split()[0]) for line in listing.splitlines() if "prober.py" in line and int(line.split()[1]) == process.pid
    )
    with stopped(prober):
        until("the fault's end while the prober is stopped", lambda: "undone" in events(folder), 40)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 3, err
    assert out.split()[1] == "INCONCLUSIVE", out
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["verdict"] == "inconclusive"


CHANGES = {
    "journal.jsonl": ('"fault":0', '"fault": 0'),
    "scenario.yaml": ("rto: 1m", "rto: 2m"),
    "samples/clock.jsonl": ('"t":', '"t" :'),
}


def test_a_record_that_was_changed_afterwards_is_no_pass(blackstart: Blackstart, demo: Demo) -> None:
    done = blackstart.telling("run", scenario(blackstart.folder, HANG), "--service", demo.service_file, *short(), "--yes")
    assert "record-changed" not in done.codes()
    assert events(done.folder)[-3:] == ["sampled", "judged", "ended"]
    for part, (before, after) in CHANGES.items():
        path = done.folder / part
        text = path.read_text(encoding="utf-8")
        assert before in text, part
        path.write_text(text.replace(before, after, 1), encoding="utf-8")
        result = json.loads(blackstart("report", done.folder, "--format", "json").out)
        assert "record-changed" in {reason["code"] for reason in result["reasons"]}, part
        assert result["verdict"] not in {"passed"}
        path.write_text(text, encoding="utf-8")


def test_a_hang_behind_patient_clients_is_no_pass(blackstart: Blackstart, demo: Demo) -> None:
    """Half of the questions hang and clients wait for long: late answers and open questions are no health."""
    fault = "{kind: process-hang, role: engine, target: {names: [r0]}}"
    done = blackstart("run", scenario(blackstart.folder, fault, "{rto: 60s}"), "--service", demo.service_file, "--yes")
    assert done.code in {1, 3}, done.out + done.err


def test_a_fault_that_ends_by_itself_is_no_recovery(blackstart: Blackstart, demo: Demo) -> None:
    fault = "{kind: process-hang, target: {role: gateway}, deadline: 8s}"
    done = blackstart("run", scenario(blackstart.folder, fault), "--service", demo.service_file, "--yes")
    assert done.code == 2
    assert "would look like a recovery" in done.err


def test_a_refusal_after_a_failure_does_not_hide_it(blackstart: Blackstart, demo: Demo) -> None:
    fault = "{kind: network-partition, target: {role: gateway}, peers: [client], for: 3s}"
    failing_one = scenario(blackstart.folder, fault, "{rto: 500ms}").rename(blackstart.folder / "first.yaml")
    refused = scenario(blackstart.folder, "{kind: replica-kill, target: {role: reranker}}")
    done = blackstart.telling("run", failing_one, refused, "--service", demo.service_file, "--yes")
    assert done.code == 1, done.out + done.err
    assert "the selector matches nothing" in done.err
