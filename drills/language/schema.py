"""JSON Schema (draft 2020-12) of the files, from the same description that reads them.

It accepts every file that the loader accepts. The loader is stricter where fields must fit together.
"""

from collections.abc import Mapping
from typing import Any

from ..scenario import Fault
from .documents import CLASSES, Wanted, document
from .faults import Kinds, keys_of
from .quantities import Quantity
from .scenario_checks import NAME_PATTERN
from .shapes import Anything, Choice, Decimal, Field, File, Flag, Many, Maybe, Record, Shape, Table, Text, Whole

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def document_schema(which: Wanted, kinds: Kinds) -> dict[str, Any]:
    cls = CLASSES[which]
    definitions: dict[str, Any] = {}
    schema = _mapping(document(cls).fields, kinds, definitions)
    schema["properties"]["name"]["pattern"] = NAME_PATTERN
    if which == "scenario":
        schema["properties"]["faults"]["minItems"] = 1
        definitions["Objectives"]["minProperties"] = 1
    title = f"blackstart {which} file"
    return {"$schema": DIALECT, "title": title, "description": _doc(cls), **schema, "$defs": dict(sorted(definitions.items()))}


def _schema(shape: Shape, kinds: Kinds, definitions: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0911 - one answer for each shape
    if isinstance(shape, Quantity):
        return {"type": "string", "pattern": f"^(?:{shape.pattern})$", "examples": [shape.example]}
    if isinstance(shape, Choice):
        known = {"enum": list(shape.plain)}
        return {"anyOf": [known, {"type": "string", "pattern": f"^{shape.pattern}$"}]} if shape.pattern else known
    if isinstance(shape, Maybe):
        return {"anyOf": [_schema(shape.inner, kinds, definitions), {"type": "null"}]}
    if isinstance(shape, Many):
        return {"type": "array", "items": _schema(shape.inner, kinds, definitions)}
    if isinstance(shape, Table):
        return {"type": "object", "additionalProperties": _schema(shape.inner, kinds, definitions)}
    if isinstance(shape, Record):
        return _reference(shape, kinds, definitions)
    if isinstance(shape, Whole) and shape.allowed is not None:
        return {"type": "integer", "minimum": shape.allowed.start, "maximum": shape.allowed.stop - 1}
    simple: dict[type, dict[str, Any]] = {
        Text: {"type": "string"},
        File: {"type": "string", "minLength": 1},
        Whole: {"type": "integer"},
        Decimal: {"type": "number"},
        Flag: {"type": "boolean"},
        Anything: {},
    }
    return dict(simple[type(shape)])


def _reference(shape: Record, kinds: Kinds, definitions: dict[str, Any]) -> dict[str, Any]:
    name = shape.type.__name__
    if name not in definitions:
        definitions[name] = {}  # before its fields, should one of them refer to it
        definitions[name] = _fault(kinds, definitions) if shape.type is Fault else _mapping(shape.fields, kinds, definitions)
        definitions[name]["description"] = _doc(shape.type)
    return {"$ref": f"#/$defs/{name}"}


def _mapping(fields: Mapping[str, Field], kinds: Kinds, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for key, field in fields.items():
        properties[key] = _schema(field.shape, kinds, definitions)
        if field.doc:
            properties[key]["description"] = field.doc
    required = [key for key, field in fields.items() if field.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _fault(kinds: Kinds, definitions: dict[str, Any]) -> dict[str, Any]:
    """One branch for each kind, chosen by `kind`, so that an editor offers the parameters of that kind alone."""
    branches = []
    for kind, injector in sorted(kinds.items()):
        definition = f"fault-{kind}"
        definitions[definition] = _mapping(keys_of(injector), kinds, definitions)
        definitions[definition]["required"] += ["for"] if injector.longest is not None else []
        definitions[definition]["properties"]["kind"] = {"const": kind, "description": injector.summary}
        condition = {"properties": {"kind": {"const": kind}}, "required": ["kind"]}
        branches.append({"if": condition, "then": {"$ref": f"#/$defs/{definition}"}})
    known: dict[str, Any] = {"type": "object", "properties": {"kind": {"enum": sorted(kinds)}}, "required": ["kind"]}
    return {**known, "allOf": branches} if branches else known


def _doc(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())
