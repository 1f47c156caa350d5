"""What must fit together in the blocks that say where a service lives, other than on this machine."""

import re
from collections.abc import Mapping
from typing import Any

from .nodes import MappingNode
from .problems import Report, shown

Values = Mapping[str, Any]
_WORKLOAD = re.compile(r"(deployment|statefulset|daemonset)/[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def check_workload(values: Values, node: MappingNode, report: Report) -> None:
    """Of the replicas, or of one more component."""
    workload = values.get("workload")
    if workload is not None and not _WORKLOAD.fullmatch(workload):
        report.add(
            node.place("workload"),
            f"{shown(workload)} is no workload that can be drilled",
            "write `deployment/NAME`, `statefulset/NAME` or `daemonset/NAME`",
        )
    if values.get("role") in {"", "replica"}:
        report.add(
            node.place("role"),
            "a component beside the replicas needs a role of its own",
            "write `gateway`, `store`, ...; the replicas are `kubernetes.workload`",
        )


def check_docker(_values: Values, node: MappingNode, report: Report) -> None:
    given = [key for key in ("compose", "label", "containers") if node.get(key) is not None]
    if len(given) != 1:
        report.add(node, f"{len(given)} ways to find the containers", "give exactly one of `compose`, `label` and `containers`")
