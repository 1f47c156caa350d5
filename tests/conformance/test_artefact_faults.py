"""Faults of what models come from, on a live service of local processes: checkpoints, caches, credentials, the store."""

import base64
import functools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from blackstart.injectors import file_agent, registry
from blackstart.injectors.base import Differs, ForeignChange, Injector, Overcome, Refusal
from blackstart.injectors.caches import CacheWipe
from blackstart.injectors.kept_folders import why_kept
from blackstart.injectors.model_files import CheckpointCorrupt, CredentialExpire, ModelStoreOutage
from blackstart.injectors.platforms.base import Target, Unsupported
from blackstart.injectors.testing import check_injector
from blackstart.tests.conformance.test_link_and_model_faults import Service, ask, link_down, planned, soon, started, target
from blackstart.tests.unit import models

TOKEN = "hf_AbcXyz0189"
STEPS = ("checkpoint-900", "checkpoint-1000")


def state_of(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def equip(service: Service) -> Service:
    """Beside the replicas' models: checkpoints, a cache and a credential."""
    for step in STEPS:
        folder = service.folder / "checkpoints" / step
        folder.mkdir(parents=True)
        models.write_safetensors(folder / "model.safetensors")
        models.write_pytorch(folder / "optimizer.pt")
        (folder / "trainer_state.json").write_text("{}")
    cache = service.folder / "cache"
    (cache / "blobs" / "deep").mkdir(parents=True)
    (cache / "blobs" / "deep" / "a").write_bytes(b"one")
    (cache / "blobs" / "b").write_bytes(b"two")
    (cache / "version").write_text("1")
    (cache / "refs").symlink_to("blobs/b")
    (service.folder / "token").write_text(f"{TOKEN}\n")
    return service


@pytest.fixture(scope="module")
def checked() -> Iterator[Service]:
    for service in started():
        yield equip(service)


@pytest.fixture
def service() -> Iterator[Service]:
    for found in started():
        yield equip(found)


def differs(folder: Path, before: dict[str, bytes | None]) -> bool:
    return state_of(folder) != before


def both(service: Service) -> tuple[Target, ...]:
    with closing(service.open()) as platform:
        return target(platform) + target(platform, "r1")


def checkpoint(service: Service, mutation: str = "truncate", **more: str) -> CheckpointCorrupt:
    return CheckpointCorrupt(str(service.folder / "checkpoints"), mutation, **more)


# --- the conformance suite ---

CHECKS = ["checkpoint-corrupt", "cache-wipe", "credential-expire", "model-store-outage"]


@pytest.fixture(scope="module")
def verdicts(checked: Service) -> Iterator[dict[str, Future[None]]]:
    folder, names = checked.folder, ("r0", "r1")
    at = {name: folder / name for name in ("checkpoints", "cache")}
    before = (folder / "token").read_bytes()
    cases: dict[str, tuple[Injector, tuple[str, ...], Callable[[], bool]]] = {
        "checkpoint-corrupt": (
            checkpoint(checked),
            names,
            functools.partial(differs, at["checkpoints"], state_of(at["checkpoints"])),
        ),
        "cache-wipe": (CacheWipe(str(at["cache"])), names, functools.partial(differs, at["cache"], state_of(at["cache"]))),
        "credential-expire": (CredentialExpire("token"), names, lambda: (folder / "token").read_bytes() != before),
        "model-store-outage": (
            ModelStoreOutage(("client",)),
            ("r0",),
            functools.partial(link_down, checked.ports["client-r0"], "TimeoutError"),
        ),
    }
    with ThreadPoolExecutor(len(cases)) as pool:
        yield {
            name: pool.submit(check_injector, injector, checked.open, victims, effect=effect)
            for name, (injector, victims, effect) in cases.items()
        }


@pytest.mark.parametrize("name", CHECKS)
def test_contract(verdicts: dict[str, Future[None]], name: str) -> None:
    verdicts[name].result()


# --- checkpoints ---


@pytest.mark.parametrize("mutation", ["truncate", "zero-tail", "header", "nan-one", "html-page", "delete"])
def test_the_newest_checkpoint_and_no_other_is_damaged(service: Service, mutation: str) -> None:
    injector, folder = checkpoint(service, mutation), service.folder / "checkpoints"
    before = state_of(folder)
    with closing(service.open()) as platform:
        undo = injector.plan(both(service), platform).stamped("run.1", injector.kind, {}, 60.0)
        assert injector.bites(undo) == "on-restart"
        injector.inject(undo, platform)
        injector.verify(undo, platform)
        now = state_of(folder)
        changed = {name for name in before if now.get(name) != before[name]}
        assert changed == {"checkpoint-1000/optimizer.pt"}
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
    assert state_of(folder) == before


def test_a_checkpoint_that_was_saved_meanwhile_is_not_passed_over(service: Service) -> None:
    injector = checkpoint(service, file="model.safetensors")
    with closing(service.open()) as platform:
        undo = injector.plan(both(service), platform).stamped("run.1", injector.kind, {}, 60.0)
        newer = service.folder / "checkpoints" / "checkpoint-1100"
        newer.mkdir()
        models.write_safetensors(newer / "model.safetensors")
        before = state_of(service.folder / "checkpoints")
        with pytest.raises(Refusal, match=r"checkpoint-1100/model\.safetensors is the newest checkpoint by now"):
            injector.inject(undo, platform)
    assert state_of(service.folder / "checkpoints") == before


# --- caches ---


def test_all_comes_back_under_its_name_and_what_is_new_by_name_stays(service: Service) -> None:
    cache = service.folder / "cache"
    injector, before = CacheWipe(str(cache)), state_of(cache)
    with closing(service.open()) as platform:
        undo = injector.plan(both(service), platform).stamped("run.1", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        assert sorted(path.name for path in cache.iterdir() if path.name[0] != ".") == []
        (cache / "blobs").mkdir()
        (cache / "blobs" / "b").write_bytes(b"two, made anew")
        (cache / "blobs" / "new").write_bytes(b"three")
        (cache / "version").mkdir()
        (cache / "refs").write_text("no link any more")
        assert "3 there now" in injector.verify(undo, platform).detail
        injector.recover(undo, platform)
        assert "all 6 entries again" in injector.verify_recovered(undo, platform).detail
        (cache / "blobs" / "b").write_bytes(b"longer")  # refs leads there as well
        assert "2 of another size by now" in injector.verify_recovered(undo, platform).detail
        (cache / "blobs" / "deep" / "a").unlink()
        with pytest.raises(Differs, match="blobs/deep/a is not back"):
            injector.verify_recovered(undo, platform)
    assert (cache / "refs").is_symlink()
    assert state_of(cache) == {name: body for name, body in before.items() if name != "blobs/deep/a"} | {
        "blobs/b": b"longer",
        "refs": b"longer",
        "blobs/new": b"three",
    }


def test_a_cache_that_a_stranger_uses_is_left_alone(service: Service) -> None:
    cache = service.folder / "cache"
    injector, before = CacheWipe(str(cache)), state_of(cache)
    holds = "import sys,time; f = open(sys.argv[1]); print('open', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", holds, str(cache / "blobs" / "b")]
    with closing(service.open()) as platform:
        undo = injector.plan(both(service), platform).stamped("run.1", injector.kind, {}, 60.0)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "open\n"
            why = f"blobs/b is in use by process {stranger.pid} .*which is no target"
            with pytest.raises(Refusal, match=f"^not injecting: .*{why}"):
                injector.plan(both(service), platform)
            with pytest.raises(Exception, match=why):
                injector.inject(undo, platform)
            stranger.kill()
    assert state_of(cache) == before


def test_a_cache_is_wiped_and_filled_again_by_a_killed_agent_and_an_undo(service: Service) -> None:
    cache = service.folder / "cache"
    before, mtime = state_of(cache), cache.stat().st_mtime_ns
    injector = CacheWipe(str(cache))
    with closing(service.open()) as platform:
        undo = injector.plan(both(service), platform).stamped("run.1", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        (record,) = (service.folder / "state" / "agents").glob("*.json")
        agent = json.loads(record.read_text())["agent"]
        os.kill(int(agent.removeprefix("pid:").partition("@")[0]), 9)
    with closing(service.open()) as platform:
        injector.recover(undo, platform)
        injector.verify_recovered(undo, platform)
    assert (state_of(cache), cache.stat().st_mtime_ns) == (before, mtime)


def test_a_cache_that_somebody_put_back_is_no_lapse(service: Service) -> None:
    cache = service.folder / "cache"
    injector = CacheWipe(str(cache))
    with closing(service.open()) as platform:
        undo = injector.plan(both(service), platform).stamped("run.1", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        aside = next(path for path in cache.iterdir() if path.name.endswith(".original"))
        with pytest.raises(Differs, match="is not back"):
            injector.verify_recovered(undo, platform)
        for path in list(aside.iterdir()):
            path.rename(cache / path.name)
        aside.rmdir()
        with pytest.raises(Overcome):
            injector.verify(undo, platform)
        injector.recover(undo, platform)


def test_what_is_no_cache_is_left_alone(service: Service) -> None:
    folder, home, work = service.folder, service.folder / "home", service.folder / "home" / "work"
    (work / "cache").mkdir(parents=True)
    (work / "cache" / "kernel").write_text("1")
    (folder / "runs" / "r").mkdir(parents=True)
    (folder / "runs" / "r" / "journal.jsonl").write_text("{}")
    (folder / "state" / "agents").mkdir(parents=True)
    (folder / "link").symlink_to("/etc")
    here = "import os, sys, time; os.chdir(sys.argv[1]); print('there', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", here, str(work)]
    with subprocess.Popen(command, env={"HOME": str(home)}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        try:
            with closing(service.open()) as platform:
                (r0,) = target(platform)
                victims = (replace(r0, details={**r0.details, "tree": [f"pid:{process.pid}@1"]}), *target(platform, "r1"))
                model = str(folder / "{name}" / "model.safetensors")
                for path, why in (
                    *(
                        (each, "is a folder of the system")
                        for each in ("/", "/etc", "/usr/lib", "/var", "/proc", folder / "link")
                    ),
                    (work, "is the working folder of r0"),
                    (home, "holds the working folder of r0 .*/home/work"),
                    (folder / "state", "is where blackstart works or keeps its records"),
                    (folder / "runs", "holds the records of a drill .r/journal.jsonl"),
                    (folder / "r0", "holds the model of r0"),
                    (folder, "holds the (working folder|home folder|model) of r0|where blackstart works"),
                ):
                    with pytest.raises(Refusal, match=f"^not injecting: .*({why}).*; name the folder of the cache alone"):
                        CacheWipe(str(path)).with_model(model).plan(victims, platform)
                CacheWipe(str(work / "cache")).with_model(model).plan(victims, platform)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        *(
            (each, "a folder of the system")
            for each in ("/", "/usr", "/var/lib", "/home", "/root", "/opt", "/dev/shm", "/dev/pts")
        ),
        *((each, "a folder of the system") for each in ("/lib/x/y", "/var/log/llm", "/tmp")),
        ("/home/ada", "somebody's home folder"),
        ("/data", "a folder of the whole machine"),
    ],
)
def test_what_is_no_cache_by_its_name(path: str, why: str) -> None:
    class Processes:
        name = "process"

    told = why_kept(Target("pid:1@1", "r0", "replica"), path, None, Processes())  # type: ignore[arg-type]
    assert told == f"{path} is {why}, and no cache; name the folder of the cache alone"


def test_a_cache_of_what_was_fetched_may_hold_the_model(service: Service) -> None:
    snapshot = service.folder / "cache" / "hub" / "models--llm" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    cache = CacheWipe(str(service.folder / "cache")).with_model(str(snapshot))
    with closing(service.open()) as platform:
        assert cache.plan(both(service), platform).prior["r0"]["entries"]
        for inside in (snapshot, snapshot.parent):
            with pytest.raises(Refusal, match="holds the model of r0"):
                CacheWipe(str(inside)).with_model(str(snapshot)).plan(both(service), platform)


# --- credentials ---


def claims(token: str) -> dict[str, object]:
    body = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def signed(**named: object) -> str:
    parts = ({"alg": "RS256"}, named)
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in parts), "c2ln"])


def test_a_signed_token_has_expired_and_is_otherwise_the_same() -> None:
    before = signed(sub="llm", exp=2_000_000_000, aud="hub")
    after = file_agent.expired(f"{before}\n")
    assert claims(after) == {**claims(before), "exp": 946688400, "iat": 946684800}
    assert after.endswith("\n")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{TOKEN}\n", "hf_[A-Z][a-z]{2}[A-Z][a-z]{2}[0-9]{4}\n"),
        ('{"access_token": "abc9xyz", "user": "me"}', '{"access_token": "[a-z]{3}[0-9][a-z]{3}", "user": "me"}'),
        (
            "# keys\nregion = eu\naws_secret_access_key = Zz9Qq7\n",
            "# keys\nregion = eu\naws_secret_access_key = ([A-Z][a-z][0-9]){2}\n",
        ),
        ("HF_TOKEN=hf_abcdef\nHOME=/root\n", "HF_TOKEN=hf_[a-z]{6}\nHOME=/root\n"),
        (
            "api_key: abc123\nmax_tokens: 4096\ntoken_file: /run/tok\n",
            "api_key: [a-z]{3}[0-9]{3}\nmax_tokens: 4096\ntoken_file: /run/tok\n",
        ),
    ],
)
def test_what_is_secret_is_made_worthless_and_nothing_else(content: str, expected: str) -> None:
    after = file_agent.expired(content)
    assert re.fullmatch(expected, after), after
    assert after != content
    assert file_agent.expired(content) == after


def test_a_signed_token_and_a_key_beside_it_are_both_worthless() -> None:
    token = signed(sub="llm", exp=2_000_000_000)
    after = json.loads(file_agent.expired(json.dumps({"token": token, "api_key": "abcdef"})))
    assert claims(after["token"])["exp"] == 946688400
    assert after["api_key"] != "abcdef"


def test_what_takes_its_place_tells_nothing_of_a_secret_but_its_look() -> None:
    assert file_agent.expired("hunter2") == file_agent.expired("drowsy9")


def test_no_record_holds_what_is_secret(service: Service) -> None:
    injector, path = CredentialExpire("token"), service.folder / "token"
    with closing(service.open()) as platform:
        undo = injector.plan(both(service), platform).stamped("run.1", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        assert path.read_text() == file_agent.expired(f"{TOKEN}\n")
        records = [*(service.folder / "state" / "agents").glob("*.json"), service.folder / ".token.blackstart-run.1"]
        written = json.dumps(undo.to_json()) + "".join(each.read_text() for each in records)
        assert TOKEN[3:] not in written
        assert path.read_text().strip()[3:] not in written
        injector.recover(undo, platform)
    assert path.read_text() == f"{TOKEN}\n"


def test_a_credential_of_the_users_own_and_one_that_was_renewed(service: Service) -> None:
    (service.folder / "old-token").write_text("hf_expired")
    injector, path = CredentialExpire("token", "old-token"), service.folder / "token"
    with closing(service.open()) as platform:
        undo = injector.plan(both(service), platform).stamped("run.1", injector.kind, {}, 60.0)
        injector.inject(undo, platform)
        assert path.read_text() == "hf_expired"
        path.unlink()
        path.write_text("hf_renewed")
        with pytest.raises(ForeignChange, match="somebody else changed it"):
            injector.recover(undo, platform)
    assert path.read_text() == "hf_renewed"


# --- the store, and refusals ---


def test_a_store_that_is_silent(service: Service) -> None:
    injector = ModelStoreOutage(("client",))
    with closing(service.open()) as platform:
        undo = planned(injector, platform)
        assert injector.bites(undo) == "on-restart"
        injector.inject(undo, platform)
        assert "silent" in soon(lambda: injector.verify(undo, platform)).detail  # type: ignore[attr-defined]
        injector.recover(undo, platform)
        assert ask(service.ports["client-r0"], 5.0)[0] == "ok"
        with pytest.raises(
            Unsupported, match=r"no link proxy stands between r0 and model-store; declare it under process\.links"
        ):
            ModelStoreOutage().plan(target(platform), platform)


class Elsewhere:
    name = "abacus"


@pytest.mark.parametrize("kind", CHECKS)
def test_elsewhere_it_is_refused_by_name(kind: str) -> None:
    injector = {
        "checkpoint-corrupt": CheckpointCorrupt("/c"),
        "cache-wipe": CacheWipe("/c"),
        "credential-expire": CredentialExpire("/c"),
        "model-store-outage": ModelStoreOutage(),
    }[kind]
    assert registry()[kind] is type(injector)
    means = (
        "platform abacus has no links"
        if kind == "model-store-outage"
        else f"{kind} has means on platform docker and .*, and this is"
    )
    with pytest.raises(Refusal, match=f"^not injecting: {means}"):
        injector.plan((), Elsewhere())  # type: ignore[arg-type]


def test_refusals(service: Service) -> None:
    folder = service.folder
    (folder / "empty").mkdir()
    (folder / "words").write_text("two words")
    with closing(service.open()) as platform:
        for injector, why in (
            (CacheWipe(str(folder / "nowhere")), "No such file"),
            (CacheWipe(str(folder / "empty")), "is empty already"),
            (CheckpointCorrupt(str(folder / "empty")), "holds no file"),
            (CheckpointCorrupt(str(folder / "checkpoints"), "header", "trainer_state.json"), "of no known format|bytes"),
            (CredentialExpire("nowhere"), "No such file"),
            (CredentialExpire("words"), "words: no credential is recognised in it"),
            (CredentialExpire("r0/model.safetensors"), "is no text"),
        ):
            with pytest.raises(Refusal, match=f"^not injecting: .*({why})"):
                injector.plan(both(service), platform)
        with pytest.raises(Refusal, match=r"r1 has the cache .* as well; make it a target"):
            CacheWipe(str(folder / "cache")).plan(target(platform), platform)
        with pytest.raises(Refusal, match="r1 reads token as well; make it a target"):
            CredentialExpire("token").plan(target(platform), platform)
    assert (folder / "words").read_text() == "two words"
    for empty in (CacheWipe(""), CheckpointCorrupt(""), CredentialExpire("")):
        assert "`path` is empty" in empty.problems()[0]


def test_a_socket_is_no_credential(service: Service) -> None:
    with socket.socket(socket.AF_UNIX) as listener, closing(service.open()) as platform:
        listener.bind(str(service.folder / "s"))
        with pytest.raises(Refusal, match="is no regular file"):
            CredentialExpire("s").plan(both(service), platform)
