"""What can be seen of a fault's agent on accelerators while it works there, and that nothing of it is left."""

from .amd_devices import is_amd
from .base import Differs, Evidence, NotYet, Undo
from .devices import beside_of, site_of, where_of
from .opencl_devices import OPENCL
from .platforms.abilities import BESIDE, INSIDE
from .platforms.base import Platform, Target
from .values import JSON

NVML, AMDGPU, TABLE = "NVML", "the kernel (amdgpu, amdkfd)", "the kernel's process table"
EVENTS, DRM = "OpenCL event times", "the kernel (drm)"
LEAST_DEMAND = 0.5  # of what was asked for, by every source that tells
LEAST_RESIDENT = 0.95
STALE_S = 5.0  # an agent that has measured nothing for so long hangs
LEAST_REAL = ("simulated", "opencl-cpu", "real")


def inside(undo: Undo) -> frozenset[str]:
    """Names of the targets with which the agents end: those in their own containers, and in a cluster also those beside them."""
    return frozenset(name for name, device in undo.prior["devices"].items() if device["ends_with_target"])


def beside(undo: Undo) -> JSON:
    """Targets that the agent stands beside in a container of ours -> why it is not in theirs."""
    return {name: device["because"] for name, device in undo.prior["devices"].items() if device.get("where") == BESIDE}


def hardware(undo: Undo) -> str:
    """What the report says of it: real, opencl-cpu or simulated; the least real of them."""
    return least_real({device["hardware"] for device in undo.prior["devices"].values()})


def least_real(found: set[str]) -> str:
    return next(word for word in LEAST_REAL if word in found)


def measured(undo: Undo, target: Target, platform: Platform) -> JSON:
    """What the device's runtime measured for the agent. Raises NotYet where there is no agent, or it has let go."""
    prior = undo.prior["devices"][target.name]
    device, seen = prior["device"], site_of(prior, platform).agent_seen(undo.fault, target)
    if seen and seen["stopped"]:
        raise NotYet(f"the agent let go of {device} by itself: {seen['stopped']}")
    if seen is None or seen["age_s"] > STALE_S:
        raise NotYet(f"no agent works on {device} beside {target.name}")
    return seen


def teller(device: str) -> str:
    """Who tells of that GPU, past the driver by which the fault is done."""
    return AMDGPU if is_amd(device) else NVML


def shown_units(told: JSON) -> list[str]:
    """Power and clock of a GPU, where these are told."""
    return [f"{told[word]:g} {unit}" for word, unit in (("power_w", "W"), ("sm_mhz", "MHz")) if told[word] is not None]


def by_driver(fact: JSON) -> str:
    """What NVML or the kernel tells of the agent on the device; of a slice (MIG) NVML tells no utilisation."""
    if "engine_s" in fact:
        worked = "an unknown time" if fact["engine_s"] is None else f"{fact['engine_s']:.1f} s"
        return f"by {DRM} pid {fact['pid']} has it open, and its engines have worked {worked} for it"
    share = fact["sm"] if fact["sm"] is not None else fact["utilisation"]
    told = "no utilisation told" if share is None else f"{share} %"
    return ", ".join([f"by {teller(fact['device'])} pid {fact['pid']} is on it", told, *shown_units(fact)])


def _listed(look: JSON, device: str) -> tuple[JSON | None, str]:
    """What is told of that GPU, and why nothing is."""
    gpus, missing = (look["amd"], look["kfd"]) if is_amd(device) else (look["gpus"], look["nvml"])
    return next((gpu for gpu in gpus if gpu["uuid"] == device), None), missing or f"{teller(device)} does not list it"


def on_gpu(undo: Undo, target: Target, platform: Platform) -> tuple[JSON, JSON]:
    """The target's GPU, and the agent's process on it. Raises NotYet where it is not listed there."""
    prior = undo.prior["devices"][target.name]
    device, look = prior["device"], site_of(prior, platform).accelerators(target, undo.fault, opencl=False)
    gpu, why = _listed(look, device)
    if gpu is None:
        raise NotYet(f"{device} is not there: {why}")
    mine = next((process for process in gpu["processes"] if process["ours"]), None) or _hidden(undo, target, gpu)
    if mine is None:
        measured(undo, target, platform)  # it may have let go meanwhile, and says why
        raise NotYet(f"no process of the agent is on {device} by {teller(device)}")
    return gpu, mine


def is_opencl_gpu(prior: JSON) -> bool:
    return "pci" in prior


def worked_by_drm(undo: Undo, target: Target, platform: Platform, busy_s: float) -> JSON:
    """The agent by the kernel, on a GPU on which OpenCL's events say that it has worked so long. Raises NotYet."""
    mine = _by_drm(undo, target, platform)
    if mine["engine_s"] is not None and mine["engine_s"] < LEAST_DEMAND * busy_s:
        raise NotYet(
            f"by {DRM} the GPU has worked {mine['engine_s']:.1f} s for pid {mine['pid']}, of {busy_s:.1f} s by its events"
        )
    return {"pid": mine["pid"], "engine_s": mine["engine_s"]}


def held_by_drm(undo: Undo, target: Target, platform: Platform, seen: JSON) -> JSON:
    """The same for memory: what the kernel accounts to the agent, or, where it does not tell, that no more is to be had. Raises NotYet."""
    mine = _by_drm(undo, target, platform)
    if mine["bytes"] is None and not seen["next_allocation"]:
        raise NotYet(f"the kernel does not tell how much pid {mine['pid']} has, and the driver gives more than the device has")
    if mine["bytes"] is not None and mine["bytes"] < LEAST_RESIDENT * seen["held_bytes"]:
        raise NotYet(f"by {DRM} pid {mine['pid']} has {mine['bytes']} bytes on it, of {seen['held_bytes']}")
    return {"pid": mine["pid"], "agent_bytes": mine["bytes"], "next_allocation": seen["next_allocation"]}


def _by_drm(undo: Undo, target: Target, platform: Platform) -> JSON:
    """The agent's process, which the kernel says has the GPU at that address open."""
    prior = undo.prior["devices"][target.name]
    look = site_of(prior, platform).accelerators(target, undo.fault, opencl=True)
    gpus = [
        gpu for gpu in look["devices"] if gpu["kind"] == "gpu" and (gpu["device"], gpu["pci"]) == (prior["device"], prior["pci"])
    ]
    found: JSON | None = next((process for gpu in gpus for process in gpu["processes"] if process["ours"]), None)
    if found is None:
        measured(undo, target, platform)  # it may have let go meanwhile, and says why
        raise NotYet(f"no process of the agent has {prior['device']} at {prior['pci']} open by {DRM}")
    return found


def _hidden(undo: Undo, target: Target, gpu: JSON) -> JSON | None:
    """Where the host's pids are told and this is a container: the one process that came since the plan.

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
    """By the kernel's process table no agent lives, whatever became of its record; by who tells of the device none is on it."""
    facts: JSON = {}
    sources = set()
    for target in undo.targets:
        prior = undo.prior["devices"][target.name]
        if gone := _gone(prior, target, platform):
            facts[target.name] = {"device": prior["device"], "gone": gone}
            sources.add(platform.witness)
            continue
        look = site_of(prior, platform).accelerators(target, undo.fault, opencl=False)
        if look["agents"]:
            raise Differs(f"pid {look['agents'][0]} is an agent of this fault and still there, beside {target.name}")
        sources.add(TABLE)
        facts[target.name] = {"device": prior["device"]}
        if prior["device"].startswith(OPENCL):
            continue
        gpu, why = _listed(look, prior["device"])
        if gpu is None:
            raise Differs(f"{prior['device']} is not there any more: {why}")
        if prior.get("agent_pid") in {process["pid"] for process in gpu["processes"]}:
            raise Differs(f"pid {prior['agent_pid']} of the host, the agent, is still on {prior['device']}")
        if "agent_pid" in prior or all(process["here"] for process in gpu["processes"]):
            sources.add(teller(prior["device"]))  # else it tells pids of which nobody here knows whose they are
        facts[target.name]["used_bytes"] = [prior["used_bytes"], gpu["used_bytes"]]
    shown = "; ".join(f"nothing of ours is on {fact['device']}{_in_use(fact)}" for fact in facts.values())
    return Evidence(" and ".join(sorted(sources)), shown, {"hardware": hardware(undo), "targets": facts})


def _gone(prior: JSON, target: Target, platform: Platform) -> str:
    """What is gone, by the platform's word, so that nobody is left who could be on the device: the target in whose container the agent lived,
    or all that was beside it. Empty: nothing is. A target that the agent was beside is no proof when it is gone: NVML is asked.
    """
    where = where_of(prior, platform)
    if where == INSIDE and platform.state(target) == "gone":
        return target.identity
    return beside_of(prior, platform).vanished(target) if where == BESIDE else ""


def _in_use(fact: JSON) -> str:
    if "gone" in fact:
        return f", since {fact['gone']} is gone"
    if "used_bytes" not in fact:
        return ""
    before, after = fact["used_bytes"]
    return f", {before >> 20} MiB in use before and {after >> 20} after"
