"""The first sentences of every report: read aloud, they are true and complete about what users went through."""

from typing import NamedTuple

from ..drills.finished import FinishedRun, InjectedFault
from ..drills.verdict import Judged, Verdict
from . import figures
from .anatomy import longest, until
from .cleaning import one_line
from .exposure import Exposure, exposure, interruptions

_GOOD_NEWS = ("met", "passed")
# Objectives that the sentence tells in words of its own; the rest speak through their `text`.
_TOLD = ("rto", "rpo", "quality_loss", "streams_cut")


def sentence(run: FinishedRun) -> str:
    """`Passed. Users were without answers for 2.93 s [2.91, 2.95]; up to 60 s were allowed. …`, for every verdict."""
    return f"{_opening(run)} {lead(run)}" if run.judgement.verdict in _WORD else lead(run)


def lead(run: FinishedRun) -> str:
    """The sentence without the verdict's own word, for where that word already stands above it."""
    told = parts(run)
    return " ".join(part for part in (told.users, told.rest, told.following) if part)


class Parts(NamedTuple):
    """The sentence in the order it is read: what users went through, what else is so, what to do now. Any may be empty."""

    users: str
    rest: str
    following: str


def parts(run: FinishedRun) -> Parts:
    """The sentence cut where a page may begin a new line."""
    users = [_cause(run), _users(run)]
    rest = [_data(run), _quality(run), _streams(run), *_others(run), _put_back(run)]
    return Parts(" ".join(filter(None, users)), " ".join(filter(None, rest)), _next(run))


_WORD = {
    Verdict.PASSED: "Passed.",
    Verdict.FAILED: "Failed.",
    Verdict.INCONCLUSIVE: "Inconclusive:",
    Verdict.ABORTED: "Aborted:",
    Verdict.INTERNAL: "Internal error:",
}


def _opening(run: FinishedRun) -> str:
    return _WORD[run.judgement.verdict]


def undo_command(run: FinishedRun) -> str:
    """What puts back a dirty run's leftovers."""
    return f"blackstart recover {run.run}"


def _cause(run: FinishedRun) -> str:
    verdict = run.judgement.verdict
    if verdict in (Verdict.PASSED, Verdict.FAILED):
        return ""
    reasons = [one_line(r.text, 240).rstrip(".") for r in run.judgement.reasons if not r.code.endswith(_GOOD_NEWS)]
    why = "; ".join(dict.fromkeys(reasons[:2])) or "no reason was recorded"
    if verdict is Verdict.DIRTY:
        problems = [one_line(fault.undo_problem, 200).rstrip(".") for fault in run.faults if fault.undo_problem]
        return f"Run `{undo_command(run)}` now: something may still be broken ({'; '.join(problems) or why})."
    return f"{why}."


def _injected(run: FinishedRun) -> bool:
    return any(fault.injecting_s is not None for fault in run.faults)


def _rto(run: FinishedRun) -> Judged | None:
    return next((judged for judged in run.judgement.objectives if judged.name == "rto"), None)


def _users(run: FinishedRun) -> str:
    recovery, rto = run.measurement.recovery, _rto(run)
    allowed = f"; up to {figures.target(rto.target)} were allowed" if rto else ""
    if not _injected(run):
        return "Nothing was injected."
    if recovery.recovery_time is not None and recovery.impact is not None:
        told = _interruption(exposure(run), f"for {figures.interval(recovery.recovery_time)}") + allowed
    elif recovery.impact is not None and recovery.censored_after_s is not None:
        # Back only when the fault was taken away: that is no recovery from it.
        until = "until the fault was undone" if recovery.recovered else "until watching ended"
        length = f"for more than {figures.at_least(recovery.censored_after_s)}, {until}"
        told = _interruption(exposure(run), length) + allowed
    elif recovery.masked or recovery.degraded_s > 0:
        told = f"No interruption longer than {figures.at_most(recovery.longest_gap_s)} was seen{allowed}{_degraded(run)}"
    else:
        why = one_line(run.measurement.missing.get("recovery_time", "no figure was recorded"), 200).rstrip(".")
        return f"How long users were without answers is not known: {why}."
    number = interruptions(run)
    if recovery.impact is not None and number > 1:
        told += f"; it was the longest of {number} interruptions"
    return told + ("; it began only after the fault had been undone." if "undone" in recovery.follows else ".")


def _degraded(run: FinishedRun) -> str:
    lasted, seen = run.measurement.recovery.degraded_s, exposure(run)
    if lasted <= 0:
        return ""
    told = f", but for {lasted:.1f} s a part of the answers was bad"
    return f"{told}: {_shares(seen)}" if seen else told


def _interruption(seen: Exposure | None, length: str) -> str:
    """Who was hit, and how badly; `length` is `for 2.93 s [2.91, 2.95]`."""
    if seen is None:
        return f"Users were interrupted {length}"
    if seen.total:
        wanted = "right answers" if seen.wrong == seen.sent else "answers in time" if seen.late else "answers"
        return f"Users were without {wanted} {length}"
    return f"Users were partly interrupted {length}: {_shares(seen)}"


def _shares(seen: Exposure) -> str:
    """Which part of the answers was bad, of how many, where."""
    troubles = []
    if seen.failed:
        verb = "were wrong" if seen.wrong == seen.failed else "failed"
        troubles.append(f"{_part(seen.failed, seen)} of answers {verb} ({seen.failed:,} of {seen.sent:,})")
    if seen.late:
        troubles.append(f"{_part(seen.late, seen)} came late ({seen.late:,} of {seen.sent:,})")
    told = f"{' and '.join(troubles)} on lane {one_line(seen.lane, 40)}"
    if seen.spared is None:
        return told
    spared = seen.spared
    right = f"{_part(spared.right, spared)} came right and in time ({spared.right:,} of {spared.sent:,})"
    return f"{told}, while {right} on lane {one_line(spared.lane, 40)}"


def _part(number: int, seen: Exposure) -> str:
    return figures.share(number / seen.sent)


def _data(run: FinishedRun) -> str:
    loss, judged = run.measurement.data_loss, any(o.name == "rpo" for o in run.judgement.objectives)
    if loss is None:
        why = one_line(run.measurement.missing.get("data_loss", ""), 200).rstrip(".")
        return f"Data loss is not known: {why or 'no writes were followed'}." if judged and _injected(run) else ""
    damaged = [
        figures.count(n, "write") + what
        for n, what in (
            (loss.corrupt, " came back damaged"),
            (loss.duplicated, " came back twice"),
            (loss.unread, " could not be read back"),
        )
        if n
    ]
    if loss.acknowledged == 0:
        told = "No write was acknowledged, so none could be lost"
    elif loss.lost:
        oldest = f", the oldest {figures.interval(loss.oldest_lost)} before the fault" if loss.oldest_lost else ""
        told = f"{loss.lost:,} of {figures.count(loss.acknowledged, 'acknowledged write')} {_were(loss.lost)} lost{oldest}"
    elif loss.unread:
        told = f"Of {figures.count(loss.acknowledged, 'acknowledged write')} none is known to be lost"
    else:
        told = f"Nothing that had been acknowledged was lost ({figures.count(loss.acknowledged, 'write')})"
    return "; ".join([told, *damaged]) + "."


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _quality(run: FinishedRun) -> str:
    loss = run.measurement.quality_loss
    if loss is None or not loss.wrong_answers or not _injected(run):
        return ""
    by = f", by {one_line(figures.joined(loss.backends), 80)}" if loss.backends else ""
    answers = figures.count(loss.wrong_answers, "wrong answer")
    return f"{answers} {_were(loss.wrong_answers)} served as right{by} ({loss.checked:,} were checked)."


def _streams(run: FinishedRun) -> str:
    streams = run.measurement.streams
    if streams is None or not streams.cut or not _injected(run):
        return ""
    return f"{streams.cut:,} of {figures.count(streams.opened, 'open stream')} {_were(streams.cut)} cut."


def _others(run: FinishedRun) -> list[str]:
    """Objectives that were missed and are not told above."""
    missed = [o for o in run.judgement.objectives if o.verdict is Verdict.FAILED and o.name not in _TOLD]
    return [one_line(o.text, 200).rstrip(".") + "." for o in missed]


def _held(fault: InjectedFault) -> bool:
    return fault.injecting_s is not None and not fault.undo_verified


def _put_back(run: FinishedRun) -> str:
    if not _injected(run):
        return ""
    left = [fault.kind for fault in run.faults if _held(fault)]
    if not left:
        return "Everything was put back."
    return "" if run.judgement.verdict is Verdict.DIRTY else f"It is not proven that {figures.joined(left)} was put back."


def _next(run: FinishedRun) -> str:
    """What the reader should do now; a pass asks for nothing."""
    verdict = run.judgement.verdict
    if verdict is Verdict.PASSED:
        return ""
    if verdict is Verdict.DIRTY:
        return "The drill counts for nothing until that command has succeeded."
    if verdict is Verdict.INTERNAL:
        return "Next: report this with the run's folder, and read nothing into its figures."
    if verdict is not Verdict.FAILED:
        return "Next: remove that cause and run the drill again; it shows neither a pass nor a failure."
    missed = {judged.name for judged in run.judgement.objectives if judged.verdict is Verdict.FAILED}
    return f"Next: {_remedy(run, missed)}, then run the drill again."


def _remedy(run: FinishedRun, missed: set[str]) -> str:
    stretches = run.measurement.anatomy
    late = "rto" in missed or ("time_to_redundancy" in missed and any(part.until == "redundancy" for part in stretches))
    # What lasted until the undo had nothing of its own that brought it back, so there is nothing to shorten.
    if stretches and late and not missed & _GRAVER and (worst := longest(stretches)).until != "undo":
        return f"shorten the longest part of the recovery, until {until(worst)} ({worst.length_s:.1f} s, {figures.share(worst.share)})"
    return next(remedy for name, remedy in _REMEDIES.items() if name in missed)


_GRAVER = {"rpo", "quality_loss", "mixed_answers"}  # than a recovery that took too long
_REMEDIES = {  # by what was missed; the gravest first
    "rpo": "find out why acknowledged writes did not survive (their ids are below)",
    "quality_loss": "find out who gave wrong answers and why it stayed in rotation (an example is below)",
    "mixed_answers": "keep a replica whose model differs out of rotation (which one, and when, is below)",
    "rto": "find out what the service was waiting for (the picture and the answers below show it)",
    "time_to_redundancy": "find out what kept a replica from answering by itself (the picture below shows which)",
    "time_to_single_digest": "find out which replica kept its model and why (their digests are below)",
    "time_to_detect": "let a health endpoint ask the model itself",
    "streams_cut": "find out who ended these streams (the picture below shows when each was cut)",
    "stream_gap": "find out what these streams were waiting for",
    "availability": "see below which answers failed, and when",
}
