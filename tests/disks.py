"""File systems of their own, for tests of what a full one does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def disk_of(place: Path, size: str, kind: str = "tmpfs") -> Iterator[Path]:
    """In memory; `kind` ramfs has no size that it would keep to."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a file system of a given size, and these are Linux's")
    place.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", f"size={size}", "blackstart-test", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
