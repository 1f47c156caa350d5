"""What each shipped scenario must show on the demo service. Hardened, all pass; plain, a real flaw fails its own objective."""

from dataclasses import dataclass
from typing import Any

# The demo computes on no GPU: these are refused on it by name, and drilled in test_gpu_scenarios.py, test_accelerators.py and
# docker/test_gpu_beside.py.
WITH_A_GPU = frozenset({"gpu-compute-saturation", "gpu-health-signal-only", "gpu-lost-end-to-end", "vram-hog-on-restart"})
TOLD = 2  # reasons; the most important come first
BRIEF = ("steady_state.hold=3s", "settle=2s")
# One of two replicas answers on: by chance all that is asked for 3 s goes to that one, which ends the watching as a recovery.
HALF = ("settle=6s", "observe=15s")
EVERYWHERE = ("process", "kubernetes", "docker")


@dataclass(frozen=True)
class Expected:
    """The verdict on the plain demo, the objective that decides it, and settings that shorten the drill without changing either.

    `on`: the platforms that can do it to the demo; on the others it is refused.
    """

    verdict: str
    objective: str
    settings: tuple[str, ...] = ()
    on: tuple[str, ...] = EVERYWHERE


EXPECTED = {
    "replica-kill-midstream": Expected("passed", "rto"),
    "engine-hang-zombie": Expected("failed", "rto", ("objectives.rto=8s", "objectives.time_to_detect=8s", *HALF)),
    "engine-subprocess-crash": Expected("failed", "rto", ("objectives.rto=8s", *HALF)),
    "rollout-drain": Expected("failed", "streams_cut"),
    "silent-weight-corruption": Expected("failed", "quality_loss", ("observe=15s",)),
    "latent-artifact-corruption": Expected("failed", "time_to_redundancy", ("objectives.time_to_redundancy=12s", "observe=20s")),
    "version-skew": Expected("failed", "quality_loss", ("observe=15s",)),
    "router-worker-partition": Expected("failed", "rto", ("faults[0].for=12s",)),
    "store-loss": Expected("failed", "rpo"),
    "registry-outage-at-scale-up": Expected(
        "failed", "time_to_redundancy", ("faults[0].for=12s", "objectives.time_to_redundancy=8s", "observe=20s"), ("process",)
    ),
    "slow-cold-start": Expected(
        "failed",
        "time_to_redundancy",
        ("faults[0].for=18s", "faults[0].delay=500ms", "objectives.time_to_redundancy=12s", "observe=25s"),
        ("process",),
    ),
    "kv-cache-exhaustion": Expected("failed", "rto", ("faults[0].for=9s", "observe=20s"), ("process",)),
    "recovery-stampede": Expected("failed", "rto", ("observe=17s",)),
    "capacity-loss-x-percent": Expected("failed", "rto", (*BRIEF, "faults[0].for=5s", "observe=12s")),
    "router-or-epp-kill": Expected("passed", "rto", (*BRIEF, "observe=12s")),
    "tcp-reset-midstream": Expected("passed", "rto", (*BRIEF, "faults[0].for=6s", "observe=10s")),
    "token-stall": Expected("failed", "stream_gap", (*BRIEF, "faults[0].for=8s", "objectives.stream_gap=3s", "observe=12s")),
    "control-plane-and-dns-down": Expected(
        "failed",
        "rto",
        (*BRIEF, "objectives.rto=8s", "faults[0].for=12s", "faults[1].for=12s", "observe=15s"),
        ("kubernetes", "docker"),
    ),
    "api-server-unreachable": Expected(
        "passed", "rto", (*BRIEF, "faults[0].for=6s", "faults[1].for=6s", "observe=12s"), ("kubernetes",)
    ),
    "health-probe-flap": Expected("passed", "streams_cut", (*BRIEF, "faults[0].for=6s", "observe=12s")),
    "gpu-node-drain": Expected("failed", "streams_cut", (*BRIEF, "objectives.rto=30s", "observe=60s"), ("kubernetes",)),
    "prefill-decode-partition": Expected(
        "failed",
        "rto",
        ("steady_state.hold=3s", "settle=4s", "objectives.rto=4s", "faults[0].for=10s", "observe=15s"),
        ("process",),
    ),
}


def verdict_of(name: str, kind: str) -> str:
    """What a drill of the demo must find; `kind` is plain or hardened."""
    return "passed" if kind == "hardened" else EXPECTED[name].verdict


def contradiction(name: str, kind: str, result: dict[str, Any] | None) -> str:
    """What a drill's result.json says against the table; empty where it agrees. `kind` is plain or hardened."""
    if result is None:
        return "the drill ended without a result"
    wanted = verdict_of(name, kind)
    if result["verdict"] != wanted:
        reasons = "; ".join(reason["text"] for reason in result["reasons"][:TOLD])
        return f"{result['verdict']} instead of {wanted}: {reasons}"
    objective = EXPECTED[name].objective
    judged = {one["name"]: one["verdict"] for one in result["objectives"]}.get(objective, "not judged")
    if judged != wanted:
        return f"{wanted}, but not by {objective}, which is {judged}"
    unproven = [fault["kind"] for fault in result["faults"] if not (fault["undo_verified"] and fault["evidence"])]
    return f"not proven or not proven undone: {', '.join(unproven)}" if unproven else ""
