"""Files of this machine, as the service sees them."""

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event

from ..values import JSON
from . import model_sight
from .base import GivenUp, PlatformError, Target
from .process_table import command_line


def asked_here(url: str) -> JSON:
    """The answer to a GET from this machine: its `status` and `body`."""
    try:
        return model_sight.asked(url)
    except OSError as error:
        raise PlatformError(f"{url}: {getattr(error, 'reason', None) or error.strerror or error}") from error


class LocalFiles:
    """Relative paths start at `folder`."""

    given_up: Event
    longest_read_s: float = math.inf  # whoever stops the drill ends it

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def space(self, target: Target, folder: str) -> tuple[int, int]:
        """Size and free bytes (for ordinary users) of the file system of a folder, from statvfs."""
        del target
        try:
            found = os.statvfs(self.folder / folder)
        except OSError as error:
            raise PlatformError(f"{folder}: {error.strerror}") from error
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def size(self, paths: Iterable[str]) -> int:
        """Bytes of all these files together, as far as they can be seen."""
        found = 0
        for path in paths:
            with suppress(OSError):
                found += (self.folder / path).stat().st_size
        return found

    def exists(self, target: Target, path: str) -> bool:
        del target
        return os.path.lexists(self.folder / path)

    def file(self, target: Target, path: str) -> JSON:
        del target
        real = os.path.realpath(self.folder / path)
        try:
            found = Path(real).stat()
        except OSError:
            found = None
        facts = {
            "mode": found.st_mode & 0o7777 if found else None,
            "changed_s": found.st_ctime if found else None,
            "inode": found.st_ino if found else None,
        }
        return {"exists": os.path.lexists(self.folder / path), "real": real, "id": real, "outlives": True, **facts}

    def pids(self, target: Target) -> tuple[int, ...]:
        return tuple(int(identity.removeprefix("pid:").partition("@")[0]) for identity in self.own(target))

    def own(self, target: Target) -> tuple[str, ...]:
        return tuple(dict.fromkeys([target.identity, *target.details.get("tree", ())]))

    def commands(self, target: Target) -> tuple[str, ...]:
        return tuple(map(command_line, self.pids(target)))

    def read_file(self, target: Target, path: str, limit: int) -> bytes:
        del target
        try:
            with (self.folder / path).open("rb") as file:
                return file.read(limit)
        except OSError as error:
            raise PlatformError(f"{path}: {error.strerror}") from error

    def read_time(self, target: Target, path: str) -> float:
        del target
        try:
            return model_sight.read_time(str(self.folder / path))
        except OSError as error:
            raise PlatformError(f"{path}: {error.strerror}") from error

    def read_ranges(self, target: Target, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        del target
        try:
            with (self.folder / path).open("rb") as file:
                return [os.pread(file.fileno(), length, offset) for offset, length in ranges]
        except OSError as error:
            raise PlatformError(f"{path}: {error.strerror}") from error

    def listing(self, target: Target, folder: str) -> Mapping[str, int | None]:
        del target
        try:
            return {each.name: each.stat().st_size if each.is_file() else None for each in (self.folder / folder).iterdir()}
        except OSError as error:
            raise PlatformError(f"{folder}: {error.strerror}") from error

    def listings(self, target: Target, folders: Sequence[str]) -> list[Mapping[str, int | None] | None]:
        found: list[Mapping[str, int | None] | None] = []
        for folder in folders:
            try:
                found.append(self.listing(target, folder))
            except PlatformError:
                found.append(None)
        return found

    def digest(self, target: Target, path: str) -> str:
        del target
        try:
            with (self.folder / path).open("rb") as file:
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        except OSError as error:
            raise PlatformError(f"{path}: {error.strerror}") from error

    def model_marks(self, target: Target, path: str) -> tuple[str, Mapping[str, Sequence[int]]]:
        del target
        try:
            return model_sight.marks(str(self.folder / path))
        except OSError as error:
            raise PlatformError(f"{error.filename or path}: {error.strerror}") from error

    def model_digests(self, target: Target, path: str, ranges: model_sight.Ranges, per_second: int) -> JSON:
        del target
        try:
            return model_sight.digests(str(self.folder / path), ranges, per_second, self._pause)
        except OSError as error:
            raise PlatformError(f"{path}: {error.strerror}") from error

    def ask(self, target: Target, url: str) -> JSON:
        del target
        return asked_here(url)

    def _pause(self, wait_s: float) -> None:
        if self.given_up.wait(wait_s):
            raise GivenUp("nobody waits for this digest any more")
