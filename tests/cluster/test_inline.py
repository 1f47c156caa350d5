"""Faults for which something has to stand in a pod's own network: delays, resets and stalls, in a namespace that allows the capability."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_exec import Container, opened
from blackstart.tests.cluster.steps import drilled, everything_ours, in_fault, kind_of, login, recovered_elsewhere, scenario
from blackstart.tests.cluster.web import await_standing, profile_of, running
from blackstart.tests.command import Blackstart, events, kill_quietly

FAULTS = (
    "{kind: network-delay, delay: 300ms, target: {count: 1}, for: 6s}",
    "{kind: tcp-reset, target: {count: 1}, for: 6s}",
    "{kind: stream-stall, after: 20B, target: {count: 1}, for: 6s}",
    "{kind: network-partition, direction: from, target: {count: 1}, for: 6s}",
)
KILLED = FAULTS[1], FAULTS[3]  # by a proxy and by the firewall: all proxies are undone alike
CUT_S = 4
ECHO = (  # and print where
    "import socket\ns = socket.create_server(('', 0))\nprint(s.getsockname()[1], flush=True)\n"
    "with s.accept()[0] as c:\n while d := c.recv(1): c.sendall(d)"
)
ASK = (  # and print when each answer came, and how long it took
    "import socket,sys,time\nc = socket.create_connection((sys.argv[1], int(sys.argv[2])))\nwhile True:\n began = time.monotonic()\n"
    " c.sendall(b'x')\n c.recv(1)\n print([time.time(), time.monotonic() - began], flush=True)\n time.sleep(0.2)"
)


@pytest.fixture(scope="module")
def namespace(api: KubeApi, image: str) -> Iterator[str]:
    with running(api, image, profile="privileged") as name:
        yield name


@pytest.fixture
def service(api: KubeApi, namespace: str, image: str, tmp_path: Path) -> Path:
    await_standing(api, namespace)
    return profile_of(namespace, image, tmp_path)


def containers(api: KubeApi, namespace: str) -> list[str]:
    """States of the ephemeral containers that blackstart has put beside these pods."""
    statuses = [pod["status"].get("ephemeralContainerStatuses") or [] for pod in api.items(place("pods", namespace))[0]]
    return [next(iter(each["state"])) for of_pod in statuses for each in of_pod if each["name"].startswith("blackstart-")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", FAULTS, ids=kind_of)
def test_it_bites_is_proven_and_is_taken_back(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str, fault: str
) -> None:
    done = drilled(blackstart, service, fault)
    assert done.code in {0, 1}, done.out + done.err
    (told,) = done.result["faults"]
    assert told["undo_verified"]
    assert "a client's connection" in told["evidence"]["source"]
    assert "still-effective" in events(done.folder)
    assert set(containers(api, namespace)) == {"terminated"}
    assert everything_ours(api, service) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", KILLED, ids=kind_of)
def test_a_killed_drill_is_recovered_from_another_machine(
    blackstart: Blackstart,
    service: Path,
    api: KubeApi,
    namespace: str,
    fault: str,
) -> None:
    process, folder = in_fault(blackstart, service, fault.replace(", for: 6s", ""))
    kill_quietly(process)
    assert "running" in containers(api, namespace)
    recovered_elsewhere(blackstart, api, service, folder, fault)
    assert set(containers(api, namespace)) == {"terminated"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("standing", [True, False])
def test_a_connection_that_stands_falls_silent_where_that_is_asked_for_and_goes_on_afterwards(
    blackstart: Blackstart, service: Path, api: KubeApi, namespace: str, *, standing: bool
) -> None:
    fault = f"{{kind: network-partition, standing: {json.dumps(standing)}, target: {{names: [web-1]}}, for: {CUT_S}s}}"
    drill = scenario(blackstart, fault)
    (planned,) = json.loads(blackstart("plan", drill, "--service", service, "--json").out)["faults"][0]["targets"]
    every = api.items(place("pods", namespace))[0]
    target, peer = (
        next(pod for pod in every if (pod["metadata"]["uid"] in planned["identity"]) is wanted) for wanted in (True, False)
    )
    inside = [Container(namespace, pod["metadata"]["name"], "web") for pod in (target, peer)]
    took, over = [], False
    with closing(opened(api, inside[0], ["python3", "-c", ECHO])) as echo:
        port = str(echo.line(20))
        with closing(opened(api, inside[1], ["python3", "-c", ASK, target["status"]["podIP"], port])) as asking:
            assert asking.line(20), "an answer"
            done = blackstart.telling("run", drill, "--service", service, "--yes")
            ended = time.time()
            assert done.result["faults"][0]["undo_verified"], done.out + done.err
            while not over:  # also after the drill it is answered
                moment, seconds = json.loads(asking.line(20) or "null")
                took.append(seconds)
                over = moment > ended
    assert (max(took) > CUT_S / 2) is standing, took


@pytest.mark.timeout(240)
def test_an_image_that_cannot_be_pulled_injects_nothing(blackstart: Blackstart, service: Path, api: KubeApi) -> None:
    profile = json.loads(service.read_text(encoding="utf-8"))
    profile["probe"]["image"] = "registry.invalid/nothing:1"
    service.write_text(json.dumps(profile), encoding="utf-8")
    done = drilled(blackstart, service, FAULTS[1])
    assert done.code == 3, done.out + done.err
    assert "does not run beside web-" in done.out + done.err
    assert "mage" in (done.out + done.err).partition("does not run beside")[2], "what the kubelet says of it"
    assert everything_ours(api, service) == []


@pytest.mark.timeout(240)
def test_the_rights_that_are_printed_are_enough(blackstart: Blackstart, service: Path, api: KubeApi, namespace: str) -> None:
    role = json.loads(blackstart("plan", scenario(blackstart, FAULTS[1]), "--service", service, "--rbac").out)
    role["metadata"]["name"] = "inline"
    known = str(login(api, namespace, role, blackstart.folder))
    done = drilled(blackstart, service, FAULTS[1], KUBECONFIG=known)
    assert done.code in {0, 1}, done.out + done.err
    assert done.result["faults"][0]["undo_verified"]
    fewer = {**role, "metadata": {**role["metadata"], "name": "less-inline"}}
    fewer["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["pods/ephemeralcontainers"]]
    refused = drilled(blackstart, service, FAULTS[1], KUBECONFIG=str(login(api, namespace, fewer, blackstart.folder)))
    assert refused.code == 2, refused.out + refused.err
    assert "may not patch pods/ephemeralcontainers" in refused.err


def test_a_privilege_that_is_not_allowed_is_refused(blackstart: Blackstart, service: Path) -> None:
    refused = blackstart("plan", scenario(blackstart, FAULTS[0]), "--service", service, "--max-privilege", "exec")
    assert refused.code == 2
    assert "network-delay takes the privilege ephemeral, and exec is the most that is allowed" in refused.err
