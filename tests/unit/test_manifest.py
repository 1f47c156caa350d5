"""`blackstart manifest`: digests that anybody's tools give as well, and what is said where a model is not as it was."""

import hashlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from blackstart.commands.console import confess
from blackstart.injectors.model_formats.manifest import NAME, Unfit, differences, measured, stored
from blackstart.tests.unit import models
from blackstart.tests.unit.held_files import Agent, undo
from safetensors.numpy import load_file, save_file

MEASURED = """
import resource, sys
from pathlib import Path
from blackstart.injectors.model_formats.manifest import measured
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert measured(Path(sys.argv[1]), lambda *_: None)["files"]["large.safetensors"]["size"] > 1_000_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def manifest(*arguments: object) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "blackstart", "manifest", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    models.write_sharded(folder)
    models.write_tokenizer(folder)
    models.write_gguf(folder / "other.gguf")
    models.write_onnx(folder / "other.onnx", external=True)
    models.write_pytorch(folder / "other.pt")
    return folder


def test_what_is_written_is_what_other_tools_say(model: Path) -> None:
    code, out, _ = manifest(model)
    assert code == 0
    found = json.loads((model / NAME).read_text())["files"]
    tensors, size = sum(len(each.get("tensors", ())) for each in found.values()), sum(each["size"] for each in found.values())
    assert out == f"wrote {model / NAME}: {len(found)} files, {tensors} tensors, {size} bytes\n"
    assert set(found) == {path.name for path in model.iterdir()} - {NAME}
    for name, each in found.items():
        content = (model / name).read_bytes()
        assert (each["size"], each["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    for shard in model.glob("*.safetensors"):
        expected = {name: hashlib.sha256(data.tobytes()).hexdigest() for name, data in load_file(shard).items()}
        assert {name: each["sha256"] for name, each in found[shard.name]["tensors"].items()} == expected
    assert set(found["other.onnx.data"]["tensors"]) == {"onnx::MatMul_1", "onnx::MatMul_2", "norm.weight"}
    assert len(found["other.gguf"]["tensors"]) == len(found["other.pt"]["tensors"]) == len(models.SHAPES)


def test_what_differs_is_named(model: Path) -> None:
    manifest(model)
    assert manifest(model, "--check")[0] == 0
    shard = model / "model-00002-of-00002.safetensors"
    tensors = load_file(shard)
    tensors["norm.weight"][3] = 7.0
    save_file(tensors, shard)
    (model / "other.gguf").write_bytes((model / "other.gguf").read_bytes()[:-1000])
    (model / "vocab.txt").unlink()
    (model / "extra.bin").write_bytes(b"x")
    code, out, err = manifest(model, "--check")
    assert code == 1
    lines = out.splitlines()
    assert "extra.bin: is not in the manifest" in lines
    assert "model-00002-of-00002.safetensors: has another digest; tensors: norm.weight" in lines
    assert "vocab.txt: is not there" in lines
    assert any(line.startswith("other.gguf: has another digest, ") and "cannot be read any more" in line for line in lines)
    assert len(lines) == 4
    assert "4 of 11 files are not as" in err


def test_a_file_alone_and_a_manifest_elsewhere(model: Path, tmp_path: Path) -> None:
    digests = tmp_path / "digests.json"
    assert manifest(model / "other.gguf", "--file", digests)[0] == 0
    assert set(stored(digests)["files"]) == {"other.gguf"}
    assert manifest(model / "other.gguf", "--file", digests, "--check")[0] == 0
    assert not (model / NAME).exists()


def test_mistakes_are_said_with_what_to_do(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for given, why in (
        ([model, "--check"], "write one first: blackstart manifest"),
        ([tmp_path / "nowhere"], "there is no such file or folder"),
        ([tmp_path / "empty"], "holds no files; name the folder"),
        ([tmp_path / "pipe"], "is neither a folder nor a regular file"),
        (["/dev/null"], "is neither a folder nor a regular file"),
        (["/proc/self/mem"], "cannot be read: Input/output error"),
        ([model, "--check", "--file", model / "tokenizer.json"], "is no manifest of blackstart"),
        ([model, "--check", "--file", model / "vocab.txt"], "is no JSON"),
        ([model, "--file", tmp_path / "no" / "such.json"], "say where it may be with --file"),
    ):
        code, out, err = manifest(*given)
        assert (code, out) == (2, "")
        assert why in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tensors": [1]}, "/tensors is no object"),
        ({"tensors": {"norm.weight": 1}}, "/tensors/norm.weight has no SHA-256"),
        ({"size": "x"}, "/size is no number of bytes"),
        ({"size": True}, "/size is no number of bytes"),
        ({"sha256": ["ab"]}, "/sha256 is no SHA-256"),
        (None, " is no object"),
    ],
)
def test_a_malformed_manifest_is_said_with_the_place(model: Path, changed: dict[str, object] | None, why: str) -> None:
    manifest(model)
    written = json.loads((model / NAME).read_text())
    name = "model-00001-of-00002.safetensors"
    written["files"][name] = None if changed is None else {**written["files"][name], **changed}
    (model / NAME).write_text(json.dumps(written))
    (model / name).write_bytes((model / name).read_bytes()[:-1])  # else nothing is compared beyond the digest
    code, out, err = manifest(model, "--check")
    assert (code, out) == (2, "")
    assert f"{model / NAME}: files/{name}{why}" in err
    assert f"write it anew: blackstart manifest {model}" in err


def test_only_a_command_that_injects_tells_of_what_was_injected(capsys: pytest.CaptureFixture[str]) -> None:
    for command, told in (("manifest", False), ("validate", False), ("run", True), ("recover", True)):
        assert confess(ZeroDivisionError("x"), [command, "x"]) == 70
        assert ("Everything that was injected is undone" in capsys.readouterr().err) is told


def test_a_held_fault_is_not_taken_for_the_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    manifest(model)
    agent = Agent(tmp_path / "state", model / "other.gguf", "nan-one")
    code, _, err = manifest(model)
    assert code == 2
    assert "held or was not undone; undo it first: blackstart recover f1; where that run is closed (--accept), delete" in err
    agent.let_go()
    assert manifest(model, "--check")[0] == 0


def test_a_fault_held_on_a_file_is_seen_by_whatever_name_it_has(model: Path, tmp_path: Path) -> None:
    """Alone, and by the links of a hub's cache, whose files lie elsewhere; also once the agent is dead."""
    for name in ("state", "snapshot"):
        (tmp_path / name).mkdir()
    path, link = model / "other.gguf", tmp_path / "snapshot" / "model.gguf"
    link.symlink_to(path)
    agent = Agent(tmp_path / "state", path, "nan-one")

    def refused() -> bool:
        found = [manifest(given) for given in (path, link, link.parent)]
        return all((code, out) == (2, "") and f"{model}/.other.gguf.blackstart-f1 is left" in err for code, out, err in found)

    assert refused()
    agent.kill()
    assert refused()
    assert undo(agent.state)[0] == 0
    assert [manifest(given)[0] for given in (path, link, link.parent)] == [0, 0, 0]


def test_what_lies_in_a_linked_folder_is_the_models(tmp_path: Path) -> None:
    """As a version of it does in a store of models."""
    for name in ("store/1", "model"):
        (tmp_path / name).mkdir(parents=True)
    weights = models.write_safetensors(tmp_path / "store" / "1" / "model.safetensors")
    (tmp_path / "model" / "config.pbtxt").write_text("x")
    for name in ("1", "2"):
        (tmp_path / "model" / name).symlink_to("../store/1")
    assert manifest(tmp_path / "model")[0] == 0
    files = stored(tmp_path / "model" / NAME)["files"]
    assert set(files) == {"config.pbtxt", "1/model.safetensors", "2/model.safetensors"}
    assert "norm.weight" in files["1/model.safetensors"]["tensors"]
    tensors = load_file(weights)
    tensors["norm.weight"][3] = 7.0
    save_file(tensors, weights)
    code, out, _ = manifest(tmp_path / "model", "--check")
    assert code == 1
    assert "1/model.safetensors: has another digest; tensors: norm.weight" in out.splitlines()


@pytest.mark.parametrize(
    ("link", "to", "where", "why"),
    [
        ("weights.bin", "../blobs/missing", "weights.bin", "a link to what is not there; fetch that, or remove the link"),
        ("itself", "itself", "itself", "a link to what is not there"),
        ("back", ".", "back", "a link back to a folder that it lies in; remove it"),
        ("sub/up", "..", "sub/up", "a link back to a folder that it lies in; remove it"),
        ("above", "..", "above/model", "a link back to a folder that it lies in; remove it"),
    ],
)
def test_links_to_nowhere_and_back_are_refused(model: Path, link: str, to: str, where: str, why: str) -> None:
    (model / "sub").mkdir()
    (model / link).symlink_to(to)
    code, out, err = manifest(model)
    assert (code, out) == (2, "")
    assert f"{model / where}: {why}" in err
    assert not (model / NAME).exists()


def fetched(folder: Path, moment: str) -> Path:
    """A model as the Hugging Face client's `--local-dir` and a clone leave it: each fetch notes its own moment beside the same files."""
    for name in (".cache/huggingface/download", ".git", "sub/.cache/huggingface/download"):
        (folder / name).mkdir(parents=True)
    for name in ("model.bin", "sub/model.bin", ".hidden"):
        (folder / name).write_bytes(b"weights")
    for name in (".cache/huggingface/download", "sub/.cache/huggingface/download"):
        (folder / name / "model.bin.metadata").write_text(f"11c5a3d\na16a55f\n{moment}\n")
    (folder / ".git" / "index").write_text(moment)
    return folder


def test_what_was_fetched_twice_is_one_model(tmp_path: Path) -> None:
    """Nor is what an older manifest says of such files held against anybody."""
    one, other, digests = fetched(tmp_path / "one", "1.0"), fetched(tmp_path / "other", "2.0"), tmp_path / "digests.json"
    assert manifest(one, "--file", digests)[0] == 0
    written = json.loads(digests.read_text())
    assert set(written["files"]) == {"model.bin", "sub/model.bin", ".hidden"}
    assert manifest(other, "--check", "--file", digests)[0] == 0
    for name in (".cache/huggingface/download/model.bin.metadata", ".git/index", "sub/.git/HEAD"):
        written["files"][name] = {"size": 1, "sha256": "0" * 64}
    digests.write_text(json.dumps(written))
    assert manifest(other, "--check", "--file", digests)[0] == 0
    (other / "sub" / "model.bin").write_bytes(b"other weights")
    assert manifest(other, "--check", "--file", digests)[0] == 1


def test_what_lies_in_a_hub_is_the_models(tmp_path: Path) -> None:
    """It lies below the folder of that name, as it does in a home; so does a model whose own folder is below one."""
    snapshot = tmp_path / ".cache" / "huggingface" / "hub" / "models--x" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text("hf_Secret")
    for folder in (snapshot, tmp_path):
        (folder / ".gitattributes").write_text("x")
        (folder / "model.bin").write_bytes(b"weights")
        measured_of = measured(folder, lambda *_: None)["files"]
        assert set(measured_of) >= {".gitattributes", "model.bin"}
    assert ".cache/huggingface/hub/models--x/snapshots/1/model.bin" in measured_of
    assert ".cache/huggingface/token" not in measured_of


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = models.write_safetensors(tmp_path / "model.safetensors")

    def meddle(*_: object) -> None:
        os.truncate(path, 100)

    with pytest.raises(Unfit, match="was changed while it was read"):
        measured(path, meddle)


def test_a_tensor_that_moved_is_no_difference_of_its_own(tmp_path: Path) -> None:
    path = models.write_safetensors(tmp_path / "model.safetensors")
    then = measured(path, lambda *_: None)
    save_file(models.numbers(), path, metadata={"note": "written again"})
    (difference,) = differences(then, measured(path, lambda *_: None))
    assert (difference.what, difference.tensors) == ("has another digest, " + difference.what.partition(", ")[2], ())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="KiB of resident memory, and sparse files")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    size = 1_000_000_000
    header = json.dumps({"mlp.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024


def test_progress_is_drawn_on_a_terminal_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(b"")
    os.truncate(path, 1_000_000_000)
    assert manifest(path)[2] == ""
    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "blackstart", "manifest", path], stdout=subprocess.PIPE, stderr=slave) as shown:
        os.close(slave)
        out = shown.communicate(timeout=60)[0]
    assert out.startswith(b"wrote")
    assert b"of 1.0 GB" in os.read(master, 65536)
    os.close(master)
