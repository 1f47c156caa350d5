"""What only some platforms can do, and some faults need."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ..values import JSON
from .base import PlatformError, Target

NAMES = "dns:53"  # as a peer: whoever resolves names for the target
# Where an agent for an accelerator is: a process of this machine, in the target's own container, or in one of ours beside it.
HERE, INSIDE, BESIDE = "here", "inside", "beside"


def outside(peers: Sequence[str]) -> list[tuple[str, int]]:
    """Those of these peers that are no part of the service, as host and port: `hub.example:443`, `10.1.2.3:9000`, `[fd00::1]:443`."""
    found = [peer.rpartition(":") for peer in peers if peer != NAMES]
    return [(host.strip("[]"), int(port)) for host, _, port in found if host and port.isdigit()]


class Links(Protocol):
    """The ability to stand in the path between two components (the link proxy, an inline proxy).

    `rules_are_the_path`: a rule that is not listed any more is surely out of the path.
    """

    rules_are_the_path: bool

    def links(self, targets: tuple[Target, ...], peers: tuple[str, ...], rule: JSON) -> tuple[str, ...]:
        """Names of the links that join the targets with those peers (role or component names, HOST:PORT of what is no part of the
        service, or NAMES; none: everybody).

        Raises Unsupported where no link here can have such a rule.
        """

    def link_begin(self, fault: str, link: str, rule: JSON, deadline_s: float) -> JSON:
        """Put one rule on a link; returns the proxy's own record of it."""

    def link_end(self, fault: str, link: str, rule: JSON) -> JSON:
        """Take the rule away, from any process, as often as wished; returns what the proxy counted under it."""

    def link_rules(self, link: str) -> list[JSON]:
        """The rules in force on a link now, with their counters."""


@runtime_checkable
class Contents(Protocol):
    """The ability to look into large files and into folders as a target sees them, without reading the whole. Raises PlatformError."""

    def read_ranges(self, target: Target, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of a file, each (offset, length); shorter where it ends."""

    def listing(self, target: Target, folder: str) -> Mapping[str, int | None]:
        """Names in a folder with their sizes in bytes, None of what is no file."""

    def listings(self, target: Target, folders: Sequence[str]) -> list[Mapping[str, int | None] | None]:
        """The same of many at once; None for what cannot be listed."""


@runtime_checkable
class ModelSight(Protocol):
    """The ability to tell what model a replica has, at little cost, and to ask it what it serves. Raises PlatformError.

    `longest_read_s`: for how long one file may be read.
    """

    longest_read_s: float

    def model_marks(self, target: Target, path: str) -> tuple[str, Mapping[str, Sequence[int]]]:
        """The folder of the model at `path` (a file, or a folder with all below it, linked folders as well), and by the name of each
        file there its mark: inode, size and moments, what changes whenever it is written or replaced. What faults of ours keep beside a
        file is no part of it.
        """

    def model_digests(self, target: Target, path: str, ranges: Mapping[str, tuple[int, int]], per_second: int) -> JSON:
        """`sha256` of one file, and `parts`, that of parts of it by name, each (offset, length); read at no more than so many bytes a
        second. `before` and `after` are its marks: where they differ it was changed meanwhile.
        """

    def ask(self, target: Target, url: str) -> JSON:
        """`status` and `body` of the answer to a GET, asked from where the target runs."""


@runtime_checkable
class Dcgm(Protocol):
    """The ability to ask DCGM's host engine on the targets' machine, past an agent's own process."""

    def dcgm(self, device: str) -> JSON:
        """Of the GPU with that UUID: `why` DCGM tells nothing of it, or empty; `gpu`, DCGM's own number of it; `xid`, the newest XID that
        it has of it, or 0. Raises PlatformError.
        """


@runtime_checkable
class Accelerators(Protocol):
    """The ability to see the accelerators beside a target, and what an agent of ours measured there, past that agent's own process."""

    def accelerators(self, target: Target, fault: str, *, opencl: bool) -> JSON:
        """What gpu_agent.py's `look` says: `gpus` by NVML and `amd` by the kernel with their processes (`ours`: of this fault), `devices`
        of OpenCL where these are wanted, `pids` of the target and their `environment`, `agents` of this fault by the process table; `nvml`,
        `cuda`, `kfd`, `hip`, `opencl`: why each is missing, or empty. `where` it was looked from, and an agent would be: HERE, INSIDE or
        BESIDE, and there may be its `grant`, how the target got its GPU. Raises PlatformError, Unfit where that is the target's own container
        and no agent can work there.
        """

    def agent_seen(self, fault: str, target: Target) -> JSON | None:
        """What the device's runtime measured for the agent of that fault, as gpu_agent.py writes it down, with `age_s`; None: nothing."""


class AgentSite(Protocol):
    """Where agents are put; the verbs are the platform's."""

    def agent_begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON: ...

    def agent_end(self, fault: str, target: Target, beside: Sequence[str] = ()) -> JSON: ...


def end_agents(fault: str, where: Iterable[tuple[AgentSite, Target]]) -> None:
    """One that cannot be ended must not keep the others going: all are told, and then the first problem is raised. Raises PlatformError."""
    problems = []
    for site, target in where:
        try:
            site.agent_end(fault, target)
        except PlatformError as problem:
            problems.append(problem)
    if problems:
        raise problems[0]


class AcceleratorSite(Accelerators, AgentSite, Protocol):
    """Where accelerators are seen from and agents are put."""


class BesideSite(AcceleratorSite, Protocol):
    """A container of ours beside the target, which has the same GPU. `outlives`: an agent there goes on when the target starts again; else
    it lets go by itself once the target is gone.
    """

    outlives: bool

    def knowing(self, device: JSON) -> "BesideSite":
        """The same for a target that may be gone, by what `devices_of` has written down of it."""

    def vanished(self, target: Target) -> str:
        """What is gone for good with all that agents for that target had, by the platform's word, as `node n1`; empty: nothing."""


@runtime_checkable
class SiteBeside(Protocol):
    """The ability to do it from there."""

    @property
    def beside_accelerators(self) -> BesideSite: ...


class Objects(Protocol):
    """The ability to change what a cluster itself keeps of a service, its workloads and nodes, and to have a guard at the site put
    it back when this process dies, or at the deadline. What is to be changed is planned as records that any process can undo.
    """

    def fewer(self, targets: tuple[Target, ...]) -> list[JSON]:
        """Their workload without just these. Raises Unsupported where others would go, or nothing can."""

    def another_template(
        self, targets: tuple[Target, ...], image: str | None, environment: Mapping[str, str], *, starts: bool
    ) -> list[JSON]:
        """Their workload with another image or other variables in its main container. Raises Unsupported where the rollout may
        take more than the targets: all of the workload's where it may start (`starts`), else as many as may be away at once.
        """

    def cordoned(self, targets: tuple[Target, ...]) -> list[JSON]:
        """The targets' nodes closed to new pods. Raises Unsupported where one is closed already."""

    def tainted(self, targets: tuple[Target, ...], *, whole_node: bool) -> list[JSON]:
        """The targets' nodes with a taint that moves pods off; with `whole_node` those of others as well."""

    def evict(self, target: Target, *, only_ask: bool = False) -> str:
        """Move it off its node as a drain does; why that is not allowed now, empty when it is."""

    def begin(self, fault: str, changes: Sequence[JSON], deadline_s: float) -> None:
        """Arm a guard, then change. Raises PlatformError."""

    def end(self, fault: str, changes: Sequence[JSON]) -> JSON:
        """Undo, from any process, as often as wished; `undone`, or `foreign` where somebody else changed it since."""

    def missing(self, fault: str, changes: Sequence[JSON]) -> str:
        """Which change is not there, by the platform's word, or why no guard is; empty: all are."""

    def left(self, changes: Sequence[JSON]) -> str:
        """Which change is still there; empty: none is."""

    def beside(self, target: Target) -> tuple[Target, ...]:
        """Everything that the same workload keeps now."""

    def unfinished(self, target: Target) -> str:
        """What the target's workload still has to do to be as it should be; empty: nothing."""

    def closed(self, node: str) -> bool:
        """Whether the cluster's controllers take the node for closed to new pods."""


@runtime_checkable
class AgentLooks(Protocol):
    """The ability to ask an agent's program what it would say, before anything is changed."""

    def agent_look(self, target: Target, verb: str, parameters: JSON) -> str:
        """Why the agent would refuse that, by all that it looks at before its first write; empty: it would not. Raises PlatformError."""


class SlowSite(AgentLooks, AgentSite, Protocol):
    """Where agents are put that the kernel asks before a target's file is read. It outlives the target."""

    def agent_lives(self, fault: str, target: Target) -> bool:
        """By the process table, whatever became of its record."""

    def unasked(self, fault: str, target: Target, paths: Sequence[str]) -> list[str]:
        """Those of these files that anybody may read before the kernel has asked that agent, by the kernel's own word."""


@runtime_checkable
class ReadTimes(Protocol):
    """The ability to have whoever reads a target's file wait, and to tell how long that takes."""

    def read_time(self, target: Target, path: str) -> float:
        """Seconds that another process beside the target takes to open it and read its first byte. Raises PlatformError."""

    @property
    def slow_site(self) -> SlowSite:
        """Where agents are that have readers wait."""


@runtime_checkable
class Volumes(Protocol):
    """The knowledge of who has a volume or a folder of the targets' machine, whoever that is."""

    def strangers(self, files: Sequence[tuple[Target, str]]) -> str:
        """Who has one of these files or folders, each by its real path, and is no part of the service, in words; empty: nobody. Raises
        PlatformError.
        """


@runtime_checkable
class OwnFolders(Protocol):
    """The knowledge of where blackstart itself works on the targets' machine."""

    def own_folders(self) -> tuple[str, ...]:
        """Its folders there without links: what undoes a fault lies in them."""


class Isolation(Protocol):
    """The ability to cut nodes off from everything for a time, at the end of which they come back by themselves."""

    def refuse(self, targets: tuple[Target, ...], *, whole_node: bool) -> None:
        """Raises Unsupported where the targets' nodes cannot or must not be cut off; with `whole_node` others may go along."""

    def begin(self, fault: str, nodes: Sequence[str], for_s: float) -> None:
        """All at one time. Raises PlatformError."""

    def end(self, fault: str, nodes: Sequence[str], for_s: float) -> JSON:
        """Wait until all are back, from any process, as often as wished; node -> what was said there last. Raises PlatformError."""

    def words(self, fault: str) -> JSON:
        """What `end` has heard in this process: node -> `reason`, and once it was cut off `held_s` and `counters`."""

    def left(self, fault: str, nodes: Sequence[str]) -> str:
        """What of ours is still there; empty: nothing."""

    def seen(self, node: str) -> JSON | None:
        """What the cluster has of a node now: `ready`, `reason`, `taints`, `silent_s`, `every_s`, `cut_s`; None: it is gone."""


def nodes_of(targets: tuple[Target, ...]) -> list[str]:
    """The nodes that they run on, each once."""
    return list(dict.fromkeys(str(target.details["node"]) for target in targets))
