"""A container of our own on the service's network, from any image with python3: what clients there see of the service."""

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..values import JSON
from .base import PlatformError
from .docker_api import DockerApi
from .docker_exec import Room, RoomDoors, Session
from .docker_helpers import OURS, RUN, Helpers, name_of

HOME: Final = "/blackstart"
NOBODY: Final = "65532:65532"
MEMORY: Final = 256 << 20


@dataclass
class RoomOutposts:
    """Those of one service. `networks`: those that its replicas are on."""

    api: DockerApi
    helpers: Helpers
    networks: Callable[[], Sequence[str]]

    def outpost_begin(  # noqa: PLR0913 - as the protocol has it
        self,
        run: str,
        image: str,
        programs: Mapping[str, bytes],
        command: Sequence[str],
        longest_s: float,
        away_from: Sequence[str] = (),
    ) -> None:
        del image, longest_s, away_from  # the helpers' own; it ends by itself when nobody asks it any more; there is one node
        self.helpers.named_image("python3")
        name, networks = name_of("prober", run), list(dict.fromkeys(self.networks()))
        if not networks:
            raise PlatformError("the service's replicas are on no network")
        host: JSON = {"NetworkMode": networks[0], "Memory": MEMORY}
        body: JSON = {"User": NOBODY, "WorkingDir": HOME, "Cmd": list(command), "HostConfig": host}
        archive = packed(programs, HOME.strip("/"))
        self.helpers.begin(name, {OURS: "prober", RUN: run}, body, lambda number: self.api.upload(number, "/", archive))
        for network in networks[1:]:
            self.api.post(f"/networks/{network}/connect", {"Container": name})

    def outpost_line(self, run: str, command: Sequence[str]) -> Session:
        name = name_of("prober", run)
        found = self.helpers.there(name)
        if found is None:
            raise PlatformError(f"container {name} does not run")
        return RoomDoors(self.api).opened(Room(found["Id"], name), ["python3", "-I", "-S", *command])

    def outpost_lost(self, run: str) -> str:
        try:
            there = self.helpers.there(name_of("prober", run))
        except PlatformError:  # the engine cannot be asked now
            return ""
        return "" if there else f"container {name_of('prober', run)} has ended"

    def outpost_end(self, run: str) -> bool:
        return self.helpers.end(name_of("prober", run))


def packed(files: Mapping[str, bytes], folder: str) -> bytes:
    """A tar archive of a folder with these files, which everybody may read."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        head = tarfile.TarInfo(folder)
        head.type, head.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(head)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()
