"""The files of a model are slow to read: slow-read, by the kernel's permission events (fanotify(7)).

Whoever opens one of these files, or reads from it, waits in the kernel until an agent lets it go on. When that agent ends, however it ends,
the kernel lets everybody go on: nothing can be left. A page that comes through a mapping asks nobody: of a loader that maps its file only the
opening, and what it reads before that, is slow. The second source is the kernel's own list of marked files, and a reader of blackstart's.
"""

import posixpath
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from . import file_agent
from .artefacts import FileFault, readers_of, refuse_elsewhere, refuse_shared
from .base import Differs, Evidence, NotYet, Overcome, Refusal, Undo
from .file_proofs import standing
from .model_formats import folders, read
from .model_formats.layout import Unreadable
from .model_formats.mutations import Job
from .platforms.abilities import ReadTimes, end_agents
from .platforms.base import Platform, PlatformError, Target, Unavailable
from .values import JSON

SLOW = "slow-read"
KERNEL = "the kernel's list of marked files (fdinfo), and a timed read"
TABLE = "the kernel's process table"
DELAY = timedelta(seconds=1)
LEAST, MOST = timedelta(milliseconds=20), timedelta(seconds=10)  # less is noise; more, and nobody could look at it in time
WAITS = 2  # to open it and to read from it
LOOKS = 5  # the best of so many: a busy machine makes one of them slow
VERB = "slow-file"
REPLACED = "another file than before, or none,"


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


def planned(injector: FileFault, targets: tuple[Target, ...], delay: timedelta, platform: Platform) -> Undo:
    """Raises Refusal."""
    refuse_elsewhere(injector, platform)
    sight = _sight(platform)
    try:
        files = {target.name: _looked(injector.jobs(target, platform), target, platform) for target in targets}
        refuse_shared(injector, targets, files, platform)
        undo = Undo(targets, {"files": files, "delay_s": delay.total_seconds()})
        for target, parts in _held(undo):
            if why := sight.slow_site.agent_look(target, VERB, _request(undo, parts)):
                raise Refusal(f"not injecting: {why}")
            if platform.name == "process":  # who else has a volume of an engine's or a cluster's was asked above
                paths = dict.fromkeys((part["real"] for part in parts), False)
                file_agent.refuse_foreign(paths, readers_of(targets, platform), file_agent.never)
        for target in targets:
            _refuse_slow_already(undo, target, sight)
    except (PlatformError, Unreadable, file_agent.Refused) as error:
        raise Refusal(f"not injecting: {error}") from error
    return undo


def _looked(jobs: Sequence[Job], target: Target, platform: Platform) -> JSON:
    """The files as they are. One that nobody may write to can be slow all the same."""
    parts = []
    for job in jobs:
        found = platform.file(target, job.path)
        if found.get("unfit") and not found.get("only_read"):
            raise Refusal(f"not injecting: {job.path} {found['unfit']}")
        parts.append({"path": job.path, **{key: found[key] for key in ("real", "id", "outlives", "inode")}})
    return {"parts": parts, "bites": "on-restart", "bites_by_mapping": "on-restart"}


def _refuse_slow_already(undo: Undo, target: Target, sight: ReadTimes) -> None:
    path, delay_s = _first(undo, target), undo.prior["delay_s"]
    if (took_s := min(sight.read_time(target, path) for _ in range(LOOKS))) >= delay_s:
        raise Refusal(f"not injecting: to read {path} takes {took_s:.3g} s as it is; give a longer `delay`")


def inject(undo: Undo, platform: Platform) -> None:
    for target, parts in _held(undo):
        _sight(platform).slow_site.agent_begin(undo.fault, target, VERB, _request(undo, parts), undo.deadline_s)


def verify(undo: Undo, platform: Platform) -> Evidence:
    """The kernel asks before any of the files is read, and for every target the first one is slow."""
    sight, facts = _sight(platform), {}
    for target, parts in _held(undo):
        for path in sight.slow_site.unasked(undo.fault, target, [part["real"] for part in parts]):
            _raise_what_became(next(part for part in parts if part["real"] == path), target, platform)
    for target in undo.targets:
        took_s, least_s = _took_s(undo, target, platform), WAITS * undo.prior["delay_s"]
        path = _first(undo, target)
        if took_s is not None and took_s < least_s:
            raise NotYet(f"to open {path} and read from it took {target.name} {took_s:.3g} s, and {least_s:g} s are due")
        facts[target.name] = {"path": path, "files": len(undo.prior["files"][target.name]["parts"]), "took_s": took_s}
    return Evidence(KERNEL, "; ".join(map(_shown, facts.values())), facts)


def recover(undo: Undo, platform: Platform) -> None:
    site = _sight(platform).slow_site
    end_agents(undo.fault, [(site, target) for target, _ in _held(undo)])


def verify_recovered(undo: Undo, platform: Platform) -> Evidence:
    """No agent lives, and reading is quick again. Of a file that is not there any more nothing could be timed: the marks were its own, and
    the kernel takes them back with the agent.
    """
    sight, facts = _sight(platform), {}
    for target, parts in _held(undo):
        if sight.slow_site.agent_lives(undo.fault, target):
            raise Differs(f"the agent that has readers of {parts[0]['real']} wait still lives")
    for target in undo.targets:
        part, at, took_s = undo.prior["files"][target.name]["parts"][0], standing(target, platform), None
        path = part["real"]
        if _is_there(part, at, platform):
            took_s = min(sight.read_time(at, path) for _ in range(LOOKS))
            if took_s >= WAITS * undo.prior["delay_s"]:
                raise Differs(f"to open {path} and read from it still takes {target.name} {took_s:.3g} s")
        facts[target.name] = {"path": path, "took_s": took_s}
    timed = any(fact["took_s"] is not None for fact in facts.values())
    told = "; ".join(f"{_shown_after(fact)}, and no agent is left" for fact in facts.values())
    return Evidence(f"{TABLE}, and a timed read" if timed else TABLE, told, facts)


def _is_there(part: JSON, at: Target, platform: Platform) -> bool:
    """Whether it is that very file still: another one under its name was never slow."""
    return bool(platform.file(at, part["real"])["inode"] == part["inode"])


def _raise_what_became(part: JSON, target: Target, platform: Platform) -> None:
    """A file that was replaced, whose readers nobody waits for; else the agent is gone, and with it the fault."""
    if not _is_there(part, standing(target, platform), platform):
        raise Overcome(f"{REPLACED} is at {part['real']} by now")
    raise NotYet(f"nobody waits for {part['real']}: no agent has the kernel ask before it is read")


def _took_s(undo: Undo, target: Target, platform: Platform) -> float | None:
    """Seconds; None where nothing runs from which it could be read, as in the middle of a restart. Raises NotYet."""
    now = platform.current(target.name)
    if now is None or platform.state(now) != "running":
        return None
    try:
        return _sight(platform).read_time(now, _first(undo, target))
    except Unavailable:
        raise
    except PlatformError as problem:
        raise NotYet(f"how long {target.name} takes to read cannot be told: {problem}") from problem


def _shown(fact: JSON) -> str:
    if fact["took_s"] is None:
        return f"{fact['path']}: the kernel has readers wait; nothing runs from which that could be timed"
    return f"{fact['path']}: to open it and read a byte takes {fact['took_s']:.2f} s"


def _shown_after(fact: JSON) -> str:
    took_s, path = fact["took_s"], fact["path"]
    return f"{path}: {REPLACED} is there by now" if took_s is None else f"{path}: takes {took_s:.3f} s"


def _first(undo: Undo, target: Target) -> str:
    path: str = undo.prior["files"][target.name]["parts"][0]["real"]
    return path


def _request(undo: Undo, parts: Sequence[JSON]) -> JSON:
    return {"paths": [part["real"] for part in parts], "delay_s": undo.prior["delay_s"]}


def _sight(platform: Platform) -> ReadTimes:
    if not isinstance(platform, ReadTimes):
        raise Refusal(f"not injecting: platform {platform.name} has no means to make reading one file slow")
    return platform


def _held(undo: Undo) -> list[tuple[Target, list[JSON]]]:
    """Who has an agent for which files: those that several read on one machine are the first one's."""
    found: list[tuple[Target, list[JSON]]] = []
    seen: set[tuple[str, str]] = set()
    for target in undo.targets:
        machine = str(target.details.get("node", ""))
        parts = [part for part in undo.prior["files"][target.name]["parts"] if (machine, part["id"]) not in seen]
        seen.update((machine, part["id"]) for part in parts)
        found += [(target, parts)] if parts else []
    return found
