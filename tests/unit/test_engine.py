"""What the engine decides while it watches, by a live view that is fed with simulated answers."""

import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from blackstart.drills.digests import Lookout
from blackstart.drills.engine import TICK_S, Engine
from blackstart.drills.scenario import SteadyState
from blackstart.injectors.base import Evidence, Injector, NotYet, Overcome, Undo, Unseen
from blackstart.injectors.lifecycle import ProcessHang
from blackstart.injectors.model_files import ModelCorrupt
from blackstart.injectors.platforms.base import Target
from blackstart.tests.unit.measure_simulation import Trouble
from blackstart.tests.unit.test_measure_live import REPLICA, USUAL, Watch


@pytest.mark.parametrize(
    ("name", "role", "of", "over"),
    [
        ("r0", "replica", {}, True),
        ("p0", "prefill", {}, False),
        ("p0/engine", "engine", {"component_role": "prefill"}, False),
        ("gateway/worker", "worker", {"component_role": "gateway"}, True),
    ],
)
def test_what_bites_on_restart_is_held_where_nobody_asks_the_one_that_it_hit(
    name: str, role: str, of: dict[str, str], over: bool
) -> None:
    """All lanes are well again, and p0, which none of them asks, may have loaded nothing yet."""
    view = Watch([Trouble(12, 16, "503")], (*USUAL, REPLICA)).until(29)
    observer = SimpleNamespace(view=view, digests=Lookout())
    nothing = cast(Any, None)
    engine = Engine(nothing, nothing, nothing, cast(Any, observer), nothing, nothing, nothing, nothing, (), last_action_s=12.0)
    undo = Undo((Target("pid:1@1", name, role, of),), {})
    held = SimpleNamespace(injector=SimpleNamespace(instant=False), bites="on-restart", undo=undo)
    engine.held = [cast(Any, held)]
    assert engine._recovered(29.0, 2.0) is over
    held.bites = "now"
    assert engine._recovered(29.0, 2.0)


def test_an_outage_that_begins_while_what_is_held_is_looked_at_is_watched_to_its_end() -> None:
    """The look lasts from 29 s to 31 s; users are hit again from 30 s to 33 s, and it would be undone in the middle of that."""
    watch, told, ends = Watch([Trouble(12, 16, "503"), Trouble(30, 33, "503")], USUAL), [], iter([31.0, 40.0])
    watch.until(29)

    def verify(*_: object) -> Evidence:
        watch.until(next(ends))
        return Evidence("a second source", "it is there", {})

    events = SimpleNamespace(clock=SimpleNamespace(now=lambda: watch.now_s), append=lambda event, **_: told.append(event))
    observer = SimpleNamespace(view=watch.view, digests=Lookout(), poll=lambda: None)
    signals = SimpleNamespace(insisted=False, wait=lambda _: None, wake=lambda: None)
    drawn, guard = SimpleNamespace(lanes=lambda *_: None), SimpleNamespace(check=lambda _: "")
    platform = SimpleNamespace(given_up=threading.Event(), milestones=tuple)
    parts = [cast(Any, each) for each in (None, platform, events, observer, signals, drawn, guard)]
    engine = Engine(*parts, cast(Any, None), (), last_action_s=12.0)
    injector = SimpleNamespace(instant=False, verify=verify)
    engine.held = [cast(Any, SimpleNamespace(injector=injector, bites="now", index=0, undo=Undo((), {})))]
    assert engine._recovered(watch.now_s, 2.0)
    assert not engine._holds(2.0)
    assert engine._holds(2.0)
    assert told == ["recovered-live", "still-effective"] * 2


def test_a_drill_of_different_models_ends_before_its_fault_and_says_which_files_differ() -> None:
    watch, told = Watch([], USUAL), []
    watch.until(1)
    lookout = Lookout(single=lambda: False, not_single=lambda: "config.json differs")
    baseline = SimpleNamespace(too_few=False, steady=True)
    observer = SimpleNamespace(
        view=watch.view, digests=lookout, poll=lambda: None, baseline=lambda *_: baseline, judged=lambda: None
    )
    clock = SimpleNamespace(now=lambda: watch.now_s)
    events = SimpleNamespace(clock=clock, append=lambda event, **fields: told.append((event, fields)) or watch.now_s)
    signals = SimpleNamespace(insisted=False, wait=lambda _: watch.until(watch.now_s + 0.5))
    drawn, guard = SimpleNamespace(lanes=lambda *_: None, phase=lambda *_: None), SimpleNamespace(check=lambda _: "")
    platform = SimpleNamespace(milestones=tuple, unseen=lambda: "", given_up=threading.Event())
    plan = SimpleNamespace(scenario=SimpleNamespace(steady_state=SteadyState(hold=timedelta(seconds=3))), faults=())
    parts = [cast(Any, each) for each in (plan, platform, events, observer, signals, drawn, guard)]
    Engine(*parts, lambda: None, ()).run()
    assert ("inconclusive", {"why": "config.json differs"}) in told
    assert "steady" not in [event for event, _ in told]


FILES = ModelCorrupt("header")


@pytest.mark.parametrize(
    ("injector", "ends_s", "looked_s", "waits_until_s"),
    [
        (FILES, {}, 13.4, 13.5),
        (FILES, {0: 12.5}, 13.4, 12.5),  # what ends by its own `for` is not kept waiting
        (FILES, {}, 99.0, 20.0),
        (ProcessHang(), {}, 13.4, 12.0),
    ],
    ids=["looked at", "over before", "never looked at", "no fault of files"],
)
def test_the_digest_lane_sees_what_one_fault_changed_before_the_next_may_end_it(
    injector: Injector, ends_s: dict[int, float], looked_s: float, waits_until_s: float
) -> None:
    watch = Watch([], USUAL)
    watch.until(12)
    lookout = Lookout(looked_since=lambda _: watch.now_s > looked_s, patience_s=8.0)
    observer = SimpleNamespace(view=watch.view, digests=lookout, poll=lambda: None)
    events = SimpleNamespace(clock=SimpleNamespace(now=lambda: watch.now_s))
    signals = SimpleNamespace(insisted=False, wait=lambda _: watch.until(watch.now_s + 0.5))
    drawn, guard = SimpleNamespace(lanes=lambda *_: None), SimpleNamespace(check=lambda _: "")
    parts = [cast(Any, each) for each in (None, SimpleNamespace(milestones=tuple), events, observer, signals, drawn, guard)]
    engine = Engine(*parts, cast(Any, None), (), last_action_s=12.0)
    engine.ends_s = ends_s
    fault = cast(Any, SimpleNamespace(injector=injector))
    engine._compared(fault, [])
    assert watch.now_s == 12.0, "after the last fault there is nothing to wait for"
    engine._compared(fault, [fault])
    assert watch.now_s == waits_until_s


@pytest.mark.parametrize(
    ("answer", "for_s", "told"),
    [
        (NotYet, 1.0, "still-effective"),
        (NotYet, 5.0, "lapsed"),
        (Unseen, 15.0, "still-effective"),
        (Unseen, 60.0, "lapsed"),
        (Overcome, 1.0, "overcome"),
    ],
)
def test_what_cannot_be_looked_at_is_looked_at_for_longer_than_what_is_over(
    answer: type[NotYet], for_s: float, told: str
) -> None:
    """A container is stopped and started again, and its file can be read no sooner."""
    now, said = [12.0], []

    def verify(*_: object) -> Evidence:
        now[0] += 0.5
        if now[0] < 12.0 + for_s:
            raise answer("nothing to be seen")
        return Evidence("a second source", "it is there", {})

    def wait(seconds: float) -> None:
        now[0] += seconds if seconds < TICK_S else 0.0  # between two looks; during one the look itself tells the time

    events = SimpleNamespace(clock=SimpleNamespace(now=lambda: now[0]), append=lambda event, **_: said.append(event))
    observer = SimpleNamespace(view=SimpleNamespace(states=dict), poll=lambda: None)
    signals = SimpleNamespace(insisted=False, wait=wait, wake=lambda: None)
    drawn = SimpleNamespace(lanes=lambda *_: None, note=lambda _: None)
    platform = SimpleNamespace(given_up=threading.Event(), milestones=tuple)
    parts = [cast(Any, each) for each in (None, platform, events, observer, signals, drawn, SimpleNamespace(check=lambda _: ""))]
    injector = SimpleNamespace(instant=False, verify=verify)
    held = SimpleNamespace(injector=injector, index=0, undo=Undo((), {}), fault=SimpleNamespace(kind="model-corrupt"))
    Engine(*parts, cast(Any, None), ())._look_again(cast(Any, held))
    assert said == [told]
