"""Both streams of the command line, and what a person is told when something went wrong."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..drills.loading import InvalidFiles
from ..drills.refusal import Refused
from ..drills.state import BeingDrilled
from ..drills.verdict import ExitCode
from ..injectors.base import FaultError
from ..injectors.platforms.base import PlatformError

EXPECTED = (InvalidFiles, Refused, BeingDrilled, FaultError, PlatformError)  # a person's mistake, or the world's: exit 2


@contextmanager
def unheard() -> Iterator[None]:
    """A reader of stdout that has left (`| head`) does not change the exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(line: str) -> None:
    """The result, on stdout."""
    with unheard():
        sys.stdout.write(line.rstrip("\n") + "\n")


def tell(line: str) -> None:
    """Progress and problems, on stderr."""
    with suppress(OSError):
        sys.stderr.write(line.rstrip("\n") + "\n")


def confess(error: Exception) -> ExitCode:
    """An error nobody caught: a known kind is explained in a sentence, anything else is a bug of ours, with its traceback."""
    if isinstance(error, EXPECTED):
        tell(str(error))
        return ExitCode.USAGE
    if isinstance(error, OSError) and error.filename:
        tell(f"{error.filename}: {error.strerror}")
        return ExitCode.USAGE
    tell(f"internal error: {type(error).__name__}: {error}")
    tell(
        "Everything that was injected is undone, or `blackstart recover --all` undoes it. Please report this with the lines below."
    )
    tell("".join(traceback.format_exception(error)))
    return ExitCode.INTERNAL
