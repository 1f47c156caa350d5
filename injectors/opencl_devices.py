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
        raise Refusal(f"not injecting: {seen['opencl']}")
    listed = {device["device"]: device for device in seen["devices"]}
    if wanted and wanted not in listed:
        there = ", ".join(f"{name} ({device['name']})" for name, device in listed.items()) or "none"
        raise Refusal(f"not injecting: there is no {wanted}; OpenCL has {there}")
    device = listed[wanted] if wanted and listed[wanted]["kind"] == "cpu" else _gpu(seen, target, pids, wanted)
    found = {"device": device["device"], "name": device["name"], "total_bytes": device["total_bytes"]}
    if device["kind"] == "cpu":
        simulated = device["hardware"] == "simulated"
        found |= {"hardware": "simulated" if simulated else "opencl-cpu", "on_host_memory": True}
        return {**found, "used_bytes": None, "target_bytes": None}
    _refuse_unless_safe(seen, device, pids, shared=shared)
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


def _gpu(seen: JSON, target: Target, pids: set[int], wanted: str | None) -> JSON:
    """The one that is named, unless the target has another one open; else the one that it has open, by the kernel's word."""
    gpus = [device for device in seen["devices"] if device["kind"] == "gpu"]
    own: list[JSON] = [gpu for gpu in gpus if pids & {process["pid"] for process in gpu["processes"]}]
    listed = ", ".join(gpu["device"] for gpu in own)
    if wanted:
        device: JSON = next(device for device in seen["devices"] if device["device"] == wanted)
        if own and device not in own:
            raise Refusal(f"not injecting: {wanted} belongs to no target: {target.name}'s processes have {listed} open")
        return device
    if not own:
        there = ", ".join(f"{gpu['device']} ({gpu['name']})" for gpu in gpus)
        raise Refusal(f"not injecting: no process of {target.name} has one of OpenCL's GPUs open ({there}); name one as `device`")
    if len({gpu["pci"] for gpu in own}) > 1:
        raise Refusal(f"not injecting: {target.name}'s processes have {listed} open; name one of them as `device`")
    return own[0]


def _refuse_unless_safe(seen: JSON, gpu: JSON, pids: set[int], *, shared: bool) -> None:
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
    others = [str(process["pid"]) for process in gpu["processes"] if process["pid"] not in pids and not process["agent"]]
    if others and not shared:
        raise Refusal(
            f"not injecting: {name} is also used by pid {', '.join(others)}, no target's; with `shared: true` these are hit as well"
        )
