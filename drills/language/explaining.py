"""One field of a file in words: `objectives.rto`, `service:process.components[].port`, `replica-kill.target.count`."""

from dataclasses import dataclass
from typing import Any

from ...injectors.base import Injector
from ..scenario import Fault, Scenario
from ..service import Service
from .documents import document
from .faults import Kinds, keys_of, parameters_of
from .names import instead_of_key, listed
from .problems import START, Report, shown
from .quantities import Quantity
from .shapes import Anything, Choice, Decimal, Field, File, Flag, Many, Maybe, Record, Shape, Table, Text, Whole, unwrapped
from .writing import written_default

_SIMPLE = {
    Text: ("text", '"..."'),
    File: ("a path; a relative one starts at the file's folder", "run/service.pid"),
    Whole: ("a whole number", "1"),
    Decimal: ("a number", "0.5"),
    Flag: ("true or false", "true"),
    Anything: ("any JSON value", "{key: value}"),
}


def explanation(path: str, kinds: Kinds, report: Report) -> str:
    """Type, default, documentation and an example; for a mapping also its keys. A wrong path goes into the report."""
    field, shown_path, kind = _root(path, kinds)
    for step in [part for part in shown_path.replace("[]", "").split(".") if part]:
        inner = _opened(field.shape)
        keys = dict(keys_of(kinds[kind])) if isinstance(inner, Record) and inner.type is Fault and kind else None
        if keys is None:
            keys = dict(inner.fields) if isinstance(inner, Record) else {}
        if isinstance(inner, Table):
            field = Field(step, step, inner.inner, field.doc, False, None)
        elif step in keys:
            field = keys[step]
        else:
            own = _own_keys(step, kinds) if isinstance(inner, Record) and inner.type is Fault else ""
            todo = own or instead_of_key(step, keys, (), {})
            report.add(START, f"{shown(path)} is not part of a file: no {shown(step)} here", todo)
            return ""
    return _described(path, field, kinds, kind)


def _own_keys(key: str, kinds: Kinds) -> str:
    """What to ask for a key that only faults of some kinds have, as `KIND.KEY`; empty: none has it."""
    own = [f"{kind}.{key}" for kind in kinds if key in parameters_of(kinds[kind]).fields]
    return f"it is a key of {'one kind' if len(own) == 1 else 'some kinds'} of fault: {listed(own)}" if own else ""


def _root(path: str, kinds: Kinds) -> tuple[Field, str, str]:
    """Where a path starts: a service file, a kind of fault, or a scenario; a path that only a service has needs no prefix."""
    prefix, found, rest = path.partition(":")
    if found and prefix in {"scenario", "service"}:
        return _whole_file(Scenario if prefix == "scenario" else Service), rest, ""
    first, _, below = path.partition(".")
    if first in kinds:
        faults = document(Scenario).fields["faults"]
        return Field("faults", first, _opened(faults.shape), kinds[first].summary, True, None), below, first
    key = first.removesuffix("[]")
    only_service = key in document(Service).fields and key not in document(Scenario).fields
    return _whole_file(Service if only_service else Scenario), path, ""


def _whole_file(cls: type) -> Field:
    return Field("", "", document(cls), " ".join((cls.__doc__ or "").split()), True, None)


def _opened(shape: Shape) -> Shape:
    """What a path goes on in: the entries of a list, the inside of an optional value."""
    shape = unwrapped(shape)
    while isinstance(shape, Many):
        shape = unwrapped(shape.inner)
    return shape


@dataclass(frozen=True)
class KeyInWords:
    """A key of a fault, for a page about its kind. `units`: those of a quantity, with its limits; `own`: other kinds need not have it."""

    key: str
    type: str
    default: str
    doc: str
    own: bool
    units: str


def keys_in_words(injector: type[Injector]) -> tuple[KeyInWords, ...]:
    """Every key of a fault of this kind, its own parameters first."""
    own = parameters_of(injector).fields
    everything = {**own, **keys_of(injector)}
    if injector.instant:
        del everything["for"]  # there is nothing to hold, and the loader refuses it
    if injector.longest is not None:
        del everything["deadline"]  # it is `for`
    needed = {key for key, field in everything.items() if field.required} | ({"for"} if injector.longest is not None else set())
    return tuple(
        KeyInWords(
            key,
            _in_short(field.shape),
            "needed" if key in needed else _given(field),
            field.doc,
            key in own,
            _units(field.shape),
        )
        for key, field in everything.items()
    )


def _in_short(shape: Shape) -> str:
    inner = unwrapped(shape)
    if isinstance(inner, Record):
        return f"a mapping of {', '.join(inner.fields)}"
    if isinstance(inner, Quantity):
        return f"{inner.name}, e.g. {inner.example}"
    return f"a list of: {_in_short(inner.inner)}" if isinstance(inner, Many) else _type_of(inner)[0].replace("`", "")


def _units(shape: Shape) -> str:
    inner = _opened(shape)
    return inner.units if isinstance(inner, Quantity) else ""


def _given(field: Field) -> str:
    default = _default(field)
    return "may be left out" if default.startswith("none") else f"default {default}"


def _described(path: str, field: Field, kinds: Kinds, kind: str) -> str:
    name, example = _type_of(field.shape)
    inner = _opened(field.shape)
    lines = [path, f"  {field.doc}" if field.doc else "", f"  type:     {name}"]
    lines.append("  needed:   yes" if field.required else f"  default:  {_default(field)}")
    if isinstance(inner, Record):
        keys = keys_of(kinds[kind]) if inner.type is Fault and kind else inner.fields
        lines.append(f"  keys:     {listed(keys)}")
        if inner.type is Fault and not kind and kinds:
            lines.append(f"  kinds:    {listed(kinds)}; `KIND.KEY` explains a key of one kind")
    else:
        lines.append(f"  example:  {field.key}: {example}")
    return "\n".join(line for line in lines if line)


def _default(field: Field) -> str:
    written: Any = written_default(field)
    if written in (None, {}, [], ""):
        return "none; may be left out"
    return "true" if written is True else "false" if written is False else str(written)


def _type_of(shape: Shape) -> tuple[str, str]:  # noqa: PLR0911 - one answer for each shape
    """What a value is called, with its units, and an example of it."""
    if isinstance(shape, Maybe):
        return _type_of(shape.inner)
    if isinstance(shape, Quantity):
        quotes = '"' if shape.example[0] in "<>" else ""
        return f"{shape.name} ({shape.units})", f"{quotes}{shape.example}{quotes}"
    if isinstance(shape, Choice):
        return f"one of {listed(shape.words)}", shape.plain[0]
    if isinstance(shape, Many):
        name, example = _type_of(shape.inner)
        return f"a list; each entry: {name}", f"[{example}]"
    if isinstance(shape, Table):
        name, example = _type_of(shape.inner)
        return f"a mapping from names to: {name}", f"{{name: {example}}}"
    if isinstance(shape, Record):
        return "a mapping", "{...}"
    if isinstance(shape, Whole) and shape.allowed is not None:
        end = f" to {shape.allowed.stop - 1}" if shape.allowed.stop < 2**62 else " or more"
        return f"a whole number, {shape.allowed.start}{end}", str(max(1, shape.allowed.start))
    return _SIMPLE[type(shape)]
