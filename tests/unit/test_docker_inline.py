"""Containers of ours in a target's network: their fault is undone before they end, and looked for where they have ended by themselves."""

from pathlib import Path
from threading import Event
from typing import Any

import pytest
from blackstart.injectors.platforms import docker_inline, docker_left
from blackstart.injectors.platforms.base import PlatformError, Target, Unsupported
from blackstart.injectors.platforms.docker_exec import Room
from blackstart.injectors.platforms.docker_find import identity_of
from blackstart.injectors.platforms.docker_helpers import Helpers
from blackstart.injectors.platforms.docker_inline import InlineRooms, Way
from blackstart.injectors.platforms.docker_left import EngineLeft
from blackstart.injectors.platforms.net_rooms import counted
from blackstart.tests.unit.small_engine import Workshop, container, opened

FAULT, LINK = "run.0", "shop-llm-1--anybody"
RULE = {"type": "partition", "direction": "both"}


class Agents:
    """Their `begin` fails where told so; one that is asked to end says what it has undone."""

    def __init__(self, engine: Workshop, *, fails: bool = False) -> None:
        self.engine, self.fails = engine, fails

    def begin(self, *_: Any) -> Any:
        if self.fails:
            raise PlatformError("it said nothing")
        return {"event": "effective"}

    def end_in(self, *_: Any) -> Any:
        self.engine.log.append("undo")
        return {"event": "undone", "table": "blackstart_1"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    one = Workshop(container())
    one.answers = {"sweep": {"swept": ["blackstart_1"]}, "count": {"there": True, "counters": {"to": {"packets": 3}}}}
    monkeypatch.setattr(docker_inline, "RoomDoors", lambda _: one)
    return one


def inline(engine: Workshop, *, fails: bool = False) -> InlineRooms:
    agents: Any = Agents(engine, fails=fails)
    return InlineRooms(engine, agents, Helpers(engine, "tools:1", Event()))  # type: ignore[arg-type]


def target(engine: Workshop) -> Target:
    return Target(identity_of(engine.found["abc"]), "shop-llm-1", "replica")


def test_a_fault_that_did_not_begin_is_undone_before_its_container_ends(engine: Workshop) -> None:
    with pytest.raises(PlatformError, match="it said nothing"):
        inline(engine, fails=True).begin(FAULT, target(engine), Way(LINK, RULE, ()), 60.0)
    assert engine.log == ["made network", "undo", "ended network"]


def test_where_the_container_is_gone_the_network_is_looked_into(engine: Workshop) -> None:
    answer = inline(engine).end(FAULT, target(engine))
    assert (answer["cleared"], answer["swept"]) == (True, ["blackstart_1"])
    assert engine.log == ["made sweep", "sweep", "ended sweep"]
    engine.answers["sweep"] = {"swept": []}
    assert inline(engine).end(FAULT, target(engine))["cleared"] is False


def test_a_network_that_went_with_its_target_is_not_looked_into(engine: Workshop) -> None:
    before = target(engine)
    engine.found["abc"]["State"]["StartedAt"] = "2026-11-26T04:00:00Z"
    assert inline(engine).end(FAULT, before)["cleared"] is False
    assert engine.log == []


def test_what_a_run_left_is_undone_before_it_is_removed(
    engine: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `recover`, also from elsewhere, and by `recover --accept`."""

    def agents(*_: Any) -> Agents:
        return Agents(engine)

    monkeypatch.setattr(docker_left, "RoomAgents", agents)
    platform = opened(engine, tmp_path)
    platform.inline = inline(engine)
    for end in (EngineLeft(engine).end, platform.abandon):  # type: ignore[arg-type]
        inline(engine).begin(FAULT, target(engine), Way(LINK, RULE, ()), 60.0)
        engine.log.clear()
        end("run")
        assert engine.log == ["undo", "ended network"]


def test_a_rule_in_the_network_of_an_earlier_start_is_none(engine: Workshop) -> None:
    rooms = inline(engine)
    rooms.begin(FAULT, target(engine), Way(LINK, RULE, ()), 60.0)
    assert [rule["fault"] for rule in rooms.rules(target(engine))] == [FAULT]
    engine.found["abc"]["State"]["StartedAt"] = "2026-11-26T04:00:00Z"
    assert rooms.rules(target(engine)) == []


@pytest.mark.parametrize(("kind", "connections"), [("names", 0), ("partition", 4)])
def test_questions_alone_are_no_proof_that_answers_are_dropped(engine: Workshop, kind: str, connections: int) -> None:
    engine.answers["count"] = {"there": True, "counters": {"asked": {"packets": 4}, "to": {"packets": 0}}}
    found = counted(engine, Room("abc", "abc"), FAULT, {"type": kind})
    assert found is not None
    assert found["connections"] == connections


@pytest.mark.parametrize(
    ("mode", "labels", "shared"),
    [
        ("container:abc", {}, True),
        ("container:shop-llm-1", {}, True),
        ("container:abc", {"blackstart": "network"}, False),
        ("container:other", {}, False),
        ("shop", {}, False),
    ],
)
def test_a_network_that_others_share_is_not_broken(
    engine: Workshop, tmp_path: Path, mode: str, labels: dict[str, str], shared: bool
) -> None:
    config = {**container()["Config"], "Labels": labels}
    engine.found["def"] = container(Id="def", Name="/sidecar", Config=config, HostConfig={"NetworkMode": mode})
    platform = opened(engine, tmp_path)
    if shared:
        with pytest.raises(Unsupported, match="would also hit who shares it: sidecar"):
            platform._refuse_shared(target(engine))
    else:
        platform._refuse_shared(target(engine))
