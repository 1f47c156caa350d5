"""The whole chain against real outages of known length: reference server, prober's process, samples, measurement."""

import random
import time
from pathlib import Path

import pytest
from blackstart.drills.measure.measurement import Observed, Window, measure
from blackstart.drills.measure.probing import Prober
from blackstart.drills.measure.samples import read_samples
from blackstart.drills.measure.values import Interval, Measurement, Outage
from blackstart.tests import reference_server
from blackstart.tests.reference_server import Truth
from blackstart.tests.unit.measure_simulation import scenario

BASELINE_S = 3.0
BEHAVIOURS = ("refuse", "503", "hang", "never", "reset", "close")
QUIET_S = 1.5  # longer than a request may take, so that outages stay apart


def script(seed: int) -> list[tuple[float, str, float]]:
    dice = random.Random(seed)
    return [(QUIET_S + dice.random(), behaviour, 0.15 * 6 ** dice.random()) for behaviour in BEHAVIOURS]


def played(folder: Path, seed: int) -> tuple[Measurement, list[Truth], float]:
    """The measurement, the server's own log, and the drill clock's origin."""
    origin = time.monotonic()
    with reference_server.start() as server, Prober() as prober:
        lanes = [
            {"name": "fresh", "kind": "fresh", "url": server.url + "/health", "period_s": 0.02, "timeout_s": 1.0},
            {"name": "control", "kind": "control", "period_s": 0.05},
        ]
        prober.start({"origin": origin, "folder": str(folder), "seed": seed, "service": {}, "lanes": lanes})
        started_s = time.monotonic() - origin
        server.play([(BASELINE_S, "503", 0.0), *script(seed)])
        truth = [one for one in server.outages(len(BEHAVIOURS) + 1) if one.behaviour in BEHAVIOURS][-len(BEHAVIOURS) :]
        ended = reference_settled(server)
        prober.stop()
    samples = read_samples(folder)
    window = Window(started_s, started_s + BASELINE_S - 0.2, None, ended - origin)
    found = measure(
        scenario(0.5), Observed(samples.lanes, samples.probes, samples.writes, samples.read_back, samples.clock, (), window)
    )
    return found, truth, origin


def reference_settled(server: reference_server.ReferenceServer) -> float:
    """One more quiet stretch, so that the last recovery can hold; returns when it was over."""
    server.play([(QUIET_S, "503", 0.0)])
    count = len(BEHAVIOURS) + 2
    return server.outages(count)[-1].end[1]


def overlaps(interval: Interval | None, truth: tuple[float, float], origin: float) -> bool:
    return interval is not None and interval.lo_s <= truth[1] - origin and truth[0] - origin <= interval.hi_s


@pytest.mark.alone  # other work makes answers late for a moment, which no log of the server's tells of
@pytest.mark.parametrize("seed", [1])
def test_real_outages_are_seen_and_bounded(tmp_path: Path, seed: int) -> None:
    found, truth, origin = played(tmp_path, seed)
    outages: list[Outage] = [one for one in found.outages if one.lane == "fresh"]
    widths = []
    for one in truth:
        seen = [
            outage for outage in outages if overlaps(outage.start, one.start, origin) and overlaps(outage.end, one.end, origin)
        ]
        assert seen, (one.behaviour, one.start[0] - origin, one.end[1] - origin, outages)
        duration = seen[0].duration
        assert duration is not None
        assert duration.lo_s <= one.end[1] - one.start[0]
        assert one.end[0] - one.start[1] <= duration.hi_s
        widths.append(duration.width_s)
    # A loaded machine makes probes late and intervals wide; half of them must still be as narrow as the method allows.
    assert sorted(widths)[len(widths) // 2] < 0.25
