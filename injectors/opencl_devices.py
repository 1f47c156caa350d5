"""Which OpenCL device a fault may be done on: a processor that is named, or a GPU that no driver of its own reaches."""

from .base import Refusal
from .platforms.base import Target
from .values import JSON

OPENCL = "opencl:"
VENDORS = {0x10DE: ("cuda", "NVIDIA"), 0x1002: ("hip", "AMD")}  # whose GPUs have another way where that driver is


def opencl_device(seen: JSON, target: Target, pids: set[int], wanted: str | None, *, shared: bool) -> JSON:
    """What devices.py keeps of it, and whether it is `on_host_memory`; of a GPU also `pci` and `uuid`. `used_bytes` is None where the kernel
    does not tell it of all that have it open. Raises Refusal.
    """
    if seen["opencl"]:
        raise Refusal(
            f"not injecting: {seen['opencl']}; install an OpenCL loader and a driver (PoCL for a processor) where the target runs"
        )
    listed = {device["device"]: device for device in seen["devices"]}
    if wanted and wanted not in listed:
        there = ", ".join(f"{name} ({device['name']})" for name, device in listed.items()) or "none"
        raise Refusal(f"not injecting: there is no {wanted}; OpenCL has {there}")
    device = listed[wanted] if wanted else _opened(seen, target, pids)
    found = {"device": device["device"], "name": device["name"], "total_bytes": device["total_bytes"]}
    if device["kind"] == "cpu":
        simulated = device["hardware"] == "simulated"
        found |= {"hardware": "simulated" if simulated else "opencl-cpu", "on_host_memory": True}
        return {**found, "used_bytes": None, "target_bytes": None}
    _refuse_unless_told(seen, device)
    _refuse_unless_own(seen, device, target, pids, shared=shared)
    told = [process["bytes"] for process in device["processes"]]
    own = [process["bytes"] for process in device["processes"] if process["pid"] in pids and not process["agent"]]
    return {
        **found,
        "hardware": device["hardware"],
        "pci": device["pci"],
        "uuid": device["uuid"],
        "on_host_memory": device["on_host_memory"],
        "used_bytes": None if device["on_host_memory"] or None in told else sum(told),
        "target_bytes": sum(own) if own and None not in own else None,
    }


def _opened(seen: JSON, target: Target, pids: set[int]) -> JSON:
    """The one GPU that the target has open, by the kernel's word."""
    gpus = [device for device in seen["devices"] if device["kind"] == "gpu"]
    own: list[JSON] = _open_to(pids, gpus)
    if not own:
        there = ", ".join(f"{gpu['device']} ({gpu['name']})" for gpu in gpus)
        raise Refusal(
            f"not injecting: no process of {target.name} has one of OpenCL's GPUs open by the kernel's word ({there}){_as_seen(seen)}; "
            "choose a target that works on one"
        )
    if len({gpu["pci"] for gpu in own}) > 1:
        raise Refusal(f"not injecting: {target.name}'s processes have {_listed(own)} open; name one of them as `device`")
    return own[0]


def _open_to(pids: set[int], gpus: list[JSON]) -> list[JSON]:
    return [gpu for gpu in gpus if pids & {process["pid"] for process in gpu["processes"]}]


def _listed(gpus: list[JSON]) -> str:
    return ", ".join(gpu["device"] for gpu in gpus)


def _as_seen(seen: JSON) -> str:
    return "" if seen["root"] else ", as far as others than root see it; run blackstart as root if it has"


def _refuse_unless_own(seen: JSON, gpu: JSON, target: Target, pids: set[int], *, shared: bool) -> None:
    """A GPU is the target's where one of its processes has it open. Who is not root does not see what others have open, so
    nor who would be hit as well.
    """
    name = f"{gpu['device']} ({gpu['name']})"
    own = _open_to(pids, [device for device in seen["devices"] if device["kind"] == "gpu"])
    if gpu not in own:
        said = f"have {_listed(own)} open" if own else f"have no GPU open by the kernel's word{_as_seen(seen)}"
        raise Refusal(f"not injecting: {gpu['device']} belongs to no target: {target.name}'s processes {said}")
    others = [str(process["pid"]) for process in gpu["processes"] if process["pid"] not in pids and not process["agent"]]
    if others and not shared:
        raise Refusal(
            f"not injecting: {name} is also used by pid {', '.join(others)}, no target's; with `shared: true` these are hit as well"
        )
    if not seen["root"] and not shared:
        raise Refusal(
            f"not injecting: only root sees whether others have {name} open as well; run blackstart as root, or write `shared: true` if "
            "they may be hit along with the target"
        )


def _refuse_unless_told(seen: JSON, gpu: JSON) -> None:
    name = f"{gpu['device']} ({gpu['name']})"
    if gpu["kind"] != "gpu":
        raise Refusal(f"not injecting: {name} is neither a processor nor a GPU, and nothing here tells whose it is or how hot")
    driver, vendor = VENDORS.get(gpu["vendor"], ("", ""))
    if driver and not seen[driver]:
        raise Refusal(
            f"not injecting: {name} is {vendor}'s, whose own driver is here; name it by its UUID, or leave `device` out"
        )
    if gpu["pci"] is None:
        raise Refusal(
            f"not injecting: {name} does not tell where it is (cl_khr_pci_bus_info), so nobody tells whose it is or how hot"
        )
    if gpu["temperature_c"] is None:
        raise Refusal(
            f"not injecting: the kernel tells no temperature of {name} at {gpu['pci']} (hwmon), so nothing could stop the fault"
        )
