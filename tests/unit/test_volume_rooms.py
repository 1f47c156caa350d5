"""What a container or pod of ours with a target's volumes is made of."""

from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from blackstart.injectors.platforms.base import PlatformError, Target, Unsupported
from blackstart.injectors.platforms.docker_find import identity_of, mount_of
from blackstart.injectors.platforms.docker_helpers import Helpers
from blackstart.injectors.platforms.docker_rooms import VolumeRooms
from blackstart.injectors.platforms.kube_rooms import VolumePods
from blackstart.tests.unit.small_engine import Workshop, container
from blackstart.tests.unit.test_kube_gpu import Refusing

TARGET = Target("pod:models/llm-0@u", "llm-0", "replica", {"node": "n1", "container": "llm", "tolerations": []})
MODEL = {
    "Type": "volume",
    "Name": "models",
    "Source": "/var/lib/docker/volumes/models/_data",
    "Destination": "/models",
    "RW": True,
}
DEEPER = {"Type": "bind", "Source": "/srv/lora", "Destination": "/models/lora", "RW": False}
SOCKET = {"Type": "bind", "Source": "/var/run/docker.sock", "Destination": "/var/run/docker.sock", "RW": True}
SCRATCH = {"Type": "tmpfs", "Source": "", "Destination": "/scratch", "RW": True}


def asked(*paths: str) -> dict[str, Any]:
    return {"paths": list(paths), "delay_s": 1.0}


# --- Docker ---


@pytest.mark.parametrize(
    ("path", "found"), [("/models/a.gguf", MODEL), ("/models/lora/a", DEEPER), ("/scratch/a", SCRATCH), ("/modelsb/a", None)]
)
def test_what_holds_a_path_is_the_nearest_mount(path: str, found: object) -> None:
    assert mount_of({"Mounts": [MODEL, DEEPER, SOCKET, SCRATCH], "HostConfig": {}}, path) == found


def test_its_container_has_the_volumes_that_hold_the_files_and_no_others() -> None:
    engine = Workshop(container(Mounts=[MODEL, DEEPER, SOCKET, SCRATCH]))
    engine.found["tools%3A1"] = {}
    agents: Any = SimpleNamespace(begin=lambda *_: {"event": "effective"})
    site = VolumeRooms(engine, agents, Helpers(engine, "tools:1", Event()), lambda _: None)  # type: ignore[arg-type]
    target = Target(identity_of(engine.found["abc"]), "shop-llm-1", "replica")
    site.agent_begin("run.0", target, "slow-file", asked("/models/a", "/models/b", "/models/lora/c"), 60.0)
    (host,) = [each["HostConfig"] for number, each in engine.found.items() if number.startswith("blackstart-files")]
    assert host["Binds"] == ["models:/models:ro", "/srv/lora:/models/lora:ro"]
    assert (host["CapDrop"], host["CapAdd"], host["NetworkMode"]) == (["ALL"], ["SYS_ADMIN", "DAC_READ_SEARCH"], "none")
    assert "PidMode" not in host
    with pytest.raises(Unsupported, match=r"/app/model\.gguf lies on no volume or bind mount of shop-llm-1"):
        site.agent_begin("run.1", target, "slow-file", asked("/app/model.gguf"), 60.0)
    with pytest.raises(Unsupported, match=r"/scratch/a lies on no volume or bind mount of shop-llm-1"):
        site.agent_begin("run.1", target, "slow-file", asked("/scratch/a"), 60.0)
    del engine.found["abc"]
    with pytest.raises(PlatformError, match="is gone, and with it what tells which volumes it had"):
        site.agent_begin("run.2", target, "slow-file", asked("/models/a"), 60.0)


# --- Kubernetes ---


class Holding(Refusing):
    """One that has the target's pod as well."""

    purpose = "files"

    def __init__(self, pod: dict[str, Any]) -> None:
        super().__init__()
        self.pod = {"metadata": {"uid": "u", "name": "llm-0"}, **pod}

    def there(self, path: str) -> Any:
        return self.pod if path.endswith("/llm-0") else None


def mounted(volume: dict[str, Any], **mount: Any) -> dict[str, Any]:
    mounts = [
        {"name": "models", "mountPath": "/models", **mount},
        {"name": "logs", "mountPath": "/logs", "subPathExpr": "$(POD)"},
    ]
    spec = {"containers": [{"name": "llm", "volumeMounts": mounts}], "securityContext": {"seLinuxOptions": {"level": "s0:c1,c2"}}}
    return {"spec": {**spec, "volumes": [{"name": "models", **volume}, {"name": "logs", "emptyDir": {}}]}}


def site(api: Refusing) -> VolumePods:
    begin: Any = SimpleNamespace(begin=lambda *_: {"event": "effective"})
    finder: Any = SimpleNamespace(spec=SimpleNamespace(namespace="models"))
    return VolumePods(api, finder, begin, "tools:1", Event())  # type: ignore[arg-type]


CLAIM = {"persistentVolumeClaim": {"claimName": "models-0"}}


def test_its_pod_has_the_claim_that_holds_the_file_to_read_and_no_group_of_its_own() -> None:
    """A group would be written into the whole claim, and so would other labels of SELinux's."""
    api = Holding(mounted(CLAIM, subPath="tiny", mountPropagation="Bidirectional"))
    site(api).agent_begin("run.0", TARGET, "slow-file", asked("/models/a"), 60.0)
    spec = api.created[1][1]["spec"]["template"]["spec"]
    (pod,) = spec["containers"]
    assert (spec["nodeName"], spec.get("hostPID")) == ("n1", None)
    assert [each for each in spec["volumes"] if each["name"] != "tmp"] == [{"name": "models", **CLAIM}]
    assert pod["volumeMounts"][1:] == [{"name": "models", "mountPath": "/models", "subPath": "tiny", "readOnly": True}]
    rights = pod["securityContext"]
    assert rights["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN", "DAC_READ_SEARCH"]}
    assert (rights["runAsUser"], rights["seLinuxOptions"]) == (0, {"level": "s0:c1,c2"})
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize(
    ("pod", "path", "why"),
    [
        (mounted({"emptyDir": {}}), "/models/a", "lies in the target's emptyDir, which no other pod has"),
        (mounted({"csi": {"driver": "secrets"}}), "/models/a", "lies in the target's csi"),
        (mounted(CLAIM), "/app/a", "lies in the target's own layer"),
        (mounted(CLAIM, subPathExpr="$(POD)"), "/models/a", "/models is mounted by a `subPathExpr`"),
    ],
)
def test_a_file_that_no_other_pod_can_have_is_refused(pod: dict[str, Any], path: str, why: str) -> None:
    api = Holding(pod)
    with pytest.raises(Unsupported, match=why):
        site(api).agent_begin("run.0", TARGET, "slow-file", asked(path), 60.0)
    assert api.created == []
