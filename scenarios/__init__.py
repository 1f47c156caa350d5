"""Drills that ship with the tool, and the demo model service that they can be tried on."""

from pathlib import Path


def shipped() -> dict[str, Path]:
    """Name -> file of every scenario that ships, in alphabetical order."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def shipped_text(name: str) -> str:
    """The file's text, comments and all."""
    return shipped()[name].read_text(encoding="utf-8")
