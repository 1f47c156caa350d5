"""Whatever dies, no fault is left behind: signals, SIGKILL, dead agents, failed undos, full disks."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blackstart.scenarios.demo import Demo
from blackstart.tests.command import COMMAND, Blackstart, events, kill_quietly, short, until

HEAD = "apiVersion: blackstart/v1\nkind: Scenario\nname: held\nobjectives: {rto: 60s}\nsteady_state: {hold: 4s}\nsettle: 3s\nobserve: 60s\n"
LATER = "\n  - {kind: rollout-restart, target: {names: [r0]}, at: 45s}"  # never reached; without it the fault would show nothing
HELD = {
    "hang": "{kind: process-hang, role: engine, target: {names: [r0]}, for: 50s}",
    "partition": "{kind: network-partition, target: {names: [r0]}, peers: [gateway], for: 50s}",
    "corrupt": "{kind: model-corrupt, mutation: exponent-msb, target: {names: [r0]}, for: 50s}",
    "cpu": "{kind: cpu-stress, workers: 1, target: {names: [r0]}, for: 50s}",
    "slow": f"{{kind: model-corrupt, mutation: slow-read, target: {{names: [r0]}}, for: 50s}}{LATER}",
    "tokenizer": f"{{kind: model-corrupt, mutation: drop-tokenizer, target: {{names: [r0]}}, for: 50s}}{LATER}",
    "wipe": f"{{kind: cache-wipe, path: 'caches/{{name}}', target: {{names: [r0]}}, for: 50s}}{LATER}",
    "checkpoint": f"{{kind: checkpoint-corrupt, path: 'checkpoints/{{name}}', target: {{names: [r0]}}, for: 50s}}{LATER}",
    "credential": f"{{kind: credential-expire, path: 'tokens/{{name}}', target: {{names: [r0]}}, for: 50s}}{LATER}",
}


def scenario(folder: Path, fault: str) -> Path:
    path = folder / "held.yaml"
    path.write_text(f"{HEAD}faults:\n  - {fault}\n", encoding="utf-8")
    return path


def state_of(demo: Demo) -> dict[str, object]:
    """What a fault would change: stopped processes, rules on links, the model's bytes, agents that run."""
    parts = {}
    for pid_file in (demo.folder / "pids").glob("*.pid"):
        pid = int(pid_file.read_text())
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in [pid, *map(int, children)]:
            parts[f"{pid_file.stem} {process != pid}"] = (
                Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
            )
    for held in ("models/r0", "checkpoints/r0", "caches/r0", "tokens"):
        parts[held] = {path.name: path.read_bytes() for path in (demo.folder / held).glob("*") if path.is_file()}
    state = Path(os.environ["BLACKSTART_STATE_DIR"])
    parts["agents"] = sorted(path.name for path in (state / "agents").glob("*") if path.suffix == ".json")
    return parts


def in_fault(blackstart: Blackstart, demo: Demo, fault: str) -> tuple["subprocess.Popen[str]", Path]:
    return blackstart.in_fault(scenario(blackstart.folder, fault), demo.service_file)


@pytest.mark.parametrize("fault", sorted(HELD))
def test_sigkill_leaves_nothing_that_recover_cannot_prove(blackstart: Blackstart, demo: Demo, fault: str, tmp_path: Path) -> None:
    for path, text in (
        ("checkpoints/r0/step-7.bin", "weights" * 99),
        ("caches/r0/kernel", "kernel"),
        ("tokens/r0", "hf_AbcXyz0189\n"),
    ):
        (demo.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (demo.folder / path).write_text(text)
    before = state_of(demo)
    process, folder = in_fault(blackstart, demo, HELD[fault])
    kill_quietly(process)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    refused = blackstart("run", scenario(blackstart.folder, HELD[fault]), "--service", demo.service_file, "--yes")
    assert refused.code == 2
    assert f"blackstart recover {folder.name}" in refused.err
    done = Blackstart(elsewhere)("recover", "--all")
    assert done.code == 0, done.out + done.err
    assert "undo-verified" in events(folder)
    until("the service to be as before", lambda: state_of(demo) == before)
    again = Blackstart(elsewhere)("recover", "--all")
    assert (again.code, again.out.strip()) == (0, "nothing was left by any run")
    report = blackstart("report", folder, "--format", "json")
    assert json.loads(report.out)["verdict"] == "aborted"


@pytest.mark.parametrize("fault", ["hang", "partition", "corrupt"])
def test_sigkill_ends_the_fault_at_the_site_by_itself(blackstart: Blackstart, demo: Demo, fault: str) -> None:
    before = state_of(demo)
    process, _ = in_fault(blackstart, demo, HELD[fault])
    kill_quietly(process)
    until("the service to be as before without anybody's help", lambda: state_of(demo) == before)
    assert blackstart("recover", "--all").code == 0


def test_sigkill_of_blackstart_and_its_agent(blackstart: Blackstart, demo: Demo) -> None:
    before = state_of(demo)
    process, _ = in_fault(blackstart, demo, HELD["hang"])
    agents = Path(os.environ["BLACKSTART_STATE_DIR"]) / "agents"
    pids = [int(re.findall(r"\d+", json.loads(path.read_text())["agent"])[0]) for path in agents.glob("*.json")]
    assert pids
    process.send_signal(signal.SIGSTOP)  # so that it cannot see its agent die
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    kill_quietly(process)
    assert state_of(demo) != before
    assert blackstart("recover", "--all").code == 0
    until("the service to be as before", lambda: state_of(demo) == before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_abort_and_undo(blackstart: Blackstart, demo: Demo, number: int) -> None:
    before = state_of(demo)
    process, folder = in_fault(blackstart, demo, HELD["hang"])
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert "Traceback" not in err
    assert state_of(demo) == before
    assert {"aborting", "undo-verified", "ended"} <= set(events(folder))
    assert (folder / "report.html").exists()


def test_a_second_interrupt_hastens_but_never_skips_the_undo(blackstart: Blackstart, demo: Demo) -> None:
    before = state_of(demo)
    process, folder = in_fault(blackstart, demo, HELD["partition"])
    process.send_signal(signal.SIGINT)
    until("the first one to be noted", lambda: "aborting" in events(folder))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 4
    assert "undo-verified" in events(folder)
    assert state_of(demo) == before


def test_nobody_reads_the_progress_any_more(blackstart: Blackstart, demo: Demo) -> None:
    """`2>&1 | head`, a dead log collector, a lost terminal: the undo and the verdict do not depend on being heard."""
    before = state_of(demo)
    process, folder = in_fault(blackstart, demo, HELD["hang"])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 4
    assert {"undo-verified", "judged", "ended"} <= set(events(folder))
    assert "internal-error" not in events(folder)
    assert (folder / "result.json").exists()
    assert state_of(demo) == before


def test_a_run_whose_folder_is_gone_is_named_and_can_be_closed(blackstart: Blackstart, demo: Demo) -> None:
    process, folder = in_fault(blackstart, demo, HELD["hang"])
    kill_quietly(process)
    shutil.rmtree(folder)
    unproven = blackstart("recover", "--all")
    assert unproven.code == 5
    assert "is gone" in unproven.out
    assert "--accept" in unproven.err
    assert blackstart("recover", folder.name, "--accept").code == 0
    assert blackstart("recover", "--all").code == 0


def test_kill_switch(blackstart: Blackstart, demo: Demo) -> None:
    process, folder = in_fault(blackstart, demo, HELD["hang"])
    (folder / "STOP").touch()
    process.communicate(timeout=60)
    assert process.returncode == 4
    assert "undo-verified" in events(folder)


def test_abort_condition(blackstart: Blackstart, demo: Demo) -> None:
    path = scenario(blackstart.folder, "{kind: network-partition, target: {role: gateway}, peers: [client], for: 50s}")
    path.write_text(path.read_text() + 'abort: {success: "< 50% for 3s"}\n', encoding="utf-8")
    done = blackstart.telling("run", path, "--service", demo.service_file, "--yes")
    assert done.code == 4, done.out + done.err
    assert any("abort condition met" in reason["text"] for reason in done.result["reasons"])
    assert done.result["faults"][0]["undo_verified"]


def test_two_drills_on_one_service(blackstart: Blackstart, demo: Demo, tmp_path: Path) -> None:
    process, _ = in_fault(blackstart, demo, HELD["hang"])
    other = tmp_path / "other"
    other.mkdir()
    second = Blackstart(other)("run", "replica-kill-midstream", "--service", demo.service_file, "--yes")
    assert second.code == 2
    assert "is being drilled by" in second.err
    assert not second.folder.exists() or not list(second.folder.glob("2*"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def command_fault(folder: Path) -> str:
    """A command whose recovery works only once the file `allowed` is there."""
    flag, allowed = folder / "flag", folder / "allowed"
    python = json.dumps(sys.executable)
    undo = f"import os,sys; os.path.exists({str(allowed)!r}) or sys.exit('refused'); os.path.exists({str(flag)!r}) and os.unlink({str(flag)!r})"
    verify = f"import os,sys; sys.exit(not os.path.exists({str(flag)!r}))"
    return (
        f"{{kind: command, inject: [{python}, -c, {json.dumps(f'open({str(flag)!r}, {chr(39)}w{chr(39)})')}], "
        f"verify: [{python}, -c, {json.dumps(verify)}], recover: [{python}, -c, {json.dumps(undo)}], for: 2s, deadline: 60s}}"
    )


def test_an_undo_that_fails_is_dirty_listed_and_retried(blackstart: Blackstart, demo: Demo, tmp_path: Path) -> None:
    done = blackstart.telling(
        "run", scenario(blackstart.folder, command_fault(tmp_path)), "--service", demo.service_file, "--yes"
    )
    assert done.code == 5, done.out + done.err
    run = done.folder.name
    assert f"blackstart recover {run}" in done.out
    assert done.result["verdict"] == "dirty"
    still = blackstart("recover", run)
    assert still.code == 5
    assert "STILL BROKEN" in still.out
    (tmp_path / "allowed").touch()
    assert blackstart("recover", run).code == 0
    assert not (tmp_path / "flag").exists()
    assert json.loads(blackstart("report", run, "--format", "json").out)["verdict"] != "dirty"


def test_a_run_folder_that_cannot_be_made(blackstart: Blackstart, demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = blackstart(
        "run", scenario(blackstart.folder, HELD["hang"]), "--service", demo.service_file, "--yes", "--out", tmp_path / "file"
    )
    assert done.code == 2
    assert "not injecting: the run's folder" in done.err
    assert "Traceback" not in done.err


def test_a_full_disk(blackstart: Blackstart, demo: Demo, small_disk: Path) -> None:
    before = state_of(demo)
    done = blackstart(
        "run", scenario(blackstart.folder, HELD["hang"]), "--service", demo.service_file, "--yes", "--out", small_disk
    )
    assert done.code == 2
    assert "MiB are needed" in done.err
    assert list(small_disk.iterdir()) == []
    assert state_of(demo) == before


def fill(place: Path) -> None:
    """To the last page."""
    with (place / "filling").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


@pytest.mark.parametrize("ledger", [False, pytest.param(True, marks=pytest.mark.timeout(240))])
def test_a_disk_that_fills_up_in_the_middle_costs_no_verdict(
    blackstart: Blackstart, demo: Demo, roomy_disk: Path, ledger: bool
) -> None:
    """With a ledger, 60 s are spent on waiting for what can no longer be written down."""
    before = state_of(demo)
    service = json.loads(demo.service_file.read_text(encoding="utf-8"))
    if not ledger:
        del service["ledger"]
    (blackstart.folder / "service.yaml").write_text(json.dumps(service), encoding="utf-8")
    drill = scenario(blackstart.folder, "{kind: process-hang, role: engine, target: {names: [r0]}, for: 3s}")
    words = ["--service", "service.yaml", "--yes", "--out", roomy_disk, "--set", "observe=8s"]
    process, folder = blackstart.under_way("run", drill, *words, runs=roomy_disk)
    fill(roomy_disk)
    out, err = process.communicate(timeout=200)
    assert "Traceback" not in err
    assert "No space left on device" in err
    verdict = out.splitlines()[0].split()[1]
    assert process.returncode == {"FAILED": 1, "INCONCLUSIVE": 3, "ABORTED": 4, "DIRTY": 5}[verdict], out + err
    for name in ("result.json", "report.html", "junit.xml", "summary.md"):
        assert not (folder / name).exists() or (folder / name).stat().st_size
    assert state_of(demo) == before
    (roomy_disk / "filling").unlink()
    assert blackstart("recover", "--all").code == 0


def test_a_full_standard_output_hides_no_verdict(blackstart: Blackstart, demo: Demo) -> None:
    drill = scenario(blackstart.folder, "{kind: cpu-stress, workers: 1, target: {names: [r0]}, for: 1s}")
    words = ["run", str(drill), "--service", str(demo.service_file), "--yes", "--set", "observe=4s"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *words], cwd=blackstart.folder, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False
        )
    result = json.loads((blackstart.newest() / "result.json").read_text(encoding="utf-8"))
    assert done.returncode == result["exit_code"], done.stderr
    assert done.returncode in {0, 1, 3}
    assert "standard output could not be written: No space left on device; so here:" in done.stderr
    assert result["verdict"].upper() in done.stderr
    assert "Traceback" not in done.stderr


def test_several_drills_are_one_json_array(blackstart: Blackstart, demo: Demo) -> None:
    drill = scenario(blackstart.folder, "{kind: cpu-stress, workers: 1, target: {names: [r0]}, for: 1s}")
    words = ["--yes", "--set", "observe=4s", "--format", "json", "--repeat", "2"]
    done = blackstart("run", drill, "--service", demo.service_file, *words)
    found = json.loads(done.out)
    assert len({one["run"] for one in found}) == 2, done.err
    assert done.code == max(one["exit_code"] for one in found)


def held_open(folder: Path) -> list[str]:
    """Files below the folder that some process still has open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return [name for name in found if name.startswith(str(folder))]


def test_recover_changes_no_figure_of_a_dead_run(blackstart: Blackstart, demo: Demo) -> None:
    """What users went through ended, for all that is known, with the last sample; `recover` comes whenever somebody types it."""
    process, folder = in_fault(blackstart, demo, HELD["partition"])
    kill_quietly(process)
    until("the prober to be gone", lambda: not held_open(folder / "samples"))
    before = json.loads(blackstart("report", folder, "--format", "json").out)
    assert blackstart("recover", folder.name).code == 0
    after = json.loads(blackstart("report", folder, "--format", "json").out)
    for figures in ("ended_s", "measurements", "objectives", "outages", "lanes", "baseline", "clock"):
        assert after[figures] == before[figures], figures
    assert after["faults"][0]["undo_verified"]


def test_a_demo_killed_in_the_middle_leaves_no_process(blackstart: Blackstart) -> None:
    process, folder = blackstart.under_way("demo", "engine-hang-zombie", *short(), within_s=90.0)
    place = re.findall(r"blackstart-demo-\w+", (folder / "service.yaml").read_text())[0]
    kill_quietly(process)

    def left() -> bool:
        listing = subprocess.run(["ps", "-eww", "-o", "args="], capture_output=True, text=True, check=True).stdout
        return place not in listing

    until("every process of the demo to be gone", left)
    assert blackstart("recover", "--all").code == 0
