"""The ability Contents where files are seen through look.py."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from ..values import JSON
from .base import Target

AT_ONCE = 200  # folders in one question: a request is an argument of a command


class LookedContents(ABC):
    """For platforms that can run look.py inside a target."""

    @abstractmethod
    def _look(self, target: Target, verb: str, **request: object) -> JSON:
        """What look.py says there. Raises PlatformError."""

    def read_ranges(self, target: Target, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        found = self._look(target, "ranges", path=path, ranges=[list(each) for each in ranges])
        return [base64.b64decode(each) for each in found["contents"]]

    def listing(self, target: Target, folder: str) -> Mapping[str, int | None]:
        found: Mapping[str, int | None] = self._look(target, "listing", path=folder)["listing"]
        return found

    def listings(self, target: Target, folders: Sequence[str]) -> list[Mapping[str, int | None] | None]:
        found: list[Mapping[str, int | None] | None] = []
        for start in range(0, len(folders), AT_ONCE):
            found += self._look(target, "listings", paths=list(folders[start : start + AT_ONCE]))["listings"]
        return found
