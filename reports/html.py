"""The report page: one file that opens anywhere, for ever. No network, and whole without its script.

Everything that others wrote passes through jinja2's autoescape, and control characters are taken out before; the page's
Content-Security-Policy allows nothing but the style and the script that are in it, by their digests.
"""

import base64
import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..drills.finished import FinishedRun
from . import digest_rows, figures, sections, words
from .bars import objective_bar
from .chart import pictures, symbols, zero
from .cleaning import printable, together
from .provenance import provenance
from .rows import zone_name
from .sentence import parts, undo_command
from .svg import Drawing

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).parent
_WORDS = {"internal": "Internal error"}


def html(run: FinishedRun) -> str:
    """The whole page. A drill of a minute takes well under half a second, one of an hour at 50 Hz under two."""
    return template().render(_page(run))


@cache
def template() -> "jinja2.Template":
    """The compiled page."""
    import jinja2  # noqa: PLC0415 -- only where something is drawn

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_clean,
    )
    environment.filters["together"] = together
    return environment.get_template("report.html.j2")


def _clean(value: Any) -> Any:
    """Plain text loses its control characters; markup made here was cleaned when it was made."""
    return printable(value) if type(value) is str else value


def _static(name: str) -> Drawing:
    return Drawing((_HERE / "static" / name).read_text(encoding="utf-8").strip())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _page(run: FinishedRun) -> dict[str, Any]:
    verdict = str(run.judgement.verdict)
    style, script = _static("report.css"), _static("report.js")
    started = datetime.fromisoformat(run.started_wall)
    spoken = parts(run)
    return {
        "run": run,
        "verdict": verdict,
        "word": _WORDS.get(verdict, verdict.capitalize()),
        "heading": words.heading(run),
        "lead": spoken.users[:1].upper() + spoken.users[1:],
        "rest": spoken.rest,
        "following": spoken.following,
        "undo_command": undo_command(run),
        "exit_code": int(run.judgement.exit_code),
        "platform": {"process": "this host's processes", "docker": "Docker", "kubernetes": "Kubernetes"}[run.service.platform],
        "started": f"{started:%Y-%m-%d %H:%M:%S} {zone_name(started)}",
        "started_epoch": f"{started.timestamp():.3f}",
        "zone": zone_name(started),
        "zero": zero(run)[1],
        "style": style,
        "script": script,
        # Only what is in the page, and nothing from anywhere: the page cannot phone home, whatever a service answered.
        "policy": f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; base-uri 'none'; form-action 'none'",
        "symbols": symbols(),
        **_sections(run),
    }


def _sections(run: FinishedRun) -> dict[str, Any]:
    spoken = {judged.text for judged in run.judgement.objectives}
    return {
        "bars": [
            {
                "name": figures.name(judged),
                "measured": figures.measured(judged),
                "margin": figures.margin(judged),
                "verdict": str(judged.verdict),
                "bar": objective_bar(judged),
            }
            for judged in run.judgement.objectives
        ],
        "other_reasons": [reason for reason in run.judgement.reasons if reason.text not in spoken],
        "pictures": pictures(run),
        "moments": sections.moments(run),
        "faults": sections.faults(run),
        "recovery": sections.recovery_parts(run),
        "answers": sections.answers(run),
        "digests": digest_rows.section(run, zero(run)[0]),
        "procedure": sections.procedure(run),
        "evidence": provenance(run),
    }
