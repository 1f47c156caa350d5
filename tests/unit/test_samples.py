"""Samples as they are on disk after all that can happen to files: torn, compressed, growing."""

import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.drills.measure.prober import NAN, Observation, Recorder, compress
from blackstart.drills.measure.samples import RAW_FILES, SampleTail, read_samples
from blackstart.drills.measure.values import Probe

LANES = [{"name": "fresh", "kind": "fresh", "url": "http://x/", "period_s": 0.02, "component": ""}]
ORIGIN = 1000.0


def observation(number: int, outcome: str = "ok", text: str = "", first: float = 0.001) -> Observation:
    due = ORIGIN + 0.02 * number
    return Observation(0, outcome, 200, number, due, due + 0.0005, due + 0.0005 + first, due + 0.0035, "b0", 3, 0.25, text)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    (tmp_path / "lanes.json").write_text(json.dumps(LANES))
    recorder = Recorder(str(tmp_path), ORIGIN)
    yield recorder
    close(recorder)


def close(recorder: Recorder) -> None:
    """The prober leaves that to the end of its process."""
    for number in recorder._files.values():
        os.close(number)


def test_what_was_written_is_read(tmp_path: Path, recorder: Recorder) -> None:
    recorder.add(observation(1, "wrong-answer", "é" * 400))
    recorder.add(observation(0, "refused", first=NAN))
    recorder.flush()
    later, sooner = sorted(read_samples(tmp_path).probes, reverse=True, key=lambda probe: probe.sequence)
    assert [probe.sequence for probe in read_samples(tmp_path).probes] == [0, 1], "by intended moment"
    assert later == Probe("fresh", 1, *(pytest.approx(t, abs=1e-6) for t in (0.02, 0.0205, 0.0215, 0.0235)), "wrong-answer", 200, "b0", 3, 0.25, "é" * 300)  # fmt: skip
    assert (sooner.outcome, sooner.first_s, sooner.text) == ("refused", None, "")


def test_a_torn_end_is_not_there_yet(tmp_path: Path, recorder: Recorder) -> None:
    recorder.add(observation(0))
    recorder.add(observation(1))
    recorder.ledger("1-0", "invoked")
    recorder.ledger("1-0", "acked")
    recorder.ledger("1-1", "invoked")
    recorder.clock()
    recorder.flush()
    for name in ("probes.bin", "ledger.jsonl", "clock.jsonl", "texts.jsonl"):
        file = tmp_path / name
        whole = file.read_bytes()
        file.write_bytes(whole + whole[: len(whole) // 3])
        assert [probe.sequence for probe in read_samples(tmp_path).probes] == [0, 1]
        assert [write.outcome for write in read_samples(tmp_path).writes] == ["acked", "indeterminate"]
        assert len(read_samples(tmp_path).clock) == 1
        file.write_bytes(whole)


def test_a_line_torn_by_a_full_disk_costs_only_itself(tmp_path: Path, recorder: Recorder) -> None:
    recorder.ledger("1-0", "invoked")
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"id": "1-1", "at"')
    recorder._torn = True
    recorder.ledger("1-2", "invoked")
    assert [write.id for write in read_samples(tmp_path).writes] == ["1-0", "1-2"]


def test_the_last_finding_counts(tmp_path: Path, recorder: Recorder) -> None:
    for event in ("invoked", "acked", "lost", "present"):
        recorder.ledger("1-0", event)
    samples = read_samples(tmp_path)
    assert [(entry.id, entry.found) for entry in samples.read_back] == [("1-0", "present")]
    assert samples.writes[0].acknowledged_s is not None


def test_compression_changes_neither_values_nor_digest(tmp_path: Path, recorder: Recorder) -> None:
    for number in range(1000):
        recorder.add(observation(number))
    recorder.ledger("1-0", "invoked")
    recorder.flush()
    before = read_samples(tmp_path)
    compress(str(tmp_path))
    assert not (tmp_path / "probes.bin").exists()
    assert read_samples(tmp_path) == before
    damaged = gzip.decompress((tmp_path / "probes.bin.gz").read_bytes())[:-1] + b"\x01"
    (tmp_path / "probes.bin").write_bytes(damaged)
    assert read_samples(tmp_path).digest != before.digest


def test_a_run_without_samples_is_empty(tmp_path: Path) -> None:
    samples = read_samples(tmp_path)
    assert (samples.lanes, samples.probes, samples.writes, samples.clock) == ((), (), (), ())
    assert SampleTail(tmp_path).new() == []


def test_the_tail_brings_each_probe_once(tmp_path: Path) -> None:
    tail = SampleTail(tmp_path)
    assert tail.new() == []
    (tmp_path / "lanes.json").write_text(json.dumps(LANES))
    recorder = Recorder(str(tmp_path), ORIGIN)
    seen: list[Probe] = []
    for number in range(30):
        recorder.add(observation(number, "wrong-answer", f"text {number // 3}"))
        if number % 4 == 3:
            recorder.flush()
            with (tmp_path / "probes.bin").open("r+b") as file:  # the reader comes while a record is half written
                whole = file.read()
                file.truncate(len(whole) - 17)
                seen += tail.new()
                file.seek(0)
                file.write(whole)
            seen += tail.new()
    recorder.flush()
    compress(str(tmp_path))
    close(recorder)
    seen += tail.new()
    assert tail.new() == []
    assert seen == list(read_samples(tmp_path).probes)
    assert [probe.text for probe in seen] == [f"text {number // 3}" for number in range(30)]


@pytest.mark.parametrize("name", ["probes.bin", "texts.jsonl"])
def test_a_full_disk_delays_samples_and_loses_none(tmp_path: Path, recorder: Recorder, name: str) -> None:
    """Nor does a record come before the text that it names."""
    working = recorder._files[name]
    recorder.add(observation(0, "wrong-answer", "new"))
    with open("/dev/full", "wb") as full:  # noqa: PTH123  a device, not a path of ours
        recorder._files[name] = full.fileno()
        recorder.flush()
        recorder._files[name] = working
    assert read_samples(tmp_path).probes == ()
    recorder.add(observation(1))
    recorder.flush()
    assert [probe.text for probe in read_samples(tmp_path).probes] == ["new", ""]


def test_two_hundred_thousand_probes_are_read_fast(tmp_path: Path, recorder: Recorder) -> None:
    for number in range(1000):
        recorder.add(observation(number))
    recorder.flush()
    file = tmp_path / "probes.bin"
    file.write_bytes(file.read_bytes() * 200)
    began = time.process_time()
    assert len(read_samples(tmp_path).probes) == 200_000
    assert time.process_time() - began < 1.5


def test_all_raw_files_are_in_the_digest(tmp_path: Path, recorder: Recorder) -> None:
    digests = set()
    for name in RAW_FILES:
        before = (tmp_path / name).read_bytes()
        changed = {"lanes.json": json.dumps(LANES + LANES).encode(), "texts.jsonl": b'"x"\n'}
        (tmp_path / name).write_bytes(changed.get(name, b"\n"))
        digests.add(read_samples(tmp_path).digest)
        (tmp_path / name).write_bytes(before)
    assert len(digests) == len(RAW_FILES)
