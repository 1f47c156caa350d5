"""Every malformed file of the corpus is refused with all its errors, each at its place and with what to do."""

import runpy
from pathlib import Path

import pytest
from blackstart.drills.loading import InvalidFiles, load_files, load_scenario, load_service

FILES = Path(__file__).parent / "files"
KINDS = runpy.run_path(str(FILES / "kinds.py"))["KINDS"]
BAD = sorted((FILES / "bad").iterdir())
EXPECTED = (FILES / "bad.txt").read_text(encoding="utf-8").splitlines()


def problems(*paths):
    with pytest.raises(InvalidFiles) as caught:
        load_files(paths, KINDS)
    return caught.value.problems


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_malformed_file_is_refused_with_every_error_at_its_place(path):
    expected = [line for line in EXPECTED if line.startswith(f"{path.name}:")]

    assert [str(problem).removeprefix(f"{path.parent}/") for problem in problems(path)] == expected
    assert expected


def test_parameters_that_can_work_nowhere_are_told_with_their_place():
    """Of the kinds that ship; nothing needs to run for it."""
    path = FILES / "bad-parameters.yaml"
    with pytest.raises(InvalidFiles) as caught:
        load_files([path])

    expected = (FILES / "bad-parameters.txt").read_text(encoding="utf-8").splitlines()
    assert [str(problem).removeprefix(f"{FILES}/") for problem in caught.value.problems] == expected


def test_the_corpus_is_large_and_nothing_is_expected_of_files_that_are_not_there():
    assert len(BAD) >= 37
    assert {line.partition(":")[0] for line in EXPECTED} == {path.name for path in BAD}


def test_all_errors_of_all_files_are_told_at_once():
    first, second = FILES / "bad" / "bare-numbers.yaml", FILES / "bad" / "service-components.yaml"

    found = problems(first, FILES / "good" / "process.yaml", second)

    assert [problem.file for problem in found] == [str(first)] * 6 + [str(second)] * 5


def test_a_value_and_its_place_are_told_apart_from_the_text_of_the_message():
    problem = problems(FILES / "bad" / "misspelt-key.yaml")[0]

    assert (problem.line, problem.column) == (7, 1)
    assert problem.what == "unknown key `observ` in `scenario`"
    assert problem.todo == "did you mean `observe`?"


def test_a_file_that_is_not_there_is_a_problem_and_no_traceback(tmp_path):
    assert str(problems(tmp_path / "none.yaml")[0]) == (
        f"{tmp_path}/none.yaml:1:1: cannot be read: No such file or directory; check the path"
    )
    assert "Is a directory" in str(problems(tmp_path)[0])


def test_a_service_in_place_of_a_scenario_is_one_error_and_not_a_flood():
    with pytest.raises(
        InvalidFiles, match=r"process.yaml:2:7: a scenario file is wanted, this is a service file; .*--service"
    ) as caught:
        load_scenario(FILES / "good" / "process.yaml", kinds=KINDS)
    assert len(caught.value.problems) == 1
    with pytest.raises(InvalidFiles, match="a service file is wanted"):
        load_service(FILES / "good" / "scenario.yaml")


@pytest.mark.parametrize(
    "path", [path for path in BAD if path.read_bytes()[:2] not in {b"\xff\xfe", b"\xef\xbb"}], ids=lambda p: p.stem
)
def test_line_ends_of_windows_move_no_place(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    assert [(p.line, p.column) for p in problems(copy)] == [(p.line, p.column) for p in problems(path)]


def test_a_truncated_file_never_ends_in_a_traceback(tmp_path):
    whole = (FILES / "good" / "scenario.yaml").read_bytes()
    file = tmp_path / "cut.yaml"
    refused = 0
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        try:
            load_files([file], KINDS)
        except InvalidFiles:
            refused += 1
    assert len(whole) // 14 < refused < len(whole) // 7  # cut after its objectives it is a scenario again
