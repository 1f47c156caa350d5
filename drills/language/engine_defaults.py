"""What an engine's profile supplies where a service file leaves it out, put into the tree before anything is read from it.

So it is read, checked and told like what the file says itself; what the file says wins.
"""

from typing import Any

from ..engine_profile import EngineProfile
from .nodes import MappingNode, Node, ScalarNode, node_of


def completed(root: MappingNode, profile: EngineProfile) -> MappingNode:
    """The tree of a service file with the profile's facts in it; the tree that is given stays as it is."""
    place = root.place("engine")
    endpoint = root.get("endpoint")
    model = endpoint.get("model") if isinstance(endpoint, MappingNode) else None
    found = _with(root, "endpoint", {"protocol": profile.protocol}, place)
    found = _with(found, "model", {"load": profile.model.load}, place)
    if "health" not in found.entries:
        found = _added(found, {"health": list(profile.health_paths(_text(model)))}, place)
    patterns = {role: each.command_line for role, each in profile.roles.items()}
    if not patterns:
        return found
    if isinstance(process := found.get("process"), MappingNode):
        inside = _with(_added(process, {"inside": {}}, place), "inside", patterns, place)
        return _put(found, "process", inside)
    return _with(
        _added(found, {"roles": {}}, place), "roles", {role: {"command_line": each} for role, each in patterns.items()}, place
    )


def _text(node: Node | None) -> str | None:
    return node.text if isinstance(node, ScalarNode) else None


def _with(root: MappingNode, key: str, values: dict[str, Any], place: Node) -> MappingNode:
    """With those of the values that the mapping under that key lacks; where there is no such mapping, nothing is added."""
    inner = root.get(key)
    return _put(root, key, _added(inner, values, place)) if isinstance(inner, MappingNode) else root


def _put(root: MappingNode, key: str, node: Node) -> MappingNode:
    changed = MappingNode(root.line, root.column)
    changed.entries = {**root.entries, key: (root.entries[key][0], node)}
    return changed


def _added(node: MappingNode, values: dict[str, Any], place: Node) -> MappingNode:
    """A copy of the mapping: anchors may share it with others."""
    supplied = node_of(values, place.line, place.column)
    assert isinstance(supplied, MappingNode)
    changed = MappingNode(node.line, node.column)
    changed.entries = {**supplied.entries, **node.entries}
    return changed
