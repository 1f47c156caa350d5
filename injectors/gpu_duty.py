"""How much of the time a device has worked for an agent that keeps it at work."""

from math import inf

from .base import NotYet
from .gpu_proof import LEAST_DEMAND
from .values import JSON

LEAST_LOOK_S, SURE_S, LONGEST_LOOK_S = 1.0, 5.0, 10.0
WITHIN = 0.05  # of the whole time, from SURE_S on; before that LEAST_DEMAND is all that can be said


def kept(marks: list[list[float]], asked: float, prior: JSON) -> JSON:
    """The `duty` by the device's own events `over_s` seconds. Raises NotYet where it is less than what was asked for, or more.

    Events tell of the agent's kernels alone, slices of time that others got between included: the agent takes these from what it owes, so
    that others' work makes its duty no higher, as it makes a GPU's utilisation.
    What is no real GPU is worked on by the machine's cores: there what the agent `waited` for a core makes up for what is missing, since a
    busy machine takes from it what it was about to do.
    """
    duty, over_s = duty_of(marks)
    fact: JSON = {"duty": duty, "over_s": over_s}
    if prior["hardware"] != "real":
        fact["waited"] = _share(marks, 2)
    least, most = (asked - WITHIN, asked + WITHIN) if over_s >= SURE_S else (0.0, inf)
    if over_s < LEAST_LOOK_S or duty < LEAST_DEMAND * asked or duty + fact.get("waited", 0.0) < least or duty > most:
        raise NotYet(f"{prior['device']} has {worked(fact)}, of {asked:.0%} asked for")
    return fact


def worked(fact: JSON) -> str:
    waited = fact.get("waited", 0.0)
    told = f" (which waited {waited:.0%} of it for a core)" if waited >= 0.01 else ""
    return f"worked {fact['duty']:.0%} of {fact['over_s']:.1f} s for the agent{told}"


def duty_of(marks: list[list[float]]) -> tuple[float, float]:
    """The part of the time that a device worked, by its events, and over how many of the last seconds (10 at most)."""
    window = _window(marks)
    return _share(marks, 1), window[-1][0] - window[0][0] if window else 0.0


def _window(marks: list[list[float]]) -> list[list[float]]:
    return [mark for mark in marks if marks[-1][0] - mark[0] <= LONGEST_LOOK_S]


def _share(marks: list[list[float]], column: int) -> float:
    """How much that column of the marks has grown of the time in which it did."""
    window = _window(marks)
    over_s = window[-1][0] - window[0][0] if window else 0.0
    return (window[-1][column] - window[0][column]) / over_s if over_s > 0 else 0.0
