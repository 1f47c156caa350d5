"""What reports say in words and in result.json, for every verdict."""

import io
import json
from dataclasses import fields, replace

import jsonschema
import pytest
from blackstart.drills.measure.values import Interval, Probe
from blackstart.drills.progress import Phase
from blackstart.drills.scenario import Objectives
from blackstart.drills.verdict import Judged, Verdict
from blackstart.reports import figures
from blackstart.reports.anatomy import longest, until
from blackstart.reports.markdown import summary
from blackstart.reports.progress import Drawing
from blackstart.reports.result import result, result_schema
from blackstart.reports.sentence import sentence
from blackstart.reports.text import draw, text
from blackstart.tests.unit import report_fixture as runs
from rich.console import Console
from rich.live import Live

FINE = "Everything was put back."


@pytest.mark.parametrize(
    ("kind", "begins", "holds"),
    [
        (
            "passed",
            "Passed. Users were without answers for 2.93 s [2.91, 2.95]; up to 60 s were allowed.",
            [FINE, "(412 writes)"],
        ),
        ("failed", "Failed. Users were partly interrupted for more than 61.5 s", ["5 of 412 acknowledged writes", "Next:"]),
        ("masked", "Passed. No interruption longer than 0.21 s was seen; up to 60 s were allowed.", [FINE]),
        ("inconclusive", "Inconclusive: the service was not steady before the fault", ["Nothing was injected.", "Next:"]),
        ("aborted", "Aborted: success stayed below 20 % for 5 s", [FINE, "Next:", "neither a pass nor a failure"]),
        ("dirty", "Run `blackstart recover 20261122T101500-all-replicas-kill-7f3a` now", ["pid 41312 is stopped"]),
        ("internal", "Internal error: ZeroDivisionError", ["Next: report this"]),
    ],
)
def test_sentence_of_every_verdict(kind: str, begins: str, holds: list[str]) -> None:
    told = sentence(runs.KINDS[kind]())
    assert told.startswith(begins)
    for part in holds:
        assert part in told


def test_dirty_never_says_that_all_was_put_back() -> None:
    assert FINE not in sentence(runs.dirty())


def test_partial_outage_is_not_told_as_total() -> None:
    told = sentence(runs.partial())
    assert "without answers" not in told
    assert "Users were partly interrupted for 11.57 s [11.53, 11.61]: " in told
    share = float(told.split("]: ")[1].split(" %")[0])
    assert 35 < share < 65  # one of two replicas hangs
    assert "on lane fresh" in told


def test_untouched_lane_does_not_soften_a_total_outage() -> None:
    """A hung engine still serves its model list: the light lanes stay good, and yet nobody gets an answer."""
    hung = (replace(runs.REFUSED[0], outcome="timeout", after_s=0.5),)
    quiet = [replace(lane, troubles=()) if lane.kind in {"fresh", "reuse"} else lane for lane in runs.lanes(hung, {"r0": hung})]
    run = runs.build(tuple(quiet), runs.Measured(runs.BACK), runs.passed().judgement)
    assert "Users were without answers for 2.93 s" in sentence(run)


def test_who_keeps_a_connection_and_gets_answers_makes_the_outage_partial() -> None:
    half = (replace(runs.REFUSED[0], outcome="reset", share=0.5),)
    lanes = [replace(lane, troubles=half if lane.kind == "reuse" else lane.troubles) for lane in runs.SHORT]
    told = sentence(runs.build(tuple(lanes), runs.Measured(runs.BACK), runs.passed().judgement))
    assert "without answers" not in told
    assert "on lane reuse" in told


def held_back(probe: Probe, healed_s: float = 16.37) -> Probe:
    """Asked while the service hung, answered right once it went on."""
    asked = probe.lane == "semantic" and runs.BACK.impact.lo_s <= probe.sent_s < healed_s
    return probe._replace(first_s=healed_s, end_s=healed_s + 0.01, outcome="ok") if asked else probe


def test_answers_that_came_only_after_the_recovery_are_no_answers_during_the_outage() -> None:
    """A hang of 2.9 s on a lane that allows 2.4 s for an answer: most of its answers are within that, and not one came in time."""
    hung = (replace(runs.REFUSED[0], outcome="timeout", after_s=1.0),)
    run = runs.build(runs.lanes(hung, {"r0": hung}), runs.Measured(runs.BACK), runs.passed().judgement)
    patient = tuple(replace(one, slow_limit_s=2.4) if one.info.kind == "semantic" else one for one in run.measurement.lanes)
    run = replace(run, probes=tuple(map(held_back, run.probes)), measurement=replace(run.measurement, lanes=patient))
    kept = [p for p in run.probes if p.lane == "semantic" and p.sent_s < 16.37 < p.end_s]
    assert any(p.end_s - p.sent_s > 2.4 for p in kept)
    assert any(p.end_s - p.sent_s < 2.4 for p in kept)
    told = sentence(run)
    assert "partly" not in told
    assert "Users were without answers for 2.93 s" in told


def test_the_lane_that_got_nothing_is_named_before_the_one_that_came_back_sooner() -> None:
    """The port answers again after a third of the outage, the model only at its end."""
    light = (replace(runs.REFUSED[0], end=14.4),)
    lanes = [replace(x, troubles=light) if x.kind in {"fresh", "reuse"} else x for x in runs.SHORT]
    told = sentence(runs.build(tuple(lanes), runs.Measured(runs.BACK), runs.passed().judgement))
    assert "Users were partly interrupted for 2.93 s" in told
    assert "100 % of answers failed" in told.split(" on lane semantic, while ")[0]
    assert "came right and in time" in told.split(" on lane semantic, while ")[1].split(" on lane fresh.")[0]


def test_an_answer_under_way_at_the_recovery_counts_neither_way() -> None:
    run = runs.partial()
    edge = next(p for p in run.probes if p.lane == "fresh" and p.outcome == "ok" and 24.5 < p.sent_s < 24.9)
    later = tuple(p._replace(sent_s=24.96, end_s=24.98) if p is edge else p for p in run.probes)
    asked, told = (int(sentence(one).split(" of ")[2].split(")")[0]) for one in (run, replace(run, probes=later)))
    assert told == asked - 1
    assert "came late" not in sentence(replace(run, probes=later))


def test_an_interruption_too_short_to_hold_an_answer_is_not_called_partial() -> None:
    brief = (replace(runs.REFUSED[0], start=13.43, end=13.49),)
    narrow = replace(
        runs.BACK, impact=Interval(13.40, 13.45), recovered=Interval(13.44, 13.55), recovery_time=Interval(0.0, 0.15)
    )
    told = sentence(runs.build(runs.lanes(brief, {"r0": ()}), runs.Measured(narrow), runs.passed().judgement))
    assert "partly" not in told


def test_late_and_wrong_answers_are_told_as_such() -> None:
    for outcome, wanted in (("ok", "answers in time"), ("wrong-answer", "right answers")):
        late = (replace(runs.REFUSED[0], outcome=outcome, after_s=2.0),)
        run = runs.build(runs.lanes(late, {"r0": ()}), runs.Measured(runs.BACK), runs.passed().judgement)
        assert f"Users were without {wanted} for 2.93 s" in sentence(run)


def test_back_only_after_the_undo_is_no_recovery() -> None:
    held = replace(runs.BACK, recovery_time=None, censored_after_s=2.4)
    told = sentence(runs.build(runs.SHORT, runs.Measured(held), runs.failed().judgement))
    assert "without answers for more than 2.4 s, until the fault was undone" in told


def test_recovery_that_was_not_watched_long_enough_is_not_known() -> None:
    open_end = replace(runs.BACK, recovery_time=None, recovered=None)
    missing = {"recovery_time": "right answers came back at 16.4 s, but only 3.0 s were watched"}
    told = sentence(runs.build(runs.SHORT, runs.Measured(open_end, missing=missing), runs.inconclusive().judgement))
    assert "How long users were without answers is not known: right answers came back" in told


def test_degraded_service_is_told_with_the_share_that_failed() -> None:
    run = runs.degraded()
    told = sentence(run)
    assert (
        "No interruption longer than 0.21 s was seen; up to 60 s were allowed, but for 10.0 s a part of the answers was bad: "
        in told
    )
    assert "on lane fresh" in told


def test_several_interruptions_are_counted() -> None:
    again = (*runs.REFUSED, replace(runs.REFUSED[0], start=30.0, end=31.0))
    run = runs.build(runs.lanes(again, {"r0": ()}), runs.Measured(runs.BACK), runs.passed().judgement)
    assert "it was the longest of 2 interruptions" in sentence(run)
    assert "longest of" not in sentence(runs.passed())


def test_outage_after_the_undo_is_told() -> None:
    run = runs.build(runs.SHORT, runs.Measured(replace(runs.BACK, follows="fault 0 undone")), runs.passed().judgement)
    assert "began only after the fault had been undone" in sentence(run)


def test_unverified_undo_is_told_though_the_verdict_is_not_dirty() -> None:
    fault = replace(runs.FAULT, undo_verified=False)
    run = replace(runs.passed(), faults=(fault,))
    assert "It is not proven that replica-kill was put back." in sentence(run)
    assert FINE not in sentence(run)


@pytest.mark.parametrize("kind", [*runs.KINDS])
def test_result_fits_its_schema(kind: str) -> None:
    schema = result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    written = json.loads(json.dumps(result(runs.KINDS[kind]()), allow_nan=False))
    jsonschema.Draft202012Validator(schema).validate(written)
    named = {reason.get("figure") for reason in written["reasons"]}
    for figure, value in written["measurements"].items():
        assert value is not None or figure in named, f"{figure} is null without a reason"


def test_schema_rejects_what_it_should() -> None:
    broken = result(runs.passed())
    broken["verdict"] = "fine"
    assert not jsonschema.Draft202012Validator(result_schema()).is_valid(broken)
    broken = result(runs.passed())
    del broken["objectives"][0]["target_s"]
    assert not jsonschema.Draft202012Validator(result_schema()).is_valid(broken)


def test_result_has_the_contract_figures() -> None:
    found = result(runs.passed())
    assert found["schema"] == "blackstart.result/v1"
    assert found["measurements"]["recovery_time"] == {
        "lo_s": 2.91,
        "hi_s": 2.95,
        "clock": "impact",
        "masked": False,
        "censored": False,
    }
    assert found["measurements"]["data_loss"]["oldest_lost_s"] is None
    assert found["objectives"][0] | {"text": ""} == {
        "name": "rto", "relation": "<=", "unit": "s", "measured": "recovery_time", "target_s": 60.0, "lo_s": 2.91, "hi_s": 2.95,
        "censored": False, "verdict": "passed", "text": "",
    }  # fmt: skip
    assert found["faults"][0]["targets"] == ["r0", "r1"]
    assert found["faults"][0]["effective"] == {"lo_s": 13.41, "hi_s": 13.436}


def test_censored_recovery_has_no_upper_bound() -> None:
    found = result(runs.failed())
    assert found["measurements"]["recovery_time"]["lo_s"] == 61.5
    assert found["measurements"]["recovery_time"]["hi_s"] is None
    assert found["objectives"][0]["hi_s"] is None
    assert found["measurements"]["time_to_detect"] == {"/ready": None}


def test_masked_recovery_is_bounded_by_the_largest_gap() -> None:
    assert result(runs.masked())["measurements"]["recovery_time"]["hi_s"] == 0.21


@pytest.mark.parametrize("kind", [*runs.KINDS])
def test_text_fits_80_columns_and_has_no_control_sequences(kind: str) -> None:
    run = runs.KINDS[kind]()
    told = text(run)
    assert max(map(len, told.splitlines())) <= 80
    assert "\x1b" not in told
    assert str(run.judgement.verdict).upper() in told.splitlines()[0]
    assert "report.html" in told


@pytest.mark.parametrize("kind", [*runs.KINDS])
def test_drawn_text_fits_80_columns_without_colour(kind: str) -> None:
    stream = io.StringIO()
    run = runs.KINDS[kind]()
    draw(run, Console(file=stream, width=80, force_terminal=True, no_color=True, color_system=None))
    told = stream.getvalue()
    assert max(map(len, told.splitlines())) <= 80
    assert str(run.judgement.verdict).upper() in told
    for judged in run.judgement.objectives:
        assert figures.measured(judged).split(" [")[0] in told


@pytest.mark.parametrize("kind", [*runs.KINDS])
@pytest.mark.parametrize("columns", [30, 44, 59])
def test_a_narrow_terminal_breaks_no_word(kind: str, columns: int) -> None:
    stream = io.StringIO()
    run = runs.KINDS[kind]()
    draw(run, Console(file=stream, width=columns, force_terminal=True, no_color=True, color_system=None))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines[:-1])) <= columns  # the last one is a path that must not be broken
    printed = {word.strip(",:") for word in stream.getvalue().split()}
    for judged in run.judgement.objectives:
        for told in (figures.name(judged), figures.measured(judged), figures.demanded(judged), figures.margin(judged)):
            assert {word.strip(",:") for word in told.split()} <= printed


def test_a_sign_stays_with_its_lane_on_a_narrow_terminal() -> None:
    names = ["fresh", "reuse", "semantic", "replica:r0", "replica:r1", "health:/health", "health:r0/health", "ledger", "stream"]
    stream = io.StringIO()
    live = Live(console=Console(file=stream, width=44, force_terminal=True, color_system=None), auto_refresh=False)
    drawing = Drawing(live)
    drawing.phase(Phase.OBSERVING, 20.0)
    drawing.lanes(1.0, dict.fromkeys(names, "up"))
    live.console.print(live.renderable)
    drawing.live.stop()
    lines = [line.strip() for line in live.console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert not [line for line in lines if line.endswith("●")]
    for name in names:
        assert any(f"● {name}" in line for line in lines), name
    assert max(len(line) for line in lines if "●" in line and "\x1b" not in line) <= 44


def test_escape_sequences_from_outside_never_reach_the_console() -> None:
    evil = replace(runs.FAULT, evidence={"source": "x\x1b[2J", "detail": "[red]gone[/red]\x07", "facts": {}})
    run = replace(runs.passed(), faults=(evil,))
    stream = io.StringIO()
    draw(run, Console(file=stream, width=80, no_color=True, color_system=None))
    assert "[red]gone[/red]" in stream.getvalue()  # as it stands: no markup of ours
    for told in (text(run), stream.getvalue()):
        assert "\x1b" not in told
        assert "\x07" not in told


@pytest.mark.parametrize(
    ("lo", "hi", "told"),
    [
        (2.91, 2.95, "2.93 s [2.91, 2.95]"),
        (12.291, 12.409, "12.35 s [12.29, 12.41]"),
        (10, 20, "15 s [10, 20]"),
        (1.2344, 1.2346, "1.234 s [1.234, 1.235]"),
        (5.0, 5.0, "5.000 s [5.000, 5.000]"),
    ],
)
def test_interval_has_no_more_digits_than_it_justifies(lo: float, hi: float, told: str) -> None:
    assert figures.interval(Interval(lo, hi)) == told


@pytest.mark.parametrize(
    ("verdict", "told"), [("passed", "nothing to measure"), ("failed", "never seen"), ("inconclusive", "not measured")]
)
def test_an_objective_without_a_figure_says_why_there_is_none(verdict: str, told: str) -> None:
    """It is passed where users saw no interruption, so that there was nothing to detect."""
    one = Judged("time_to_detect", 20.0, "<=", "s", "time_to_detect", None, Verdict(verdict), "")
    assert figures.measured(one) == told


@pytest.mark.parametrize(
    ("share", "told"),
    [(1.0, "100 %"), (0.99996, "99.996 %"), (0.5, "50 %"), (0.00004, "0.004 %"), (0.0, "0 %"), (0.9999999, "above 99.9999 %")],
)
def test_share_is_never_rounded_to_all_or_nothing(share: float, told: str) -> None:
    assert figures.share(share) == told


@pytest.mark.parametrize(
    ("relation", "target", "value", "told"),
    [
        ("<=", 60.0, Interval(2.91, 2.95), "57.0 s to spare"),
        ("<=", 60.0, Interval(59.0, 61.0), "the interval straddles the objective"),
        ("<=", 60.0, Interval(70.0, 71.0), "missed by 10.0 s"),
        (">=", 10.0, 12.0, "2.0 s to spare"),
        ("<=", 0.0, 0.0, "exactly as demanded"),
    ],
)
def test_margin_in_words(relation: str, target: float, value: Interval | float, told: str) -> None:
    assert figures.margin(Judged("rto", target, relation, "s", "recovery_time", value, Verdict.PASSED, "")) == told


@pytest.mark.parametrize(
    ("value", "told"), [(0.0, "too little was seen to judge it"), (Interval(1.0, 4.0), "the interval straddles the objective")]
)
def test_margin_of_what_could_not_be_judged(value: Interval | float, told: str) -> None:
    judged = Judged(
        "streams_cut", 2.0 if isinstance(value, Interval) else 0.0, "<=", "s", "streams", value, Verdict.INCONCLUSIVE, ""
    )
    assert figures.margin(judged) == told


def test_anatomy_adds_up_and_names_the_longest_part() -> None:
    parts = runs.passed().measurement.anatomy
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    assert until(longest(parts)) == "r1 answered by itself, which restored redundancy"
    assert [until(part) for part in parts][:2] == ["users noticed", "/ready noticed"]
    assert runs.failed().measurement.anatomy == ()


def test_a_recovery_in_a_cluster_is_told_step_by_step_of_the_replica_that_was_last() -> None:
    run = runs.on_kubernetes()
    words = [until(part) for part in run.measurement.anatomy]
    for told in (
        "the endpoint of r1 was removed",
        "a replacement for r1 was created",
        "the volumes and the image of r1 were there",
        "r1 was ready",
    ):
        assert told in words
    assert words.index("a replacement for r1 was created") < words.index("users had right answers again")
    assert sum(part.share for part in run.measurement.anatomy) == pytest.approx(1)
    found = result(run)["anatomy"]
    assert {step["name"] for step in found["steps"]} == {"r0", "r1"}
    assert {part["of"] for part in found["parts"]} == {None, "r1", "/ready"}
    assert "volumes and image 2.07 s (25 %)" in " ".join(text(run).split())
    assert "| the volumes and the image of r1 were there | 2.1 s" in summary(run)


def test_a_drill_without_steps_has_empty_lists() -> None:
    assert result(runs.inconclusive())["anatomy"] == {"parts": [], "steps": []}


def test_what_counts_from_an_interruption_is_not_told_as_unseen_without_one() -> None:
    run = runs.masked()
    run = replace(run, measurement=replace(run.measurement, time_to_detect={"endpoint-removed": None}))
    (reason,) = [one for one in result(run)["reasons"] if one.get("figure") == "time_to_detect"]
    assert reason["text"] == "time_to_detect: it counts from an interruption, and none was seen"


@pytest.mark.parametrize("name", ["rto", "time_to_redundancy"])
def test_objective_missed_by_time_names_the_longest_part_as_the_next_step(name: str) -> None:
    missed = replace(runs.RTO, name=name, target=1.0, verdict=Verdict.FAILED)
    run = runs.build(runs.SHORT, runs.Measured(runs.BACK), runs.judgement(Verdict.FAILED, (missed,)))
    assert "Next: shorten the longest part of the recovery, until r1 answered by itself, which restored redundancy" in sentence(
        run
    )


def test_what_came_back_by_the_undo_alone_is_not_told_to_be_quicker() -> None:
    missed = replace(runs.RTO, name="time_to_redundancy", target=1.0, verdict=Verdict.FAILED)
    run = runs.build(runs.SHORT, runs.Measured(runs.BACK), runs.judgement(Verdict.FAILED, (missed,)))
    parts = [
        replace(part, until="undo") if part == longest(run.measurement.anatomy) else part for part in run.measurement.anatomy
    ]
    last = replace(parts[-1], until="redundancy", end_s=parts[-1].start_s)
    run = replace(run, measurement=replace(run.measurement, anatomy=(*parts, last)))
    assert "Next: find out what kept a replica from answering by itself" in sentence(run)


def test_whatever_objective_was_missed_the_next_step_is_about_that_one() -> None:
    told = {}
    for name in (each.name for each in fields(Objectives)):
        missed = replace(runs.RTO, name=name, verdict=Verdict.FAILED)
        run = runs.build(runs.SHORT, runs.Measured(runs.BACK), runs.judgement(Verdict.FAILED, (missed,)))
        kept = [part for part in run.measurement.anatomy if part.until != "redundancy"]  # some replica never came back
        run = replace(run, measurement=replace(run.measurement, anatomy=() if name == "rto" else tuple(kept)))
        told[name] = sentence(run).split("Next: ")[1]
    assert len(set(told.values())) == len(told), told
    assert "which answers failed" in told["availability"]
    assert "kept a replica from answering" in told["time_to_redundancy"]
