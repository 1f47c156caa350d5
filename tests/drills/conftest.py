"""Fixtures of whole drills."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.scenarios.demo import Demo
from blackstart.tests.disks import disk_of


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """One plain demo service for the tests of a file; each drill must leave it as it was."""
    with Demo.started() as running:
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    with disk_of(tmp_path / "small", "16m") as place:
        yield place


@pytest.fixture
def roomy_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB, which is enough for a drill to begin."""
    with disk_of(tmp_path / "roomy", "80m") as place:
        yield place
