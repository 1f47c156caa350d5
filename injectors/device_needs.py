"""What a fault's settings ask of a device: refused where it has not got that, before anything is done there."""

from dataclasses import dataclass

from . import agent
from .base import Refusal
from .compute import Meter
from .platforms.base import Platform, Target
from .values import JSON, Share, Size

HOTTEST_C = 87


@dataclass(frozen=True)
class Needs:
    """`shared`: others on it may be hit as well; `tensor`: cores of that name, or matrix cores, of which there has to be a kernel."""

    shared: bool = False
    hottest_c: int = HOTTEST_C
    watts: int | None = None
    tensor: bool = False


def device_problems(device: str | None) -> tuple[str, ...]:
    """Of the key of that name, as Injector.problems has them."""
    return ("`device` is empty; name one, or leave it out",) if device is not None and not device.strip() else ()


def memory_problems(leave: Size | None, leave_share: Share | None, device: str | None) -> tuple[str, ...]:
    """Of gpu-memory-fill."""
    found = list(device_problems(device))
    if leave_share is not None and leave_share >= 1:
        found.append("`leave_share` is 100%, so nothing would be taken; write less")
    if leave_share is not None and leave is not None:
        found.append("`leave` is given beside `leave_share`, and only one of them can hold; leave one out")
    return tuple(found)


def refuse_unless_met(device: JSON, needs: Needs) -> None:
    """`device` as gpu_agent.py's `look` tells of it. An agent would refuse as well, or let go at once."""
    name = device["uuid"] if "kind" not in device else f"{device['device']} ({device['name']})"
    processor = device.get("kind") == "cpu"
    if needs.tensor and "kind" in device:
        raise Refusal(
            f"not injecting: OpenCL has no tensor cores, and {name} is worked on by it; write `kernels: fma`, or leave it out"
        )
    if needs.tensor and device["tensor"] is False:
        raise Refusal(
            f"not injecting: {name} has no tensor cores that there is a kernel for; write `kernels: fma`, or leave it out"
        )
    if processor and (needs.watts is not None or needs.hottest_c != HOTTEST_C):
        raise Refusal(f"not injecting: nobody watches how hot {name} is or what it takes; leave out `hottest` and `watts`")
    if not processor:
        _refuse_unless_watched(name, device["temperature_c"], device["power_w"], needs)


def _refuse_unless_watched(name: str, temperature_c: int | None, power_w: float | None, needs: Needs) -> None:
    if temperature_c is None:
        raise Refusal(
            f"not injecting: nobody tells how hot {name} is, so nothing could stop the fault in time; choose another device"
        )
    if temperature_c >= needs.hottest_c:
        raise Refusal(
            f"not injecting: {name} has {temperature_c} C already and `hottest` is {needs.hottest_c}, so the fault would end at once; raise "
            "`hottest`, or wait until it is cooler"
        )
    if needs.watts is not None and power_w is None:
        raise Refusal(
            f"not injecting: nobody tells how much power {name} takes, so nothing could stop the fault at {needs.watts} W; leave out `watts`"
        )


def short_of(wanted: int, target: Target, platform: Platform) -> str:
    """Why so much of the machine's memory cannot be taken; empty: it can."""
    available = platform.memory_available(target) if isinstance(platform, Meter) else None
    room = None if available is None else max(0, available - agent.memory_reserve(available))
    if room is None or wanted <= room:
        return ""
    return f"{wanted >> 20} MiB would be taken, and {room >> 20} MiB can be, so that 10 % and 512 MiB stay free; raise `leave`"
