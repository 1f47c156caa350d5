"""A Docker engine out of a table, for what is asked of one without running anything; and this process as another user."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from blackstart.injectors.platforms import Where
from blackstart.injectors.platforms.docker import DockerPlatform
from blackstart.injectors.platforms.docker_api import NotThere
from blackstart.injectors.platforms.docker_exec import Room
from blackstart.injectors.platforms.docker_spec import DockerSpec

NOW = "2026-11-26T03:05:00.123456789Z"  # by the engine's clock


def container(**more: Any) -> dict[str, Any]:
    """As `inspect` shows one."""
    state = {"Running": True, "Restarting": False, "Paused": False, "StartedAt": "2026-11-26T03:00:00.5Z"}
    found: dict[str, Any] = {
        "Id": "abc",
        "Name": "/shop-llm-1",
        "Created": "2026-11-26T02:00:00Z",
        "RestartCount": 0,
        "State": state,
        "Config": {"Image": "llm:1", "ExposedPorts": {"9000/udp": {}, "8001/tcp": {}, "8000/tcp": {}}, "Labels": {}},
        "HostConfig": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}},
        "NetworkSettings": {"Networks": {"shop": {"IPAddress": "172.18.0.2", "GlobalIPv6Address": ""}}, "Ports": {}},
        "Mounts": [],
    }
    return {**found, **more}


class Engine:
    """Answers from a table, as far as a finder asks."""

    host = "unix:///var/run/docker.sock"

    def __init__(self, *found: dict[str, Any]) -> None:
        self.found = {each["Id"]: each for each in found}

    def get(self, path: str, **query: Any) -> Any:
        if path == "/info":
            return {"SystemTime": NOW}
        assert path == "/containers/json"
        listed = [self.listed(each) for each in self.found.values() if each]  # an image has nothing to tell here
        among = query.get("filters", {}).get("status")
        return [each for each in listed if not among or each["State"] in among]

    def listed(self, one: dict[str, Any]) -> dict[str, Any]:
        """As the engine's list has one."""
        mode = {"NetworkMode": one["HostConfig"].get("NetworkMode", "default")}
        state = "running" if one["State"]["Running"] else "created"
        about = {"Id": one["Id"], "Names": [one["Name"]], "Image": one["Config"]["Image"], "State": state}
        about["Created"] = datetime.fromisoformat(one["Created"]).timestamp()
        return {**about, "Labels": one["Config"]["Labels"], "HostConfig": mode}

    def there(self, path: str) -> Any:
        return self.found.get(path.split("/")[2])


class Workshop(Engine):
    """One in which containers are made and removed, too; what programs are asked in them is answered from `answers`.

    `log` has all of that in its order.
    """

    def __init__(self, *found: dict[str, Any]) -> None:
        super().__init__(*found)
        self.answers: dict[str, Any] = {}
        self.log: list[str] = []

    def post(self, path: str, body: Any = None, name: str = "", **_query: Any) -> Any:
        _, _, number, *verb = path.split("/")
        if number == "create":
            config = {"Image": body["Image"], "Labels": body["Labels"]}
            self.found[name] = container(Id=name, Name=f"/{name}", Config=config, HostConfig=body["HostConfig"])
            self.log.append(f"made {body['Labels']['blackstart']}")
            return {"Id": name}
        if verb == ["stop"]:
            if number not in self.found:
                raise NotThere("no such container", 404)
            self.log.append(f"ended {self.found.pop(number)['Config']['Labels']['blackstart']}")
        return None

    def delete(self, path: str, **_query: Any) -> bool:
        self.log.append(f"removed {path.split('/')[2]}")
        return self.found.pop(path.split("/")[2], None) is not None

    def run(self, where: Room, program: bytes, words: list[str], limit_s: float = 0) -> tuple[int, bytes, str]:
        """As doors do."""
        del where, program, limit_s
        self.log.append(words[0])
        return 0, json.dumps(self.answers[words[0]]).encode(), ""


def opened(engine: Workshop, folder: Path, /, **roles: str) -> DockerPlatform:
    """The service of that one container."""
    where = Where("docker", folder, roles, docker=DockerSpec(containers=("shop-llm-1",)), image="tools:1")
    platform = DockerPlatform(engine, where, folder, {})  # type: ignore[arg-type]
    platform.doors = engine  # type: ignore[assignment]
    return platform


@contextmanager
def somebody_else() -> Iterator[None]:
    """This process as a user who is in no group of the engine's."""
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
