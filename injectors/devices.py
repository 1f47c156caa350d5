"""Which accelerator is a target's own: from who is on it, from what the target's environment lets it see, never from a guess."""

from collections.abc import Mapping
from typing import Any, cast

from .amd_devices import is_amd, on_amd, own_amd
from .base import Refusal
from .device_needs import Needs, refuse_unless_met
from .opencl_devices import OPENCL, opencl_device
from .platforms.abilities import BESIDE, HERE, INSIDE, Accelerators, AcceleratorSite, BesideSite, SiteBeside
from .platforms.base import Platform, Target, Unfit, Unsupported
from .platforms.own_rooms import CUDA_ORDER, CUDA_VISIBLE
from .platforms.own_rooms import VISIBLE as NVIDIA_VISIBLE
from .values import JSON

NO_DRIVER = (
    "run blackstart where the GPU's driver is installed, or name a processor by OpenCL (`device: opencl:0`), to try a scenario"
)


def accelerators(platform: Platform) -> Accelerators:
    if not isinstance(platform, Accelerators):
        raise Refusal(f"not injecting: accelerators cannot be reached on platform {platform.name}")
    return platform


def where_of(device: JSON, platform: Platform) -> str:
    """HERE, INSIDE or BESIDE; a record of a version that did not write it down is of a time without the last."""
    return str(device.get("where") or (HERE if platform.name == "process" else INSIDE))


def beside_of(device: JSON, platform: Platform) -> BesideSite:
    """Of a device whose agent is BESIDE."""
    return cast(SiteBeside, platform).beside_accelerators.knowing(device)


def site_of(device: JSON, platform: Platform) -> AcceleratorSite:
    """Where the agent for that device is, as `devices_of` has found it: at the target, or in a container of ours beside it."""
    if where_of(device, platform) == BESIDE:
        return beside_of(device, platform)
    return cast(AcceleratorSite, accelerators(platform))  # whose verbs of agents are a platform's


def _ends_with_target(where: str, platform: Platform) -> bool:
    return where == INSIDE or (where == BESIDE and not cast(SiteBeside, platform).beside_accelerators.outlives)


def _looked(target: Target, platform: Platform, why: str, *, opencl: bool) -> tuple[JSON, str | None]:
    """What there is, seen from where an agent would be, and why that is beside the target; None: it is not."""
    try:
        if not why:
            return accelerators(platform).accelerators(target, "", opencl=opencl), None
    except Unfit as error:
        why = str(error)
    if not isinstance(platform, SiteBeside):
        raise Unsupported(f"{why}; on platform {platform.name} no container of ours is put beside it for that")
    try:
        return platform.beside_accelerators.accelerators(target, "", opencl=opencl), why
    except Unsupported as error:
        raise Unsupported(f"{why}; nor can it be done from a container of ours beside it: {error}") from error


def devices_of(
    targets: tuple[Target, ...], platform: Platform, wanted: str | None, needs: Needs, *, beside: str = ""
) -> dict[str, JSON]:
    """Target -> its one device: `device` (a UUID or `opencl:N`), `name`, `hardware`, bytes in all, in use and of the target's own
    (None: nobody tells); `where` the agent will be, and if that is beside the target, `because` of what, and the `grant` by which it is given
    the device; whether it `ends_with_target`. `beside`: why it has to be there.

    Raises Refusal where a target has none or several, where `wanted` is not its, where others are on it (unless it may be `shared`), where
    a driver is missing, with what is missing, or where a device has not what a fault `needs` of it.
    """
    found: dict[str, JSON] = {}
    for target in targets:
        by_opencl = bool(wanted and wanted.startswith(OPENCL))
        seen, because = _looked(target, platform, beside, opencl=by_opencl)
        if not wanted and seen["cuda"] and seen["hip"]:  # then only OpenCL could do anything
            seen, because = _looked(target, platform, beside, opencl=True)
            by_opencl = any(device["kind"] == "gpu" for device in seen["devices"])
        pids = set(seen["pids"])
        if by_opencl:
            _refuse_contained(wanted or "an OpenCL device", target, seen)
            found[target.name] = opencl_device(seen, target, pids, wanted, shared=needs.shared)
            name = found[target.name]["device"]
            refuse_unless_met(next(each for each in seen["devices"] if each["device"] == name), needs)
        else:
            gpu = _own(seen, target, pids, wanted)
            if is_amd(gpu["uuid"]):
                _refuse_contained(gpu["uuid"], target, seen)
            _refuse_unless_shareable(gpu, pids, shared=needs.shared)
            refuse_unless_met(gpu, needs)
            found[target.name] = {
                "device": gpu["uuid"],
                "name": gpu["name"],
                "hardware": gpu["hardware"],
                "total_bytes": gpu["total_bytes"],
                "used_bytes": gpu["used_bytes"],
                "pids": [process["pid"] for process in gpu["processes"]],
                "target_bytes": _held(gpu, pids),
            }
        ends = _ends_with_target(seen["where"], platform)
        found[target.name] |= {"where": seen["where"], "because": because, "grant": seen.get("grant"), "ends_with_target": ends}
        twin = next((name for name, other in found.items() if other["device"] == found[target.name]["device"]), target.name)
        if twin != target.name:
            raise Refusal(f"not injecting: {twin} and {target.name} share {found[twin]['device']}; take one of them (count: 1)")
    return found


def _refuse_contained(device: str, target: Target, seen: JSON) -> None:
    """The kernel's account of who is on such a device has this machine's pids, and nobody tried it from inside a container."""
    if seen["where"] != HERE:
        raise Refusal(
            f"not injecting: {device} is drilled beside local processes only, and {target.name} is in a container; run blackstart on "
            "its machine, with its processes as targets"
        )


def _own(seen: JSON, target: Target, pids: set[int], wanted: str | None) -> JSON:
    """NVIDIA's or AMD's, as it is named, else as the target's processes are on one, else as there are GPUs. Raises Refusal."""
    by_nvml = {process["pid"] for gpu in seen["gpus"] for process in gpu["processes"]}
    on_nvidia, amd = bool(pids & by_nvml), on_amd(seen, pids)
    if not wanted and on_nvidia and amd:
        both = ", ".join(gpu["uuid"] for gpu in amd)
        raise Refusal(
            f"not injecting: {target.name}'s processes are on NVIDIA's GPUs and on {both}; name one of them as `device`"
        )
    if not wanted and seen["nvml"] and seen["kfd"]:
        raise Refusal(f"not injecting: {seen['nvml']}; {seen['kfd']}; so nobody tells which GPU is {target.name}'s; {NO_DRIVER}")
    of_amd = is_amd(wanted) if wanted else bool(amd or (not on_nvidia and not seen["gpus"] and not seen["kfd"]))
    if of_amd:
        return own_amd(seen, target, pids, wanted)
    if seen["cuda"] and not seen["nvml"]:
        raise Refusal(f"not injecting: {seen['cuda']}, and the fault is done by the CUDA driver; {NO_DRIVER}")
    return own_gpu(seen, target, pids, wanted)


def own_gpu(seen: JSON, target: Target, pids: set[int], wanted: str | None) -> JSON:
    """What NVML tells of the target's one GPU or slice, whether or not CUDA could work on it. Raises Refusal."""
    if seen["nvml"]:
        raise Refusal(f"not injecting: {seen['nvml']}, and without NVML nobody tells which GPU is {target.name}'s; {NO_DRIVER}")
    gpus: list[JSON] = seen["gpus"]
    own = [gpu for gpu in gpus if pids & {process["pid"] for process in gpu["processes"]}]
    how = f"{target.name}'s processes are on" if own else f"{target.name}'s environment shows it"
    own = own or _visible(seen, target)
    listed = ", ".join(gpu["uuid"] for gpu in own)
    if wanted:
        if wanted not in {gpu["uuid"] for gpu in gpus}:
            there = "; ".join([", ".join(gpu["uuid"] for gpu in gpus) or "no GPU", *seen["broken"]])
            raise Refusal(f"not injecting: there is no {wanted}; NVML has {there}")
        own = [gpu for gpu in own if gpu["uuid"] == wanted]
        if not own:
            raise Refusal(f"not injecting: {wanted} belongs to no target: {how} {listed or 'none'}")
    if not own:
        raise Refusal(
            f"not injecting: no process of {target.name} is on a GPU by NVML's list ({', '.join(gpu['uuid'] for gpu in gpus) or 'empty'}), "
            f"and neither {CUDA_VISIBLE} nor {NVIDIA_VISIBLE} of its environment names one"
        )
    if len(own) > 1:
        raise Refusal(f"not injecting: {how} {listed}; name one of them as `device`")
    return own[0]


def _refuse_unless_shareable(gpu: JSON, pids: set[int], *, shared: bool) -> None:
    if gpu["compute_mode"]:
        raise Refusal(
            f"not injecting: {gpu['uuid']} takes one process at a time or none (NVML's compute mode {gpu['compute_mode']})"
        )
    if gpu["mps"]:
        raise Refusal(
            f"not injecting: processes share {gpu['uuid']} through MPS, where one that is killed can take the others' work along"
        )
    others = others_on(gpu, pids)
    if others and not shared and not any(process["here"] for process in gpu["processes"]):
        raise Refusal(
            f"not injecting: {gpu['uuid']} is used by pid {', '.join(others)} of the host, which cannot be told apart from in here; if these "
            "are the target, or may be hit as well, write `shared: true`"
        )
    if others and not shared:
        raise Refusal(
            f"not injecting: {gpu['uuid']} is also used by pid {', '.join(others)}, no target's; with `shared: true` these are hit as well"
        )


def others_on(gpu: JSON, pids: set[int]) -> list[str]:
    """Pids of those on a GPU that are neither the target's nor agents of blackstart, as an earlier fault of the drill has one there."""
    return [str(process["pid"]) for process in gpu["processes"] if process["pid"] not in pids and not process["agent"]]


def _held(gpu: JSON, pids: set[int]) -> int | None:
    """Bytes of the target's own, without an agent's that is among its processes (in a container).

    None where NVML does not tell them, tells pids of the host, of which any may be the target's, or lists nobody although memory is in use.
    """
    told = [process["bytes"] for process in gpu["processes"] if process["pid"] in pids and not process["agent"]]
    hidden = not gpu["processes"] and gpu["used_bytes"] > 0
    known = None not in told and not hidden and all(process["here"] for process in gpu["processes"])
    return sum(told) if known else None


def _visible(seen: JSON, target: Target) -> list[JSON]:
    """What the target's environment lets it see; CUDA's own variable is the narrower one. Nothing where neither is set."""
    environments: list[Mapping[str, str]] = list(seen["environment"].values())
    for variable in (CUDA_VISIBLE, NVIDIA_VISIBLE):
        if said := [values for values in environments if variable in values]:
            found = [gpu for values in said for gpu in _told(values, variable, seen, target)]
            return list({gpu["uuid"]: gpu for gpu in found}.values())
    return []


def _told(values: Mapping[str, str], variable: str, seen: JSON, target: Target) -> list[JSON]:
    """What one such variable of one process names. CUDA counts inside the container, so within what NVIDIA's variable lets in."""
    counted: list[JSON] = seen["gpus"]
    words = [word.strip() for word in values[variable].split(",")]
    if variable == CUDA_VISIBLE and NVIDIA_VISIBLE in values and any(word.isdigit() for word in words):
        inside = {gpu["uuid"] for gpu in _told(values, NVIDIA_VISIBLE, seen, target)}
        counted = [gpu for gpu in counted if gpu["uuid"] in inside]
    whole = list(dict.fromkeys(gpu["parent"] or gpu["uuid"] for gpu in counted))
    found: list[JSON] = []
    for word in words:
        if word == "all":
            found += counted
        elif word.isdigit():
            if why := _uncountable(values, variable, counted, seen) or _beyond(variable, int(word), len(whole)):
                raise Refusal(f"not injecting: {variable}={word} of {target.name} is an index, {why}")
            found += [gpu for gpu in counted if (gpu["parent"] or gpu["uuid"]) in whole[int(word) : int(word) + 1]]
        elif word:
            found += [gpu for gpu in seen["gpus"] if gpu["uuid"].startswith(word)]
    return found


def _uncountable(values: Mapping[str, str], variable: str, counted: list[JSON], seen: JSON) -> str:
    """Why an index there may mean another GPU than the one at that place here; empty: it does not."""
    if seen["broken"]:
        return f"and nobody tells where a broken GPU would be counted ({'; '.join(seen['broken'])}); set UUIDs there"
    names: set[Any] = {gpu["name"] for gpu in counted}
    if variable == CUDA_VISIBLE and values.get(CUDA_ORDER) != "PCI_BUS_ID" and len(names) > 1:
        return "which CUDA counts by speed, and the GPUs here differ; set CUDA_DEVICE_ORDER=PCI_BUS_ID or UUIDs there"
    return ""


def _beyond(variable: str, index: int, there: int) -> str:
    """NVIDIA's variable counts the host's GPUs: in a container, where some of them are missing, the places are others."""
    if variable == NVIDIA_VISIBLE and index >= there:
        return f"and NVML has {there} here, so these are not all that it counts; set UUIDs there"
    return ""
