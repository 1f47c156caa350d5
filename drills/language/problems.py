"""What is wrong with a file, said as `FILE:LINE:COLUMN: what is wrong; what to do`."""

import json
from dataclasses import dataclass
from typing import Protocol

MOST_PROBLEMS = 1000  # a file that is wrong in more places than this is not being read by a person
MOST_SUGGESTIONS = 200  # to look for the nearest name takes a fraction of a millisecond
SHOWN = 60  # characters of a value that a message repeats


class Located(Protocol):
    """Anything with a place in a file: line and column count from 1; a negative line is the number of a `--set`."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


@dataclass(frozen=True)
class Place:
    """A place by itself."""

    line: int
    column: int


START = Place(1, 1)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. A value given by `--set PATH` has that as its file, and line 0."""

    file: str
    line: int
    column: int
    what: str
    todo: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.what}; {self.todo}"


class InvalidFiles(Exception):
    """One or more files cannot be used; `problems` has everything that is wrong with all of them."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Unreadable(Exception):
    """The file cannot be read on; why stands among the problems already."""


class Report:
    """The problems of one file, as they are found. `settings` are the paths given by `--set`, in order."""

    def __init__(self, file: str, settings: tuple[str, ...] = ()) -> None:
        self.file = file
        self.settings = settings
        self.problems: list[Problem] = []
        self.full = False

    def add(self, place: Located, what: str, todo: str) -> None:
        if self.full:
            return
        if len(self.problems) == MOST_PROBLEMS:
            self.full = True
            what, todo = f"more than {MOST_PROBLEMS} problems", "mend those above first"
        if place.line < 0:
            self.problems.append(Problem(f"--set {self.settings[-place.line - 1]}", 0, 0, what, todo))
        else:
            self.problems.append(Problem(self.file, place.line, place.column, what, todo))

    def suggests(self) -> bool:
        """Whether there are still so few problems that looking for what was meant is worth its time."""
        return len(self.problems) < MOST_SUGGESTIONS

    def fail(self, place: Located, what: str, todo: str) -> Unreadable:
        """Add a problem that ends the reading of this file: `raise report.fail(...)`."""
        self.add(place, what, todo)
        return Unreadable()

    def sorted(self) -> tuple[Problem, ...]:
        return tuple(sorted(self.problems, key=lambda problem: (problem.file, problem.line, problem.column)))


def shown(text: str) -> str:
    """A value as a message repeats it: on one line, in back quotes, cut where it is long."""
    line = json.dumps(text[: SHOWN + 1], ensure_ascii=False)[1:-1].replace('\\"', '"')
    return f"`{line[:SHOWN]}…`" if len(line) > SHOWN else f"`{line}`"
