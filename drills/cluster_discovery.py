"""init --from-cluster: look at a workload and at the service in front of it, and write a service profile and a first scenario."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from ..injectors.platforms import Where
from ..injectors.platforms.base import PlatformError, Target
from ..injectors.platforms.kube_api import KubeApi, place
from ..injectors.platforms.kube_find import Owned
from ..injectors.platforms.kube_pods import main_container
from ..injectors.platforms.kubernetes import KubernetesPlatform
from ..injectors.platforms.kubernetes_spec import KubernetesSpec
from ..injectors.values import JSON
from .first_files import Written, asked, free, with_engine, write
from .refusal import Refused

IMAGE_FOR = "for the guard of what a drill changes in the cluster"


def write_cluster_files(folder: Path, workload: str, namespace: str, environment: Mapping[str, str]) -> Written:
    """service.yaml and scenario.yaml for a workload in the current context's cluster. Raises Refused, PlatformError."""
    free(folder)
    with closing(KubeApi.opened(environment)) as api:
        platform = KubernetesPlatform(api, Where("kubernetes", Path(), {}, kubernetes=KubernetesSpec(namespace, workload)))
        (owned,) = platform.finder.owned()
        name, port = _front(api, namespace, owned)
        url = platform.address(name, port)
        commands = _commands(platform, platform.find())
        answers = with_engine(asked(url), url, commands)
    image = _image(owned) if commands is not None else None
    lines = ["apiVersion: blackstart/v1", "kind: Service", f"name: {owned.name.replace('.', '-')[:63]}", "platform: kubernetes"]
    context = "" if api.context == "in-cluster" else f", context: {json.dumps(api.context)}"
    lines.append(f"kubernetes: {{namespace: {json.dumps(namespace)}, workload: {json.dumps(workload)}{context}}}")
    lines += answers.lines([f"service: {json.dumps(name)}", f"port: {port}"])
    lines.append(answers.roles_line(commands))
    lines.append(
        f"{f'probe: {{image: {json.dumps(image)}}}' if image else '# probe: {image: ...}'}    # any with python3, {IMAGE_FOR}"
    )
    lines.append(answers.model_line())
    return write(folder, "\n".join(lines) + "\n", SCENARIO, _warnings(owned, url))


def _front(api: KubeApi, namespace: str, owned: Owned) -> tuple[str, int]:
    """The Service that leads to the workload's pods, and its port; one with an address of its own before a headless one."""
    labels = owned.workload["spec"]["template"]["metadata"].get("labels") or {}
    services, _ = api.items(place("services", namespace))
    leading = [each for each in services if _selects(each, labels) and each["spec"].get("ports")]
    if not leading:
        raise Refused(
            [f"no Service in namespace {namespace} leads to {owned.kind}/{owned.name}: make one, and name it under `endpoint`"]
        )
    best = min(leading, key=lambda each: (each["spec"].get("clusterIP") == "None", each["metadata"]["name"]))
    ports = sorted(best["spec"]["ports"], key=lambda each: "http" not in str(each.get("name") or ""))
    return best["metadata"]["name"], int(ports[0]["port"])


def _selects(service: JSON, labels: Mapping[str, str]) -> bool:
    selector = service["spec"].get("selector") or {}
    return bool(selector) and selector.items() <= labels.items()


def _commands(platform: KubernetesPlatform, targets: Sequence[Target]) -> list[str] | None:
    """Command lines inside a pod; None where nobody may look, or there is no python3 to look with."""
    with suppress(PlatformError):
        return [command for target in targets[:1] for command in platform.commands(target)]
    return None


def _image(owned: Owned) -> str | None:
    """The workload's own, which every node of it has; None where it may be another one tomorrow."""
    template = owned.workload["spec"]["template"]
    main = main_container(template)
    image = str(next(each["image"] for each in template["spec"]["containers"] if each["name"] == main))
    _, _, tag = image.rpartition("/")[2].partition(":")
    return image if "@" in image or tag not in {"", "latest"} else None


def _warnings(owned: Owned, url: str) -> tuple[str, ...]:
    found = [f"it is measured from here, at {url}"]
    if owned.wanted < 2:
        found.append(f"{owned.kind}/{owned.name} has one pod: every fault that hits it is an outage")
    return tuple(found)


SCENARIO = """\
apiVersion: blackstart/v1
kind: Scenario
name: first-drill
title: A pod dies at once
steady_state: {hold: 10s, success: ">= 99%"}
faults:
  - {kind: replica-kill, target: {count: 1}, at: 0s}    # `blackstart faults` lists what else can be injected
objectives: {rto: 10s, time_to_redundancy: 2m}
observe: 3m
settle: 10s
"""
