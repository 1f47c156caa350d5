"""Fixtures of whole drills."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blackstart.scenarios.demo import Demo


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """One plain demo service for the tests of a file; each drill must leave it as it was."""
    with Demo.started() as running:
        yield running


@contextmanager
def disk_of(place: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system of a given size")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "blackstart-test", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


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
