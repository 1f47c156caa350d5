"""Drills that a Job in the cluster carries out: brought home whole, survived by whoever began them, stopped in order, refused in time."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_drills import MARK, drills_in, name_of
from blackstart.injectors.platforms.kube_exec import Container, opened
from blackstart.injectors.platforms.kube_pods import runs
from blackstart.injectors.platforms.kube_records import LEASES
from blackstart.injectors.platforms.kube_rights import JOB, roles
from blackstart.tests.cluster.drill_image import build
from blackstart.tests.cluster.steps import DEVKUBE, RBAC, SHORT, everything_ours, login, namespace_of, scenario, written
from blackstart.tests.command import TRIES, Blackstart, Done, events, kill_quietly, until

HANG = "{{kind: process-hang, role: engine, target: {{names: [replica-0]}}, for: {for_}}}"
# What follows the drill is cut off once two of its lines are there: the first of them has been shown by then.
CUT = (
    "import glob,os,signal\n"
    "begun = os.path.exists('/tmp/drill/told') and open('/tmp/drill/told').read().count('\\n') > 1\n"
    "for each in glob.glob('/proc/[0-9]*/cmdline') if begun else ():\n"
    "    if open(each,'rb').read().endswith(b'\\0reach\\0'): os.kill(int(each.split('/')[2]), signal.SIGKILL); print('cut')"
)


@pytest.fixture(scope="module")
def drill_image(api: KubeApi, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with this very blackstart in it, on every node."""
    if named := os.environ.get("BLACKSTART_TEST_DRILL_IMAGE"):
        return named
    if api.context != "devkube":
        pytest.skip("name an image with blackstart[kubernetes] in BLACKSTART_TEST_DRILL_IMAGE")
    folder = tmp_path_factory.mktemp("image")
    archive, name = build(folder)
    subprocess.run([DEVKUBE, "load", archive], check=True, capture_output=True, timeout=120)
    shutil.rmtree(folder)
    return name


@pytest.fixture
def service(hardened_demo: Path) -> Path:
    return hardened_demo


@pytest.fixture
def words(service: Path, blackstart: Blackstart, drill_image: str) -> list[str | Path]:
    """What a drill by a Job is asked for with."""
    return ["--service", written(service, blackstart.folder, {"rate": "30/s"}), "--in-cluster", "--image", drill_image, "--yes"]


def hang(blackstart: Blackstart, for_: str) -> Path:
    return scenario(blackstart, HANG.format(for_=for_))


def pods_of(api: KubeApi, namespace: str, run: str) -> list[Any]:
    return api.items(place("pods", namespace), labels=f"{MARK}={name_of(run)}")[0]


def in_hang(
    api: KubeApi, blackstart: Blackstart, namespace: str, begin: "Callable[[], subprocess.Popen[str]]"
) -> "tuple[subprocess.Popen[str], str]":
    """What follows the only drill there, and its run, once it is about to inject: that is when the cluster keeps its record. Begun again
    where the service was not steady before.
    """
    for _ in range(TRIES):
        process = begin()

        def injected(process: "subprocess.Popen[str]" = process) -> str | None:
            if process.poll() is not None:
                return "ended"
            there = drills_in(api, namespace)
            records = api.items(place("configmaps", namespace), labels="app.kubernetes.io/managed-by=blackstart")[0]
            marked = {(each["metadata"].get("annotations") or {}).get("blackstart/run") for each in records}
            return next((run for run in there if run in marked), None)

        run = str(until("the drill's record in the cluster", injected, 60))
        if run != "ended":
            return process, run
        assert "not-steady" in events(blackstart.newest()), process.communicate()
        shutil.rmtree(blackstart.runs)
    raise AssertionError(f"not steady {TRIES} times")


def home(done: Done, blackstart: Blackstart, run: str) -> None:
    """The whole of that run's folder is here, and every figure comes again from it."""
    assert done.folder.name == run, done.out + done.err
    assert {path.name for path in done.folder.iterdir()} >= {"journal.jsonl", "plan.json", "report.html", "samples", "summary.md"}
    assert events(done.folder)[-1] == "ended"
    assert done.result["environment"]["inside"].startswith("a pod in namespace ")
    again = json.loads(blackstart("report", "latest", "--format", "json").out)
    assert again == done.result
    assert not [path for path in blackstart.runs.iterdir() if path.name not in {run, "latest"}]


@pytest.mark.timeout(240)
def test_a_drill_by_a_job_comes_home_and_leaves_nothing(
    blackstart: Blackstart, service: Path, words: list[str | Path], api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the rights that it grants and those to make a Job, and where the connection is cut that it is followed by: each line is
    shown, and once.
    """
    namespace = namespace_of(service)
    printed = json.loads(blackstart("plan", "replica-kill-midstream", "--service", words[1], "--rbac").out)
    mine = {**printed, "metadata": {**printed["metadata"], "name": "drills-by-jobs"}}
    mine["rules"] = printed["rules"] + roles("", namespace, JOB)["rules"]
    monkeypatch.setenv("KUBECONFIG", str(login(api, namespace, mine, blackstart.folder)))
    process = blackstart.started("run", "replica-kill-midstream", *SHORT, *words)
    (run,) = until("the drill", lambda: drills_in(api, namespace))
    pod = until("its pod", lambda: next(filter(runs, pods_of(api, namespace, run)), None))
    where = Container(namespace, pod["metadata"]["name"], "drill")
    until("a connection to cut", lambda: b"cut" in opened(api, where, ["python3", "-c", CUT]).finish(20)[1])
    role = api.get(place("roles", namespace, name_of(run), RBAC))
    out, err = process.communicate(timeout=170)
    done = Done(process.returncode, out, err, blackstart.newest())
    assert done.code == done.result["exit_code"], out + err
    assert done.code in {0, 3}, out + err  # a machine that is busy with other tests makes many probes late
    home(done, blackstart, run)
    assert blackstart("report", run).out.splitlines()[0] == out.splitlines()[0]
    shown = [line for line in err.splitlines() if line.startswith("[")]
    assert len(shown) == len(set(shown)), err
    assert {"watching the service before any fault", "judging"} <= {line.partition("] ")[2].partition(" (")[0] for line in shown}
    assert f"http://demo.{namespace}.svc:8000 is asked from inside its pod" in err
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    assert role["rules"] == printed["rules"]
    assert everything_ours(api, service) == []


@pytest.mark.timeout(240)
def test_it_outlives_whoever_began_it_and_is_fetched_later(
    blackstart: Blackstart, service: Path, words: list[str | Path], api: KubeApi
) -> None:
    namespace = namespace_of(service)
    process, run = in_hang(api, blackstart, namespace, lambda: blackstart.started("run", hang(blackstart, "6s"), *words))
    kill_quietly(process)
    (lease,) = [each for each in leases(api, namespace) if each["metadata"]["name"].endswith("-replica")]

    def renewed() -> bool:
        now = [each for each in leases(api, namespace) if each["metadata"]["name"] == lease["metadata"]["name"]]
        return bool(now) and now[0]["spec"]["renewTime"] != lease["spec"]["renewTime"] and now[0]["spec"]["holderIdentity"] == run

    until("the drill to renew its hold on the service by itself", renewed)
    assert not blackstart.runs.exists() or not any(blackstart.runs.iterdir())
    done = blackstart("fetch", run, *words[:2])
    assert done.code == done.result["exit_code"], done.out + done.err
    assert done.code in {0, 3}, done.out + done.err
    assert "undo-verified" in events(done.folder)
    home(done, blackstart, run)
    assert everything_ours(api, service) == []
    gone = blackstart("fetch", run, *words[:2])
    assert gone.code == 2
    assert f"no drill {run} is in namespace {namespace}" in gone.err


@pytest.mark.timeout(240)
def test_ctrl_c_stops_it_in_order(blackstart: Blackstart, service: Path, words: list[str | Path], api: KubeApi) -> None:
    namespace, told = namespace_of(service), ""

    def begin() -> "subprocess.Popen[str]":
        nonlocal told
        begun = blackstart("run", hang(blackstart, "50s"), *words, "--detach")
        assert begun.code == 0, begun.err
        told = begun.out.strip()
        assert f"blackstart fetch {told} --service " in begun.err
        return blackstart.started("fetch", *words[:2])

    process, run = in_hang(api, blackstart, namespace, begin)
    assert run == told
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 4, out + err
    done = Done(4, out, err, blackstart.newest())
    assert done.result["verdict"] == "aborted"
    assert "undo-verified" in events(done.folder)
    home(done, blackstart, run)
    assert everything_ours(api, service) == []


def leases(api: KubeApi, namespace: str) -> list[Any]:
    return api.items(place("leases", namespace, "", LEASES))[0]


@pytest.mark.timeout(120)
def test_what_cannot_be_done_is_refused_before_anything_is_made(
    blackstart: Blackstart, service: Path, words: list[str | Path], api: KubeApi
) -> None:
    namespace = namespace_of(service)
    without = [each for each in words if each not in {"--image", words[4]}]
    local = blackstart.folder / "local.yaml"
    local.write_text(
        'apiVersion: blackstart/v1\nkind: Service\nname: s\nplatform: process\nendpoint: {url: "http://127.0.0.1:9"}\nprocess: {port: 9}\n',
        encoding="utf-8",
    )
    role = json.loads(blackstart("plan", "replica-kill-midstream", "--service", words[1], "--rbac").out)
    more = [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["serviceaccounts", "pods/exec"], "verbs": ["*"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "delete"]},
    ]
    some = {**role, "metadata": {**role["metadata"], "name": "no-jobs"}}
    fewer = {**role, "metadata": {**role["metadata"], "name": "no-events"}}
    fewer["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["events"]] + more
    refusals: list[tuple[list[str | Path], dict[str, str], str]] = [
        (without, {}, "not injecting: --in-cluster without --image: the drill runs in a pod"),
        (
            ["--service", local, *words[2:]],
            {},
            "not injecting: --in-cluster: s lives on platform process, and a Job needs kubernetes",
        ),
        ([*words, "--claim", "none"], {}, f"not injecting: there is no persistentvolumeclaim none in namespace {namespace}"),
        (words, {"KUBECONFIG": str(login(api, namespace, some, blackstart.folder))}, "may not list, create, patch, delete jobs"),
        (
            words,
            {"KUBECONFIG": str(login(api, namespace, fewer, blackstart.folder))},
            "nobody can grant what he may not do himself",
        ),
    ]
    for options, environment, why in refusals:
        refused = blackstart("run", "replica-kill-midstream", *options, **environment)
        assert refused.code == 2, refused.out + refused.err
        assert why in refused.err
        assert everything_ours(api, service) == []
    unknown = blackstart("run", "replica-kill-midstream", "--service", words[1], "--image", "x:1", "--yes")
    assert unknown.code == 2
    assert "--image without --in-cluster" in unknown.err
