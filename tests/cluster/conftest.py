"""A real cluster for the tests of this folder: the one that is named, one that runs, or one that is started for them.

The demo service stands in it once, plain and then hardened, for all tests that drill it and leave it as it was. Tests that keep to a
namespace run two at once, in groups of what they share; those of the `whole_cluster` one after another, while no other test of it runs.
"""

import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from blackstart.commands.demo_kubernetes import Given, deployed
from blackstart.injectors.platforms.base import PlatformError
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.tests.cluster.steps import DEVKUBE, namespace_of, stands
from blackstart.tests.command import await_well, until
from blackstart.tests.demos import demo_of, in_order, refuse

KUBECONFIG = Path("/var/lib/devkube/kubeconfig")
PROGRAMS = ("containerd", "runc", "etcd", "nft", "iptables")
STARTED_S = 110


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that need no demo first, then those on the plain one, then those on the hardened one."""
    for item in in_order(items, Path(__file__).parent):
        if item.get_closest_marker("whole_cluster"):
            item.add_marker(pytest.mark.xdist_group("whole_cluster"))
        elif not item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.namespaced)
            item.add_marker(pytest.mark.xdist_group(demo_of(item) or item.path.stem))


def answers(kubeconfig: Path) -> str:
    """What is wrong with that cluster; empty when it answers."""
    if not kubeconfig.exists():
        return f"{kubeconfig} does not exist"
    try:
        api = KubeApi.opened({"KUBECONFIG": str(kubeconfig)})
        api.get(place("namespaces", name="kube-system"))
        api.close()
    except PlatformError as error:
        return str(error)
    return ""


@contextmanager
def counted(file: Path) -> Iterator[list[int]]:
    """How many of the processes that run these tests use what they have started; one at a time looks and changes it."""
    with file.open("a+", encoding="utf-8") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        opened.seek(0)
        users = [int(opened.read() or 0)]
        yield users
        opened.truncate(0)
        opened.write(str(users[0]))


@contextmanager
def used(file: Path) -> Iterator[Path]:
    """The cluster that runs here, or devkube for as long as one of the processes uses it. Its state stays for the next session."""
    with counted(file) as users:
        theirs = not users[0] and not answers(KUBECONFIG)
        if not theirs and not users[0]:
            start()
        users[0] += not theirs
    try:
        yield KUBECONFIG
    finally:
        with counted(file) as users:
            users[0] -= not theirs
            if not theirs and not users[0]:
                subprocess.run([DEVKUBE, "down"], capture_output=True, check=False, timeout=STARTED_S)


def start() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0 or not DEVKUBE.exists() or missing:
        refuse(
            "no cluster: name one in BLACKSTART_TEST_KUBECONFIG; devkube needs root, "
            f"{DEVKUBE} ({'there' if DEVKUBE.exists() else 'missing'}) and {', '.join(missing) or 'nothing else'}"
        )
    done = subprocess.run([DEVKUBE, "up"], capture_output=True, text=True, check=False, timeout=STARTED_S)
    if done.returncode:
        subprocess.run([DEVKUBE, "down"], capture_output=True, check=False, timeout=STARTED_S)
        refuse(f"devkube did not start: {(done.stderr or done.stdout)[-2000:]}")
    remove_leftovers()


def remove_leftovers() -> None:
    """The namespaces of a session that was killed: their pods would be on the nodes that are cut off. Nothing else uses a devkube that
    was down.
    """
    api = KubeApi.opened({"KUBECONFIG": str(KUBECONFIG)})
    for name in left_in(api):
        api.delete(place("namespaces", name=name))
    until("the namespaces of an earlier session to be gone", lambda: not left_in(api), STARTED_S)
    api.close()


def left_in(api: KubeApi) -> list[str]:
    names = [str(each["metadata"]["name"]) for each in api.items(place("namespaces"))[0]]
    return [name for name in names if name.startswith("blackstart-")]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kubeconfig of a cluster that answers, which is what every command here uses."""
    before = os.environ.get("KUBECONFIG")
    base = tmp_path_factory.getbasetemp()
    with there((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "devkube-users") as kubeconfig:
        os.environ["KUBECONFIG"] = str(kubeconfig)
        yield kubeconfig
        os.environ.pop("KUBECONFIG") if before is None else os.environ.update(KUBECONFIG=before)


@contextmanager
def there(users: Path) -> Iterator[Path]:
    """The kubeconfig of the first of the three that there is."""
    if find_spec("kubernetes") is None:
        refuse("the Kubernetes client is not installed: pip install 'kubernetes>=35,<36'")
    if named := os.environ.get("BLACKSTART_TEST_KUBECONFIG"):
        wrong = answers(Path(named))
        if wrong:  # who names a cluster wants it tested
            pytest.fail(f"BLACKSTART_TEST_KUBECONFIG: {wrong}")
        yield Path(named)
    else:
        with used(users) as kubeconfig:
            yield kubeconfig


@pytest.fixture(scope="session")
def api(cluster: Path) -> Iterator[KubeApi]:
    opened = KubeApi.opened({"KUBECONFIG": str(cluster)})
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def image(api: KubeApi) -> str:
    """An image with python3 that the nodes have, or can pull."""
    return os.environ.get("BLACKSTART_TEST_IMAGE") or ("devkube/python:3.11" if api.context == "devkube" else "python:3.12-slim")


@pytest.fixture
def storage_class(api: KubeApi, tmp_path: Path) -> Iterator[str]:
    with volumes_of(api, tmp_path) as name:
        yield name


@contextmanager
def volumes_of(api: KubeApi, place_: Path) -> Iterator[str]:
    """A class whose claims outlive pods. devkube has no provisioner, so here folders of this machine, which its nodes share, are volumes."""
    classes, volumes = place("storageclasses", group="storage.k8s.io/v1"), place("persistentvolumes")
    if api.context != "devkube":
        mark = "storageclass.kubernetes.io/is-default-class"
        marked = [each for each in api.items(classes)[0] if each["metadata"].get("annotations", {}).get(mark) == "true"]
        if not marked:
            pytest.skip("this cluster has no default storage class")
        yield marked[0]["metadata"]["name"]
        return
    name = f"blackstart-test-{secrets.token_hex(2)}"
    kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
    api.create(classes, {**kind, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"})
    names = [f"{name}-{number}" for number in range(2)]
    for each in names:
        folder = place_ / each
        folder.mkdir()
        folder.chmod(0o777)
        spec = {"capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": name}
        spec |= {"persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": str(folder)}}
        api.create(volumes, {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": each}, "spec": spec})
    yield name
    for each in names:
        api.delete(place("persistentvolumes", name=each))
    api.delete(place("storageclasses", name=name, group="storage.k8s.io/v1"))


@dataclass
class Stage:
    """The one demo that stands in the cluster."""

    api: KubeApi
    image: str
    place: Path
    kind: str = ""
    file: Path = Path()
    _close: ExitStack = field(default_factory=ExitStack)

    def showing(self, kind: str) -> Path:
        """The service file of that demo, which is well: also what an earlier drill has replaced is back."""
        if self.kind != kind:
            self.close()
            classes = self._close.enter_context(volumes_of(self.api, self.place))
            self.file = self._close.enter_context(
                deployed(self.api, self.image, hardened=kind == "hardened", tell=print, given=Given(storage_class=classes))
            )
            self.kind = kind
        until("the demo's pods to be ready", self.stands, 120)
        await_well(self.file)
        return self.file

    def close(self) -> None:
        self._close.close()
        self.kind = ""

    def stands(self) -> bool:
        pods = self.api.items(place("pods", namespace_of(self.file)), labels="app.kubernetes.io/part-of=blackstart-demo")[0]
        return all(map(stands, pods))


@pytest.fixture(scope="session")
def stage(api: KubeApi, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    one = Stage(api, image, tmp_path_factory.mktemp("volumes"))
    yield one
    one.close()


@pytest.fixture
def plain_demo(stage: Stage) -> Path:
    return stage.showing("plain")


@pytest.fixture
def hardened_demo(stage: Stage) -> Path:
    return stage.showing("hardened")
