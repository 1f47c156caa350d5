"""Drills measured from a pod beside the service: the same verdicts, no sample lost to a cut connection, nothing left."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blackstart.commands.demo_kubernetes import deployed
from blackstart.drills.measure.prober import RECORD
from blackstart.drills.measure.samples import read_samples
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_exec import Container, opened
from blackstart.injectors.platforms.kube_outpost import MARK, name_of
from blackstart.tests.cluster.conftest import DEVKUBE
from blackstart.tests.cluster.test_rights import login
from blackstart.tests.command import Blackstart, await_well, events, kill_quietly, until

SHORT = ("--set", "steady_state.hold=4s", "--set", "settle=4s", "--set", "observe=40s")
MEANWHILE = (
    "apiVersion: blackstart/v1\nkind: Scenario\nname: meanwhile\nobjectives: {rto: 60s}\nsteady_state: {hold: 5s}\nsettle: 3s\n"
    "observe: 60s\nfaults:\n  - {kind: process-hang, role: engine, target: {names: [replica-0]}, for: 30s}\n"
)
CUT = (
    "import glob,os,signal\n"
    "for each in glob.glob('/proc/[0-9]*/cmdline'):\n"
    "    if b'outpost.py\\0reach' in open(each,'rb').read(): os.kill(int(each.split('/')[2]), signal.SIGKILL); print('cut')"
)


@pytest.fixture(scope="module")
def service(api: KubeApi, cluster: Path, image: str) -> Iterator[Path]:
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(cluster)
    with deployed(api, image, hardened=True, tell=print) as file:
        yield file
    os.environ.pop("KUBECONFIG") if before is None else os.environ.update(KUBECONFIG=before)


@pytest.fixture
def within(service: Path, blackstart: Blackstart, image: str) -> Path:
    """The same service, asked by its name in the cluster from a pod in its namespace."""
    await_well(service)
    return written(service, blackstart.folder, {"rate": "30/s", "from": "in-cluster", "image": image})


def written(service: Path, folder: Path, probe: dict[str, Any]) -> Path:
    profile = json.loads(service.read_text(encoding="utf-8"))
    profile["endpoint"] = {"service": "demo", "port": 8000, "protocol": "openai", "model": "demo"}
    path = folder / "within.yaml"
    path.write_text(json.dumps({**profile, "probe": probe}), encoding="utf-8")
    return path


def namespace_of(service: Path) -> str:
    return str(json.loads(service.read_text(encoding="utf-8"))["kubernetes"]["namespace"])


def left(api: KubeApi, namespace: str) -> list[str]:
    """What blackstart has in that namespace, apart from the demo service itself."""
    ours = "app.kubernetes.io/managed-by=blackstart,app.kubernetes.io/part-of!=blackstart-demo"
    kinds = (("configmaps", ""), ("pods", ""), ("leases", "coordination.k8s.io/v1"), ("jobs", "batch/v1"))
    return [
        f"{kind}: {each['metadata']['name']}"
        for kind, group in kinds
        for each in api.items(place(kind, namespace, "", group), labels=ours)[0]
    ]


def pods(api: KubeApi, namespace: str, run: str) -> list[Any]:
    return api.items(place("pods", namespace), labels=f"{MARK}={name_of(run)}")[0]


def in_hang(blackstart: Blackstart, within: Path) -> tuple["subprocess.Popen[str]", Path]:
    return as_far_as("effective", blackstart, within)


def as_far_as(event: str, blackstart: Blackstart, within: Path, *words: str) -> tuple["subprocess.Popen[str]", Path]:
    path = blackstart.folder / "meanwhile.yaml"
    path.write_text(MEANWHILE, encoding="utf-8")
    process = blackstart.started("run", path, "--service", within, "--yes", *words)
    folder = blackstart.only_run()

    def there() -> bool:
        assert process.poll() is None, process.communicate()
        return event in events(folder)

    until(f"`{event}` in the journal", there, 90)
    return process, folder


def whole(folder: Path) -> None:
    """Every probe of every schedule is here, as it is there. A machine that is busy with other tests may still have made many of them late."""
    clock = json.loads((folder / "result.json").read_text(encoding="utf-8"))["clock"]
    assert clock["coverage"] >= 0.995
    assert all("void by its own fault" in why for why in clock["why_not"]), clock["why_not"]
    assert "inconclusive" not in events(folder)
    found = read_samples(folder / "samples")
    for lane in ("control", "fresh", "reuse"):
        numbers = sorted(probe.sequence for probe in found.probes if probe.lane == lane)
        assert numbers == list(range(len(numbers))), lane
        assert numbers


@pytest.mark.timeout(360)
def test_a_drill_from_within_ends_like_one_from_here(blackstart: Blackstart, service: Path, within: Path, api: KubeApi) -> None:
    """Under exactly the rights that are printed for it."""
    namespace = namespace_of(service)
    plan = blackstart("plan", "replica-kill-midstream", "--service", within)
    assert plan.code == 0, plan.err
    assert f"measured from: a pod in namespace {namespace}" in plan.out
    assert f"http://demo.{namespace}.svc:8000" in plan.out
    here = blackstart("run", "replica-kill-midstream", *SHORT, "--service", service, "--yes")
    role = json.loads(blackstart("plan", "replica-kill-midstream", "--service", within, "--rbac").out)
    role["metadata"]["name"] = "from-within"
    kubeconfig = str(login(api, namespace, role, blackstart.folder))
    await_well(service)
    done = blackstart("run", "replica-kill-midstream", *SHORT, "--service", within, "--yes", KUBECONFIG=kubeconfig)
    assert (done.code, done.result["verdict"]) == (here.code, here.result["verdict"]) == (0, "passed"), done.out + done.err
    assert here.result["clock"]["measured_from"] == "here"
    assert here.result["clock"]["clock_uncertainty_s"] == 0
    assert done.result["clock"]["measured_from"] == "in-cluster"
    assert 0 < done.result["clock"]["clock_uncertainty_s"] < 0.1
    assert {lane["name"] for lane in done.result["lanes"]} == {lane["name"] for lane in here.result["lanes"]}
    assert all(lane["good"] for lane in done.result["lanes"] if lane["kind"] in {"fresh", "semantic", "replica", "control"})
    assert (done.folder / "samples" / "exchanges.jsonl").stat().st_size
    again = blackstart("report", done.folder, "--format", "json")
    assert json.loads(again.out)["outages"] == done.result["outages"]
    whole(done.folder)
    assert left(api, namespace) == []
    fewer = {**role, "metadata": {**role["metadata"], "name": "less-within"}}
    fewer["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["jobs"]]
    kubeconfig = str(login(api, namespace, fewer, blackstart.folder))
    refused = blackstart("run", "replica-kill-midstream", *SHORT, "--service", within, "--yes", KUBECONFIG=kubeconfig)
    assert refused.code == 2
    assert "may not create, delete jobs" in refused.err


@pytest.mark.timeout(300)
def test_a_connection_that_is_cut_again_and_again_loses_no_sample(
    blackstart: Blackstart, service: Path, within: Path, api: KubeApi
) -> None:
    process, folder = in_hang(blackstart, within)
    (pod,) = pods(api, namespace_of(service), folder.name)
    for _ in range(3):
        where = Container(namespace_of(service), pod["metadata"]["name"], "prober")
        until("a connection to cut", lambda: b"cut" in opened(api, where, ["python3", "-c", CUT]).finish(20)[1])  # noqa: B023
        samples = folder / "samples" / "probes.bin"
        before = samples.stat().st_size
        until("samples over a new one", lambda: samples.stat().st_size > before + 50 * RECORD.size)  # noqa: B023
    _, err = process.communicate(timeout=120)
    assert process.returncode in {0, 3}, err
    whole(folder)
    assert left(api, namespace_of(service)) == []


@pytest.mark.timeout(300)
def test_when_blackstart_is_killed_the_prober_ends_and_recover_removes_it(
    blackstart: Blackstart, service: Path, within: Path, api: KubeApi
) -> None:
    """Before its fault, of which the cluster would remember how to undo it: tests beside this one recover whatever they find there."""
    process, folder = as_far_as("baseline", blackstart, within, "--set", "steady_state.hold=60s")
    namespace = namespace_of(service)
    kill_quietly(process)
    assert [pod["status"]["phase"] for pod in pods(api, namespace, folder.name)] == ["Running"]

    def over() -> bool:
        return [pod["status"]["phase"] for pod in pods(api, namespace, folder.name)] == ["Succeeded"]

    until("the prober to end by itself", over, 90)
    done = blackstart("recover", folder.name)
    assert done.code == 0, done.out + done.err
    assert "removed the prober's pod" in done.out
    assert left(api, namespace) == []


@pytest.mark.timeout(120)
def test_an_interrupt_removes_it(blackstart: Blackstart, service: Path, within: Path, api: KubeApi) -> None:
    process, folder = in_hang(blackstart, within)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 4, err
    assert "undo-verified" in events(folder)
    assert left(api, namespace_of(service)) == []


@pytest.mark.timeout(120)
def test_a_pod_that_cannot_run_is_a_refusal_that_says_why(
    blackstart: Blackstart, service: Path, within: Path, api: KubeApi
) -> None:
    assert within.exists()
    missing = written(service, blackstart.folder, {"from": "in-cluster", "image": "registry.invalid/nothing:1"})
    refused = blackstart("run", "replica-kill-midstream", "--service", missing, "--yes")
    assert refused.code == 2
    assert "not injecting: the prober's pod (image registry.invalid/nothing:1) does not run" in refused.err
    assert "mage" in refused.err.partition("does not run")[2], "what the kubelet says of it"
    assert left(api, namespace_of(service)) == []
    none = written(service, blackstart.folder, {"from": "in-cluster"})
    refused = blackstart("run", "replica-kill-midstream", "--service", none, "--yes")
    assert refused.code == 2
    assert "without an `image`" in refused.err


@pytest.mark.timeout(300)
def test_an_api_server_that_is_away_for_a_while_costs_no_sample(
    blackstart: Blackstart, service: Path, within: Path, api: KubeApi
) -> None:
    if api.context != "devkube":
        pytest.skip("only devkube's API server can be stopped")
    process, folder = in_hang(blackstart, within)
    status = subprocess.run([DEVKUBE, "status"], capture_output=True, text=True, check=True).stdout
    server = int(re.findall(r"kube-apiserver\s+(\d+)", status)[0])
    os.kill(server, signal.SIGSTOP)
    since = time.monotonic()
    try:
        until("8 s to be over", lambda: time.monotonic() > since + 8)
    finally:
        os.kill(server, signal.SIGCONT)
    _, err = process.communicate(timeout=150)
    assert process.returncode in {0, 3}, err
    whole(folder)
    assert left(api, namespace_of(service)) == []
