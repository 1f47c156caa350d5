"""A fault in YAML: the keys that every fault has, and beside them the parameters of its kind."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from ...injectors.base import Injector
from ..scenario import Fault
from .decoding import BAD, Decoder
from .names import instead_of_kind
from .nodes import MappingNode, Node, NotANumber, ScalarNode, SequenceNode, describe
from .problems import Report, shown
from .shapes import Field, Record, record

Kinds = Mapping[str, type[Injector]]


@cache
def parameters_of(injector: type[Injector]) -> Record:
    """The shape of a kind's own parameters. Raises TypeError where one has the name of a key that every fault has."""
    shape = record(injector)
    taken = shape.fields.keys() & record(Fault).fields.keys()
    if taken:
        raise TypeError(f"{injector.__qualname__}: every fault has the key {', '.join(sorted(taken))}; rename the parameter")
    return shape


@cache
def keys_of(injector: type[Injector]) -> dict[str, Field]:
    """All keys of a fault of this kind, the common ones first."""
    return {**record(Fault).fields, **parameters_of(injector).fields}


class FaultReader:
    """Reads faults of these kinds; `found` has every one that could be read, with its place."""

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.found: list[tuple[Fault, MappingNode]] = []

    def __call__(self, decoder: Decoder, node: Node, label: str) -> Any:
        if not isinstance(node, MappingNode):
            example = "{kind: replica-kill, at: 0s}"
            return decoder.bad(node, f"an entry of `{label}` is {describe(node)}, not a mapping", f"write `- {example}`")
        common = record(Fault)
        injector = self._injector(decoder, node)
        if injector is None:  # which parameters there are is unknown; the common keys can still be checked
            decoder.fields(common, node, "fault")
            return BAD
        decoder.unknown_keys(node, keys_of(injector), injector.kind)
        values = decoder.fields(common, node, injector.kind)
        values["injector"] = build(decoder, injector, node)
        if values["injector"] is not BAD:
            values["parameters"] = {key: plain(node.entries[key][1]) for key in node.entries if key not in common.fields}
        fault = decoder.built(common, values, node)
        if fault is not BAD:
            self.found.append((fault, node))
        return fault

    def _injector(self, decoder: Decoder, node: MappingNode) -> type[Injector] | None:
        kind = node.get("kind")
        if kind is None or not isinstance(kind, ScalarNode):
            return None  # said when the common keys are read
        injector = self.kinds.get(kind.text)
        if injector is None and kind.text:
            todo = instead_of_kind(kind.text, self.kinds) if decoder.report.suggests() else "`blackstart faults` lists them"
            decoder.report.add(kind, f"unknown kind of fault {shown(kind.text)}", todo)
        return injector


def build(decoder: Decoder, injector: type[Injector], node: MappingNode) -> Any:
    """The injector with its parameters from this mapping, or BAD. What its own `problems()` says is reported at the
    key that it begins with.
    """
    shape = parameters_of(injector)
    value = decoder.built(shape, decoder.fields(shape, node, injector.kind), node)
    if value is BAD:
        return BAD
    problems = value.problems()
    for problem in problems:
        what, _, todo = problem.partition("; ")
        key = what.split("`")[1] if what.startswith("`") else ""
        place = node.place(key) if key in node.entries else node
        decoder.report.add(place, what, todo or f"see `blackstart faults {injector.kind}`")
    return BAD if problems else value


def plain(node: Node) -> Any:
    """The JSON value of a tree, as written: quantities stay text with their unit."""
    if isinstance(node, ScalarNode):
        try:
            return node.value()
        except NotANumber:
            return node.text
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, (_, value) in node.entries.items()}


def inject_parameters(injector: type[Injector], node: MappingNode, report: Report) -> Any:
    """An injector from a mapping that holds nothing but its parameters, as a journal keeps them."""
    decoder = Decoder(report, {}, {})
    decoder.unknown_keys(node, parameters_of(injector).fields, injector.kind)
    return build(decoder, injector, node)
