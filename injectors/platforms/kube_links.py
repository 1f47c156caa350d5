"""The ways between pods, and theirs to the resolver of names, cut by a NetworkPolicy, or by a firewall or a proxy in the pod's own
network (kube_inline.py): what a cluster has in the place of this machine's link proxies.

A policy only ever allows. So the one that cuts allows all the others, and cuts nothing where a policy of somebody else selects the
same pod: then it is refused. Pods are marked by a label for the policy to find; a guard puts labels and policy back. Whether the
cluster enforces policies at all is told by the second source alone, a connection from inside a peer.

Connections that stand when the policy comes go on in most networks; new ones are dropped. The firewall drops both.
"""

import hashlib
import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from ..values import JSON
from .abilities import NAMES
from .base import PlatformError, Target, Unsupported
from .kube_agents import PodDoors, source
from .kube_api import KubeApi, place
from .kube_exec import run_python
from .kube_find import Finder, container_of, standing_pod
from .kube_guard import Guards
from .kube_inline import InlineProxies
from .kube_pods import selects
from .kube_records import OURS
from .link_probe import CONNECT_LIMIT_S
from .net_rooms import ANYBODY, addresses_outside, best_seen, ends_of, outside_of
from .object_guard import MARK

NETWORKING = "networking.k8s.io/v1"
CUT, PEER = "blackstart/cut", "blackstart/peer"
EVERYWHERE = ("0.0.0.0/0", "::/0")
IGNORED = "the policy is there, and the cluster's network does not enforce it"
SLACK_S = 10.0
KNOWN = "kubernetes.default.svc"  # a name that every cluster's resolver knows
BUT_DNS = [{"protocol": kind, "port": low, "endPort": high} for kind in ("TCP", "UDP") for low, high in ((1, 52), (54, 65535))]


class PolicyLinks:
    """A link is a target with the peers that it is cut off from: `llm-0--gateway,store`, or `llm-0--anybody`."""

    api: KubeApi
    finder: Finder
    guards: Guards
    inline: InlineProxies
    rules_are_the_path: bool = False  # the network carries out later what a policy says

    def links(self, targets: tuple[Target, ...], peers: tuple[str, ...], rule: JSON) -> tuple[str, ...]:
        found, by_policy = [], _is_policy(rule)
        if by_policy:
            self.guards.needed()
        for target in targets:
            link = f"{target.name}--{','.join(peers) or ANYBODY}"
            _, others = self._ends(link)
            if by_policy:
                self._refuse_others(target)
            else:
                self.inline.refuse(target)
            for each in (target, *others):
                self._addresses(each)
            self._outside(target, link)
            if not others and peers != (NAMES,) and not outside_of(link):
                raise Unsupported(f"nothing but {target.name} is there to prove from that it is cut off")
            found.append(link)
        return tuple(found)

    def link_begin(self, fault: str, link: str, rule: JSON, deadline_s: float) -> JSON:
        target, others = self._ends(link)
        mark = mark_of(fault, link)
        cut_off = [] if link.endswith((f"--{ANYBODY}", f"--{NAMES}")) else others
        if not _is_policy(rule):
            peers = [address for each in cut_off for address in self._addresses(each)[0]] + self._outside(target, link)
            node = (standing_pod(self.api, target)["status"] or {}).get("hostIPs") or []
            ways = {"peers": peers, "but": [each["ip"] for each in node]}
            return self.inline.begin(fault, target, {key: rule[key] for key in rule if key != "towards"}, ways, deadline_s)
        changes = [self._labelled(target, CUT, mark), *(self._labelled(each, PEER, mark) for each in cut_off)]
        path = place("networkpolicies", self.finder.spec.namespace, mark, NETWORKING)
        body = _policy(
            mark,
            fault,
            _no_names()
            if rule["type"] == "names"
            else _apart(mark, [address for each in cut_off for address in self._addresses(each)[0]]),
        )
        changes.append({"how": "object", "object": path, "mark": fault, "body": body})
        self.guards.begin(f"{fault}/{link}", changes, self.finder.spec.workload, deadline_s)
        return {"fault": fault, "policy": mark}

    def link_end(self, fault: str, link: str, rule: JSON) -> JSON:
        """From what is there: it is told by its mark, so that nothing needs to be remembered."""
        if not _is_policy(rule):
            name = link.rpartition("--")[0]
            target = next((each for each in self.finder.all() if each.name == name), None)
            return self.inline.end(fault, target) if target else {"fault": fault, "cleared": False}
        mark, namespace = mark_of(fault, link), self.finder.spec.namespace
        changes: list[JSON] = []
        for key in (CUT, PEER):
            marked, _ = self.api.items(place("pods", namespace), labels=f"{key}={mark}")
            changes += [_label(pod, key, mark) for pod in marked]
        path = place("networkpolicies", namespace, mark, NETWORKING)
        changes.append({"how": "object", "object": path, "mark": fault})
        return self.guards.end(f"{fault}/{link}", changes)

    def link_rules(self, link: str) -> list[JSON]:
        """Policies of ours that select the target now, and what stands in its own network."""
        target, _ = self._ends(link)
        return [*self._policies(target), *self.inline.rules(target)]

    def _policies(self, target: Target) -> list[JSON]:
        pod = standing_pod(self.api, target)
        mark = (pod["metadata"].get("labels") or {}).get(CUT)
        found = self.api.there(place("networkpolicies", self.finder.spec.namespace, mark, NETWORKING)) if mark else None
        return [] if found is None else [{"fault": found["metadata"]["annotations"][MARK], "rule": found["spec"]}]

    def link_probe(self, link: str, limit_s: float, want: int = 0) -> JSON:
        """What a client inside a peer meets on its way to the target, or one inside the target that asks for a name."""
        target, others = self._ends(link)
        if link.endswith(f"--{NAMES}"):
            return self._probed(target, target, {"name": KNOWN, "limit_s": limit_s})
        own, at = self._addresses(target)
        told: JSON = {"limit_s": limit_s, "want": want}
        seen = [self._probed(target, target, {"host": host, "port": port, **told}) for host, port in outside_of(link)]
        problems = []
        for each in others:  # the one that fares best counts: it is cut off only where all are
            try:
                seen.append(self._probed(target, each, {"host": own[0], "port": at, **told}))
            except Unsupported as error:  # no python3 there
                problems.append(str(error))
        if not seen:
            raise Unsupported(f"from nowhere can it be proven that {target.name} is cut off: {'; '.join(problems)}")
        return best_seen(seen)

    def _probed(self, target: Target, inside: Target, request: JSON) -> JSON:
        """What a client there meets on its way to the target. Silence counts once it was met twice, and before there was a connection:
        a slow answer is no cut.
        """
        where, limit_s = container_of(inside, inside.details["container"]), CONNECT_LIMIT_S + request["limit_s"] + SLACK_S
        for _ in range(2):
            _, said, errors = run_python(self.api, where, source("platforms/link_probe.py"), [json.dumps(request)], limit_s)
            if not said:
                raise PlatformError(f"a connection from {where}: {errors.strip()[-300:]}")
            seen: JSON = {**json.loads(said), "from": inside.name}
            if seen["outcome"] == "silent" and seen.get("connected") and self._policies(target):
                seen["outcome"] = "slow"
            if seen["outcome"] != "silent":
                break
        ignored = seen["outcome"] == "answered" and self._policies(target)
        return {**seen, **({"note": IGNORED} if ignored else {})}

    def _ends(self, link: str) -> tuple[Target, list[Target]]:
        """The target, and its peers as they stand now; of `anybody` the other parts of the service."""
        return ends_of(link, self.finder.all())

    def _outside(self, target: Target, link: str) -> list[str]:
        """Addresses of the peers that are no part of the service, as the target knows them."""
        where = container_of(target, target.details["container"])
        return addresses_outside(PodDoors(self.api), where, [host for host, _ in outside_of(link)])

    def _addresses(self, target: Target) -> tuple[list[str], int]:
        """Of both families, where it has both; the first is the one that its URL has."""
        url, pod = urlsplit(str(target.details["url"] or "")), standing_pod(self.api, target)
        if not url.hostname or not url.port:
            raise Unsupported(f"{target.name} declares no port, so no connection to it can be tried")
        if pod["spec"].get("hostNetwork"):
            raise Unsupported(f"{target.name} lives in its node's network, where policies do not reach")
        every = [each["ip"] for each in pod["status"].get("podIPs") or []]
        return [url.hostname, *(each for each in every if each != url.hostname)], url.port

    def _labelled(self, target: Target, key: str, mark: str) -> JSON:
        return _label(standing_pod(self.api, target), key, mark)

    def _refuse_others(self, target: Target) -> None:
        labels = standing_pod(self.api, target)["metadata"].get("labels") or {}
        for each in self.api.items(place("networkpolicies", self.finder.spec.namespace, group=NETWORKING))[0]:
            if selects(each["spec"].get("podSelector") or {}, labels):
                name = each["metadata"]["name"]
                raise Unsupported(
                    f"NetworkPolicy {name} allows {target.name} connections, and no other policy can take them back"
                )


def _is_policy(rule: JSON) -> bool:
    """Whether a policy can do it: no more than cut what begins, both ways. For the rest something has to be in the target's network."""
    return rule["type"] == "names" or (rule["type"] == "partition" and not rule["standing"])


def mark_of(fault: str, link: str) -> str:
    return f"blackstart-{hashlib.sha256(f'{fault}/{link}'.encode()).hexdigest()[:12]}"


def _label(pod: JSON, key: str, mark: str) -> JSON:
    meta = pod["metadata"]
    path = place("pods", meta["namespace"], meta["name"])
    where = ["metadata", "labels", key]
    return {"how": "field", "object": path, "uid": meta["uid"], "path": where, "before": None, "ours": mark}


def _policy(mark: str, fault: str, what: JSON) -> JSON:
    meta = {"name": mark, "labels": OURS, "annotations": {MARK: fault}}
    spec = {"podSelector": {"matchLabels": {CUT: mark}}, **what}
    return {"apiVersion": NETWORKING, "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


def _apart(mark: str, addresses: Sequence[str]) -> JSON:
    """Nothing is allowed; with addresses all that is none of theirs: pods without the mark, and addresses outside the cluster."""
    types: JSON = {"policyTypes": ["Ingress", "Egress"]}
    if not addresses:
        return types
    strangers = {"matchExpressions": [{"key": PEER, "operator": "NotIn", "values": [mark]}]}
    allowed: list[JSON] = [{"namespaceSelector": {}, "podSelector": strangers}]
    for network in EVERYWHERE:
        within = [f"{each}/{128 if ':' in each else 32}" for each in addresses if (":" in each) == (":" in network)]
        allowed.append({"ipBlock": {"cidr": network, **({"except": within} if within else {})}})
    return {**types, "ingress": [{"from": allowed}], "egress": [{"to": allowed}]}


def _no_names() -> JSON:
    return {"policyTypes": ["Egress"], "egress": [{"ports": BUT_DNS}]}
