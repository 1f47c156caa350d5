"""Who has the volume of a service's files and is no part of it: by what a cluster and an engine say of pods and containers."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from blackstart.injectors.base import Refusal
from blackstart.injectors.platforms import docker_sharers, kube_sharers
from blackstart.injectors.platforms.base import PlatformError, Target
from blackstart.injectors.platforms.docker_find import Finder as EngineFinder
from blackstart.injectors.platforms.docker_find import identity_of
from blackstart.injectors.platforms.docker_spec import DockerSpec, Part
from blackstart.injectors.platforms.kube_api import Forbidden
from blackstart.injectors.platforms.kube_find import Finder
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec
from blackstart.injectors.strangers import refuse_strangers
from blackstart.tests.unit.small_engine import Engine, container

FILE = "/models/tiny/a.gguf"

# --- Kubernetes ---

LLM = Target("pod:models/llm-x@uid-llm-x", "llm-0", "replica", {"container": "c"})
CLAIM = {"persistentVolumeClaim": {"claimName": "shared"}}
SCRATCH = {"ephemeral": {"volumeClaimTemplate": {}}}
OURS = {"app.kubernetes.io/managed-by": "blackstart"}
DEMO = {"app.kubernetes.io/part-of": "blackstart-demo"}


def pod(name: str, volume: dict[str, Any], owner: str = "another", kind: str = "containers", **mount: Any) -> dict[str, Any]:
    """That runs on node n1, with one volume, which lies at /models in one container."""
    owners = [{"uid": owner, "controller": True}]
    main = {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/models", **mount}]}
    spec: dict[str, Any] = {"nodeName": "n1", "containers": [{"name": "other"}], "volumes": [{"name": "v", **volume}]}
    spec[kind] = [main, *(spec["containers"] if kind == "containers" else [])]
    meta = {"name": name, "uid": f"uid-{name}", "namespace": "models", "labels": {}, "ownerReferences": owners}
    return {"metadata": meta, "spec": spec, "status": {"phase": "Running"}}


def llm(volume: dict[str, Any], **mount: Any) -> dict[str, Any]:
    """The service's one pod."""
    return pod("llm-x", volume, "set", **mount)


class Cluster:
    """With a Deployment, the ReplicaSets of its two versions, and these pods."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.pods = pods

    def get(self, path: str) -> Any:
        assert path == "/apis/apps/v1/namespaces/models/deployments/llm"
        return {"metadata": {"uid": "deployment"}, "spec": {"selector": {"matchLabels": {"app": "llm"}}}}

    def there(self, path: str) -> Any:
        return next((each for each in self.pods if path.endswith(f"/pods/{each['metadata']['name']}")), None)

    def items(self, path: str, labels: str = "") -> Any:
        if path.endswith("/replicasets"):
            owners = [{"uid": "deployment", "controller": True}]
            return [{"metadata": {"uid": uid, "ownerReferences": owners}} for uid in ("set", "old-set")], ""
        assert (path, labels) == ("/api/v1/namespaces/models/pods", "")
        return list(self.pods), ""


def who_has(path: str, *pods: dict[str, Any]) -> str:
    finder = Finder(Cluster(*pods), KubernetesSpec("models", "deployment/llm"))  # type: ignore[arg-type]
    return kube_sharers.strangers(finder, [(LLM, path)])


def test_a_pod_of_somebody_else_that_has_the_claim_is_named() -> None:
    told = who_has(FILE, llm(CLAIM), pod("trainer-0", CLAIM))
    assert told == "pod trainer-0 has claim shared, and so /models/tiny/a.gguf of llm-0"
    assert who_has(FILE, llm(CLAIM), pod("loader", CLAIM, kind="initContainers")).startswith("pod loader has claim shared")
    assert who_has(FILE, llm(CLAIM), pod("reader", CLAIM, readOnly=True)).startswith("pod reader has claim shared")
    assert who_has(FILE, llm(SCRATCH), pod("thief", {"persistentVolumeClaim": {"claimName": "llm-x-v"}})).startswith("pod thief")


def changed(each: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    change(each)
    return each


@pytest.mark.parametrize(
    "other",
    [
        pod("llm-y", CLAIM, "set"),
        pod("llm-old", CLAIM, "old-set"),
        pod("elsewhere", {"persistentVolumeClaim": {"claimName": "other"}}),
        pod("scratch", {"emptyDir": {}}),
        changed(pod("done", CLAIM), lambda each: each["status"].update(phase="Succeeded")),
        changed(pod("blackstart-files", CLAIM), lambda each: each["metadata"]["labels"].update(OURS)),
    ],
    ids=lambda each: each["metadata"]["name"],
)
def test_who_has_nothing_of_it_is_no_stranger(other: dict[str, Any]) -> None:
    assert who_has(FILE, llm(CLAIM), other) == ""
    assert who_has(FILE, llm({"emptyDir": {}}), other) == ""
    assert who_has("/app/a.gguf", llm(CLAIM), pod("trainer-0", CLAIM)) == ""


def test_one_that_is_being_deleted_still_runs_and_a_demo_is_a_service_like_others() -> None:
    ending = changed(pod("ending", CLAIM), lambda each: each["metadata"].update(deletionTimestamp="2026-11-27T00:00:00Z"))
    assert who_has(FILE, llm(CLAIM), ending).startswith("pod ending has")
    demo = changed(pod("replica-0", CLAIM), lambda each: each["metadata"]["labels"].update(OURS, **DEMO))
    assert who_has(FILE, llm(CLAIM), demo).startswith("pod replica-0 has")


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [
        ({}, {"subPath": "tiny"}, True),
        ({}, {"subPath": "tiny/"}, True),
        ({}, {"subPath": "large"}, False),
        ({}, {"subPath": "tin"}, False),
        ({"subPath": "a"}, {"subPath": "b"}, False),
        ({"subPath": "a"}, {"subPath": "a/tiny"}, True),
        ({"subPath": "a"}, {}, True),
        ({}, {"subPathExpr": "$(POD)"}, True),
        ({"subPathExpr": "$(POD)"}, {"subPath": "b"}, True),
    ],
)
def test_a_claim_that_is_divided_by_paths(mine: dict[str, Any], theirs: dict[str, Any], shared: bool) -> None:
    assert bool(who_has(FILE, llm(CLAIM, **mine), pod("other", CLAIM, **theirs))) is shared


@pytest.mark.parametrize(
    ("path", "node", "shared"),
    [
        ("/srv/models", "n1", True),
        ("/srv/", "n1", True),
        ("/", "n1", True),
        ("/srv/models/tiny", "n1", True),
        ("/srv/models/large", "n1", False),
        ("/srv/mod", "n1", False),
        ("/srv/models", "n2", False),
    ],
)
def test_a_folder_of_a_node(path: str, node: str, shared: bool) -> None:
    other = changed(pod("other", {"hostPath": {"path": path}}), lambda each: each["spec"].update(nodeName=node))
    told = who_has(FILE, llm({"hostPath": {"path": "/srv/models"}}), other)
    assert told.startswith("pod other has the disk of node n1") is shared
    assert bool(told) is shared


def test_a_cache_of_which_somebody_has_a_part() -> None:
    other = pod("other", CLAIM, subPath="cache/hub")
    assert who_has("/models/cache", llm(CLAIM), other) == "pod other has claim shared (/cache/hub), and so /models/cache of llm-0"


def test_shares_of_a_server_are_told_by_their_paths_and_other_volumes_by_all_that_is_said_of_them() -> None:
    mine = llm({"nfs": {"server": "nas", "path": "/exports/models"}})
    assert who_has(FILE, mine, pod("other", {"nfs": {"server": "nas", "path": "/exports", "readOnly": True}}))
    assert not who_has(FILE, mine, pod("other", {"nfs": {"server": "nas2", "path": "/exports"}}))
    mine = llm({"cephfs": {"monitors": ["m"], "path": "/a"}})
    assert who_has(FILE, mine, pod("other", {"cephfs": {"monitors": ["m"], "path": "/a", "readOnly": True}}))
    assert not who_has(FILE, mine, pod("other", {"cephfs": {"monitors": ["m"], "path": "/b"}}))


# --- Docker ---

VOLUME = {
    "Type": "volume",
    "Name": "shared",
    "Source": "/var/lib/docker/volumes/shared/_data",
    "Destination": "/models",
    "RW": True,
}
REPLICA = Target(identity_of(container()), "shop-llm-1", "replica")


def bind(source: str, to: str = "/models") -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Destination": to, "RW": False}


class Named(Engine):
    """Lists by name, as an engine does."""

    def get(self, path: str, **query: Any) -> Any:
        names = query.get("filters", {}).get("name")
        return [each for each in super().get(path, **query) if not names or f"^{each['Names'][0]}$" in names]


def who_mounts(path: str, mine: dict[str, Any], theirs: dict[str, Any], *parts: Part, **about: Any) -> str:
    spec = DockerSpec(containers=("shop-llm-1",), components=parts)
    other = container(**{"Id": "def", "Name": "/trainer", "Mounts": [theirs], **about})
    engine: Any = Named(container(Mounts=[mine]), other)
    return docker_sharers.strangers(EngineFinder(engine, spec, lambda _: True), [(REPLICA, path)])


def test_a_container_of_somebody_else_that_has_the_volume_is_named() -> None:
    told = who_mounts(FILE, VOLUME, {**VOLUME, "Destination": "/data"})
    assert told == "container trainer has volume shared, and so /models/tiny/a.gguf of shop-llm-1"
    paused = {**container()["State"], "Paused": True}
    assert who_mounts(FILE, VOLUME, VOLUME, State=paused).startswith("container trainer has volume shared")


def test_who_does_not_run_is_of_the_service_or_is_ours_is_no_stranger() -> None:
    labels = {**container()["Config"], "Labels": {"blackstart": "files"}}
    for about in ({"State": {**container()["State"], "Running": False}}, {"Config": labels}):
        assert who_mounts(FILE, VOLUME, VOLUME, **about) == ""
    assert who_mounts(FILE, VOLUME, VOLUME, Part("trainer", containers=("trainer",))) == ""
    assert who_mounts("/app/a.gguf", VOLUME, VOLUME) == ""


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [
        (VOLUME, {**VOLUME, "Name": "other", "Source": "/var/lib/docker/volumes/other/_data"}, False),
        (VOLUME, {**VOLUME, "Name": "other", "Source": ""}, False),
        (VOLUME, bind("/var/lib/docker/volumes/shared/_data/tiny"), True),
        (VOLUME, bind("/var/lib/docker/volumes/shared/_data/large"), False),
        (VOLUME, bind("/var/lib/docker"), False),  # who watches the machine has it
        (bind("/srv/models"), bind("/srv/models", "/data"), True),
        (bind("/srv/models"), bind("/srv/models/"), True),
        (bind("/srv/models"), bind("/srv"), True),
        (bind("/srv/models"), bind("/"), True),
        (bind("/srv/models"), bind("/srv/models/tiny/a.gguf", "/a.gguf"), True),
        (bind("/srv/models"), bind("/srv/models/large"), False),
        (bind("/srv/models"), bind("/srv/mod"), False),
        (bind("/srv/models"), {"Type": "tmpfs", "Source": "", "Destination": "/models", "RW": True}, False),
        ({"Type": "tmpfs", "Source": "", "Destination": "/models", "RW": True}, bind("/"), False),
    ],
)
def test_folders_of_the_engines_machine(mine: dict[str, Any], theirs: dict[str, Any], shared: bool) -> None:
    assert who_mounts(FILE, mine, theirs).startswith("container trainer has") is shared


# --- what is made of it ---


def asked(answer: Callable[[Sequence[tuple[Target, str]]], str]) -> None:
    platform: Any = SimpleNamespace(strangers=answer)
    refuse_strangers([(REPLICA, FILE)], platform)


def test_a_stranger_is_a_refusal_and_so_is_a_platform_that_cannot_tell() -> None:
    asked(lambda _: "")
    with pytest.raises(Refusal, match=r"^not injecting: pod a has claim b, and is no part of this service: .*; name it among"):
        asked(lambda _: "pod a has claim b")

    def forbidden(_files: object) -> str:
        raise Forbidden("GET /api/v1/namespaces/models/pods: 403 Forbidden: no", 403, "Forbidden")

    with pytest.raises(Refusal, match=r"^not injecting: who else has the volume of /models/tiny/a\.gguf cannot be told: .*403"):
        asked(forbidden)


def test_a_target_that_is_gone_cannot_tell_what_it_had() -> None:
    with pytest.raises(PlatformError, match=r"llm-0 .* is gone"):
        who_has(FILE, pod("trainer-0", CLAIM))
