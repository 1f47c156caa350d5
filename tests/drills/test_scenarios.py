"""Every shipped scenario on the demo service as it is and hardened: a real flaw fails, its repair passes."""

import pytest
from blackstart.scenarios import shipped
from blackstart.tests.command import Blackstart

# scenario -> verdict on the plain demo, the objective that decides it, settings that shorten it
EXPECTED = {
    "replica-kill-midstream": ("passed", "rto", ()),
    "engine-hang-zombie": ("failed", "rto", ("objectives.rto=8s", "objectives.time_to_detect=8s", "observe=15s")),
    "engine-subprocess-crash": ("failed", "rto", ("objectives.rto=8s", "observe=15s")),
    "rollout-drain": ("failed", "streams_cut", ()),
    "silent-weight-corruption": ("failed", "quality_loss", ("observe=15s",)),
    "latent-artifact-corruption": ("failed", "time_to_redundancy", ("objectives.time_to_redundancy=12s", "observe=20s")),
    "version-skew": ("failed", "quality_loss", ("observe=15s",)),
    "router-worker-partition": ("failed", "rto", ("faults[0].for=12s",)),
    "store-loss": ("failed", "rpo", ()),
    "recovery-stampede": ("failed", "rto", ("observe=25s",)),
}
SHORT = ("steady_state.hold=4s", "settle=4s")


def test_the_table_is_complete() -> None:
    assert set(EXPECTED) == set(shipped())


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["plain", "hardened"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_scenario(blackstart: Blackstart, name: str, kind: str) -> None:
    verdict, objective, settings = EXPECTED[name]
    words = [word for setting in (*SHORT, *settings) for word in ("--set", setting)]
    done = blackstart("demo", name, *words, *(["--hardened"] if kind == "hardened" else []), within_s=200.0)
    wanted = "passed" if kind == "hardened" else verdict
    assert done.result["verdict"] == wanted, f"{done.out}\n{done.err}"
    assert done.code == {"passed": 0, "failed": 1}[wanted]
    assert {one["name"]: one["verdict"] for one in done.result["objectives"]}[objective] == wanted
    assert all(fault["undo_verified"] and fault["evidence"] for fault in done.result["faults"])
