"""junit.xml and summary.md: what CI servers and pull requests read."""

import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest
from blackstart.drills.finished import FinishedRun
from blackstart.drills.refusal import Refused
from blackstart.drills.replay import faults_of
from blackstart.drills.verdict import Reason
from blackstart.reports.files import document, render, write_reports
from blackstart.reports.html import html
from blackstart.reports.junit import junit
from blackstart.reports.markdown import summary
from blackstart.reports.result import result
from blackstart.tests.unit import report_fixture as runs

EVIL = 'a|b <script>alert(1)</script> ]]> \x00\x1b[31m\ud800 `code` *bold* @someone ![x](http://evil) # "q"'
# Jenkins' junit-10.xsd: attributes and children that each element may have, in order.
SHAPE = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id", "package"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": (
        {"name", "assertions", "time", "classname", "status"},
        ["skipped", "error", "failure", "system-out", "system-err"],
    ),
    "skipped": ({"message"}, []),
    "error": ({"type", "message"}, []),
    "failure": ({"type", "message"}, []),
    "system-out": (set(), []),
}


def check_shape(element: Element) -> None:
    attributes, children = SHAPE[element.tag]
    assert set(element.keys()) <= attributes
    order = [children.index(child.tag) for child in element]
    assert order == sorted(order)
    for child in element:
        check_shape(child)


def cases(run: FinishedRun) -> dict[str, Element | None]:
    suite = fromstring(junit(run)).find("testsuite")
    assert suite is not None
    return {case.get("name", ""): next(iter(case), None) for case in suite.iter("testcase")}


@pytest.mark.parametrize("kind", [*runs.KINDS])
def test_junit_has_the_common_shape_and_true_counts(kind: str) -> None:
    root = fromstring(junit(runs.KINDS[kind]()))
    check_shape(root)
    suite = root[0]
    for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(attribute, "-1")) == len(list(suite.iter(tag)))


@pytest.mark.parametrize(
    ("kind", "green"), [(kind, kind in {"passed", "kubernetes", "masked", "degraded", "partial"}) for kind in runs.KINDS]
)
def test_junit_is_green_only_for_a_pass(kind: str, green: bool) -> None:
    suite = fromstring(junit(runs.KINDS[kind]()))[0]
    assert (suite.get("failures") == suite.get("errors") == "0") is green


def test_several_runs_are_one_junit_document() -> None:
    root = fromstring(document([runs.passed(), runs.failed()], "junit"))
    check_shape(root)
    assert len(root) == 2
    for counted in ("tests", "failures", "errors"):
        assert int(root.get(counted, "")) == sum(int(suite.get(counted, "")) for suite in root)


def test_several_runs_are_one_json_array_and_one_run_an_object() -> None:
    both = json.loads(document([runs.passed(), runs.failed()], "json"))
    assert [one["verdict"] for one in both] == ["passed", "failed"]
    assert json.loads(document([runs.passed()], "json"))["verdict"] == "passed"


def test_several_runs_are_no_html_page() -> None:
    with pytest.raises(Refused, match="an HTML page shows one run, and 2 were named"):
        document([runs.passed(), runs.failed()], "html")
    assert document([runs.passed()], "html").count("<!doctype html>") == 1


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_several_runs_follow_one_another_in_text(form: str) -> None:
    assert document([runs.passed(), runs.masked()], form) == f"{render(runs.passed(), form)}\n{render(runs.masked(), form)}"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to write beyond it, in the middle of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_report_that_does_not_fit_leaves_no_half_file(tmp_path: Path) -> None:
    run = replace(runs.passed(), folder=tmp_path)
    with files_of_at_most(4000):
        problems = write_reports(run)
    assert [problem.split(" could not be written: ")[0] for problem in problems] == [
        str(tmp_path / name) for name in ("result.json", "report.html")
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"junit.xml", "summary.md"}
    assert write_reports(run) == ()
    whole = (tmp_path / "result.json").read_text()
    with files_of_at_most(4000):
        assert write_reports(run)
    assert (tmp_path / "result.json").read_text() == whole  # an older one that is whole is kept
    assert len(list(tmp_path.iterdir())) == 4


def test_junit_has_a_case_for_each_objective_evidence_and_undo() -> None:
    found = cases(runs.passed())
    names = " ".join(found)
    for part in ("steady state", "rto:", "rpo:", "quality_loss:", "availability:", "proven to be in effect", "undone and proven"):
        assert part in names


def test_missed_is_a_failure_and_unknown_an_error() -> None:
    failed = {name: problem.tag for name, problem in cases(runs.failed()).items() if problem is not None}
    assert set(failed.values()) == {"failure"}
    unknown = {name: problem.tag for name, problem in cases(runs.inconclusive()).items() if problem is not None}
    assert set(unknown.values()) == {"error"}
    assert "rto: recovery_time ≤ 60 s" in unknown


def test_what_proved_a_fault_right_before_its_undo_stands_beside_the_first_proof() -> None:
    """As the journal tells it: the first proof of a duty may be of a second only."""
    first, later = (
        {"source": "NVML", "detail": f"worked 98% of {over_s} s", "facts": {"over_s": over_s}} for over_s in (1.0, 10.0)
    )
    planned = {"index": 0, "kind": "gpu-saturate", "certifies": "", "bites": "now", "targets": [{"name": "r0"}]}
    events = [
        (1.0, "planned", {"faults": [planned]}),
        (2.0, "effective", {"fault": 0, "lo_s": 1.5, "hi_s": 2.0, "evidence": first}),
        (12.0, "still-effective", {"fault": 0, "evidence": later}),
    ]
    (told,) = faults_of(runs.journal(events))
    fault = replace(runs.FAULT, evidence=told.evidence, still=told.still)
    run = replace(runs.passed(), faults=(fault,))
    found = result(run)["faults"][0]
    assert (found["evidence"], found["evidence_before_undo"]) == (first, later)
    row = next(line for line in summary(run).splitlines() if "replica-kill" in line and "NVML" in line)
    assert r"worked 98% of 1.0 s \(source: NVML\); right before the undo: worked 98% of 10.0 s \(source: NVML\)" in row
    assert re.search("worked 98% of 1.0 s .*Proof right before the undo</h4>.*worked 98% of 10.0 s", html(run), re.DOTALL)
    again = summary(replace(run, faults=(replace(fault, still=first),)))
    assert r"worked 98% of 1.0 s \(source: NVML\); right before the undo: the same" in again


def test_fault_that_was_never_injected_has_no_evidence_and_nothing_to_undo() -> None:
    fault = replace(
        runs.FAULT, injecting_s=None, effective=None, evidence=None, undone=None, undo_verified=False, problem="no link proxy"
    )
    found = cases(replace(runs.inconclusive(), faults=(fault,)))
    evidence, undo = (next(p for n, p in found.items() if part in n) for part in ("in effect", "undone"))
    assert evidence is not None
    assert (evidence.tag, evidence.text) == ("error", "no link proxy")
    assert undo is not None
    assert undo.tag == "skipped"


def test_junit_survives_hostile_text() -> None:
    fault = replace(runs.FAULT, undo_verified=False, undo_problem=EVIL)
    run = replace(runs.dirty(), faults=(fault,), judgement=replace(runs.dirty().judgement, reasons=(Reason("x", EVIL),)))
    written = junit(run)
    root = fromstring(written)  # refuses control characters and unescaped markup
    assert "<script>" not in written
    assert "<script>" in "".join(root.itertext())
    written.encode()  # a lone surrogate would not encode


@pytest.mark.parametrize("kind", [*runs.KINDS])
def test_summary_has_verdict_objectives_and_origin(kind: str) -> None:
    run = runs.KINDS[kind]()
    told = summary(run)
    assert str(run.judgement.verdict).capitalize() in told.splitlines()[0]
    assert told.count("\n| ") >= len(run.judgement.objectives)
    assert run.run in told
    widths = {
        line.replace("\\|", "").count("|") for line in told.split("\n\n") for line in line.splitlines() if line.startswith("| ")
    }
    assert widths <= {4, 5, 6}  # the three tables, no cell broken open


def test_dirty_summary_begins_with_the_command() -> None:
    assert summary(runs.dirty()).split("\n\n")[1] == "```sh\nblackstart recover 20261122T101500-all-replicas-kill-7f3a\n```"


def test_summary_shows_hostile_text_as_it_stands() -> None:
    evil = replace(runs.FAULT, evidence={"source": "x", "detail": EVIL, "facts": {}})
    run = replace(runs.passed(), faults=(evil,), scenario=replace(runs.SCENARIO, title=EVIL))
    told = summary(run)
    assert "<script" not in told
    assert "\x1b" not in told
    assert "@someone" not in told
    assert "![x](" not in told
    assert "a|b" not in told
