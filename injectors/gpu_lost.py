"""gpu-lost: CUDA calls fail in a service that was started with a shim before its driver."""

import http.client
import struct
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Annotated, ClassVar

from . import gpu_agent
from .base import Differs, Evidence, Injector, NotYet, Overcome, Privilege, Refusal, Undo
from .devices import accelerators
from .gpu_proof import least_real
from .lifecycle import end_agent
from .means import SHIMMED, Means
from .platforms.base import Platform, PlatformError, Target, came
from .values import JSON

SHIM = Path(__file__).with_name("cuda_shim.c")
BUILD = "python -m blackstart.commands.cuda_shim FOLDER"
ASK_S, MEND_S, MEND_EVERY_S = 5.0, 5.0, 0.25
TOLD = 200  # characters of an answer
RIGHT = 200


@dataclass(frozen=True)
class GpuLost(Injector):
    """Let the shim in each target's processes refuse the calls of CUDA's driver that pass through it."""

    health: Annotated[
        str, "a path at which each target by itself answers 200 where it can work, and something else where it cannot"
    ] = "/health"

    kind: ClassVar[str] = "gpu-lost"
    summary: ClassVar[str] = "CUDA calls of a service fail as on a GPU that fell off the bus, by a shim it was started with"
    certifies: ClassVar[str] = (
        "recovery: that the service gets by when a replica's CUDA calls fail, on all of its GPUs; not detection, since the driver and NVML "
        "know of nothing, nor that a lost context comes back. Only together with gpu-health-signal is it GPU loss"
    )
    done_by: ClassVar[Means] = SHIMMED
    proven_by: ClassVar[str] = "the target's own health endpoint, which answered 200 before and no longer does, with what it says"
    undone_by: ClassVar[str] = (
        "the agent clears the shim's control file, where else a moment stands after which calls go through again; a target that is ill "
        "even then is started again"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"process"})
    privilege: ClassVar[Privilege] = Privilege.EXEC
    patience: ClassVar[timedelta] = timedelta(seconds=30)  # a server notices when it next computes

    def problems(self) -> tuple[str, ...]:
        return () if self.health.startswith("/") else (f"`health` is {self.health}, and a path begins with /; write /health",)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        controls, told = {}, set()
        for target in targets:
            look = accelerators(platform).accelerators(target, "", opencl=False)
            controls[target.name] = _controls(look["processes"], target)
            _refuse_shared(controls[target.name], look["shimmed"], target)
            told |= _hardware(look["processes"], target)
            if not target.details.get("url"):
                raise Refusal(f"not injecting: nothing says where {target.name} answers by itself; give its `port` or `url`")
            if (answer := self._health(target)) and answer[0] != RIGHT:
                raise Refusal(f"not injecting: {target.name} is not well: {_words(self.health, answer)}")
            if not platform.revivable(target.name):
                raise Refusal(
                    f"not injecting: nothing would start {target.name} again if it ends; give its `start` command, or say "
                    "`supervised: true` where something else starts it"
                )
        return Undo(targets, {"controls": controls, "hardware": least_real(told)})

    def inject(self, undo: Undo, platform: Platform) -> None:
        for target in undo.targets:
            request = {"controls": undo.prior["controls"][target.name]}
            platform.agent_begin(undo.fault, target, "lose-gpu", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        facts: JSON = {}
        for target in undo.targets:
            now, answer = platform.current(target.name), self._health(target)
            if accelerators(platform).agent_seen(undo.fault, target) is None:
                raise NotYet(f"no agent has {target.name}'s CUDA calls fail")
            if answer[0] == RIGHT and (now is None or now.identity != target.identity):
                raise Overcome(f"{target.identity} is gone since, and what stands for {target.name} is well")
            if answer[0] == RIGHT:
                raise NotYet(f"{target.name} is well: {_words(self.health, answer)}")
            facts[target.name] = {"status": answer[0], "said": answer[1]}
        shown = "; ".join(f"{name}: {_words(self.health, (fact['status'], fact['said']))}" for name, fact in facts.items())
        hardware = undo.prior["hardware"]
        return Evidence(
            "the target's health endpoint", f"{shown}; hardware: {hardware}", {"hardware": hardware, "targets": facts}
        )

    def recover(self, undo: Undo, platform: Platform) -> None:
        """A process whose engine ended of the errors is as the service left it: started again, as a person would."""
        for target in undo.targets:
            end_agent(undo, target, platform)
            now = platform.current(target.name)
            if now is None:
                platform.revive(target.name)
            elif now.identity == target.identity and not came(lambda t=target: self._well(t), MEND_S, Event(), MEND_EVERY_S):  # type: ignore[misc]
                platform.restart(now)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        facts: JSON = {}
        for target in undo.targets:
            for path in undo.prior["controls"][target.name]:
                if _until(target, path, platform):
                    raise Differs(f"{path} still has the CUDA calls of {target.name} fail")
            now = platform.current(target.name)
            if now is None:
                raise Differs(f"nothing stands under {target.name} since {target.identity} is gone")
            if (answer := self._health(now))[0] != RIGHT:
                raise Differs(f"{target.name} is not well: {_words(self.health, answer)}")
            facts[target.name] = {"status": answer[0], "identity": now.identity}
        shown = "; ".join(f"{name}: {self.health} answers {fact['status']}" for name, fact in facts.items())
        return Evidence("the target's health endpoint", shown, {"hardware": undo.prior["hardware"], "targets": facts})

    def _well(self, target: Target) -> bool:
        return self._health(target)[0] == RIGHT

    def _health(self, target: Target) -> tuple[int, str]:
        """Its status and the first of what it says; 0 and why, where nobody answers."""
        try:
            with urllib.request.urlopen(f"{target.details['url']}{self.health}", timeout=ASK_S) as answer:  # noqa: S310 - http(s) by the service file
                return answer.status, answer.read(TOLD).decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(TOLD).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)


def _words(path: str, answer: tuple[int, str]) -> str:
    status, said = answer
    return f"{path} answers {status} ({said.strip()})" if status else f"{path} is not answered: {said}"


def _controls(processes: list[JSON], target: Target) -> list[str]:
    """Control files of all of the target's processes that use CUDA. Raises Refusal where one is without the shim."""
    if not processes:
        raise Refusal(
            f"not injecting: no process of {target.name} has CUDA's driver (libcuda.so) loaded; choose a target that computes on a GPU of NVIDIA's, "
            "or send it a request first where it loads the driver only then"
        )
    how = f"build it ({BUILD}) and start {target.name} with LD_AUDIT and BLACKSTART_CUDA as that says"
    if bare := [str(each["pid"]) for each in processes if not each["shim"]]:
        raise Refusal(f"not injecting: pid {', '.join(bare)} of {target.name} uses CUDA without the shim before it; {how}")
    if bare := [str(each["pid"]) for each in processes if not each["control"]]:
        raise Refusal(f"not injecting: pid {', '.join(bare)} of {target.name} has no BLACKSTART_CUDA in its environment; {how}")
    if deaf := next((each for each in processes if not each["open"]), None):
        raise Refusal(
            f"not injecting: the shim in pid {deaf['pid']} of {target.name} does not heed {deaf['control']}, which was there and no control "
            f"file, could not be made, or is gone since; {how}, the latter naming a file that is not there yet"
        )
    return sorted({each["control"] for each in processes})


def _refuse_shared(controls: list[str], others: list[JSON], target: Target) -> None:
    """Its own file is a target's for itself: whoever else has it, another target too, would be hit along. Raises Refusal."""
    for each in others:
        if each["control"] in controls:
            raise Refusal(
                f"not injecting: pid {each['pid']}, which is none of {target.name}'s, has BLACKSTART_CUDA={each['control']} as well, and its "
                "CUDA calls would fail along; start each replica with a file of its own there"
            )


def _hardware(processes: list[JSON], target: Target) -> set[str]:
    """What the drivers that its processes have loaded say of themselves. Raises Refusal where one cannot be asked."""
    if dumb := [str(each["pid"]) for each in processes if not each["hardware"]]:
        raise Refusal(
            f"not injecting: the libcuda that pid {', '.join(dumb)} of {target.name} has loaded cannot be read, so nobody tells whether its "
            "GPU is a real one; run blackstart as root, or start it again if its driver was replaced since"
        )
    return {each["hardware"] for each in processes}


def _until(target: Target, path: str, platform: Platform) -> int:
    """0 where its calls go through, or the file is gone."""
    with suppress(PlatformError, struct.error):
        return gpu_agent.until_of(platform.read_file(target, path, gpu_agent.CONTROL.size))
    return 0
