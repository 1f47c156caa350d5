"""CREATING_INJECTORS.md, done as it says: a package of somebody else's, known by its entry points, held against the suite."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blackstart.tests.ports import free_port

PAGE = (Path(__file__).parents[2] / "CREATING_INJECTORS.md").read_text(encoding="utf-8")
PORT = "8765"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What the page writes, as an installed distribution: both injectors in one module, the test beside it."""
    nothing, freeze, suite = blocks("python")
    (tmp_path / "yourpackage").mkdir()
    (tmp_path / "yourpackage" / "__init__.py").touch()
    (tmp_path / "yourpackage" / "faults.py").write_text(f"{nothing}\n\n{freeze}", encoding="utf-8")
    assert PORT in suite
    (tmp_path / "test_mine.py").write_text(suite.replace(PORT, str(free_port())), encoding="utf-8")
    (entries,) = blocks("toml")
    group, *names = entries.replace('"', "").splitlines()
    info = tmp_path / "yourpackage-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: yourpackage\nVersion: 1\n", encoding="utf-8")
    points = "\n".join(names)
    (info / "entry_points.txt").write_text(f"{group.replace('project.entry-points.', '')}\n{points}\n", encoding="utf-8")
    return tmp_path


def ran(package: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_suite_of_the_page_passes(package: Path) -> None:
    assert "1 passed" in ran(package, "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")


def test_the_kinds_of_the_page_are_known(package: Path) -> None:
    assert "changes nothing, to see what a drill costs by itself" in ran(package, "blackstart", "faults")
    page = ran(package, "blackstart", "faults", "nothing-done")
    assert "shows that the drill itself does no harm" in " ".join(page.split())
    assert "It has no keys of its own." in page


def test_every_block_of_the_page_is_one_of_these() -> None:
    assert len(re.findall(r"^```\w", PAGE, re.MULTILINE)) == len(blocks("python")) + len(blocks("toml")) == 4
