"""Folders and files of one volume, or of one disk, by which it is told whether two have the same."""

import posixpath


def joined(*parts: str) -> str:
    """An absolute path without dots and doubled slashes."""
    return posixpath.normpath("/" + "/".join(parts).strip("/"))


def lies_in(path: str, folder: str) -> bool:
    """Whether it is that folder, or is below it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def touch(one: str, other: str) -> bool:
    """Whether who has one of them has something of the other."""
    return lies_in(one, other) or lies_in(other, one)
