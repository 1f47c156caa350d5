"""From a tree with places to typed values, with every error in the report."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .names import instead_of_key, listed, nearest
from .nodes import MappingNode, Node, NotANumber, ScalarNode, SequenceNode, describe
from .problems import Report, shown
from .quantities import Quantity
from .shapes import Anything, Choice, Decimal, Field, File, Flag, Many, Maybe, Record, Shape, Table, Text, Whole

LARGEST_WHOLE = 2**63 - 1
LONGEST_QUANTITY = 100  # characters; none that is valid is longer, and the search for what was meant takes time


class _Bad:
    """Stands for a value that could not be read; what is wrong with it is in the report."""


BAD: Any = _Bad()

Check = Callable[[Mapping[str, Any], MappingNode, Report], None]
Special = Callable[["Decoder", Node, str], Any]


class Decoder:
    """Reads one file. `base`: what relative paths of the file start from; None leaves them as written.

    `checks` looks at a record's fields together, before it becomes a value; fields that could not be read are missing from what a
    check gets. `special` reads the records that a description of fields cannot describe.
    """

    def __init__(self, report: Report, checks: Mapping[type, Check], special: Mapping[type, Special]) -> None:
        self.report = report
        self.checks = checks
        self.special = special
        self.base: Path | None = None
        self.elsewhere: dict[str, str] = {}
        self._read: dict[type, Callable[[Any, Node, str], Any]] = {
            Text: self._text,
            File: self._file,
            Whole: self._whole,
            Decimal: self._decimal,
            Flag: self._flag,
            Anything: self._anything,
            Choice: self._choice,
            Maybe: self._maybe,
            Many: self._many,
            Table: self._table,
            Record: self._record,
            Quantity: self._quantity,
        }

    def decode(self, shape: Shape, node: Node, label: str) -> Any:
        """The value, or BAD. `label` is what messages call it: the key it stands under."""
        return self._read[type(shape)](shape, node, label)

    def bad(self, node: Node, what: str, todo: str) -> Any:
        self.report.add(node, what, todo)
        return BAD

    # Scalars

    def _scalar(self, node: Node, label: str, wanted: str, example: str) -> Any:
        """The node's value by YAML's own rules, or BAD where there is none."""
        if isinstance(node, ScalarNode):
            try:
                value = node.value()
            except NotANumber:
                return self.bad(node, f"`{label}` is {shown(node.text)}, a number that cannot be used", f"write {wanted}")
            if value is not None:
                return value
            return self.bad(node, f"`{label}` is empty", f"write {wanted}, e.g. `{label}: {example}`")
        return self.bad(node, f"`{label}` is {describe(node)}", f"write {wanted}, e.g. `{label}: {example}`")

    def _text(self, _shape: Text, node: Node, label: str) -> Any:
        if isinstance(node, ScalarNode) and not node.plain:
            return node.text
        value = self._scalar(node, label, "text", '"..."')
        if isinstance(value, str) or value is BAD:
            return value
        return self.bad(node, f"`{label}` is {describe(node)} ({shown(_text_of(node))})", f'quote it: "{_text_of(node)[:40]}"')

    def _file(self, shape: File, node: Node, label: str) -> Any:
        del shape
        value = self._text(Text(), node, label)
        if value is BAD:
            return BAD
        if not value:
            return self.bad(node, f"`{label}` is an empty path", "write a path, or leave it out")
        return self.base / value if self.base else Path(value)

    def _whole(self, shape: Whole, node: Node, label: str) -> Any:
        value = self._scalar(node, label, "a whole number", "1")
        if value is BAD:
            return BAD
        text = shown(_text_of(node))
        if isinstance(value, bool) or not isinstance(value, int):
            quoted = isinstance(node, ScalarNode) and not node.plain and node.text.isdigit()
            todo = "write it without quotes" if quoted else f"write a plain number without a unit, e.g. `{label}: 1`"
            return self.bad(node, f"`{label}` is {text}, not a whole number", todo)
        allowed = shape.allowed
        if allowed is not None and value not in allowed:
            end = f" to {allowed.stop - 1}" if allowed.stop <= LARGEST_WHOLE else " or more"
            return self.bad(node, f"`{label}` is {text}, out of range", f"write {allowed.start}{end}")
        return (
            value
            if abs(value) <= LARGEST_WHOLE
            else self.bad(node, f"`{label}` is {text}, out of range", "write a smaller number")
        )

    def _decimal(self, shape: Decimal, node: Node, label: str) -> Any:
        del shape
        value = self._scalar(node, label, "a number", "0.5")
        if value is BAD:
            return BAD
        if isinstance(value, bool | str):
            return self.bad(
                node, f"`{label}` is {shown(_text_of(node))}, not a number", f"write a plain number, e.g. `{label}: 0.5`"
            )
        return float(value)

    def _flag(self, shape: Flag, node: Node, label: str) -> Any:
        del shape
        value = self._scalar(node, label, "true or false", "true")
        if isinstance(value, bool) or value is BAD:
            return value
        word = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}.get(str(value).lower())
        todo = f"write `{word}`: YAML 1.2 takes this for text" if word else "write `true` or `false`"
        return self.bad(node, f"`{label}` is {shown(_text_of(node))}, neither true nor false", todo)

    def _choice(self, shape: Choice, node: Node, label: str) -> Any:
        value = self._scalar(node, label, "one of " + listed(shape.words), shape.plain[0])
        if value is BAD or shape.allows(value):
            return value
        near = nearest(_text_of(node), shape.plain)
        todo = f"did you mean `{near}`?" if near else f"write one of {listed(shape.words)}"
        return self.bad(node, f"`{label}` cannot be {shown(_text_of(node))}", todo)

    def _quantity(self, shape: Quantity, node: Node, label: str) -> Any:
        if not isinstance(node, ScalarNode) or (node.plain and not node.text):
            return self._scalar(node, label, shape.name, shape.example)
        if len(node.text) > LONGEST_QUANTITY:
            return self.bad(node, f"`{label}` is {shown(node.text)}, not {shape.name}", f"write e.g. `{label}: {shape.example}`")
        try:
            return shape.parse(node.text)
        except ValueError as error:
            return self.bad(node, f"`{label}` is {shown(node.text)}, not {shape.name}", str(error))

    def _maybe(self, shape: Maybe, node: Node, label: str) -> Any:
        if isinstance(node, ScalarNode) and node.plain and node.text in {"null", "~"}:
            return None
        return self.decode(shape.inner, node, label)

    # Collections

    def _many(self, shape: Many, node: Node, label: str) -> Any:
        if not isinstance(node, SequenceNode):
            todo = "start it with `- `" if isinstance(node, MappingNode) else f"write `{label}: [...]`"
            return self.bad(node, f"`{label}` is {describe(node)}, not a list", todo)
        values = [self.decode(shape.inner, item, label) for item in node.items]
        return BAD if BAD in values else tuple(values)

    def _table(self, shape: Table, node: Node, label: str) -> Any:
        if not isinstance(node, MappingNode):
            return self.bad(node, f"`{label}` is {describe(node)}, not a mapping", f"write `{label}: {{name: value}}`")
        values = {key: self.decode(shape.inner, item, f"{label}.{key}") for key, (_, item) in node.entries.items()}
        return BAD if BAD in values.values() else values

    def _anything(self, shape: Anything, node: Node, label: str) -> Any:
        if isinstance(node, ScalarNode):
            try:
                return node.value()
            except NotANumber:
                return self.bad(node, f"{shown(node.text)} is a number that cannot be used", "write another, or quote it")
        return self._many(Many(shape), node, label) if isinstance(node, SequenceNode) else self._table(Table(shape), node, label)

    # Records

    def _record(self, shape: Record, node: Node, label: str) -> Any:
        special = self.special.get(shape.type)
        if special is not None:
            return special(self, node, label)
        if not isinstance(node, MappingNode):
            keys = listed(shape.fields)
            return self.bad(node, f"`{label}` is {describe(node)}, not a mapping", f"write it with keys: {keys}")
        self.unknown_keys(node, shape.fields, label)
        values = self.fields(shape, node, label)
        return self.built(shape, values, node)

    def unknown_keys(self, node: MappingNode, known: Mapping[str, Field], label: str) -> None:
        if node.entries.keys() <= known.keys():
            return
        for key, (place, _) in node.entries.items():
            if key not in known and not self.report.full:
                known_here = f"known here: {listed(known)}"
                todo = instead_of_key(key, known, node.entries, self.elsewhere) if self.report.suggests() else known_here
                self.report.add(place, f"unknown key {shown(key)} in `{label}`", todo)

    def fields(self, shape: Record, node: MappingNode, label: str) -> dict[str, Any]:
        """The record's values by attribute, defaults for what is left out, BAD for what could not be read."""
        values = {}
        for key, field in shape.fields.items():
            entry = node.entries.get(key)
            if entry is not None:
                values[field.name] = self.decode(field.shape, entry[1], key)
            elif field.required:
                doc = f" ({field.doc})" if field.doc else ""
                values[field.name] = self.bad(node, f"`{key}` is missing in `{label}`", f"add `{key}:`{doc}")
            else:
                values[field.name] = field.default
        return values

    def built(self, shape: Record, values: dict[str, Any], node: MappingNode) -> Any:
        good = {name: value for name, value in values.items() if value is not BAD}
        before = len(self.report.problems)
        check = self.checks.get(shape.type)
        if check is not None:
            check(good, node, self.report)
        if len(good) < len(values) or len(self.report.problems) > before:
            return BAD
        try:
            return shape.type(**values)
        except ValueError as error:
            return self.bad(node, str(error), "see `blackstart faults`")


def _text_of(node: Node) -> str:
    return node.text if isinstance(node, ScalarNode) else describe(node)
