"""The digest lane in every report."""

from dataclasses import replace
from datetime import datetime

import jsonschema
import pytest
from blackstart.drills.finished import FinishedRun
from blackstart.drills.measure.digest_values import HAS, SERVES, Deviation, DigestRow, Digests, DigestStretch, MixedAnswers
from blackstart.drills.measure.values import Interval
from blackstart.drills.objectives import objectives
from blackstart.drills.scenario import Objectives
from blackstart.reports import digest_rows
from blackstart.reports.html import html
from blackstart.reports.markdown import summary
from blackstart.reports.result import result, result_schema
from blackstart.reports.scales import TimeAxis
from blackstart.reports.text import text
from blackstart.tests.unit import report_fixture as runs

NEW, OLD = "sha256:" + "a" * 64, "sha256:" + "b" * 64
EVIL = '<img src=x onerror="alert(1)">'
ROWS = (
    DigestRow(HAS, "r0", 40, 0, (DigestStretch("good", NEW, 2, 13.4), DigestStretch("bad", OLD, 13.4, 16), DigestStretch("good", NEW, 16, 30)), 1.1),
    DigestRow(HAS, "r1", 40, 0, (DigestStretch("good", NEW, 2, 30),), 1.0),
    DigestRow(SERVES, "r0", 40, 3, (DigestStretch("good", NEW, 2, 14), DigestStretch("unknown", "", 14, 17), DigestStretch("good", NEW, 17, 30)), 4.0),
)  # fmt: skip
SEEN = Digests(
    {HAS: NEW, SERVES: NEW}, {HAS: 2, SERVES: 1}, ROWS, (Deviation(HAS, "r0", OLD, Interval(13.0, 13.8), ("m.bin", EVIL)),),
    (Interval(13.0, 13.8), Interval(15.5, 16.5)), Interval(1.7, 3.5), None, MixedAnswers(20, 3, 5),
)  # fmt: skip


def run(digests: Digests | None = SEEN) -> FinishedRun:
    found = runs.passed()
    return replace(found, measurement=replace(found.measurement, digests=digests))


def test_every_replica_is_drawn_over_time() -> None:
    page = html(run())
    for told in ("r0 on disk", "r1 on disk", "r0 served", "Which model each replica had", "replicas have different models"):
        assert told in page, told
    assert f"r0 on disk: {OLD[:19]} from" in page
    assert "r0 served: unknown from" in page
    assert EVIL not in page
    assert "3 to 5 of them came from a replica that deviated" in page
    assert "Which model" not in html(run(None))


def test_what_lies_outside_the_picture_is_cut() -> None:
    found = run()
    axis = TimeAxis(14.5, 15.5, 14.0, datetime.fromisoformat(found.started_wall))
    drawn = str(digest_rows.rows(found, axis, 0.0).drawing)
    assert drawn.count('class="cell bad"') == 1
    assert drawn.count('class="cell unknown"') == 1
    assert drawn.count('class="cell good"') == 1


def test_lines_for_consoles() -> None:
    for told in (text(run()), summary(run()).replace("\\", "")):
        words = " ".join(told.split())
        assert "2 replicas had 2 digests on disk and 1 digest served; r0 had another on disk" in words
        assert "looks that told nothing: r0 served 3 of 40" in words
    assert "igests" not in text(run(None))


@pytest.mark.parametrize("longer_than_s", [None, 12.5])
def test_the_result_says_all_of_it(longer_than_s: float | None) -> None:
    seen = (
        SEEN
        if longer_than_s is None
        else replace(SEEN, single_again=None, longer_than_s=longer_than_s, skew=(Interval(13, 14), None))
    )
    told = result(run(seen))
    jsonschema.validate(told, result_schema())
    time = told["measurements"]["time_to_single_digest"]
    assert time == {"lo_s": longer_than_s or 1.7, "hi_s": None if longer_than_s else 3.5, "censored": bool(longer_than_s)}
    assert told["measurements"]["mixed_answers"] == {"answers": 20, "lo": 3, "hi": 5}
    assert [(each["replica"], each["kind"]) for each in told["digests"]["replicas"]] == [("r0", HAS), ("r1", HAS), ("r0", SERVES)]
    assert told["digests"]["deviations"][0]["differs"][0] == "m.bin"


def test_off_says_nothing() -> None:
    told = result(run(None))
    jsonschema.validate(told, result_schema())
    assert told["digests"] is None
    assert "mixed_answers" not in told["measurements"]


@pytest.mark.parametrize(
    ("lo", "hi", "most", "told", "margin", "value"),
    [
        (0, 32, 0, "0 to 32", "the interval straddles the objective", None),
        (3, 5, 0, "3 to 5", "missed by 3", None),
        (1, 2, 2, "1 to 2", "nothing to spare", None),
        (1, 2, 5, "1 to 2", "3 to spare", None),
        (0, 0, 0, "0", "exactly as demanded", 0),
    ],
)
def test_the_bounds_of_mixed_answers_are_told(lo: int, hi: int, most: int, told: str, margin: str, value: int | None) -> None:
    found = run(replace(SEEN, mixed=MixedAnswers(40, lo, hi)))
    found = replace(found, scenario=replace(found.scenario, objectives=Objectives(mixed_answers=most)))
    (judged,) = objectives(found.scenario, found.measurement)
    found = replace(found, judgement=replace(found.judgement, objectives=(judged,)))
    assert judged.text.startswith(f"{told} of 40 answers came from")
    for report in (text(found), summary(found).replace("\\", ""), html(found)):
        words = " ".join(report.split())
        assert told in words
        assert margin in words
        assert "too little was seen" not in words
    (said,) = result(found)["objectives"]
    jsonschema.validate(result(found), result_schema())
    assert (said["lo"], said["hi"], said["value"]) == (lo, hi, value)
