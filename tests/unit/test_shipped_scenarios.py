"""What every scenario that ships says of itself."""

from dataclasses import fields
from datetime import timedelta
from itertools import takewhile
from pathlib import Path

import pytest
from blackstart.commands.drilling import demo_parts, demo_privileged
from blackstart.commands.looking import scenarios
from blackstart.drills.loading import load_scenario
from blackstart.drills.scenario import Bound, Objectives
from blackstart.drills.verdict import ExitCode
from blackstart.injectors import registry
from blackstart.reports.fault_pages import needs
from blackstart.scenarios import shipped, shipped_text
from blackstart.tests.drills.expected import EXPECTED

OTHER = {timedelta: "7s", int: "7", Bound: ">= 12%"}  # than any scenario has


@pytest.mark.parametrize("name", sorted(shipped()))
def test_it_says_what_it_rehearses_certifies_and_needs(name: str) -> None:
    scenario = load_scenario(shipped()[name])
    assert scenario.name == name
    assert scenario.title
    assert scenario.rehearses
    assert all("https://" in source for source in scenario.rehearses)
    assert scenario.certifies.startswith("A pass shows that ")
    limits = (" not ", "cannot", "nothing")  # a pass is never about everything
    assert any(word in scenario.certifies for word in limits)
    assert needs(scenario)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_what_is_shown_and_copied_says_first_what_it_needs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scenarios(name, None) is ExitCode.PASSED
    shown = capsys.readouterr().out
    assert scenarios(name, tmp_path) is ExitCode.PASSED
    copied = (tmp_path / f"{name}.yaml").read_text(encoding="utf-8")
    assert shown.rstrip("\n") == copied.rstrip("\n")
    comment = "".join(takewhile(lambda line: line.startswith("# "), copied.splitlines(keepends=True)))
    said = " ".join(line.removeprefix("# ") for line in comment.splitlines())
    assert said == f"Needs: {'; '.join(needs(load_scenario(shipped()[name])))}."
    assert copied == comment + shipped_text(name)
    assert load_scenario(tmp_path / f"{name}.yaml") == load_scenario(shipped()[name])


@pytest.mark.parametrize("name", sorted(shipped()))
def test_each_of_its_objectives_can_be_overridden(name: str) -> None:
    scenario = load_scenario(shipped()[name])
    given = [each.name for each in fields(Objectives) if getattr(scenario.objectives, each.name) is not None]
    assert given
    for objective in given:
        before = getattr(scenario.objectives, objective)
        changed = load_scenario(shipped()[name], (f"objectives.{objective}={OTHER[type(before)]}",))
        assert getattr(changed.objectives, objective) != before


@pytest.mark.parametrize("name", sorted(shipped()))
def test_its_faults_outlast_its_rto(name: str) -> None:
    """One that ends by plan sooner would be passed by services that only its end brings back. What is only reported takes nobody down."""
    scenario = load_scenario(shipped()[name])
    held = [each.for_ for each in scenario.faults if each.for_ is not None and each.kind != "gpu-health-signal"]
    rto = scenario.objectives.rto
    assert rto is None or all(each > rto for each in held)


def test_a_busy_engine_is_drilled_where_a_kubelet_probes_it() -> None:
    """By the fault that its incidents name once that can be done there: long prompts."""
    scenario = load_scenario(shipped()["health-probe-flap"])
    assert all("kubernetes" in each.injector.means_on for each in scenario.faults)
    assert "long-context-flood" in scenario.certifies
    assert "kubernetes" not in registry()["long-context-flood"].platforms


def test_memory_is_held_until_a_server_that_starts_again_has_looked_for_it() -> None:
    """vLLM 0.24.0 with a tiny model looked 41 s after its start (NVIDIA H200, 2026-11-26); one with a real model comes later."""
    fill, kill = load_scenario(shipped()["vram-hog-on-restart"]).faults
    assert fill.for_ is not None
    assert fill.for_ - kill.at >= 2 * timedelta(seconds=41)


def test_the_demo_has_the_parts_that_a_scenario_names() -> None:
    parts = {name: demo_parts(load_scenario(path)) for name, path in shipped().items()}
    assert {name: more for name, more in parts.items() if more} == {
        "prefill-decode-partition": ("--disaggregated",),
        "registry-outage-at-scale-up": ("--with-model-store",),
        "slow-cold-start": ("--with-model-store",),
    }
    kill = shipped()["replica-kill-midstream"]
    assert demo_parts(load_scenario(kill, ("faults[0].target.role=prefill",))) == ("--disaggregated",)
    assert demo_parts(load_scenario(shipped()["version-skew"], ("digest.role=decode",))) == ("--disaggregated",)


def test_the_demo_s_namespace_is_unlocked_only_for_what_needs_it() -> None:
    unlocked = {
        name for name in EXPECTED if "kubernetes" in EXPECTED[name].on and demo_privileged(load_scenario(shipped()[name]))
    }
    assert unlocked == {"api-server-unreachable", "tcp-reset-midstream", "token-stall"}
