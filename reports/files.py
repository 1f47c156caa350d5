"""Which report goes into which file of a run's folder."""

import json
from collections.abc import Callable

from ..drills.finished import FinishedRun
from .html import html
from .junit import junit
from .markdown import summary
from .result import result
from .text import text


def _json(run: FinishedRun) -> str:
    return json.dumps(result(run), indent=1, ensure_ascii=False) + "\n"


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


def write_reports(run: FinishedRun) -> None:
    """All reports into the run's folder."""
    for name, form in FILES.items():
        (run.folder / name).write_text(render(run, form), encoding="utf-8")
