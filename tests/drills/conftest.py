"""Fixtures of whole drills."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.scenarios.demo import Demo


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """One plain demo service for the tests of a file; each drill must leave it as it was."""
    with Demo.started() as running:
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system of a given size")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "blackstart-test", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)
