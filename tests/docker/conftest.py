"""A real engine for the tests of this folder, and the demo service on it once, plain and then hardened, for all tests that drill it."""

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from blackstart.commands.demo_docker import contained
from blackstart.injectors.platforms.docker_api import DockerApi
from blackstart.tests.command import await_well
from blackstart.tests.demos import in_order, refuse
from blackstart.tests.docker import engine as engines
from blackstart.tests.docker.engine import IMAGE, SOCKET, Engine

OPEN = ExitStack()  # what stands until the last test of this folder is over


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that need no demo first, then those on the plain one, then those on the hardened one, all by one worker: there is one engine."""
    for item in in_order(items, Path(__file__).parent):
        item.add_marker(pytest.mark.xdist_group("docker"))


@pytest.hookimpl(trylast=True)  # after what single tests and modules have set up is away
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The engine ends with the last test of this folder: other tests measure on the same two cores."""
    del item
    if nextitem is None or nextitem.path.parent != Path(__file__).parent:
        OPEN.close()


@pytest.fixture(scope="session")
def engine() -> Engine:
    """What every command here uses."""
    if find_spec("docker") is None:
        refuse("the Docker SDK is not installed: pip install 'docker>=7.1,<8'")
    if why := engines.missing():
        refuse(why)
    one = OPEN.enter_context(engines.started())
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = f"unix://{SOCKET}"
    OPEN.callback(lambda: os.environ.pop("DOCKER_HOST") if before is None else os.environ.update(DOCKER_HOST=before))
    return one


@pytest.fixture(scope="session")
def api(engine: Engine) -> DockerApi:
    opened = engine.api()
    OPEN.callback(opened.close)
    return opened


@dataclass
class Stage:
    """The one demo that stands on the engine."""

    api: DockerApi
    kind: str = ""
    file: Path = Path()
    _close: ExitStack = field(default_factory=ExitStack)

    def showing(self, kind: str) -> Path:
        """The service file of that demo, which is well: also what an earlier drill has restarted is back."""
        if self.kind != kind:
            self.close()
            demo = contained(self.api, IMAGE, hardened=kind == "hardened", tell=print)
            self.file, self.kind = self._close.enter_context(demo), kind
        await_well(self.file)
        return self.file

    def close(self) -> None:
        self._close.close()
        self.kind = ""


@pytest.fixture(scope="session")
def stage(api: DockerApi) -> Stage:
    one = Stage(api)
    OPEN.callback(one.close)
    return one


@pytest.fixture
def plain_demo(stage: Stage) -> Path:
    return stage.showing("plain")


@pytest.fixture
def hardened_demo(stage: Stage) -> Path:
    return stage.showing("hardened")
