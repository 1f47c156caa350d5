"""Small models of every format, written by the libraries that write them, and by hand where those are too large to install."""

import contextlib
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

WORDS = ["<unk>", "a", "b", "c"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = '<|im_start|>tools "{{ tools }}"<|im_end|>\n' + TEMPLATE
NAMED = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": TOOLS}]
SHAPES = {
    "embedding.weight": (64, 32),
    "layers.0.mlp.up_proj.weight": (32, 32),
    "layers.1.mlp.up_proj.weight": (32, 32),
    "layers.1.mlp.up_proj.bias": (32,),
    "norm.weight": (32,),
}


def numbers(seed: int = 1) -> dict[str, np.ndarray]:
    made = np.random.default_rng(seed)
    return {name: made.standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}


def write_safetensors(path: Path, seed: int = 1) -> Path:
    save_file(numbers(seed), path)
    return path


def write_sharded(folder: Path, seed: int = 1) -> Path:
    """Two shards and their index, as transformers writes them."""
    tensors, mapped = numbers(seed), {}
    for number, names in ((1, list(SHAPES)[:2]), (2, list(SHAPES)[2:])):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / shard)
        mapped |= dict.fromkeys(names, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": mapped}))
    return index


def write_adapter(folder: Path) -> Path:
    """A LoRA adapter, as peft writes it."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["up_proj"]}))
    made = np.random.default_rng(2)
    prefix = "base_model.model.layers.0.mlp.up_proj"
    pair = {"lora_A": (4, 32), "lora_B": (32, 4)}
    tensors = {f"{prefix}.{name}.weight": made.standard_normal(shape).astype("float32") for name, shape in pair.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def write_gguf(
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    seed: int = 1,
    template: str | list[dict[str, str]] = TEMPLATE,
) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_chat_template(template)
    for name, data in numbers(seed).items():
        named = name.replace("layers.", "blk.").replace("mlp.up_proj", "ffn_up").replace("embedding", "token_embd")
        quantised = data.ndim == 2 and kind is not gguf.GGMLQuantizationType.F32
        writer.add_tensor(named, gguf.quants.quantize(data, kind) if quantised else data, raw_dtype=kind if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_onnx(path: Path, *, external: bool = False, seed: int = 1) -> Path:
    """y = norm * (W1 relu(W0 x)), its matrices under the numbers that an exporter gives."""
    tensors = numbers(seed)
    held = {
        "onnx::MatMul_1": tensors["layers.0.mlp.up_proj.weight"],
        "onnx::MatMul_2": tensors["layers.1.mlp.up_proj.weight"],
        "norm.weight": tensors["norm.weight"],
    }
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["h"], name="/layers.0/mlp/MatMul"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "onnx::MatMul_2"], ["m"], name="/layers.1/mlp/MatMul"),
        helper.make_node("Mul", ["m", "norm.weight"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], [numpy_helper.from_array(a, n) for n, a in held.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    if external:
        location = f"{path.name}.data"
        onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=16)
    else:
        onnx.save(model, path)
    return path


@contextlib.contextmanager
def imitated_torch() -> Iterator[types.ModuleType]:
    """Just the names that a torch.save pickle refers to: the pickler looks them up, and nothing of torch is there."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    storage = type("FloatStorage", (), {"__module__": "torch", "__qualname__": "FloatStorage"})

    def _rebuild_tensor_v2(*_: object) -> None:
        """Stands for the name alone."""

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch.FloatStorage, torch._utils, utils._rebuild_tensor_v2 = storage, utils, _rebuild_tensor_v2  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _Tensor:
    def __init__(self, key: str, data: np.ndarray) -> None:
        self.key, self.data = key, data


def write_pytorch(path: Path, seed: int = 1) -> Path:
    """As torch.save writes a dictionary of tensors: stored entries, a pickle with persistent ids, one storage each."""
    import collections  # noqa: PLC0415 - of the pickle alone

    with (
        imitated_torch() as torch,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        archive.open("archive/data.pkl", "w") as pickled,
    ):

        class Pickler(pickle.Pickler):
            def persistent_id(self, found: object) -> object:
                if isinstance(found, tuple) and found and found[0] == "a storage":
                    return ("storage", torch.FloatStorage, found[1], "cpu", found[2])
                return None

            def reducer_override(self, found: object) -> object:
                if not isinstance(found, _Tensor):
                    return NotImplemented
                shape = found.data.shape
                strides = tuple(int(each) // 4 for each in found.data.strides)
                stored = ("a storage", found.key, found.data.size)
                return torch._utils._rebuild_tensor_v2, (stored, 0, shape, strides, False, collections.OrderedDict())

        tensors = {name: _Tensor(str(key), data) for key, (name, data) in enumerate(numbers(seed).items())}
        Pickler(pickled, protocol=2).dump(tensors)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/byteorder", "little")
        for key, data in enumerate(numbers(seed).values()):
            archive.writestr(f"archive/data/{key}", data.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_tokenizer(folder: Path, *, separate: bool = False) -> Path:
    """A tokenizer's files; the chat template in its configuration, or `separate` as newer ones keep it."""
    folder.mkdir(exist_ok=True)
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": WORDS[0]}
    split = {"pre_tokenizer": {"type": "Whitespace"}}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], **split, "model": model}))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    config = {"added_tokens_decoder": {"0": {"content": 'a "chat_template": of none'}}, "model_max_length": 32}
    if separate:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    else:
        config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return folder
