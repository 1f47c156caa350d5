"""Pods of our own beside a service, from any image with python3: what the restricted Pod Security profile allows, and what is wrong with one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..values import JSON
from .base import GivenUp, PlatformError
from .exec_agents import packed as as_line
from .kube_pods import is_ending, runs

BATCH: Final = "batch/v1"
BEGIN_S, HOPELESS_S, LOOK_S = 120.0, 20.0, 0.2
HOPELESS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
}
BOOT = "import sys,zlib,base64;exec(compile(zlib.decompress(base64.b64decode(sys.argv.pop(1))),'blackstart','exec'))"
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


def packed(source: bytes, *arguments: str) -> list[str]:
    """A one-file program as what python3 is started with: it lies nowhere in the image."""
    return ["-c", BOOT, as_line(source).decode("ascii").strip(), *arguments]


def why(pod: JSON) -> str:
    """What the kubelet or the scheduler says of a pod that does not run, or its program's last words."""
    status = pod.get("status") or {}
    said = [str(status[key]) for key in ("reason", "message") if status.get(key)]
    for each in status.get("containerStatuses") or []:
        state = each["state"].get("waiting") or each["state"].get("terminated") or {}
        said += [str(state[key]) for key in ("reason", "message") if state.get(key)]
    said += [str(each["message"]) for each in status.get("conditions") or [] if each["status"] == "False" and each.get("message")]
    return "; ".join(dict.fromkeys(said)) or str(status.get("phase"))


def await_running(
    pods: Callable[[], list[JSON]], what: str, namespace: str, given_up: Callable[[float], bool], number: int = 1
) -> None:
    """Until so many of these pods run. `given_up` lets so many seconds pass, and says whether to stop waiting.

    Raises PlatformError with what is known of the pod, GivenUp.
    """
    waited = hopeless_s = 0.0
    while sum(map(runs, found := pods())) < number:
        idle = [pod for pod in found if is_ending(pod)] or [pod for pod in found if not runs(pod)]
        hopeless_s = hopeless_s + LOOK_S if len(found) < number or any(map(_stuck, idle)) else 0.0
        if waited >= BEGIN_S or hopeless_s >= HOPELESS_S or any(map(is_ending, found)):
            too_few = f"the cluster makes {len(found) or 'none'}: a quota or an admission rule may forbid it"
            problem = why(max(idle, key=_stuck)) if idle else too_few
            raise PlatformError(f"{what} does not run in namespace {namespace}: {problem}")
        if given_up(LOOK_S):
            raise GivenUp("the drill was stopped meanwhile")
        waited += LOOK_S


def _stuck(pod: JSON) -> bool:
    """Whether the kubelet has tried, failed, and will not do better by itself soon."""
    states = [each["state"] for each in pod["status"].get("containerStatuses") or []]
    return any((state.get("waiting") or {}).get("reason") in HOPELESS for state in states)
