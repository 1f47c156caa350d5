"""Files and folders as a target sees them, for those who read layouts (model_formats/)."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from .base import Refusal
from .model_formats.layout import BLOCK, Nearby, Unreadable
from .platforms.abilities import Contents
from .platforms.base import Platform, PlatformError, Target, Unavailable


@dataclass(frozen=True)
class SeenFile:
    """A file as a target sees it."""

    files: "SeenFiles"
    path: str
    size: int

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        return self.files.contents.read_ranges(self.files.target, self.path, [(offset, length)])[0] if length else b""


@dataclass(frozen=True)
class SeenFiles:
    """Files and folders as a target sees them; each folder is listed once."""

    contents: Contents
    target: Target
    listed: dict[str, Mapping[str, int | None]] = field(default_factory=dict)

    def listing(self, folder: str) -> Mapping[str, int | None]:
        if folder not in self.listed:
            try:
                self.listed[folder] = self.contents.listing(self.target, folder)
            except Unavailable:
                raise
            except PlatformError as error:
                raise Unreadable(str(error)) from error
        return self.listed[folder]

    def source(self, path: str) -> Nearby:
        there = self.listing(posixpath.dirname(path) or ".")
        name = posixpath.basename(path)
        if name not in there:
            raise Unreadable(f"{path}: No such file")
        if (size := there[name]) is None:
            raise Unreadable(f"{path} is no regular file: a folder, a device, or a link to nothing; name a file")
        return Nearby(SeenFile(self, path, size), BLOCK)


def seen_by(target: Target, platform: Platform) -> SeenFiles:
    if not isinstance(platform, Contents):
        raise Refusal(
            f"not injecting: platform {platform.name} cannot read parts of a file or list a folder, which finding the bytes takes"
        )
    return SeenFiles(platform, target)
