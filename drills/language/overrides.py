"""`--set PATH=VALUE`: values that replace those of a file, before anything is read from it."""

import re
from typing import Final

from .nodes import MappingNode, Node, ScalarNode, SequenceNode, describe
from .problems import Place, Report, Unreadable, shown
from .reading import tree

_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]*)|\[([0-9]{1,6})\]")
_COLLECTION: Final = ("[", "{", '"', "'")


def path_of(setting: str) -> str:
    return setting.partition("=")[0].strip()


def apply(root: MappingNode, settings: tuple[str, ...], report: Report) -> MappingNode:
    """The tree with every setting in it; the tree that is given stays as it is. What cannot be set is reported."""
    for number, setting in enumerate(settings, start=1):
        path, found, text = setting.partition("=")
        place = Place(-number, 0)
        steps = _steps(path.strip())
        if not found or not steps:
            report.add(place, "no `PATH=VALUE`", "write e.g. `--set faults[0].at=2s`")
            continue
        try:
            changed = _replaced(root, steps, _value(text.strip(), report, place), report)
        except Unreadable:
            continue
        assert isinstance(changed, MappingNode)  # no step leads to the root itself
        root = changed
    return root


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if not match or (match[1] and bool(steps) != path.startswith(".", position)):
            return []
        steps.append(match[1] or int(match[2]))
        position = match.end()
    return steps


def _value(text: str, report: Report, place: Place) -> Node:
    """Lists, mappings and quoted text are YAML; anything else is one plain value, so that `>= 99%` needs no quotes."""
    if text.startswith(_COLLECTION):
        return tree(text.encode(errors="surrogateescape"), report, place.line)
    return ScalarNode(text, True, place.line, 0)


def _replaced(node: Node | None, steps: list[str | int], value: Node, report: Report) -> Node:
    """A copy of the node with the value at the end of the steps. Only the way there is copied: anchors share the rest."""
    if not steps:
        return value
    step = steps[0]
    if isinstance(step, int):
        if not isinstance(node, SequenceNode) or step >= len(node.items):
            there = f"a list of {len(node.items)}" if isinstance(node, SequenceNode) else "no list"
            raise report.fail(value, f"`[{step}]` of {there}", "count from 0; a list is set as a whole: `names=[a, b]`")
        items = SequenceNode(node.line, node.column)
        items.items = list(node.items)
        items.items[step] = _replaced(node.items[step], steps[1:], value, report)
        return items
    if node is not None and not isinstance(node, MappingNode):
        raise report.fail(
            value, f"{shown(step)} is set in {describe(node)}, which has no keys", "`blackstart schema` has all paths"
        )
    copy = MappingNode(value.line, 0) if node is None else MappingNode(node.line, node.column)
    copy.entries = dict(node.entries) if node is not None else {}
    key, below = copy.entries.get(step, (ScalarNode(step, False, value.line, 0), None))
    copy.entries[step] = (key, _replaced(below, steps[1:], value, report))
    return copy
