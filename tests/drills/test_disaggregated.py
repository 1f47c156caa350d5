"""A service whose workers do one half of an answer each: what is planned, asked, protected, found and measured there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.loading import load_service
from blackstart.scenarios.demo import Demo
from blackstart.tests.command import Blackstart

LINKS = {"d0": ["d0-p0"], "d1": ["d1-p0"]}
PREFILL_LOST = (
    "apiVersion: blackstart/v1\nkind: Scenario\nname: prefill-lost\nsteady_state: {hold: 3s}\nload: {rate: 2/s}\n"
    "faults:\n  - {kind: replica-kill, target: {role: prefill}}\n"
    "objectives: {rto: 5s, quality_loss: 0, time_to_redundancy: 15s}\nobserve: 20s\nsettle: 2s\n"
)


@pytest.fixture(scope="module")
def halves() -> Iterator[Demo]:
    """A hardened demo; each test leaves it as it was."""
    with Demo.started(hardened=True, arguments=("--disaggregated",)) as running:
        yield running


def changed(halves: Demo, folder: Path, **more: object) -> tuple[Path, dict[str, Any]]:
    """Its profile as a file of one's own, with other values; and what is in it."""
    profile = {**json.loads(halves.service_file.read_text(encoding="utf-8")), **more}
    file = folder / "service.yaml"
    file.write_text(json.dumps(profile), encoding="utf-8")
    return file, profile


def lanes(blackstart: Blackstart, service: Path) -> set[str]:
    done = blackstart("plan", "prefill-decode-partition", "--service", service, "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    (fault,) = plan["faults"]
    (target,) = fault["targets"]
    assert target["role"] == "decode"
    assert list(fault["undo"]["prior"]["links"]) == LINKS[target["name"]]
    return {lane["name"] for lane in plan["lanes"] if lane["kind"] == "replica"}


def test_the_way_between_the_halves_is_cut_and_all_workers_are_asked(blackstart: Blackstart, halves: Demo) -> None:
    assert lanes(blackstart, halves.service_file) == {"replica:p0", "replica:d0", "replica:d1"}


def test_a_half_is_asked_by_itself_only_where_the_service_file_says_where(
    blackstart: Blackstart, halves: Demo, tmp_path: Path
) -> None:
    _, profile = changed(halves, tmp_path)
    for each in profile["process"]["components"]:
        if each["name"] in {"p0", "d1"}:
            del each["url"]
    file, _ = changed(halves, tmp_path, process=profile["process"])
    assert lanes(blackstart, file) == {"replica:d0"}


def test_min_healthy_protects_workers_of_each_role(blackstart: Blackstart, halves: Demo, tmp_path: Path) -> None:
    file, _ = changed(halves, tmp_path, protect={"min_healthy": 2})
    done = blackstart("plan", "prefill-decode-partition", "--service", file)
    assert done.code == 2
    assert "1 of 2 targets of role decode would stay untouched" in " ".join(done.err.split())


def test_the_demo_elsewhere_has_no_such_workers_and_says_so(blackstart: Blackstart) -> None:
    done = blackstart("demo", "prefill-decode-partition", "--on", "kubernetes")
    assert done.code == 2
    assert "not injecting: the demo on kubernetes has no prefill and decode workers" in " ".join(done.err.split())
    assert not blackstart.runs.exists()


def test_init_tells_the_halves_and_the_ways_between_them(blackstart: Blackstart, halves: Demo) -> None:
    done = blackstart("init", "drills", "--from-url", f"http://127.0.0.1:{halves.ports['links']['client-gw']}")
    assert done.code == 0, done.err
    service = load_service(blackstart.folder / "drills" / "service.yaml")
    assert service.process is not None
    found = {(each.name, each.role, each.port) for each in service.process.components}
    workers = {(name, role, halves.ports[name]) for name, role in (("p0", "prefill"), ("d0", "decode"), ("d1", "decode"))}
    assert found == {("gateway", "gateway", halves.ports["gateway"]), *workers}
    assert {(link.name, link.from_, link.to) for link in service.process.links} == {
        ("client-gw", "client", "gateway"),
        ("gw-d0", "gateway", "d0"),
        ("gw-d1", "gateway", "d1"),
        ("d0-p0", "d0", "p0"),
        ("d1-p0", "d1", "p0"),
    }
    planned = blackstart("plan", "drills/scenario.yaml", "--service", "drills/service.yaml", "--json")
    assert planned.code == 0, planned.err
    assert [target["role"] for target in json.loads(planned.out)["faults"][0]["targets"]] == ["decode"]


def test_doctor_tries_what_would_hit_a_replica_on_a_decode_worker(blackstart: Blackstart, halves: Demo) -> None:
    looked = {line.split()[1]: line for line in blackstart("doctor", "--service", halves.service_file).out.splitlines()}
    for kind in ("replica-kill", "process-hang", "network-partition", "model-corrupt"):
        assert re.fullmatch(rf"yes +{kind} +with privilege \w+, e\.g\. on d0.*", looked[kind])


def test_that_a_worker_whom_nobody_asks_is_back_is_never_a_pass(blackstart: Blackstart, halves: Demo, tmp_path: Path) -> None:
    """Its users are served by d0 and d1, whose lanes tell nothing of p0."""
    _, profile = changed(halves, tmp_path)
    for each in profile["process"]["components"]:
        if each["name"] == "p0":
            del each["url"]
    file, _ = changed(halves, tmp_path, process=profile["process"])
    (tmp_path / "lost.yaml").write_text(PREFILL_LOST, encoding="utf-8")
    done = blackstart.telling("run", tmp_path / "lost.yaml", "--service", file, "--yes", "--set", "observe=5s")
    assert done.result["verdict"] == "inconclusive", f"{done.out}\n{done.err}"
    (row,) = [each for each in done.result["objectives"] if each["name"] == "time_to_redundancy"]
    assert "nobody asks p0 by itself" in row["text"]


@pytest.mark.timeout(200)
def test_a_killed_prefill_worker_is_missed_until_it_is_back(blackstart: Blackstart, halves: Demo, tmp_path: Path) -> None:
    """Users of a hardened service go on; that the service has all its workers again is measured, and takes a restart."""
    (tmp_path / "lost.yaml").write_text(PREFILL_LOST, encoding="utf-8")
    done = blackstart.telling("run", tmp_path / "lost.yaml", "--service", halves.service_file, "--yes", wanted="passed")
    assert done.result["verdict"] == "passed", f"{done.out}\n{done.err}"
    redundant = done.result["measurements"]["time_to_redundancy"]
    assert 0.5 < redundant["lo_s"] < redundant["hi_s"]
