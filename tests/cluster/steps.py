"""What the tests on a cluster do, and what they look for."""

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_outpost import MARK, name_of
from blackstart.injectors.platforms.kube_pods import is_ending, ready
from blackstart.tests.command import Blackstart, Done, another_machine, events, until

DEVKUBE = Path(__file__).parents[3] / "shared" / "kube" / "devkube"
NETWORKING, RBAC = "networking.k8s.io/v1", "rbac.authorization.k8s.io/v1"
OURS = "app.kubernetes.io/managed-by=blackstart,app.kubernetes.io/part-of!=blackstart-demo"
OF_OURS = (
    ("configmaps", ""),
    ("pods", ""),
    ("secrets", ""),
    ("serviceaccounts", ""),
    ("leases", "coordination.k8s.io/v1"),
    ("jobs", "batch/v1"),
    ("roles", RBAC),
    ("rolebindings", RBAC),
    ("networkpolicies", NETWORKING),
)
SHORT = ("--set", "steady_state.hold=4s", "--set", "settle=4s", "--set", "observe=40s")  # of a shipped scenario
# That a path is silent takes seconds to prove, before the fault counts and again before it is undone: no service could meet 20 s.
HEAD = (
    "apiVersion: blackstart/v1\nkind: Scenario\nname: {name}\nobjectives: {{rto: 40s}}\nsteady_state: {{hold: 3s}}\n"
    "settle: 2s\nobserve: {observe}\nblast_radius: {{share: 100%}}\nfaults:\n  - {fault}\n"
)


def namespace_of(service: Path) -> str:
    return str(json.loads(service.read_text(encoding="utf-8"))["kubernetes"]["namespace"])


def stands(pod: dict[str, Any]) -> bool:
    return ready(pod) and not is_ending(pod)


def kind_of(fault: str) -> str:
    return fault.partition("kind: ")[2].partition(",")[0].rstrip("}")


def scenario(blackstart: Blackstart, fault: str, observe: str = "60s") -> Path:
    path = blackstart.folder / f"{kind_of(fault)}.yaml"
    path.write_text(HEAD.format(name=kind_of(fault), fault=fault, observe=observe), encoding="utf-8")
    return path


def in_fault(blackstart: Blackstart, service: Path, fault: str, number: int = 1, observe: str = "60s") -> Any:
    return blackstart.in_fault(scenario(blackstart, fault, observe), service, number, 120)


def drilled(blackstart: Blackstart, service: Path, fault: str, *words: str, **environment: str) -> Done:
    return blackstart.telling(
        "run", scenario(blackstart, fault), "--service", service, "--yes", *words, within_s=170, **environment
    )


def everything_ours(api: KubeApi, service: Path) -> list[str]:
    """All that blackstart has made around that service: also what a guard is made of, and what lies in no namespace."""
    namespace, found = namespace_of(service), []
    for resource, group in OF_OURS:
        items, _ = api.items(place(resource, namespace, group=group), labels=OURS)
        found += [f"{resource}: {each['metadata']['name']}" for each in items]
    for each in api.items(place("clusterrolebindings", group=RBAC), labels=OURS)[0]:
        if any(subject.get("namespace") == namespace for subject in each["subjects"]):
            found.append(f"clusterrolebindings: {each['metadata']['name']}")
    return found


def recovered_elsewhere(blackstart: Blackstart, api: KubeApi, service: Path, run: Path, *faults: str) -> None:
    """`recover` from another machine undoes all of these faults of a killed drill, and leaves nothing of ours."""
    with another_machine(blackstart.folder) as second:
        done = second("recover", run.name, within_s=170)
        assert done.code == 0, done.out + done.err
        for fault in faults:
            assert f"{kind_of(fault)}: undone" in done.out
        assert events(second.runs / run.name).count("undo-verified") == len(faults)
    assert everything_ours(api, service) == []
    assert blackstart("recover", run.name).code == 0  # this machine's own record of it


def login(api: KubeApi, namespace: str, role: dict, folder: Path) -> Path:
    """A kubeconfig whose user is a service account with that role and nothing else."""
    name = role["metadata"]["name"]
    api.create(place("serviceaccounts", namespace), {"metadata": {"name": name}})
    api.create(place("roles", namespace, "", RBAC), role)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    about = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    api.create(place("rolebindings", namespace, "", RBAC), {"metadata": {"name": name}, "roleRef": about, "subjects": [subject]})
    token = api.create(place("serviceaccounts", namespace, name, "", "token"), {"spec": {}})["status"]["token"]
    authority = base64.b64encode(Path(api.configuration.ssl_ca_cert).read_bytes()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": api.context,
        "contexts": [{"name": api.context, "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
        "clusters": [{"name": "c", "cluster": {"server": api.server, "certificate-authority-data": authority}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path = folder / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@contextmanager
def everywhere(api: KubeApi, role: dict[str, Any], namespace: str) -> Iterator[None]:
    """The part of the rights that reaches beyond the namespace, for an account of the same name."""
    name = role["metadata"]["name"]
    about = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    api.create(place("clusterroles", group=RBAC), role)
    binding = {"metadata": {"name": name}, "roleRef": about, "subjects": [subject]}
    api.create(place("clusterrolebindings", group=RBAC), binding)
    try:
        yield
    finally:
        api.delete(place("clusterrolebindings", name=name, group=RBAC))
        api.delete(place("clusterroles", name=name, group=RBAC))


def nodes(api: KubeApi) -> list[dict[str, Any]]:
    return api.items(place("nodes"))[0]


def written(service: Path, folder: Path, probe: dict[str, Any]) -> Path:
    """The demo's service file, which names it by its Service in the cluster, with that `probe`."""
    profile = json.loads(service.read_text(encoding="utf-8"))
    profile["endpoint"] = {"service": "demo", "port": 8000, "protocol": "openai", "model": "demo"}
    path = folder / "within.yaml"
    path.write_text(json.dumps({**profile, "probe": probe}), encoding="utf-8")
    return path


def pods(api: KubeApi, namespace: str, run: str) -> list[Any]:
    return api.items(place("pods", namespace), labels=f"{MARK}={name_of(run)}")[0]


def phases(api: KubeApi, namespace: str, run: str) -> list[str]:
    return [pod["status"]["phase"] for pod in pods(api, namespace, run)]


WALL_S = 2e-3  # and what lies between reading the one clock and the other


def wall_of_zero(folder: Path) -> float:
    """UNIX time at second 0 of the drill's clock, by its journal, which writes whole milliseconds: up to WALL_S too early."""
    first = json.loads((folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()[0])
    return datetime.fromisoformat(first["wall"]).timestamp() - first["t_s"]


def server_away(api: KubeApi, seconds: float) -> None:
    """The API server answers nobody for so long."""
    if api.context != "devkube":
        pytest.skip("only devkube's API server can be stopped")
    status = subprocess.run([DEVKUBE, "status"], capture_output=True, text=True, check=True).stdout
    server = int(re.findall(r"kube-apiserver\s+(\d+)", status)[0])
    since = time.monotonic()
    os.kill(server, signal.SIGSTOP)
    try:
        until(f"{seconds} s to be over", lambda: time.monotonic() > since + seconds, seconds + 10)
    finally:
        os.kill(server, signal.SIGCONT)
