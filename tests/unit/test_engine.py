"""What the engine decides while it watches, by a live view that is fed with simulated answers."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from blackstart.drills.engine import Engine
from blackstart.injectors.base import Undo
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
    observer = SimpleNamespace(view=view, single_digest=lambda: True)
    nothing = cast(Any, None)
    engine = Engine(nothing, nothing, nothing, cast(Any, observer), nothing, nothing, nothing, nothing, (), last_action_s=12.0)
    undo = Undo((Target("pid:1@1", name, role, of),), {})
    held = SimpleNamespace(injector=SimpleNamespace(instant=False), bites="on-restart", undo=undo)
    engine.held = [cast(Any, held)]
    assert engine._recovered(29.0, 2.0) is over
    held.bites = "now"
    assert engine._recovered(29.0, 2.0)
