"""What keeps the pods of a demo in a cluster from being ready, in words that say what to do about it."""

import json
from contextlib import suppress

from ..injectors.platforms.base import PlatformError
from ..injectors.platforms.kube_api import KubeApi, place
from ..injectors.values import JSON

# The kubelet has tried, failed, and will not do better by itself soon.
HOPELESS = {"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CrashLoopBackOff"}
WORDS_OF = 3  # pods whose last log lines are shown: more would hide the first


class EveryPod:
    """The pods of one namespace, looked at again and again."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.pods: list[JSON] = []

    def missing(self) -> str:
        """Which pods are not ready and why; empty when as many as the workloads want are."""
        self.pods = self.api.items(place("pods", self.namespace))[0]
        wanted = self.api.items(place("statefulsets", self.namespace, group="apps/v1"))[0]
        absent = sum(each["spec"]["replicas"] for each in wanted) - len(self.pods)
        troubles = [trouble(pod) for pod in self.pods]
        return "; ".join([*filter(None, troubles), *([f"{absent} pods not created yet"] if absent > 0 else [])])

    def hopeless(self) -> bool:
        """Whether a pod is in a state that waiting does not end."""
        return any(map(hopeless, self.pods))

    def node_address(self, name: str) -> str:
        """The address of the node that runs this pod: a NodePort is open there for as long as the pod can be reached at all."""
        (pod,) = (pod for pod in self.pods if pod["metadata"]["name"] == name)
        return str(pod["status"]["hostIP"])

    def last_words(self) -> str:
        """What the kubelet and the last log lines say about pods that are not ready, and the namespace's last warning."""
        worst_first = sorted(filter(trouble, self.pods), key=lambda pod: not hopeless(pod))
        lines = [f"{pod['metadata']['name']}: {self._said(pod)}" for pod in worst_first[:WORDS_OF]]
        with suppress(PlatformError):
            warnings = self.api.items(place("events", self.namespace), fields="type=Warning")[0]
            latest = sorted(warnings, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime")))
            lines += [f"{each['involvedObject']['name']}: {each['reason']}: {each['message']}" for each in latest[-1:]]
        return "\n".join(lines)

    def _said(self, pod: JSON) -> str:
        """The API client speaks JSON: a line of JSON comes parsed, and anything else as `message`."""
        found = [f"{reason}: {message}" for reason, message in waiting(pod) if message]
        restarted = any(status["restartCount"] for status in statuses(pod))
        path = place("pods", self.namespace, pod["metadata"]["name"], more="log")
        with suppress(PlatformError):  # a container that never started has no log
            said = self.api.get(path, tailLines=3, previous="true" if restarted else None)
            found.append(f"its log ends with: {said['message'].strip() if set(said) == {'message'} else json.dumps(said)}")
        return "; ".join(found) or "nothing is known"


def statuses(pod: JSON) -> list[JSON]:
    """Of all its containers, in the order in which they start."""
    status = pod["status"]
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def waiting(pod: JSON) -> list[tuple[str, str]]:
    """(reason, message) of each container that does not run and has not done its work."""
    found = []
    for status in statuses(pod):
        for state in (status["state"].get("waiting"), status["state"].get("terminated")):
            if state and state.get("exitCode") != 0:
                code = f"exit code {state['exitCode']}" if "exitCode" in state else ""
                found.append((str(state.get("reason")), state.get("message") or code))
    return found


def hopeless(pod: JSON) -> bool:
    return any(reason in HOPELESS for reason, _ in waiting(pod))


def trouble(pod: JSON) -> str:
    """In a few words in what way this pod is not ready; empty when it is."""
    conditions = {each["type"]: each for each in pod["status"].get("conditions", ())}
    if conditions.get("Ready", {}).get("status") == "True":
        return ""
    name = pod["metadata"]["name"]
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{name}: {scheduled.get('reason')}: {scheduled.get('message')}"
    return f"{name}: {next((reason for reason, _ in waiting(pod)), 'not ready')}"
