"""The user's own commands on this machine."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event

from .base import PlatformError, came

OUTPUT_KEPT = 4000
LOOK_EVERY_S = 0.005


def run_command(
    command: Sequence[str], limit_s: float, given_up: Event, folder: Path, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Exit status and the end of the output of a command without a shell.

    Whatever ends the waiting ends the command's whole process group. Raises PlatformError.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise PlatformError(f"{command[0]}: {error.strerror}") from error
        try:
            if not came(lambda: process.poll() is not None, limit_s, given_up, LOOK_EVERY_S):
                raise PlatformError(f"{' '.join(command)} did not end within {limit_s:g} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_KEPT))
        return process.returncode, output.read().decode("utf-8", "replace")
