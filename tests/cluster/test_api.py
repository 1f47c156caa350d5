"""The API as the adapter uses it: a watch that fell behind, logins by a plugin, and a workload with hundreds of pods."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from blackstart.injectors.platforms import Where
from blackstart.injectors.platforms.kube_api import ApiError, KubeApi, place
from blackstart.injectors.platforms.kube_follow import Followed
from blackstart.injectors.platforms.kubernetes import KubernetesPlatform
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec
from blackstart.tests.command import until

APPS, MANY = "apps/v1", 500


def test_a_watch_that_fell_behind_is_told_and_lists_anew(api: KubeApi) -> None:
    some = place("configmaps", "kube-system")
    with pytest.raises(ApiError) as told:
        next(api.watch(some, "1", lambda: False))
    assert told.value.status == 410
    followed = Followed(api, some)
    first = next(followed.changes(lambda: False))
    again = next(followed.changes(lambda: False))
    assert first.objects, "every cluster keeps some there"
    assert (first.how, again.listed) == ("first", True)


def test_a_credential_plugin_is_asked(api: KubeApi, cluster: Path, tmp_path: Path) -> None:
    token = api.create(place("serviceaccounts", "default", "default", "", "token"), {"spec": {}})["status"]["token"]
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"print({json.dumps(json.dumps(said))})\n", encoding="utf-8")
    config = yaml.safe_load(cluster.read_text(encoding="utf-8"))
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": [str(plugin)]}
    config["users"][0]["user"] = {"exec": {**command, "interactiveMode": "Never"}}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    opened = KubeApi.opened({"KUBECONFIG": str(path)})
    try:
        answer = opened.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
        assert answer["status"]["userInfo"]["username"] == "system:serviceaccount:default:default"
    finally:
        opened.close()


@pytest.fixture
def many(api: KubeApi) -> Iterator[str]:
    """A Deployment of 500 pods that no node takes: they exist, which is what is looked at."""
    namespace = "blackstart-test-many"
    api.create(place("namespaces"), {"metadata": {"name": namespace}})
    pod = {"containers": [{"name": "c", "image": "nobody/runs:1"}], "nodeSelector": {"nobody": "has"}}
    template = {"metadata": {"labels": {"app": "many"}}, "spec": pod}
    spec = {"replicas": MANY, "selector": {"matchLabels": {"app": "many"}}, "template": template}
    api.create(place("deployments", namespace, "", APPS), {"metadata": {"name": "many"}, "spec": spec})
    try:
        until("all pods", lambda: len(api.items(place("pods", namespace))[0]) == MANY, 120)
        yield namespace
    finally:
        api.delete(place("namespaces", name=namespace))
        until("the namespace to be gone", lambda: api.there(place("namespaces", name=namespace)) is None, 120)


@pytest.mark.timeout(300)
def test_five_hundred_pods_are_found_in_a_moment(api: KubeApi, cluster: Path, many: str) -> None:
    where = Where("kubernetes", Path(), {}, kubernetes=KubernetesSpec(many, "deployment/many"))
    took_s = []
    for _ in range(3):  # the least counts: a busy machine makes the others longer
        with closing(KubernetesPlatform(KubeApi.opened({"KUBECONFIG": str(cluster)}), where)) as platform:
            began = time.perf_counter()
            found = platform.find()
            between = time.perf_counter()
            assert platform.current("many-499") is not None
            took_s.append((between - began, time.perf_counter() - between))
        assert len(found) == MANY
        assert len({target.name for target in found}) == MANY
    assert [min(each) < 2.0 for each in zip(*took_s, strict=True)] == [True, True], took_s
