"""Commands for model files."""

import sys
import time
from pathlib import Path
from typing import TextIO

from ..drills.refusal import Refused
from ..drills.verdict import ExitCode
from ..injectors.model_formats.manifest import NAME, Unfit, differences, measured, stored, write
from .console import say, tell

REDRAW_S = 0.25
WIDTH = 40  # of a file's name on the progress line


class _Line:
    """One line that is drawn over again; nothing where stderr is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.drawn = stream, 0.0
        self.live = stream.isatty()

    def __call__(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.live and now - self.drawn > REDRAW_S:
            self.drawn = now
            share = done / total if total else 1.0
            self.stream.write(f"\r{share:5.0%}  {done / 1e9:.1f} of {total / 1e9:.1f} GB  {name[-WIDTH:]:{WIDTH}}")
            self.stream.flush()

    def clear(self) -> None:
        if self.live and self.drawn:
            self.stream.write("\r" + " " * (WIDTH + 30) + "\r")


def manifest(folder: Path, file: Path | None, *, check: bool) -> ExitCode:
    """Write the digests of a model's files and tensors, or hold the model against those that were written."""
    path = file or (folder / NAME if folder.is_dir() else folder.with_name(f"{folder.name}.{NAME}"))
    line = _Line(sys.stderr)
    try:
        then = stored(path) if check else None
        now = measured(folder, line, path)
        if then is None:
            write(path, now)
    except Unfit as problem:
        raise Refused([str(problem)]) from problem
    finally:
        line.clear()
    tensors = sum(len(each.get("tensors", ())) for each in now["files"].values())
    size = sum(each["size"] for each in now["files"].values())
    of = f"{len(now['files'])} files, {tensors} tensors, {size} bytes"
    if then is None:
        say(f"wrote {path}: {of}")
        return ExitCode.PASSED
    found = differences(then, now)
    for difference in found:
        say(str(difference))
    if found:
        tell(f"{len(found)} of {len({*then['files'], *now['files']})} files are not as {path} says")
        return ExitCode.FAILED
    say(f"all as {path} says: {of}")
    return ExitCode.PASSED
