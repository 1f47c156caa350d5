"""What containers of ours on Docker and pods of ours have in common: what keeps one up for as long as an agent in it holds a fault, and no
longer; what is done with one beside a target's GPU, and the words by which NVIDIA's runtime gives it that; and with one that has the
target's volumes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Final, Generic

from ..values import JSON
from .abilities import BESIDE
from .agent_programs import program
from .base import PlatformError, Target, Unsupported
from .container_files import DRIVER_S
from .exec_agents import EXEC_S, ContainerAgents, Doors, W, is_agent, look, prefix, told

# Its argument: seconds, after which it ends in any case; one in which no agent ever has left a record ends after a minute.
SLEEP: Final = (
    "import glob,signal,sys,time\nsignal.signal(15,lambda *_:sys.exit(0))\nbegan=time.monotonic();seen=False\n"
    "while time.monotonic()<began+(float(sys.argv[1]) if seen else 60):\n time.sleep(0.2)\n"
    " there=bool(glob.glob('/tmp/blackstart-*.json')+glob.glob('/dev/shm/blackstart-*.json'))\n"
    " if seen and not there:\n  time.sleep(3)\n  break\n seen=seen or there"  # whoever undid it has not said so yet
)


VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"  # UUIDs or indices of GPUs that NVIDIA's runtime lets a container have, or ALL
ALL: Final = "all"
CUDA_VISIBLE, CUDA_ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"  # CUDA's own: a narrower choice among those
CAPABILITIES: Final = "NVIDIA_DRIVER_CAPABILITIES"
NEEDED: Final = ("compute", "utility")  # of the driver's capabilities: CUDA and NVML
SLACK_S: Final = 60.0  # by which a container of ours outlasts its fault's deadline; how long one for a look is there at the most
FILE_RIGHTS: Final = ("SYS_ADMIN", "DAC_READ_SEARCH")  # to have the kernel ask, and to reach whoever's files
MOST: Final = "helper"  # the rung of privilege that a container or pod of ours takes, and the highest


def run_of(fault: str) -> str:
    """The run that a fault belongs to."""
    return fault.rpartition(".")[0] or fault


def given(device: str) -> dict[str, str]:
    """The variables by which a container asks for that GPU (a UUID, or ALL)."""
    return {VISIBLE: device, CAPABILITIES: ",".join(NEEDED)}


def refuse_below(privilege: str) -> None:
    """Raises Unsupported where so much privilege is not enough for a container or pod of ours: before one looks for a plan."""
    if privilege != MOST:
        raise Unsupported(
            f"that takes the privilege {MOST}, and {privilege} is the most that is allowed (--max-privilege, protect.privilege)"
        )


@dataclass(frozen=True)
class Wanted:
    """A container of ours that is to run for so long at the most, given in that `way` what it needs: for a look, or for an agent of that fault."""

    name: str
    target: Target
    fault: str
    way: JSON
    seconds: float
    looks: bool


class OwnRooms(ABC, Generic[W]):
    """Those of one service and one purpose. `called`: the word for such a container; `privilege`: the most that is allowed."""

    agents: ContainerAgents[W]
    privilege: str
    called: ClassVar[str]

    @property
    @abstractmethod
    def _doors(self) -> Doors[W]: ...

    @abstractmethod
    def _name(self, fault: str, target: Target) -> str:
        """What the container for that fault is called, in whatever process."""

    @abstractmethod
    def _look_name(self, target: Target) -> str:
        """What this process calls one for a look."""

    @abstractmethod
    def _holding(self, name: str) -> W | None:
        """The one of that name, as long as it runs."""

    @abstractmethod
    def _given(self, target: Target, parameters: JSON) -> JSON:
        """How one for an agent with these parameters gets what it needs. Raises Unsupported."""

    @abstractmethod
    def _begun(self, wanted: Wanted) -> W:
        """One that runs. Raises Unsupported where none is taken."""

    @abstractmethod
    def _end(self, name: str) -> None:
        """It is gone, whether or not there was one. Raises PlatformError."""

    @abstractmethod
    def _place(self, room: W, target: Target) -> JSON:
        """What its agent's parameters say of where it is."""

    def agent_begin(self, fault: str, target: Target, verb: str, parameters: JSON, deadline_s: float) -> JSON:
        name, way = self._name(fault, target), self._given(target, parameters)
        room = self._begun(Wanted(name, target, fault, way, deadline_s + SLACK_S, looks=False))
        try:
            return self.agents.begin(fault, target, verb, {**parameters, **self._place(room, target)}, deadline_s)
        except PlatformError:
            with suppress(PlatformError):  # whoever undoes the fault asks again
                self._end(name)
            raise

    def agent_end(self, fault: str, target: Target, beside: Sequence[str] = ()) -> JSON:
        """From any process, whatever has become of the target. An agent that cannot be told to end ends with its container."""
        del beside  # nothing is changed that could outlive it
        name, answer = self._name(fault, target), {"event": "undone", "reason": "nothing was left"}
        if room := self._holding(name):
            try:
                answer = self.agents.end_in(room, fault, target)
            except PlatformError as error:
                answer = {"event": "undone", "reason": f"its {self.called} was ended: {error}"}
        try:
            self._end(name)
        except PlatformError:
            if not self.vanished(target):  # else it has gone along, whoever still lists it
                raise
        return answer

    def _asked_once(self, target: Target, fault: str, way: JSON, ask: Callable[[W], JSON]) -> JSON:
        """What is said in one that is made for this question alone."""
        name = self._look_name(target)
        try:
            return ask(self._begun(Wanted(name, target, fault, way, SLACK_S, looks=True)))
        finally:
            self._end(name)

    def vanished(self, target: Target) -> str:
        """Never, where one that sees the target's machine can be started at any time."""
        del target
        return ""


class BesideGpu(OwnRooms[W]):
    """A `BesideSite` of one service."""

    @abstractmethod
    def _way(self, target: Target, device: str) -> JSON:
        """How a container gets that GPU (a UUID, or ALL) as the target gets its own. Raises Unsupported."""

    @abstractmethod
    def _number(self, target: Target) -> str:
        """The ID by which processes are known for the target's."""

    @abstractmethod
    def _shown(self, target: Target, way: JSON) -> JSON:
        """What is told of the target's GPUs past a look: `environment`, and `grant` where a later look needs it."""

    @abstractmethod
    def _blind(self, target: Target, why: str) -> str:
        """That a container of ours sees no GPU there, and what to do."""

    def accelerators(self, target: Target, fault: str, *, opencl: bool) -> JSON:
        """From beside the agent of that fault; without one from a container that is made for it, and sees all GPUs. Raises Unsupported."""
        del opencl  # its devices are drilled beside local processes only
        if not fault:
            refuse_below(self.privilege)
        way = self._way(target, ALL)
        if room := self._holding(self._name(fault, target)) if fault else None:
            found = self._looked(room, target, fault)
        else:
            found = self._asked_once(target, fault, way, lambda room: self._looked(room, target, fault))
        if found["nvml"]:
            raise Unsupported(self._blind(target, found["nvml"]))
        return {**found, **self._shown(target, way), "where": BESIDE}

    def agent_seen(self, fault: str, target: Target) -> JSON | None:
        room = self._holding(self._name(fault, target))
        found: JSON | None = look(self._doors, room, "seen", {"prefix": prefix(fault, target)})["seen"] if room else None
        return found

    def _given(self, target: Target, parameters: JSON) -> JSON:
        return self._way(target, parameters["device"])

    def _looked(self, room: W, target: Target, fault: str) -> JSON:
        request = {"container": self._number(target), "fault": fault}
        return told(self._doors, room, program("saturate-gpu").name, ("look", request), DRIVER_S)


class WithVolumes(OwnRooms[W]):
    """A `SlowSite` of one service: what is done to files by their inodes is done to the target's, whoever else has the volume."""

    def agent_look(self, target: Target, verb: str, parameters: JSON) -> str:
        """By the agent's program in a container of its kind, which is gone again after it."""
        refuse_below(self.privilege)
        question = ("look", {"fault": "look", "verb": verb, **parameters})
        way = self._given(target, parameters)
        found = self._asked_once(target, "", way, lambda room: told(self._doors, room, program(verb).name, question, EXEC_S))
        return str(found["refused"])

    def unasked(self, fault: str, target: Target, paths: Sequence[str]) -> list[str]:
        room, question = self._holding(self._name(fault, target)), ("unasked", {"paths": list(paths)})
        if room is None:
            return list(paths)
        return list(told(self._doors, room, "platforms/model_sight.py", question, EXEC_S)["unasked"])

    def agent_lives(self, fault: str, target: Target) -> bool:
        room = self._holding(self._name(fault, target))
        around = look(self._doors, room, "around", {})["processes"] if room else []
        return any(is_agent(each["command"], fault, target) for each in around)
