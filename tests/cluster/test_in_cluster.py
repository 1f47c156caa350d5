"""Drills measured from a pod beside the service: the same verdicts, no sample lost to a cut connection, nothing left."""

import json
import signal
from pathlib import Path

import pytest
from blackstart.drills.measure.prober import RECORD
from blackstart.drills.measure.samples import read_samples
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_exec import Container, opened
from blackstart.injectors.platforms.kube_outpost import INDEX, MARK, name_of
from blackstart.tests.cluster.steps import (
    SHORT,
    everything_ours,
    in_fault,
    login,
    namespace_of,
    pods,
    scenario,
    server_away,
    written,
)
from blackstart.tests.command import Blackstart, await_well, events, kill_quietly, until

HANG = "{kind: process-hang, role: engine, target: {names: [replica-0]}, for: 30s}"
LOAD = "\nload: {rate: 6/s, pods: 3}"  # the demo turns away what is much more
KILL = "{kind: replica-kill, target: {names: [replica-0]}}"
CUT = (
    "import glob,os,signal\n"
    "for each in glob.glob('/proc/[0-9]*/cmdline'):\n"
    "    if b'outpost.py\\0reach' in open(each,'rb').read(): os.kill(int(each.split('/')[2]), signal.SIGKILL); print('cut')"
)


@pytest.fixture
def service(hardened_demo: Path) -> Path:
    return hardened_demo


@pytest.fixture
def within(service: Path, blackstart: Blackstart, image: str) -> Path:
    """The same service, asked by its name in the cluster from a pod in its namespace."""
    return written(service, blackstart.folder, {"rate": "30/s", "from": "in-cluster", "image": image})


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
    here = blackstart.telling("run", "replica-kill-midstream", *SHORT, "--service", service, "--yes", wanted="passed")
    role = json.loads(blackstart("plan", "replica-kill-midstream", "--service", within, "--rbac").out)
    role["metadata"]["name"] = "from-within"
    kubeconfig = str(login(api, namespace, role, blackstart.folder))
    await_well(service)
    done = blackstart.telling(
        "run", "replica-kill-midstream", *SHORT, "--service", within, "--yes", wanted="passed", KUBECONFIG=kubeconfig
    )
    assert (done.code, done.result["verdict"]) == (here.code, here.result["verdict"]) == (0, "passed"), f"{here} {done}"
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
    assert everything_ours(api, service) == []
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
    process, folder = in_fault(blackstart, within, HANG)
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
    assert everything_ours(api, service) == []


@pytest.mark.timeout(120)
def test_an_interrupt_removes_it(blackstart: Blackstart, service: Path, within: Path, api: KubeApi) -> None:
    process, folder = in_fault(blackstart, within, HANG)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 4, err
    assert "undo-verified" in events(folder)
    assert everything_ours(api, service) == []


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
    assert everything_ours(api, service) == []
    none = written(service, blackstart.folder, {"from": "in-cluster"})
    refused = blackstart("run", "replica-kill-midstream", "--service", none, "--yes")
    assert refused.code == 2
    assert "without an `image`" in refused.err


@pytest.mark.whole_cluster
@pytest.mark.timeout(300)
def test_an_api_server_that_is_away_for_a_while_costs_no_sample(
    blackstart: Blackstart, service: Path, within: Path, api: KubeApi
) -> None:
    process, folder = in_fault(blackstart, within, HANG)
    server_away(api, 8)
    _, err = process.communicate(timeout=150)
    assert process.returncode in {0, 3}, err
    whole(folder)
    assert everything_ours(api, service) == []


@pytest.mark.timeout(360)
def test_three_pods_give_the_load_together(blackstart: Blackstart, service: Path, within: Path, api: KubeApi) -> None:
    """Under exactly the rights that are printed for it, which are the prober's."""
    loaded, namespace = scenario(blackstart, KILL + LOAD), namespace_of(service)
    plan = blackstart("plan", loaded, "--service", within)
    assert "load: 6/s, from 3 pods" in plan.out, plan.err
    assert "workload 2/s" in plan.out
    role = json.loads(blackstart("plan", loaded, "--service", within, "--rbac").out)
    role["metadata"]["name"] = "loaded-within"
    kubeconfig = str(login(api, namespace, role, blackstart.folder))
    done = blackstart.telling("run", loaded, "--service", within, "--yes", wanted="passed", KUBECONFIG=kubeconfig)
    assert (done.code, done.result["verdict"]) == (0, "passed"), done
    load = done.result["load"]
    assert load["pods"] == len(load["per_pod"]) == 3
    assert load["sent"] == pytest.approx(load["asked"], rel=0.02, abs=3)
    assert load["asked"] > 6 * 5
    assert load["good_share"] > 0.5
    for pod in load["per_pod"]:
        assert pod["sent"] == pytest.approx(load["sent"] / 3, rel=0.02, abs=2)
    again = blackstart("report", done.folder, "--format", "json")
    assert json.loads(again.out)["load"] == load
    whole(done.folder)
    assert everything_ours(api, service) == []


@pytest.mark.timeout(240)
def test_a_load_pod_that_is_deleted_leaves_the_drill_open(
    blackstart: Blackstart, service: Path, within: Path, api: KubeApi
) -> None:
    process, folder = in_fault(blackstart, within, HANG + LOAD)
    namespace, name = namespace_of(service), name_of(folder.name, crowd=True)
    spec = api.get(place("jobs", namespace, name, "batch/v1"))["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    found = api.items(place("pods", namespace), labels=f"{MARK}={name}")[0]
    by_index = {pod["metadata"]["annotations"][INDEX]: pod["metadata"]["name"] for pod in found}
    assert api.delete(place("pods", namespace, by_index["1"]), grace_s=0)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 3, err
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    texts = [reason["text"] for reason in result["reasons"] if reason["code"] == "load-not-given"]
    assert any(text.startswith("the load that was asked for was not given: load-1: the rest of the samples") for text in texts), (
        texts
    )
    assert "undo-verified" in events(folder)
    assert everything_ours(api, service) == []


@pytest.mark.timeout(120)
def test_a_quota_that_has_no_room_for_all_of_them_is_a_refusal(
    blackstart: Blackstart, service: Path, within: Path, api: KubeApi
) -> None:
    namespace = namespace_of(service)
    room = len(api.items(place("pods", namespace))[0]) + 2  # for the prober's and one of two
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": str(room)}}}
    api.create(place("resourcequotas", namespace), quota)
    try:
        limited = place("resourcequotas", namespace, "few")
        until("the quota to count", lambda: (api.get(limited).get("status") or {}).get("used"))
        refused = blackstart("run", scenario(blackstart, KILL + LOAD), "--service", within, "--yes")
    finally:
        api.delete(place("resourcequotas", namespace, "few"))
    assert refused.code == 2
    assert "not injecting: one of 2 pods that give load (image " in refused.err
    assert "the cluster makes 1: a quota" in refused.err
    assert everything_ours(api, service) == []


@pytest.mark.timeout(180)
def test_recover_removes_them_all(blackstart: Blackstart, service: Path, within: Path, api: KubeApi) -> None:
    process, folder = in_fault(blackstart, within, HANG + LOAD)
    kill_quietly(process)
    assert any("blackstart-load" in each for each in everything_ours(api, service))
    recovered = blackstart("recover", folder.name)
    assert recovered.code == 0, recovered.err
    assert "removed the prober's pod" in recovered.out + recovered.err
    assert everything_ours(api, service) == []
