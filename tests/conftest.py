"""What all tests share: the installed command, and state and runtime folders of their own, so that no test sees a person's runs, nor they its."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blackstart.tests.accelerators import FakeAmd, FakeGpus, FakeOpenCl
from blackstart.tests.command import Blackstart


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For the whole session, before any service is started; child processes inherit them."""
    folder = tmp_path_factory.mktemp("state")
    before = {name: os.environ.get(name) for name in ("BLACKSTART_STATE_DIR", "BLACKSTART_RUNTIME_DIR")}
    os.environ["BLACKSTART_STATE_DIR"] = str(folder)
    os.environ["BLACKSTART_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("rt"))
    yield folder
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def blackstart(tmp_path: Path) -> Iterator[Blackstart]:
    command = Blackstart(tmp_path)
    yield command
    command.end()


@pytest.fixture
def amd(tmp_path: Path) -> Iterator[FakeAmd]:
    with closing(FakeAmd(tmp_path / "amd")) as found:
        yield found


@pytest.fixture
def opencl(tmp_path: Path) -> Iterator[FakeOpenCl]:
    with closing(FakeOpenCl(tmp_path / "opencl")) as found:
        yield found


@pytest.fixture(params=["fakes", "amd"])
def drivers(request: pytest.FixtureRequest) -> FakeGpus:
    """What holds for both that speak as CUDA does; `fakes` is the test file's own."""
    found: FakeGpus = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["fakes", "amd", "opencl"])
def gpus(request: pytest.FixtureRequest) -> FakeGpus:
    """What holds for every way to a GPU."""
    found: FakeGpus = request.getfixturevalue(request.param)
    return found
