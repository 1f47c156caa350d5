"""Which of AMD's GPUs is a target's own: from the kernel's account of who has memory on it, else from the target's environment."""

import re
from collections.abc import Mapping

from . import gpu_agent
from .base import Refusal
from .platforms.base import Target
from .values import JSON

ROCR_VISIBLE = "ROCR_VISIBLE_DEVICES"
HIP_VISIBLE = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")  # HIP heeds the second where the first is not set


def is_amd(device: str) -> bool:
    return bool(re.match(gpu_agent.AMD_NAME, device))


def on_amd(seen: JSON, pids: set[int]) -> list[JSON]:
    """The GPUs on which these processes have memory."""
    return [gpu for gpu in seen["amd"] if pids & {process["pid"] for process in gpu["processes"]}]


def own_amd(seen: JSON, target: Target, pids: set[int], wanted: str | None) -> JSON:
    """What the kernel tells of the target's one GPU. Raises Refusal."""
    if seen["kfd"]:
        raise Refusal(f"not injecting: {seen['kfd']}, and without it nobody tells which GPU is {target.name}'s")
    if seen["hip"]:
        raise Refusal(f"not injecting: {seen['hip']}, and the fault is done by the HIP runtime")
    own = on_amd(seen, pids)
    how = f"{target.name}'s processes are on" if own else f"{target.name}'s environment shows it"
    own = own or _visible(seen, target)
    there = ", ".join(gpu["uuid"] for gpu in seen["amd"])
    listed = ", ".join(gpu["uuid"] for gpu in own)
    if wanted:
        if wanted not in {gpu["uuid"] for gpu in seen["amd"]}:
            told = "; ".join([there or "no GPU", *seen["amd_broken"]])
            raise Refusal(f"not injecting: there is no {wanted}; the kernel (amdkfd) has {told}")
        own = [gpu for gpu in own if gpu["uuid"] == wanted]
        if not own:
            raise Refusal(f"not injecting: {wanted} belongs to no target: {how} {listed or 'none'}")
    if not own:
        told = "; ".join([there or "empty", *seen["amd_broken"]])
        raise Refusal(
            f"not injecting: no process of {target.name} is on a GPU by the kernel's account ({told}), and none of "
            f"{', '.join((ROCR_VISIBLE, *HIP_VISIBLE))} of its environment names one"
        )
    if len(own) > 1:
        raise Refusal(f"not injecting: {how} {listed}; name one of them as `device`")
    return own[0]


def _visible(seen: JSON, target: Target) -> list[JSON]:
    """What the target's environment lets it see. HIP counts within what the runtime below it (ROCr) lets in. Nothing where none is set."""
    found: dict[str, JSON] = {}
    for values in seen["environment"].values():
        hip = next((name for name in HIP_VISIBLE if name in values), None)
        if ROCR_VISIBLE not in values and hip is None:
            continue
        inside = _named(values, ROCR_VISIBLE, seen["amd"], seen, target) if ROCR_VISIBLE in values else seen["amd"]
        chosen = _named(values, hip, inside, seen, target) if hip else inside
        found.update({gpu["uuid"]: gpu for gpu in chosen})
    return list(found.values())


def _named(values: Mapping[str, str], variable: str, counted: list[JSON], seen: JSON, target: Target) -> list[JSON]:
    """Indexes and beginnings of UUIDs, as ROCr and HIP read them: what comes after one that is not there is not looked at."""
    found: list[JSON] = []
    for word in (word.strip() for word in values[variable].split(",")):
        if word.isdigit() and seen["amd_broken"]:
            raise Refusal(
                f"not injecting: {variable}={word} of {target.name} is an index, and nobody tells where a GPU would be counted that is "
                f"not as it should be ({'; '.join(seen['amd_broken'])}); set UUIDs there"
            )
        if word.isdigit() and int(word) < len(counted):
            chosen = [counted[int(word)]]
        else:
            chosen = [gpu for gpu in counted if word.startswith("GPU-") and gpu["uuid"].startswith(word)][:1]
        if not chosen:
            break
        found += chosen
    return found
