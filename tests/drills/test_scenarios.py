"""Every shipped scenario on the demo service as it is and hardened: a real flaw fails, its repair passes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from blackstart.scenarios import shipped
from blackstart.scenarios.demo import Demo
from blackstart.tests.command import Blackstart
from blackstart.tests.drills.expected import EXPECTED, WITH_A_GPU, contradiction, verdict_of

SHORT = ("steady_state.hold=4s", "settle=3s")
# What they find hangs on how quickly the demo answers.
UNDER_LOAD = {"health-probe-flap", "kv-cache-exhaustion", "recovery-stampede", "rollout-drain", "tcp-reset-midstream"}
# These pass as well; `make drills` drills all of both kinds.
LEFT_OUT = {
    # so these are on the cluster
    *((name, "hardened") for name in ("engine-subprocess-crash", "latent-artifact-corruption")),
    *((name, "hardened") for name in ("router-worker-partition", "version-skew")),
    *((name, "hardened") for name in ("capacity-loss-x-percent", "kv-cache-exhaustion", "registry-outage-at-scale-up")),
    *((name, "hardened") for name in ("router-or-epp-kill", "slow-cold-start", "tcp-reset-midstream", "token-stall")),
    ("health-probe-flap", "plain"),
    *(("store-loss", kind) for kind in ("plain", "hardened")),  # below
}
ALONE = pytest.mark.alone
DRILLS = [
    pytest.param(name, kind, marks=ALONE if name in UNDER_LOAD else ())
    for name in sorted(EXPECTED)
    for kind in ("plain", "hardened")
    if "process" in EXPECTED[name].on and (name, kind) not in LEFT_OUT
]


def test_the_table_is_complete() -> None:
    assert {*EXPECTED, *WITH_A_GPU} == set(shipped())


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("name", "kind"), DRILLS)
def test_scenario(blackstart: Blackstart, name: str, kind: str) -> None:
    words = [word for setting in (*SHORT, *EXPECTED[name].settings) for word in ("--set", setting)]
    words += ["--hardened"] if kind == "hardened" else []
    done = blackstart.telling("demo", name, *words, within_s=200.0, wanted=verdict_of(name, kind), by=EXPECTED[name].objective)
    assert not contradiction(name, kind, done.result), f"{done.out}\n{done.err}"
    assert done.code == {"passed": 0, "failed": 1}[done.result["verdict"]]


def test_a_service_without_a_model_store_is_refused_by_name(blackstart: Blackstart, demo: Demo) -> None:
    for name in ("registry-outage-at-scale-up", "slow-cold-start"):
        done = blackstart("plan", name, "--service", demo.service_file)
        assert done.code == 2
        assert "and model-store; declare it under process.links" in " ".join(done.err.split())


def test_a_service_without_prefill_and_decode_workers_is_refused_by_name(blackstart: Blackstart, demo: Demo) -> None:
    done = blackstart("plan", "prefill-decode-partition", "--service", demo.service_file)
    assert done.code == 2
    assert "no target has the role decode; there is gateway (gateway), r0 (replica)" in " ".join(done.err.split())


def result(verdict: str = "failed", rpo: str = "failed", *, undone: bool = True) -> dict[str, Any]:
    faults = [{"kind": "store-kill", "undo_verified": undone, "evidence": {"source": "x", "detail": "y"}}]
    return {"verdict": verdict, "reasons": [], "objectives": [{"name": "rpo", "verdict": rpo}], "faults": faults}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (result(), ""),
        (result("passed", "passed"), "passed instead of failed"),
        (result("inconclusive", "inconclusive"), "inconclusive instead of failed"),
        (result(rpo="passed"), "not by rpo"),
        (result(undone=False), "not proven undone: store-kill"),
        (None, "without a result"),
    ],
)
def test_what_contradicts_the_table(found: dict[str, Any] | None, why: str) -> None:
    said = contradiction("store-loss", "plain", found)
    assert bool(said) is bool(why)
    assert why in said


def all_scenarios(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = Path(__file__).with_name("all_scenarios.py")
    return subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True, check=False, timeout=200)


@ALONE  # it drills nothing again that was inconclusive by chance
@pytest.mark.timeout(240)
def test_make_drills_compares_with_the_table() -> None:
    words = [word for setting in SHORT for word in ("--set", setting)]
    good = all_scenarios("store-loss", *words)
    assert good.returncode == 0, good.stdout
    assert [line.split()[:3] for line in good.stdout.splitlines()] == [
        ["store-loss", "plain", "failed"],
        ["store-loss", "hardened", "passed"],
    ]


def test_make_drills_says_why_there_is_no_result() -> None:
    bad = all_scenarios("store-loss", "--set", "faults[0].target.role=nobody")
    assert bad.returncode == 1
    assert "exit 2" in bad.stdout
    assert "no target has the role nobody" in bad.stdout
    assert "2 of 2 contradict" in bad.stdout
