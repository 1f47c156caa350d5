"""Rules for which something must stand in a pod's own network: an ephemeral container with an agent in it (net_agent.py).

An ephemeral container shares its pod's network namespace, needs no restart, and cannot be taken out of the pod's spec again: after the
undo its entry stays there, ended, until the pod is replaced. So there is one for each fault and pod, and it holds nothing but a
process that sleeps until the deadline; the agent is piped into it as into any other container.
"""

import hashlib
import json
import math
import struct
import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import inet_ntoa
from threading import Event
from typing import Any, Final

from ..values import JSON
from .base import PlatformError, Target, Unsupported, came
from .kube_agents import PodAgents, PodDoors, look
from .kube_api import ApiError, KubeApi, place
from .kube_exec import Container, run_python
from .kube_find import container_of, pod_of, standing_pod
from .net_rooms import OVER, SLEEP, asked, counted, request_of

OURS: Final = "blackstart-net-"
FAULT, RULE = "BLACKSTART_FAULT", "BLACKSTART_RULE"
STANDS_S, LOOK_EVERY_S, SLACK_S = 60.0, 0.2, 60.0  # an image may have to be pulled
HOPELESS, HOPELESS_S = (
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"},
    10.0,
)
ROUTES = "/proc/net/route"
LOCKED = {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "allowPrivilegeEscalation": False}
ROOT = {"runAsUser": 0, "runAsNonRoot": False}  # a capability that was added is effective for root only


@dataclass
class InlineProxies:
    """`image`: with python3 and nft, to put beside a target; None: the service file names none."""

    api: KubeApi
    agents: PodAgents
    image: str | None
    given_up: Event

    def refuse(self, target: Target) -> None:
        """Raises Unsupported where the cluster would not take the container, in its own words."""
        pod = standing_pod(self.api, target)
        try:
            self._add(pod, self._container("blackstart-net-try", "", {}, 1.0), dry_run=True)
        except ApiError as error:
            raise Unsupported(
                f"a container with the capability NET_ADMIN cannot be put beside {target.name}, whose network it would have to "
                f"break from inside: {error}"
            ) from error

    def begin(self, fault: str, target: Target, rule: JSON, ways: Mapping[str, Sequence[str]], deadline_s: float) -> JSON:
        """Send what peers and target open to each other through a proxy in the target's network, or drop what passes between them there;
        what is from `but` passes.
        """
        pod, name = standing_pod(self.api, target), name_of(fault, target)
        self._add(pod, self._container(name, fault, rule, deadline_s + SLACK_S))
        where = self._standing(target, name)
        verb, request = request_of(rule, ways["peers"], [*ways["but"], *self._gateways(where)], name)
        return self.agents.begin(fault, target, verb, request, deadline_s)

    def end(self, fault: str, target: Target) -> JSON:
        """From any process. A pod that is gone took its network along."""
        pod, name = pod_of(self.api, target), name_of(fault, target)
        if pod is None or not any(each["name"] == name for each in _ephemeral(pod)):
            return {"fault": fault, "cleared": False}
        state = _state(pod, name)
        if "terminated" not in state and "running" not in state:  # it never ran, and no agent was ever in it
            return {"fault": fault, "cleared": False}
        if state.get("terminated", {}).get("exitCode") == 0:  # it ends so after an undo, or long after the deadline
            return {"fault": fault, "cleared": False}
        if "running" not in state:
            raise PlatformError(
                f"container {name} of {target.name}, in which the agent was, has ended; what it did is let go by the kernel at "
                "the agent's lease or deadline; delete the pod to be sure"
            )
        answer = self.agents.end(fault, target, target, ())
        where = container_of(target, name)
        asked(self.doors, where, "sweep", fault)
        run_python(self.api, where, f"open({OVER!r}, 'w').close()".encode(), [])
        if not came(lambda: not self._runs(target, name), STANDS_S, self.given_up, LOOK_EVERY_S):
            raise PlatformError(f"{where} does not end")
        return {**answer, "fault": fault, "cleared": True}

    def rules(self, target: Target) -> list[JSON]:
        """Those in force in the target's network, with the connections that met them; by what nft counts there."""
        pod = pod_of(self.api, target)
        found = []
        for each in [container for container in _ephemeral(pod) if _running(pod, container["name"])] if pod else ():
            known = {pair["name"]: pair.get("value", "") for pair in each.get("env") or []}
            if FAULT in known and (
                rule := counted(self.doors, container_of(target, each["name"]), known[FAULT], json.loads(known[RULE]))
            ):
                found.append(rule)
        return found

    @property
    def doors(self) -> PodDoors:
        return PodDoors(self.api)

    def _container(self, name: str, fault: str, rule: JSON, seconds: float) -> JSON:
        if self.image is None:
            raise Unsupported("a container has to stand beside the target; name an image with python3 and nft: probe.image")
        return {
            "name": name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-I", "-S", "-c", SLEEP, str(seconds)],
            "env": [{"name": FAULT, "value": fault}, {"name": RULE, "value": json.dumps(rule)}],
            "securityContext": {**LOCKED, **ROOT},
        }

    def _add(self, pod: JSON, container: JSON, *, dry_run: bool = False) -> None:
        meta = pod["metadata"]
        path = place("pods", meta["namespace"], meta["name"], more="ephemeralcontainers")
        same: JSON = {"op": "test", "path": "/metadata/uid", "value": meta["uid"]}
        there = "ephemeralContainers" in pod["spec"]
        added: Any = container if there else [container]
        where = "/spec/ephemeralContainers/-" if there else "/spec/ephemeralContainers"
        self.api.patch(path + ("?dryRun=All" if dry_run else ""), [same, {"op": "add", "path": where, "value": added}])

    def _standing(self, target: Target, name: str) -> Container:
        hopeless_since = math.inf

        def decided() -> bool:
            nonlocal hopeless_since
            state = _state(standing_pod(self.api, target), name)
            hopeless = state.get("waiting", {}).get("reason") in HOPELESS
            hopeless_since = min(hopeless_since, time.monotonic()) if hopeless else math.inf
            return "running" in state or time.monotonic() - hopeless_since > HOPELESS_S

        came(decided, STANDS_S, self.given_up, LOOK_EVERY_S)
        state = _state(standing_pod(self.api, target), name)
        if "running" in state:
            return container_of(target, name)
        said = "; ".join(str(each[key]) for each in state.values() for key in ("reason", "message") if each.get(key))
        raise PlatformError(
            f"container {name} (image {self.image}) does not run beside {target.name}: {said or 'nobody says why'}"
        )

    def _runs(self, target: Target, name: str) -> bool:
        return _running(standing_pod(self.api, target), name)

    def _gateways(self, where: Container) -> list[str]:
        """The node's own end of the pod's network, from which the kubelet probes."""
        with suppress(PlatformError):
            rows = (
                b64decode(look(self.api, where, "read", {"path": ROUTES, "limit": 1 << 16})["content"]).decode().splitlines()[1:]
            )
            gateways = [row.split()[2] for row in rows if row.split()[1] == "00000000"]
            return [inet_ntoa(struct.pack("<I", int(each, 16))) for each in gateways if int(each, 16)]
        return []


def name_of(fault: str, target: Target) -> str:
    return OURS + hashlib.sha256(f"{fault}/{target.name}".encode()).hexdigest()[:12]


def _ephemeral(pod: JSON) -> list[JSON]:
    found: list[JSON] = pod["spec"].get("ephemeralContainers") or []
    return found


def _state(pod: JSON, name: str) -> JSON:
    statuses = (pod.get("status") or {}).get("ephemeralContainerStatuses") or []
    state: JSON = next((each["state"] for each in statuses if each["name"] == name), {})
    return state


def _running(pod: JSON, name: str) -> bool:
    return "running" in _state(pod, name)


def running_beside(pod: JSON) -> list[str]:
    """Ephemeral containers of ours that run: agents may have left their records there."""
    return [each["name"] for each in _ephemeral(pod) if each["name"].startswith(OURS) and _running(pod, each["name"])]
