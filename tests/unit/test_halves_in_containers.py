"""Prefill and decode workers as a component in a cluster or on a Docker engine: what of a replica holds for them there."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from blackstart.drills.plan import _beyond_blast_radius
from blackstart.drills.scenario import Objectives, Scenario
from blackstart.drills.service import Endpoint, Protect, Service
from blackstart.drills.watched import replica_urls
from blackstart.injectors.platforms import docker_find, kube_find
from blackstart.injectors.platforms.base import Target
from blackstart.injectors.platforms.docker_spec import DockerSpec, Part
from blackstart.injectors.platforms.kubernetes_spec import KubernetesSpec, Workload
from blackstart.tests.unit.small_engine import Engine, container
from blackstart.tests.unit.test_kube_find import pod


def of_kubernetes(role: str) -> Target:
    spec = KubernetesSpec("models", "deployment/llm", components=(Workload(role, "deployment/other"),))
    finder = kube_find.Finder(cast(Any, None), spec)
    given, kind, name = finder.workloads()[-1]
    one = pod("a", containers=[{"name": "c", "ports": [{"containerPort": 8000}]}])
    one["status"] = {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    return finder._target("other-0", kube_find.Owned(given, kind, name, {}, (one,)), one)


def of_docker(role: str) -> Target:
    spec = DockerSpec(containers=("shop-llm-1",), components=(Part(role, containers=("other",)),))
    finder = docker_find.Finder(Engine(container()), spec, lambda _: True)  # type: ignore[arg-type]
    return finder._target("other", spec.parts()[-1], container())


@pytest.mark.parametrize("found", [of_kubernetes, of_docker])
@pytest.mark.parametrize(("role", "asked", "protected"), [("prefill", 0, 1), ("replica", 1, 1), ("gateway", 0, 0)])
def test_such_a_component_is_protected_and_not_asked_by_itself(found: Any, role: str, asked: int, protected: int) -> None:
    target = found(role)
    assert target.role == role
    assert target.details["url"]
    assert len(replica_urls([target])) == asked
    service = Service("svc", "kubernetes", Endpoint(), protect=Protect(min_healthy=1))
    hit = SimpleNamespace(targets=(target,))
    reasons = _beyond_blast_radius(Scenario("x", (), Objectives()), service, [cast(Any, hit)], [target])
    assert len(reasons) == protected
    assert all(f"0 of 1 targets of role {role} would stay untouched" in each for each in reasons)
