"""Which report goes into which file of a run's folder, and what several runs look like in one document."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..drills.finished import FinishedRun
from ..drills.refusal import Refused
from .html import html
from .junit import junit
from .markdown import summary
from .result import result
from .text import text


def _json(run: FinishedRun) -> str:
    return _dumped(result(run))


def _dumped(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[FinishedRun], str]] = {
    "text": text,
    "json": _json,
    "html": html,
    "junit": junit,
    "markdown": summary,
}
FILES = {"result.json": "json", "report.html": "html", "junit.xml": "junit", "summary.md": "markdown"}


def render(run: FinishedRun, form: str) -> str:
    """One report as text; `form` is a key of FORMATS."""
    return FORMATS[form](run)


def array(runs: Sequence[FinishedRun]) -> str:
    """Several results as one JSON document."""
    return _dumped([result(run) for run in runs])


def document(runs: Sequence[FinishedRun], form: str) -> str:
    """One valid document of one or several runs. Raises Refused where the format has none for several."""
    if len(runs) == 1:
        return render(runs[0], form)
    if form == "html":
        raise Refused([f"an HTML page shows one run, and {len(runs)} were named; render each with -o FILE of its own"])
    if form == "json":
        return array(runs)
    return junit(*runs) if form == "junit" else "\n".join(render(run, form) for run in runs)


def write_reports(run: FinishedRun) -> tuple[str, ...]:
    """All reports into the run's folder, each whole or not at all; returns why some are not there. `report` renders them again."""
    problems = []
    for name, form in FILES.items():
        try:
            _replace(run.folder / name, render(run, form))
        except OSError as error:
            problems.append(f"{run.folder / name} could not be written: {error.strerror or error}")
    return tuple(problems)


def _replace(path: Path, told: str) -> None:
    """Through a file beside it: a full disk must not leave half a report, nor take the whole one that was there."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_text(told, encoding="utf-8")
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
