"""`recover RUN --accept` where what somebody else changed was left alone: what stays beside it is named, since nobody would look for it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.journal import Journal
from blackstart.injectors.base import Undo
from blackstart.injectors.left_files import left_beside
from blackstart.injectors.platforms.base import Target
from blackstart.tests.command import Blackstart
from blackstart.tests.unit import models
from blackstart.tests.unit.held_files import Agent
from blackstart.tests.unit.test_stored_runs import Clock, stored

RUN = "20261127T141500-stored-1a2b"
FAULT = f"{RUN}.0"
NAME = "replica-0"  # by the service file of a stored run
R0 = Target("pid:1@1", NAME, "replica", {})


def of_file(*paths: Path, **more: object) -> dict[str, Any]:
    return {"files": {NAME: {"parts": [{"id": str(path), "real": str(path), **more} for path in paths]}}}


def undo(kind: str, prior: dict[str, Any], *targets: Target) -> Undo:
    return Undo(targets or (R0,), prior).stamped(FAULT, kind, {}, 60.0)


def closed(blackstart: Blackstart, of: Undo) -> list[str]:
    """What is printed of a run that died with that fault, when a person closes it."""
    folder = stored(blackstart.runs / RUN, {})
    planned = {"index": 0, "kind": of.kind, "certifies": "", "bites": "now", "targets": []}
    with Journal(folder / "journal.jsonl", Clock().journal) as journal:
        journal.append("planned", faults=[planned])
        journal.append("undo-recorded", fault=0, undo=of.to_json(), bites="now")
    done = blackstart("recover", RUN, "--accept", BLACKSTART_STATE_DIR=str(blackstart.folder / "state"))
    assert done.code == 0, done.err
    return done.out.splitlines()


def test_what_stays_beside_a_file_is_named_and_keeps_every_drill_from_it_until_it_is_deleted(blackstart: Blackstart) -> None:
    (blackstart.folder / "model").mkdir()
    path = models.write_safetensors(blackstart.folder / "model" / "model.safetensors")
    held = Agent(blackstart.folder, path, "truncate", fault=FAULT)
    path.write_bytes(b"somebody else's")
    assert held.let_go()[0] == 4
    models.write_safetensors(path)
    kept = sorted(path.parent.glob(f".{path.name}.*"))
    assert len(kept) > 1
    (path.parent / f".{path.name}.blackstart-{FAULT}1").touch()  # another fault's, whose name begins so
    said = closed(blackstart, undo("model-corrupt", of_file(path, do={})))
    assert said[:-1] == [f"{RUN}: closed on your word", *(f"{RUN}: stays: {each}" for each in kept)]
    assert "yours to delete" in said[-1]
    refused = blackstart("manifest", path)
    assert f"undo it first: blackstart recover {RUN}; where that run is closed (--accept), delete" in refused.err
    assert "is held by a fault already" in drilled_again(blackstart, path)["why"]
    for each in path.parent.glob(f".{path.name}.*"):
        each.unlink()
    assert drilled_again(blackstart, path)["event"] == "effective"


def drilled_again(blackstart: Blackstart, path: Path) -> dict[str, Any]:
    agent = Agent(blackstart.folder, path, "truncate", fault="next")
    agent.let_go()
    return agent.first


def test_what_stays_of_a_cache_lies_in_it(blackstart: Blackstart) -> None:
    cache = blackstart.folder / "cache"
    (cache / f".wiped.blackstart-{FAULT}.original").mkdir(parents=True)
    (cache / "made-anew").touch()
    said = closed(blackstart, undo("cache-wipe", {NAME: {"id": "c", "real": str(cache)}}))
    assert said[1:-1] == [f"{RUN}: stays: {cache}/.wiped.blackstart-{FAULT}.original"]


@pytest.mark.parametrize("kind", ["model-corrupt", "network-delay"])
def test_where_nothing_stays_nothing_is_said_of_it(blackstart: Blackstart, kind: str) -> None:
    prior = of_file(blackstart.folder / "model.bin", do={}) if kind == "model-corrupt" else {"links": []}
    assert closed(blackstart, undo(kind, prior)) == [f"{RUN}: closed on your word"]


def test_where_nobody_can_look_that_is_said(blackstart: Blackstart) -> None:
    folder = blackstart.folder / "model"
    folder.mkdir()
    one, other = (folder / name for name in ("one.bin", "other.bin"))
    of = undo("model-corrupt", of_file(one, other, do={}))
    named = [f"{folder}/.{path.name}.blackstart-{FAULT} (it could not be looked for" for path in (one, other)]
    assert left_beside([of], None) == [f"may stay: {NAME}: {each})" for each in named]
    shutil.rmtree(folder)
    assert closed(blackstart, of)[1:-1] == [f"{RUN}: may stay: {each}: {folder}: No such file or directory)" for each in named]


def test_a_file_that_two_have_is_named_once_and_one_that_is_only_slow_not_at_all() -> None:
    path, r1 = Path("/models/m.bin"), Target("pid:2@2", "r1", "replica", {})
    prior = of_file(path, do={})
    prior["files"]["r1"] = prior["files"][NAME]
    assert len(left_beside([undo("model-corrupt", prior, R0, r1)], None)) == 1
    assert left_beside([undo("model-corrupt", of_file(path))], None) == []
