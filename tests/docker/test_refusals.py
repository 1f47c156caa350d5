"""What cannot work on Docker is refused before the drill, with the missing thing named; and what `init` and `doctor` say."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.base import Injector, Refusal
from blackstart.injectors.caches import CacheWipe
from blackstart.injectors.model_files import CheckpointCorrupt, CredentialExpire, ModelCorrupt
from blackstart.injectors.model_revisions import VersionSkew
from blackstart.injectors.platforms.docker_api import DockerApi, at
from blackstart.injectors.platforms.docker_spec import DockerSpec
from blackstart.tests.command import Blackstart, Done
from blackstart.tests.docker import victims
from blackstart.tests.docker.engine import IMAGE, SOCKET
from blackstart.tests.docker.victims import REPLICA, STORE

HEAD = (
    "apiVersion: blackstart/v1\nkind: Scenario\nname: refused\nobjectives: {rto: 20s}\nblast_radius: {share: 100%}\nfaults:\n  - "
)

SLEEP = ["python3", "-c", "import time; time.sleep(600)"]
STRANGER, SHARED = "v-stranger", "blackstart-test-shared"
OF_FILES: tuple[Injector, ...] = (
    ModelCorrupt("truncate", file=victims.MODEL),
    ModelCorrupt("slow-read", file=victims.MODEL),
    VersionSkew(file=victims.MODEL),
    CheckpointCorrupt(victims.CHECKPOINTS),
    CredentialExpire(victims.TOKEN),
    CacheWipe(victims.CACHE),
)


@pytest.fixture(scope="module")
def service(api: DockerApi) -> Iterator[None]:
    with victims.service(api):
        yield


@pytest.fixture
def extra(api: DockerApi, service: None) -> Iterator[Any]:
    """Makes one more container."""
    made: list[str] = []

    def make(name: str = "v-extra", **more: Any) -> None:
        made.append(name)
        victims.create(api, name, **more)

    yield make
    for each in made:
        api.delete(at("containers", each), force="true", v="true")


def profile(folder: Path, name: str = REPLICA, **more: Any) -> Path:
    docker = {"containers": [name], "port": 8000, "components": [{"role": "store", "containers": [STORE], "port": 8000}]}
    whole = {
        "apiVersion": "blackstart/v1",
        "kind": "Service",
        "name": "victims",
        "platform": "docker",
        "docker": docker,
        "roles": {"engine": {"command_line": r"victim\.py engine"}},
        "endpoint": {"url": "http://127.0.0.1:9"},
        "probe": {"image": IMAGE},
        **more,
    }
    path = folder / "service.yaml"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def planned(blackstart: Blackstart, fault: str, service: Path, **environment: str) -> Done:
    scenario = blackstart.folder / "scenario.yaml"
    scenario.write_text(f"{HEAD}{fault}\n", encoding="utf-8")
    return blackstart("plan", scenario, "--service", service, **environment)


@pytest.mark.parametrize(
    ("more", "fault", "why"),
    [
        (
            {"Cmd": SLEEP, "HostConfig": {"ReadonlyRootfs": True, "IpcMode": "none", "Tmpfs": {}}},
            "{kind: cpu-stress}",
            "no folder that can be written to",
        ),
        (
            {"Cmd": SLEEP, "HostConfig": {"NetworkMode": "host"}},
            "{kind: network-partition}",
            "lives in the network of the engine's machine",
        ),
        ({"HostConfig": {"RestartPolicy": {}, "AutoRemove": True}}, "{kind: replica-kill}", "nothing would bring v-extra back"),
        ({}, "{kind: model-corrupt, mutation: header, file: /model.safetensors}", "the container's own layer"),
        ({}, "{kind: cache-wipe, path: /etc}", "the container's own layer"),
        ({}, "{kind: process-kill}", "dies as a whole by replica-kill"),
        ({}, "{kind: disk-fill, path: /sys, at_most: 1GiB}", "/sys cannot be written to"),
        ({}, "{kind: disk-fill, path: /models}", "may lie on the disk of the whole machine"),
        ({"HostConfig": {"PidMode": "host"}}, "{kind: process-kill, role: engine}", "sees the processes of the engine's machine"),
        ({}, "{kind: scale-down}", "has means on platform kubernetes alone"),
    ],
    ids=[
        "no place",
        "host network",
        "removed at its end",
        "image layer",
        "cache in the layer",
        "first process",
        "read-only",
        "volume",
        "host pids",
        "no workload",
    ],
)
def test_refused_before_the_drill(blackstart: Blackstart, extra: Any, more: Any, fault: str, why: str) -> None:
    extra(**more)
    done = planned(blackstart, fault, profile(blackstart.folder, "v-extra"))
    assert done.code == 2, done.out
    assert why in done.err


@pytest.fixture
def shared(api: DockerApi) -> Iterator[str]:
    """The name of a volume, which is gone afterwards."""
    yield SHARED
    api.delete(at("volumes", SHARED))


@pytest.mark.parametrize(
    ("mine", "theirs", "named"),
    [
        (f"{SHARED}:/models", f"{SHARED}:/data:ro", f"volume {SHARED}"),
        ("{folder}/mine:/models", "{folder}:/data:ro", "{folder} of the engine's machine"),
    ],
    ids=["volume", "folder"],
)
def test_a_volume_that_somebody_else_has_as_well(
    blackstart: Blackstart, api: DockerApi, shared: str, extra: Any, tmp_path: Path, mine: str, theirs: str, named: str
) -> None:
    del shared
    for name, mounts in (("v-extra", mine), (STRANGER, theirs)):
        extra(name, HostConfig={"Binds": [mounts.format(folder=tmp_path)]})
    why = f"not injecting: container {STRANGER} has {named.format(folder=tmp_path)}, and so "
    done = planned(
        blackstart, f"{{kind: model-corrupt, mutation: truncate, file: {victims.MODEL}}}", profile(tmp_path, "v-extra")
    )
    assert done.code == 2, done.out
    assert f"{why}{victims.MODEL} of v-extra, and is no part of this service: it would be hit as well; name it among" in done.err
    with closing(victims.opened(tmp_path, f"unix://{SOCKET}", DockerSpec(containers=("v-extra",)))) as platform:
        for injector in OF_FILES:
            with pytest.raises(Refusal, match=why):
                injector.plan(platform.find(), platform)
        api.post(at("containers", STRANGER, "pause"))
        with pytest.raises(Refusal, match=why):
            OF_FILES[0].plan(platform.find(), platform)
        api.post(at("containers", STRANGER, "unpause"))
        api.post(at("containers", STRANGER, "stop"), t=0)
        for injector in OF_FILES:
            injector.plan(platform.find(), platform)


def test_a_read_only_mount_is_no_place_for_damage(blackstart: Blackstart, extra: Any, tmp_path: Path) -> None:
    model = (victims.HERE / "model.safetensors").read_bytes()
    for name, content in {"model.safetensors": model, **victims.artefacts(model)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    extra(HostConfig={"Binds": [f"{tmp_path}:/read-only:ro"]})
    for fault in (
        "{kind: model-corrupt, mutation: header, file: /read-only/model.safetensors}",
        "{kind: cache-wipe, path: /read-only/cache}",
    ):
        done = planned(blackstart, fault, profile(blackstart.folder, "v-extra"))
        assert done.code == 2, done.out
        assert "may only read (/read-only)" in done.err, fault


def test_without_python_here_and_elsewhere(blackstart: Blackstart, extra: Any) -> None:
    """On this machine its processes can be seen and stopped from here; what needs to be inside is refused."""
    program = "import os; os.chmod('/usr/bin/python3', 0); os.execv('/bin/sleep', ['sleep', '600'])"
    extra(Cmd=["python3", "-c", program], Entrypoint=[], HostConfig={"CapDrop": []})
    file = profile(blackstart.folder, "v-extra", roles={"engine": {"command_line": "sleep"}})
    inside = planned(blackstart, "{kind: cpu-stress}", file)
    assert inside.code == 2, inside.out
    assert "has no python3, and its faults need one" in inside.err
    from_here = planned(blackstart, "{kind: process-hang, role: engine}", file)
    assert from_here.code == 0, from_here.err
    file = profile(blackstart.folder, "v-extra", roles={"engine": {"command_line": "sleep"}}, model={"path": victims.MODEL})
    compared = planned(blackstart, "{kind: process-hang, role: engine}\ndigest: {}", file)
    assert compared.code == 2, compared.out
    assert "the digest lane cannot read the model of v-extra: " in compared.err
    assert "has no python3" in compared.err


def test_an_image_that_is_not_there(blackstart: Blackstart, service: None) -> None:
    done = planned(blackstart, "{kind: network-partition}", profile(blackstart.folder, probe={"image": "nowhere/image:1"}))
    assert done.code == 2
    assert "docker pull nowhere/image:1" in done.err


def test_no_engine_and_no_permission(blackstart: Blackstart, service: None, tmp_path: Path) -> None:
    file = profile(blackstart.folder)
    nowhere = planned(blackstart, "{kind: replica-kill}", file, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert nowhere.code == 2
    assert "none.sock does not exist" in nowhere.err
    over_ssh = planned(blackstart, "{kind: replica-kill}", file, DOCKER_HOST="ssh://somebody@example.invalid")
    assert "forward the socket" in over_ssh.err


def test_doctor_tells_of_every_kind(blackstart: Blackstart, service: None, api: DockerApi) -> None:
    done = blackstart("doctor", "--service", profile(blackstart.folder, endpoint={"url": f"http://{victims.address(api)}:8000"}))
    assert done.code == 0, done.out
    told = {line.split()[1]: line.split()[0] for line in done.out.splitlines() if len(line.split()) > 1}
    assert {
        told[kind] for kind in ("replica-kill", "process-hang", "cpu-stress", "network-partition", "dns-break", "tcp-reset")
    } == {"yes"}
    assert told["node-drain"] == "no"


def test_init_from_docker(blackstart: Blackstart, service: None) -> None:
    done = blackstart("init", "drills", "--from-docker", REPLICA)
    assert done.code == 0, done.err
    assert "wrote drills/service.yaml" in done.out
    files = [blackstart.folder / "drills" / name for name in ("service.yaml", "scenario.yaml")]
    assert blackstart("validate", *files).code == 0
    plan = blackstart("plan", files[1], "--service", files[0])
    assert plan.code == 0, plan.err
    assert REPLICA in plan.out
    unknown = blackstart("init", "others", "--from-docker", "nobody")
    assert unknown.code == 2
    assert f"no container is called nobody on the Docker engine at unix://{SOCKET}" in unknown.err
