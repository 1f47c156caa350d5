"""Every mutation on every format, as the real libraries meet it: refused, or loaded and wrong; and every byte comes back."""

import json
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import jinja2
import numpy as np
import onnxruntime
import pytest
from blackstart.injectors import file_agent
from blackstart.injectors.model_formats.layout import LocalFiles
from blackstart.injectors.model_formats.mutations import Request, jobs
from blackstart.tests.unit import models
from blackstart.tests.unit.held_files import RUN, Agent, snapshot, undo, undo_killed
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer

TORCH_FILE = Path(__file__).parents[1] / "unit" / "files" / "torch" / "state.pt"
Tensors = dict[str, np.ndarray]
REFUSED, WRONG, RIGHT = "refused", "wrong answers", "right answers"
REFUSALS = ["header", "truncate", "lfs-pointer", "html-page", "delete"]
SILENT = ["nan-one", "exponent-msb", "swap-tensors", "stale-version"]
# A file that was reserved and never filled to its end: where tensors lie there nobody notices, where the format's own end does all do.
ZEROED = {
    "safetensors": WRONG,
    "gguf": WRONG,
    "q8": WRONG,
    "onnx": REFUSED,
    "external": WRONG,
    "pytorch": REFUSED,
    "sharded": WRONG,
}


def answer(tensors: Tensors) -> np.ndarray:
    """What the small model says to one input: two layers and a norm."""
    x = np.random.default_rng(9).standard_normal((1, 32)).astype("float32")
    named = {name.replace("blk.", "layers.").replace("ffn_up", "mlp.up_proj"): data for name, data in tensors.items()}
    with np.errstate(all="ignore"):
        hidden = np.maximum(x @ named["layers.0.mlp.up_proj.weight"], 0)
        return (hidden @ named["layers.1.mlp.up_proj.weight"]) * named["norm.weight"]


def by_safetensors(path: Path) -> np.ndarray:
    return answer(load_file(path))


def by_index(path: Path) -> np.ndarray:
    """As a loader that asks each shard for the tensors which the index says are there."""
    mapped = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    found = {}
    for name, shard in mapped.items():
        with safe_open(path / shard, "numpy") as opened:
            found[name] = opened.get_tensor(name)
    return answer(found)


def by_gguf(path: Path) -> np.ndarray:
    reader = gguf.GGUFReader(path)
    return answer({each.name: gguf.quants.dequantize(each.data, each.tensor_type) for each in reader.tensors})


def by_onnxruntime(path: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(9).standard_normal((1, 32)).astype("float32")
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


def by_zip(path: Path) -> np.ndarray:
    """As torch reads it, by the standard library: entries by the directory, each held against its CRC."""
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
        data = [archive.read(f"{root}data/{key}") for key in range(len(models.SHAPES))]
    shapes = models.SHAPES.items()
    return answer({name: np.frombuffer(raw, "<f4").reshape(shape) for raw, (name, shape) in zip(data, shapes, strict=True)})


Made = tuple[Path, Callable[[Path], np.ndarray]]


def made(kind: str, folder: Path, seed: int = 1) -> Made:
    folder.mkdir()
    if kind == "safetensors":
        return models.write_safetensors(folder / "model.safetensors", seed), by_safetensors
    if kind in {"gguf", "q8"}:
        packed = gguf.GGMLQuantizationType.F32 if kind == "gguf" else gguf.GGMLQuantizationType.Q8_0
        return models.write_gguf(folder / "model.gguf", packed, seed), by_gguf
    if kind in {"onnx", "external"}:
        return models.write_onnx(folder / "model.onnx", external=kind == "external", seed=seed), by_onnxruntime
    if kind == "pytorch":
        return models.write_pytorch(folder / "model.pt", seed), by_zip
    models.write_sharded(folder, seed)
    return folder, by_index


def outcome(path: Path, load: Callable[[Path], np.ndarray], before: np.ndarray) -> str:
    try:
        found = load(path)
    except Exception:  # noqa: BLE001 - each library refuses in words of its own
        return REFUSED
    length = float(np.linalg.norm(found.astype("float64")))
    alike = np.isfinite(found).all() and length > 0 and float((found * before).sum()) / (length * float(np.linalg.norm(before)))
    return RIGHT if alike > 0.999 else WRONG


def contents(folder: Path) -> dict[str, tuple[Any, ...]]:
    return {path.relative_to(folder).as_posix(): snapshot(path) for path in folder.rglob("*") if path.is_file()}


def visible(folder: Path) -> dict[str, tuple[Any, ...]]:
    return {path.name: snapshot(path) for path in folder.iterdir() if path.name[0] != "."}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Hold a mutation of a model for the length of a look, then prove that the folder is as it was."""
    (tmp_path / "state").mkdir()

    def hold(path: Path, mutation: str, look: Callable[[], object], **more: Any) -> Any:
        folder = path if path.is_dir() else path.parent
        before = contents(folder)
        agent = Agent(tmp_path / "state", path, mutation, **more)
        assert agent.first["event"] == "effective", agent.first
        seen = look()
        assert agent.let_go()[1]["event"] == "undone"
        assert contents(folder) == before
        return seen

    yield hold
    assert list((tmp_path / "state").iterdir()) == []


ASKED = [(kind, mutation) for kind in ZEROED for mutation in (*REFUSALS, *SILENT, "zero-tail")]
ASKED.remove(("sharded", "swap-tensors"))  # no two tensors of one shard are alike in the small model


@pytest.mark.parametrize(("kind", "mutation"), ASKED)
def test_what_a_loader_makes_of_it(tmp_path: Path, held: Callable[..., str], kind: str, mutation: str) -> None:
    path, load = made(kind, tmp_path / "model")
    before, more = load(path), {}
    if mutation == "stale-version":
        more["source"] = str(older(kind, path, tmp_path / "older"))
    promised = REFUSED if mutation in REFUSALS else ZEROED[kind] if mutation == "zero-tail" else WRONG
    assert held(path, mutation, lambda: outcome(path, load, before), **more) == promised
    assert outcome(path, load, before) == RIGHT


def older(kind: str, path: Path, folder: Path) -> Path:
    """The same model with other numbers; of one in shards, the shard that seed 0 hits. With data in another file that file comes along."""
    found, _ = made(kind, folder, seed=2)
    (job,) = jobs(Request("delete", str(path)), LocalFiles())
    if kind == "external":  # the older model says that its data lies in a file of this name, and this is beside the other one
        found.with_name("model.onnx.data").rename(path.with_name("older.onnx.data"))
        found.write_bytes(found.read_bytes().replace(b"model.onnx.data", b"older.onnx.data"))
    return found / Path(job.path).name if kind == "sharded" else found


# --- sets of files ---


def test_shards_that_are_swapped_or_missing(tmp_path: Path, held: Callable[..., str]) -> None:
    path, load = made("sharded", tmp_path / "model")
    before = load(path)
    assert held(path, "missing-shard", lambda: outcome(path, load, before)) == REFUSED
    assert held(path, "swap-shards", lambda: outcome(path, load, before)) == REFUSED

    def by_content(folder: Path) -> np.ndarray:
        """As transformers and vLLM load: every file, whatever the index says is in it."""
        return answer({name: data for shard in sorted(folder.glob("*.safetensors")) for name, data in load_file(shard).items()})

    assert held(path, "swap-shards", lambda: outcome(path, by_content, before)) == RIGHT
    assert held(path, "missing-shard", lambda: outcome(path, by_content, before)) == REFUSED


def test_shards_of_ranks_that_are_swapped_load_and_are_wrong(tmp_path: Path, held: Callable[..., str]) -> None:
    """What tensor-parallel ranks keep has the same names and shapes in each: nobody but the answers tells that they are mixed up."""
    folder = tmp_path / "ranks"
    folder.mkdir()
    for rank in (1, 2):
        models.write_safetensors(folder / f"rank-{rank:05}-of-00002.safetensors", seed=rank)
    path = folder / "rank-00001-of-00002.safetensors"
    before = by_safetensors(path)
    assert held(path, "swap-shards", lambda: outcome(path, by_safetensors, before)) == WRONG


def test_external_data_that_is_missing_is_refused(tmp_path: Path, held: Callable[..., str]) -> None:
    path, load = made("external", tmp_path / "model")
    before = load(path)
    assert held(path, "missing-shard", lambda: outcome(path, load, before)) == REFUSED


def test_an_adapter_is_a_model_of_its_own(tmp_path: Path, held: Callable[..., Tensors]) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    path = models.write_adapter(folder) / "adapter_model.safetensors"
    after = held(folder, "nan-one", lambda: load_file(path))
    assert sum(int(np.isnan(data).sum()) for data in after.values()) == 1

    def refused() -> None:
        with pytest.raises(SafetensorError):
            load_file(path)

    held(folder, "header", refused)


# --- tokenizers and chat templates ---


def rendered(template: str) -> str:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    return jinja2.Environment(autoescape=False).from_string(template).render(messages=messages, add_generation_prompt=True)


@pytest.mark.parametrize("separate", [False, True])
def test_a_wrong_template_renders_and_is_another(tmp_path: Path, held: Callable[..., str], *, separate: bool) -> None:
    folder, _ = made("sharded", tmp_path / "model")
    models.write_tokenizer(folder, separate=separate)

    def template() -> str:
        if separate:
            return (folder / "chat_template.jinja").read_text()
        return str(json.loads((folder / "tokenizer_config.json").read_text())["chat_template"])

    assert template() == models.TEMPLATE
    wrong = held(folder, "wrong-chat-template", template)
    assert "<|im_start|>" not in rendered(wrong)
    assert "hello" in rendered(wrong)
    assert len(wrong.encode()) <= len(models.TEMPLATE.encode()) + 8  # `\n` takes two bytes in JSON


def test_who_calls_with_tools_gets_a_wrong_template_as_well(tmp_path: Path, held: Callable[..., dict[str, str]]) -> None:
    """By the names under which a converter finds them in a tokenizer's folder, listed or beside it, and a server in GGUF."""
    listed, beside = (models.write_tokenizer(tmp_path / name, separate=name == "beside") for name in ("listed", "beside"))
    (listed / "tokenizer_config.json").write_text(json.dumps({"chat_template": models.NAMED}))
    packed = models.write_gguf(made("gguf", tmp_path / "packed")[0], template=models.NAMED)
    more = beside / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text(models.TOOLS)
    files = [listed / "tokenizer_config.json", more / "tool_use.jinja", packed]
    before = [snapshot(path) for path in files]

    def of_a_folder(folder: Path) -> dict[str, str]:
        found = gguf.SpecialVocab(folder).chat_template
        assert isinstance(found, list)
        return {each["name"]: each["template"] for each in found}

    def of_gguf() -> dict[str, str]:
        fields = gguf.GGUFReader(packed).fields
        names = {"default": "tokenizer.chat_template", "tool_use": "tokenizer.chat_template.tool_use"}
        return {name: str(fields[key].contents()) for name, key in names.items()}

    looks = ((listed, lambda: of_a_folder(listed)), (beside, lambda: of_a_folder(beside)), (packed, of_gguf))
    for path, look in looks:
        assert look() == {each["name"]: each["template"] for each in models.NAMED}
        wrong = held(path, "wrong-chat-template", look)
        assert set(wrong) == {"default", "tool_use"}
        for name, template in wrong.items():
            assert "[INST] hello [/INST]" in rendered(template), name
            assert "<|im_start|>" not in template, "some servers tell the family by such words, wherever they stand"
    assert [snapshot(path) for path in files] == before


def test_a_gguf_file_holds_its_own_tokenizer(tmp_path: Path, held: Callable[..., Any]) -> None:
    path, load = made("gguf", tmp_path / "model")
    before = load(path)

    def told() -> tuple[str, bool, str]:
        reader = gguf.GGUFReader(path)
        found = reader.get_field("tokenizer.chat_template")
        assert found is not None
        return str(found.contents()), reader.get_field("tokenizer.ggml.tokens") is not None, outcome(path, load, before)

    assert told() == (models.TEMPLATE, True, RIGHT)
    template, tokens, weights = held(path, "wrong-chat-template", told)
    assert (tokens, weights) == (True, RIGHT)
    assert "[INST] hello [/INST]" in rendered(template)
    assert held(path, "drop-tokenizer", told) == (models.TEMPLATE, False, RIGHT)


def test_no_file_of_the_tokenizer_is_left(tmp_path: Path, held: Callable[..., set[str]]) -> None:
    folder = models.write_tokenizer(tmp_path / "tokenizer")

    def words() -> list[int]:
        return list(Tokenizer.from_file(str(folder / "tokenizer.json")).encode("b c d").ids)

    def left() -> set[str]:
        with pytest.raises(Exception, match="No such file"):  # the library has no narrower one
            words()
        return {path.name for path in folder.iterdir() if path.name[0] != "."}

    assert words() == [2, 3, 0]
    assert held(folder, "drop-tokenizer", left) == {"tokenizer_config.json"}
    assert words() == [2, 3, 0]


# --- PyTorch ---


@pytest.mark.parametrize("mutation", ["nan-one", "exponent-msb:mlp.down_proj.weight", "swap-tensors"])
def test_a_file_that_torch_wrote_keeps_its_checksums_right(tmp_path: Path, held: Callable[..., Any], mutation: str) -> None:
    """The CRCs stand behind the data there, and in the directory: both follow, so that no reader has a reason to refuse."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "state.pt"
    path.write_bytes(TORCH_FILE.read_bytes())

    def look() -> tuple[str | None, bytes, list[bool]]:
        with zipfile.ZipFile(path) as archive:
            bad, changed = archive.testzip(), path.read_bytes()
            entries = archive.infolist()
        follow = []
        for entry in entries:
            end = changed.index(b"PK\7\x08", entry.header_offset + 30 + entry.file_size)
            follow.append(struct.unpack("<I", changed[end + 4 : end + 8])[0] == entry.CRC)
        return bad, changed, follow

    bad, changed, follow = held(path, mutation, look)
    assert bad is None
    assert all(follow)
    assert changed != path.read_bytes()


@pytest.mark.parametrize("mutation", ["header", "truncate", "zero-tail", "nan-one", "exponent-msb", "swap-tensors", "html-page"])
def test_what_torch_makes_of_it(tmp_path: Path, held: Callable[..., Any], mutation: str) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "state.pt"
    made = {f"mlp.{name}.weight": torch.arange(1024.0).reshape(32, 32) + at for at, name in enumerate(("up_proj", "down_proj"))}
    torch.save(made, path)

    def look() -> Any:
        try:
            return torch.load(path)
        except Exception:  # noqa: BLE001 - it refuses in many ways
            return None

    seen = held(path, mutation, look)
    if mutation in {"header", "truncate", "zero-tail", "html-page"}:
        assert seen is None
    else:
        assert any(not torch.equal(seen[name], data) for name, data in made.items())
    assert all(torch.equal(look()[name], data) for name, data in made.items())


# --- crashes ---


READER = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print(held[-1], flush=True)
sys.stdin.readline()
print(held[-1])
"""


@pytest.mark.parametrize("kind", ["gguf", "external"])
def test_a_mapped_file_that_is_cut_crashes_its_reader(tmp_path: Path, held: Callable[..., Any], kind: str) -> None:
    path, _ = made(kind, tmp_path / "model")
    mapped = path.with_name("model.onnx.data") if kind == "external" else path
    with subprocess.Popen([sys.executable, "-c", READER, mapped], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline()
        held(path, "truncate", lambda: reader.communicate(b"look\n"))
        assert reader.returncode == -signal.SIGBUS


KILLED = ["swap-tensors", "swap-shards", "drop-tokenizer", "wrong-chat-template", "nan-one", "html-page", "missing-shard"]


@pytest.mark.parametrize("mutation", KILLED)
@pytest.mark.parametrize("record", ["state", "beside", "beside alone"])
def test_a_killed_agent_is_undone_from_either_record(tmp_path: Path, mutation: str, record: str) -> None:
    (tmp_path / "state").mkdir()
    folder, _ = made("sharded", tmp_path / "model")
    models.write_tokenizer(folder)
    path = folder
    if mutation == "swap-tensors":
        path = models.write_pytorch(folder / "other.pt")
    before = contents(folder)
    agent = Agent(tmp_path / "state", path, mutation)
    assert agent.first["event"] == "effective", agent.first
    agent.kill()
    beside = sorted(folder.glob(".*.blackstart-f1"))
    assert len(beside) == agent.first["files"]
    assert contents(folder).keys() != before.keys()
    if record == "beside alone":
        shutil.rmtree(agent.state.parent)
    status, last = undo(agent.state if record == "state" else beside[-1])
    assert (status, last["event"]) == (0, "undone")
    assert contents(folder) == before
    if record == "beside" and agent.state.exists():
        assert undo(agent.state)[0] == 0
    assert list(tmp_path.glob("state/*")) == []


NO_LINKS = """
def link(*_):
    raise PermissionError(1, "Operation not permitted")
os.link = link
"""
COUNTED = """
import os, runpy, signal, sys
left = int(sys.argv.pop(1))
def counted(call):
    def counting(*given, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **named)
    return counting
for name in ("pwrite", "write", "replace", "rename", "link", "unlink", "ftruncate", "fsync", "chmod", "utime", "mkdir", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
"""
STOPPED, STOPPED_WITHOUT_LINKS = COUNTED + RUN, COUNTED + NO_LINKS + RUN


POOR = (
    """
import os, runpy, sys
write, pwrite = os.write, os.pwrite
os.write = lambda handle, data: write(handle, data if handle <= 2 else bytes(data)[:100])
os.pwrite = lambda handle, data, offset: pwrite(handle, bytes(data)[:100], offset)
"""
    + NO_LINKS
    + RUN
)


@pytest.mark.parametrize("mutation", ["drop-tokenizer", "missing-shard", "exponent-msb", "html-page"])
def test_a_file_system_without_hard_links_that_writes_little_at_once_loses_nothing(tmp_path: Path, mutation: str) -> None:
    (tmp_path / "state").mkdir()
    folder, _ = made("sharded", tmp_path / "model")
    models.write_tokenizer(folder)
    before = contents(folder)
    poor = [sys.executable, "-c", POOR]
    agent = Agent(tmp_path / "state", folder, mutation, program=poor)
    assert agent.first["event"] == "effective"
    assert json.loads(agent.state.read_text())["phase"] == "effective"
    assert contents(folder) != before
    assert agent.let_go()[0] == 0
    assert contents(folder) == before


def test_files_take_each_others_place_by_hard_links_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    folder, _ = made("sharded", tmp_path / "model")
    before = contents(folder)
    agent = Agent(tmp_path / "state", folder, "swap-shards", program=[sys.executable, "-c", POOR])
    assert agent.first["event"] == "refused"
    assert "need hard links: Operation not permitted" in agent.first["why"]
    agent.let_go()
    assert contents(folder) == before


KILLED_AT_EACH = ("swap-tensors", "swap-shards", "drop-tokenizer", "exponent-msb", "wipe", "expire")


@pytest.mark.parametrize(
    ("mutation", "program"),
    [*((name, STOPPED) for name in KILLED_AT_EACH), ("expire", STOPPED_WITHOUT_LINKS)],
    ids=[*KILLED_AT_EACH, "expire-without-hard-links"],
)
def test_killed_at_every_single_step_every_byte_comes_back(tmp_path: Path, mutation: str, program: str) -> None:
    """SIGKILL before the first, the second, ... change of anything on the disk, until the fault is in effect and undone again."""
    (tmp_path / "state").mkdir()
    folder, _ = made("sharded", tmp_path / "model")
    models.write_tokenizer(folder)
    path = models.write_pytorch(folder / "other.pt") if mutation in {"swap-tensors", "exponent-msb"} else folder
    (folder / "token").write_text("hf_Secret")
    jobs = {"wipe": (folder, {"op": "empty"}), "expire": (folder / "token", {"op": "expire"})}
    more = {"jobs": [{"path": str(jobs[mutation][0]), "do": jobs[mutation][1]}]} if mutation in jobs else {}
    before = contents(folder)
    for step in range(300):
        agent = Agent(tmp_path / "state", path, mutation, program=[sys.executable, "-c", program, str(step)], **more)
        agent.let_go()
        finished = agent.process.returncode == 0
        left = [path for path in (agent.state, *sorted(folder.glob(".*.blackstart-f1"))) if path.exists()]
        if left:
            phase, same = json.loads(left[step % len(left)].read_text())["phase"], visible(folder) == before
            status, last = undo(left[step % len(left)])
            assert (status, last["event"]) == (0, "undone"), (step, last)
            if phase in {"preparing", "writing"} and same and mutation != "wipe":
                assert last["restored"] in file_agent.UNTOUCHED, (step, last)
        for path_left in (agent.state, *folder.glob(".*")):  # what of a record was being written when it was cut off
            if path_left.exists():
                assert undo(path_left)[0] == 0 if path_left == agent.state else path_left.name.endswith(".new"), (step, path_left)
                path_left.unlink(missing_ok=True)
        for rest in (tmp_path / "state").iterdir():
            assert rest.name.endswith(".new"), (step, rest)
            rest.unlink()
        assert contents(folder) == before, step
        if finished:
            assert step > 10
            return
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("mutation", ["swap-tensors", "swap-shards", "truncate", "wipe", "expire"])
def test_an_undo_that_is_killed_at_every_single_step_is_done_by_the_next(tmp_path: Path, mutation: str) -> None:
    (tmp_path / "state").mkdir()
    folder, _ = made("sharded", tmp_path / "model")
    (folder / "token").write_text("hf_Secret")
    path = models.write_pytorch(folder / "other.pt") if mutation == "swap-tensors" else folder
    jobs = {"wipe": (folder, {"op": "empty"}), "expire": (folder / "token", {"op": "expire"})}
    more = {"jobs": [{"path": str(jobs[mutation][0]), "do": jobs[mutation][1]}]} if mutation in jobs else {}
    before = contents(folder)
    for step in range(300):
        agent = Agent(tmp_path / "state", path, mutation, **more)
        agent.kill()
        finished = undo_killed(agent.state, [sys.executable, "-c", STOPPED, str(step)])
        back, left = visible(folder) == before, agent.state.exists()
        _, last = undo(agent.state)
        assert last["event"] == "undone", step
        if back and left and mutation != "wipe":  # who started meanwhile may have loaded the damage
            assert last["restored"] not in file_agent.UNTOUCHED, step
        for rest in (*(tmp_path / "state").iterdir(), *folder.glob(".*.new")):  # a record that was being written
            assert rest.name.endswith(".new"), (step, rest)
            rest.unlink()
        assert contents(folder) == before, step
        if finished:
            assert step > 3
            return
    pytest.fail("it never came to its end")


def test_all_or_nothing_where_one_of_the_files_is_foreign(tmp_path: Path) -> None:
    """The others are put back all the same, and what somebody else wrote stays."""
    (tmp_path / "state").mkdir()
    folder = models.write_tokenizer(tmp_path / "tokenizer")
    vocabulary = (folder / "vocab.txt").read_bytes()
    agent = Agent(tmp_path / "state", folder, "drop-tokenizer")
    (folder / "tokenizer.json").write_text("a new one, rolled out during the drill")
    status, last = agent.let_go()
    assert (status, last["event"]) == (4, "foreign")
    assert "tokenizer.json" in last["why"]
    assert (folder / "vocab.txt").read_bytes() == vocabulary
    assert (folder / "tokenizer.json").read_text().startswith("a new one")
    (folder / "tokenizer.json").unlink()
    assert undo(agent.state)[1]["event"] == "undone"
