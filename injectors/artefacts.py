"""What all faults of files have in common: jobs for file_agent.py, planned by layout, proven by digests, put back byte for byte."""

import posixpath
from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from . import file_agent
from .base import Evidence, ForeignChange, Injector, Privilege, Refusal, Undo, Unseen
from .file_proofs import as_before, changed, marks_of, standing, started_damaged, was_changed
from .lifecycle import end_agent
from .mappings import mapped, when_all_bite
from .means import AGENT, Means
from .model_formats.layout import Unreadable
from .model_formats.mutations import Job
from .platforms.abilities import AgentLooks
from .platforms.base import Platform, PlatformError, Target, alike
from .platforms.container_files import FIRST
from .processes import harmed, known
from .strangers import refuse_strangers
from .values import JSON

DIGEST = "sha256 of the file, read by the platform"


def refuse_elsewhere(injector: Injector, platform: Platform) -> None:
    """Where a kind has no means, or none for such parameters, the plan says so."""
    if platform.name not in injector.means_on:
        what = injector.kind if injector.means_on == injector.platforms else f"{injector.kind} as it is written here"
        names = " and ".join(sorted(injector.means_on))
        raise Refusal(f"not injecting: {what} has means on platform {names} alone, and this is {platform.name}")


def readers_of(targets: tuple[Target, ...], platform: Platform) -> list[int]:
    """Who may have the files open, with all below them, by the pids that the agent sees: in a container of whatever the first process is
    above, so that somebody's own `exec` is a stranger.
    """
    return [pid for target in targets for pid in platform.pids(target)] if platform.name == "process" else [FIRST]


def look_ahead(requests: Iterable[tuple[Target, JSON]], platform: Platform) -> None:
    """What the agents would refuse is refused here, before a whole baseline has been waited for. Raises Refusal."""
    if not isinstance(platform, AgentLooks):
        return
    for target, request in requests:
        try:
            why = platform.agent_look(target, "mutate-file", request)
        except PlatformError as error:
            raise Refusal(f"not injecting: {error}") from error
        if why:
            raise Refusal(f"not injecting: {why}")


class FileFault(Injector):
    """Files are changed beside their reader by an agent that keeps the originals. Subclasses say what is done to which."""

    done_by: ClassVar[Means] = AGENT
    proven_by: ClassVar[str] = "the file's digest or mode, read by another process than the one that changed it"
    undone_by: ClassVar[str] = "the agent that keeps the originals puts them back, byte for byte; the digest is compared"
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC
    load: str | None = None

    @abstractmethod
    def jobs(self, target: Target, platform: Platform) -> list[Job]:
        """What is done to which files of that target. Raises Unreadable or Refusal."""

    @abstractmethod
    def word(self) -> str:
        """What is done, for people and for the agent's record."""

    def sampled(self) -> int:
        """What decides among equally harmful numbers."""
        return 0

    def everybodys(self) -> bool:
        """Whether all of a role read the same path, so that who else sees this very file reads it."""
        return True

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        refuse_elsewhere(self, platform)
        files = {target.name: self._look(target, platform) for target in targets}
        refuse_shared(self, targets, files, platform)
        undo = Undo(targets, {"files": files})
        look_ahead([(target, self._request(undo, target, prior, platform)) for target, prior in _once(undo)], platform)
        return undo

    def bites(self, undo: Undo) -> str:
        looked = undo.prior["files"].values()
        if all(each["bites"] == "now" for each in looked):
            return "now"
        return "on-restart" if all(part["outlives"] for each in looked for part in each["parts"]) else "never"

    def otherwise(self, undo: Undo) -> str:
        if any(each["bites_by_mapping"] != "now" for each in undo.prior["files"].values()):
            return ""
        return "or, for a server that reads its weights through the mapping and keeps no copy, write `load: mmap` under `model` in the service file"

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target, prior in _once(undo):
            request = self._request(undo, target, prior, platform)
            platform.agent_begin(undo.fault, target, "mutate-file", request, undo.deadline_s)

    def _request(self, undo: Undo, target: Target, prior: JSON, platform: Platform) -> JSON:
        jobs = [{"path": part["path"], "expected": part["digest"], "do": part["do"]} for part in prior["parts"]]
        request = {"mutation": self.word(), "seed": self.sampled(), "reader": target.details.get("pid"), "jobs": jobs}
        return {**request, "readers": readers_of(undo.targets, platform)}

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        facts, told = {}, []
        for target, prior in _once(undo):
            try:
                at = standing(target, platform)
                seen = [changed(undo, target, at, part, platform) for part in prior["parts"]]
            except PlatformError as error:
                raise Unseen(f"whether {prior['path']} is still changed cannot be seen: {error}") from error
            facts[target.name] = {**seen[0], "also": seen[1:]} if seen[1:] else seen[0]
            told += [
                f"{each['path']}: {each['digest_before'][:23]} became {each['digest_after'][:40]}"
                + (", mode 000" if each["mode"] == 0 else "")
                for each in seen
            ]
        return Evidence(DIGEST, "; ".join(told), facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        """Put every file back; then whatever started while it was damaged, and so may hold the damage in memory, starts again."""
        foreign, put_back = [], {}
        for target, prior in _once(undo):
            beside = tuple(file_agent.beside(part["real"], undo.fault) for part in prior["parts"] if part["outlives"])
            try:
                answer = end_agent(undo, target, platform, beside[:1])
                put_back[prior["id"]] = was_changed(answer, target, prior, platform)
            except ForeignChange as error:
                foreign.append(str(error))
        for target in undo.targets:
            prior = undo.prior["files"][target.name]
            now = platform.current(target.name)
            if not put_back.get(prior["id"]):
                continue
            if now is None:
                platform.revive(target.name)  # it may have died of the damage
            elif harmed(now, prior, platform) if now.identity == target.identity else started_damaged(now, prior, platform):
                platform.restart(now)
        if foreign:
            raise ForeignChange("; ".join(foreign))

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        facts, told = {}, []
        for target, prior in _once(undo):
            at = standing(target, platform)
            for part in prior["parts"]:
                as_before(undo, at, part, platform)
                told.append(f"{part['path']}: {part['digest'][:23]} again")
            facts[target.name] = {key: prior["parts"][0][key] for key in ("path", "digest", "mode")}
        return Evidence(DIGEST, "; ".join(told), facts)

    def _look(self, target: Target, platform: Platform) -> JSON:
        try:
            jobs = self.jobs(target, platform)
            own = list(platform.own(target))
            parts = [_part(target, job, platform) for job in jobs]
            if (
                self.jobs(target, platform) != jobs
            ):  # the digests hold the agent to what was read only if it was read of the same files
                raise Refusal(f"not injecting: {jobs[0].path} was changed while it was looked at")
            seen = known(own, platform.own(target))
        except (PlatformError, Unreadable) as error:
            raise Refusal(f"not injecting: {error}") from error
        in_memory = [part["mapped"] for part in parts]
        bites = {"bites": when_all_bite(jobs, self.load, in_memory), "bites_by_mapping": when_all_bite(jobs, "mmap", in_memory)}
        return {"parts": parts, **bites, "path": parts[0]["path"], "id": parts[0]["id"], **seen}


def _part(target: Target, job: Job, platform: Platform) -> JSON:
    """A file as it is before the fault, and what will be done to it."""
    found = platform.file(target, job.path)
    if found.get("unfit"):
        raise Refusal(f"not injecting: {job.path} {found['unfit']}")
    marks = marks_of(found, platform.file(target, posixpath.dirname(found["real"])))
    digest = platform.digest(target, job.path)
    before = {"path": job.path, "digest": digest, "mode": found["mode"]}
    about = {key: found[key] for key in ("real", "id", "outlives")}
    return {**before, "mapped": mapped(target, job.path, platform), "do": job.do, "marks": marks, **about}


def refuse_shared(injector: FileFault, targets: tuple[Target, ...], files: dict[str, JSON], platform: Platform) -> None:
    """Whoever else reads a file would be hit as well, beyond what the scenario says that it hits."""
    names = {target.name for target in targets}
    every = {(part["path"], part["id"]) for each in files.values() for part in each["parts"]}
    for other in platform.find():
        if other.name in names or any(name.startswith(f"{other.name}/") for name in names):
            continue
        for path, whose in sorted(every):
            peer = injector.everybodys() and alike(other, targets[0])
            if (peer or mapped(other, path, platform)) and platform.file(other, path)["id"] == whose:
                raise Refusal(f"not injecting: {other.name} reads {path} as well; make it a target, or give each its own file")
    refuse_strangers([(target, part["real"]) for target in targets for part in files[target.name]["parts"]], platform)


def ids_of(undo: Undo) -> set[str]:
    """Of the files that a fault changes or has readers wait for; none where it is no fault of files."""
    return {part["id"] for each in undo.prior.get("files", {}).values() for part in each.get("parts", ())}


def _once(undo: Undo) -> list[tuple[Target, JSON]]:
    """Each file once, by the first of the targets that read it."""
    found: dict[str, tuple[Target, JSON]] = {}
    for target in undo.targets:
        prior = undo.prior["files"][target.name]
        found.setdefault(prior["id"], (target, prior))
    return list(found.values())
