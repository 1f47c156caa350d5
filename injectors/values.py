"""Quantities that a YAML file writes with a unit, as Python types that keep the unit out of the name.

Durations are `datetime.timedelta`. The types below are plain numbers with a meaning, so that the loader knows how to read
them and arithmetic needs no unwrapping. And how many values are told in one line.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]


class Size(int):
    """Bytes, written `2GiB`, `512MiB`, `10MB` or `4096B`."""


class Share(float):
    """A part of a whole, 0 to 1, written `80%`."""


@dataclass(frozen=True)
class OneOf:
    """A note beside `str` in `Annotated`: the words that are allowed. `word[:NAME]` also allows `word:` and a text of the user's."""

    words: tuple[str, ...]


class Rate(float):
    """Events in one second, written `20/s` or `30/m`."""


def first_of(names: Iterable[object], most: int) -> str:
    """The first of many, and how many there are besides: `a, b and 7 more`."""
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")
