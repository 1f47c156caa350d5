"""What a frozen dataclass says about the YAML that it is read from.

One description serves the decoder, the writer, the JSON Schema and `explain`, so that none of them can know a field that the
others do not. In an annotation `Annotated[T, "doc"]` the string is the field's documentation, a `range` the whole numbers
that are allowed, a OneOf the words, and a type (Share, timedelta) what a Bound's limit is. A trailing underscore of a field's name is dropped
in YAML; `metadata={"yaml": False}` keeps a field out of it.
"""

import dataclasses
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ...injectors.values import OneOf, Rate, Share, Size
from ..scenario import Bound, Condition
from .comparisons import BOUNDS, CONDITION
from .quantities import DURATION, RATE, SHARE, SIZE, Quantity


@dataclass(frozen=True)
class Text:
    """str."""


@dataclass(frozen=True)
class File:
    """Path."""


@dataclass(frozen=True)
class Whole:
    """int, where given within `allowed`."""

    allowed: range | None = None


@dataclass(frozen=True)
class Decimal:
    """float."""


@dataclass(frozen=True)
class Flag:
    """bool."""


@dataclass(frozen=True)
class Anything:
    """Any JSON value."""


@dataclass(frozen=True)
class Choice:
    """One of some words; see OneOf for those that a text of the user's may follow."""

    words: tuple[str, ...]

    @property
    def plain(self) -> tuple[str, ...]:
        """The words by themselves."""
        return tuple(word.partition("[")[0] for word in self.words)

    @property
    def pattern(self) -> str | None:
        """A regular expression of words with a text after them, valid in Python and ECMAScript; None where there is no such word."""
        longer = [re.escape(word.partition("[")[0]).replace(r"\-", "-") for word in self.words if "[" in word]
        return f"(?:{'|'.join(longer)}):.+" if longer else None

    def allows(self, value: Any) -> bool:
        """Whether this may be written."""
        if value in self.plain:
            return True
        return self.pattern is not None and isinstance(value, str) and re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True)
class Maybe:
    """The inner shape, or nothing (`null`)."""

    inner: "Shape"


@dataclass(frozen=True)
class Many:
    """A list: tuple[T, ...]."""

    inner: "Shape"


@dataclass(frozen=True)
class Table:
    """A mapping with free keys: dict[str, T]."""

    inner: "Shape"


@dataclass(frozen=True)
class Field:
    """One key of a record. `name` is the attribute, `key` what YAML calls it."""

    name: str
    key: str
    shape: "Shape"
    doc: str
    required: bool
    default: Any  # None where `required`


@dataclass(frozen=True, eq=False)
class Record:
    """A mapping with known keys, read into a dataclass."""

    type: type
    fields: Mapping[str, Field]  # by key


Shape = Text | File | Whole | Decimal | Flag | Anything | Choice | Maybe | Many | Table | Record | Quantity

_SIMPLE: dict[Any, Shape] = {
    str: Text(),
    int: Whole(),
    float: Decimal(),
    bool: Flag(),
    Path: File(),
    Any: Anything(),
    timedelta: DURATION,
    Size: SIZE,
    Share: SHARE,
    Rate: RATE,
    Condition: CONDITION,
}


@cache
def record(cls: type) -> Record:
    """The shape of a dataclass. Raises TypeError for a type that YAML has no way to write: a mistake of the class's author."""
    hints = get_type_hints(cls, include_extras=True)
    fields = [_field(cls, field, hints[field.name]) for field in dataclasses.fields(cls) if field.metadata.get("yaml", True)]
    return Record(cls, {field.key: field for field in fields})


def _field(cls: type, field: "dataclasses.Field[Any]", hint: Any) -> Field:
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    try:
        shape = shape_of(hint)
    except TypeError as error:
        raise TypeError(f"{cls.__qualname__}.{field.name}: {error}") from None
    default = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    doc = next((note for note in notes if isinstance(note, str)), "")
    required = default is MISSING
    return Field(field.name, field.name.rstrip("_"), shape, doc, required, None if required else default)


def shape_of(hint: Any, notes: tuple[Any, ...] = ()) -> Shape:
    """The shape of one annotation; `notes` is what `Annotated` adds to it."""
    if get_origin(hint) is not None:
        return _generic(hint, notes)
    if hint is int:
        return Whole(next((note for note in notes if isinstance(note, range)), None))
    if hint is Bound:
        return BOUNDS[next((note for note in notes if note in BOUNDS), Share)]
    if hint is str and (choice := next((note for note in notes if isinstance(note, OneOf)), None)):
        return Choice(choice.words)
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return record(hint)
    raise TypeError(f"the scenario language has no way to write {hint}")


def _generic(hint: Any, notes: tuple[Any, ...]) -> Shape:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return shape_of(arguments[0], hint.__metadata__ + notes)
    if origin in {Union, types.UnionType} and type(None) in arguments and len(arguments) == 2:
        return Maybe(shape_of(next(argument for argument in arguments if argument is not type(None)), notes))
    if origin is Literal and all(isinstance(word, str) for word in arguments):
        return Choice(arguments)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return Many(shape_of(arguments[0], notes))
    if origin is dict and arguments[0] is str:
        return Table(shape_of(arguments[1], notes))
    raise TypeError(f"the scenario language has no way to write {hint}")


def unwrapped(shape: Shape) -> Shape:
    """Without Maybe: what is written when something is written."""
    return shape.inner if isinstance(shape, Maybe) else shape
