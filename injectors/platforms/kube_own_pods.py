"""Pods of our own beside a service, from any image with python3: what the restricted Pod Security profile allows, and what is wrong with one."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..values import JSON

BATCH: Final = "batch/v1"
USER = 65532  # nobody that an image would know
TMP = "/tmp"  # noqa: S108 - a volume of the pod's own


def own_pod(name: str, image: str, command: Sequence[str], room: str, container: Mapping[str, Any], **more: Any) -> JSON:
    """A pod spec of one container with a /tmp of that size. `container` and `more` add to the container and the pod, or replace."""
    locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    mounts = [{"name": "tmp", "mountPath": TMP}, *container.get("volumeMounts", ())]
    whole = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-I", "-S", *command],
        # What a prober uses, and no limit of the processor: one that is held back measures itself.
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": locked,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **container,
        "volumeMounts": mounts,
    }
    nobody = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 2,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {**nobody, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [whole],
        **more,
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": room}}, *more.get("volumes", ())],
    }


def why(pod: JSON) -> str:
    """What the kubelet or the scheduler says of a pod that does not run, or its program's last words."""
    status = pod.get("status") or {}
    said = [str(status[key]) for key in ("reason", "message") if status.get(key)]
    for each in status.get("containerStatuses") or []:
        state = each["state"].get("waiting") or each["state"].get("terminated") or {}
        said += [str(state[key]) for key in ("reason", "message") if state.get(key)]
    said += [str(each["message"]) for each in status.get("conditions") or [] if each["status"] == "False" and each.get("message")]
    return "; ".join(dict.fromkeys(said)) or str(status.get("phase"))
