"""A real cluster for the tests of this folder: the one that is named, one that runs, or one that is started for them."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from blackstart.injectors.platforms.base import PlatformError
from blackstart.injectors.platforms.kube_api import KubeApi, place

DEVKUBE = Path(__file__).parents[3] / "shared" / "kube" / "devkube"
KUBECONFIG = Path("/var/lib/devkube/kubeconfig")
PROGRAMS = ("containerd", "runc", "etcd", "nft", "iptables")
STARTED_S = 110


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


def refuse(why: str) -> None:
    """In CI a cluster that is missing is a failure: there the tests are what proves the platform."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@contextmanager
def started() -> Iterator[Path]:
    """devkube, for as long as the session lasts. Its state stays for the next one."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0 or not DEVKUBE.exists() or missing:
        refuse(
            "no cluster: name one in BLACKSTART_TEST_KUBECONFIG; devkube needs root, "
            f"{DEVKUBE} ({'there' if DEVKUBE.exists() else 'missing'}) and {', '.join(missing) or 'nothing else'}"
        )
    done = subprocess.run([DEVKUBE, "up"], capture_output=True, text=True, check=False, timeout=STARTED_S)
    try:
        if done.returncode:
            refuse(f"devkube did not start: {(done.stderr or done.stdout)[-2000:]}")
        yield KUBECONFIG
    finally:
        subprocess.run([DEVKUBE, "down"], capture_output=True, check=False, timeout=STARTED_S)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The kubeconfig of a cluster that answers."""
    if find_spec("kubernetes") is None:
        refuse("the Kubernetes client is not installed: pip install 'kubernetes>=35,<36'")
    if named := os.environ.get("BLACKSTART_TEST_KUBECONFIG"):
        wrong = answers(Path(named))
        if wrong:  # who names a cluster wants it tested
            pytest.fail(f"BLACKSTART_TEST_KUBECONFIG: {wrong}")
        yield Path(named)
    elif not answers(KUBECONFIG):
        yield KUBECONFIG
    else:
        with started() as kubeconfig:
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
