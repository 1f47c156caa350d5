"""What a golden question of protocol kserve-v2 must have: tensors as the Open Inference Protocol writes them.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md (Inference Request JSON Object, Tensor Data Types).
"""

import math
from typing import Any, Final, TypeGuard

from .nodes import MappingNode, Node, NotANumber, ScalarNode, SequenceNode
from .problems import Report, shown

KEYS: Final = {"inputs": ("name", "shape", "datatype", "data", "parameters"), "outputs": ("name", "data", "shape", "tolerance")}
NEEDED: Final = {"inputs": ("name", "shape", "datatype", "data"), "outputs": ("name", "data")}
WHOLE: Final = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
DATATYPES: Final = ("BOOL", *WHOLE, "FP16", "BF16", "FP32", "FP64", "BYTES")
NUMBERS: Final = {"BOOL": bool, "BYTES": str, **dict.fromkeys(WHOLE, int)}


def check_tensors(question: MappingNode, report: Report) -> None:
    for side, allowed in KEYS.items():
        tensors = question.get(side)
        for tensor in tensors.items if isinstance(tensors, SequenceNode) else []:
            if not isinstance(tensor, MappingNode):
                report.add(tensor, "a tensor that is no mapping", f"write it with keys: {', '.join(allowed)}")
                continue
            for name, (place, _) in tensor.entries.items():
                if name not in allowed:
                    report.add(place, f"unknown key {shown(name)} in a tensor", f"known here: {', '.join(allowed)}")
            for name in NEEDED[side]:
                if name not in tensor.entries:
                    report.add(tensor, f"`{name}` is missing in a tensor of `{side}`", f"add `{name}:`")
            _whole(tensor, report)
            if side == "outputs":
                _comparable(tensor, report)


def check_tolerance(node: MappingNode, report: Report) -> None:
    """Below zero, or not a number, nothing would ever be right; that it is a number at all is looked at elsewhere."""
    place = node.get("tolerance")
    value = _value(place) if place is not None else None
    if place is not None and _is_number(value) and not 0 <= value < math.inf:
        report.add(
            place, f"`tolerance` is {shown(str(value))}, which no answer is within", "write 0 or more, e.g. `tolerance: 0.01`"
        )


def _comparable(tensor: MappingNode, report: Report) -> None:
    """An output has no datatype: what it is compared as is told by its values, and by a tolerance."""
    check_tolerance(tensor, report)
    data, tolerance = tensor.get("data"), tensor.get("tolerance")
    if tolerance is not None and not _is_number(_value(tolerance)):
        report.add(tolerance, "`tolerance` is no number", "write e.g. `tolerance: 0.01`")
    nodes = _flat(data) if data is not None else []
    values = [_value(node) for node in nodes]
    numeric = tolerance is not None or any(_is_number(value) for value in values)
    for node, value in zip(nodes, values, strict=True):
        if not isinstance(value, (int, float, str)):
            report.add(node, "an entry of `data` that is neither number, text, true nor false", "write what the server answers")
            return
        if numeric and not _is_number(value):
            what = f"{shown(str(value))} in an output of numbers"
            report.add(node, what, "write a number, without quotes; for an output of text, text alone and no tolerance")
            return


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(tensor: MappingNode, report: Report) -> None:
    """Whether data, shape and datatype fit together, as far as each is there and can be read."""
    data, datatype = tensor.get("data"), tensor.get("datatype")
    values = _flat(data) if data is not None else None
    if isinstance(datatype, ScalarNode):
        if datatype.text not in DATATYPES:
            report.add(datatype, f"{shown(datatype.text)} is no datatype", f"write one of {', '.join(DATATYPES)}")
        elif values is not None:
            _typed(datatype.text, values, report)
    shape = tensor.get("shape")
    if shape is None:
        return
    sizes = [_value(item) for item in shape.items] if isinstance(shape, SequenceNode) else [None]
    whole = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and size >= 0]
    if len(whole) < len(sizes):
        report.add(shape, "`shape` is no list of whole numbers", "write every size, e.g. `shape: [1, 4]`")
    elif values is not None and len(values) != math.prod(whole):
        report.add(shape, f"a shape of {math.prod(whole)} values, and `data` has {len(values)}", "correct one of the two")


def _flat(node: Node) -> list[Node]:
    return [value for item in node.items for value in _flat(item)] if isinstance(node, SequenceNode) else [node]


def _typed(datatype: str, values: list[Node], report: Report) -> None:
    """The first value that cannot be of that type; one is enough, since the others are wrong for the same reason."""
    wanted = NUMBERS.get(datatype, (int, float))
    for node in values:
        value = _value(node)
        if not isinstance(value, wanted) or (isinstance(value, bool) and datatype != "BOOL"):
            text = node.text if isinstance(node, ScalarNode) else "..."
            report.add(node, f"{shown(text)} is no {datatype}", "correct the value, or the datatype")
            return


def _value(node: Node) -> Any:
    try:
        return node.value() if isinstance(node, ScalarNode) else None
    except NotANumber:
        return None
