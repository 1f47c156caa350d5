"""Stored runs and the command that renders them, in its own process: what it prints is one document, or it says why not."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
from blackstart.drills.journal import DrillClock, Journal
from blackstart.drills.replay import read_run
from blackstart.tests.command import COMMAND, Blackstart

SCENARIO = """apiVersion: blackstart/v1
kind: Scenario
name: stored
objectives: {rto: 60s}
faults:
  - {kind: replica-kill}
"""
SERVICE = """apiVersion: blackstart/v1
kind: Service
name: llm
platform: process
process: {port: 8000}
endpoint: {url: "http://127.0.0.1:8000", protocol: openai, model: tiny}
"""


@dataclass
class Clock:
    """Seconds that pass only when told to."""

    now: float = 0.0
    journal: DrillClock = field(init=False)

    def __post_init__(self) -> None:
        self.journal = DrillClock(0.0, lambda: self.now)


def stored(folder: Path, events: dict[str, float]) -> Path:
    """A run that died after the last of the events; each at its moment."""
    folder.mkdir(parents=True)
    (folder / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
    (folder / "service.yaml").write_text(SERVICE, encoding="utf-8")
    (folder / "plan.json").write_text("{}\n", encoding="utf-8")
    clock = Clock()
    with Journal(folder / "journal.jsonl", clock.journal) as journal:
        journal.append(
            "started", run=folder.name, environment={}, boot="", origin=0.0, service_folder=str(folder), fingerprint=""
        )
        for event, moment in events.items():
            clock.now = moment
            journal.append(event)
    return folder


@pytest.fixture
def two(blackstart: Blackstart) -> Blackstart:
    for name in ("a", "b"):
        stored(blackstart.runs / name, {"baseline": 1.0})
    return blackstart


@pytest.mark.parametrize("later", ["recover-started", "accepted"])
def test_what_recover_writes_later_moves_no_figure(tmp_path: Path, later: str) -> None:
    dead = read_run(stored(tmp_path / "dead", {"baseline": 1.0, "steady": 4.0}))
    recovered = read_run(stored(tmp_path / "recovered", {"baseline": 1.0, "steady": 4.0, later: 44.6, "recover-ended": 45.0}))
    assert (dead.ended_s, recovered.ended_s) == (4.0, 4.0)
    assert recovered.measurement == dead.measurement


@pytest.mark.parametrize(
    ("form", "whole"),
    [
        ("json", lambda told: [one["run"] for one in json.loads(told)] == ["a", "b"]),
        ("junit", lambda told: len(fromstring(told)) == 2),
        ("markdown", lambda told: told.count("blackstart report") >= 2 or told.count("# ") >= 2),
        ("text", lambda told: told.count("ABORTED") == 2),
    ],
)
def test_two_runs_are_one_document(two: Blackstart, form: str, whole: Callable[[str], bool]) -> None:
    done = two("report", "a", "b", "--format", form)
    assert done.code == 0, done.err
    assert whole(done.out), done.out


def test_two_runs_are_no_html_page(two: Blackstart) -> None:
    done = two("report", "a", "b", "--format", "html")
    assert (done.code, done.out) == (2, "")
    assert "an HTML page shows one run, and 2 were named; render each with -o FILE of its own" in done.err


def test_one_run_is_one_object(two: Blackstart) -> None:
    assert json.loads(two("report", "a", "--format", "json").out)["run"] == "a"


def into_full(two: Blackstart, *words: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose stdout is a device that is always full."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=two.folder,
            env=os.environ,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    return done.returncode, done.stderr


@pytest.mark.parametrize("form", ["text", "json", "html"])
def test_a_full_standard_output_is_a_refusal_and_no_bug(two: Blackstart, form: str) -> None:
    code, err = into_full(two, "report", "a", "--format", form)
    assert (code, err) == (2, "standard output could not be written: No space left on device\n")


def test_a_full_output_file_is_a_refusal_and_no_bug(two: Blackstart) -> None:
    done = two("report", "a", "-o", "/dev/full")
    assert (done.code, done.err) == (2, "/dev/full could not be written: No space left on device\n")


def test_recover_says_what_it_found_whatever_becomes_of_its_output(two: Blackstart) -> None:
    code, err = into_full(two, "recover", "a")
    assert code == 0
    assert "nothing was left" in err
