"""What can be seen of a fault's agent on accelerators while it works there, and that nothing of it is left."""

from .base import Differs, Evidence, NotYet, Undo
from .devices import OPENCL, accelerators
from .platforms.base import Platform, Target
from .values import JSON

NVML, TABLE = "NVML", "the kernel's process table"
STALE_S = 5.0  # an agent that has measured nothing for so long hangs
LEAST_REAL = ("simulated", "opencl-cpu", "real")


def hardware(undo: Undo) -> str:
    """What the report says of it: real, opencl-cpu or simulated; the least real of them."""
    found = {device["hardware"] for device in undo.prior["devices"].values()}
    return next(word for word in LEAST_REAL if word in found)


def measured(undo: Undo, target: Target, platform: Platform) -> JSON:
    """What the device's runtime measured for the agent. Raises NotYet where there is no agent, or it has let go."""
    device = undo.prior["devices"][target.name]["device"]
    seen = accelerators(platform).accelerator_seen(undo.fault, target)
    if seen and seen["stopped"]:
        raise NotYet(f"the agent let go of {device} by itself: {seen['stopped']}")
    if seen is None or seen["age_s"] > STALE_S:
        raise NotYet(f"no agent works on {device} beside {target.name}")
    return seen


def on_nvml(undo: Undo, target: Target, platform: Platform) -> tuple[JSON, JSON]:
    """The target's GPU, and the agent's process on it. Raises NotYet where NVML does not list it there."""
    device = undo.prior["devices"][target.name]["device"]
    look = accelerators(platform).accelerators(target, undo.fault, opencl=False)
    gpu = next((gpu for gpu in look["gpus"] if gpu["uuid"] == device), None)
    if gpu is None:
        raise NotYet(f"{device} is not there: {look['nvml'] or 'NVML does not list it'}")
    mine = next((process for process in gpu["processes"] if process["ours"]), None) or _hidden(undo, target, gpu)
    if mine is None:
        measured(undo, target, platform)  # it may have let go meanwhile, and says why
        raise NotYet(f"NVML lists no process of the agent on {device}")
    return gpu, mine


def _hidden(undo: Undo, target: Target, gpu: JSON) -> JSON | None:
    """Where NVML tells the host's pids and this is a container: the one process that came since the plan.

    Its pid is kept for the proof of the undo. Another process that recovers does not have it: the record is older than the agent.
    """
    prior = undo.prior["devices"][target.name]
    new: list[JSON] = [process for process in gpu["processes"] if not process["here"] and process["pid"] not in prior["pids"]]
    if "agent_pid" in prior:
        return next((process for process in new if process["pid"] == prior["agent_pid"]), None)
    if len(new) != 1:
        return None
    prior["agent_pid"] = new[0]["pid"]
    return new[0]


def nothing_left(undo: Undo, platform: Platform) -> Evidence:
    """By the kernel's process table no agent lives, whatever became of its record; by NVML none is on the device."""
    facts: JSON = {}
    sources = set()
    for target in undo.targets:
        prior = undo.prior["devices"][target.name]
        if accelerators(platform).agents_go_along and platform.state(target) == "gone":
            facts[target.name] = {"device": prior["device"], "gone": target.identity}
            sources.add(platform.witness)  # its agent lived in it, so nobody is left who could be on the device
            continue
        look = accelerators(platform).accelerators(target, undo.fault, opencl=False)
        if look["agents"]:
            raise Differs(f"pid {look['agents'][0]} is an agent of this fault and still there, beside {target.name}")
        sources.add(TABLE)
        facts[target.name] = {"device": prior["device"]}
        if prior["device"].startswith(OPENCL):
            continue
        gpu = next((gpu for gpu in look["gpus"] if gpu["uuid"] == prior["device"]), None)
        if gpu is None:
            raise Differs(f"{prior['device']} is not there any more: {look['nvml'] or 'NVML does not list it'}")
        if prior.get("agent_pid") in {process["pid"] for process in gpu["processes"]}:
            raise Differs(f"pid {prior['agent_pid']} of the host, the agent, is still on {prior['device']}")
        if "agent_pid" in prior or all(process["here"] for process in gpu["processes"]):
            sources.add(NVML)  # else it tells pids of which nobody here knows whose they are
        facts[target.name]["used_bytes"] = [prior["used_bytes"], gpu["used_bytes"]]
    shown = "; ".join(f"nothing of ours is on {fact['device']}{_in_use(fact)}" for fact in facts.values())
    return Evidence(" and ".join(sorted(sources)), shown, {"hardware": hardware(undo), "targets": facts})


def _in_use(fact: JSON) -> str:
    if "used_bytes" not in fact:
        return ""
    before, after = fact["used_bytes"]
    return f", {before >> 20} MiB in use before and {after >> 20} after"
