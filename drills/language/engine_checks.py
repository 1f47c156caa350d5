"""What must fit together in an engine's profile, beyond the type of each value."""

import re
from collections.abc import Mapping
from typing import Any

from .nodes import MappingNode, Node
from .problems import Report, shown
from .scenario_checks import check_name

Values = Mapping[str, Any]


def check_profile(values: Values, node: MappingNode, report: Report) -> None:
    check_name(values, node, report)
    if values.get("project") is not None and not values["project"].startswith("https://"):
        report.add(node.place("project"), f"{shown(values['project'])} is no address", "write https://...")


def check_recognition(values: Values, node: MappingNode, report: Report) -> None:
    check_source(values, node, report)
    _pattern(values.get("command_line"), node.place("command_line"), report)
    if node.get("command_line") is None and node.get("answers") is None:
        report.add(node, "nothing tells this engine from others", "add `command_line:` or `answers:`")


def check_trait(values: Values, node: MappingNode, report: Report) -> None:
    _path(values, node, report)
    for key in ("text", "server"):
        _pattern(values.get(key), node.place(key), report)
    if node.get("text") is None and node.get("server") is None:
        report.add(node, "every answer would do", "add `text:` or `server:`, a regular expression")


def check_role(values: Values, node: MappingNode, report: Report) -> None:
    check_source(values, node, report)
    _pattern(values.get("command_line"), node.place("command_line"), report)


def check_health(values: Values, node: MappingNode, report: Report) -> None:
    check_source(values, node, report)
    _path(values, node, report)


def check_source(values: Values, node: MappingNode, report: Report) -> None:
    """A fact that nobody can look up is none."""
    if values.get("source", "x").strip() == "":
        report.add(
            node.place("source"), "`source` is empty", "name a file or page of the project with its version, or a test here"
        )


def _path(values: Values, node: MappingNode, report: Report) -> None:
    if not values.get("path", "/").startswith("/"):
        report.add(node.place("path"), f"{shown(values['path'])} is no path", "start it with `/`")


def _pattern(text: str | None, place: Node, report: Report) -> None:
    try:
        re.compile(text or "")
    except (re.error, RecursionError, OverflowError) as error:
        report.add(place, f"{shown(text or '')} is no regular expression ({error})", "escape special characters with a backslash")
