"""What goes wrong while a fault is in effect: the target is replaced, a right is taken away, the namespace is deleted."""

import json
from pathlib import Path

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.tests.cluster.steps import RBAC, everything_ours, in_fault, login, namespace_of, scenario
from blackstart.tests.cluster.web import profile_of, running
from blackstart.tests.command import Blackstart, events, until

HANG = "{kind: process-hang, role: engine, target: {names: [replica-0]}, for: 20s}"


@pytest.mark.timeout(240)
def test_a_target_that_somebody_else_replaces_is_not_taken_for_what_stands_in_its_place(
    blackstart: Blackstart, plain_demo: Path, api: KubeApi
) -> None:
    process, folder = in_fault(blackstart, plain_demo, HANG)
    api.delete(place("pods", namespace_of(plain_demo), "replica-0"), grace_s=0)
    out, err = process.communicate(timeout=200)
    assert process.returncode in {0, 1, 3}, out + err  # whoever it was, a new replica ended the users' trouble
    (fault,) = json.loads((folder / "result.json").read_text(encoding="utf-8"))["faults"]
    new = api.get(place("pods", namespace_of(plain_demo), "replica-0"))["metadata"]["uid"]
    assert fault["undo_verified"]
    assert new in fault["undo_evidence"]["detail"]
    assert all(new not in identity for identity in fault["identities"])
    assert everything_ours(api, plain_demo) == []


@pytest.mark.timeout(240)
def test_an_undo_that_is_refused_is_dirty_and_recovered_once_it_is_allowed(
    blackstart: Blackstart, plain_demo: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = namespace_of(plain_demo)
    role = json.loads(blackstart("plan", scenario(blackstart, HANG), "--service", plain_demo, "--rbac").out)
    role["metadata"]["name"] = "loses-a-right"
    monkeypatch.setenv("KUBECONFIG", str(login(api, namespace, role, blackstart.folder)))
    process, folder = in_fault(blackstart, plain_demo, HANG, observe="5s")
    path = place("roles", namespace, "loses-a-right", RBAC)
    fewer = [rule for rule in role["rules"] if "pods/exec" not in rule["resources"]]
    api.patch(path, [{"op": "replace", "path": "/rules", "value": fewer}])
    out, err = process.communicate(timeout=220)
    assert process.returncode == 5, out + err
    assert f"blackstart recover {folder.name}" in out + err
    assert "undo-failed" in events(folder)
    still = blackstart("recover", folder.name)
    assert still.code == 5, still.out + still.err
    api.patch(path, [{"op": "replace", "path": "/rules", "value": role["rules"]}])
    done = blackstart("recover", folder.name)
    assert done.code == 0, done.out + done.err
    assert everything_ours(api, plain_demo) == []


@pytest.mark.timeout(240)
def test_a_namespace_that_is_deleted_takes_its_faults_along(
    blackstart: Blackstart, api: KubeApi, image: str, tmp_path: Path
) -> None:
    with running(api, image) as namespace:
        process, folder = in_fault(
            blackstart, profile_of(namespace, image, tmp_path), "{kind: cpu-stress, for: 20s}", observe="10s"
        )
    out, err = process.communicate(timeout=200)
    assert process.returncode in {3, 4, 5}, out + err
    until("the namespace to be gone", lambda: api.there(place("namespaces", name=namespace)) is None, 90)
    if process.returncode == 5:
        done = blackstart("recover", folder.name)
        assert done.code == 0, done.out + done.err
    assert blackstart("recover", folder.name).code == 0
    assert "undo-verified" in events(folder)
