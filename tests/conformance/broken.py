"""Injectors that each break one clause of the contract; the suite must find it."""

from dataclasses import dataclass
from typing import ClassVar

from blackstart.injectors.base import Evidence
from blackstart.injectors.lifecycle import ProcessHang


@dataclass(frozen=True)
class Leaky(ProcessHang):
    kind: ClassVar[str] = "leaky"

    def recover(self, undo, platform):
        pass


@dataclass(frozen=True)
class Idle(ProcessHang):
    kind: ClassVar[str] = "idle"

    def inject(self, undo, platform):
        pass

    def verify(self, undo, platform):
        del undo, platform
        return Evidence("hope", "surely it hangs")


@dataclass(frozen=True)
class Unproven(ProcessHang):
    kind: ClassVar[str] = "unproven"

    def inject(self, undo, platform):
        pass


@dataclass(frozen=True)
class Eager(ProcessHang):
    kind: ClassVar[str] = "eager"

    def plan(self, targets, platform):
        undo = super().plan(targets, platform)
        for target in targets:
            platform.kill(target)
        return undo


@dataclass(frozen=True)
class Undying(ProcessHang):
    """Its site has no deadline worth the name."""

    kind: ClassVar[str] = "undying"

    def inject(self, undo, platform):
        for target in undo.targets:
            identities = [process["identity"] for process in undo.prior["processes"]]
            platform.agent_begin(undo.fault, target, "stop-process", {"processes": identities}, 600.0)
