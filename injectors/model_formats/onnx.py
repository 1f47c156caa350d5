"""ONNX: a ModelProto whose graph holds initializers, with their bytes inside it or in files beside it
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, https://github.com/onnx/onnx/blob/main/docs/ExternalData.md).
"""

import posixpath
from collections import defaultdict
from dataclasses import dataclass, field

from . import protobuf
from .layout import BreaksOff, Layout, Nearby, Piece, Source, Tensor, Unreadable, plain, within

IR_VERSION, GRAPH = 1, 7  # of ModelProto
NODE, INITIALIZER = 1, 5  # of GraphProto
MOST_INITIALIZERS = 1 << 17
MOST_DIMENSIONS = 64
MOST_HINTS = 1 << 20  # of hints in all; what comes later goes without
# TensorProto.DataType -> name as safetensors has it, bytes of one element
TYPES = {
    1: ("F32", 4),
    2: ("U8", 1),
    3: ("I8", 1),
    4: ("U16", 2),
    5: ("I16", 2),
    6: ("I32", 4),
    7: ("I64", 8),
    9: ("BOOL", 1),
    10: ("F16", 2),
    11: ("F64", 8),
    12: ("U32", 4),
    13: ("U64", 8),
    16: ("BF16", 2),
    17: ("F8_E4M3", 1),
    19: ("F8_E5M2", 1),
}
DIMS, DATA_TYPE, FLOAT_DATA, NAME, RAW_DATA, DOUBLE_DATA, EXTERNAL, LOCATION = 1, 2, 4, 8, 9, 10, 13, 14  # of TensorProto


@dataclass
class _Initializer:
    """What its fields say, as they come."""

    name: str = ""
    kind: int = 0
    shape: list[int] = field(default_factory=list)
    data: tuple[int, int] | None = None
    external: dict[str, str] = field(default_factory=dict)


def read(source: Source) -> Layout:
    """Raises Unreadable."""
    near = Nearby(source)
    graph, first = None, None
    for found in protobuf.fields(near, 0, source.size):
        first = first or found
        if found.number == GRAPH and found.wire == protobuf.BYTES:
            graph = found
    if graph is None or first is None or (first.number, first.wire) != (IR_VERSION, protobuf.VARINT):
        raise Unreadable("this is no ONNX model: it has no graph, or does not begin with its version")
    initializers, hints = [], defaultdict[str, list[str]](list)
    for found in protobuf.fields(near, graph.offset, graph.offset + graph.length):
        if found.number == INITIALIZER and found.wire == protobuf.BYTES:
            initializers.append(_initializer(near, found))
        elif found.number == NODE and found.wire == protobuf.BYTES and len(hints) < MOST_HINTS:
            _consumer(near, found, hints)
        if len(initializers) > MOST_INITIALIZERS:
            raise Unreadable(f"it has more than {MOST_INITIALIZERS} initializers")
    tensors = [tensor for each in initializers if (tensor := _tensor(each, " ".join(hints[each.name])))]
    tag = source.read(0, 1)
    broken = Piece(0, tag, bytes([tag[0] | 7]))  # no field has wire type 7
    ordered = tuple(sorted(tensors, key=lambda tensor: (tensor.file, tensor.offset)))
    return within(Layout("onnx", source.size, 0, ordered, broken))


def _consumer(source: Source, node: protobuf.Field, hints: dict[str, list[str]]) -> None:
    """What reads an initializer tells what it is for, where exporters give it a number for a name."""
    inputs, names, operator = [], [], ""
    for found in protobuf.fields(source, node.offset, node.offset + node.length):
        if found.wire != protobuf.BYTES or found.number not in {1, 3, 4}:
            continue
        said = protobuf.text(source, found)
        if found.number == 1:
            inputs.append(said)
        elif found.number == 3:
            names.append(said)
        else:
            operator = said
    for name in inputs:
        if len(hints[name]) < 4:  # what a tensor is for is told by those that read it first
            hints[name] += [*names[:1], "embedding" if operator == "Gather" else operator]


def _initializer(source: Source, message: protobuf.Field) -> _Initializer:
    made = _Initializer()
    for found in protobuf.fields(source, message.offset, message.offset + message.length):
        if found.number == DIMS:
            made.shape += protobuf.packed(source, found)
            if len(made.shape) > MOST_DIMENSIONS:
                raise BreaksOff(found.offset, f"a tensor has more than {MOST_DIMENSIONS} dimensions")
        elif found.number == DATA_TYPE and found.wire == protobuf.VARINT:
            made.kind = found.value
        elif found.number == NAME and found.wire == protobuf.BYTES:
            made.name = protobuf.text(source, found)
        elif found.number == EXTERNAL and found.wire == protobuf.BYTES:
            entry = {each.number: each for each in protobuf.fields(source, found.offset, found.offset + found.length)}
            if 1 in entry and 2 in entry:
                made.external[protobuf.text(source, entry[1])] = protobuf.text(source, entry[2])
        elif found.number in {RAW_DATA, FLOAT_DATA, DOUBLE_DATA} and found.wire == protobuf.BYTES:
            made.data = found.offset, found.length  # packed numbers are as raw ones, little-endian
    return made


def _tensor(made: _Initializer, hint: str) -> Tensor | None:
    """None where it keeps no bytes that could be found: an empty one, or whole numbers of variable length."""
    name, width = TYPES.get(made.kind, (f"type {made.kind}", 0))
    number = plain(name)
    shape = tuple(made.shape)
    if made.external:
        try:
            offset, size = int(made.external.get("offset", "0")), int(made.external.get("length", "-1"))
        except ValueError:
            raise Unreadable(f"{made.name} says where its data lies in no numbers") from None
        if size < 0:
            size = width
            for each in shape:
                size *= each
        if offset < 0:
            raise Unreadable(f"{made.name} lies at byte {offset} of its file")
        return Tensor(made.name, name, shape, offset, size, number, _beside(made), hint)
    if not made.data or not made.data[1]:
        return None
    return Tensor(made.name, name, shape, *made.data, number, hint=hint)


def _beside(made: _Initializer) -> str:
    """The external file's name. A path that leads out of the folder is refused, as onnxruntime refuses it."""
    location = posixpath.normpath(made.external.get("location", ""))
    if location in {"", "."} or posixpath.isabs(location) or location.startswith(".."):
        raise Unreadable(f"{made.name} lies in {made.external.get('location')!r}, which is no file beside the model")
    return location
