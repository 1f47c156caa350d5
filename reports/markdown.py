"""summary.md: for a CI job's summary page or a pull request's comment."""

from collections.abc import Iterable, Sequence

from ..drills.finished import FinishedRun
from ..drills.verdict import Verdict
from ..drills.watched import measured_from
from . import digest_rows, figures, words
from .anatomy import until
from .cleaning import in_code, in_markdown
from .sentence import lead, sentence, undo_command


def summary(run: FinishedRun) -> str:
    """GitHub-flavoured Markdown. Whatever others wrote is shown as it stands: no markup, no mention, no link comes from it."""
    verdict = run.judgement.verdict
    blocks = [f"## {words.SIGNS[verdict]} {str(verdict).capitalize()}: {in_markdown(words.heading(run))}"]
    if verdict is Verdict.DIRTY:
        blocks.append(f"```sh\n{undo_command(run)}\n```")
    parts = (_spoken, _objectives, _faults, _anatomy, _load, _digests, _reasons, _not_had, _origin)
    blocks += [part(run) for part in parts]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _spoken(run: FinishedRun) -> str:
    whole = sentence(run)
    bold = whole.removesuffix(lead(run)).strip()
    rest = in_markdown(lead(run))
    return f"**{bold}** {rest}" if bold else rest


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _objectives(run: FinishedRun) -> str:
    rows = [
        (
            figures.name(judged),
            figures.demanded(judged).replace("<", "&lt;"),
            figures.measured(judged).replace("[", "\\["),
            f"{words.SIGNS[judged.verdict]} {judged.verdict}",
            figures.margin(judged),
        )
        for judged in run.judgement.objectives
    ]
    return _table(("Objective", "Allowed", "Measured", "Verdict", "Margin"), rows) if rows else ""


def _faults(run: FinishedRun) -> str:
    rows = [
        (
            in_code(fault.kind),
            in_markdown(words.targets(fault)),
            in_markdown("; right before the undo: ".join(filter(None, (words.evidence(fault), words.still(fault))))),
            in_markdown(words.undo(fault)),
        )
        for fault in run.faults
    ]
    return _table(("Fault", "Targets", "Evidence", "Undo"), rows) if rows else ""


def _anatomy(run: FinishedRun) -> str:
    rows = [
        (in_markdown(until(part)), figures.interval(part.length).replace("[", "\\["), figures.share(round(part.share, 3)))
        for part in run.measurement.anatomy
    ]
    return _table(("Recovery, until", "Took", "Share"), rows) if rows else ""


def _load(run: FinishedRun) -> str:
    return f"Load: {in_markdown(told)}." if (told := words.load(run)) else ""


def _digests(run: FinishedRun) -> str:
    return f"Digests: {in_markdown(told, 600)}." if (told := digest_rows.in_a_line(run)) else ""


def _reasons(run: FinishedRun) -> str:
    return "\n".join(f"- {in_code(reason.code)} {in_markdown(reason.text, 500)}" for reason in run.judgement.reasons)


def _not_had(run: FinishedRun) -> str:
    lines = [f"- {in_code(name)}: {in_markdown(why)}" for name, why in words.not_had(run).items()]
    return "\n".join(["Figures that could not be had:", "", *lines]) if lines else ""


def _origin(run: FinishedRun) -> str:
    intact = "intact" if run.journal_intact else "**BROKEN**"
    return (
        f"Run {in_code(run.run)}, service {in_code(run.service.name)} ({run.service.platform}), measured from "
        f"{in_markdown(measured_from(run.service))}, scenario {in_code(run.scenario_digest[:19])}, "
        f"journal chain {intact}, exit code {int(run.judgement.exit_code)}. Full report: `report.html` in the run's folder."
    )
