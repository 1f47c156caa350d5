"""Drills under exactly the rights that `plan --rbac` prints, and without one of them."""

import json
from pathlib import Path

import pytest
import yaml
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.tests.cluster.steps import SHORT, login, namespace_of
from blackstart.tests.command import Blackstart, events, until

HANG = (
    "apiVersion: blackstart/v1\nkind: Scenario\nname: hang\nobjectives: {rto: 60s}\n"
    "faults: [{kind: process-hang, role: engine, target: {names: [replica-0]}, for: 3s}]\n"
)


@pytest.fixture
def service(hardened_demo: Path) -> Path:
    return hardened_demo


@pytest.mark.timeout(200)
@pytest.mark.parametrize("scenario", ["replica-kill-midstream", "hang"])
def test_the_rights_that_are_printed_are_enough_and_none_too_many(
    blackstart: Blackstart, service: Path, api: KubeApi, scenario: str
) -> None:
    if scenario == "hang":
        (blackstart.folder / "hang.yaml").write_text(HANG, encoding="utf-8")
    named = "hang.yaml" if scenario == "hang" else scenario
    role = json.loads(blackstart("plan", named, "--service", service, "--rbac").out)
    namespace = role["metadata"]["namespace"]
    role["metadata"]["name"] = f"all-of-{scenario}"
    done = blackstart.telling(
        "run", named, *SHORT, "--service", service, "--yes", KUBECONFIG=str(login(api, namespace, role, blackstart.folder))
    )
    assert done.code == 0, done.out + done.err
    assert "undo-verified" in events(done.folder)
    resource = "pods/exec" if scenario == "hang" else "leases"
    fewer = {**role, "metadata": {**role["metadata"], "name": f"less-of-{scenario}"}}
    fewer["rules"] = [rule for rule in role["rules"] if rule["resources"] != [resource]]
    refused = blackstart(
        "run", named, *SHORT, "--service", service, "--yes", KUBECONFIG=str(login(api, namespace, fewer, blackstart.folder))
    )
    assert refused.code == 2, refused.out + refused.err
    assert "not injecting" in refused.err
    assert resource in refused.err


@pytest.mark.timeout(200)
def test_without_the_right_to_see_events_a_drill_runs_and_says_what_it_does_not_know(
    blackstart: Blackstart, service: Path, api: KubeApi
) -> None:
    role = json.loads(blackstart("plan", "replica-kill-midstream", "--service", service, "--rbac").out)
    role["metadata"]["name"] = "without-events"
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["events"]]
    known = str(login(api, role["metadata"]["namespace"], role, blackstart.folder))
    done = blackstart.telling("run", "replica-kill-midstream", *SHORT, "--service", service, "--yes", KUBECONFIG=known)
    assert "undo-verified" in events(done.folder), done.out + done.err
    (reason,) = [one["text"] for one in done.result["reasons"] if one.get("figure") == "anatomy"]
    assert reason == "anatomy: pulled: this login may not list and watch events"
    steps = {step["what"] for step in done.result["anatomy"]["steps"]}
    assert {"endpoint-removed", "created", "started"} <= steps
    assert "pulled" not in steps
    recovered = blackstart("recover", "--all", KUBECONFIG=known)
    assert recovered.code == 0, recovered.err
    assert f"only namespace {namespace_of(service)} was asked" in recovered.err


def test_a_token_that_is_wrong_is_told(blackstart: Blackstart, service: Path, cluster: Path) -> None:
    config = yaml.safe_load(cluster.read_text(encoding="utf-8"))
    config["users"][0]["user"] = {"token": "expired"}
    path = blackstart.folder / "wrong.kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    refused = blackstart("plan", "replica-kill-midstream", "--service", service, KUBECONFIG=str(path))
    assert refused.code == 2
    assert "log in again" in refused.err


def test_a_cluster_that_cannot_be_reached_is_told(blackstart: Blackstart, service: Path, cluster: Path) -> None:
    config = yaml.safe_load(cluster.read_text(encoding="utf-8"))
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = blackstart.folder / "away.kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    refused = blackstart("plan", "replica-kill-midstream", "--service", service, KUBECONFIG=str(path))
    assert refused.code == 2
    assert "does not answer" in refused.err
    assert "Traceback" not in refused.err


def test_a_protected_namespace_is_never_touched(blackstart: Blackstart, service: Path) -> None:
    profile = json.loads(service.read_text(encoding="utf-8"))
    profile["protect"] = {"namespaces": [profile["kubernetes"]["namespace"]]}
    path = blackstart.folder / "service.yaml"
    path.write_text(json.dumps(profile), encoding="utf-8")
    refused = blackstart("run", "replica-kill-midstream", "--service", path, "--yes")
    assert refused.code == 2
    assert "is protected" in refused.err


def test_init_writes_a_profile_that_can_be_planned(blackstart: Blackstart, service: Path, image: str) -> None:
    namespace = namespace_of(service)
    done = blackstart("init", "drills", "--from-cluster", "statefulset/replica", "-n", namespace)
    assert done.code == 0, done.out + done.err
    folder = blackstart.folder / "drills"
    written = yaml.safe_load((folder / "service.yaml").read_text(encoding="utf-8"))
    assert written["endpoint"] == {"service": "replicas", "port": 8000, "protocol": "openai", "model": "demo"}
    assert written["roles"] == {"engine": {"command_line": r"service\.py engine "}}
    assert written["probe"] == {"image": image}
    plan = blackstart("plan", folder / "scenario.yaml", "--service", folder / "service.yaml")
    assert plan.code == 0, plan.err
    assert "replica-kill once on 1 of 2: replica-" in plan.out
    assert f"namespace {namespace} of context" in plan.out
    doctor = blackstart("doctor", "--service", folder / "service.yaml")
    assert "yes  replica-kill" in doctor.out, doctor.out + doctor.err
    assert "no   process-hang         replica-" in doctor.out  # a pod is hit through the processes inside it, which need a role
    again = blackstart("init", "drills", "--from-cluster", "statefulset/replica", "-n", namespace)
    assert again.code == 2
    assert "is there already" in again.err
    missing = blackstart("init", "more", "--from-cluster", "deployment/nothing", "-n", namespace)
    assert missing.code == 2
    assert "there is no deployment/nothing" in missing.err


def test_what_the_service_file_forbids_is_refused(blackstart: Blackstart, service: Path) -> None:
    profile = json.loads(service.read_text(encoding="utf-8"))
    profile["protect"] = {"opt_in": "drill=yes"}
    path = blackstart.folder / "service.yaml"
    path.write_text(json.dumps(profile), encoding="utf-8")
    refused = blackstart("run", "replica-kill-midstream", "--service", path, "--yes")
    assert refused.code == 2
    assert "statefulset/replica does not carry the label drill=yes" in refused.err
    (blackstart.folder / "hang.yaml").write_text(HANG, encoding="utf-8")
    refused = blackstart("plan", "hang.yaml", "--service", service, "--max-privilege", "api")
    assert refused.code == 2
    assert "process-hang takes the privilege exec, and api is the most that is allowed" in refused.err
    assert blackstart("plan", "replica-kill-midstream", "--service", service, "--max-privilege", "api").code == 0


def test_budgets_are_shown(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    namespace = namespace_of(service)
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/component": "replica"}}}
    api.create(place("poddisruptionbudgets", namespace, "", "policy/v1"), {"metadata": {"name": "llm"}, "spec": spec})
    try:
        until("the budget to be counted", lambda: "allows 1 of them" in planned(blackstart, service), 30)
        assert "budget llm covers 2 of its pods and allows 1 of them to be evicted now" in planned(blackstart, service)
    finally:
        api.delete(place("poddisruptionbudgets", namespace, "llm", "policy/v1"))


def planned(blackstart: Blackstart, service: Path) -> str:
    return blackstart("plan", "replica-kill-midstream", "--service", service).out
