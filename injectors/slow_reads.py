"""The files of a model are slow to read: slow-read, by the kernel's permission events (fanotify(7)).

Whoever opens one of these files, or reads from it, waits in the kernel until an agent lets it go on. When that agent ends, however it ends,
the kernel lets everybody go on: nothing can be left. What is read through a mapping asks nobody; of a loader that maps its file only the
opening, and what it reads before that, is slow.
"""

import posixpath
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from . import file_agent
from .artefacts import readers_of
from .base import Differs, Evidence, NotYet, Overcome, Refusal, Undo
from .compute import Meter, no_agent_left
from .lifecycle import end_agent
from .model_formats import folders, read
from .model_formats.layout import Unreadable
from .model_formats.mutations import Job
from .platforms.abilities import AgentLooks, ReadTimes
from .platforms.base import Platform, PlatformError, Target
from .values import JSON

SLOW = "slow-read"
KERNEL = "the kernel's list of marked files (/proc/PID/fdinfo), and the time that another process takes to read"
DELAY = timedelta(seconds=1)
LEAST, MOST = timedelta(milliseconds=20), timedelta(seconds=10)  # less is noise; more, and nobody could look at it in time
WAITS = 2  # to open it and to read from it
LOOKS = 5  # the best of so many: a busy machine makes one of them slow
VERB = "slow-file"


def jobs(path: str, files: folders.Files) -> list[Job]:
    """Every file that the model at `path` is kept in: its shards, and what lies beside them of its tensors. Raises Unreadable."""
    found: list[str] = []
    for shard in folders.model_at(files, path).shards:
        source = files.source(shard)
        found.append(shard)
        with suppress(Unreadable):  # no model: a tokenizer's file, a configuration
            found += [posixpath.join(posixpath.dirname(shard), name) for name in read(source).files]
    return [Job(each, {"op": "slow"}) for each in dict.fromkeys(found)]


def problem(delay: timedelta) -> str:
    """What is wrong with a delay; empty: nothing."""
    if LEAST <= delay <= MOST:
        return ""
    return f"`delay` is {delay.total_seconds():g}s; it lies between {LEAST.total_seconds():g}s and {MOST.total_seconds():g}s"


def planned(targets: tuple[Target, ...], files: Mapping[str, JSON], delay: timedelta, platform: Platform) -> Undo:
    """`files`: of each target what `FileFault` looked up: `parts`, each with `path` and `real`. Raises Refusal."""
    sight, undo = _sight(platform), Undo(targets, {"files": dict(files), "delay_s": delay.total_seconds()})
    try:
        for target, paths in _each(undo):
            if (took_s := min(sight.read_time(target, paths[0]) for _ in range(LOOKS))) >= delay.total_seconds():
                raise Refusal(f"not injecting: to read {paths[0]} takes {took_s:.3g} s as it is; give a longer `delay`")
            if isinstance(platform, AgentLooks) and (why := platform.agent_look(target, VERB, _request(undo, paths))):
                raise Refusal(f"not injecting: {why}")
            file_agent.refuse_foreign(dict.fromkeys(paths, False), readers_of(targets, platform))
    except (PlatformError, file_agent.Refused) as error:
        raise Refusal(f"not injecting: {error}") from error
    return undo


def inject(undo: Undo, platform: Platform) -> None:
    for target, paths in _each(undo):
        platform.agent_begin(undo.fault, target, VERB, _request(undo, paths), undo.deadline_s)


def verify(undo: Undo, platform: Platform) -> Evidence:
    """Every file is marked, and the first one is slow for who reads it now."""
    sight, least_s, facts = _sight(platform), WAITS * undo.prior["delay_s"], {}
    for target, paths in _each(undo):
        if missing := [path for path in paths if not sight.asked_before(undo.fault, target, path)]:
            if isinstance(platform, Meter) and platform.agent_usage(undo.fault, target):
                raise Overcome(f"another file stands at {missing[0]} by now, and nobody waits for that")
            raise NotYet(f"nobody waits for {missing[0]}: no agent has the kernel ask before it is read")
        if (took_s := sight.read_time(target, paths[0])) < least_s:
            raise NotYet(f"to open {paths[0]} and read from it took {took_s:.3g} s, and {least_s:g} s are due")
        facts[target.name] = {"path": paths[0], "files": len(paths), "took_s": took_s}
    told = "; ".join(f"{each['path']}: to open it and read a byte takes {each['took_s']:.2f} s" for each in facts.values())
    return Evidence(KERNEL, told, facts)


def recover(undo: Undo, platform: Platform) -> None:
    for target, _ in _each(undo):
        end_agent(undo, target, platform)


def verify_recovered(undo: Undo, platform: Platform) -> Evidence:
    no_agent_left(undo, platform)
    sight, least_s, facts = _sight(platform), WAITS * undo.prior["delay_s"], {}
    for target, paths in _each(undo):
        took_s = min(sight.read_time(target, paths[0]) for _ in range(LOOKS))
        if took_s >= least_s:
            raise Differs(f"to open {paths[0]} and read from it still takes {took_s:.3g} s")
        facts[target.name] = {"path": paths[0], "took_s": took_s}
    told = "; ".join(f"{each['path']}: takes {each['took_s']:.3f} s, and no agent is left" for each in facts.values())
    return Evidence(KERNEL, told, facts)


def _request(undo: Undo, paths: Sequence[str]) -> JSON:
    return {"paths": list(paths), "delay_s": undo.prior["delay_s"]}


def _sight(platform: Platform) -> ReadTimes:
    if not isinstance(platform, ReadTimes):
        raise Refusal(f"not injecting: platform {platform.name} has no means to make reading one file slow")
    return platform


def _each(undo: Undo) -> list[tuple[Target, list[str]]]:
    """The files of each target without links, those that several read by the first of them alone."""
    found, seen = [], set()
    for target in undo.targets:
        paths = [part["real"] for part in undo.prior["files"][target.name]["parts"] if part["real"] not in seen]
        seen.update(paths)
        found += [(target, paths)] if paths else []
    return found
