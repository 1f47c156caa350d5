"""Platforms by name. Each adapter, with its client library, is imported only when it is used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .base import Platform, Unsupported
from .kubernetes_spec import KubernetesSpec
from .process_spec import ProcessSpec


@dataclass(frozen=True)
class Where:
    """What a service file says of where a service lives. `inside`: roles below a pod or container by command line."""

    platform: str
    folder: Path
    inside: Mapping[str, str]
    process: ProcessSpec | None = None
    kubernetes: KubernetesSpec | None = None


@contextmanager
def open_platform(where: Where, state: Path, environment: Mapping[str, str]) -> Iterator[Platform]:
    """The adapter, closed afterwards. Raises Unsupported where there is none."""
    platform = _opened(where, state, environment)
    try:
        yield platform
    finally:
        platform.close()


def _opened(where: Where, state: Path, environment: Mapping[str, str]) -> Platform:
    if where.platform == "process" and where.process:
        from .process import ProcessPlatform  # noqa: PLC0415 - adapters are imported when they are used

        return ProcessPlatform(where.process, where.folder, state, environment)
    if where.platform == "kubernetes" and where.kubernetes:
        from .kube_api import KubeApi  # noqa: PLC0415
        from .kubernetes import KubernetesPlatform  # noqa: PLC0415

        api = KubeApi.opened(environment, where.kubernetes.context)
        return KubernetesPlatform(api, where.kubernetes, where.inside)
    raise Unsupported(f"platform {where.platform} cannot be drilled by this version; process and kubernetes can")
