"""Network namespaces of this machine, for tests of what is done inside one."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest


def refuse(why: str) -> NoReturn:
    """In CI a machine on which nothing could be proven is a failure."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def run(*command: Any, timeout: float = 30.0, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, **more)


def ip(lines: Iterable[str]) -> None:
    """What `ip` is told, line by line; without network namespaces the test is refused."""
    for line in lines:
        done = run("ip", *line.split())
        if done.returncode:
            refuse(f"no network namespaces here: ip {line}: {done.stderr.strip()}")


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Sockets that this thread makes meanwhile belong to that namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as here, Path("/run/netns", name).open("rb") as there:
        assert libc.setns(there.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(here.fileno(), 0) == 0
