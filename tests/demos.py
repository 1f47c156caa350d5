"""What the tests on a cluster and on a Docker engine have in common: the order of those that share one demo service, and refusals."""

import os
from pathlib import Path

import pytest

DEMOS = ("", "plain", "hardened")  # the order of the tests: faults of nodes refuse to move the pods of a demo


def in_order(items: list[pytest.Item], folder: Path) -> list[pytest.Item]:
    """Sorts those of that folder in their places: first who needs no demo, then those on the plain one, then on the hardened one."""
    places = [number for number, item in enumerate(items) if item.path.parent == folder]
    found = sorted((items[number] for number in places), key=lambda item: DEMOS.index(demo_of(item)))
    for number, item in zip(places, found, strict=True):
        items[number] = item
    return found


def demo_of(item: pytest.Item) -> str:
    """Which demo service a test drills; empty: none."""
    assert isinstance(item, pytest.Function)
    named = {name.removesuffix("_demo") for name in item.fixturenames if name.endswith("_demo")}
    if hasattr(item, "callspec"):
        named.add(item.callspec.params.get("kind", ""))
    return max({*DEMOS} & {*named, ""}, key=DEMOS.index)


def refuse(why: str) -> None:
    """In CI a cluster or an engine that is missing is a failure: there the tests are what proves the platform."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
