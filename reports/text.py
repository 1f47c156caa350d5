"""The verdict on a console: plain lines, or drawn by rich where it is at hand. Both fit 80 columns and need no colour."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from ..drills.finished import FinishedRun
from ..drills.verdict import Judged, Verdict
from . import anatomy, digest_rows, figures, words
from .sentence import lead, sentence

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLUMNS = 80
_LEAST_FOR_TABLE = 60
_STYLES = {
    Verdict.PASSED: "bold green",
    Verdict.FAILED: "bold red",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.ABORTED: "bold yellow",
    Verdict.INTERNAL: "bold red",
    Verdict.DIRTY: "bold white on red",
}


def text(run: FinishedRun) -> str:
    """Verdict, sentence, objectives, faults, undo and where the report lies, without any control sequence."""
    lines = [_title(run), "", *_wrapped(sentence(run)), ""]
    lines += [line for judged in run.judgement.objectives for line in _objective(judged)]
    for label, told in _facts(run):
        lines += _wrapped(told, label)
    return "\n".join([*lines, f"  report    {run.folder / 'report.html'}"]) + "\n"


def show(run: FinishedRun, stream: TextIO, environment: Mapping[str, str]) -> None:
    """Drawn on a terminal, plain text elsewhere."""
    if not stream.isatty() or environment.get("TERM", "dumb") == "dumb":
        stream.write(text(run).rstrip("\n") + "\n")
        return
    from rich.console import Console  # noqa: PLC0415 - rich is loaded only where something is drawn

    draw(run, Console(file=stream, highlight=False))


def draw(run: FinishedRun, console: "Console") -> None:
    """The same on a terminal. Everything that others wrote is drawn as plain text: no markup, no escape sequence."""
    from rich.padding import Padding  # noqa: PLC0415 -- only where something is drawn
    from rich.text import Text  # noqa: PLC0415 -- only where something is drawn

    verdict = run.judgement.verdict
    title = Text(f" {words.SIGNS[verdict]} {str(verdict).upper()} ", style=_STYLES[verdict])
    title.append(f" {words.heading(run)}", style="bold")
    console.print(title, width=_width(console))
    console.print(Padding(Text(lead(run)), (1, 1)), width=_width(console))
    if _width(console) >= _LEAST_FOR_TABLE and run.judgement.objectives:
        console.print(_table(run), width=_width(console))
    elif run.judgement.objectives:
        for judged in run.judgement.objectives:
            console.print(Text("\n".join(_narrow(judged, _width(console)))), width=_width(console))
        console.print()
    for label, told in _facts(run):
        console.print(_fact(label, told), width=_width(console))
    # A path that is broken over two lines can neither be clicked nor copied.
    console.print(Text(f" report   {run.folder / 'report.html'}"), soft_wrap=True)


def _narrow(judged: Judged, columns: int) -> list[str]:
    """Where a table would break words: a line for the name, and what there is to say of it below."""
    head = f" {words.SIGNS[judged.verdict]} {figures.name(judged)}"
    told = f"{figures.measured(judged)}, allowed {figures.demanded(judged)}: {figures.margin(judged)}"
    lines = textwrap.wrap(head, columns, subsequent_indent="   ", break_on_hyphens=False)
    return lines + textwrap.wrap(told, columns, initial_indent="   ", subsequent_indent="   ", break_on_hyphens=False)


def _width(console: "Console") -> int:
    return min(console.width, 100)


def _table(run: FinishedRun) -> "Table":
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 -- only where something is drawn
    from rich.table import Table  # noqa: PLC0415 -- only where something is drawn
    from rich.text import Text  # noqa: PLC0415 -- only where something is drawn

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("", "Objective", "Measured", "Allowed", "Margin"):
        table.add_column(name, overflow="fold", no_wrap=name in {"", "Allowed"})
    for judged in run.judgement.objectives:
        cells = (figures.name(judged), figures.measured(judged), figures.demanded(judged), figures.margin(judged))
        table.add_row(Text(words.SIGNS[judged.verdict], style=_STYLES[judged.verdict]), *map(Text, cells))
    return table


def _fact(label: str, told: str) -> "Table":
    from rich.table import Table  # noqa: PLC0415 -- only where something is drawn
    from rich.text import Text  # noqa: PLC0415 -- only where something is drawn

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(Text(f" {label}"), Text(told))
    return grid


def _title(run: FinishedRun) -> str:
    verdict = run.judgement.verdict
    return textwrap.shorten(f"{words.SIGNS[verdict]} {str(verdict).upper()}  {words.heading(run)}", _COLUMNS, placeholder="…")


def _wrapped(told: str, label: str = "") -> list[str]:
    first = f"  {label:<10}" if label else "  "
    return textwrap.wrap(told, _COLUMNS, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False)


def _objective(judged: Judged) -> list[str]:
    head = f"  {words.SIGNS[judged.verdict]} {figures.name(judged):<20}"
    told = f"{figures.measured(judged)}, allowed {figures.demanded(judged)}: {figures.margin(judged)}"
    return textwrap.wrap(told, _COLUMNS, initial_indent=head + " ", subsequent_indent=" " * (len(head) + 1))


def _facts(run: FinishedRun) -> list[tuple[str, str]]:
    """What stands below the objectives, as labels and one-line texts."""
    facts = []
    for fault in run.faults:
        facts += [
            ("fault", f"{fault.kind} on {words.targets(fault)}"),
            ("evidence", words.evidence(fault)),
            ("undo", words.undo(fault)),
        ]
    if run.measurement.anatomy:
        facts.append(("recovery", anatomy.in_a_line(run.measurement.anatomy)))
    if load := words.load(run):
        facts.append(("load", load))
    if told := digest_rows.in_a_line(run):
        facts.append(("digests", told))
    facts += [("not had", f"{name}: {why}") for name, why in words.not_had(run).items()]
    if not run.journal_intact:
        facts.append(("journal", "its hash chain is BROKEN: lines were changed or lost after they were written"))
    return facts
