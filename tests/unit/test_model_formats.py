"""Readers of layouts: what real libraries wrote is found where they find it, and no hostile byte makes a reader do more than refuse."""

import itertools
import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
from blackstart.injectors.model_formats import folders, read, selection, texts
from blackstart.injectors.model_formats.gguf import BLOCKS
from blackstart.injectors.model_formats.layout import FileSource, Layout, LocalFiles, Tensor, Unreadable, plain
from blackstart.injectors.model_formats.mutations import MUTATIONS, Request, jobs
from blackstart.tests.unit import models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

WRITERS = {
    "model.safetensors": models.write_safetensors,
    "model.gguf": models.write_gguf,
    "model.onnx": models.write_onnx,
    "model.pt": models.write_pytorch,
}
FILES = LocalFiles()


class Bytes:
    """A file that is all in memory."""

    def __init__(self, content: bytes) -> None:
        self.content, self.size = content, len(content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + max(0, length)]


def layout_of(path: Path) -> Layout:
    return read(FileSource(path))


def held(path: Path, tensor: Tensor) -> np.ndarray:
    raw = path.with_name(tensor.file or path.name).read_bytes()[tensor.offset : tensor.offset + tensor.size]
    return np.frombuffer(raw, "<f4").reshape(tensor.shape)


def refusal(content: bytes) -> str:
    with pytest.raises(Unreadable) as refused:
        read(Bytes(content))
    return str(refused.value)


# --- what is found ---


@pytest.mark.parametrize("name", WRITERS)
def test_every_tensor_is_found_where_it_lies(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name)
    found, written = layout_of(path), models.numbers()
    for tensor in found.tensors:
        alike = [
            key for key, data in written.items() if data.shape == held(path, tensor).shape and (data == held(path, tensor)).all()
        ]
        assert alike, tensor.name
    assert found.size == path.stat().st_size
    assert len(found.tensors) == (3 if name == "model.onnx" else len(written))


def test_external_data_of_onnx(tmp_path: Path) -> None:
    path = models.write_onnx(tmp_path / "model.onnx", external=True)
    found = layout_of(path)
    assert found.files == ("model.onnx.data",)
    for tensor in found.tensors:
        assert any(data.shape == tensor.shape and (data == held(path, tensor)).all() for data in models.numbers().values())


def test_packed_numbers_of_onnx_are_as_raw_ones(tmp_path: Path) -> None:
    path = models.write_onnx(tmp_path / "model.onnx")
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    before = np.frombuffer(weight.raw_data, "<f4")
    weight.ClearField("raw_data")
    weight.float_data.extend(before.tolist())
    onnx.save(model, path)
    (tensor,) = [tensor for tensor in layout_of(path).tensors if tensor.name == weight.name]
    assert (held(path, tensor).ravel() == before).all()


@pytest.mark.parametrize("number", BLOCKS)
def test_sizes_of_ggml_types_are_those_of_the_library(number: int) -> None:
    kind = gguf.GGMLQuantizationType(number)
    assert (BLOCKS[number].name, (BLOCKS[number].elements, BLOCKS[number].size)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"])
def test_the_scale_of_a_block_is_where_the_library_looks(kind: str) -> None:
    """One NaN there makes every number of its block NaN, and none of the others."""
    (block,) = [block for block in BLOCKS.values() if block.name == kind]
    data = np.random.default_rng(1).standard_normal((2, 512)).astype("float32")
    packed = gguf.quants.quantize(data, gguf.GGMLQuantizationType[kind])
    raw = bytearray(packed.tobytes())
    raw[block.size + block.at : block.size + block.at + 2] = b"\0\x7e"
    damaged = np.frombuffer(bytes(raw), packed.dtype).reshape(packed.shape)
    found = np.isnan(gguf.quants.dequantize(damaged, gguf.GGMLQuantizationType[kind])).ravel()
    assert found[block.elements : 2 * block.elements].all()
    assert found.sum() == block.elements


def test_a_chat_template_is_found_as_the_library_finds_it(tmp_path: Path) -> None:
    path = models.write_gguf(tmp_path / "model.gguf")
    (found,) = layout_of(path).templates
    assert path.read_bytes()[found.offset : found.offset + found.length].decode() == found.value == models.TEMPLATE
    config = models.write_tokenizer(tmp_path / "tokenizer") / "tokenizer_config.json"
    (inside,) = texts.in_json(config.read_bytes())
    assert inside.value == models.TEMPLATE
    assert json.loads(b'"' + config.read_bytes()[inside.offset : inside.offset + inside.length] + b'"') == models.TEMPLATE


def test_every_named_template_is_found_where_it_lies(tmp_path: Path) -> None:
    path = models.write_gguf(tmp_path / "model.gguf", template=models.NAMED)
    raw, found = path.read_bytes(), layout_of(path).templates
    assert {raw[each.offset : each.offset + each.length].decode() for each in found} == {models.TEMPLATE, models.TOOLS}
    odd = [{"template": 'a "name" \\', "n": 1, "more": None}, {"name": "template", "template": ":"}, {"name": "none"}]
    odd += [{"tags": ["]"], "template": "b", "meta": {"template": "no"}, "name": "[{"}]
    for listed, indent in itertools.product((models.NAMED, odd, []), (None, 2)):
        raw = json.dumps({"é": "ü", "chat_template": listed, "after": {"template": "x"}}, indent=indent).encode()
        inside = texts.in_json(raw)
        assert [each.value for each in inside] == [each["template"] for each in listed if "template" in each]
        assert [json.loads(b'"' + raw[each.offset : each.offset + each.length] + b'"') for each in inside] == [
            each.value for each in inside
        ]
    assert texts.in_json(b'{"chat_template": null}') == []
    assert texts.in_json(b'{"chat_template": [{"template": ["a"]}]}') == []
    for damaged in (b'[{"template": "a', b'[{"template": "a"}'):
        with pytest.raises(Unreadable, match="cannot be read to their end"):
            texts.in_json(b'{"chat_template": ' + damaged)


def test_every_chat_template_is_made_wrong(tmp_path: Path) -> None:
    """Whoever calls with tools would else get one that is as it was."""
    folder = models.write_tokenizer(tmp_path, separate=True)
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text(models.TOOLS)
    (more / "README.md").write_text("{{ messages }}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": models.NAMED}))
    made = {
        Path(job.path).relative_to(folder).as_posix(): job.do for job in jobs(Request("wrong-chat-template", str(folder)), FILES)
    }
    assert {name: do["op"] for name, do in made.items()} == {
        "chat_template.jinja": "fill",
        "tokenizer_config.json": "fill",
        "additional_chat_templates/tool_use.jinja": "fill",
    }
    (whole,) = jobs(Request("wrong-chat-template", str(models.write_gguf(tmp_path / "m.gguf", template=models.NAMED))), FILES)
    assert len(whole.do["places"]) == len(made["tokenizer_config.json"]["places"]) == 2


def test_the_strongest_tensor_is_chosen() -> None:
    def tensor(name: str, *shape: int, hint: str = "", dtype: str = "F32") -> Tensor:
        return Tensor(name, dtype, shape, 0, 4 * math.prod(shape), plain(dtype), hint=hint)

    strong = tensor("onnx::MatMul_7", 4, 4, hint="/layer.0/mlp/MatMul MatMul")
    others = [tensor("wte", 90, 4, hint="embedding"), tensor("norm.weight", 4), tensor("norm.bias", 4), tensor("q", 8, 8)]
    assert selection.choose([*others, strong], "") is strong
    assert selection.choose(others, "").name == "norm.weight"
    assert selection.choose([others[0], others[3]], "").name == "q"
    with pytest.raises(Unreadable, match=r"there are I8$"):
        selection.choose([tensor("q", 8, 8, dtype="I8")], "")
    with pytest.raises(Unreadable, match=r"the nearest is norm\.weight"):
        selection.choose(others, "norm.wieght")


# --- folders ---


def test_what_belongs_together(tmp_path: Path) -> None:
    index = models.write_sharded(tmp_path)
    for path in (tmp_path, index):
        found = folders.model_at(FILES, str(path))
        assert [Path(shard).name for shard in found.shards] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
        assert set(found.where) == set(models.SHAPES)
    assert len(folders.model_at(FILES, found.shards[1]).shards) == 2
    Path(found.shards[1]).unlink()
    with pytest.raises(Unreadable, match=r"model-00002-of-00002\.safetensors that .* names is not there"):
        folders.model_at(FILES, str(tmp_path))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "adapter_model.safetensors"),
        (["config.json", "llm.gguf"], "llm.gguf"),
        (["llm-00001-of-00002.gguf", "llm-00002-of-00002.gguf"], "llm-00001-of-00002.gguf"),
        (["a.gguf", "b.gguf"], None),
        (["config.json"], None),
        (["model.onnx", "model_quantized.onnx"], "model.onnx"),
    ],
)
def test_which_file_of_a_folder_is_the_model(tmp_path: Path, names: list[str], expected: str | None) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    if expected:
        assert folders.main_file(FILES, str(tmp_path)) == str(tmp_path / expected)
    else:
        with pytest.raises(Unreadable, match=r"which file in .* is the model"):
            folders.main_file(FILES, str(tmp_path))


def test_the_newest_checkpoint(tmp_path: Path) -> None:
    for name in ("checkpoint-900", "checkpoint-1000", "runs"):
        (tmp_path / name).mkdir()
    assert folders.newest_checkpoint(FILES, str(tmp_path)).endswith("checkpoint-1000")
    (tmp_path / "latest").write_text("checkpoint-900")
    assert folders.newest_checkpoint(FILES, str(tmp_path)).endswith("checkpoint-900")
    (tmp_path / "latest").write_text("checkpoint-7")
    with pytest.raises(Unreadable, match="names 'checkpoint-7', and there is no such"):
        folders.newest_checkpoint(FILES, str(tmp_path))
    inner = tmp_path / "checkpoint-1000" / "rank0"
    inner.mkdir()
    (inner / "optimizer.pt").write_bytes(b"12345")
    (tmp_path / "checkpoint-1000" / "model.pt").write_bytes(b"123")
    assert folders.largest(FILES, str(tmp_path / "checkpoint-1000")) == str(inner / "optimizer.pt")


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "0 bytes"),
        (b"GGUF", "4 bytes are announced and 0 are left"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(100), "version 1"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(100), "big-endian"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16 + bytes(100), "are announced in"),
        (b"PK\3\4" + bytes(100), "no end record"),
        (b"\x08\x07\xff", "the file has 3 bytes, too few for any known format"),
        (b"\x0f\x0a" + bytes(20), "or damaged already: its first bytes are 0f 0a 00 00 00 00 00 00"),
        (b"\x08\x07\x22\xff\xff\x01\xff\xff{" + bytes(20), "this begins as an ONNX model and is damaged already: byte"),
        (b"\x80\2}q\0." + bytes(20), "bare pickle"),
        (models.TEMPLATE.encode(), "no known format"),
        (b"<!DOCTYPE html><html></html>", "page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"\x08\x07" + bytes(20), "no field of a protocol buffer"),
        (b"\x08\x07\x12\x0aonnxonnxon", "has no graph"),
        ((2).to_bytes(8, "little") + b"{}", "no tensors"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "as a header length"),
        ((40).to_bytes(8, "little") + b"{}", "cut off"),
        ((7).to_bytes(8, "little") + b'{"a":1}', "cannot be read"),
    ],
)
def test_what_is_no_model_is_refused_with_what_was_found(content: bytes, why: str) -> None:
    assert why in refusal(content)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 15392, 66176])
def test_a_header_whose_length_begins_like_a_pickle_or_a_page_is_safetensors(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"norm.weight": np.ones(4, "float32")}, path, {"about": ""})
    whole = path.read_bytes()
    missing = length - int.from_bytes(whole[:8], "little")
    save_file({"norm.weight": np.ones(4, "float32")}, path, {"about": "x" * missing})
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    layout = read(FileSource(path))
    assert [tensor.name for tensor in layout.tensors] == ["norm.weight"]


def test_a_model_that_is_damaged_already_is_refused(tmp_path: Path) -> None:
    whole = models.write_safetensors(tmp_path / "model.safetensors").read_bytes()
    assert "damaged already" in refusal(whole[:-1])
    assert "damaged already" in refusal(models.write_gguf(tmp_path / "model.gguf").read_bytes()[:-1000])
    assert "are announced" in refusal(models.write_onnx(tmp_path / "model.onnx").read_bytes()[:-1000])
    assert "no end record" in refusal(models.write_pytorch(tmp_path / "model.pt").read_bytes()[:-1000])


def test_what_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = models.write_onnx(tmp_path / "model.onnx", external=True)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../../etc/passwd"
    assert "no file beside the model" in refusal(model.SerializeToString())
    index = models.write_sharded(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(Unreadable, match="no file beside it"):
        folders.model_at(FILES, str(tmp_path))


def test_what_would_cost_memory_is_refused(tmp_path: Path) -> None:
    """Counts and lengths that a file of that size could hold, and no model has."""
    model = onnx.load(models.write_onnx(tmp_path / "model.onnx"))
    nested = b"\1" * 5000
    for tag in (b"\x0a", b"\x2a", b"\x3a"):  # dimensions, packed, of an initializer of a graph
        nested = tag + bytes([len(nested) % 128 | 128, len(nested) // 128]) + nested
    assert "5000 bytes where a few numbers belong" in refusal(b"\x08\x07" + nested)
    model.graph.initializer[0].dims[:] = [1] * 100
    assert "more than 64 dimensions" in refusal(model.SerializeToString())
    model.graph.initializer[0].dims[:] = [32, 32]
    model.graph.initializer[0].name = "n" * 5000
    assert "5000 bytes where a name belongs" in refusal(model.SerializeToString())
    many = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + (1 << 23).to_bytes(8, "little") + bytes(1 << 27)
    assert f"{1 << 23} key-value pairs are announced" in refusal(many)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    flag = tmp_path / "run"
    evil = b"cos\nsystem\n(S'touch " + str(flag).encode() + b"'\ntR."
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", evil)
    with pytest.raises(Unreadable, match="no tensors"):
        layout_of(path)
    assert not flag.exists()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    return {name: writer(folder / name).read_bytes() for name, writer in WRITERS.items()}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_hostile_bytes_are_read_or_refused(originals: dict[str, bytes], name: str, data: st.DataObject) -> None:
    """Flipped, cut, doubled: every tensor of what is still read lies inside the file, and nothing but Unreadable is raised."""
    content = bytearray(originals[name])
    header = 1200 if name != "model.pt" else len(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(header, len(content)) - 1))
        content[at : at + data.draw(st.sampled_from([1, 4, 8]))] = data.draw(st.binary(min_size=0, max_size=9))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    try:
        found = read(Bytes(bytes(content)))
    except Unreadable:
        return
    for tensor in found.tensors:
        assert tensor.file or 0 <= tensor.offset <= tensor.offset + tensor.size <= len(content)


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from([b"", b"GGUF\3\0\0\0", b"PK\3\4", b"\x08\x0a\x3a", b"\x10\0\0\0\0\0\0\0{"]),
    rest=st.binary(max_size=400),
)
def test_arbitrary_bytes_are_refused(start: bytes, rest: bytes) -> None:
    try:
        read(Bytes(start + rest))
    except Unreadable:
        return


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=60), indent=st.sampled_from([None, 2]), ascii_only=st.booleans())
def test_any_template_is_found_in_json(text: str, indent: int | None, *, ascii_only: bool) -> None:
    config = {"note": 'the "chat_template": of "x"', "é": "ü", "chat_template": text, "after": 1}
    raw = json.dumps(config, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    (found,) = texts.in_json(raw)
    assert found.value == text or any(0xD800 <= ord(each) < 0xE000 for each in text)
    assert raw[found.offset - 1 : found.offset] == raw[found.offset + found.length :][:1] == b'"'


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_mutation_is_planned_or_refused_by_name(tmp_path: Path, mutation: str) -> None:
    """Of each kind of model, and the same twice."""
    (tmp_path / "set").mkdir()
    models.write_sharded(tmp_path / "set")
    (tmp_path / "adapter").mkdir()
    paths = [writer(tmp_path / name) for name, writer in WRITERS.items()]
    for path in (*paths, tmp_path / "set", models.write_adapter(tmp_path / "adapter")):
        try:
            first = jobs(Request(mutation, str(path), 3), FILES)
        except Unreadable:
            continue
        assert jobs(Request(mutation, str(path), 3), FILES) == first
        assert all(Path(job.path).exists() for job in first)


def test_what_nothing_can_do_is_refused_by_name(tmp_path: Path) -> None:
    path = str(models.write_safetensors(tmp_path / "model.safetensors"))
    for mutation, why in (
        ("header:mlp", "not known"),
        ("melt", "not known"),
        ("missing-shard", "no shard to take"),
        ("swap-shards", "no shard to swap"),
        ("drop-tokenizer", "holds no tokenizer"),
        ("wrong-chat-template", "no chat template"),
        ("stale-version", "model-stale.safetensors: No such file"),
    ):
        with pytest.raises(Unreadable, match=why):
            jobs(Request(mutation, path), FILES)


# --- large files ---

LARGE = 100_000_000_000


def write_large(folder: Path) -> list[Path]:
    """100 GB of each format, all of it holes but the headers."""
    header = json.dumps({"mlp.weight": {"dtype": "F32", "shape": [LARGE // 4], "data_offsets": [0, LARGE]}}).encode()
    first = folder / "large.safetensors"
    first.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(first, 8 + len(header) + LARGE)
    small = models.write_gguf(folder / "small.gguf").read_bytes()
    second = folder / "large.gguf"
    last = small.rindex((32).to_bytes(8, "little") + (0).to_bytes(4, "little"))  # the length of the last tensor
    second.write_bytes(small[:last] + (LARGE // 4).to_bytes(8, "little") + small[last + 8 :])
    os.truncate(second, len(small) + LARGE)
    third = folder / "large.pt"
    with zipfile.ZipFile(models.write_pytorch(folder / "small.pt")) as archive:
        pickled = archive.read("archive/data.pkl")
    with zipfile.ZipFile(third, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        start = archive.fp.tell()  # type: ignore[union-attr]
        archive.fp.seek(LARGE)  # type: ignore[union-attr]
        archive.start_dir = LARGE
        for key, data in enumerate(models.numbers().values()):
            archive.writestr(f"archive/data/{key}", data.tobytes())
    assert start < third.stat().st_size > LARGE
    return [first, second, third]


MEASURED = """
import resource, sys
from pathlib import Path
from blackstart.injectors.model_formats import read
from blackstart.injectors.model_formats.layout import FileSource, LocalFiles
from blackstart.injectors.model_formats.mutations import Request, jobs
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    assert read(FileSource(Path(path))).size > 100_000_000_000
    for mutation in ("header", "truncate", "zero-tail", "nan-one", "exponent-msb"):
        assert jobs(Request(mutation, path), LocalFiles())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sparse files of 100 GB, and KiB of resident memory")
def test_a_hundred_gigabytes_cost_what_their_header_does(tmp_path: Path) -> None:
    paths = write_large(tmp_path)
    if any(path.stat().st_blocks > 10_000 for path in paths):
        pytest.skip("this file system keeps no holes")
    command = [sys.executable, "-c", MEASURED, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 * 1024


def test_a_zip_that_says_it_is_large_and_has_no_64_bit_record_is_refused(tmp_path: Path) -> None:
    content = bytearray(models.write_pytorch(tmp_path / "model.pt").read_bytes())
    content[-6:-2] = b"\xff" * 4
    assert "64-bit end record is not there" in refusal(bytes(content))


def test_whole_numbers_alone_cannot_be_made_nan(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"mlp.weight": np.ones((4, 4), "int8")}, path)
    with pytest.raises(Unreadable, match="no tensor holds floating-point numbers"):
        jobs(Request("nan-one", str(path)), FILES)
