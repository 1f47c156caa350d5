"""The open fault: commands of the user's own that inject, prove and undo it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

from .base import Differs, Evidence, Injector, NotYet, Privilege, Refusal, Undo
from .lifecycle import end_agent
from .means import OWN, Means
from .platforms.base import Platform, Target


@runtime_checkable
class Commands(Protocol):
    """The ability of a platform to run the user's commands in the service folder, on the machine that blackstart runs on."""

    def execute(self, command: tuple[str, ...], limit_s: float) -> tuple[int, str]:
        """Exit status and the end of the output. Raises PlatformError when it cannot be run or does not end in time."""


@dataclass(frozen=True)
class Command(Injector):
    """Run `inject`; hold; run `recover`. An agent runs `recover` by itself at the deadline or when blackstart dies.

    All three are argument vectors, run without a shell in the folder of the service file. `verify` is the second source: it
    exits 0 from the moment that the fault is in effect until it is undone, and anything else before and after.
    """

    inject_: Annotated[tuple[str, ...], "the command that brings the fault about; it must end by itself"]
    verify_: Annotated[tuple[str, ...], "the command that exits 0 for as long as the fault is in effect"]
    recover_: Annotated[tuple[str, ...], "the command that undoes it; it may be run more than once"]
    limit: Annotated[timedelta, "how long each of the commands may take"] = timedelta(seconds=60)

    kind: ClassVar[str] = "command"
    summary: ClassVar[str] = "a fault of your own: commands that inject, prove and undo it"
    certifies: ClassVar[str] = "what your commands bring about and prove, and nothing else"
    done_by: ClassVar[Means] = OWN
    proven_by: ClassVar[str] = "your `verify` command exits 0 from then on, and did not before"
    undone_by: ClassVar[str] = "your `recover` command, which an agent runs too when blackstart dies"
    example: ClassVar[Mapping[str, Any]] = {
        "inject": ["touch", "flag"],
        "verify": ["test", "-e", "flag"],
        "recover": ["rm", "-f", "flag"],
    }
    depends_on: ClassVar[str] = "your commands"
    platforms: ClassVar[frozenset[str]] = frozenset({"process"})
    privilege: ClassVar[Privilege] = Privilege.API

    def problems(self) -> tuple[str, ...]:
        commands = {"inject": self.inject_, "verify": self.verify_, "recover": self.recover_}
        empty = tuple(
            f"`{key}` is no command; write its words, e.g. `[sh, -c, ...]`" for key, words in commands.items() if not any(words)
        )
        return empty if self.limit else (*empty, "`limit` is 0s, in which no command ends; write a longer time")

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        status, output = _commands(platform).execute(self.verify_, self.limit.total_seconds())
        if status == 0:
            raise Refusal(f"not injecting: {' '.join(self.verify_)} exits 0 before anything was injected, so it proves nothing")
        return Undo(targets, {"verify_exit": status, "verify_output": output})

    def inject(self, undo: Undo, platform: Platform) -> None:
        limit_s = self.limit.total_seconds()
        request = {"inject": self.inject_, "recover": self.recover_, "limit_s": limit_s, "undo_s": limit_s + 10}
        platform.agent_begin(undo.fault, undo.targets[0], "hold-command", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        del undo
        status, output = _commands(platform).execute(self.verify_, self.limit.total_seconds())
        if status:
            raise NotYet(f"{' '.join(self.verify_)} exits {status}: {output.strip()}")
        return Evidence(self.verify_[0], f"{' '.join(self.verify_)} exits 0", {"output": output})

    def recover(self, undo: Undo, platform: Platform) -> None:
        end_agent(undo, undo.targets[0], platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        del undo
        status, output = _commands(platform).execute(self.verify_, self.limit.total_seconds())
        if status == 0:
            raise Differs(f"{' '.join(self.verify_)} still exits 0")
        return Evidence(self.verify_[0], f"{' '.join(self.verify_)} exits {status}", {"output": output})


def _commands(platform: Platform) -> Commands:
    if not isinstance(platform, Commands):
        raise Refusal(f"not injecting: platform {platform.name} does not run commands")
    return platform
