"""Planted losses come back as exact sets, with an age that holds the truth."""

from datetime import timedelta

import pytest
from blackstart.drills.measure.ledger import data_loss
from blackstart.drills.measure.values import DataLoss, Write
from blackstart.tests.unit.measure_simulation import FRESH, fault, observed, read_back, window, writes
from hypothesis import given
from hypothesis import strategies as st

FATES = st.sampled_from(["present", "present", "present", "lost", "corrupt", "duplicated", "unread"])


def found(entries: list[Write], rpo_s: float = 0.0, faults: tuple = (fault(10.0),), **planted: object) -> DataLoss:
    back = read_back(entries, **planted)
    loss = data_loss(observed([FRESH], [], window(), writes=entries, read_back=back, faults=faults), timedelta(seconds=rpo_s))
    assert loss is not None
    return loss


def test_without_writes_there_is_no_figure() -> None:
    assert data_loss(observed([FRESH], [], window()), None) is None


def test_nothing_lost() -> None:
    loss = found(writes(200, 0.0, 0.1))
    assert (loss.acknowledged, loss.lost, loss.unread, loss.oldest_lost, loss.lost_ids) == (200, 0, 0, None, ())
    assert loss.before_fault == 101  # of the last 10 s
    assert loss.newest_survivor is not None
    assert loss.newest_survivor.lo_s <= 0.1


@given(st.lists(FATES, min_size=1, max_size=200))
def test_planted_fates_are_returned_exactly(fates: list[str]) -> None:
    entries = writes(len(fates), 0.0, 0.1)
    planted = {fate: [e.id for e, f in zip(entries, fates, strict=True) if f == fate] for fate in set(fates)}
    loss = found(entries, **planted)
    assert (loss.lost, loss.corrupt, loss.duplicated, loss.unread) == tuple(
        fates.count(fate) for fate in ("lost", "corrupt", "duplicated", "unread")
    )
    assert set(loss.lost_ids) == {*planted.get("lost", ()), *planted.get("corrupt", ())}
    assert (loss.oldest_lost is None) == (not loss.lost_ids)


@given(st.integers(1, 99), st.floats(0.02, 0.5))
def test_the_age_of_the_oldest_lost_holds_the_recovery_point(kept: int, step: float) -> None:
    """A store goes back to a moment somewhere between two writes: that moment's age is in the interval."""
    entries = writes(100, 10.0 - 100 * step, step)
    loss = found(entries, lost=[e.id for e in entries[kept:]])
    assert loss.oldest_lost is not None
    newest_kept, oldest_lost = entries[kept - 1].acknowledged_s or 0.0, entries[kept].acknowledged_s or 0.0
    for point in (newest_kept, (newest_kept + oldest_lost) / 2, oldest_lost):
        assert loss.oldest_lost.lo_s <= 10.03 - point <= loss.oldest_lost.hi_s
    assert loss.oldest_lost.width_s == pytest.approx(step + 0.05)
    assert not loss.reaches_back


def test_a_write_that_came_twice_survived() -> None:
    entries = writes(50, 5.0, 0.1)
    twice = [e.id for e in entries[:40]]
    loss = found(entries, duplicated=twice, lost=[e.id for e in entries[40:]])
    assert not loss.reaches_back
    assert loss.newest_survivor is not None
    assert loss.newest_survivor.lo_s == pytest.approx(10.0 - entries[39].invoked_s, abs=0.01)


def test_everything_lost_may_reach_back_further_than_the_ledger() -> None:
    entries = writes(100, 0.0, 0.1)
    assert found(entries, lost=[e.id for e in entries]).reaches_back


def test_a_loss_is_dated_by_the_fault_that_caused_it() -> None:
    """The link to the standby is cut at 5 s, the primary killed at 20 s: fifteen seconds are lost by the kill."""
    entries = writes(300, 0.0, 0.1)
    lost = [e.id for e in entries if 5.2 < e.invoked_s < 20]
    loss = found(entries, faults=(fault(5.0), fault(20.0, 1)), lost=lost)
    assert loss.oldest_lost is not None
    assert loss.oldest_lost.lo_s <= 14.75 <= loss.oldest_lost.hi_s


def test_writes_lost_after_the_last_fault_date_themselves() -> None:
    entries = writes(300, 0.0, 0.1)
    loss = found(entries, lost=["w150", "w160"])
    assert loss.oldest_lost is not None
    assert loss.oldest_lost.lo_s == pytest.approx(1.0)


def test_only_acknowledged_writes_can_be_lost() -> None:
    entries = [*writes(20, 0.0, 0.4), Write("u1", 9.0, None, "indeterminate"), Write("f1", 9.1, None, "failed")]
    loss = found(entries)
    assert (loss.acknowledged, loss.indeterminate, loss.lost, loss.unread) == (20, 1, 0, 0)


def test_a_write_that_was_never_read_is_unread_not_kept() -> None:
    entries = writes(20, 0.0, 0.4)
    loss = data_loss(observed([FRESH], [], window(), writes=entries, read_back=[]), None)
    assert loss is not None
    assert (loss.unread, loss.newest_survivor) == (20, None)


@pytest.mark.parametrize(("rpo_s", "count"), [(0.0, 101), (0.1, 101), (1.0, 13), (5.0, 61)])
def test_writes_that_could_have_shown_a_loss(rpo_s: float, count: int) -> None:
    assert found(writes(200, 0.0, 0.1), rpo_s).before_fault == pytest.approx(count, abs=1)
