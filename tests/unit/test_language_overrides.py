"""`--set PATH=VALUE`."""

import runpy
from datetime import timedelta
from pathlib import Path

import pytest
from blackstart.drills.loading import InvalidFiles, load_scenario
from blackstart.drills.scenario import Bound

FILES = Path(__file__).parent / "files"
KINDS = runpy.run_path(str(FILES / "kinds.py"))["KINDS"]
SCENARIO = FILES / "good" / "scenario.yaml"


def load(*settings):
    return load_scenario(SCENARIO, settings, KINDS)


def problems(*settings):
    with pytest.raises(InvalidFiles) as caught:
        load(*settings)
    return [str(problem) for problem in caught.value.problems]


def test_values_replace_those_of_the_file():
    scenario = load("faults[2].at=2s", "observe=40s", "steady_state.hold=3s", "objectives.rto = 5s", "faults[0].at=30s")

    assert [fault.at for fault in scenario.faults] == [timedelta(seconds=s) for s in (1.5, 2, 30)]
    assert scenario.observe == timedelta(seconds=40)
    assert scenario.objectives.rto == timedelta(seconds=5)


def test_comparisons_need_no_quotes_and_collections_are_yaml():
    scenario = load("steady_state.success=>= 90%", "rehearses=[a, 'b: c']", "load={streams: 1}", "title='2'")

    assert scenario.steady_state.success == Bound(">=", 0.9)
    assert scenario.rehearses == ("a", "b: c")
    assert (scenario.load.streams, scenario.load.rate) == (1, 0)
    assert scenario.title == "2"


def test_a_key_that_the_file_leaves_out_is_added():
    assert load("faults[0].target.names=[a]").faults[-1].target.names == ("a",)
    assert load("settle=1s").settle == timedelta(seconds=1)


def test_one_use_of_an_anchor_changes_and_the_others_stay():
    kill, stress, _ = load("faults[1].target.role=replica").faults

    assert stress.target.role == "replica"
    assert kill.target.role == "gateway"


def test_the_last_setting_wins():
    assert load("settle=1s", "settle=2s").settle == timedelta(seconds=2)


def test_problems_are_located_at_the_setting():
    assert problems("observe=20", "faults[1].size=big") == [
        "--set faults[1].size: `size` is `big`, not a size; write it with its unit: `512MiB`, `2GiB`, `10MB`, `4096B`",
        "--set observe: `observe` is `20`, not a duration; add the unit, e.g. `20s`",
    ]
    assert problems("faults[0].att=2s") == ["--set faults[0].att: unknown key `att` in `command`; did you mean `at`?"]


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("observe", "--set observe: no `PATH=VALUE`; write e.g. `--set faults[0].at=2s`"),
        ("=5s", "--set : no `PATH=VALUE`; write e.g. `--set faults[0].at=2s`"),
        ("a..b=1", "--set a..b: no `PATH=VALUE`; write e.g. `--set faults[0].at=2s`"),
        ("faults[7].at=2s", "--set faults[7].at: `[7]` of a list of 3; count from 0"),
        ("observe[0]=2s", "--set observe[0]: `[0]` of no list; count from 0"),
        ("observe.at=2s", "--set observe.at: `at` is set in text, which has no keys"),
        ("rehearses=[a", "--set rehearses: a list opened by `[` is not closed"),
        ("objectives={rto: 1s, rto: 2s}", "--set objectives: `rto` is given twice"),
        ("rehearses=[*x]", "--set rehearses: no anchor `&x` stands above"),
    ],
)
def test_a_setting_that_cannot_be_applied_is_a_problem(setting, problem):
    assert problems(setting)[0].startswith(problem)


def test_problems_of_the_file_and_of_the_settings_come_together(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(SCENARIO.read_text(encoding="utf-8").replace("settle: 10s", "settle: 10"), encoding="utf-8")

    with pytest.raises(InvalidFiles) as caught:
        load_scenario(file, ["observe=20"], KINDS)
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [("--set observe", 0), (str(file), 26)]


def test_one_use_of_a_shared_list_changes_and_the_others_stay(tmp_path):
    file = tmp_path / "shared.yaml"
    faults = "faults: [{kind: replica-kill, target: {names: &n [a, b]}}, {kind: replica-kill, target: {names: *n}}]\n"
    file.write_text("apiVersion: blackstart/v1\nkind: Scenario\nname: x\nobjectives: {rto: 1s}\n" + faults, encoding="utf-8")

    first, second = load_scenario(file, ["faults[0].target.names[1]=c"], KINDS).faults

    assert (first.target.names, second.target.names) == (("a", "c"), ("a", "b"))
