"""Whole files: what they mean as values, and that a value written to a file reads as the same value."""

import runpy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from blackstart.drills.language import reading
from blackstart.drills.loading import (
    InvalidFiles,
    decode_injector,
    dump_scenario,
    dump_service,
    load_files,
    load_scenario,
    load_service,
)
from blackstart.drills.scenario import Bound, Condition, Objectives, Scenario, Selector
from blackstart.drills.service import InnerRole, Service
from hypothesis import given
from hypothesis import strategies as st

FILES = Path(__file__).parent / "files"
GOOD = sorted((FILES / "good").iterdir())
KINDS = runpy.run_path(str(FILES / "kinds.py"))["KINDS"]


@pytest.fixture
def scenario():
    return load_scenario(FILES / "good" / "scenario.yaml", kinds=KINDS)


def test_quantities_become_typed_values(scenario):
    assert scenario.observe == timedelta(days=2)
    assert scenario.steady_state.success == Bound(">=", 0.995)
    assert scenario.steady_state.first_token_p95 == Bound("<=", 1.5)
    assert scenario.load.rate == 0.5
    assert scenario.abort.success == Condition(Bound("<", 0.2), timedelta(seconds=30))
    assert scenario.objectives.rpo == timedelta(0)
    assert scenario.lessons == "Several lines,\n  indented.\n"


def test_faults_come_in_order_of_time_with_their_injectors(scenario):
    assert [fault.kind for fault in scenario.faults] == ["replica-kill", "memory-stress", "command"]
    kill, stress, command = scenario.faults
    assert kill.target == stress.target == Selector(role="gateway", share=0.5)
    assert stress.injector == KINDS["memory-stress"](size=3 * 2**29, rate=20.0, workers=2, factor=3.0, touch=False)
    assert (stress.at, stress.for_) == (timedelta(seconds=1.5), timedelta(minutes=90))
    assert command.injector.inject_ == ("sh", "-c", "exit 0")
    assert command.injector.facts == {"a": [1, 2.5, "no", None, True], "b": 15} or command.injector.facts["a"] == (
        1,
        2.5,
        "no",
        None,
        True,
    )
    assert command.injector.until == Bound("<=", 90.0)


def test_parameters_stay_as_written_and_rebuild_the_injector(scenario):
    stress = scenario.faults[1]

    assert stress.parameters == {"size": "1.5GiB", "rate": "20/s", "workers": 2, "factor": 3, "touch": False}
    for fault in scenario.faults:
        assert decode_injector(fault.kind, fault.parameters, KINDS) == fault.injector


def test_an_injector_from_wrong_parameters_is_refused():
    with pytest.raises(InvalidFiles, match=r"`delay` is `1`, not a duration; add the unit, e\.g\. `1s`"):
        decode_injector("network-delay", {"delay": 1}, KINDS)
    with pytest.raises(InvalidFiles, match="unknown key `dely`"):
        decode_injector("network-delay", {"delay": "1s", "dely": "1s"}, KINDS)
    with pytest.raises(InvalidFiles, match="`jitter` is larger"):
        decode_injector("network-delay", {"delay": "1s", "jitter": "2s"}, KINDS)
    with pytest.raises(InvalidFiles, match="unknown kind of fault `pod-kill`; write `replica-kill`"):
        decode_injector("pod-kill", {}, KINDS)


def test_one_port_is_short_for_one_replica():
    process = load_service(FILES / "good" / "one-replica.yaml").process

    assert [(c.name, c.role, c.port) for c in process.components] == [("replica-0", "replica", 8000)]
    assert process.port is None


def test_relative_paths_of_a_service_start_at_its_folder():
    service = load_service(FILES / "good" / "process.yaml")
    r0, gateway, store = service.process.components

    assert gateway.pid_file == FILES / "good" / "run" / "gw.pid"
    assert store.directory == FILES / "good" / "store"
    assert r0.directory == service.folder == FILES / "good"
    assert service.model.path == str(FILES / "good" / "models" / "{name}")


def test_the_other_platforms_have_their_blocks():
    assert load_service(FILES / "good" / "kubernetes.yaml").kubernetes.workload == "deployment/llm"
    assert load_service(FILES / "good" / "kubernetes.yaml").roles == {"engine": InnerRole("EngineCore")}
    assert load_service(FILES / "good" / "docker.yaml").docker.compose.project == "shop"


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_what_is_written_reads_as_the_same_value_from_anywhere(path, tmp_path):
    (value,) = load_files([path], KINDS)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_scenario(value) if isinstance(value, Scenario) else dump_service(value), encoding="utf-8")

    assert load_files([copy], KINDS) == (value,)


def test_a_default_that_was_switched_off_stays_off(scenario, tmp_path):
    value = replace(scenario, steady_state=replace(scenario.steady_state, success=None))
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_scenario(value), encoding="utf-8")

    assert load_scenario(copy, kinds=KINDS) == value


def test_no_login_is_written():
    service = load_service(FILES / "good" / "one-replica.yaml")
    open_hearted = replace(service, endpoint=replace(service.endpoint, url="http://me:secret@127.0.0.1:8000"))

    assert "secret" not in dump_service(open_hearted)
    assert "http://127.0.0.1:8000" in dump_service(open_hearted)


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="@"), min_size=1))
def test_any_text_survives_being_written(text, tmp_path_factory):
    (service,) = load_files([FILES / "good" / "one-replica.yaml"], KINDS)
    value = replace(service, endpoint=replace(service.endpoint, model=text))
    copy = tmp_path_factory.getbasetemp() / "text.yaml"
    copy.write_text(dump_service(value), encoding="utf-8")

    assert load_service(copy) == value


@given(
    text=st.sampled_from(
        ["0o17", "1e3", "no", "on", "1:30", "null", "~", "", "true", ".nan", "<<", "0x1F", "2026-01-01", "=", "1_0"]
    )
)
def test_text_that_looks_like_another_value_survives_being_written(text, tmp_path_factory):
    objectives = Objectives(quality_loss=0)
    faults = load_scenario(FILES / "good" / "scenario.yaml", kinds=KINDS).faults
    copy = tmp_path_factory.getbasetemp() / "looks.yaml"
    value = Scenario("x", faults, objectives, title=text, rehearses=(text,))
    copy.write_text(dump_scenario(value), encoding="utf-8")

    assert load_scenario(copy, kinds=KINDS) == value


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_parser_without_libyaml_reads_the_same(path, monkeypatch):
    expected = load_files([path], KINDS)
    monkeypatch.setattr(reading, "_parser_class", lambda: yaml.SafeLoader)

    assert load_files([path], KINDS) == expected


def test_a_file_without_a_kind_is_still_checked(tmp_path):
    file = tmp_path / "service.yaml"
    file.write_text(
        (FILES / "good" / "one-replica.yaml").read_text(encoding="utf-8").replace("kind: Service\n", "").replace("8000}", "x}")
    )

    with pytest.raises(InvalidFiles) as caught:
        load_files([file])
    assert [problem.line for problem in caught.value.problems] == [1, 4]


def test_a_service_file_needs_no_installed_faults():
    assert isinstance(load_service(FILES / "good" / "docker.yaml"), Service)
