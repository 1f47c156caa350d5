"""Faults for which something stands in the path itself: a link proxy here, in a cluster a proxy in the target's own network."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from .base import Privilege
from .means import IN_PATH, Means
from .network import ANSWERS, PEERS, LinkFault
from .values import JSON, Size


class InPathFault(LinkFault):
    """One rule of a proxy on the target's connections."""

    done_by: ClassVar[Means] = IN_PATH
    undone_by: ClassVar[str] = (
        "the link proxy drops the rule; in a cluster or on Docker the agent takes the proxy out of the target's network, also by itself, and "
        "the container that it is in ends (in a cluster the pod's spec keeps an entry of it until the pod is replaced)"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"process", "kubernetes", "docker"})
    privilege: ClassVar[Privilege] = Privilege.EPHEMERAL  # in a cluster
    changes: ClassVar[frozenset[str]] = frozenset({"container"})


@dataclass(frozen=True)
class NetworkDelay(InPathFault):
    kind: ClassVar[str] = "network-delay"
    summary: ClassVar[str] = "delays every byte between targets and peers, in each direction"
    certifies: ClassVar[str] = (
        "that the service stays right and within its objectives over a slow path; a question and its answer together take "
        "twice the delay. Loss and reordering are not exercised"
    )
    example: ClassVar[Mapping[str, Any]] = {"delay": "100ms"}

    delay: Annotated[timedelta, "one way; a round trip takes twice as long"]
    jitter: Annotated[timedelta, "the delay varies by this much at random, up or down; order is kept"] = timedelta(0)
    peers: Annotated[tuple[str, ...], PEERS] = ()

    def problems(self) -> tuple[str, ...]:
        if not self.delay:
            return ("`delay` is 0s, which delays nothing; write a longer time",)
        return ("`jitter` is larger than `delay`, and no byte can be early; lower it",) if self.jitter > self.delay else ()

    def rule(self) -> JSON:
        return {"type": "delay", "delay_s": self.delay.total_seconds(), "jitter_s": self.jitter.total_seconds()}

    def limit_s(self, before: JSON) -> float:
        return 2 * (self.delay + self.jitter).total_seconds() + 10.0 * float(before["first_byte_s"]) + 1.0

    def proven(self, before: JSON, seen: JSON) -> bool:
        """Later by at least the two ways' least delay; where jitter allows none, by half of one way's mean."""
        least = max(2 * (self.delay - self.jitter), self.delay / 2).total_seconds()
        usual = before["first_byte_s"]
        bound = least if usual < least / 2 else usual + least / 2
        return bool(seen["outcome"] in ANSWERS and seen["first_byte_s"] >= bound)


@dataclass(frozen=True)
class TcpReset(InPathFault):
    kind: ClassVar[str] = "tcp-reset"
    summary: ClassVar[str] = "resets connections between targets and peers, at once or mid-answer"
    certifies: ClassVar[str] = (
        "that clients of the path see a reset as an error and act on it, mid-answer too where `after` is given. A refused "
        "connection attempt is not exercised: the connection opens and is then reset"
    )
    peers: Annotated[tuple[str, ...], PEERS] = ()
    after: Annotated[Size | None, "so many bytes of answer pass before the reset; left out: at once"] = None

    def rule(self) -> JSON:
        return {"type": "reset", "after_bytes": self.after}

    def want(self) -> int:
        return self.after or 0

    def proven(self, before: JSON, seen: JSON) -> bool:
        del before
        return bool(seen["outcome"] == "reset" and seen["received"] <= self.want())


@dataclass(frozen=True)
class StreamStall(InPathFault):
    kind: ClassVar[str] = "stream-stall"
    summary: ClassVar[str] = "lets answers fall silent after so many bytes, with the connection open"
    certifies: ClassVar[str] = (
        "that clients of the path notice an answer that stops without an end. Questions still arrive, and the answer flows on "
        "when the fault ends"
    )
    after: Annotated[Size, "so many bytes of each answer pass first; of open ones counted from the fault"] = Size(0)
    peers: Annotated[tuple[str, ...], PEERS] = ()

    def rule(self) -> JSON:
        return {"type": "stall", "after_bytes": self.after}

    def want(self) -> int:
        return self.after

    def proven(self, before: JSON, seen: JSON) -> bool:
        del before
        return bool(seen["outcome"] == "silent" and seen["received"] == self.after)
