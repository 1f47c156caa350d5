"""A node that is cut off from everything: it comes back by itself whatever dies, that is proven, and what must not be cut is refused."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_pods import ready
from blackstart.tests.cluster.steps import drilled, everything_ours, everywhere, in_fault, login, nodes, scenario
from blackstart.tests.cluster.web import await_standing, pod, profile_of, running
from blackstart.tests.command import TRIES, Blackstart, Done, another_machine, events, kill_quietly, until

pytestmark = [pytest.mark.whole_cluster, pytest.mark.timeout(240)]

FOR_S = 17  # a node is missed after 7 to 9 s, and that has to be seen within three quarters of it
FAULT = f"{{kind: node-isolate, for: {FOR_S}s}}"
LONGER = "{kind: node-isolate, for: 24s}"
KUBELET, QUIET_S = 10250, 1.0
CONTROL = "node-role.kubernetes.io~1control-plane"
ENFORCE = "pod-security.kubernetes.io~1enforce"


@pytest.fixture(scope="module")
def namespace(api: KubeApi, image: str) -> Iterator[str]:
    """What an earlier test had on the nodes is gone: a node that carries pods of others is not cut off."""
    until("no pods of earlier tests on the nodes", lambda: not any(map(of_tests, api.items(place("pods"))[0])), 90)
    with running(api, image, profile="privileged") as name:
        yield name


def of_tests(each: dict[str, Any]) -> bool:
    return each["metadata"]["namespace"].startswith("blackstart-")


@pytest.fixture
def service(api: KubeApi, namespace: str, image: str, tmp_path: Path) -> Path:
    await_standing(api, namespace)
    return profile_of(namespace, image, tmp_path)


def all_well(api: KubeApi) -> bool:
    return all(ready(each) and not each["spec"].get("taints") for each in nodes(api))


def reaches(api: KubeApi, node: str) -> bool:
    """Whether a connection to its kubelet comes about from here, by nobody's word."""
    found = api.get(place("nodes", name=node))["status"]["addresses"]
    address = next(each["address"] for each in found if each["type"] == "InternalIP")
    with suppress(OSError), socket.create_connection((address, KUBELET), QUIET_S):
        return True
    return False


def undo_evidence(folder: Path) -> dict[str, Any]:
    records = [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    return next(each["evidence"] for each in records if each["event"] == "undo-verified")


@pytest.mark.parametrize(
    ("fault", "change", "why"),
    [
        (FAULT, {"words": ("--max-privilege", "ephemeral")}, "takes the privilege helper, and ephemeral is the most"),
        (FAULT, {"profile": {"protect": {"privilege": "exec"}}}, "takes the privilege helper, and exec is the most"),
        (FAULT, {"profile": {"probe": {"rate": "20/s"}}}, "name an image with python3 and nft: probe.image"),
        (FAULT, {"enforce": "baseline"}, "violates PodSecurity"),
        (FAULT, {"stranger": {}}, "pods of others would be cut off"),
        (FAULT, {"stranger": {"app.kubernetes.io/managed-by": "blackstart"}}, "of blackstart's own"),
        (FAULT, {"control": True}, "is of the control plane, of which"),
        ("{kind: node-isolate, for: 12s, target: {count: 2}}", {}, "the whole cluster would be cut off"),
        ("{kind: node-isolate}", {}, "add `for:`, at most `15m`"),
    ],
)
def test_what_must_not_be_cut_off_is_refused(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str, image: str, fault: str, change: dict[str, Any], why: str
) -> None:
    """Before the drills: after one, what was evicted may stand on one node with the rest."""
    if "profile" in change:
        service.write_text(json.dumps({**json.loads(service.read_text(encoding="utf-8")), **change["profile"]}), encoding="utf-8")
    names = [each["metadata"]["name"] for each in nodes(api)]
    label = {"op": "replace", "path": f"/metadata/labels/{ENFORCE}"}
    control = {"path": f"/metadata/labels/{CONTROL}", "value": ""}
    if "enforce" in change:
        api.patch(place("namespaces", name=namespace), [{**label, "value": change["enforce"]}])
    for name in names if "stranger" in change else ():
        spec = {**pod(image), "nodeName": name, "terminationGracePeriodSeconds": 0}
        meta = {"name": f"stranger-{name}", "labels": change["stranger"]}
        api.create(place("pods", namespace), {"metadata": meta, "spec": spec})
    for name in names if "control" in change else ():
        api.patch(place("nodes", name=name), [{**control, "op": "add"}])
    try:
        refused = blackstart("plan", scenario(blackstart, fault), "--service", service, *change.get("words", ()))
        assert refused.code == 2, refused.out + refused.err
        assert why in refused.err
    finally:
        if "enforce" in change:
            api.patch(place("namespaces", name=namespace), [{**label, "value": "privileged"}])
        for name in names:
            api.delete(place("pods", namespace, f"stranger-{name}"), grace_s=0)
            if "control" in change:
                api.patch(place("nodes", name=name), [{**control, "op": "remove"}])
    assert everything_ours(api, service) == []


def test_all_that_goes_along_is_told_before(blackstart: Blackstart, service: Path, api: KubeApi, namespace: str) -> None:
    """Every pod of the service on the node is a target, and counts against the blast radius."""
    same = ("plan", scenario(blackstart, FAULT), "--service", service, "--set", "seed=1")  # the same node both times
    planned = json.loads(blackstart(*same, "--json").out)
    (fault,) = planned["faults"]
    (node,) = fault["undo"]["prior"]["nodes"]
    there = {each["metadata"]["name"] for each in api.items(place("pods", namespace), fields=f"spec.nodeName={node}")[0]}
    assert {target["details"]["pod"] for target in fault["targets"]} == there
    assert (fault["ends_by_itself_after_s"], fault["privilege"]) == (FOR_S, "helper")
    refused = blackstart(*same, "--set", f"blast_radius.targets={max(1, len(there) - 1)}")
    assert (refused.code == 2) is (len(there) > 1), refused.out + refused.err
    asked = blackstart("doctor", "--service", service)
    assert "yes  node-isolate" in asked.out, asked.out
    assert "with privilege helper" in asked.out


def test_it_bites_is_proven_and_comes_back_under_the_rights_that_are_printed(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str
) -> None:
    printed = json.loads(blackstart("plan", scenario(blackstart, FAULT), "--service", service, "--rbac").out)
    role, beyond = printed["items"]
    role["metadata"]["name"] = beyond["metadata"]["name"] = f"isolate-{namespace}"
    known = str(login(api, namespace, role, blackstart.folder))
    refused = blackstart("plan", scenario(blackstart, FAULT), "--service", service, KUBECONFIG=known)
    assert refused.code == 2, refused.out + refused.err
    assert "nodes in the whole cluster" in refused.err
    with everywhere(api, beyond, namespace):
        done = drilled(blackstart, service, FAULT, KUBECONFIG=known)
    assert done.code in {0, 1}, done.out + done.err
    (told,) = done.result["faults"]
    assert told["undo_verified"], done.out + done.err
    assert "Ready condition" in told["evidence"]["source"]
    assert "Ready is Unknown" in told["evidence"]["detail"]
    assert "still-effective" in events(done.folder)
    (word,) = undo_evidence(done.folder)["facts"]["said there"].values()
    assert (word["reason"], word["held_s"]) == ("its time is over", FOR_S)
    assert all(way["packets"] for way in word["counters"].values())
    assert all_well(api)
    assert everything_ours(api, service) == []


def test_a_killed_drill_is_closed_from_another_machine(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    process, _ = in_fault(blackstart, service, FAULT)
    kill_quietly(process)
    with another_machine(blackstart.folder) as second:
        done = second("recover", "--all")
    assert done.code == 0, done.out + done.err
    assert "node-isolate: undone" in done.out
    assert f"cut off for {FOR_S} s" in done.out
    assert all_well(api)
    assert everything_ours(api, service) == []
    assert blackstart("recover", "--all").code == 0  # this machine's own record of it


def test_the_network_comes_back_also_when_what_cut_it_is_killed(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    if api.context != "devkube":
        pytest.skip("only devkube's nodes share their processes with this machine")
    for _ in range(TRIES):
        process, folder = in_fault(blackstart, service, LONGER)
        (node,) = [each["metadata"]["name"] for each in nodes(api) if not ready(each)]
        assert not reaches(api, node)
        for pid in holders():
            os.kill(pid, signal.SIGKILL)
        assert not reaches(api, node)
        out, err = process.communicate(timeout=120)
        if not Done(process.returncode, out, err, folder).told_nothing("passed"):
            break
    assert process.returncode in {0, 1}, err
    word = undo_evidence(folder)["facts"]["said there"][node]
    assert (word["reason"], word["held_s"]) == ("what held it was killed, and the kernel let go", 24)
    assert reaches(api, node) and all_well(api)
    assert everything_ours(api, service) == []


def holders() -> list[int]:
    """The processes that hold a node cut off, the pod's first one among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"hold" in words and any(word.startswith(b'{"table": "blackstart_') for word in words):
                found.append(int(path.parent.name))
    assert found
    return found
