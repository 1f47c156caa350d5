"""The bundled model service as containers of a Docker engine: any image with python3 and a shell, nothing built.

They are named and labelled as Compose would have it, and `compose.yaml` beside this file makes the same. What differs from the same
service as local processes:

- Each replica's model lies on a volume of its container, which outlives a restart of it, as a folder on a disk does.
- The engine starts again what died by itself, at once and then ever more slowly, but nothing that was stopped or killed by hand.
- A container that starts again may have another address; the gateway asks the engine's resolver at each connection.
"""

import io
import tarfile
from pathlib import Path
from typing import Any, Final

from .profile import service_file

HERE = Path(__file__).parent
FILES = (
    "service.py",
    "manifest.json",
    "model-stale.safetensors",
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
PROJECT, SERVICE, NUMBER = (f"com.docker.compose.{each}" for each in ("project", "service", "container-number"))
CREATOR: Final = "blackstart-demo.creator"
REPLICAS, PORT, CODE, MODELS = 2, 8000, "/demo", "/models"
PROGRAM = f"python3 -I -S {CODE}/service.py"
ROLES = ("standby", "store", "replica", "gateway")  # in the order in which they start

Body = dict[str, Any]


def containers(project: str, image: str, port: int, creator: str, *, hardened: bool) -> dict[str, Body]:
    """Name -> what the engine is asked to create, in the order in which they are to be started; `port` is the gateway's here."""
    found = {}
    for role in ROLES:
        for number in range(1, (REPLICAS if role == "replica" else 1) + 1):
            labels = {
                PROJECT: project,
                SERVICE: role,
                NUMBER: str(number),
                "com.docker.compose.oneoff": "False",
                CREATOR: creator,
            }
            command = command_of(project, role, number, hardened=hardened)
            more = {"Image": image, "Entrypoint": [], "Cmd": command, "Labels": labels}
            found[f"{project}-{role}-{number}"] = {**_body(role, port, project), **more}
    return found


def command_of(project: str, role: str, number: int, *, hardened: bool) -> list[str]:
    """As the supervisor of the local service starts it. A replica brings its model to its volume where that is empty."""
    words = [PROGRAM, role, f"--name {role}-{number} --host 0.0.0.0 --port {PORT} --package {CODE} --oracle /tmp/oracle.jsonl"]
    if role == "replica":
        words.append(f"--folder {MODELS}/demo")
    if role == "gateway":
        words += [f"--backend replica-{each}={project}-replica-{each}:{PORT}" for each in range(1, REPLICAS + 1)]
        words += [f"--store {each}={project}-{each}-1:{PORT}" for each in ("store", "standby")]
    if role in {"store", "standby"}:
        words.append(f"--peer {project}-{'standby' if role == 'store' else 'store'}-1:{PORT}")
    words += ["--hardened"] if hardened else []
    start = f"exec {' '.join(words)}"
    return ["sh", "-c", f"{PROGRAM} install --package {CODE} --folder {MODELS}/demo && {start}" if role == "replica" else start]


def _body(role: str, port: int, network: str) -> Body:
    host: Body = {
        "NetworkMode": network,
        "RestartPolicy": {"Name": "unless-stopped"},
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Memory": 256 << 20,
        "DnsOptions": ["timeout:1", "attempts:2"],  # for a name that is away just now; by default 5 s each
    }
    if role == "gateway":
        host["PortBindings"] = {f"{PORT}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
    return {
        "User": "0:0",
        "StopTimeout": 40,  # service.py drains for 30 s at most
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "HostConfig": host,
        **({"Volumes": {MODELS: {}}} if role == "replica" else {}),
    }


def code() -> bytes:
    """The service's program and model as a tar archive for the root of a container."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name in FILES:
            content = (HERE / name).read_bytes()
            entry = tarfile.TarInfo(f"{CODE.strip('/')}/{name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def profile(project: str, url: str, image: str, *, hardened: bool, context: str | None) -> str:
    """service.yaml of what was started."""
    blocks = {role: {"compose": {"project": project, "service": role}, "port": PORT} for role in ROLES}
    docker: Body = {
        **blocks["replica"],
        "components": [{"role": role, **blocks[role]} for role in ("gateway", "store", "standby")],
    }
    if context is not None:
        docker["context"] = context
    return service_file("docker", docker, url, image, f"{MODELS}/demo/model.safetensors", hardened=hardened)
