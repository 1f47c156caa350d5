"""A service of one pod that is on the first of the simulated GPUs, whose driver lies in a folder of this machine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi
from blackstart.tests.cluster.web import NOBODY, PORT, own_namespace, serve

SLOT = "web-0"
OWN_MIB = 556  # a context and what the victim allocates


def pod(image: str, command: Sequence[str], environment: Mapping[str, str], folders: Mapping[str, Path | None]) -> dict[str, Any]:
    """`folders`: what lies at these places in it, of this machine, which the cluster's nodes share; None: nothing does."""
    volumes = {f"v{number}": path for number, path in enumerate(folders.values())}
    container = {
        "name": "gpu",
        "image": image,
        "command": list(command),
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
        "securityContext": {"runAsUser": NOBODY, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": name, "mountPath": at} for name, at in zip(volumes, folders, strict=True)],
    }
    kinds = [
        {"name": name, **({"hostPath": {"path": str(path)}} if path else {"emptyDir": {}})} for name, path in volumes.items()
    ]
    return {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": kinds}


@contextmanager
def standing(
    api: KubeApi, replica: dict[str, Any], around: Callable[[str], AbstractContextManager[object]] = nullcontext
) -> Iterator[str]:
    """Its namespace. `around`: what has to be there for that namespace before the pod is."""
    if api.context != "devkube":
        pytest.skip("only devkube's nodes share a folder with this machine")
    with own_namespace(api, "privileged") as name, around(name):
        serve(api, name, replica, 1)
        yield name
