"""The digest lane's looks, made by hand with known truth, and the figures that come of them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from blackstart.drills.measure.digest_values import HAS, SERVES, Digests, DigestSample, MixedAnswers
from blackstart.drills.measure.digests import digests, single
from blackstart.drills.measure.values import Interval, LaneInfo, Probe
from blackstart.drills.scenario import Objectives
from blackstart.drills.verdict import Ended, Verdict, judge
from blackstart.tests.unit.measure_simulation import SEMANTIC, fault, observed, scenario, window
from blackstart.tests.unit.test_verdict import GOOD

NEW, OLD = "sha256:new", "sha256:old"
REPLICAS = ("r0", "r1")
Spans = Sequence[tuple[float, float, str]]  # from, to, what r0 has meanwhile


def looks(spans: Spans = (), kind: str = HAS, end_s: float = 40.0, usual: str = NEW) -> list[DigestSample]:
    """Once a second, each look takes 10 ms; r1 is always as usual."""
    found = []
    for second in range(int(end_s)):
        for number, replica in enumerate(REPLICAS):
            at = second + 0.1 * number
            hit = next((digest for start, end, digest in spans if replica == "r0" and start <= at < end), usual)
            found.append(DigestSample(kind, replica, f"id of {replica}", at, at + 0.01, hit, "" if hit else "refused"))
    return found


def answers(outcome: str = "ok", backends: Sequence[str] = REPLICAS) -> list[Probe]:
    """Four a second, in turn by each."""
    return [
        Probe("semantic", n, n / 4, n / 4, n / 4 + 0.01, n / 4 + 0.02, outcome, 200, backends[n % len(backends)], 0, 0.0, "")
        for n in range(160)
    ]


def found(
    samples: Sequence[DigestSample], probes: Sequence[Probe] = (), lanes: Sequence[LaneInfo] = (SEMANTIC,), **parts: object
) -> Digests:
    result = digests(observed(lanes, probes, **{"digests": samples, **parts}))
    assert result is not None
    return result


def test_the_window_holds_the_truth_and_ends_where_all_are_the_same_again() -> None:
    seen = found(looks([(12.5, 20.5, OLD)]))
    assert seen.skew == (Interval(12.0, 13.01), Interval(20.0, 21.01))
    assert seen.single_again is not None
    assert (seen.single_again.lo_s, seen.single_again.hi_s) == pytest.approx((6.99, 9.01))
    assert seen.longer_than_s is None
    assert seen.seen == {HAS: 2}
    assert [(each.replica, each.digest, each.since) for each in seen.deviations] == [("r0", OLD, Interval(12.0, 13.01))]
    assert [(each.state, each.digest) for each in seen.rows[0].stretches] == [("good", NEW), ("bad", OLD), ("good", NEW)]
    assert [each.state for each in seen.rows[1].stretches] == ["good"]


def test_what_only_the_undo_ended_was_longer() -> None:
    seen = found(looks([(12.5, 35.3, OLD)]))  # put back at 35 s
    assert (seen.single_again, seen.longer_than_s) == (None, pytest.approx(35.0 - 13.01))
    assert seen.skew is not None
    assert seen.skew[1] is None
    assert found(looks([(12.5, 99, OLD)]), faults=(fault(recovering_s=None, undone=None),)).longer_than_s == pytest.approx(
        40 - 13.01
    )


def test_unknown_is_no_single_digest() -> None:
    """Whoever cannot be read any more may have anything; whoever is back with the right one has it from then on."""
    gone = found(looks([(12.5, 20, OLD), (20, 99, "")]))
    assert gone.single_again is None
    assert gone.longer_than_s == pytest.approx(35.0 - 13.01)
    assert gone.rows[0].unknown == 20
    back = found(looks([(12.5, 20, OLD), (20, 25, "")]))
    assert back.skew is not None
    assert back.skew[1] == Interval(19.0, 25.01)


def test_the_clock_runs_on_over_a_relapse() -> None:
    seen = found(looks([(12.5, 14.5, OLD), (20.5, 24.5, OLD)]))
    assert seen.skew == (Interval(12.0, 13.01), Interval(24.0, 25.01))


@pytest.mark.parametrize(
    ("samples", "more", "why"),
    [
        (looks(), {}, "no replica was seen to have another digest"),
        (looks([(0, 99, OLD)]), {}, "differed before the fault already: r0 sha256:old, r1 sha256:new"),
        (looks([(0, 11, "")]), {}, "what r0 has was not known before the fault"),
        (looks([(12, 20, OLD)], usual="sha256:x"), {"manifest": NEW}, "not what the manifest says"),
        (looks([(12, 20, OLD)]), {"when": window(fault_s=None)}, "nothing was injected"),
    ],
)
def test_without_a_window_there_is_no_figure(samples: Sequence[DigestSample], more: dict[str, object], why: str) -> None:
    seen = found(samples, answers(), **more)
    assert (seen.single_again, seen.longer_than_s, seen.mixed) == (None, None, None)
    assert why in seen.why_not


def test_all_replicas_with_one_wrong_digest_are_not_as_the_manifest_says() -> None:
    both = [replace_digest(each, OLD) if 15 <= each.lo_s < 25 else each for each in looks()]
    assert found(both).deviations != ()
    seen = found(both, manifest=NEW)
    assert seen.skew is not None
    assert seen.skew[0] == Interval(14.0, 15.01)
    assert seen.skew[1] is not None
    assert (seen.skew[1].lo_s, seen.skew[1].hi_s) == pytest.approx((24.1, 25.11))


def replace_digest(sample: DigestSample, digest: str) -> DigestSample:
    return sample._replace(digest=digest)


def test_answers_of_the_mixed_window() -> None:
    """r0 answers twice a second; those between two looks that differ are possible, no more."""
    mixed = found([*looks(), *looks([(12.5, 20.5, OLD)], SERVES)], answers()).mixed
    assert mixed is not None
    assert (mixed.lo, mixed.hi, mixed.answers) == (13, 19, 37)
    assert mixed.lo <= 16 <= mixed.hi
    on_disk = found(looks([(12.5, 20.5, OLD)]), answers()).mixed
    assert on_disk is not None
    assert (on_disk.lo, on_disk.hi) == (0, 19)  # it may answer from memory
    nobody = found(looks([(12.5, 20.5, OLD)]), answers(backends=["", "elsewhere"])).mixed
    assert nobody is not None
    assert (nobody.lo, nobody.hi) == (0, nobody.answers)
    failed = found(looks([(12.5, 20.5, OLD)]), answers("refused")).mixed
    assert failed is not None
    assert failed.answers == 0


def test_an_answer_may_come_of_a_prefill_worker_whoever_gave_it() -> None:
    """r0 computes the prompts, and r1, which is as usual, answers all."""
    series = [*looks(), *looks([(12.5, 20.5, OLD)], SERVES)]
    by_r1 = found(series, answers(backends=["r1"])).mixed
    assert by_r1 is not None
    assert (by_r1.lo, by_r1.hi) == (0, 0)
    from_r0 = found(series, answers(backends=["r1"]), prefill=("r0",)).mixed
    assert from_r0 is not None
    assert from_r0.lo == 0
    assert from_r0.hi > 30


def test_what_a_replica_serves_counts_before_what_it_has() -> None:
    """It has another file on its disk and still answers from memory, until it is asked no more and comes back put right."""
    on_disk, served = looks([(12.5, 20.5, OLD)]), looks([(16, 22, "")], SERVES)
    seen = found([*on_disk, *served], answers())
    assert seen.mixed is not None
    assert (seen.mixed.lo, seen.mixed.hi) == (0, 11)  # nobody knows what it served from 16 s to 21 s
    assert seen.skew is not None
    assert seen.skew[1] == Interval(20.0, 22.01)
    wrong = found([*looks(), *looks([(16, 22, OLD)], SERVES)], answers())
    assert wrong.mixed is not None
    assert wrong.mixed.lo > 0
    assert [each.kind for each in wrong.deviations] == [SERVES]


def test_a_look_that_took_long_and_failed_takes_nothing_from_what_was_known_before_it() -> None:
    """Asked at 15.5 s, refused at 16.4 s: what r0 answered meanwhile is not in doubt, what it answers until it is known again is."""
    served = [each for each in looks([(16, 19, "")], SERVES) if (each.replica, int(each.lo_s)) != ("r0", 16)]
    slow = DigestSample(SERVES, "r0", "id of r0", 15.5, 16.4, "", "refused")
    mixed = found([*looks([(12.5, 20.5, OLD)]), *served, slow], answers()).mixed
    assert mixed is not None
    assert (mixed.lo, mixed.hi) == (0, 4)  # at 16.5 s, 17 s, 17.5 s and 18 s


def test_what_was_served_while_looks_failed_for_long_is_not_known() -> None:
    served = [each for each in looks(kind=SERVES) if not (each.replica == "r0" and 15.5 < each.lo_s < 27)]
    slow = [DigestSample(SERVES, "r0", "id of r0", lo_s, lo_s + 5.5, "", "no answer") for lo_s in (15.6, 21.2)]
    mixed = found([*looks([(12.5, 20.5, OLD)]), *served, *slow], answers()).mixed
    assert mixed is not None
    assert mixed.lo == 0
    assert mixed.hi > 10


def test_what_differs_is_named() -> None:
    contents = {NEW: {"a": "1", "a:mlp.0": "2", "b": "3"}, OLD: {"a": "9", "a:mlp.0": "8", "b": "3"}}
    (one,) = found(looks([(12, 20, OLD)]), contents=contents).deviations
    assert one.what == ("a", "a:mlp.0")


def test_latest_looks() -> None:
    latest = {(each.kind, each.replica): each for each in looks(end_s=1)}
    assert single(latest, "") is True
    assert single(latest, OLD) is False
    key = (HAS, "r0")
    assert single({**latest, key: latest[key]._replace(digest=OLD)}, "") is False
    assert single({**latest, key: latest[key]._replace(digest="")}, "") is None
    assert single({}, "") is None


def test_the_lane_was_off() -> None:
    assert digests(replace(observed((), ()), digests=())) is None


@pytest.mark.parametrize(
    ("parts", "single_digest", "mixed"),
    [
        ({}, Verdict.PASSED, Verdict.PASSED),
        ({"single_again": Interval(9.0, 11.0)}, Verdict.INCONCLUSIVE, Verdict.PASSED),
        ({"single_again": Interval(11.0, 12.0)}, Verdict.FAILED, Verdict.PASSED),
        ({"single_again": None, "longer_than_s": 12.0}, Verdict.FAILED, Verdict.PASSED),
        ({"single_again": None, "longer_than_s": 5.0}, Verdict.INCONCLUSIVE, Verdict.PASSED),
        ({"mixed": MixedAnswers(20, 1, 4)}, Verdict.PASSED, Verdict.INCONCLUSIVE),
        ({"mixed": MixedAnswers(20, 3, 4)}, Verdict.PASSED, Verdict.FAILED),
        ({"mixed": MixedAnswers(0, 0, 0)}, Verdict.PASSED, Verdict.INCONCLUSIVE),
        ({"skew": None, "single_again": None, "mixed": None}, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
    ],
)
def test_objectives(parts: dict[str, object], single_digest: Verdict, mixed: Verdict) -> None:
    wanted = Objectives(time_to_single_digest=timedelta(seconds=10), mixed_answers=2)
    skew = (Interval(12.0, 13.0), Interval(14.0, 15.0))
    seen = replace(Digests({HAS: NEW}, {HAS: 2}, (), (), skew, Interval(1.0, 3.0), None, MixedAnswers(20, 0, 2)), **parts)
    judged = judge(scenario(objectives=wanted), replace(GOOD, digests=seen), (fault(),), Ended()).objectives
    assert [(one.name, one.verdict) for one in judged] == [("time_to_single_digest", single_digest), ("mixed_answers", mixed)]
    off = judge(scenario(objectives=wanted), GOOD, (fault(),), Ended())
    assert {one.verdict for one in off.objectives} == {Verdict.INCONCLUSIVE}
