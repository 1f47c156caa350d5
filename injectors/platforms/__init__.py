"""Platforms by name. Each adapter, with its client library, is imported only when it is used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .base import Platform, Unsupported
from .process_spec import ProcessSpec


@contextmanager
def open_platform(
    name: str, process: ProcessSpec | None, folder: Path, state: Path, environment: Mapping[str, str]
) -> Iterator[Platform]:
    """The adapter for `platform: name`, closed afterwards. Raises Unsupported where there is none."""
    if name != "process" or process is None:
        raise Unsupported(f"platform {name} cannot be drilled by this version; platform process can")
    from .process import ProcessPlatform  # noqa: PLC0415 - adapters are imported when they are used

    platform = ProcessPlatform(process, folder, state, environment)
    try:
        yield platform
    finally:
        platform.close()
