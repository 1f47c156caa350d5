"""The tree of a YAML file, with places; and what plain scalars mean in YAML 1.2 (core schema, chapter 10.3)."""

import re
from typing import Any

LONGEST_NUMBER = 40  # digits; Python refuses to convert far longer ones

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMERIC_START = frozenset("+-.0123456789")
_BASES = {"0o": 8, "0x": 16}


class NotANumber(ValueError):
    """A scalar that YAML calls a number and JSON does not, or that is too long."""


class ScalarNode:
    """One value. `plain`: written without quotes, so that it may be a number, a truth value or nothing."""

    __slots__ = ("column", "line", "plain", "text")

    def __init__(self, text: str, plain: bool, line: int, column: int) -> None:
        self.text = text
        self.plain = plain
        self.line = line
        self.column = column

    def value(self) -> Any:
        return core(self.text) if self.plain else self.text


class SequenceNode:
    __slots__ = ("column", "items", "line")

    def __init__(self, line: int, column: int) -> None:
        self.items: list[Node] = []
        self.line = line
        self.column = column


class MappingNode:
    """`entries`: by the key's text, the key (for its place) and the value."""

    __slots__ = ("column", "entries", "line")

    def __init__(self, line: int, column: int) -> None:
        self.entries: dict[str, tuple[ScalarNode, Node]] = {}
        self.line = line
        self.column = column

    def get(self, key: str) -> "Node | None":
        entry = self.entries.get(key)
        return entry[1] if entry else None

    def place(self, *keys: str) -> "Node":
        """The value under the first of `keys` that is there, else this mapping itself."""
        return next((self.entries[key][1] for key in keys if key in self.entries), self)


Node = ScalarNode | SequenceNode | MappingNode


def core(text: str) -> Any:
    """What a plain scalar means: None, bool, int, float or str. `no`, `on`, `1:30` and `2026-01-01` are text.

    Raises NotANumber for infinities, NaN and numbers of more than 40 digits.
    """
    if text[:1] not in _NUMERIC_START:
        if text in _NULL:
            return None
        if text in _TRUE:
            return True
        return False if text in _FALSE else text
    if _INTEGER.fullmatch(text):
        if len(text) > LONGEST_NUMBER:
            raise NotANumber
        return int(text[2:], _BASES[text[:2]]) if text[:2] in _BASES else int(text)
    if _FLOAT.fullmatch(text):
        number = float(text) if len(text) <= LONGEST_NUMBER else float("inf")
        if number in {float("inf"), float("-inf")}:
            raise NotANumber
        return number
    if _NOT_JSON.fullmatch(text):
        raise NotANumber
    return text


def describe(node: Node) -> str:
    """What a node is, in the words of a message."""
    if isinstance(node, SequenceNode):
        return "a list"
    if isinstance(node, MappingNode):
        return "a mapping"
    try:
        value = node.value()
    except NotANumber:
        return "a number that cannot be used"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "a truth value"
    return "text" if isinstance(value, str) else "a number"


def node_of(value: Any, line: int, column: int) -> Node:
    """The tree of a plain JSON value, all of it at one place."""
    if isinstance(value, dict):
        mapping = MappingNode(line, column)
        for key, item in value.items():
            mapping.entries[str(key)] = (ScalarNode(str(key), False, line, column), node_of(item, line, column))
        return mapping
    if isinstance(value, list | tuple):
        sequence = SequenceNode(line, column)
        sequence.items.extend(node_of(item, line, column) for item in value)
        return sequence
    if value is None or isinstance(value, bool):
        return ScalarNode({None: "null", True: "true", False: "false"}[value], True, line, column)
    return ScalarNode(str(value), not isinstance(value, str), line, column)
