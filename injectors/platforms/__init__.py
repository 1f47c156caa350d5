"""Platforms by name. Each adapter, with its client library, is imported only when it is used."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..values import JSON
from .base import Platform, Unsupported
from .docker_spec import DockerSpec
from .kubernetes_spec import KubernetesSpec
from .process_spec import ProcessSpec


@dataclass(frozen=True)
class Where:
    """What a service file says of where a service lives. `inside`: roles below a pod or container by command line;
    `protected`: namespaces that no drill may touch; `image`: with python3, for what a drill runs beside the service; `opt_in`: a label
    that workloads must carry; `beside`: it is measured from beside the service; `privilege`: the most that a drill may take.
    """

    platform: str
    folder: Path
    inside: Mapping[str, str]
    protected: tuple[str, ...] = ()
    process: ProcessSpec | None = None
    kubernetes: KubernetesSpec | None = None
    image: str | None = None
    opt_in: str | None = None
    docker: DockerSpec | None = None
    beside: bool = False
    privilege: str = "helper"


@contextmanager
def open_platform(where: Where, state: Path, environment: Mapping[str, str]) -> Iterator[Platform]:
    """The adapter, closed afterwards. Raises Unsupported where there is none."""
    platform = _opened(where, state, environment)
    try:
        yield platform
    finally:
        platform.close()


def cluster_configured(environment: Mapping[str, str]) -> bool:
    """Whether a cluster is there to be asked: a kubeconfig, or the pod that this runs in."""
    named = environment.get("KUBECONFIG") or environment.get("KUBERNETES_SERVICE_HOST")
    return bool(named) or (Path(environment.get("HOME", "/nonexistent")) / ".kube" / "config").exists()


def engine_configured(environment: Mapping[str, str]) -> bool:
    """Whether a Docker engine is there to be asked, and can be."""
    named = environment.get("DOCKER_HOST") or environment.get("DOCKER_CONTEXT") or Path("/var/run/docker.sock").exists()
    return bool(named) and find_spec("docker") is not None


@contextmanager
def opened_records(environment: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, tuple[str, JSON]], str]]:
    """The current context; the runs that its cluster remembers: run -> its namespace, and file name -> content; and the one
    namespace that was asked, where this login may look in no other.
    """
    from .kube_api import KubeApi  # noqa: PLC0415
    from .kube_records import everywhere  # noqa: PLC0415

    with closing(KubeApi.opened(environment)) as api:
        yield api.context, *everywhere(api)


def _opened(where: Where, state: Path, environment: Mapping[str, str]) -> Platform:
    if where.platform == "process" and where.process:
        from .process import ProcessPlatform  # noqa: PLC0415 - adapters are imported when they are used

        return ProcessPlatform(where.process, where.folder, state, environment)
    if where.platform == "kubernetes" and where.kubernetes:
        from .kube_api import KubeApi  # noqa: PLC0415
        from .kubernetes import KubernetesPlatform  # noqa: PLC0415

        api = KubeApi.opened(environment, where.kubernetes.context)
        return KubernetesPlatform(api, where)
    if where.platform == "docker" and where.docker:
        from .docker import DockerPlatform  # noqa: PLC0415
        from .docker_api import DockerApi  # noqa: PLC0415

        return DockerPlatform(DockerApi.opened(environment, where.docker.context), where, state, environment)
    raise Unsupported(f"platform {where.platform} cannot be drilled by this version; process, kubernetes and docker can")
