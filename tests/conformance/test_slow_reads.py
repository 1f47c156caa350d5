"""slow-read on a live service of local processes: the conformance suite, and what it does not ask for."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from blackstart.injectors.base import Differs, Injector, NotYet, Overcome, Refusal, Undo
from blackstart.injectors.model_files import ModelCorrupt
from blackstart.injectors.platforms.base import Platform
from blackstart.injectors.testing import check_injector
from blackstart.tests.command import until
from blackstart.tests.conformance.test_link_and_model_faults import Service, started, target
from blackstart.tests.unit import models
from blackstart.tests.unit.test_slow_file import took_s

DELAY_S = 0.3
OPENER = "import sys; file = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel gives permission events to root alone")


@pytest.fixture
def service() -> Iterator[Service]:
    yield from started()


def slow_read(service: Service) -> ModelCorrupt:
    model = str(service.folder / "{name}" / "model.safetensors")
    return ModelCorrupt("slow-read", delay=timedelta(seconds=DELAY_S)).with_model(model, "at-start")


@pytest.mark.timeout(240)
def test_contract(service: Service) -> None:
    names = ("r0", "r1")
    check_injector(
        slow_read(service), service.open, names, effect=lambda: all(took_s(service.model(name)) >= 2 * DELAY_S for name in names)
    )


def test_every_file_of_a_model_is_slow(service: Service) -> None:
    (service.folder / "set").mkdir()
    models.write_sharded(service.folder / "set")
    injector = replace(slow_read(service), file=str(service.folder / "set"))
    with closing(service.open()) as platform:
        undo = injector.plan(target(platform), platform).stamped("run.1", injector.kind, {}, 60.0)
        assert injector.bites(undo) == "on-restart"
        files = [part["path"] for part in undo.prior["files"]["r0"]["parts"]]
        assert len(files) > 1
        injector.inject(undo, platform)
        evidence = injector.verify(undo, platform)
        assert evidence.facts["r0"]["files"] == len(files)
        assert evidence.facts["r0"]["took_s"] >= 2 * DELAY_S
        assert min(took_s(Path(path)) for path in files) >= 2 * DELAY_S
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)


def test_a_file_that_was_replaced_and_an_agent_that_died_slow_nobody_any_more(service: Service) -> None:
    injector = slow_read(service)
    with closing(service.open()) as platform:
        undos = [
            injector.plan(target(platform, name), platform).stamped(f"run.{name}", injector.kind, {}, 60.0)
            for name in ("r0", "r1")
        ]
        for undo in undos:
            injector.inject(undo, platform)
            injector.verify(undo, platform)
        model = service.model("r0")
        model.with_name("new").write_bytes(model.read_bytes())
        model.with_name("new").rename(model)
        with pytest.raises(Overcome, match=r"another file than before, or none, is at .*r0/model.safetensors by now"):
            injector.verify(undos[0], platform)
        (record,) = (service.folder / "state" / "agents").glob("run.r1--*.json")
        os.kill(int(json.loads(record.read_text())["agent"].removeprefix("pid:").partition("@")[0]), signal.SIGKILL)
        until("nobody to wait any more", lambda: "no agent has the kernel ask" in unproven(injector, undos[1], platform))
        for undo in undos:
            injector.recover(undo, platform)
        assert "another file than before, or none, is there by now" in injector.verify_recovered(undos[0], platform).detail
        assert injector.verify_recovered(undos[1], platform).source == "the kernel's process table, and a timed read"


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_that_is_gone_for_good_keeps_no_run_open(service: Service, whole: bool) -> None:
    """As an old blob is that a hub's cache has pruned, with its folder: nothing could be timed, and that no agent lives is the proof."""
    injector = slow_read(service)
    with closing(service.open()) as platform:
        undo = injector.plan(target(platform), platform).stamped("run.1", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        injector.verify(undo, platform)
        model = service.model()
        shutil.rmtree(model.parent) if whole else model.unlink()
        with pytest.raises(Differs, match=r"the agent that has readers of .* wait still lives"):
            injector.verify_recovered(undo, platform)
        injector.recover(undo, platform)
        evidence = injector.verify_recovered(undo, platform)
        assert evidence.source == "the kernel's process table"
        assert evidence.detail == f"{model}: another file than before, or none, is there by now, and no agent is left"
        assert evidence.facts == {"r0": {"path": str(model), "took_s": None}}


def test_a_file_of_several_targets_has_one_agent_and_is_slow_for_each(service: Service) -> None:
    injector = slow_read(service).with_model(str(service.model()), "at-start")
    with closing(service.open()) as platform:
        both = (*target(platform, "r0"), *target(platform, "r1"))
        with pytest.raises(Refusal, match=r"r1 reads .* as well; make it a target"):
            injector.plan(both[:1], platform)
        undo = injector.plan(both, platform).stamped("run.1", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        assert len(list((service.folder / "state" / "agents").glob("*.json"))) == 1
        facts = injector.verify(undo, platform).facts
        assert min(facts[name]["took_s"] for name in ("r0", "r1")) >= 2 * DELAY_S
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)


def unproven(injector: Injector, undo: Undo, platform: Platform) -> str:
    try:
        injector.verify(undo, platform)
    except NotYet as why:
        return str(why)
    return ""


def test_what_would_show_nothing_is_refused(service: Service) -> None:
    injector = slow_read(service)
    with closing(service.open()) as platform:
        undo = injector.plan(target(platform), platform).stamped("run.1", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        with pytest.raises(Refusal, match=r"takes \S+ s as it is; give a longer `delay`"):
            injector.plan(target(platform), platform)
        injector.recover(undo, platform)
        with service.model().open("rb"):  # by this process, which is blackstart's own
            injector.plan(target(platform), platform)
        with subprocess.Popen(
            [sys.executable, "-c", OPENER, service.model()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as foreign:
            assert foreign.stdout is not None
            assert foreign.stdout.readline() == "open\n"
            with pytest.raises(Refusal, match=r"is in use by process .*, which is no target"):
                injector.plan(target(platform), platform)
    for wrong in (timedelta(milliseconds=1), timedelta(minutes=1)):
        assert "lies between 0.02s and 10s" in replace(injector, delay=wrong).problems()[0]
    assert replace(injector, mutation="header").problems() == ("`delay` is of slow-read alone; leave it out",)
    assert injector.problems() == ModelCorrupt("slow-read").problems() == ()
