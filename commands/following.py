"""A drill that a Job carries out, from here to its end: shown as it goes on, its folder brought home, and all that was made removed."""

import base64
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..drills.interruption import Interruption
from ..drills.journal import NAME as JOURNAL
from ..drills.refusal import Refused
from ..drills.verdict import ExitCode, worst
from ..injectors.platforms.base import PlatformError
from ..injectors.platforms.kube_drills import DrillJob
from .console import insist, tell

if TYPE_CHECKING:
    from ..drills.finished import FinishedRun

POLL_S, AGAIN_S = 0.25, 1.0
QUIET_S = 2.0  # a connection that is cut and stands again at once is nobody's concern
PATIENCE_S, END_S = 900.0, 60.0  # for a cluster that is out of reach: while there is something to fetch, and to remove
LEAVE = {"SIGHUP"}  # a terminal that is closed: nobody is there to see the end, and the drill needs nobody


class Left(Exception):
    """The drill, or its folder, is left where it is; the message says why."""


class Lost(Exception):
    """Its pod is over, and with it what was not fetched; the message says why."""


@dataclass
class Trip:
    """There and back. `come_back`: the command that does the same later."""

    job: DrillJob
    out: Path
    come_back: str
    interruption: Interruption
    kill_switch: Path | None = None
    told: int = 0  # bytes of what the drill said
    line: bytes = b""  # the beginning of one that is not whole yet
    stopping: bool = False
    silent_since: float | None = None
    said_so: bool = False  # that it is out of reach
    ended: int | None = field(default=None, init=False)

    def follow(self) -> None:
        """Show what the drill says until it has ended. Raises Left, Lost."""
        tell("following it; Ctrl-C stops it in order, a second one leaves it running")
        while self.ended is None:
            try:
                answer = self.job.ask({"told": self.told, "stop": self._stop()})
            except PlatformError as error:
                self._out_of_reach(error)
            else:
                self._heard()
                said = base64.b64decode(answer.get("told", ""))
                self._show(said)
                if said:
                    continue  # there may be more
                self.ended = answer["ended"]
            self._look_up()
        if self.line:
            self._show(b"\n")

    def fetch(self) -> Path | None:
        """Its folder as it is there, whole; None where the drill has made none. Raises Left, Lost."""
        folder = self.out / self.job.run
        part = self.out / f".{self.job.run}.part"
        while True:
            try:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                there = self.job.fetch(part)
                if there:
                    _put(part, folder)
            except OSError as error:
                raise Left(
                    f"the run's folder could not be written: {error.filename or folder}: {error.strerror or error}"
                ) from error
            except PlatformError as error:
                self._out_of_reach(error)
                self._look_up(AGAIN_S)
            else:
                return folder if there else None
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def end(self) -> None:
        """Remove all that was made. What cannot be removed is told; the cluster removes it later, with the Job."""
        limit = time.monotonic() + END_S
        while True:
            try:
                with suppress(PlatformError):  # its end does not depend on it
                    self.job.ask({"fetched": True})
                return self.job.end()
            except PlatformError as error:
                if time.monotonic() > limit or self.interruption.insisted:
                    return tell(f"what was made for the drill is not all removed: {error}; once more: {self.come_back}")
            self.interruption.wait(AGAIN_S)

    def _stop(self) -> bool:
        wanted = bool(set(self.interruption.signals) - LEAVE) or bool(self.kill_switch and self.kill_switch.exists())
        if wanted and not self.stopping:
            self.stopping = True
            tell("stopping it in order: it undoes what it did, and is fetched; another Ctrl-C leaves it to itself")
        return wanted

    def _look_up(self, seconds: float = POLL_S) -> None:
        if self.interruption.insisted or LEAVE & set(self.interruption.signals):
            raise Left("left to itself")
        self.interruption.wait(seconds)

    def _out_of_reach(self, error: PlatformError) -> None:
        if why := self.job.lost():
            raise Lost(why) from error
        now = time.monotonic()
        if self.silent_since is None:
            self.silent_since = now
        if now - self.silent_since > QUIET_S and not self.said_so:
            self.said_so = True
            tell(f"out of reach for now: {error}; nothing of the drill depends on that")
        if now - self.silent_since > PATIENCE_S:
            raise Left(f"out of reach for {PATIENCE_S / 60:g} min: {error}") from error

    def _heard(self) -> None:
        if self.said_so and self.silent_since is not None:
            tell(f"within reach again after {time.monotonic() - self.silent_since:.0f} s")
        self.silent_since, self.said_so = None, False

    def _show(self, said: bytes) -> None:
        self.told += len(said)
        *lines, self.line = (self.line + said).split(b"\n")
        for each in lines:
            tell(each.decode("utf-8", "replace"))


def brought_home(trip: Trip, *, quietly: bool = False) -> "tuple[FinishedRun | None, ExitCode]":
    """The drill to its end, its folder, its exit code. `quietly`: the result is printed by whoever called."""
    try:
        trip.follow()
        folder = trip.fetch()
    except Left as left:
        tell(f"{trip.job.run}: {left}; to come back: {trip.come_back}")
        return None, ExitCode.DIRTY if trip.ended is None else worst([ExitCode.INCONCLUSIVE, *_known(trip.ended)])
    except Lost as lost:
        return None, _lost(trip, str(lost))
    trip.end()
    if folder is None:
        return None, _without_folder(trip)
    return _told(folder, trip, quietly=quietly)


def _known(code: int | None) -> list[ExitCode]:
    """An exit code that a drill may end with; that of a process that was killed is none."""
    return [ExitCode(code)] if code in set(ExitCode) - {ExitCode.USAGE} else []


def _lost(trip: Trip, why: str) -> ExitCode:
    job = trip.job
    code, claim = job.exit_code(), job.claim()
    left = True
    with suppress(PlatformError):
        left = job.left()
    trip.end()
    if code == ExitCode.USAGE and not left:
        raise Refused([f"not injecting: {job.run} was refused in its pod: {why}"])
    tell(why)
    if left:
        tell(f"{job.run} may have left something; run: blackstart recover {job.run}")
    tell(f"{job.run}: its folder {f'lies on claim {claim}, in {job.run}' if claim else 'is lost with the pod'}")
    return ExitCode.DIRTY if left else worst([ExitCode.INCONCLUSIVE, *(_known(code) or [ExitCode.ABORTED])])


def _without_folder(trip: Trip) -> ExitCode:
    """A drill that injected nothing: it was refused there, or stopped before it began."""
    if trip.ended == ExitCode.USAGE:
        raise Refused([f"not injecting: refused in the pod of {trip.job}, for the reasons above"])
    return (_known(trip.ended) or [ExitCode.INTERNAL])[0]


def _told(folder: Path, trip: Trip, *, quietly: bool) -> "tuple[FinishedRun, ExitCode]":
    """The folder is home: the result, as after a drill from here. Of one that was killed the reports are still to be written."""
    from ..drills.replay import read_run
    from ..reports.files import write_reports
    from ..reports.text import show, text
    from .drilling import point_latest

    finished = read_run(folder)
    for problem in () if (folder / "result.json").exists() else write_reports(finished):
        tell(problem)
    point_latest(folder)
    if not quietly:
        insist(text(finished), lambda: show(finished, sys.stdout, os.environ))
    return finished, (_known(trip.ended) or [finished.judgement.exit_code])[0]


def _put(part: Path, folder: Path) -> None:
    """In the place of what may lie there: a copy that `recover` made of the same run while it went on is replaced, all else kept."""
    if folder.exists():
        journal = folder / JOURNAL
        before = journal.read_bytes() if journal.exists() else b""
        if (part / JOURNAL).exists() and (part / JOURNAL).read_bytes().startswith(before):
            shutil.rmtree(folder)
        else:
            aside = folder.with_name(f"{folder.name}.before-{os.getpid()}")
            folder.replace(aside)
            tell(f"the folder that lay at {folder} has another journal, and is kept as {aside}")
    part.replace(folder)
