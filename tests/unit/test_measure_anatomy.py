"""The anatomy of recoveries whose milestones are known: in order, missing, of two victims, seen through gaps."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.journal import DrillClock, Journal, read_journal
from blackstart.drills.measure.anatomy import ORDER, last_way
from blackstart.drills.measure.measurement import measure
from blackstart.drills.measure.values import Interval, LaneInfo, Measurement, Milestone
from blackstart.drills.measure.ways import endpoint_removal, ways
from blackstart.drills.objectives import objectives
from blackstart.drills.replay import _milestones
from blackstart.drills.scenario import Objectives
from blackstart.drills.verdict import Verdict
from blackstart.injectors.platforms.base import Milestone as Recorded
from blackstart.tests.unit.measure_simulation import (
    CONTROL,
    FRESH,
    READY,
    SEMANTIC,
    Simulation,
    Trouble,
    fault,
    observed,
    scenario,
    window,
)
from hypothesis import given, settings
from hypothesis import strategies as st

LANES = (FRESH, SEMANTIC, CONTROL, LaneInfo("replica:r0", "replica", "http://127.0.0.1:9000", 1.0, "r0"))
IN_ORDER = ("endpoint-removed", "created", "scheduled", "pulled", "started", "ready", "endpoint-added")


def step(what: str, at_s: float, name: str = "r0", pod: str = "new", **parts: Any) -> Milestone:
    """Known from 0.2 s before its moment until 0.01 s after it."""
    lo_s, hi_s = at_s - parts.get("before", 0.2), at_s + parts.get("after", 0.01)
    return Milestone(what, name, f"pod:models/{name}-{pod}@uid-{name}-{pod}", parts.get("service", "llm"), Interval(lo_s, hi_s))


ROTATION = (step("in-rotation", 0.5, pod="old"), step("in-rotation", 0.5, name="r1", pod="old"))
USUAL = (
    *ROTATION,
    step("endpoint-removed", 10.30, pod="old"),
    step("created", 10.35),
    step("scheduled", 10.37),
    step("pulled", 12.0),
    step("started", 12.6),
    step("ready", 15.0),
    step("endpoint-added", 15.04),
)


def measured(milestones: Sequence[Milestone], troubles: Sequence[Trouble] | None = None, **parts: Any) -> Measurement:
    """A fault at 10 s; users are interrupted from 10.2 s to 15.1 s unless told otherwise."""
    troubles = [Trouble(10.2, 15.1, "refuse")] if troubles is None else troubles
    given_scenario = parts.pop("scenario", scenario())
    probes = Simulation(troubles, 1).probes(*parts.get("lanes", LANES))
    return measure(given_scenario, observed(parts.pop("lanes", LANES), probes, milestones=milestones, **parts))


def test_a_recovery_is_cut_at_every_milestone_and_its_shares_add_up() -> None:
    found = measured(USUAL)
    parts = found.anatomy
    untils = [part.until for part in parts]
    assert [one for one in untils if one in IN_ORDER] == [*IN_ORDER]
    assert untils[0] == "impact"
    assert {"recovered", "redundancy"} <= set(untils)
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert parts[0].start_s == pytest.approx(10.025)  # the middle of the fault's proof
    assert all(a.end_s == b.start_s for a, b in pairwise(parts))
    longest = max(measured(USUAL, lanes=LANES[:-1]).anatomy, key=lambda part: part.share)
    assert longest.until == "ready"
    assert longest.length.lo_s <= 2.4 <= longest.length.hi_s


def test_the_length_of_each_part_holds_the_truth() -> None:
    truth = {one.what: one.at.hi_s - 0.01 for one in USUAL}
    parts = {part.until: part for part in measured(USUAL).anatomy}
    for before, what in pairwise(["endpoint-removed", "created", "scheduled", "pulled", "started"]):
        length = parts[what].length
        assert length.lo_s <= truth[what] - truth[before] <= length.hi_s
        assert length.lo_s <= parts[what].length_s <= length.hi_s


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(USUAL), st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.3)), min_size=len(USUAL), max_size=len(USUAL))
)
def test_whatever_the_order_in_which_they_came_to_be_known(told: list[Milestone], widths: list[tuple[float, float]]) -> None:
    """Nothing comes before the fault, no part is negative, and every part's length lies within its bounds."""
    wide = [
        replace(one, at=Interval(one.at.lo_s - before, one.at.hi_s + after))
        for one, (before, after) in zip(told, widths, strict=True)
    ]
    parts = measured(wide).anatomy
    assert sum(part.share for part in parts) == pytest.approx(1)
    for part in parts:
        assert part.share >= 0
        assert part.length.lo_s - 1e-9 <= part.length_s <= part.length.hi_s + 1e-9
        assert part.until in ORDER
    assert set(IN_ORDER) == {part.until for part in parts} & {*IN_ORDER}


@pytest.mark.parametrize("missing", IN_ORDER)
def test_a_milestone_that_never_came_is_absent_and_not_zero(missing: str) -> None:
    found = measured([one for one in USUAL if one.what != missing])
    assert [part.until for part in found.anatomy if part.until in IN_ORDER] == [one for one in IN_ORDER if one != missing]
    assert sum(part.share for part in found.anatomy) == pytest.approx(1)
    assert [one.what for one in found.ways["r0"]] == [one for one in IN_ORDER if one != missing]


def test_a_gap_in_the_watch_widens_the_parts_on_both_sides() -> None:
    """The API server was away from 11 s to 14 s: that its image was there and its containers ran was seen only then."""
    gap = {"pulled": Interval(10.9, 14.0), "started": Interval(10.9, 14.02)}
    found = measured([replace(one, at=gap.get(one.what, one.at)) for one in USUAL], lanes=LANES[:-1])
    parts = {part.until: part for part in found.anatomy}
    assert parts["pulled"].length.lo_s == pytest.approx(0.5, abs=0.05)
    assert parts["pulled"].length.hi_s > 3.5
    assert parts["started"].length.lo_s == 0
    assert parts["started"].length.hi_s > 3
    assert parts["ready"].length.hi_s > 4
    assert sum(part.share for part in parts.values()) == pytest.approx(1)


def test_of_two_victims_the_last_one_is_cut_and_both_are_kept() -> None:
    other = [replace(step(one.what, one.at.hi_s + 2, name="r1"), service=one.service) for one in USUAL if one.what in IN_ORDER]
    faults = (fault(10.0, targets=tuple({"identity": f"pod:models/{n}@u", "name": n, "role": "replica"} for n in ("r0", "r1"))),)
    found = measured([*USUAL, *other], faults=faults)
    assert set(found.ways) == {"r0", "r1"}
    assert {part.of for part in found.anatomy if part.until in IN_ORDER} == {"r1"}
    never = [one for one in USUAL if one.what not in {"ready", "endpoint-added"}]
    assert last_way(measured([*never, *other], faults=faults))[0].name == "r0"  # whoever never came back is the last


def test_what_became_of_others_is_no_part_of_it() -> None:
    found = measured([*USUAL, step("started", 11.0, name="r1"), step("ready", 12.0, name="r1")])
    assert set(found.ways) == {"r0"}


def test_a_fault_that_names_no_replica_hits_every_one_that_something_became_of() -> None:
    node = (fault(10.0, targets=({"identity": "node:n1", "name": "n1", "role": "node"},)),)
    assert set(measured([*USUAL, step("created", 11.0, name="r1")], faults=node).ways) == {"r0", "r1"}


def test_what_happened_before_the_fault_is_no_part_of_it_and_no_effect_precedes_it() -> None:
    found = measured(
        [step("started", 5.0, pod="old"), step("ready", 6.0, pod="old"), *USUAL[:2], step("created", 10.05), *USUAL[4:]]
    )
    (created, *_) = [one for one in found.ways["r0"] if one.what == "created"]
    assert created.at == Interval(10.0, 10.06)
    assert [one.what for one in found.ways["r0"]].count("started") == 1


def test_a_crash_loop_counts_up_to_its_last_start() -> None:
    loop = [step("started", 10.5), step("ready", 11.0), step("endpoint-added", 11.1), step("started", 13.0), step("ready", 15.0)]
    found = measured([*USUAL[:3], *loop, step("endpoint-added", 15.05)]).ways["r0"]
    assert [(one.what, round(one.at.hi_s - 0.01, 2)) for one in found][1:] == [
        ("started", 13.0),
        ("ready", 15.0),
        ("endpoint-added", 15.05),
    ]


def test_a_replica_is_out_with_its_first_service_and_back_with_its_last() -> None:
    """A headless Service takes pods as soon as they have an address."""
    early = [step("endpoint-removed", 10.28, pod="old", service="headless"), step("endpoint-added", 12.1, service="headless")]
    found = {one.what: one for one in measured([*USUAL, *early]).ways["r0"]}
    assert found["endpoint-removed"].service == "headless"
    assert found["endpoint-added"].service == "llm"
    half = measured([one for one in [*USUAL, *early] if one.what != "endpoint-added" or one.service == "headless"])
    assert "endpoint-added" not in {one.what for one in half.ways["r0"]}


def test_a_replica_that_was_replaced_twice_is_followed_to_the_last_pod() -> None:
    third = [step(one.what, one.at.hi_s + 1, pod="third") for one in USUAL[3:]]
    assert {one.identity for one in measured([*USUAL, *third]).ways["r0"][1:]} == {"pod:models/r0-third@uid-r0-third"}


def test_a_replacement_that_came_before_its_victim_had_gone_belongs_to_that_slot() -> None:
    early = [replace(one, name="r2") if one.what in {"created", "scheduled"} else one for one in USUAL]
    assert [one.what for one in measured(early).ways["r0"]] == [*IN_ORDER]


def test_a_masked_fault_is_cut_from_the_fault_to_redundancy() -> None:
    found = measured(USUAL, [Trouble(10.2, 15.1, "refuse", kinds=("replica",))])
    assert found.recovery.masked
    assert [part.until for part in found.anatomy][-1] == "redundancy" or found.anatomy[-1].until == "endpoint-added"
    assert "impact" not in {part.until for part in found.anatomy}


def test_users_who_never_had_answers_again_have_no_anatomy_but_the_steps_stand() -> None:
    found = measured(USUAL, [Trouble(10.2, 99.0, "refuse")])
    assert found.anatomy == ()
    assert len(found.ways["r0"]) == len(IN_ORDER)


def test_the_first_lane_to_be_back_is_told_where_others_took_longer() -> None:
    troubles = [Trouble(10.2, 13, "refuse"), Trouble(12.9, 18, "503", kinds=("semantic",))]
    parts = {part.until: part for part in measured(USUAL, troubles).anatomy}
    assert parts["first-answer"].of == "fresh"
    assert parts["first-answer"].end_s == pytest.approx(13, abs=0.1)
    assert parts["recovered"].end_s == pytest.approx(18, abs=0.6)


def test_a_removed_endpoint_is_one_more_that_noticed() -> None:
    detect = measured(USUAL).time_to_detect
    assert detect["endpoint-removed"] is not None
    assert detect["endpoint-removed"].lo_s <= 0.1 <= detect["endpoint-removed"].hi_s
    strict = scenario(objectives=Objectives(time_to_detect=timedelta(seconds=1)))
    (judged,) = objectives(strict, measured(USUAL, scenario=strict))
    assert judged.verdict is Verdict.PASSED
    assert judged.text.startswith("Kubernetes (endpoint removed) noticed after")


def test_an_endpoint_that_stayed_noticed_nothing() -> None:
    found = measured([one for one in USUAL if one.what in {"in-rotation", "started", "ready"}])
    assert found.time_to_detect == {"endpoint-removed": None}
    strict = scenario(objectives=Objectives(time_to_detect=timedelta(seconds=1)))
    (judged,) = objectives(strict, found)
    assert judged.verdict is Verdict.FAILED
    assert "Not detected by Kubernetes (endpoint removed)" in judged.text


@pytest.mark.parametrize("milestones", [(), USUAL[2:], (step("in-rotation", 0.5, name="gateway"),)])
def test_where_no_service_had_the_victim_nothing_could_notice(milestones: Sequence[Milestone]) -> None:
    assert "endpoint-removed" not in measured([one for one in milestones if one.what != "endpoint-added"]).time_to_detect


def test_the_health_endpoint_that_noticed_first_stands_beside_the_endpoint() -> None:
    found = measured(USUAL, lanes=(*LANES, READY))
    assert set(found.time_to_detect) == {"/ready", "endpoint-removed"}
    assert {part.of for part in found.anatomy if part.until == "detected"} == {"/ready"}


def test_without_a_fault_there_are_no_ways() -> None:
    seen = observed(LANES, (), window(fault_s=None), milestones=USUAL)
    assert ways(seen) == {}
    assert endpoint_removal(None, seen, {}) == {}


def test_what_cannot_be_seen_is_said() -> None:
    why = "pulled: this login may not list and watch events"
    assert measured(USUAL, unseen=(why,)).missing["anatomy"] == why
    assert "anatomy" not in measured(USUAL).missing


def test_milestones_go_through_the_journal_unchanged(tmp_path: Path) -> None:
    recorded = Recorded("endpoint-removed", "r0", "pod:models/a@u", "llm", 1010.25, 1010.5)
    with Journal(tmp_path / "journal.jsonl", DrillClock(1000.0)) as journal:
        journal.append("milestone", **recorded.to_json(journal.clock.origin))
        journal.append("milestones-unseen", why=["pulled: no right"])
    records, intact = read_journal(tmp_path / "journal.jsonl")
    assert intact
    assert json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])["lo_s"] == 10.25
    assert _milestones(records) == (
        (Milestone("endpoint-removed", "r0", "pod:models/a@u", "llm", Interval(10.25, 10.5)),),
        ("pulled: no right",),
    )
