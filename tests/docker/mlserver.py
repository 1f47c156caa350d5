"""Two mlservers on a network of their own, as Compose would name them; users ask by the name of their Compose service."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blackstart.injectors.platforms.docker_api import DockerApi, at
from blackstart.tests.command import until
from blackstart.tests.docker.engine import IMAGE
from blackstart.tests.docker.victims import archive
from blackstart.tests.servers.mlservers import COMMAND, LIBRARIES, MODELS, MOUNTED, PORT, contained, contents, environment

PROJECT, SERVICE, REPLICAS = "blackstart-mlserver", "mlserver", 2
LABEL = "com.docker.compose."


def name(number: int) -> str:
    return f"{PROJECT}-{SERVICE}-{number}"


@contextmanager
def running(api: DockerApi, folder: Path) -> Iterator[Path]:
    """Their service file, once all are ready."""
    files = {f"small/{each}": content for each, content in contents(folder).items()}
    api.post("/networks/create", {"Name": PROJECT, "Labels": {f"{LABEL}project": PROJECT}})
    try:
        for number in range(1, REPLICAS + 1):
            api.post("/containers/create", body(number), name=name(number))
            api.upload(name(number), MODELS, archive(files))
            api.post(at("containers", name(number), "start"))
        until("both mlservers to be ready", lambda: all(healthy(api, number) for number in range(1, REPLICAS + 1)), 60)
        compose = {"project": PROJECT, "service": SERVICE}
        endpoint = {"url": f"http://{SERVICE}:{PORT}", "model": "small"}
        probe = {"from": "in-network", "image": IMAGE}
        yield contained(folder, "docker", {"compose": compose, "port": PORT}, endpoint=endpoint, probe=probe)
    finally:
        for number in range(1, REPLICAS + 1):
            api.delete(at("containers", name(number)), force="true", v="true")
        api.delete(at("networks", PROJECT))


def body(number: int) -> dict[str, object]:
    """The image's own health check is KServe's readiness of the model. The engine starts a server again whatever its exit code was."""
    ready = f"http://127.0.0.1:{PORT}/v2/models/small/ready"
    check = f"import urllib.request; urllib.request.urlopen('{ready}', timeout=2)"
    second = 1_000_000_000
    return {
        "Image": IMAGE,
        "Cmd": list(COMMAND),
        "Env": [f"PYTHONPATH={MOUNTED}/{LIBRARIES}"],
        "WorkingDir": "/tmp",
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "Volumes": {MODELS: {}},
        "Healthcheck": {
            "Test": ["CMD", "python3", "-c", check],
            "Interval": 2 * second,
            "StartPeriod": 30 * second,
            "Retries": 3,
        },
        "Labels": {
            f"{LABEL}project": PROJECT,
            f"{LABEL}service": SERVICE,
            f"{LABEL}container-number": str(number),
            f"{LABEL}oneoff": "False",
        },
        "HostConfig": {
            "Binds": [f"{environment()}:{MOUNTED}:ro"],
            "CapDrop": ["ALL"],
            "NetworkMode": PROJECT,
            "RestartPolicy": {"Name": "always"},
        },
        "NetworkingConfig": {"EndpointsConfig": {PROJECT: {"Aliases": [SERVICE]}}},
    }


def healthy(api: DockerApi, number: int) -> bool:
    found = api.there(at("containers", name(number), "json"))
    return found is not None and found["State"].get("Health", {}).get("Status") == "healthy"
