"""The demo's Kubernetes objects: what an API server and the restricted profile demand, and the same service as on processes."""

import base64
import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from blackstart.scenarios.demo import HERE
from blackstart.scenarios.demo.kubernetes import manifests, namespace_manifest, profile

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
NAMESPACE, IMAGE = "blackstart-demo-1a2b", "python:3.12-slim"
MIB = 2**20


def objects(*, hardened: bool = False, storage_class: str | None = None) -> dict[tuple[str, str], Any]:
    found = manifests(NAMESPACE, IMAGE, hardened=hardened, storage_class=storage_class)
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pods(found: dict[tuple[str, str], Any]) -> dict[str, Any]:
    return {name: each["spec"]["template"] for (kind, name), each in found.items() if kind == "StatefulSet"}


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_service_of_manifests", HERE / "service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_all_is_named_labelled_and_in_the_namespace() -> None:
    found = objects()
    assert {name for kind, name in found if kind == "StatefulSet"} == {"replica", "gateway", "store", "standby"}
    for (_, name), each in found.items():
        assert LABEL.fullmatch(name)
        assert each["metadata"]["namespace"] == NAMESPACE
        assert each["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "blackstart"
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "blackstart-demo"
    for name, pod in pods(found).items():
        assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == name
    assert len(json.dumps(found["ConfigMap", "code"])) < MIB


def test_services_select_pods_that_exist() -> None:
    found = objects()
    templates = pods(found)
    for (kind, name), each in found.items():
        if kind == "Service":
            wanted = each["spec"]["selector"].items()
            assert [role for role, pod in templates.items() if wanted <= pod["metadata"]["labels"].items()], name
    for role, pod in templates.items():
        spec = found["StatefulSet", role]["spec"]
        assert spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert role == "gateway" or found["Service", spec["serviceName"]]["spec"]["clusterIP"] == "None"
    assert found["Service", "demo"]["spec"]["type"] == "NodePort"


def test_a_drain_may_take_one_replica_at_a_time() -> None:
    found = objects()
    spec = found["PodDisruptionBudget", "replica"]["spec"]
    assert spec["maxUnavailable"] == 1
    covered = spec["selector"]["matchLabels"].items()
    assert [role for role, pod in pods(found).items() if covered <= pod["metadata"]["labels"].items()] == ["replica"]


@pytest.mark.parametrize("storage_class", [None, "fast"])
def test_pods_keep_to_the_restricted_profile(storage_class: str | None) -> None:
    for pod in pods(objects(storage_class=storage_class)).values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(set(volume) <= {"name", "emptyDir", "configMap"} for volume in spec["volumes"])
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            locked = container["securityContext"]
            assert locked["allowPrivilegeEscalation"] is False
            assert locked["readOnlyRootFilesystem"] is True
            assert locked["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    for privileged, enforced in ((False, "restricted"), (True, "privileged")):
        told = namespace_manifest(NAMESPACE, "", privileged=privileged)["metadata"]["labels"]
        assert told["pod-security.kubernetes.io/enforce"] == enforced


def test_every_mount_has_its_volume() -> None:
    for storage_class in (None, "fast"):
        found = objects(storage_class=storage_class)
        for role, pod in pods(found).items():
            claims = found["StatefulSet", role]["spec"].get("volumeClaimTemplates", ())
            volumes = {each["name"] for each in pod["spec"]["volumes"]} | {each["metadata"]["name"] for each in claims}
            for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]:
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert bool(found["StatefulSet", "replica"]["spec"].get("volumeClaimTemplates")) == (storage_class is not None)


def test_the_code_is_complete(program: ModuleType) -> None:
    code = objects()["ConfigMap", "code"]
    assert code["data"]["service.py"] == (HERE / "service.py").read_text()
    files = {name: base64.b64decode(content) for name, content in code["binaryData"].items()}
    assert set(files) == {*program.MODEL_FILES, program.STALE_FILE, "manifest.json"}
    assert all(files[name] == (HERE / name).read_bytes() for name in files)


@pytest.mark.parametrize("hardened", [False, True])
def test_each_role_runs_as_on_processes(program: ModuleType, tmp_path: Path, hardened: bool) -> None:
    """Whatever decides a verdict - costs, limits, flaws - equals what the supervisor of the local service gives that role."""
    flags = ["--hardened"] if hardened else []
    supervisor = program.Supervisor(program.settings_from(["serve", "--folder", str(tmp_path), *flags]))
    supervisor.assign_ports()
    supervisor.describe()
    for held in supervisor.reserved:
        held.close()
    local = {child.name: child.command for child in supervisor.children}
    for role, pod in pods(objects(hardened=hardened)).items():
        command = pod["spec"]["containers"][0]["command"]
        names = {"replica": "r0"}
        theirs = settings(program, local[names.get(role, role)])
        ours = settings(program, [word.replace("$(POD)", f"{role}-0") for word in command])
        placed = {"name", "host", "port", "folder", "package", "oracle", "tied", "backends", "stores", "peer"}
        assert {key: ours[key] for key in ours if key not in placed} == {key: theirs[key] for key in theirs if key not in placed}
        for key in ("backends", "stores"):
            assert len(ours[key]) == len(theirs[key])
        assert (ours["peer"] is None) == (theirs["peer"] is None)


def settings(program: ModuleType, command: list[str]) -> dict[str, Any]:
    at = next(number for number, word in enumerate(command) if word.endswith("service.py"))
    return dataclasses.asdict(program.settings_from(command[at + 1 :]))


def test_the_gateway_knows_its_peers_by_the_names_of_their_pods(program: ModuleType) -> None:
    found = objects()
    (gateway,) = pods(found)["gateway"]["spec"]["containers"]
    known = settings(program, gateway["command"])
    assert known["backends"] == (("replica-0", ("replica-0.replica", 8000)), ("replica-1", ("replica-1.replica", 8000)))
    assert known["stores"] == (("store", ("store-0.store", 8000)), ("standby", ("standby-0.standby", 8000)))


def test_the_profile_names_what_was_deployed() -> None:
    text = profile(NAMESPACE, "http://198.51.100.7:30080", "python:3.12", hardened=True, context="lab")
    said = json.loads(text)
    found = objects(hardened=True)
    named = [said["kubernetes"]["workload"], *(each["workload"] for each in said["kubernetes"]["components"])]
    assert {("StatefulSet", name.removeprefix("statefulset/")) for name in named} <= found.keys()
    assert said["kubernetes"]["namespace"] == NAMESPACE
    assert said["model"]["load"] == "at-start"
    assert (
        json.loads(profile(NAMESPACE, "http://x", "python:3.12", hardened=False, context=None))["kubernetes"].get("context")
        is None
    )
