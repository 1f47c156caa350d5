"""The file agent on real files: each mutation does what it promises to the real library, and every byte comes back."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
from blackstart.injectors import file_agent
from blackstart.injectors.model_formats.layout import LocalFiles, Unreadable
from blackstart.injectors.model_formats.mutations import Request, jobs
from blackstart.tests.unit.held_files import PATIENCE_S, RUN, Agent, digest, snapshot, undo
from safetensors.numpy import load_file, save_file

NOBODY = 65534
LARGE = os.environ.get("BLACKSTART_TEST_LARGE")
TENSORS = {
    "embedding.weight": (200, 16),
    "layers.0.mlp.up_proj.weight": (32, 16),
    "layers.0.mlp.up_proj.bias": (32,),
    "norm.weight": (16,),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    (tmp_path / "model").mkdir()
    return tmp_path / "state"


@pytest.fixture
def model(folder: Path) -> Iterator[Path]:
    path = folder.parent / "model" / "model.safetensors"
    write(path)
    path.chmod(0o640)
    os.utime(path, ns=(10**18 + 1, 10**18 + 2))
    before = set(path.parent.iterdir())
    yield path
    assert set(path.parent.iterdir()) == before, "something was left beside the model"
    assert list(folder.iterdir()) == [], "something was left in the state folder"


def write(path: Path, dtype: str = "float32", seed: int = 1) -> None:
    numbers = np.random.default_rng(seed)
    save_file({name: numbers.standard_normal(shape).astype(dtype) for name, shape in TENSORS.items()}, path)


def differing(path: Path, before: dict[str, np.ndarray]) -> dict[str, int]:
    now = load_file(path)
    return {name: int((now[name] != before[name]).sum()) for name in before if (now[name] != before[name]).any()}


# --- what each mutation promises ---


@pytest.mark.parametrize("mutation", ["header", "truncate"])
def test_loader_refuses(folder: Path, model: Path, mutation: str) -> None:
    before = snapshot(model)
    agent = Agent(folder, model, mutation)
    assert agent.first["event"] == "effective", agent.first
    assert agent.first["digest_before"] == before[0]
    assert agent.first["digest_after"] == digest(model) != before[0]
    with pytest.raises(safetensors.SafetensorError):
        load_file(model)
    if mutation == "truncate":
        assert model.stat().st_size == before[1] - before[1] // 3
    assert agent.let_go()[1]["event"] == "undone"
    assert snapshot(model) == before


def test_exponent_flip_loads_with_one_huge_number_in_an_mlp_weight(folder: Path, model: Path) -> None:
    before, tensors = snapshot(model), load_file(model)
    agent = Agent(folder, model, "exponent-msb", seed=7)
    assert agent.first["tensor"] == "layers.0.mlp.up_proj.weight"
    assert differing(model, tensors) == {"layers.0.mlp.up_proj.weight": 1}
    after = load_file(model)["layers.0.mlp.up_proj.weight"]
    assert np.isfinite(after).all()
    assert abs(after).max() > 1e30
    assert agent.let_go() == (0, {"event": "undone", "reason": "standard input closed", **undone(before, model)})
    assert snapshot(model) == before


def undone(before: tuple[Any, ...], model: Path) -> dict[str, Any]:
    return {"path": str(model), "digest": before[0], "restored": "its bytes were written back"}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("mutation", ["nan-one", "exponent-msb:norm.weight"])
def test_named_tensor_in_every_width(folder: Path, model: Path, dtype: str, mutation: str) -> None:
    write(model, dtype)
    before, tensors = snapshot(model), load_file(model)
    agent = Agent(folder, model, mutation)
    name = agent.first["tensor"]
    after = load_file(model)
    changed = (after[name] != tensors[name]) | np.isnan(after[name])
    assert int(changed.sum()) == 1
    assert int(np.isnan(after[name]).sum()) == (mutation == "nan-one")
    was, now = float(tensors[name][changed][0]), float(after[name][changed][0])
    assert (repr(was), repr(now)) == (agent.first["value_before"], agent.first["value_after"])
    assert list(zip(*np.nonzero(changed), strict=True)) == [np.unravel_index(agent.first["element"], tensors[name].shape)]
    agent.let_go()
    assert snapshot(model) == before


def test_bfloat16(folder: Path, model: Path) -> None:
    raw = np.array([1.5, 0.25, -0.5, 0.0], dtype="<f4").tobytes()
    halves = b"".join(raw[at + 2 : at + 4] for at in range(0, 16, 4))
    header = json.dumps({"mlp.weight": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    model.write_bytes(len(header).to_bytes(8, "little") + header + halves)
    before = snapshot(model)
    agent = Agent(folder, model, "exponent-msb")
    assert (agent.first["value_before"], agent.first["element"]) == ("-0.5", 2)  # -0.5 becomes the largest finite one
    assert float(agent.first["value_after"]) == -(2.0**127)
    agent.let_go()
    agent = Agent(folder, model, "nan-one")
    found = dict(safetensors.deserialize(model.read_bytes()))["mlp.weight"]["data"]
    numbers = np.frombuffer(b"".join(b"\0\0" + bytes(found[at : at + 2]) for at in range(0, 8, 2)), "<f4")
    assert int(np.isnan(numbers).sum()) == 1
    agent.let_go()
    assert snapshot(model) == before


def test_seed_decides_the_element(folder: Path, model: Path) -> None:
    def hit(seed: int) -> int:
        agent = Agent(folder, model, "nan-one", seed=seed)
        agent.let_go()
        return int(agent.first["element"])

    assert hit(3) == hit(3)
    assert len({hit(seed) for seed in range(4)}) > 1


def test_zero_tail_zeroes_the_last_eighth(folder: Path, model: Path) -> None:
    before, content = snapshot(model), model.read_bytes()
    agent = Agent(folder, model, "zero-tail")
    length = (len(content) - 8 - int.from_bytes(content[:8], "little")) // 8
    assert model.read_bytes() == content[:-length] + bytes(length)
    load_file(model)
    agent.let_go()
    assert snapshot(model) == before


def test_missing_and_stale_version_keep_the_inode(folder: Path, model: Path) -> None:
    before = snapshot(model)
    agent = Agent(folder, model, "delete")
    assert agent.first["event"] == "effective"
    assert not model.exists()
    agent.let_go()
    assert snapshot(model) == before
    older = folder.parent / "older.safetensors"
    write(older, seed=2)
    agent = Agent(folder, model, "stale-version", source=str(older))
    assert digest(model) == digest(older) == agent.first["digest_after"]
    assert stat.S_IMODE(model.stat().st_mode) == 0o640
    agent.let_go()
    assert snapshot(model) == before


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="another user's process is needed, so root")
def test_permission_bites_readers_that_are_not_root(folder: Path, model: Path) -> None:
    model.chmod(0o644)
    before = snapshot(model)
    for above in (model.parent, *model.parents):
        if above != Path("/tmp") and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)
    with subprocess.Popen(["sleep", "60"], user=NOBODY) as reader:
        agent = Agent(folder, model, "chmod-000", reader=reader.pid)
        assert agent.first["event"] == "effective"
        assert subprocess.run(["cat", str(model)], user=NOBODY, capture_output=True, check=False).returncode != 0
        agent.let_go()
        assert subprocess.run(["cat", str(model)], user=NOBODY, capture_output=True, check=False).returncode == 0
        reader.kill()
    assert snapshot(model) == before
    refused = Agent(folder, model, "chmod-000", reader=os.getpid())
    assert "root" in refused.first["why"]
    assert refused.ended()[0] == 3


# --- every way to its end ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_undo(folder: Path, model: Path, number: int) -> None:
    before = snapshot(model)
    agent = Agent(folder, model, "truncate")
    agent.process.send_signal(number)
    status, last = agent.ended()
    assert (status, last["event"], last["reason"]) == (0, "undone", f"signal {number}")
    assert snapshot(model) == before


def test_deadline_undoes(folder: Path, model: Path) -> None:
    before = snapshot(model)
    agent = Agent(folder, model, "zero-tail", deadline_s=0.7)
    assert agent.first["event"] in {"effective", "undone"}
    if agent.first["event"] == "effective":
        assert agent.line()["reason"] == "deadline"
    agent.ended()
    assert snapshot(model) == before


def test_lease_is_renewed_and_lapses(folder: Path, model: Path) -> None:
    before = snapshot(model)
    agent = Agent(folder, model, "nan-one", lease_s=4.0)
    held_until = time.monotonic() + 6
    while time.monotonic() < held_until:
        agent.stdin.write("renew\n")
        agent.stdin.flush()
        assert agent.process.poll() is None
        time.sleep(0.05)
    assert agent.line()["reason"] == "lease lapsed"
    agent.ended()
    assert snapshot(model) == before


MUTATIONS = ["header", "truncate", "zero-tail", "nan-one", "exponent-msb", "delete", "stale-version"]


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("which", ["state", "beside"])
def test_killed_agent_is_undone_from_either_record(folder: Path, model: Path, mutation: str, which: str) -> None:
    before = snapshot(model)
    older = folder.parent / "older.safetensors"
    write(older, seed=2)
    agent = Agent(folder, model, mutation, source=str(older))
    assert agent.first["event"] == "effective"
    agent.kill()
    beside = model.parent / ".model.safetensors.blackstart-f1"
    status, last = undo(agent.state if which == "state" else beside)
    assert (status, last["event"]) == (0, "undone")
    assert snapshot(model) == before
    assert undo(agent.state) == (0, {"event": "undone", "reason": "nothing was left"})


def test_undo_ends_the_living_agent_first(folder: Path, model: Path) -> None:
    before = snapshot(model)
    agent = Agent(folder, model, "header")
    agent.process.send_signal(signal.SIGSTOP)
    status, last = undo(agent.state)
    assert (status, last["event"]) == (0, "undone")
    assert agent.ended()[0] == 0
    assert snapshot(model) == before


@pytest.mark.parametrize("mutation", ["truncate", "zero-tail"])
@pytest.mark.parametrize("moment", [0.0, 0.3, 0.6, 0.9])
def test_killed_halfway_through_writing_or_restoring(folder: Path, model: Path, mutation: str, moment: float) -> None:
    """What a kill in the middle leaves is made from the very states that the agent writes, byte for byte."""
    before, original = snapshot(model), model.read_bytes()
    agent = Agent(folder, model, mutation)
    agent.kill()
    body = json.loads(agent.state.read_text())
    offset = body["records"][0]["ranges"][0][0]
    reached = offset + int((len(original) - offset) * moment)
    body["phase"] = "restoring"
    for record in (agent.state, Path(body["records"][0]["beside"])):
        record.write_text(json.dumps(body))
    with model.open("r+b") as file:
        file.seek(offset)
        file.write(original[offset:reached])
    status, last = undo(agent.state)
    assert (status, last["event"]) == (0, "undone")
    assert snapshot(model) == before


@pytest.mark.parametrize("mutation", ["truncate", "zero-tail", "header", "delete", "stale-version"])
def test_killed_at_the_very_change(folder: Path, model: Path, mutation: str) -> None:
    """SIGKILL as soon as the file looks different, most often before the agent could note that it is done."""
    numbers = np.random.default_rng(1)
    save_file({"mlp.weight": numbers.standard_normal((1000, 1000)).astype("float32")}, model)
    older = folder.parent / "older.safetensors"
    write(older, seed=2)
    before = snapshot(model)

    def look() -> tuple[int, int, bytes, bytes] | None:
        try:
            with model.open("rb") as file:
                found, start = os.fstat(file.fileno()), file.read(8)
                file.seek(-8, os.SEEK_END)
                return found.st_size, found.st_ino, start, file.read(8)
        except FileNotFoundError:
            return None

    usual = look()
    agent = Agent(folder, model, mutation, wait=False, source=str(older))
    limit = time.monotonic() + PATIENCE_S
    while look() == usual:
        assert time.monotonic() < limit
    agent.kill()
    assert undo(agent.state)[1]["event"] == "undone"
    assert snapshot(model) == before


def test_killed_while_preparing_leaves_a_file_that_was_never_touched(folder: Path, model: Path) -> None:
    before = snapshot(model)
    agent = Agent(folder, model, "truncate")
    agent.kill()
    body = json.loads(agent.state.read_text())
    assert undo(agent.state)[0] == 0
    body["phase"] = "preparing"
    for record in (agent.state, Path(body["records"][0]["beside"])):
        record.write_text(json.dumps(body))
    for name in (".tail", ".new"):
        Path(body["records"][0]["beside"] + name).write_bytes(b"half a copy")
    assert undo(agent.state)[1]["restored"] == "it had not been changed"
    assert snapshot(model) == before


# --- what somebody else does meanwhile ---


@pytest.mark.parametrize("mutation", ["header", "truncate", "zero-tail", "delete", "stale-version"])
def test_foreign_change_is_reported_and_never_restored_over(folder: Path, model: Path, mutation: str) -> None:
    older = folder.parent / "older.safetensors"
    write(older, seed=2)
    agent = Agent(folder, model, mutation, source=str(older))
    newer = folder.parent / "newer"
    write(newer, seed=3)
    expected = digest(newer)
    newer.replace(model)
    status, last = agent.let_go()
    assert (status, last["event"]) == (4, "foreign")
    assert digest(model) == expected
    assert undo(agent.state)[0] == 4  # and again, until a person has looked
    assert digest(model) == expected
    for left in (agent.state, *model.parent.glob(".model*")):
        assert left.name in last["why"] or left in {agent.state, model.parent / ".model.safetensors.blackstart-f1"}
        left.unlink()


REPLACED = """
import os, runpy, sys
at, newer, path = (sys.argv.pop(1) for _ in range(3))
call = getattr(os, at)
def replacing(*given, **named):
    if os.path.exists(newer):
        os.replace(newer, path)
    return call(*given, **named)
setattr(os, at, replacing)
"""


@pytest.mark.parametrize(
    ("mutation", "call"),
    [
        *(
            (mutation, "lseek") for mutation in ("header", "truncate", "zero-tail", "swap-tensors", "stale-version")
        ),  # read so far
        *((mutation, "ftruncate") for mutation in ("truncate", "zero-tail")),  # all is written back
        ("stale-version", "pwrite"),  # it is looked at, and the undo is about to be noted
    ],
)
def test_a_file_that_comes_while_the_undo_is_under_way_is_left_alone(folder: Path, model: Path, mutation: str, call: str) -> None:
    """As a downloader's, which is renamed into place; the undo had found the damage in the file before."""
    numbers = np.random.default_rng(1)
    save_file({f"layers.{at}.mlp.weight": numbers.standard_normal((16, 16)).astype("float32") for at in range(2)}, model)
    older, newer = folder.parent / "older.safetensors", folder.parent / "newer"
    write(older, seed=2)
    write(newer, seed=3)
    expected = digest(newer)
    agent = Agent(folder, model, mutation, source=str(older))
    assert agent.first["event"] == "effective", agent.first
    agent.kill()
    status, last = undo(agent.state, program=[sys.executable, "-c", REPLACED + RUN, call, str(newer), str(model)])
    assert (status, last["event"]) == (4, "foreign"), last
    for _ in range(2):
        assert digest(model) == expected
        assert undo(agent.state)[0] == 4
    kept = {path.name.rpartition(".")[2] for path in model.parent.glob(".model*")}
    assert kept >= {{"header": "blackstart-f1", "stale-version": "original"}.get(mutation, "tail")}
    for left in (agent.state, *model.parent.glob(".model*")):
        left.unlink()


def test_a_byte_changed_in_place_by_somebody_else_is_foreign(folder: Path, model: Path) -> None:
    agent = Agent(folder, model, "zero-tail")
    with model.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    expected = digest(model)
    assert agent.let_go()[1]["event"] == "foreign"
    assert digest(model) == expected
    for left in (agent.state, *model.parent.glob(".model*")):
        left.unlink()


def test_what_somebody_else_made_of_one_file_outlives_the_undo_of_another(folder: Path, model: Path) -> None:
    """Of the same size, and only where the fault had changed it: it is no undo of ours that was cut off."""
    before, other = snapshot(model), model.with_name("other.safetensors")
    write(other, seed=2)
    agent = Agent(
        folder, model, "zero-tail", jobs=[{"path": str(each), "do": {"op": "zero", "offset": 3000}} for each in (model, other)]
    )
    assert agent.first["files"] == 2
    with other.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    expected = digest(other)
    agent.kill()
    for _ in range(2):
        status, last = undo(agent.state)
        assert (status, last["event"]) == (4, "foreign")
        assert digest(other) == expected
    assert snapshot(model) == before
    for left in (agent.state, *model.parent.glob(".*"), other):
        left.unlink()


@pytest.mark.parametrize("mutation", ["header", "zero-tail", "delete", "stale-version"])
def test_a_service_that_healed_its_file_counts_as_restored(folder: Path, model: Path, mutation: str) -> None:
    expected, content = digest(model), model.read_bytes()
    older = folder.parent / "older.safetensors"
    write(older, seed=2)
    agent = Agent(folder, model, mutation, source=str(older))
    healed = folder.parent / "healed"
    healed.write_bytes(content)
    inode = healed.stat().st_ino
    healed.replace(model)
    status, last = agent.let_go()
    assert (status, last["event"], last["restored"]) == (0, "undone", "it was as before already")
    assert (digest(model), model.stat().st_ino) == (expected, inode)


# --- refusals: nothing is changed, nothing is left ---


def refusal(folder: Path, path: Path, mutation: str, **more: Any) -> str:
    agent = Agent(folder, path, mutation, **more)
    assert agent.first["event"] == "refused", agent.first
    assert agent.ended()[0] == 3
    return str(agent.first["why"])


def test_refusals(folder: Path, model: Path) -> None:
    before = snapshot(model)
    assert "digest has changed" in refusal(folder, model, "header", expected="sha256:00")
    twin = model.with_name("twin")
    os.link(model, twin)
    assert "2 names" in refusal(folder, model, "header")
    assert "2 names" in refusal(folder, model, "chmod-000")
    twin.unlink()
    assert "change nothing" in refusal(folder, model, "stale-version", source=str(model))
    for given, why in (
        ([{"path": str(model), "do": {"op": "melt"}}], "nothing that can be done"),
        ([{"path": str(model.with_name("other")), "do": {"op": "remove"}}], "No such file"),
        ([{"path": str(model.parent), "do": {"op": "remove"}}], "not a regular file"),
        ([{"path": str(model), "do": {"op": "remove"}}] * 2, "meant twice"),
        ([{"path": str(model), "do": {"op": "edit", "pieces": [[0, "ffff", "0000"]]}}], "changed since"),
        ([{"path": str(model), "do": {"op": "exchange", "pairs": [[100, 104, 8]]}}], "overlap"),
        ([{"path": str(model), "do": {"op": "cut", "offset": before[1]}}], "too few"),
    ):
        assert why in refusal(folder, model, "by hand", jobs=given)
    assert snapshot(model) == before


def test_an_undo_record_that_nobody_could_fetch_is_refused(folder: Path, model: Path) -> None:
    """Of what is edited, the record holds the bytes themselves."""
    model.write_text("{{ messages }}" + " " * 300_000)
    job = {"path": str(model), "do": {"op": "fill", "places": [[0, 300_000, "{{ '' }}"]]}}
    assert "the undo record of wrong-chat-template would have 1200" in refusal(folder, model, "wrong-chat-template", jobs=[job])


def test_zeros_cannot_be_zeroed(folder: Path, model: Path) -> None:
    save_file({"weight": np.zeros((64, 64), "float32")}, model)
    assert "change nothing" in refusal(folder, model, "zero-tail")


def test_a_held_file_is_refused_to_a_second_fault(folder: Path, model: Path) -> None:
    before = snapshot(model)
    agent = Agent(folder, model, "header")
    assert "held by a fault already" in refusal(folder, model, "delete", fault="f2", state=str(folder / "f2.json"))
    assert "already held here" in refusal(folder, model, "delete")
    with pytest.raises(Unreadable, match="held by a fault already"):
        jobs(Request("header", str(model)), LocalFiles())
    agent.let_go()
    assert snapshot(model) == before


def test_no_room_for_the_originals_is_refused_before_anything_is_written(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, beside = snapshot(model), sorted(model.parent.iterdir())
    (job,) = jobs(Request("truncate", str(model)), LocalFiles())
    needed, space = before[1] // 3, os.statvfs(model.parent)
    request = {"fault": "f1", "mutation": "truncate", "jobs": [{"path": job.path, "do": job.do}]}

    def free(room: int) -> None:
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=room, f_frsize=1, f_blocks=space.f_blocks))

    free(needed + file_agent.ROOM_RESERVE - 1)
    with pytest.raises(file_agent.Refused) as refused:
        file_agent.prepare(request, lambda: None)
    (record,) = re.findall(r"needs (\d+) bytes in (.*); (\d+) are free$", str(refused.value))
    assert record == (str(needed), str(model.parent), str(needed + file_agent.ROOM_RESERVE - 1))
    free(needed + file_agent.ROOM_RESERVE)
    file_agent.prepare(request, lambda: None)
    assert (snapshot(model), sorted(model.parent.iterdir())) == (before, beside)


def test_a_look_says_what_would_be_refused_and_leaves_nothing(folder: Path, model: Path) -> None:
    before, beside = snapshot(model), sorted(model.parent.iterdir())

    def look(expected: str) -> str:
        (job,) = jobs(Request("truncate", str(model)), LocalFiles())
        request = {"fault": "look", "mutation": "truncate", "jobs": [{"path": job.path, "do": job.do, "expected": expected}]}
        command = [sys.executable, file_agent.__file__, "look", json.dumps(request)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as looking:
            assert looking.stdout is not None
            return str(json.loads(looking.stdout.readline())["refused"])  # it ends with its input

    assert look(before[0]) == ""
    assert "its digest has changed" in look("sha256:00")
    assert (snapshot(model), sorted(model.parent.iterdir())) == (before, beside)


def test_no_room_for_the_originals_is_refused(folder: Path, model: Path) -> None:
    before = snapshot(model)

    def limit() -> None:
        import resource  # noqa: PLC0415 - in the agent alone

        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the records fit, the copy of the tail does not

    assert "could not be kept" in refusal(folder, model, "truncate", preexec_fn=limit)
    assert snapshot(model) == before


HUNDRED = pytest.param(
    100, marks=[pytest.mark.timeout(3600), pytest.mark.skipif(not LARGE, reason="BLACKSTART_TEST_LARGE is not set")]
)


@pytest.mark.parametrize("gigabytes", [10, HUNDRED])
def test_sparse_gigabytes_in_bounded_memory(folder: Path, model: Path, gigabytes: int) -> None:
    """With data at both ends: damaged, killed, undone; holes stay holes, memory stays small. 100 GB take minutes, all of it hashing;
    the deadline does not count them.
    """
    size = gigabytes * 1_000_000_000
    header = json.dumps({"mlp.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with model.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + b"\x01\x02\x03\x3f" * 1000)
        file.truncate(8 + len(header) + size)
        file.seek(-4000, os.SEEK_END)
        file.write(b"\x04\x05\x06\x3f" * 1000)
    stored = model.stat().st_blocks
    if stored > 2000:
        pytest.skip("this file system keeps no holes")
    mtime = model.stat().st_mtime_ns
    began = time.monotonic()
    agent = Agent(folder, model, "truncate", deadline_s=10.0)
    took_s = time.monotonic() - began
    assert agent.first["event"] == "effective"
    assert agent.prepared >= int(took_s / (2 * file_agent.TELL_S))
    if sys.platform == "linux":
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        peak_kib = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
        assert peak_kib < 64 * 1024
    agent.kill()
    status_code, last = undo(agent.state, PATIENCE_S * gigabytes)
    assert (status_code, last["event"]) == (0, "undone")
    assert (last["digest"], model.stat().st_mtime_ns) == (agent.first["digest_before"], mtime)
    assert model.stat().st_blocks <= stored + 64
    with model.open("rb") as file:
        file.seek(-4000, os.SEEK_END)
        assert file.read() == b"\x04\x05\x06\x3f" * 1000


# --- strangers who have it under another name ---

HOLDS = {
    "open": "import sys; file = open(sys.argv[1]); print('held', flush=True); sys.stdin.read()",
    "mapped": (  # without the descriptor that the mapping keeps
        "import mmap, os, sys; file = open(sys.argv[1], 'rb'); held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "os.closerange(3, 100); print('held', flush=True); sys.stdin.read()"
    ),
}
MOUNTS = pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="to mount something takes root")


@contextmanager
def elsewhere(what: Path, name: Path, holds: str, inside: str = "") -> Iterator[int]:
    """A process that holds a file under another name, as a container with a bind mount does; of a folder, one `inside` it."""
    (Path.mkdir if what.is_dir() else Path.touch)(name)
    script = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$2$5"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", what, name, sys.executable, HOLDS[holds], inside]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdin is not None
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"held\n"
        assert not what.samefile(name), "this process sees the mount as well"
        yield stranger.pid
        stranger.stdin.close()


@MOUNTS
@pytest.mark.parametrize("holds", HOLDS)
def test_a_file_that_somebody_has_under_another_name_is_refused(folder: Path, model: Path, holds: str) -> None:
    before, name = snapshot(model), folder.parent / "theirs"
    with elsewhere(model, name, holds) as pid:
        why = refusal(folder, model, "truncate", readers=[])
    assert re.fullmatch(rf"{model} is in use by process {pid} \(.*\) as {name}, which is no target; end that first", why)
    assert snapshot(model) == before


@MOUNTS
def test_a_mapping_is_known_where_stat_tells_another_device_than_maps(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on btrfs, and on overlayfs of older kernels."""
    why = r"/model\.safetensors is in use by process {} .* as .*/theirs, which is no target"
    monkeypatch.setattr(file_agent, "device_and_inode", lambda path: ("ff:ff", Path(path).stat().st_ino))
    with elsewhere(model, folder.parent / "theirs", "mapped") as pid, pytest.raises(file_agent.Refused, match=why.format(pid)):
        file_agent.refuse_foreign({str(model): False}, [], file_agent.never)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    (path / "blobs" / "deep").mkdir(parents=True)
    (path / "blobs" / "deep" / "one").write_text("one")
    (path / "link").symlink_to("blobs")
    return path


@MOUNTS
@pytest.mark.parametrize("holds", HOLDS)
def test_a_cache_of_which_somebody_has_a_file_under_another_name_is_refused(folder: Path, cache: Path, holds: str) -> None:
    job = {"path": str(cache), "do": {"op": "empty"}}
    with elsewhere(cache, folder.parent / "theirs", holds, "/blobs/deep/one") as pid:
        why = refusal(folder, cache, "wipe", jobs=[job], readers=[])
    assert f"{cache}/blobs/deep/one is in use by process {pid} " in why
    assert f"as {folder.parent}/theirs/blobs/deep/one, which is no target" in why
    assert {each.name for each in cache.iterdir()} == {"blobs", "link"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="who has a file open is told by Linux")
def test_a_folder_with_too_much_in_it_is_refused_where_others_have_files_open(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_agent.refuse_foreign({str(cache): True}, [], file_agent.never)
    monkeypatch.setattr(file_agent, "MOST_ENTRIES", 3)
    with pytest.raises(
        file_agent.Refused, match=r"/cache holds more than 3 entries, too many to tell whether a stranger has one open"
    ):
        file_agent.refuse_foreign({str(cache): True}, [], file_agent.never)
    monkeypatch.setattr(file_agent, "strangers", lambda _: [])
    file_agent.refuse_foreign({str(cache): True}, [], file_agent.never)
