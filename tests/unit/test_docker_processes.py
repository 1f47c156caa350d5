"""Which processes of a container a role finds, how they are signalled from this machine, and what a container's death is like."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms import docker_agents, docker_lifecycle
from blackstart.injectors.platforms.base import Target, Unsupported
from blackstart.injectors.platforms.docker_agents import AT_HOME
from blackstart.injectors.platforms.docker_find import identity_of
from blackstart.injectors.platforms.docker_lifecycle import remarks_on
from blackstart.injectors.platforms.exec_agents import BOOT
from blackstart.injectors.platforms.process_table import process_at
from blackstart.tests.unit.small_engine import Workshop, container, opened, somebody_else


def process(number: int, command: str, *, may_signal: bool = True) -> dict[str, Any]:
    return {"identity": f"pid:{number}@100", "parent": 0, "state": "S", "command": command, "may_signal": may_signal}


def engine(*processes: dict[str, Any], **host: Any) -> Workshop:
    one = Workshop(container(HostConfig={"RestartPolicy": {"Name": "always"}, **host}))
    one.answers["around"] = {"processes": list(processes), "places": ["/tmp"]}
    return one


def target(one: Workshop) -> Target:
    return Target(identity_of(one.found["abc"]), "shop-llm-1", "replica")


@pytest.fixture
def victim(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this machine that is taken for the container's first one."""
    with subprocess.Popen(["sleep", "600"]) as one:
        for module in (docker_agents, docker_lifecycle):
            monkeypatch.setattr(module, "process_of", lambda _: process_at(one.pid))
        yield one
        one.kill()


def test_a_role_is_found_inside(tmp_path: Path) -> None:
    one = engine(process(1, "sh"), process(7, "worker"))
    (found,) = opened(one, tmp_path, engine="worker").inside(target(one), "engine")
    assert found.identity.endswith("/pid:7@100")


@pytest.mark.parametrize(("mode", "whose"), [("host", "the engine's machine"), ("container:def", "another container")])
def test_where_others_processes_are_seen_no_role_is_found(tmp_path: Path, mode: str, whose: str) -> None:
    one = engine(process(7, "worker"), PidMode=mode)
    with pytest.raises(Unsupported, match=f"sees the processes of {whose} as its own"):
        opened(one, tmp_path, engine="worker").inside(target(one), "engine")


def test_what_was_sent_in_is_not_the_container_s_own(tmp_path: Path) -> None:
    """A worker is; a command that somebody runs there, with what it starts, has its parent outside."""
    worker, below = {**process(8, "worker"), "parent": 7}, {**process(31, "less"), "parent": 30}
    one = engine(process(1, "serve"), {**process(7, "pool"), "parent": 1}, worker, process(30, "sh"), below)
    assert opened(one, tmp_path).own(target(one)) == ("pid:1@100", "pid:7@100", "pid:8@100")


def test_where_containers_share_processes_all_but_ours_count(tmp_path: Path) -> None:
    one = engine(process(1, "pause"), process(7, "serve"), process(30, f"python3 -I -c {BOOT} around"), PidMode="container:def")
    assert opened(one, tmp_path).own(target(one)) == ("pid:1@100", "pid:7@100")


def test_the_first_process_is_not_signalled_from_inside(tmp_path: Path) -> None:
    one = engine(process(1, "worker"))
    with pytest.raises(Unsupported, match="its first process ignores signals from inside"):
        opened(one, tmp_path, engine="worker").inside(target(one), "engine")


def test_the_first_process_is_signalled_from_this_machine(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    one = engine(process(1, "sleep 600"))
    platform = opened(one, tmp_path, engine="sleep")
    (found,) = platform.inside(target(one), "engine")
    assert f"{AT_HOME}{victim.pid}@" in found.identity
    platform.signal(found, signal.SIGKILL)
    assert victim.wait(10) == -signal.SIGKILL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_may_not_signal_is_told_before_the_drill(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    one = engine(process(7, "sleep 600", may_signal=False))
    platform = opened(one, tmp_path, engine="sleep")
    assert platform.inside(target(one), "engine")
    assert remarks_on("shop-llm-1", one.found["abc"]) == []
    with somebody_else():
        with pytest.raises(Unsupported, match=f"lacks the capability KILL.*nor .* process {victim.pid} belongs to another user"):
            platform.inside(target(one), "engine")
        (remark,) = remarks_on("shop-llm-1", one.found["abc"])
    assert "replica-kill is the engine's own `kill`" in remark


@pytest.mark.parametrize(
    ("named", "number"),
    [("", 15), ("9", 9), ("SIGQUIT", 3), ("int", 2), ("SIGRTMIN+3", signal.SIGRTMIN + 3), ("RTMAX-1", signal.SIGRTMAX - 1)],
)
def test_the_signal_that_stops_a_container(named: str, number: int) -> None:
    assert docker_lifecycle._stop_signal(container(Config={"StopSignal": named})) == number


def test_a_signal_that_is_none_here_is_named() -> None:
    for named in ("SIGNONE", "+3", "RTMIN3"):
        with pytest.raises(Unsupported, match="is no signal on this machine"):
            docker_lifecycle._stop_signal(container(Config={"StopSignal": named}))
