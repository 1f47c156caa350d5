"""Comparisons with a quantity: `>= 99%`, `<= 1s`, and `< 20% for 30s`."""

import re
from datetime import timedelta
from typing import Final

from ..scenario import Bound, Condition
from .quantities import DURATION, SHARE, Quantity

_RELATION = r"(<=|>=|<|>)"


def bound_of(quantity: Quantity) -> Quantity:
    """A Bound whose limit is a share (0 to 1), or a duration (in seconds)."""

    def parse(text: str) -> Bound:
        match = re.fullmatch(rf"{_RELATION} *(.*)", text, re.DOTALL)
        if not match:
            raise ValueError(_missing_relation(text, quantity))
        try:
            limit = quantity.parse(match[2])
        except ValueError as error:
            raise ValueError(f"{error} after `{match[1]}`") from None
        return Bound(match[1], limit.total_seconds() if isinstance(limit, timedelta) else float(limit))  # type: ignore[arg-type]

    def show(value: Bound) -> str:
        limit = timedelta(seconds=value.limit) if quantity is DURATION else value.limit
        return f"{value.relation} {quantity.show(limit)}"

    example = "<= 1s" if quantity is DURATION else ">= 99%"
    name = f"a comparison with {quantity.name}"
    return Quantity(
        Bound, name, f"<, <=, > or >=, and {quantity.units}", example, f"{_RELATION} *{quantity.pattern}", parse, show
    )


def _missing_relation(text: str, quantity: Quantity) -> str:
    more = "<=" if quantity is DURATION else ">="
    try:
        quantity.parse(text)
    except ValueError:
        return f'write a comparison, e.g. "{more} {quantity.example}"'
    return f'write a comparison: "{more} {text}"'


BOUNDS: Final = {timedelta: bound_of(DURATION), SHARE.type: bound_of(SHARE)}


def _parse_condition(text: str) -> Condition:
    bound, found, window = text.partition(" for ")
    if not found:
        raise ValueError('say for how long, e.g. "< 20% for 30s"')
    return Condition(BOUNDS[SHARE.type].parse(bound.strip()), DURATION.parse(window.strip()))


def _show_condition(value: Condition) -> str:
    return f"{BOUNDS[SHARE.type].show(value.bound)} for {DURATION.show(value.window)}"


CONDITION: Final = Quantity(
    Condition,
    "a condition",
    "<, <=, > or >=, a share, and for how long",
    "< 20% for 30s",
    rf"{_RELATION} *{SHARE.pattern} +for +{DURATION.pattern}",
    _parse_condition,
    _show_condition,
)
