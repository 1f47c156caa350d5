"""Which pods have a volume that files of a service lie on, and are no part of the service.

They are looked for in the service's own namespace: no more can be listed with a drill's rights, and a claim has no pods elsewhere.
"""

import json
from collections.abc import Iterator, Sequence

from ..values import JSON
from .base import Target
from .kube_api import place
from .kube_cuttable import is_ours
from .kube_find import Finder, standing_pod
from .kube_pods import OVER, PODS_OWN, mounted, owner_of
from .volume_paths import joined, touch

CONTAINERS = ("containers", "initContainers", "ephemeralContainers")


def strangers(finder: Finder, files: Sequence[tuple[Target, str]]) -> str:
    """The first of them, in words; empty: there is none. One that is being deleted still runs, and one that is not started soon will."""
    held = _held(finder, files)
    owners = {owner for each in finder.empty() for owner in each.owners}
    for pod in finder.api.items(place("pods", finder.spec.namespace))[0]:
        if owner_of(pod) in owners or is_ours(pod["metadata"]) or pod["status"].get("phase") in OVER:
            continue
        theirs = list(_mounts(pod))
        for target, path, (source, at) in held:
            if found := next((root for same, root in theirs if same == source and touch(at, root)), None):
                part = "" if found == "/" else f" ({found})"
                return f"pod {pod['metadata']['name']} has {source}{part}, and so {path} of {target.name}"
    return ""


def _held(finder: Finder, files: Sequence[tuple[Target, str]]) -> list[tuple[Target, str, tuple[str, str]]]:
    """Those that lie on a volume, each with what that is of and its place there."""
    pods: dict[str, JSON] = {}
    found = []
    for target, path in files:
        if target.identity not in pods:
            pods[target.identity] = standing_pod(finder.api, target)
        pod = pods[target.identity]
        mount, volume = mounted(pod, target.details["container"], path)
        if mount:
            inside = path[len(mount["mountPath"].rstrip("/")) :]
            found.append((target, path, _place(pod, mount, volume, inside)))
    return found


def _mounts(pod: JSON) -> Iterator[tuple[str, str]]:
    """What its containers have: what each mount is of, and its place there."""
    volumes = {each["name"]: each for each in pod["spec"].get("volumes") or []}
    for kind in CONTAINERS:
        for container in pod["spec"].get(kind) or []:
            for mount in container.get("volumeMounts") or []:
                yield _place(pod, mount, volumes[mount["name"]])


def _place(pod: JSON, mount: JSON, volume: JSON, inside: str = "") -> tuple[str, str]:
    source, root = _storage(pod, volume)
    if mount.get("subPathExpr"):  # it may lead to anything in there
        return source, joined(root)
    return source, joined(root, mount.get("subPath") or "", inside)


def _storage(pod: JSON, volume: JSON) -> tuple[str, str]:
    """What a volume is of, named alike for all pods that have it, and where in that it begins."""
    meta = pod["metadata"]
    if claim := volume.get("persistentVolumeClaim"):
        return f"claim {claim['claimName']}", "/"
    if "ephemeral" in volume:
        return f"claim {meta['name']}-{volume['name']}", "/"
    if host := volume.get("hostPath"):
        return f"the disk of node {pod['spec'].get('nodeName')}", host["path"]
    if nfs := volume.get("nfs"):
        return f"NFS server {nfs['server']}", nfs["path"]
    if PODS_OWN & volume.keys():
        return f"pod {meta['uid']}", "/"
    kinds = {kind: about for kind, about in volume.items() if kind != "name"}
    told = {kind: {key: each for key, each in about.items() if key != "readOnly"} for kind, about in kinds.items()}
    return f"volume {json.dumps(told, sort_keys=True)}", "/"
