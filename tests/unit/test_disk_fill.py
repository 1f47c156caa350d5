"""What disk-fill asks of a platform: whose file system a folder is on, and where a copy of its undo record lies."""

from collections.abc import Sequence
from typing import Any

import pytest
from blackstart.injectors.base import Refusal
from blackstart.injectors.platforms.base import Target
from blackstart.injectors.storage import DiskFill
from blackstart.injectors.values import Size

TARGET = Target("container:abc@1", "llm-1", "replica")


class Disk:
    """A file system of 1 GiB, half of it free; `apart` as the platform tells it, None: it does not."""

    name = "docker"

    def __init__(self, *, apart: bool | None) -> None:
        self.told = {} if apart is None else {"apart": apart}
        self.beside: list[str] = []

    def space(self, target: Target, folder: str) -> tuple[int, int]:
        del target, folder
        return 1 << 30, 1 << 29

    def exists(self, target: Target, path: str) -> bool:
        del target, path
        return False

    def file(self, target: Target, path: str) -> Any:
        del target
        return {"real": path.replace("/data", "/volume"), **self.told}

    def agent_end(self, fault: str, target: Target, beside: Sequence[str]) -> Any:
        del fault, target
        self.beside += beside
        return {"event": "undone"}


def test_without_a_limit_only_a_file_system_of_its_own_is_filled() -> None:
    shared: Any = Disk(apart=False)
    with pytest.raises(Refusal, match=r"may lie on the disk of the whole machine.*`at_most`"):
        DiskFill("/data").plan((TARGET,), shared)
    assert DiskFill("/data", at_most=Size(1 << 30)).plan((TARGET,), shared)
    for apart in (True, None):
        own: Any = Disk(apart=apart)
        assert DiskFill("/data").plan((TARGET,), own)


def test_the_undo_also_looks_for_the_copy_of_its_record_beside_the_file() -> None:
    disk: Any = Disk(apart=True)
    undo = DiskFill("/data").plan((TARGET,), disk).stamped("run.0", "disk-fill", {}, 60.0)
    DiskFill("/data").recover(undo, disk)
    assert disk.beside == ["/volume/blackstart-run.0.fill.undo"]
