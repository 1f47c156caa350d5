"""The file agent where a disk is full, a folder may not be written to, or somebody writes to a file in just that moment."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from blackstart.tests.disks import disk_of
from blackstart.tests.unit.held_files import RUN, Agent, digest, snapshot, undo, undo_killed
from safetensors.numpy import save_file

NOBODY = 65534
DISK = "24m"  # room for the model and what the agent wants to be free beside a copy


def write(path: Path, seed: int = 1) -> None:
    numbers = np.random.default_rng(seed)
    save_file({f"layers.{at}.mlp.weight": numbers.standard_normal((64, 64)).astype("float32") for at in range(2)}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where undo records are."""
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model" / "model.safetensors")
    return tmp_path / "model" / "model.safetensors"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a model and a folder for records."""
    with disk_of(tmp_path / "disk", DISK) as place:
        (place / "state").mkdir()
        write(place / "model.safetensors")
        yield place


def fill(disk: Path) -> Path:
    """To its last byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


@pytest.mark.parametrize("mutation", ["exponent-msb", "zero-tail", "swap-tensors", "stale-version", "delete"])
def test_what_needs_no_room_comes_back_on_a_full_disk(disk: Path, tmp_path: Path, mutation: str) -> None:
    """Its records lie on the same disk."""
    model, older = disk / "model.safetensors", tmp_path / "older.safetensors"
    write(older, seed=2)
    before = snapshot(model)
    agent = Agent(disk / "state", model, mutation, source=str(older))
    assert agent.first["event"] == "effective", agent.first
    filler = fill(disk)
    status, last = agent.let_go()
    assert (status, last["event"]) == (0, "undone"), last
    assert snapshot(model) == before
    assert sorted(disk.rglob("*")) == sorted([filler, model, disk / "state"])


KILLED_AT = """
import os, runpy, signal, sys
path, left, pwrite = sys.argv.pop(1), int(sys.argv.pop(1)), os.pwrite
def counting(handle, data, offset):
    global left
    if os.readlink("/proc/self/fd/%d" % handle) == path:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return pwrite(handle, data, offset)
os.pwrite = counting
"""


@pytest.mark.parametrize("record", ["state", "beside"])
def test_an_undo_on_a_full_disk_that_is_killed_in_the_middle_is_done_by_the_next(disk: Path, record: str) -> None:
    """By either record: that it began could not be written into them."""
    model = disk / "model.safetensors"
    before = snapshot(model)
    agent = Agent(disk / "state", model, "swap-tensors")
    assert agent.first["event"] == "effective", agent.first
    agent.kill()
    damaged, filler, beside = digest(model), fill(disk), disk / ".model.safetensors.blackstart-f1"
    assert not undo_killed(agent.state, [sys.executable, "-c", KILLED_AT + RUN, str(model), "1"])
    assert digest(model) not in {before[0], damaged}
    if record == "beside":
        agent.state.unlink()
    status, last = undo(agent.state if record == "state" else beside)
    assert (status, last["event"], last["restored"]) == (0, "undone", "its bytes were written back"), last
    assert snapshot(model) == before
    assert sorted(disk.rglob("*")) == sorted([filler, model, disk / "state"])


def test_a_file_system_that_tells_no_room_is_not_taken_for_a_full_one(tmp_path: Path, folder: Path) -> None:
    with disk_of(tmp_path / "endless", DISK, "ramfs") as place:
        assert os.statvfs(place).f_blocks == 0
        write(place / "model.safetensors")
        before = snapshot(place / "model.safetensors")
        agent = Agent(folder, place / "model.safetensors", "truncate")
        assert agent.first["event"] == "effective", agent.first
        agent.let_go()
        assert snapshot(place / "model.safetensors") == before


def test_what_needs_room_that_is_gone_says_where_and_comes_back_once_there_is_some(disk: Path, folder: Path) -> None:
    model = disk / "model.safetensors"
    before = snapshot(model)
    agent = Agent(folder, model, "truncate")
    assert agent.first["event"] == "effective", agent.first
    filler = fill(disk)
    status, last = agent.let_go()
    assert (status, last["event"]) == (1, "failed")
    assert last["why"] == f"could not be undone: {model}: [Errno 28] No space left on device"
    filler.unlink()
    assert undo(agent.state)[1]["event"] == "undone"
    assert snapshot(model) == before
    assert list(disk.glob(".model*")) == []


def test_no_room_for_the_undo_record_is_refused(disk: Path, folder: Path) -> None:
    before, filler = snapshot(disk / "model.safetensors"), fill(disk)
    agent = Agent(folder, disk / "model.safetensors", "exponent-msb")
    assert agent.first["event"] == "refused"
    assert "the undo record of exponent-msb needs " in agent.first["why"]
    assert agent.first["why"].endswith(f" bytes in {disk}; 0 are free")
    agent.let_go()
    assert snapshot(disk / "model.safetensors") == before
    assert sorted(disk.iterdir()) == sorted([filler, disk / "model.safetensors", disk / "state"])


def test_an_undo_record_that_cannot_be_written_says_where(disk: Path, model: Path) -> None:
    before, filler = snapshot(model), fill(disk)
    agent = Agent(disk / "state", model, "exponent-msb")
    assert agent.first == {"event": "refused", "why": f"[Errno 28] No space left on device: '{disk / 'state' / 'f1.json'}'"}
    agent.let_go()
    assert snapshot(model) == before
    assert sorted(disk.rglob("*")) == sorted([filler, disk / "model.safetensors", disk / "state"])


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="another user's process is needed, so root")
@pytest.mark.parametrize("mutation", ["exponent-msb", "delete"])
def test_a_folder_that_may_not_be_written_to_is_refused(model: Path, tmp_path: Path, mutation: str) -> None:
    """The file itself may be written, by whoever may not write wherever he likes."""
    model.chmod(0o666)
    model.parent.chmod(0o755)
    (tmp_path / "records").mkdir()
    (tmp_path / "records").chmod(0o777)
    before = snapshot(model)
    read_only = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override", sys.executable]
    for above in (tmp_path, model.parent):
        os.chown(above, NOBODY, NOBODY)
        above.chmod(0o555)
    agent = Agent(tmp_path / "records", model, mutation, program=read_only)
    assert agent.first["event"] == "refused"
    assert agent.first["why"] == (
        f"{model.parent} may not be written to; the undo record of {model} would have to lie there, beside it"
    )
    agent.let_go()
    assert snapshot(model) == before


# Once a call of the system has been made so many times, another file is there under some name.
MEANWHILE = """
import os, runpy, sys
name, left, newer, path = sys.argv.pop(1), int(sys.argv.pop(1)), sys.argv.pop(1), sys.argv.pop(1)
call, rename = getattr(os, name), os.rename
def counting(*given, **named):
    global left
    left -= 1
    done = call(*given, **named)
    if not left:
        rename(newer, path)
    return done
setattr(os, name, counting)
"""
RECORDS = 2  # of a fault of one file; each is written twice before the first change


@pytest.mark.parametrize("mutation", ["truncate", "header", "zero-tail"])
def test_a_file_that_comes_while_the_fault_begins_is_left_alone(folder: Path, model: Path, mutation: str) -> None:
    """As a deployer's, which is renamed into place when the last look at the old one is over."""
    newer = model.with_name("newer")
    write(newer, seed=3)
    expected = digest(newer)
    meanwhile = [sys.executable, "-c", MEANWHILE + RUN, "replace", str(2 * RECORDS), str(newer), str(model)]
    agent = Agent(folder, model, mutation, program=meanwhile)
    assert agent.first["event"] == "failed", agent.first
    assert f"{model} was changed by somebody else just now; it was left alone" in agent.first["why"]
    assert agent.ended()[0] == 1
    assert digest(model) == expected
    assert [*model.parent.iterdir(), *folder.iterdir()] == [model]


def test_a_source_that_changes_while_it_is_copied_is_refused(folder: Path, model: Path) -> None:
    """The undo would not know its own copy by the digest that was read before."""
    older, newer = folder.parent / "older.safetensors", folder.parent / "newer.safetensors"
    write(older, seed=2)
    write(newer, seed=3)
    before = snapshot(model)
    meanwhile = [sys.executable, "-c", MEANWHILE + RUN, "replace", str(RECORDS), str(newer), str(older)]
    agent = Agent(folder, model, "stale-version", source=str(older), program=meanwhile)
    assert agent.first == {
        "event": "refused",
        "why": f"{older} is not what it was when it was looked at; give a `source` that nobody writes to",
    }
    agent.let_go()
    assert snapshot(model) == before
    assert list(model.parent.iterdir()) == [model]


KILLED = """
import os, runpy, signal, sys
unlink = os.unlink
def killed(path):
    unlink(path)
    if path.endswith(".blackstart-f1"):
        os.kill(os.getpid(), signal.SIGKILL)
os.unlink = killed
"""


def test_an_undo_that_is_killed_while_it_takes_its_records_away_is_ended_from_the_first(folder: Path, model: Path) -> None:
    """Which is all that whoever comes after looks for, where the records' own folder went with a container."""
    second = model.with_name("second.safetensors")
    write(second, seed=2)
    both = [{"path": str(path), "do": {"op": "remove"}} for path in (model, second)]
    before = [snapshot(path) for path in (model, second)]
    agent = Agent(folder, model, "by hand", jobs=both)
    assert agent.first["event"] == "effective", agent.first
    agent.kill()
    assert not undo_killed(agent.state, [sys.executable, "-c", KILLED + RUN])
    assert json.loads(agent.state.read_text())["fault"] == "f1"
    agent.state.unlink()
    assert undo(model.with_name(f".{model.name}.blackstart-f1"))[1]["event"] == "undone"
    assert [snapshot(path) for path in (model, second)] == before
    assert sorted(model.parent.iterdir()) == [model, second]
