"""The ledger's lines against a store that says what it really holds."""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blackstart.drills.measure.probing import Prober
from blackstart.drills.measure.samples import read_samples
from blackstart.tests import reference_server

ROUTES = {"write": "POST /v1/feedback", "read": "GET /v1/feedback/{id}"}


def config(folder: Path, url: str, hz: float = 20.0) -> dict[str, Any]:
    lane = {"name": "ledger", "kind": "ledger", "url": url, "period_s": 1 / hz, "timeout_s": 0.3, "routes": ROUTES}
    return {"origin": time.monotonic(), "folder": str(folder), "seed": 11, "service": {}, "lanes": [lane]}


def until(condition: Callable[[], Any], awaited: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {awaited}"
        select.select([], [], [], 0.02)


def ids(folder: Path, outcome: str) -> set[str]:
    return {write.id for write in read_samples(folder).writes if write.outcome == outcome}


def found(folder: Path, what: str) -> set[str]:
    return {entry.id for entry in read_samples(folder).read_back if entry.found == what}


def test_acknowledged_writes_are_read_back(tmp_path: Path) -> None:
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, server.url))
        until(lambda: len(ids(tmp_path, "acked")) >= 5, "five acknowledged writes")
        counts = prober.read_back(40)
        stored = server.stored()
        prober.stop()
    samples = read_samples(tmp_path)
    assert counts == {"present": len(samples.writes)}
    assert found(tmp_path, "present") == set(stored) == {write.id for write in samples.writes}
    assert all(w.acknowledged_s is not None and w.acknowledged_s >= w.invoked_s for w in samples.writes if w.outcome == "acked")
    assert len({write.id.rsplit("-", 1)[0] for write in samples.writes}) == 1
    numbers = [int(write.id.rsplit("-", 1)[1]) for write in samples.writes]
    assert numbers == sorted(set(numbers)), "one is left out where a starved prober was too late for it"


def test_lost_damaged_and_doubled_writes_are_told_apart(tmp_path: Path) -> None:
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, server.url))
        until(lambda: len(ids(tmp_path, "acked")) >= 9, "nine acknowledged writes")
        chosen = sorted(ids(tmp_path, "acked"))[:9]
        for place, how in enumerate(("forget", "damage", "double")):
            server.tamper(chosen[3 * place : 3 * place + 3], how)
        server.behave("lose")
        before = ids(tmp_path, "acked")
        until(lambda: len(ids(tmp_path, "acked") - before) >= 4, "acknowledged writes that are not kept")
        prober.read_back(40)
        stored = set(server.stored())
    acked = ids(tmp_path, "acked")
    assert found(tmp_path, "lost") & acked == acked - stored
    assert found(tmp_path, "lost") >= set(chosen[:3])
    assert found(tmp_path, "corrupt") == set(chosen[3:6])
    assert found(tmp_path, "duplicated") == set(chosen[6:9])


def test_a_write_that_may_have_arrived_is_indeterminate_and_one_that_cannot_have_is_failed(tmp_path: Path) -> None:
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, server.url))
        for behaviour, outcome in (("ok", "acked"), ("never", "indeterminate"), ("refuse", "failed"), ("ok", "acked")):
            server.behave(behaviour)
            before = ids(tmp_path, outcome)
            until(lambda outcome=outcome, before=before: len(ids(tmp_path, outcome) - before) >= 3, outcome)
        server.behave("503")
        before = ids(tmp_path, "indeterminate")
        until(lambda: len(ids(tmp_path, "indeterminate") - before) >= 3, "writes answered with 503")
        server.behave("ok")
        prober.read_back(40)
        stored = set(server.stored())
    assert not ids(tmp_path, "failed") & stored
    assert ids(tmp_path, "acked") <= stored
    assert found(tmp_path, "present") == stored


def test_writes_that_become_visible_late_are_not_lost(tmp_path: Path) -> None:
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, server.url))
        until(lambda: len(ids(tmp_path, "acked")) >= 5, "five acknowledged writes")
        server.behave("503")
        server.play([(1.0, "503", 0.0)])  # answers again during the read-back
        counts = prober.read_back(40)
    assert set(counts) == {"present", "lost"} or set(counts) == {"present"}
    assert not found(tmp_path, "lost") & ids(tmp_path, "acked")
    assert "unread" not in counts


def test_whatever_kills_the_prober_every_stored_write_is_in_its_ledger(tmp_path: Path) -> None:
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, server.url))
        until(lambda: len(server.stored()) >= 5, "five stored writes")
        assert prober.pid is not None
        os.kill(prober.pid, signal.SIGKILL)
        until(lambda: not prober.alive(), "its end")
        stored = set(server.stored())
    assert stored <= {write.id for write in read_samples(tmp_path).writes}


def test_two_runs_with_one_seed_share_no_id(tmp_path: Path) -> None:
    with reference_server.start() as server:
        for run in ("a", "b"):
            with Prober() as prober:
                prober.start(config(tmp_path / run, server.url))
                until(lambda run=run: ids(tmp_path / run, "acked"), "a write")
    everything = [{write.id for write in read_samples(tmp_path / run).writes} for run in ("a", "b")]
    assert not everything[0] & everything[1]


def test_the_lines_are_as_documented(tmp_path: Path) -> None:
    with reference_server.start() as server, Prober() as prober:
        prober.start(config(tmp_path, server.url))
        until(lambda: ids(tmp_path, "acked"), "a write")
        lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    first = [line for line in lines if line["id"] == lines[0]["id"]]
    assert [line["event"] for line in first] == ["invoked", "acked"]
    assert all(set(line) == {"id", "at", "event"} for line in lines)
