"""Faults of what models come from, held against the whole contract on live pods."""

import base64
import functools
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from blackstart.injectors import file_agent, testing
from blackstart.injectors.base import Injector, Refusal
from blackstart.injectors.caches import CacheWipe
from blackstart.injectors.model_files import CheckpointCorrupt, CredentialExpire, ModelCorrupt, ModelStoreOutage
from blackstart.injectors.platforms.base import Target, Unsupported
from blackstart.injectors.platforms.kube_api import KubeApi, place
from blackstart.injectors.platforms.kubernetes import KubernetesPlatform
from blackstart.injectors.testing import check_injector
from blackstart.tests.cluster.artefacts import (
    FOLDER,
    READ,
    TOKEN,
    Open,
    changed,
    inside,
    opened,
    profile_of,
    running,
    secret_of,
    slow,
    standing,
    storeless,
)
from blackstart.tests.cluster.conftest import volumes_of
from blackstart.tests.cluster.steps import in_fault, recovered_elsewhere
from blackstart.tests.command import Blackstart, kill_quietly, until

MODEL, SLOW = f"{FOLDER}/model.safetensors", timedelta(seconds=1)
R0, R1 = "target: {names: [llm-0]}", "target: {names: [llm-1]}"
DRILLED = (
    f"{{kind: checkpoint-corrupt, path: /models/checkpoints, {R0}}}",
    f"{{kind: cache-wipe, path: /models/cache, {R0}}}",
    f"{{kind: credential-expire, path: /models/token, {R0}}}",
    f"{{kind: model-store-outage, {R1}}}",
    "{kind: credential-expire, path: /secret/token, secret: true, target: {role: replica, share: 100%}}",
    "{kind: replica-kill, target: {role: replica, share: 100%}}",  # each of these shows when its target starts again
)


@pytest.fixture(scope="module")
def namespace(api: KubeApi, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with volumes_of(api, tmp_path_factory.mktemp("claims")) as classes, running(api, image, classes) as name:
        yield name


@pytest.fixture(scope="module")
def service(cluster: Path, namespace: str, image: str, tmp_path_factory: pytest.TempPathFactory) -> Open:
    return functools.partial(opened, str(cluster), namespace, image, tmp_path_factory.mktemp("state"))


def target_of(platform: KubernetesPlatform) -> Target:
    return next(each for each in platform.find() if each.role == "replica")


FAULTS: dict[str, Injector] = {
    "checkpoint-corrupt": CheckpointCorrupt("/models/checkpoints"),
    "cache-wipe": CacheWipe("/models/cache"),
    "credential-expire": CredentialExpire("/models/token"),
    "model-store-outage": ModelStoreOutage(standing=True),
    "slow-read": ModelCorrupt("slow-read", file=MODEL, delay=SLOW),
}


@pytest.fixture(scope="module")
def verdicts(service: Open, api: KubeApi, namespace: str) -> Iterator[dict[str, Future[None]]]:
    files = {"checkpoint-corrupt": "checkpoints", "cache-wipe": "cache", "credential-expire": "token"}
    eyes = {kind: changed(api, namespace, f"{FOLDER}/{name}") for kind, name in files.items()}
    eyes["model-store-outage"] = storeless(api, namespace)
    eyes["slow-read"] = slow(api, namespace, MODEL, 2 * SLOW.total_seconds())
    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(len(FAULTS)) as pool:
        patched.setattr(testing, "SETTLE_S", 24.0)  # half of it is the deadline of what is killed while it is held
        victims = {"model-store-outage": ("llm-1",)}  # what ends beside a pod is no other fault's business
        yield {
            kind: pool.submit(check_injector, injector, service, victims.get(kind, ("llm-0",)), effect=eyes[kind])
            for kind, injector in FAULTS.items()
        }


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", FAULTS)
def test_injector(verdicts: dict[str, Future[None]], kind: str) -> None:
    verdicts[kind].result()


@pytest.mark.timeout(240)
def test_a_killed_drill_is_recovered_from_another_machine_and_from_another_pod(
    blackstart: Blackstart,
    api: KubeApi,
    namespace: str,
    image: str,
    tmp_path: Path,
    verdicts: dict[str, Future[None]],
) -> None:
    """What was damaged lies on a claim, and the pod in which the agents were is dead when the drill dies."""
    for each in verdicts.values():
        each.result()
    service, eye = profile_of(namespace, image, tmp_path), changed(api, namespace, FOLDER)
    process, folder = in_fault(blackstart, service, "\n  - ".join(DRILLED), len(DRILLED))
    kill_quietly(process)
    until("the pods to stand again", lambda: standing(api, namespace), 60)
    assert eye()
    assert (secret_of(api, namespace), inside(api, namespace, READ).decode()) == (file_agent.expired(TOKEN),) * 2
    for each in (TOKEN, file_agent.expired(TOKEN)):  # nothing that is secret is written down, neither here nor in the cluster
        kept = json.dumps(api.items(place("configmaps", namespace))[0] + api.items(place("jobs", namespace, group="batch/v1"))[0])
        for form in (each, base64.b64encode(each.encode()).decode()):
            assert form not in kept + (folder / "journal.jsonl").read_text(encoding="utf-8")
    recovered_elsewhere(blackstart, api, service, folder, *DRILLED)
    until("the pods to stand again", lambda: standing(api, namespace), 60)  # what started while it was damaged starts again
    assert not eye(), "neither another byte nor anything beside it"
    assert secret_of(api, namespace) == TOKEN


@pytest.mark.parametrize(
    ("injector", "why"),
    [
        (CredentialExpire("/secret/token"), "comes from Secret token, .* `secret: true`"),
        (CredentialExpire("/secret/token", secret=True), "pod llm-1 reads Secret token as well; make it a target"),
        (CredentialExpire("/models/token", secret=True), "is no value of a Secret that the kubelet writes anew"),
        (ModelCorrupt("header", file="/given/model.safetensors"), "of kind configMap, which the kubelet mounts read-only"),
        (CacheWipe("/read-only/cache"), r"lies on a mount that web may only read \(/read-only\)"),
        (CacheWipe("/usr/share"), "is of the image of web"),
        (CheckpointCorrupt("/models/checkpoints", "header", "no-such-file"), "No such file"),
        (ModelStoreOutage(("hub.invalid:443",)), "hub.invalid has no address inside"),
        (ModelStoreOutage(("hub",)), "nothing is called hub or has that role"),
    ],
    ids=["secret", "shared secret", "no secret", "config map", "read-only", "image", "no file", "no address", "no store"],
)
def test_refused_before_anything_is_changed(service: Open, api: KubeApi, namespace: str, injector: Injector, why: str) -> None:
    with closing(service()) as platform, pytest.raises((Refusal, Unsupported), match=why):
        injector.plan((target_of(platform),), platform)


@contextmanager
def stranger(api: KubeApi, namespace: str, image: str, program: str, phase: str) -> Iterator[None]:
    """A pod that is no part of the service and has the claim of llm-0, once it is in that phase."""
    where, mount = place("pods", namespace, "stranger"), {"name": "v", "mountPath": "/data", "readOnly": True}
    main = {"name": "c", "image": image, "command": ["python3", "-I", "-c", program], "volumeMounts": [mount]}
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "models-llm-0"}}
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [main], "volumes": [volume]}
    api.create(place("pods", namespace), {"metadata": {"name": "stranger"}, "spec": spec})
    try:
        until(f"the stranger to be {phase}", lambda: api.get(where)["status"]["phase"] == phase, 60)
        yield
    finally:
        api.delete(where, grace_s=0)
        until("the stranger to be gone", lambda: api.there(where) is None, 60)


@pytest.mark.timeout(180)
def test_a_claim_that_a_pod_of_somebody_else_has_as_well(service: Open, api: KubeApi, namespace: str, image: str) -> None:
    of_files = [injector for kind, injector in FAULTS.items() if kind != "model-store-outage"]
    of_files.append(ModelCorrupt("truncate", file=MODEL))
    why = "not injecting: pod stranger has claim models-llm-0, and so /models/.* of llm-0, and is no part of this service"
    with closing(service()) as platform:
        target = target_of(platform)
        with stranger(api, namespace, image, "import time; time.sleep(600)", "Running"):
            for injector in of_files:
                with pytest.raises(Refusal, match=why):
                    injector.plan((target,), platform)
        with stranger(api, namespace, image, "", "Succeeded"):
            for injector in of_files:
                injector.plan((target,), platform)


def test_slow_reads_take_a_pod_that_the_namespace_allows(service: Open, api: KubeApi, namespace: str) -> None:
    where, label = place("namespaces", name=namespace), {"path": "/metadata/labels/pod-security.kubernetes.io~1enforce"}
    why = r"a pod of ours on node \S+ that may have the kernel ask .* is not taken in namespace .*violates PodSecurity"
    api.patch(where, [{"op": "add", **label, "value": "baseline"}])
    try:
        with closing(service()) as platform, pytest.raises(Refusal, match=why):
            FAULTS["slow-read"].plan((target_of(platform),), platform)
    finally:
        api.patch(where, [{"op": "remove", **label}])


def test_what_goes_with_the_pod_is_no_fault_that_a_restart_shows(service: Open, api: KubeApi, namespace: str) -> None:
    inside(api, namespace, "open('/own/token','w').write('hf_AbcXyz0189');open('/tmp/token','w').write('hf_AbcXyz0189')")
    with closing(service()) as platform:
        for path, bites in (("/models/token", "on-restart"), ("/own/token", "never"), ("/tmp/token", "never")):
            injector = CredentialExpire(path)
            assert injector.bites(injector.plan((target_of(platform),), platform)) == bites, path
