"""A prober in an outpost on this machine: every cut connection costs no sample, and a blackstart that is gone ends it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from blackstart.drills.measure import distant, outpost
from blackstart.drills.measure.distant import ASK, KEEP, Distant, programs
from blackstart.drills.measure.prober import Request, Target, request_to
from blackstart.drills.measure.probing import Prober, ProbingError
from blackstart.drills.measure.samples import SampleTail, read_samples
from blackstart.injectors.platforms.base import PlatformError
from blackstart.tests import reference_server
from blackstart.tests.unit.test_prober_process import running, until

AHEAD_S = 1000


@dataclass
class Pipe:
    """A program's standard input and output, as an exec gives them."""

    process: subprocess.Popen[bytes]

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError as error:
            raise PlatformError("the connection is gone") from error

    def line(self, limit_s: float) -> str | None:
        del limit_s  # a cut one ends at once here
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        return said.decode() if said.endswith(b"\n") else None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@dataclass
class House:
    """An outpost in a folder, and the ways into it. `cut`: no connection can be made; `machine`: starts it with another clock.

    `origin` is the drill's, once one has begun.
    """

    folder: Path
    machine: tuple[str, ...] = ()
    lines: list[Pipe] = field(default_factory=list)
    cut: bool = False
    origin: float = 0.0
    keeper: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        for name, program in programs().items():
            (self.folder / name).write_bytes(program)
        self.keeper = subprocess.Popen([*self.machine, *self.command(KEEP)], cwd=self.folder)
        until((self.folder / "outpost.sock").exists, "the outpost's socket")

    def command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-I", "-S", *(str(self.folder) if word == distant.THERE else word for word in words)]

    def reach(self, words: tuple[str, ...]) -> Pipe:
        if self.cut:
            raise PlatformError("there is no way there")
        pipe = subprocess.PIPE
        line = Pipe(subprocess.Popen(self.command(words), cwd=self.folder, stdin=pipe, stdout=pipe))
        self.lines.append(line)
        return line

    def lost(self) -> str:
        return "" if self.keeper is not None and self.keeper.poll() is None else "its pod has ended"

    def sever(self) -> None:
        """As when a network does it: in the middle of whatever was said."""
        self.lines[-1].process.kill()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    found = House(tmp_path / "there")
    yield found
    if found.keeper is not None:
        found.keeper.kill()
        found.keeper.wait()
    for line in found.lines:
        line.close()


@contextlib.contextmanager
def probing(house: House, here: Path, lanes: list[dict[str, Any]]) -> Iterator[Prober]:
    house.begin()
    with Prober() as prober:
        prober.begin(Distant(house.reach, house.lost, here))
        house.origin = time.monotonic()
        prober.start({"origin": house.origin, "folder": "of no use there", "seed": 5, "service": {}, "lanes": lanes})
        yield prober


CONTROL = {"name": "control", "kind": "control", "period_s": 0.01}


def seen(here: Path, number: int) -> Callable[[], bool]:
    enough = len(read_samples(here).probes) + number
    return lambda: len(read_samples(here).probes) >= enough


def test_its_samples_are_here_while_it_probes_and_whole_at_the_end(house: House, tmp_path: Path) -> None:
    here = tmp_path / "here"
    with probing(house, here, [CONTROL]) as prober:
        assert read_samples(here).lanes, "they are there as soon as it has begun"
        tail = SampleTail(here)
        until(seen(here, 100), "a hundred pings")
        assert tail.new()
        assert prober.alive()
        said = prober.stop()
        assert prober.missing == ""
    assert said is not None
    found = read_samples(here)
    assert said["sent"] == len(found.probes) == found.probes[-1].sequence + 1
    assert not found.clocks.contradiction()
    assert found.clocks.there(1.0).width_s < 0.1
    assert {file.name for file in here.iterdir()} >= {"clock.jsonl", "exchanges.jsonl", "lanes.json", "probes.bin.gz"}
    assert house.keeper is not None
    assert house.keeper.wait(10) == 0, "it ends when it is told to"


def test_a_connection_that_is_cut_again_and_again_loses_nothing(house: House, tmp_path: Path) -> None:
    here = tmp_path / "here"
    ledger = {
        "name": "ledger",
        "kind": "ledger",
        "period_s": 0.02,
        "routes": {"write": "POST /v1/feedback", "read": "GET /v1/feedback/{id}"},
    }
    with reference_server.start() as server, probing(house, here, [CONTROL, {**ledger, "url": server.url}]) as prober:
        for _ in range(6):
            until(seen(here, 20), "pings over a new connection")
            house.sever()
        house.cut = True
        house.sever()
        before, since = len(read_samples(here).probes), time.monotonic()
        until(lambda: time.monotonic() > since + 3, "three seconds")
        assert prober.alive()
        assert len(read_samples(here).probes) < before + 100, "nothing comes through"
        prober.move("nobody", server.url)  # said once it can be
        house.cut = False
        counts = prober.read_back(20)
        said = prober.stop()
        assert prober.missing == ""
    found = read_samples(here)
    assert said is not None
    assert said["sent"] == len(found.probes)
    pings = [probe.sequence for probe in found.probes if probe.lane == "control"]
    assert sorted(pings) == list(range(len(pings)))
    assert set(counts) == {"present"}
    assert counts["present"] == sum(write.outcome == "acked" for write in found.writes)


def test_a_moment_on_another_clock_is_found_on_the_drills(house: House, tmp_path: Path) -> None:
    """A machine whose clock is a thousand seconds ahead, by a time namespace."""
    machine = ("unshare", "-T", f"--monotonic={AHEAD_S}")
    if shutil.which("unshare") is None or subprocess.run([*machine, "true"], capture_output=True, check=False).returncode:
        pytest.skip("time namespaces need Linux 5.6 and root")
    house.machine = machine
    here = tmp_path / "here"
    fresh = {"name": "fresh", "kind": "fresh", "period_s": 0.01, "timeout_s": 1.0}
    with reference_server.start() as server, probing(house, here, [{**fresh, "url": server.url}]) as prober:
        until(seen(here, 50), "right answers")
        server.play([(0.0, "503", 0.7)])
        (truth,) = server.outages(1)
        until(seen(here, 50), "right answers again")
        prober.stop()
    found = read_samples(here)
    passed_s = time.monotonic() - house.origin
    assert all(0 < probe.sent_s <= probe.end_s < passed_s for probe in found.probes)
    bad = [probe for probe in found.probes if probe.outcome == "status-5xx"]
    good = [probe for probe in found.probes if probe.outcome == "ok"]
    start, end = ([found.clocks.there(moment_s - house.origin) for moment_s in edge] for edge in (truth.start, truth.end))
    assert max(probe.sent_s for probe in good if probe.sent_s < bad[0].sent_s) <= start[1].hi_s
    assert bad[0].end_s >= start[0].lo_s
    assert bad[-1].sent_s <= end[1].hi_s
    assert max(moment.width_s for moment in (*start, *end)) < 0.1


def test_a_question_is_asked_from_there(house: House) -> None:
    with reference_server.start(golden={"2+2=": " 4"}) as server:
        house.begin()
        there = Distant(house.reach, house.lost, house.folder)
        try:
            answer = there.fetch(request_to(server.url + "/v1/models"), 5.0)
            assert answer.startswith(b"HTTP/1.1 200")
            with pytest.raises(ConnectionError, match="refused"):
                there.fetch(Request(Target.of("http://127.0.0.1:1"), b""), 5.0)
        finally:
            there.close(orderly=False)
    assert ASK[0] in programs()


def test_what_it_says_at_a_failed_start_is_in_the_error(house: House, tmp_path: Path) -> None:
    with pytest.raises(ProbingError, match="KeyError"), probing(house, tmp_path / "here", [{"name": "x", "kind": "unheard-of"}]):
        pass


def test_samples_that_differ_from_those_there_are_told(house: House, tmp_path: Path) -> None:
    here = tmp_path / "here"
    with probing(house, here, [CONTROL]) as prober:
        until(seen(here, 20), "pings")
        damaged = bytearray((here / "probes.bin").read_bytes())
        damaged[20] ^= 1
        with (here / "probes.bin").open("r+b") as file:
            file.write(damaged)
        prober.stop()
        assert prober.missing == "not as in the prober's pod: probes.bin"


def test_samples_that_cannot_be_fetched_any_more_are_told(house: House, tmp_path: Path) -> None:
    here = tmp_path / "here"
    with probing(house, here, [CONTROL]) as prober:
        until(seen(here, 20), "pings")
        assert house.keeper is not None
        house.keeper.kill()
        house.keeper.wait()
        until(lambda: not prober.alive(), "its end to be noticed")
        with pytest.raises(ProbingError, match="its pod has ended"):
            prober.move("r0", "http://127.0.0.1:1")
        prober.stop()
        assert "could not be fetched" in prober.missing
    assert read_samples(here).probes


def test_when_nobody_asks_any_more_it_ends(house: House, tmp_path: Path) -> None:
    """What is left of the prober when blackstart was killed."""
    for name, program in programs().items():
        (house.folder / name).write_bytes(program.replace(b"LEASE_S = 60.0", b"LEASE_S = 2.0"))
    keeper = house.keeper = subprocess.Popen(house.command(KEEP), cwd=house.folder)
    until((house.folder / "outpost.sock").exists, "the outpost's socket")
    there = Distant(house.reach, house.lost, tmp_path / "here")
    config = there.configured({"origin": time.monotonic(), "folder": "", "seed": 5, "service": {}, "lanes": [CONTROL]})
    there.tell(json.dumps(config))
    assert json.loads(there.hear(10) or "{}")["event"] == "ready"
    family = [int(each) for each in Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()]
    house.cut = True
    house.sever()
    assert keeper.wait(20) == 0
    until(lambda: not any(map(running, family)), "the prober's end")
    there.close(orderly=False)


def test_sigterm_ends_it(house: House) -> None:
    house.begin()
    assert house.keeper is not None
    os.kill(house.keeper.pid, signal.SIGTERM)
    assert house.keeper.wait(10) == 0
    assert outpost.LEASE_S > distant.ANSWER_S, "a slow answer is no reason to stop"
