"""Which serving engine it is: by what it answers, or by the command lines of its processes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from .asking import Heard, heard
from .engine_profile import ENGINE_NAMES, EngineProfile, Trait
from .loading import engine_profile

ANSWER_S = 2.0


@dataclass(frozen=True)
class Recognised:
    """An engine, and what gave it away."""

    profile: EngineProfile
    by: str


def recognised(url: str | None, commands: Sequence[str] = ()) -> Recognised | None:
    """The engine that answers there, else the one that the first telling command line belongs to; None: none that is known.

    `commands` are those of one replica's processes, parents first: what an engine runs below itself may be another engine. `url` None
    asks nothing.
    """
    profiles = [engine_profile(name) for name in ENGINE_NAMES]
    if url is not None:
        answers = cache(lambda path: _answer(url, path))
        for profile in profiles:
            for trait in profile.recognised.answers:
                if _fits(trait, answers(trait.path)):
                    return Recognised(profile, f"by its answer to {trait.path}")
    for command in commands:
        for profile in profiles:
            pattern = profile.recognised.command_line
            if pattern and (match := re.search(pattern, command)):  # the rest of it may hold a secret
                return Recognised(profile, f"by `{match[0].strip()}` in a command line")
    return None


def engine_pattern(commands: Sequence[str] | None, profile: EngineProfile | None) -> str | None:
    """How the processes that compute are told from others in those command lines, as the profiles have it; None: none is there.

    The recognised engine's own pattern before those of others.
    """
    others = (engine_profile(name) for name in ENGINE_NAMES)
    patterns: Iterable[str] = (
        each.roles["engine"].command_line for each in (*([profile] if profile else []), *others) if "engine" in each.roles
    )
    return next((pattern for pattern in patterns if any(re.search(pattern, command) for command in commands or ())), None)


def _answer(url: str, path: str) -> Heard | None:
    try:
        return heard(url + path, ANSWER_S)
    except OSError:
        return None


def _fits(trait: Trait, answer: Heard | None) -> bool:
    if answer is None:
        return False
    if trait.server is not None and re.search(trait.server, answer.server):
        return True
    return trait.text is not None and 200 <= answer.status < 300 and bool(re.search(trait.text, answer.text))
