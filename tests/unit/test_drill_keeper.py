"""The first process of a drill's pod, on this machine: what it passes on, what it tells, and how long it keeps the folder."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackstart.injectors.platforms import drill_keeper
from blackstart.tests.command import until

KEEPER = drill_keeper.__file__
DRILL = (
    "import os, pathlib, signal, sys, time\n"
    "folder = pathlib.Path(sys.argv[1]); (folder / 'samples').mkdir(parents=True)\n"
    "def end(number, frame):\n"
    "    sys.stderr.write(f'undone after {signal.Signals(number).name}\\n'); sys.exit(4)\n"
    "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, end)\n"
    "(folder / 'journal.jsonl').write_text('{}\\n'); (folder / 'samples' / 'probes.bin').write_bytes(bytes(1000))\n"
    "sys.stderr.write('begun\\n'); sys.stderr.flush()\n"
    "while sys.argv[2:]: time.sleep(0.05)\n"
)


class Pod:
    """The keeper as a pod runs it, in folders of its own."""

    def __init__(self, here: Path, *words: str, keep_s: float = 60.0) -> None:
        self.environment = {**os.environ, "BLACKSTART_KEEPER_DIR": str(here / "keeper")}
        command = [sys.executable, "-c", DRILL, str(here / "run"), *words]
        request = {"command": command, "folder": str(here / "run"), "keep_s": keep_s, "leave_s": 0.5, "beyond": None}
        self.process = self.program("keep", json.dumps(request))

    def program(self, *words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-I", "-S", KEEPER, *words],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def ask(self, **question: object) -> dict:
        out, err = self.program("reach").communicate(json.dumps(question).encode() + b"\n", timeout=20)
        assert out, err
        return json.loads(out)

    def told(self) -> str:
        return base64.b64decode(self.ask(told=0).get("told", "")).decode()


@pytest.fixture
def pods() -> Iterator[list[Pod]]:
    made: list[Pod] = []
    yield made
    for each in made:
        each.process.kill()
        each.process.communicate(timeout=20)


def test_the_folder_is_kept_until_it_was_fetched_whole(tmp_path: Path, pods: list[Pod]) -> None:
    pod = Pod(tmp_path)
    pods.append(pod)
    until("the drill's end", lambda: pod.ask()["ended"] == 0)
    assert pod.told() == "begun\n"
    assert pod.ask(told=3)["told"] == base64.b64encode(b"un\n").decode()
    files = pod.ask(files=True)["files"]
    assert files["samples/probes.bin"][0] == 1000
    assert set(files) == {"samples/probes.bin", "journal.jsonl"}
    stream, _ = pod.program("tar").communicate(timeout=20)
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        assert set(archive.getnames()) == set(files)
    assert pod.process.poll() is None
    pod.ask(fetched=True)
    assert pod.process.wait(timeout=20) == 0


def test_a_stop_from_afar_is_a_ctrl_c_and_the_folder_is_kept(tmp_path: Path, pods: list[Pod]) -> None:
    pod = Pod(tmp_path, "on")
    pods.append(pod)
    until("the drill", lambda: "begun" in pod.told())
    pod.ask(stop=True)
    until("the drill's end", lambda: pod.ask()["ended"] == 4)
    assert "undone after SIGINT" in pod.told()
    assert pod.process.poll() is None


def test_a_pod_that_is_ended_undoes_and_does_not_linger(tmp_path: Path, pods: list[Pod]) -> None:
    pod = Pod(tmp_path, "on")
    pods.append(pod)
    until("the drill", lambda: "begun" in pod.told())
    pod.process.send_signal(signal.SIGTERM)
    assert pod.process.wait(timeout=20) == 4, "it goes before the minute for which it would be kept"
    assert "undone after SIGTERM" in pod.told()


def test_nobody_fetches(tmp_path: Path, pods: list[Pod]) -> None:
    pod = Pod(tmp_path, keep_s=0.5)
    pods.append(pod)
    assert pod.process.wait(timeout=20) == 0


def test_a_drill_that_is_killed_is_no_verdict(tmp_path: Path, pods: list[Pod]) -> None:
    pod = Pod(tmp_path, "on")
    pods.append(pod)
    until("the drill", lambda: "begun" in pod.told())
    children = Path(f"/proc/{pod.process.pid}/task/{pod.process.pid}/children").read_text(encoding="ascii").split()
    os.kill(int(children[0]), signal.SIGKILL)
    until("the drill's end", lambda: pod.ask()["ended"] == 128 + signal.SIGKILL)
    assert "journal.jsonl" in pod.ask(files=True)["files"]


def test_an_image_without_blackstart_says_so(tmp_path: Path) -> None:
    request = {"command": ["no-such-command"], "folder": str(tmp_path / "run"), "keep_s": 60, "leave_s": 60, "beyond": None}
    environment = {**os.environ, "BLACKSTART_KEEPER_DIR": str(tmp_path / "keeper")}
    done = subprocess.run(
        [sys.executable, KEEPER, "keep", json.dumps(request)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "no-such-command: No such file or directory: this image must have blackstart[kubernetes] installed" in done.stderr
