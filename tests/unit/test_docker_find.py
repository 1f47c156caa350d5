"""What the engine's JSON says of containers, and how the demo's containers and its Compose file agree."""

import os
import socket
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from blackstart.injectors import look
from blackstart.injectors.network import NetworkPartition
from blackstart.injectors.platforms import docker_api
from blackstart.injectors.platforms.base import Target, Unavailable, Unsupported
from blackstart.injectors.platforms.docker_api import DockerApi, pieces
from blackstart.injectors.platforms.docker_find import Finder, identity_of, parts_of, port_of, restarts_itself, runs, volume_of
from blackstart.injectors.platforms.docker_spec import Compose, DockerSpec
from blackstart.injectors.platforms.docker_watch import Addresses
from blackstart.injectors.platforms.net_rooms import ends_of, outside_of
from blackstart.injectors.platforms.own_rooms import SLEEP
from blackstart.scenarios.demo import HERE
from blackstart.scenarios.demo.docker import PORT, REPLICAS, command_of, containers, profile
from blackstart.tests.command import until
from blackstart.tests.unit.small_engine import Engine, container, somebody_else


def test_an_identity_is_of_one_start() -> None:
    identity = identity_of(container())
    assert identity == "container:abc@2026-11-26T03:00:00.5Z"
    assert parts_of(f"{identity}/pid:7@1234") == ("abc", "2026-11-26T03:00:00.5Z")


def test_what_is_about_to_start_again_does_not_run() -> None:
    one = container()
    assert runs(one)
    one["State"]["Restarting"] = True
    assert not runs(one)


@pytest.mark.parametrize(
    ("policy", "count", "does"),
    [
        ({"Name": "always", "MaximumRetryCount": 0}, 50, True),
        ({"Name": "on-failure", "MaximumRetryCount": 3}, 2, True),
        ({"Name": "on-failure", "MaximumRetryCount": 3}, 3, False),
        ({"Name": "no", "MaximumRetryCount": 0}, 0, False),
        ({"Name": "", "MaximumRetryCount": 0}, 0, False),
    ],
)
def test_who_restarts_by_itself(policy: dict[str, Any], count: int, does: bool) -> None:
    assert restarts_itself(container(HostConfig={"RestartPolicy": policy}, RestartCount=count)) is does


def test_a_port_is_the_first_one_that_is_exposed() -> None:
    assert port_of(container(), None) == 8000
    assert port_of(container(), 8001) == 8001
    assert port_of(container(Config={"ExposedPorts": None}), None) is None


def test_slots_of_a_compose_service_outlive_their_containers() -> None:
    """The newer of two under one number, and the one that runs before one that does not."""
    labels = {
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "llm",
        "com.docker.compose.container-number": "1",
    }
    config = {**container()["Config"], "Labels": labels}
    old = container(Config=config)
    new = container(Id="def", Created="2026-11-26T02:30:00Z", Config=config)
    finder = Finder(Engine(old, new), DockerSpec(compose=Compose("shop", "llm")), lambda _: True)  # type: ignore[arg-type]
    (target,) = finder.all()
    assert (target.name, target.role, target.details["url"]) == ("llm-1", "replica", "http://172.18.0.2:8000")
    assert parts_of(target.identity)[0] == "def"
    new["State"]["Running"] = False
    assert parts_of(finder.all()[0].identity)[0] == "abc"
    assert finder.very(target) is None
    assert finder.container("llm-1") == old


def test_our_own_containers_are_no_targets_though_their_image_has_the_service_s_labels() -> None:
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "llm"}
    one = container(Config={**container()["Config"], "Labels": labels})
    ours = container(Id="def", Name="/blackstart-net-1", Config={**one["Config"], "Labels": {**labels, "blackstart": "network"}})
    finder = Finder(Engine(one, ours), DockerSpec(compose=Compose("shop", "llm")), lambda _: True)  # type: ignore[arg-type]
    assert [name for name, _, _ in finder.everything()] == ["shop-llm-1"]


def test_a_container_that_cannot_be_reached_is_asked_at_its_published_port() -> None:
    one = container()
    one["NetworkSettings"]["Ports"] = {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "18000"}]}
    finder = Finder(Engine(one), DockerSpec(containers=("shop-llm-1",)), lambda _: False)  # type: ignore[arg-type]
    assert finder.all()[0].details["url"] == "http://127.0.0.1:18000"
    finder.api.host = "tcp://lab.example:2376"
    assert finder.all()[0].details["url"] == "http://lab.example:18000"
    one["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostIp"] = "10.1.2.3"
    assert finder.all()[0].details["url"] == "http://10.1.2.3:18000"
    one["NetworkSettings"]["Ports"] = {}
    assert finder.all()[0].details["url"] is None


def test_a_container_that_starts_again_under_another_address_is_told() -> None:
    one = container()
    finder = Finder(Engine(one), DockerSpec(containers=("shop-llm-1",)), lambda _: True)  # type: ignore[arg-type]
    with closing(Addresses(finder)) as addresses:
        addresses.begin_from(finder.all())
        assert addresses.moved() == ()
        one["NetworkSettings"]["Networks"]["shop"]["IPAddress"] = "172.18.0.9"
        assert until("the move", addresses.moved, 10) == (("shop-llm-1", "http://172.18.0.9:8000"),)


@pytest.mark.parametrize(
    ("path", "identity", "outlives", "unfit"),
    [
        ("/models/llm/model.safetensors", "volume weights /llm/model.safetensors", True, ""),
        ("/models/only/model.safetensors", "host /srv/only/model.safetensors", True, "may only read"),
        ("/run/model", "container abc", False, ""),
        ("/opt/model", "container abc", True, "own layer"),
        ("/modelsx/model", "container abc", True, "own layer"),
    ],
)
def test_what_holds_a_file(path: str, identity: str, outlives: bool, unfit: str) -> None:
    mounts = [
        {"Type": "volume", "Name": "weights", "Destination": "/models", "RW": True},
        {"Type": "bind", "Source": "/srv/only", "Destination": "/models/only", "RW": False},
    ]
    found = volume_of(container(Mounts=mounts, HostConfig={"Tmpfs": {"/run": ""}}), path)
    assert (found["id"], found["outlives"]) == (identity, outlives)
    assert found["apart"] is not outlives
    assert unfit in found["unfit"]
    assert bool(found["unfit"]) is bool(unfit)


def test_one_file_through_two_binds_is_one() -> None:
    binds = [("/models", "/srv/models"), ("/models/llm", "/srv/models/llm")]
    mounts = [{"Type": "bind", "Source": source, "Destination": folder, "RW": True} for folder, source in binds]
    outer, inner = container(Id="a", Mounts=mounts[:1], HostConfig={}), container(Id="b", Mounts=mounts, HostConfig={})
    assert volume_of(outer, "/models/llm/model.gguf")["id"] == volume_of(inner, "/models/llm/model.gguf")["id"]


def test_pieces_of_a_stream_come_whole() -> None:
    stream = b"\x01\0\0\0\0\0\0\x03one" + b"\x02\0\0\0\0\0\0\x03two" + b"\x01\0\0\0\0\0\0\x05thr"
    held = bytearray()
    found = []
    for number in range(len(stream)):
        held += stream[number : number + 1]
        found += list(pieces(held))
    assert found == [(1, b"one"), (2, b"two")]
    held += b"ee"
    assert list(pieces(held)) == [(1, b"three")]
    assert held == b""


def test_which_engine_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"none\.sock does not exist"):
        DockerApi.opened({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    with pytest.raises(Unsupported, match="forward the socket"):
        DockerApi.opened({"DOCKER_HOST": "ssh://somebody@example.invalid"})
    with pytest.raises(Unavailable, match="there is no Docker context nowhere"):
        DockerApi.opened({"HOME": str(tmp_path)}, "nowhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_socket_without_permission_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder, closing(socket.socket(socket.AF_UNIX)) as listener:
        Path(folder).chmod(0o755)
        listener.bind(f"{folder}/docker.sock")
        Path(f"{folder}/docker.sock").chmod(0o660)
        with somebody_else(), pytest.raises(Unavailable, match="may not open the Docker engine's socket"):
            docker_api._refuse_useless(f"unix://{folder}/docker.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_whom_signals_reach_is_seen() -> None:
    mine, first = look.process(os.getpid()), look.process(1)
    assert look.may_signal(mine["identity"])
    with somebody_else():
        assert not look.may_signal(first["identity"])
    around = {each["identity"]: each for each in look.around({})["processes"]}
    assert around[first["identity"]]["may_signal"] is True


def test_ends_of_a_link() -> None:
    everything = [Target("a", "r-1", "replica"), Target("b", "r-2", "replica"), Target("c", "g-1", "gateway")]
    assert [each.name for each in ends_of("r-1--gateway", everything)[1]] == ["g-1"]
    assert [each.name for each in ends_of("r-1--anybody", everything)[1]] == ["r-2", "g-1"]
    with pytest.raises(Unsupported, match="nothing is called store"):
        ends_of("r-1--store", everything)


def test_a_peer_that_is_no_part_of_the_service() -> None:
    everything = [Target("a", "r-1", "replica"), Target("c", "g-1", "gateway")]
    link = "r-1--gateway,hub.example:443,[fd00::1]:9000"
    assert [each.name for each in ends_of(link, everything)[1]] == ["g-1"]
    assert outside_of(link) == [("hub.example", 443), ("fd00::1", 9000)]
    for none in ("r-1--anybody", "r-1--dns:53", "r-1--gateway"):
        assert outside_of(none) == []
    with pytest.raises(Unsupported, match="what is no part of the service is named HOST:PORT"):
        ends_of("r-1--hub.example", everything)
    assert NetworkPartition(("hub.example:443",)).takes() == {"container"}, "a policy knows no names"
    assert NetworkPartition(("gateway",)).takes() == {"network"}


def test_who_keeps_a_network_container_up_is_a_program() -> None:
    compile(SLEEP, "sleep", "exec")


@pytest.mark.parametrize("hardened", [False, True])
def test_the_compose_file_is_the_demo(hardened: bool) -> None:
    compose = yaml.safe_load((HERE / "compose.yaml").read_text(encoding="utf-8"))
    project, flag = compose["name"], "--hardened" if hardened else ""
    made = containers(project, "image", PORT, "", hardened=hardened)
    for role, service in compose["services"].items():
        assert service.get("scale", 1) == (REPLICAS if role == "replica" else 1)
        said = service["command"][2].replace("${HARDENED:-}", flag).replace("$$HOSTNAME", "replica-1").strip()
        assert said.split() == command_of(project, role, 1, hardened=hardened)[2].split()
        body = made[f"{project}-{role}-1"]
        assert service["cap_drop"] == body["HostConfig"]["CapDrop"]
        assert service["restart"] == body["HostConfig"]["RestartPolicy"]["Name"]
        assert service["dns_opt"] == body["HostConfig"]["DnsOptions"]
        assert service["stop_grace_period"] == f"{body['StopTimeout']}s"
        assert ("/models" in service["volumes"]) is ("/models" in body.get("Volumes", {}))


def test_the_demo_s_profile_is_a_service_file(tmp_path: Path) -> None:
    from blackstart.drills.loading import load_service  # noqa: PLC0415 - beside the other room's

    path = tmp_path / "service.yaml"
    path.write_text(profile("blackstart-demo-1", "http://127.0.0.1:8000", "python:3.12-slim", hardened=False, context="there"))
    service = load_service(path)
    assert service.docker is not None
    assert [part.role for part in service.docker.parts()] == ["replica", "gateway", "store", "standby"]
    assert service.where().docker == service.docker
