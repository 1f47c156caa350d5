"""Which processes of a target died or came since a plan: what a damaged file may have ended, and what may have loaded it."""

from collections.abc import Sequence

from .platforms.base import Platform, PlatformError, Target, Unavailable
from .values import JSON

STAYS_S = 1.0  # a process that is there for so long is no passing one


def known(first: Sequence[str], later: Sequence[str]) -> JSON:
    """For an undo record, of two looks: `own`, all that was seen, and `stayed`, those that a health check is not among, which comes and goes."""
    return {"own": list(dict.fromkeys([*first, *later])), "stayed": [identity for identity in first if identity in later]}


def harmed(now: Target, prior: JSON, platform: Platform) -> bool:
    """Whether a process within it died since, as one does that reads beyond the end of a mapped file, or came since."""
    there = set(_own(now, platform))
    return bool(there and set(prior["stayed"]) - there) or newcomers(now, prior, platform)


def newcomers(now: Target, prior: JSON, platform: Platform) -> bool:
    """Whether a process within it came after the plan and stays, such as a worker in the place of one that died, or the first one of a
    container that was started again in its pod: it may have loaded the damage.
    """
    if not (came := set(_own(now, platform)) - set(prior["own"])):
        return False
    platform.given_up.wait(STAYS_S)
    again = platform.current(now.name)
    return bool(again and came & set(_own(again, platform)))


def _own(target: Target, platform: Platform) -> tuple[str, ...]:
    """Nothing where nothing runs that could be looked into."""
    try:
        return platform.own(target)
    except Unavailable:
        raise
    except PlatformError:
        return ()
