"""Faults in the path between two components: by the link proxy that stands there (`process.links`), in a cluster by a NetworkPolicy or a
firewall in the target's own network, on Docker by such a firewall.

A partition, or a delay, reset or stall of inline.py, is one rule on every link that joins the targets with their peers. The rule ends
with the control connection that this process holds, at its deadline, or with the proxy. Proof is an ordinary client's connection
through the same link, compared with one made before the fault: it goes silent, late or is reset.
"""

import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, cast

from .base import Differs, Evidence, Injector, NotYet, Privilege, Refusal, Undo
from .means import CUT, LINK, NO_NAMES, Means
from .platforms.abilities import NAMES, Links, outside
from .platforms.base import Platform, PlatformError, Target, Unavailable
from .values import JSON

PROBE_LIMIT_S = 2.0  # for an answer without a fault
SILENCE_S = 0.5  # this long, and ten times the answer time before the fault, counts as silence
SILENCE_LIMIT_S = 5.0
# SERVICE.NAMESPACE.svc, with or without the cluster's domain: https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/
OF_A_CLUSTER = re.compile(r"[^.]+\.[^.]+\.svc(\..+)?", re.IGNORECASE)
ANSWERS = {"answered", "closed"}  # an orderly end is a sign of life, too
PEERS = (
    "the other side: roles or component names, `client`, in containers also HOST:PORT of what is no part of the service (that whole host, and the port tells where it is proven); none: "
    "everybody with a link to the target"
)


class ProbedLinks(Links, Protocol):
    """Links through which an ordinary client's connection can be made, as the second source."""

    def link_probe(self, link: str, limit_s: float, want: int = 0) -> JSON:
        """Connect, ask, read more than `want` bytes: {outcome, received, first_byte_s}."""


def links_of(platform: Platform) -> ProbedLinks:
    if not hasattr(platform, "link_probe"):
        raise Refusal(f"not injecting: platform {platform.name} has no links that could be cut")
    return cast(ProbedLinks, platform)


class LinkFault(Injector):
    """One rule on every link between targets and peers. Subclasses say which rule, and what a client meets under it."""

    done_by: ClassVar[Means] = LINK
    proven_by: ClassVar[str] = "an ordinary client's connection through the same link, compared with one made before"
    undone_by: ClassVar[str] = "the link proxy drops the rule"
    platforms: ClassVar[frozenset[str]] = frozenset({"process"})
    privilege: ClassVar[Privilege] = Privilege.API
    peers: tuple[str, ...]

    def privilege_on(self, platform: str) -> Privilege:
        """On processes the proxy stands in the path already; on Docker something always has to stand in the target's network."""
        return {"process": Privilege.API, "docker": Privilege.EPHEMERAL}.get(platform, self.privilege)

    @property
    def means_on(self) -> frozenset[str]:
        """No link proxy stands in the way to what is no part of the service, and only a cluster has the names of a cluster's Services."""
        hosts = [host for host, _ in outside(self.peers)]
        if any(OF_A_CLUSTER.fullmatch(host) for host in hosts):
            return self.platforms & {"kubernetes"}
        return self.platforms - {"process"} if hosts else self.platforms

    @abstractmethod
    def rule(self) -> JSON:
        """The proxy's rule, with `direction` seen from the targets."""

    @abstractmethod
    def proven(self, before: JSON, seen: JSON) -> bool:
        """Whether a client that met `seen`, where it had met `before`, met this fault."""

    def want(self) -> int:
        """How many bytes of answer a probe must go beyond to meet the fault."""
        return 0

    def limit_s(self, before: JSON) -> float:
        """How long a probe waits for the next byte under the fault."""
        return min(max(SILENCE_S, 10.0 * float(before["first_byte_s"])), SILENCE_LIMIT_S)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        links = links_of(platform)
        joined = links.links(targets, self.peers, self.rule())
        before = {link: self._look(links, link) for link in joined}
        return Undo(targets, {"links": before})

    def _look(self, links: ProbedLinks, link: str) -> JSON:
        """The rules in force, all of them foreign, and what a client meets now."""
        try:
            rules = links.link_rules(link)
            seen = links.link_probe(link, PROBE_LIMIT_S, self.want())
        except PlatformError as error:
            raise Refusal(f"not injecting: {error}") from error
        if seen["outcome"] not in ANSWERS | {"short"}:
            others = f" (rules of others are on it: {', '.join(rule['fault'] for rule in rules)})" if rules else ""
            raise Refusal(
                f"not injecting: a probe through {link} meets {seen['outcome']} without any fault{others}, so the fault could not "
                "be proven"
            )
        if seen["received"] <= self.want() > 0:
            raise Refusal(
                f"not injecting: a probe through {link} gets {seen['received']} bytes of answer, so nothing could be proven after "
                f"{self.want()}; give a smaller `after`"
            )
        return {"rules": [{"fault": rule["fault"], "rule": rule["rule"]} for rule in rules], "probe": seen}

    def inject(self, undo: Undo, platform: Platform) -> None:
        towards = [target.name.partition("/")[0] for target in undo.targets]
        for link in undo.prior["links"]:
            links_of(platform).link_begin(undo.fault, link, {**self.rule(), "towards": towards}, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        links, told, facts = links_of(platform), [], {}
        for link, prior in undo.prior["links"].items():
            before = prior["probe"]
            seen = links.link_probe(link, self.limit_s(before), self.want())
            mine = [rule for rule in links.link_rules(link) if rule["fault"] == undo.fault]
            if not mine or mine[0].get("connections") == 0:  # a policy counts none
                raise NotYet(f"the rule is not on link {link}" if not mine else f"no connection on {link} has met the rule")
            if not self.proven(before, seen):
                note = f" ({seen['note']})" if "note" in seen else ""
                raise NotYet(f"a probe through {link} meets {_told(seen)}, before the fault {_told(before)}{note}")
            facts[link] = {"before": before, "seen": seen, "rule": mine[0]}
            told.append(f"{link}: {_told(seen)}; before: {_told(before)}")
        return Evidence("a client's connection through the link", "; ".join(told), facts)

    def recover(self, undo: Undo, platform: Platform) -> None:
        for link in undo.prior["links"]:
            links_of(platform).link_end(undo.fault, link, self.rule())

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        """The rule is gone. What stands behind the link may be dead by now; then that is said, and is not this fault."""
        links, told, facts = links_of(platform), [], {}
        for link, prior in undo.prior["links"].items():
            try:
                rules = links.link_rules(link)
            except Unavailable as error:
                raise Differs(str(error)) from error
            if any(rule["fault"] == undo.fault for rule in rules):
                raise Differs(f"the rule of {undo.fault} is still on link {link}")
            seen = links.link_probe(link, self.limit_s(prior["probe"]))
            others = [rule["fault"] for rule in rules]
            facts[link] = {"before": prior["probe"], "seen": seen, "rules_of_others": others}
            alive = seen["outcome"] in ANSWERS
            if not alive and not others and not links.rules_are_the_path:
                raise Differs(f"the rule of {undo.fault} is gone from {link}, and still a connection meets {_told(seen)}")
            if alive and self.proven(prior["probe"], seen):
                raise Differs(f"the rule of {undo.fault} is gone from {link}, and still a connection meets {_told(seen)}")
            why = "" if alive else f" (rules of {', '.join(others)})" if others else " (what stands behind it does not answer)"
            told.append(f"{link}: no rule of ours; {_told(seen)}{why}")
        return Evidence("a client's connection through the link", "; ".join(told), facts)


def _told(seen: JSON) -> str:
    if seen["outcome"] in ANSWERS and seen["first_byte_s"] is not None:
        return f"{seen['outcome']} after {seen['first_byte_s'] * 1000:.1f} ms"
    return f"{seen['outcome']} after {seen['received']} bytes"


@dataclass(frozen=True)
class NetworkPartition(LinkFault):
    kind: ClassVar[str] = "network-partition"
    summary: ClassVar[str] = "cuts the targets off from peers: bytes stop, and flow on after the heal"
    certifies: ClassVar[str] = (
        "that the service survives a peer that goes silent without closing anything. Connections still open at once (the proxy's "
        "kernel accepts them) and then stay silent, so time-outs while connecting are not exercised. In a cluster new connections are "
        "dropped as they begin, and those that stand go on, where its network lets them, but for `standing`. On Docker both are dropped"
    )
    done_by: ClassVar[Means] = CUT
    proven_by: ClassVar[str] = (
        "an ordinary client's connection through the same link, in a cluster or on Docker from inside a peer, compared with one made before"
    )
    undone_by: ClassVar[str] = (
        "the link proxy drops the rule; in a cluster blackstart, or its guard there, deletes the policy; a firewall's agent, in a cluster "
        "or on Docker, deletes its table, which the kernel itself lets lapse"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC  # in a cluster, for the proof
    changes: ClassVar[frozenset[str]] = frozenset({"network"})

    peers: Annotated[tuple[str, ...], PEERS] = ()
    direction: Annotated[
        Literal["both", "to", "from"], "what is cut: bytes to the target, from it, or both; one way takes a firewall in a cluster"
    ] = "both"
    standing: Annotated[
        bool,
        "in a cluster: connections that stand fall silent as well, by a firewall in the target's own network; elsewhere they always do",
    ] = False

    def privilege_on(self, platform: str) -> Privilege:
        beside = platform != "process" and self._firewall
        return Privilege.EPHEMERAL if beside else super().privilege_on(platform)

    def takes(self) -> frozenset[str]:
        return frozenset({"container"}) if self._firewall else self.changes

    @property
    def _firewall(self) -> bool:
        """A NetworkPolicy cuts new connections between pods, both ways, and no more."""
        return self.standing or self.direction != "both" or bool(outside(self.peers))

    def rule(self) -> JSON:
        return {"type": "partition", "direction": self.direction, "standing": self._firewall}

    def proven(self, before: JSON, seen: JSON) -> bool:
        del before
        return bool(seen["outcome"] == "silent" and seen["received"] == 0)


@dataclass(frozen=True)
class DnsBreak(LinkFault):
    """Take the resolver of names away from the targets."""

    kind: ClassVar[str] = "dns-break"
    summary: ClassVar[str] = "the targets can resolve no names: their questions to port 53 are dropped"
    certifies: ClassVar[str] = (
        "that the service bears a resolver that is silent for its targets; not one that answers wrongly, nor one that is away for "
        "its clients as well"
    )
    done_by: ClassVar[Means] = NO_NAMES
    proven_by: ClassVar[str] = "a name that the platform knows, asked for from inside the target, compared with before"
    undone_by: ClassVar[str] = (
        "blackstart, or its guard in the cluster, deletes the policy; on Docker the agent beside the target deletes its rules"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EXEC  # in a cluster, for the proof
    changes: ClassVar[frozenset[str]] = frozenset({"network"})

    peers: ClassVar[tuple[str, ...]] = (NAMES,)  # type: ignore[misc]  # no parameter: there is nothing to choose

    def rule(self) -> JSON:
        return {"type": "names"}

    def proven(self, before: JSON, seen: JSON) -> bool:
        """Only the names: what could be connected to without one still can."""
        return bool(seen["outcome"] in {"silent", "refused"} and (seen["others"] or not before["others"]))
