"""The bundled service in a real cluster: it answers, has its flaws and its repairs as on processes, and leaves nothing behind."""

import hashlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from blackstart.commands import demo_kubernetes, demo_ready
from blackstart.commands.demo_kubernetes import Given, deployed
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kube_exec import Container, opened
from blackstart.injectors.platforms.kube_pods import ready
from blackstart.scenarios.demo import HERE, DemoFailed
from blackstart.scenarios.demo.kubernetes import FOLDER, ORACLE, namespace_manifest
from blackstart.tests import command

PARIS = " Paris, a city on the Seine."
DIGEST = hashlib.sha256((HERE / "model.safetensors").read_bytes()).hexdigest()
ENGINE = (
    "import glob,os\n"
    "for each in glob.glob('/proc/[0-9]*/cmdline'):\n"
    "    if 'service.py\\0engine\\0' in open(each).read(): print(each.split('/')[2])"
)


until = partial(command.until, within_s=40.0)


@dataclass(frozen=True)
class Deployed:
    """A demo in the cluster, and the ways in."""

    api: KubeApi
    namespace: str
    url: str

    def ask(self, path: str, body: object = None, limit_s: float = 20.0) -> tuple[int, Any, str]:
        """(status, JSON, the replica that answered); status 0 when nobody did."""
        request = Request(self.url + path, None if body is None else json.dumps(body).encode())
        try:
            with urlopen(request, timeout=limit_s) as answer:
                return answer.status, json.load(answer), answer.headers.get("x-backend") or ""
        except HTTPError as error:
            with error:
                return error.code, json.load(error), error.headers.get("x-backend") or ""
        except (OSError, HTTPException) as error:
            return 0, str(error), ""

    def completion(self) -> tuple[str, str]:
        """(text or the error's status, replica)."""
        status, answer, replica = self.ask("/v1/completions", {"prompt": "The capital of France is", "max_tokens": 8})
        return answer["choices"][0]["text"] if status == 200 else str(status), replica

    def pod(self, name: str) -> Any:
        return self.api.there(place("pods", self.namespace, name))

    def ready(self, name: str) -> bool:
        return ready(self.pod(name) or {})

    def restarts(self, name: str) -> int:
        return self.pod(name)["status"]["containerStatuses"][0]["restartCount"]

    def run(self, pod: str, *command: str) -> str:
        """What a command in that pod says."""
        code, said, errors = self.ended(pod, *command)
        assert code == 0, errors
        return said.decode()

    def ended(self, pod: str, *command: str) -> tuple[int, bytes, str]:
        """How a command in that pod ended: code, output, errors."""
        return opened(self.api, Container(self.namespace, pod, pod.rpartition("-")[0]), command).finish(20)

    def python(self, pod: str, program: str) -> str:
        return self.run(pod, "python3", "-I", "-c", program).strip()

    def kill_engine(self, pod: str) -> str:
        engine = self.python(pod, ENGINE)
        self.python(pod, f"import os; os.kill({engine}, 9)")
        return engine

    def digest(self, pod: str) -> str:
        return self.python(
            pod, f"import hashlib; print(hashlib.sha256(open('{FOLDER}/model.safetensors','rb').read()).hexdigest())"
        )

    def events(self, pod: str) -> list[Any]:
        """What the demo itself says truly happened in that pod."""
        return [json.loads(line) for line in self.run(pod, "cat", ORACLE).splitlines()]

    def routed(self) -> list[str]:
        return sorted(self.ask("/ready")[1]["routed"])

    def replace(self, name: str) -> None:
        """Delete a pod and wait for the one that comes after it."""
        uid = self.pod(name)["metadata"]["uid"]
        self.api.delete(place("pods", self.namespace, name), uid=uid, grace_s=0)
        until(f"another {name}", lambda: (self.pod(name) or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid)
        until(f"{name} to be ready", lambda: self.ready(name))
        until("all in rotation", lambda: self.routed() == ["replica-0", "replica-1"])


@contextmanager
def demo(api: KubeApi, image: str, *, hardened: bool, storage_class: str | None = None) -> Iterator[Deployed]:
    said: list[str] = []
    with deployed(api, image, hardened=hardened, tell=said.append, given=Given(storage_class)) as service_file:
        service = json.loads(service_file.read_text())
        running = Deployed(api, service["kubernetes"]["namespace"], service["endpoint"]["url"])
        yield running
    assert not service_file.exists()
    assert api.there(place("namespaces", name=running.namespace)) is None
    assert said[-1].startswith(("removing", "waiting"))


@pytest.fixture(scope="module")
def plain(api: KubeApi, image: str) -> Iterator[Deployed]:
    with demo(api, image, hardened=False) as running:
        yield running


def test_it_answers_through_the_node_port(plain: Deployed) -> None:
    assert {plain.completion() for _ in range(4)} == {(PARIS, "replica-0"), (PARIS, "replica-1")}
    assert plain.ask("/v1/feedback", {"id": "a", "text": "b"})[0] == 201
    assert plain.ask("/v1/feedback/a")[0] == 200
    assert plain.ask("/ready")[0] == 200


def test_a_container_that_ends_when_told_comes_back_with_the_model_it_had(plain: Deployed) -> None:
    """The model outlives the container; the kubelet is the supervisor. Orphans of commands do not stay behind as zombies."""
    plain.run("replica-1", "sh", "-c", f"echo here > {FOLDER}/mark; sleep 0.1 >/dev/null 2>&1 &")
    states = "import glob; print([open(each).read().rsplit(')', 1)[1].split()[0] for each in glob.glob('/proc/[0-9]*/stat')])"
    until("no more than API, engine and who looks", lambda: plain.python("replica-1", states).count("'") == 6)
    code, _, errors = plain.ended("replica-1", "python3", "-I", "-c", "import os; os.kill(1, 15)")
    assert code in {0, 137}, errors  # the kernel kills what is left of a container when its first process ends
    until("a restart", lambda: plain.restarts("replica-1") == 1)
    until("the replica to be ready", lambda: plain.ready("replica-1"))
    assert plain.run("replica-1", "cat", f"{FOLDER}/mark") == "here\n"
    assert [each["event"] for each in plain.events("replica-1")].count("answering") == 2
    until("all in rotation", lambda: plain.routed() == ["replica-0", "replica-1"])


def test_a_dead_engine_stays_dead(plain: Deployed) -> None:
    """By its flaw: its API says that all is well, so that neither the gateway nor the kubelet does anything about it."""
    plain.kill_engine("replica-0")
    until("the kubelet to see that it is not ready", lambda: not plain.ready("replica-0"))
    assert {plain.completion() for _ in range(4)} == {("500", "replica-0"), (PARIS, "replica-1")}
    assert plain.restarts("replica-0") == 0
    assert plain.routed() == ["replica-0", "replica-1"]
    assert "engine-gone" in [each["event"] for each in plain.events("replica-0")]


def test_a_deleted_replica_comes_back_with_the_same_model(plain: Deployed) -> None:
    assert plain.digest("replica-0") == DIGEST
    plain.replace("replica-0")
    assert plain.digest("replica-0") == DIGEST
    assert {plain.completion() for _ in range(4)} == {(PARIS, "replica-0"), (PARIS, "replica-1")}


def test_hardened_it_heals_and_a_claim_keeps_what_is_on_it(api: KubeApi, image: str, storage_class: str) -> None:
    with demo(api, image, hardened=True, storage_class=storage_class) as hardened:
        engine = hardened.kill_engine("replica-0")
        assert {hardened.completion()[0] for _ in range(10)} == {PARIS}
        until("another engine", lambda: hardened.python("replica-0", ENGINE) not in {"", engine})
        until("all in rotation", lambda: hardened.routed() == ["replica-0", "replica-1"])
        assert hardened.restarts("replica-0") == 0
        hardened.run("replica-0", "sh", "-c", f"echo here > {FOLDER}/mark; echo broken > {FOLDER}/model.safetensors")
        hardened.replace("replica-0")
        assert hardened.run("replica-0", "cat", f"{FOLDER}/mark") == "here\n"
        assert "restored" in [each["event"] for each in hardened.events("replica-0")]
        assert hardened.digest("replica-0") == DIGEST


def test_what_cannot_start_says_why_and_is_removed(api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the demo of a dead command on this machine is removed first, and nobody else's."""
    monkeypatch.setattr(demo_kubernetes, "HOPELESS_S", 0.0)
    where, _, _ = demo_ready.creator().rpartition(" ")
    dead, foreign = (f"blackstart-demo-test-{name}-{secrets.token_hex(2)}" for name in ("dead", "foreign"))
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name, creator in ((dead, f"{where} pid:{gone.pid}@1"), (foreign, f"another-boot pid:[1] pid:{gone.pid}@1")):
        api.create(place("namespaces"), namespace_manifest(name, creator, privileged=False))
    said: list[str] = []
    try:
        with (
            pytest.raises(DemoFailed, match=r"InvalidImageName.*\n.*an-Image"),
            deployed(api, "an-Image:1", hardened=False, tell=said.append),
        ):
            pass
        until("the end of the dead one", lambda: api.there(place("namespaces", name=dead)) is None)
        assert api.there(place("namespaces", name=foreign)) is not None
    finally:
        api.delete(place("namespaces", name=foreign))
    assert any(dead in line for line in said)
