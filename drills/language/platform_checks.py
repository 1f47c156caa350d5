"""What must fit together in the blocks that say where a service lives, other than on this machine."""

import re
from collections.abc import Mapping
from typing import Any

from ...injectors.platforms.base import WORKERS
from ..service import PORTS, Probe
from .names import nearest
from .nodes import MappingNode, Node
from .problems import Report, shown

Values = Mapping[str, Any]
BESIDE = {"kubernetes": "in-cluster", "docker": "in-network"}
_WORKLOAD = re.compile(r"(deployment|statefulset|daemonset)/[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def check_role(role: Any, place: Node, report: Report) -> None:
    """What is nearly the name of a worker's role would be no worker's, and nothing would protect, ask or compare it."""
    near = nearest(role, WORKERS) if isinstance(role, str) and role not in WORKERS else None
    if near:
        report.add(place, f"{shown(role)} is no role of workers", f"did you mean `{near}`? Otherwise take a name less like it")


def check_workload(values: Values, node: MappingNode, report: Report) -> None:
    """Of the replicas, or of one more component."""
    workload = values.get("workload")
    if workload is not None and not _WORKLOAD.fullmatch(workload):
        report.add(
            node.place("workload"),
            f"{shown(workload)} is no workload that can be drilled",
            "write `deployment/NAME`, `statefulset/NAME` or `daemonset/NAME`",
        )
    check_role(values.get("role"), node.place("role"), report)
    if values.get("role") in {"", "replica"}:
        report.add(
            node.place("role"),
            "a component beside the replicas needs a role of its own",
            "write `gateway`, `store`, ...; the replicas are `kubernetes.workload`",
        )


def check_docker(values: Values, node: MappingNode, report: Report) -> None:
    given = [key for key in ("compose", "label", "containers") if node.get(key) is not None]
    if len(given) != 1:
        report.add(node, f"{len(given)} ways to find the containers", "give exactly one of `compose`, `label` and `containers`")
    if values.get("port") is not None and values["port"] not in PORTS:
        report.add(node.place("port"), f"`port` is {values['port']}, out of range", "write 1 to 65535")


def check_part(values: Values, node: MappingNode, report: Report) -> None:
    check_docker(values, node, report)
    check_role(values.get("role"), node.place("role"), report)
    if values.get("role") in {"", "replica"}:
        report.add(
            node.place("role"),
            "a component beside the replicas needs a role of its own",
            "write `gateway`, `store`, ...; the replicas are what `docker` itself names",
        )


def check_probe_place(platform: str, probe: Any, node: MappingNode, report: Report) -> None:
    """Beside the service there is another place on each platform, and it needs an image."""
    if not isinstance(probe, Probe) or not probe.beside:
        return
    fitting = BESIDE.get(platform)
    if probe.from_ != fitting:
        instead = f"write `from: here` or `from: {fitting}`" if fitting else "write `from: here`"
        report.add(node.place("probe"), f"`from: {probe.from_}` on platform `{platform}`", instead)
    elif probe.image is None:
        report.add(
            node.place("probe"),
            f"`from: {probe.from_}` without an `image`",
            'add one with python3, e.g. `image: "python:3.12-slim"`',
        )
