"""Reading what replicas have: marks and digests of real files, the lane's own thread, and what is refused before a drill."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from blackstart.drills.digests import pointed, watching, why_not
from blackstart.drills.journal import DrillClock
from blackstart.drills.measure.digest_samples import DIGESTS, read_digests
from blackstart.drills.measure.digest_values import DigestSample
from blackstart.drills.right_digest import manifest_of, whole
from blackstart.drills.scenario import DigestLane, Objectives, Scenario, SteadyState
from blackstart.drills.service import Endpoint, Model, Service
from blackstart.injectors.model_formats.manifest import measured, write
from blackstart.injectors.platforms import model_sight
from blackstart.injectors.platforms.base import GivenUp, Target
from blackstart.injectors.platforms.container_files import ContainerFiles
from blackstart.injectors.platforms.exec_agents import BOOT, packed, source
from blackstart.injectors.platforms.process import ProcessPlatform
from blackstart.injectors.platforms.process_spec import Component, ProcessSpec
from blackstart.injectors.values import Size
from blackstart.tests.command import until

NAMES = ("r0", "r1")
LANE = DigestLane(every=timedelta(milliseconds=20))
SCENARIO = Scenario("x", (), Objectives(), digest=LANE, steady_state=SteadyState(hold=timedelta(seconds=10)))
REPLICAS = tuple(Target(f"pid:{n}@1", name, "replica", {"url": f"http://127.0.0.1:{n + 1}"}) for n, name in enumerate(NAMES))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(b"weights" * 1000)
    spec = ProcessSpec(tuple(Component(name, "replica", pid_file=f"{name}.pid") for name in NAMES))
    return Service("svc", "process", Endpoint(), process=spec, model=Model("{name}/model.bin"), folder=tmp_path)


@contextmanager
def opened(service: Service) -> Iterator[ProcessPlatform]:
    assert service.process is not None
    platform = ProcessPlatform(service.process, service.folder, service.folder / "state", dict(os.environ))
    yield platform
    platform.close()


def test_marks_change_with_every_write_and_leave_out_what_a_fault_holds(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b", ".a.blackstart-run.0.json", model_sight.MANIFEST):
        (tmp_path / name).write_bytes(b"1")
    folder, before = model_sight.marks(str(tmp_path))
    assert folder == str(tmp_path)
    assert list(before) == ["a", "sub/b"]
    (tmp_path / "a").write_bytes(b"2")
    _, after = model_sight.marks(str(tmp_path))
    assert after["a"] != before["a"]
    assert after["sub/b"] == before["sub/b"]
    assert model_sight.marks(str(tmp_path / "a")) == (str(tmp_path), {"a": after["a"]})


def test_digests_of_a_file_and_of_parts_at_a_bounded_rate(tmp_path: Path) -> None:
    content, pauses = os.urandom(5000), []
    (tmp_path / "f").write_bytes(content)
    ranges = {"x": (10, 3000), "y": (0, 5000), "z": (4990, 10), "empty": (7, 0)}
    found = model_sight.digests(str(tmp_path / "f"), ranges, 1000, pauses.append)
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert found["parts"] == {name: hashlib.sha256(content[at : at + size]).hexdigest() for name, (at, size) in ranges.items()}
    assert found["before"] == found["after"] == model_sight.marks(str(tmp_path / "f"))[1]["f"]
    assert max(pauses) == pytest.approx(5.0, abs=0.5)  # nobody waited, so the whole time is owed

    def meddle(_: float) -> None:
        (tmp_path / "f").write_bytes(content)

    meddled = model_sight.digests(str(tmp_path / "f"), {}, 1000, meddle)
    assert meddled["before"] != meddled["after"]


@contextmanager
def piped(
    verb: str, request: dict[str, object], program: str = "platforms/model_sight.py"
) -> Iterator["subprocess.Popen[bytes]"]:
    """The program as it runs in a container: read from its own standard input, which stays open."""
    command = [sys.executable, "-I", "-c", BOOT, verb, json.dumps(request)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(packed(source(program)))
        process.stdin.flush()
        yield process


def said(verb: str, **request: object) -> dict[str, object]:
    with piped(verb, request) as process:
        assert process.stdout is not None
        return json.loads(process.stdout.readline())


def test_the_same_in_a_container(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.write_bytes(b"x" * 50)
    marks = model_sight.marks(str(model))[1]
    assert said("marks", path=str(model)) == {"folder": str(tmp_path), "marks": marks}
    found = said("digests", path=str(model), ranges={"half": [25, 25]}, per_second=1000)
    assert found["sha256"] == hashlib.sha256(b"x" * 50).hexdigest()
    assert found["parts"] == {"half": hashlib.sha256(b"x" * 25).hexdigest()}
    assert said("marks", path="/nowhere/m")["error"] == "/nowhere/m: No such file or directory"
    assert "refused" in str(said("ask", url="http://127.0.0.1:1/")["error"])


def test_linked_folders_are_looked_into(tmp_path: Path) -> None:
    """Here and in a container; a link that leads nowhere, or back, is said by its name."""
    for name in ("store/1", "model"):
        (tmp_path / name).mkdir(parents=True)
    model, weights = tmp_path / "model", tmp_path / "store" / "1" / "weights"
    weights.write_bytes(b"1")
    (model / "1").symlink_to("../store/1")

    def told() -> str:
        marks = said("marks", path=str(model))["marks"]
        assert model_sight.marks(str(model)) == (str(model), marks)
        assert isinstance(marks, dict)
        digests = {name: said("digests", path=str(model / name), ranges={}, per_second=1000)["sha256"] for name in marks}
        assert list(digests) == ["1/weights"]
        return whole(digests)  # type: ignore[arg-type]

    before = told()
    weights.write_bytes(b"2")
    assert told() != before
    for link, to, why in (
        ("lost", "none", "to what is not there; fetch"),
        ("back", ".", "back to a folder that it lies in; remove"),
    ):
        (model / link).symlink_to(to)
        assert f"{model / link}: a link {why}" in str(said("marks", path=str(model))["error"])
        (model / link).unlink()


def test_what_fetched_a_model_is_not_looked_at(tmp_path: Path) -> None:
    """Here and in a container; another hidden folder, or one that only looks like it, may be the model's."""
    kept = [".git", ".cache/huggingface/download", "1/.cache/huggingface/upload", "1/.git/objects"]
    models = [".cache/huggingface/hub", ".cache/other", ".github", "x.git", "1", "huggingface"]
    for name in (*kept, *models):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "f").write_bytes(b"1")
    (tmp_path / ".git" / "lost").symlink_to("none")
    found = said("marks", path=str(tmp_path))["marks"]
    assert list(found) == sorted(f"{name}/f" for name in models)  # type: ignore[call-overload]
    assert model_sight.marks(str(tmp_path)) == (str(tmp_path), found)
    assert list(model_sight.marks(str(tmp_path / ".git" / "f"))[1]) == ["f"], "who names a file or folder there means it"
    assert list(model_sight.marks(str(tmp_path / "1" / ".git" / "objects"))[1]) == ["f"]


def test_a_reader_in_a_container_ends_with_its_connection(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"x" * 1000)
    with piped("digests", {"path": str(tmp_path / "m"), "ranges": {}, "per_second": 1}) as process:
        out, _ = process.communicate(timeout=20)  # which closes its input; reading would take 1000 s
    assert json.loads(out) == {"error": "digests: told to end"}


LOOK = {"fault": "look", "mutation": "truncate"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what a process has open")
@pytest.mark.parametrize(("program", "verb"), [("look.py", "digest"), ("file_agent.py", "look")])
def test_who_reads_a_large_file_ends_with_its_connection(tmp_path: Path, program: str, verb: str) -> None:
    """Reading on would take half an hour, of the victim's own disk, for nobody."""
    path = tmp_path.resolve() / "m"
    path.write_bytes(b"x")
    os.truncate(path, 1 << 40)  # holes
    jobs = [{"path": str(path), "expected": None, "do": {"op": "cut", "offset": 1 << 39}}]
    with piped(verb, {**LOOK, "path": str(path), "jobs": jobs}, program) as process:
        assert process.stdin is not None
        try:
            until("the file to be read", lambda: str(path) in opened_by(process.pid))
            process.stdin.close()
            process.wait(20)
        finally:
            process.kill()


def opened_by(pid: int) -> set[str]:
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(each.readlink()))
    return found


def test_the_larger_the_files_the_longer_a_look_at_them_may_take(service: Service) -> None:
    os.truncate(service.folder / "r0" / "model.bin", 1 << 40)
    limits: list[float] = []
    with opened(service) as platform:
        platform.agents.look = lambda _, __, limit_s: limits.append(limit_s) or {"refused": ""}  # type: ignore[method-assign]
        for name in (*NAMES, "nowhere"):
            platform.agent_look(REPLICAS[0], "mutate-file", {"jobs": [{"path": f"{name}/model.bin"}]})
    assert limits[0] >= (1 << 40) / (100 << 20)
    assert limits[1:] == pytest.approx([limits[2]] * 2, abs=1)


def test_reading_ends_when_nobody_waits_for_it(service: Service) -> None:
    with opened(service) as platform:
        platform.given_up.set()
        with pytest.raises(GivenUp):
            platform.model_digests(REPLICAS[0], "r0/model.bin", {}, 100)


def test_one_digest_is_the_manifests(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    files = {name: each["sha256"] for name, each in measured(tmp_path, lambda *_: None)["files"].items()}
    assert whole(files) == whole({**files, model_sight.MANIFEST: "x"}) != whole({**files, "b.txt": "x"})
    assert whole({"a.txt": files["a.txt"]}) == f"sha256:{files['a.txt']}"


@pytest.mark.parametrize(
    ("pointer", "said"), [("/data/0/digest", "abc"), ("/a~1b", "x"), ("/data/1/digest", ""), ("/data/x", ""), ("/n", "")]
)
def test_json_pointers(pointer: str, said: str) -> None:
    assert pointed({"data": [{"digest": "abc"}], "a/b": "x", "n": 3}, pointer) == said


def refused(service: Service, lane: DigestLane = LANE, replicas: tuple[Target, ...] = REPLICAS) -> str:
    with opened(service) as platform:
        return "; ".join(why_not(replace(SCENARIO, digest=lane), service, platform, replicas))


def test_what_is_refused_before_a_drill(service: Service) -> None:
    model = Model("{name}/model.bin")
    assert refused(service) == ""
    assert "add `model: {path: ...}`" in refused(replace(service, model=None))
    assert "no target has that role" in refused(service, replicas=())
    assert "cannot read the model of r1: r1/model.bin: No such file" in refused(
        replace(service, model=replace(model, path="{name}/model.bin"))
        if not (service.folder / "r1" / "model.bin").unlink()
        else service
    ).replace(f"{service.folder}/", "")
    assert "reads 7000 bytes before the fault, which at 512B a second takes 14 s" in refused(
        service, DigestLane(per_second=Size(512))
    )
    assert "cannot compare with the manifest" in refused(replace(service, model=replace(model, manifest="none.json")))
    silent = tuple(replace(each, details={}) for each in REPLICAS)
    assert "cannot tell what r0 serves: it has no URL of its own" in refused(
        replace(service, model=replace(model, served="/v1/models#/a")), replicas=silent
    )


def test_a_file_that_no_container_reads_in_time_is_refused(service: Service) -> None:
    """Holding for longer does not help: what reads it there is given up, and begins anew with the next look."""

    class Inside(ProcessPlatform):
        longest_read_s = ContainerFiles.longest_read_s

    assert service.process is not None
    os.truncate(service.folder / "r0" / "model.bin", 61 << 30)
    patient = replace(SCENARIO, steady_state=SteadyState(hold=timedelta(hours=1)))
    platform = Inside(service.process, service.folder, service.folder / "state", dict(os.environ))
    with closing(platform):
        (why,) = why_not(patient, service, platform, REPLICAS)
        assert (
            "reads a file of 65498251264 bytes, which at 64MiB a second takes 976 s, and in a container none is read for longer"
            in why
        )
        assert "than 900 s; raise `digest.per_second`" in why
        quick = replace(patient, digest=DigestLane(per_second=Size(128 << 20)))
        assert why_not(quick, service, platform, REPLICAS) == []
    with opened(service) as here:
        assert why_not(patient, service, here, REPLICAS) == []


def test_the_manifest_of_a_folder_tells_of_one_file_in_it(service: Service) -> None:
    for name in NAMES:
        (service.folder / name / "tokenizer.json").write_text(name)
    write(service.folder / "m.json", measured(service.folder / "r0", lambda *_: None))
    write(service.folder / "above.json", measured(service.folder, lambda *_: None, service.folder / "m.json"))
    weights = f"sha256:{hashlib.sha256((service.folder / 'r0' / 'model.bin').read_bytes()).hexdigest()}"
    for manifest in ("m.json", "above.json"):
        compared = replace(service, model=Model("{name}/model.bin", manifest=manifest))
        assert refused(compared) == ""
        assert manifest_of(compared, REPLICAS) == weights
    different = replace(service, model=Model("{name}/tokenizer.json", manifest="above.json"))
    assert "it says different digests of the files of r0, r1" in refused(different)


def test_a_manifest_of_another_model_is_refused_with_what_it_lacks(service: Service) -> None:
    (service.folder / "r0" / "tokenizer.json").write_text("{}")
    write(service.folder / "m.json", measured(service.folder / "r0", lambda *_: None))
    (service.folder / "r0" / "adapter.bin").write_text("x")
    (service.folder / "r1" / "other.bin").write_text("x")
    folders = refused(replace(service, model=Model("{name}", manifest="m.json")))
    assert (
        f"{service.folder}/m.json does not fit the model of r0 ({service.folder}/r0): it lacks adapter.bin; write one" in folders
    )
    assert (
        "it lacks other.bin; it has tokenizer.json, which r1 has not; write one of the right model: blackstart manifest"
        in folders
    )
    (service.folder / "r0" / "other.bin").write_text("x")
    assert "it lacks other.bin" in refused(replace(service, model=Model("{name}/other.bin", manifest="m.json")))


def test_a_replica_that_does_not_name_what_it_serves_is_refused(service: Service) -> None:
    with answering() as url:
        replicas = tuple(replace(each, details={"url": url}) for each in REPLICAS)
        halves = tuple(replace(each, role="prefill", details={"url": url, "own_url": False}) for each in REPLICAS)
        named, unnamed = (
            replace(service, model=Model("{name}/model.bin", served=f"/v1/models#/data/0/{key}"))
            for key in ("revision", "digest")
        )
        assert refused(named, replicas=replicas) == ""
        assert "serves: a worker of its role is asked only where its `url` is written" in refused(named, replicas=halves)
        assert refused(named, replicas=tuple(replace(each, details={"url": url, "own_url": True}) for each in halves)) == ""
        assert "/v1/models answered 200 and names no revision at /data/0/digest" in refused(unnamed, replicas=replicas)
    assert "Connection refused" in refused(named)


class Revision(http.server.BaseHTTPRequestHandler):
    says = "7"

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"revision": self.says}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def answering() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Revision) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_what_stands_in_the_place_of_one_that_is_gone_is_looked_at_at_once(service: Service, tmp_path: Path) -> None:
    assert service.process is not None
    (tmp_path / "samples").mkdir()
    service = replace(service, model=Model("{name}/model.bin", served="/v1/models#/data/0/revision"))
    scenario = replace(SCENARIO, digest=DigestLane(every=timedelta(hours=1)))
    with answering() as url:

        class Replaced(ProcessPlatform):
            def current(self, name: str) -> Target | None:
                return Target("pid:9@9", name, "replica", {"url": url})

        platform = Replaced(service.process, service.folder, service.folder / "state", dict(os.environ))
        plan = SimpleNamespace(scenario=scenario, service=service, everything=REPLICAS)
        with watching(plan, closing(platform), DrillClock(time.monotonic()), tmp_path, lambda *_, **__: None):
            until("both to be asked", lambda: {each.replica for each in serving(tmp_path)} == {"r0", "r1"})
    assert {each.identity for each in serving(tmp_path)} == {"pid:9@9"}


def serving(folder: Path) -> list[DigestSample]:
    return [each for each in read_digests(folder).looks if each.kind == "serves"]


@pytest.mark.parametrize(("role", "looked_at"), [("decode", {"r1"}), (None, {"r0", "r1"})])
def test_workers_of_one_role_alone_can_be_compared(
    service: Service, tmp_path: Path, role: Literal["decode"] | None, looked_at: set[str]
) -> None:
    """r0 has another file, as a prefill worker may by design."""
    (tmp_path / "samples").mkdir()
    (service.folder / "r0" / "model.bin").write_bytes(b"of another precision")
    lane, found = replace(LANE, role=role), [replace(REPLICAS[0], role="prefill"), replace(REPLICAS[1], role="decode")]
    plan = SimpleNamespace(scenario=replace(SCENARIO, digest=lane), service=service, everything=found)
    clock = DrillClock(time.monotonic())
    with watching(plan, opened(service), clock, tmp_path, lambda *_, **__: None) as lookout:
        until("all to be looked at", lambda: {each.replica for each in read_digests(tmp_path).looks if each.digest} == looked_at)
        if role:
            until("one digest of all that are compared", lookout.single)
    found_digests = {each.digest for each in read_digests(tmp_path).looks if each.digest}
    assert len(found_digests) == len(looked_at)
    assert "no target has that role" in refused(service, replace(LANE, role="prefill"))


def test_replicas_with_different_models_are_told_by_their_files(service: Service, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for name in NAMES:
        (service.folder / name / "tokenizer.json").write_text(name)
        (service.folder / name / "model.bin").rename(service.folder / name / f"{name}.bin")
        (service.folder / name / "config.json").write_text("{}")
    service = replace(service, model=Model("{name}"))
    plan = SimpleNamespace(scenario=SCENARIO, service=service, everything=REPLICAS)
    with watching(plan, opened(service), DrillClock(time.monotonic()), tmp_path, lambda *_, **__: None) as lookout:
        until("both to be looked at", lambda: lookout.looked_since(0.0))
        assert not lookout.single()
        assert "does not tell one digest of all replicas" in lookout.not_single()
        assert ": different are r0.bin, r1.bin, tokenizer.json;" in lookout.not_single()


def test_the_lane_sees_a_change_and_its_end(service: Service, tmp_path: Path) -> None:
    model, told = service.folder / "r0" / "model.bin", []
    write(tmp_path / "m.json", measured(model, lambda *_: None))
    service = replace(service, model=Model("{name}/model.bin", manifest="m.json", served="/v1/models#/data/0/revision"))
    (tmp_path / "samples").mkdir()
    with answering() as url:
        plan = SimpleNamespace(
            scenario=SCENARIO, service=service, everything=[replace(each, details={"url": url}) for each in REPLICAS]
        )
        clock = DrillClock(time.monotonic())
        with watching(plan, opened(service), clock, tmp_path, lambda event, **fields: told.append((event, fields))) as lookout:
            until("one digest", lookout.single)
            before_s, content = clock.now(), model.read_bytes()
            assert not lookout.looked_since(before_s)
            model.write_bytes(b"another")
            written_s = clock.now()
            until("all to be looked at since", lambda: lookout.looked_since(written_s))
            assert not lookout.single()
            model.unlink()
            until("nothing to read", lambda: any(each.why for each in read_digests(tmp_path).looks))
            assert not lookout.single()
            model.write_bytes(content)
            until("one digest again", lookout.single)
    found = read_digests(tmp_path)
    has = [each for each in found.looks if (each.kind, each.replica) == ("has", "r0")]
    assert len(dict.fromkeys(each.digest for each in has)) == 3  # the right one, another, none
    assert next(each for each in has if each.digest != has[0].digest).hi_s > before_s
    assert {each.digest for each in found.looks if each.kind == "serves"} == {"7"}
    assert all(each.lo_s <= each.hi_s for each in found.looks)
    assert has[0].digest == told[0][1]["manifest"]
    assert set(found.contents) == {each.digest for each in has if each.digest}
    assert [event for event, _ in told] == ["digest-lane"]
    assert found.digest == hashlib.sha256((tmp_path / DIGESTS).read_bytes()).hexdigest()


def test_a_lane_that_dies_is_told(service: Service, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    plan, told = SimpleNamespace(scenario=SCENARIO, service=service, everything=REPLICAS), []

    class Broken(DrillClock):
        def now(self) -> float:
            raise ZeroDivisionError

    with watching(plan, opened(service), Broken(0.0), tmp_path, lambda event, **fields: told.append((event, fields))) as lookout:
        assert not lookout.single()
    assert told[-1][0] == "inconclusive"
    assert "ZeroDivisionError" in told[-1][1]["why"]
