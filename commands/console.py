"""Both streams of the command line, and what a person is told when something went wrong."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ..drills.loading import InvalidFiles
from ..drills.refusal import Refused
from ..drills.state import BeingDrilled
from ..drills.verdict import ExitCode
from ..injectors.base import FaultError
from ..injectors.platforms.base import PlatformError

EXPECTED = (InvalidFiles, Refused, BeingDrilled, FaultError, PlatformError)  # a person's mistake, or the world's: exit 2
INJECTING = ("run", "demo", "fetch", "recover")  # commands after which something may be injected still


class Unwritten(Exception):
    """The result could not be written; the message says where to and why."""


@contextmanager
def unheard() -> Iterator[None]:
    """A reader of stdout that has left (`| head`) does not change the exit code. Raises Unwritten where it takes no more (a full disk)."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        if not isinstance(error, BrokenPipeError):
            raise Unwritten(f"standard output could not be written: {error.strerror or error}") from error


def say(line: str) -> None:
    """The result, on stdout. Raises Unwritten."""
    with unheard():
        sys.stdout.write(line.rstrip("\n") + "\n")


def insist(line: str, write: Callable[[], None] | None = None) -> None:
    """What a person must be told whatever becomes of stdout: on stderr where stdout takes no more. `write` draws it on stdout."""
    try:
        with unheard():
            if write:
                write()
            else:
                sys.stdout.write(line.rstrip("\n") + "\n")
    except Unwritten as unwritten:
        tell(f"{unwritten}; so here:\n{line}")


def tell(line: str) -> None:
    """Progress and problems, on stderr."""
    with suppress(OSError):
        sys.stderr.write(line.rstrip("\n") + "\n")


def confess(error: Exception, arguments: Sequence[str]) -> ExitCode:
    """An error nobody caught: a known kind is explained in a sentence, anything else is a bug of ours, with its traceback.

    `arguments` are the command line's: of what was injected only those commands tell that may have done it.
    """
    if isinstance(error, (*EXPECTED, Unwritten)):
        tell(str(error))
        return ExitCode.USAGE
    if isinstance(error, OSError) and error.filename:
        tell(f"{error.filename}: {error.strerror}")
        return ExitCode.USAGE
    tell(f"internal error: {type(error).__name__}: {error}")
    undone = "Everything that was injected is undone, or `blackstart recover --all` undoes it. "
    tell(f"{undone if arguments and arguments[0] in INJECTING else ''}Please report this with the lines below.")
    tell("".join(traceback.format_exception(error)))
    return ExitCode.INTERNAL
