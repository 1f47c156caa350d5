"""Faults. `registry()` knows every kind that is installed, ours and third parties', by the entry-point group."""

from functools import cache
from importlib.metadata import entry_points

from .base import Injector

GROUP = "blackstart.injectors"


@cache
def registry() -> dict[str, type[Injector]]:
    """Every installed kind of fault by its name; an installed distribution adds kinds by the group `blackstart.injectors`."""
    found: dict[str, type[Injector]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        injector = point.load()
        if injector.kind != point.name:
            raise TypeError(f"entry point {point.name} of {GROUP} loads {injector.kind}; the names must be the same")
        found[point.name] = injector
    return found
