"""From the bytes of a file to a tree with places, strictly: what YAML leaves to guesswork is an error here.

libyaml delivers the events; the tree is built here, so that a file can be given up as soon as it is too deep or too large,
before it has cost time or memory.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import yaml

from .nodes import MappingNode, Node, NotANumber, ScalarNode, SequenceNode, core
from .problems import START, Located, Place, Report, shown
from .yaml_errors import explained

LARGEST_FILE = 4_000_000  # bytes
DEEPEST = 50
MOST_VALUES = 60_000  # anchors expanded

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class _Frame:
    """A collection that is being read, and the key that waits for its value."""

    __slots__ = ("anchor", "before", "key", "node")

    def __init__(self, node: MappingNode | SequenceNode, anchor: str | None, before: int) -> None:
        self.node = node
        self.anchor = anchor
        self.before = before
        self.key: ScalarNode | None = None


class _Builder:
    """Takes events, gives a tree. `total` counts values as if every anchor were written out."""

    def __init__(self, report: Report, line: int | None) -> None:
        self.report = report
        self.line = line  # where everything stands that comes from one `--set`
        self.root: Node | None = None
        self.documents = 0
        self.total = 0
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Node, int] | None] = {}  # None: still open
        self.take = {
            yaml.ScalarEvent: self.scalar,
            yaml.MappingStartEvent: self.begin,
            yaml.SequenceStartEvent: self.begin,
            yaml.MappingEndEvent: self.end,
            yaml.SequenceEndEvent: self.end,
            yaml.AliasEvent: self.alias,
            yaml.DocumentStartEvent: self.document,
        }

    def place(self, event: Any) -> Place:
        if self.line is not None:
            return Place(self.line, 0)
        return Place(event.start_mark.line + 1, event.start_mark.column + 1)

    def document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            raise self.report.fail(self.place(event), "a second document starts here", "keep one document in a file")
        if event.version and tuple(event.version) != (1, 2):
            self.report.add(START, "files are YAML 1.2", "remove the %YAML line")

    def count(self, event: Any, size: int) -> None:
        self.total += size
        if self.total > MOST_VALUES:
            if size > 1 or self.anchors:
                what, todo = f"its anchors expand to more than {MOST_VALUES} values", "use fewer aliases (`*name`)"
            else:
                what, todo = f"more than {MOST_VALUES} values in one file", "split it into several files"
            raise self.report.fail(self.place(event), what, todo)

    def scalar(self, event: Any) -> None:
        mark = event.start_mark
        if self.line is None:
            node = ScalarNode(event.value, event.implicit[0], mark.line + 1, mark.column + 1)
        else:
            node = ScalarNode(event.value, event.implicit[0], self.line, 0)
        self.count(event, 1)
        if event.tag is not None:
            self.tagged(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, 1)
        self.put(node)

    def tagged(self, event: Any) -> None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        self.report.add(self.place(event), f"the tag {shown(tag)}", "remove it; quotes make text of a number")

    def begin(self, event: Any) -> None:
        place = self.place(event)
        if len(self.stack) == DEEPEST:
            raise self.report.fail(place, f"more than {DEEPEST} levels deep", "flatten it")
        if event.tag is not None:
            self.tagged(event)
        kind = MappingNode if isinstance(event, yaml.MappingStartEvent) else SequenceNode
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.stack.append(_Frame(kind(place.line, place.column), event.anchor, self.total))
        self.count(event, 1)

    def end(self, _event: Any) -> None:
        frame = self.stack.pop()
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (frame.node, self.total - frame.before)
        self.put(frame.node)

    def alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            raise self.report.fail(self.place(event), f"no anchor `&{event.anchor}` stands above", "write the value out")
        known = self.anchors[event.anchor]
        if known is None:
            raise self.report.fail(self.place(event), f"`*{event.anchor}` contains itself", "write the value out")
        self.count(event, known[1])
        self.put(known[0])

    def put(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        if isinstance(frame.node, SequenceNode):
            frame.node.items.append(node)
        elif frame.key is None:
            frame.key = self.key(node)
        else:
            self.entry(frame.node, frame.key, node)
            frame.key = None

    def key(self, node: Node) -> ScalarNode:
        if not isinstance(node, ScalarNode):
            raise self.report.fail(node, "a key that is not a word", "start the mapping's keys with a word, or quote `{...}`")
        if node.plain and not _is_text(node.text):
            self.report.add(node, f"the key {shown(node.text)} is not text", f'write it in quotes: "{node.text[:40]}"')
        return node

    def entry(self, mapping: MappingNode, key: ScalarNode, node: Node) -> None:
        if key.text == "<<" and key.plain:
            self.report.add(key, "merge keys (`<<`) are not part of YAML 1.2", "write the keys out")
        elif key.text in mapping.entries:
            first = mapping.entries[key.text][0]
            self.report.add(key, f"{shown(key.text)} is given twice, first on line {first.line}", "keep one of them")
        else:
            mapping.entries[key.text] = (key, node)


def _is_text(plain: str) -> bool:
    try:
        return isinstance(core(plain), str)
    except NotANumber:
        return False


class _Parser(Protocol):
    def get_event(self) -> Any: ...


@cache
def _parser_class() -> Any:
    """The parser of libyaml, 12 times faster than the one in Python, which steps in where PyYAML was built without it."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_bytes(path: Path, report: Report) -> bytes:
    """The content of a file, or Unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise report.fail(START, f"cannot be read: {error.strerror}", "check the path") from error
    if len(data) > LARGEST_FILE:
        raise report.fail(START, f"larger than {LARGEST_FILE // 1_000_000} MB", "split it; a scenario has some kilobytes")
    return data


def tree(data: bytes, report: Report, line: int | None = None) -> Node:
    """The tree of one YAML document; `line` is the place of everything in it where it does not come from a file.

    Raises Unreadable, with the reason in the report, when there is no tree to go on with.
    """
    _check_text(data, report)
    parser: _Parser = _parser_class()(data)
    builder = _Builder(report, line)
    try:
        while True:
            event = parser.get_event()
            take = builder.take.get(type(event))
            if take is not None:
                take(event)
            elif type(event) is yaml.StreamEndEvent:
                break
    except yaml.YAMLError as error:
        place, what, todo = explained(error, data.decode())
        raise report.fail(place if line is None else Place(line, 0), what, todo) from error
    if builder.root is None:
        raise report.fail(START, "the file is empty", "`blackstart init` writes one to start from")
    return builder.root


def _check_text(data: bytes, report: Report) -> None:
    if data.startswith(_UTF8_MARK):
        raise report.fail(START, "starts with a byte order mark", "save it as UTF-8 without BOM")
    if data.startswith(_UTF16_MARKS):
        raise report.fail(START, "is UTF-16", "save it as UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        byte = f"byte 0x{data[error.start]:02x}"
        raise report.fail(_place_after(before), f"is not UTF-8 ({byte})", "save it as UTF-8") from error
    found = _FORBIDDEN.search(text)
    if found:
        place = _place_after(text[: found.start()])
        what = f"the control character U+{ord(found[0]):04X}"
        raise report.fail(place, what, 'remove it, or write it as an escape in double quotes ("\\x..")')


def _place_after(text: str) -> Located:
    lines = text.rsplit("\n", 1)
    return Place(text.count("\n") + 1, len(lines[-1]) + 1)
