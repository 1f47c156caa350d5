"""Whole containers, paused by the engine (the freezer cgroup), and unpaused by an agent on the engine's own machine."""

import sys
from pathlib import Path
from typing import Final

from ..values import JSON
from .base import Target, Unsupported
from .docker_api import DockerApi
from .docker_find import parts_of
from .local_agents import LocalAgents
from .process_table import PROC, Process, process_at

SWITCH: Final = Path(__file__).with_name("engine_switch.py")
SWITCH_S: Final = 30.0
ELSEWHERE: Final = (
    "can be paused only where the engine runs on this machine, since the engine itself never ends a pause; name processes inside it "
    "by `role`, e.g. role: engine"
)


def refuse_pause(api: DockerApi, container: JSON) -> str:
    """Why a pause could not be ended here when blackstart dies; empty: it could."""
    return ELSEWHERE if api.socket is None or process_of(container) is None else ""


def begin_pause(api: DockerApi, agents: LocalAgents, fault: str, target: Target, deadline_s: float) -> JSON:
    """An agent here pauses it, and unpauses it when this process dies, at the deadline, or when it is told."""
    number, started = parts_of(target.identity)
    if api.socket is None:
        raise Unsupported(f"{target.name} {ELSEWHERE}")
    words = [sys.executable, "-I", "-S", str(SWITCH), api.socket]
    switch = {verb: [*words, verb, number, started] for verb in ("pause", "unpause")}
    request = {"inject": switch["pause"], "recover": switch["unpause"], "limit_s": SWITCH_S, "undo_s": SWITCH_S + 10}
    return agents.begin(fault, target, "hold-command", request, deadline_s)


def process_of(container: JSON) -> Process | None:
    """Its first process, where this machine's /proc shows it as that container's: the engine may be elsewhere, or in a VM."""
    pid = int(container["State"].get("Pid") or 0)
    try:
        groups = (PROC / str(pid) / "cgroup").read_text(encoding="ascii")
    except OSError:
        return None
    return process_at(pid) if pid and container["Id"] in groups else None
