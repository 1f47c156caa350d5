"""How much load several pods gave, as values."""

from dataclasses import dataclass

from .values import Streams


@dataclass(frozen=True)
class PodLoad:
    """One pod's share, from the baseline on. `asked`, `sent`, `good`: short requests, of which those are good that were answered right and in
    time. `streams` as everywhere: from the first fault on. `why_not`: why its share was not given; empty: it was.
    """

    name: str
    asked: int
    sent: int
    good: int
    streams: Streams | None
    why_not: str = ""

    @property
    def good_share(self) -> float | None:
        """None where no short request was sent."""
        return self.good / self.sent if self.sent else None


@dataclass(frozen=True)
class LoadGiven:
    """That of all pods, the prober's own first."""

    pods: tuple[PodLoad, ...]

    @property
    def asked(self) -> int:
        return sum(pod.asked for pod in self.pods)

    @property
    def sent(self) -> int:
        return sum(pod.sent for pod in self.pods)

    @property
    def good(self) -> int:
        return sum(pod.good for pod in self.pods)

    @property
    def good_share(self) -> float | None:
        """None where no short request was sent."""
        return self.good / self.sent if self.sent else None

    @property
    def streams_opened(self) -> int:
        return sum(pod.streams.opened for pod in self.pods if pod.streams)

    @property
    def streams_cut(self) -> int:
        return sum(pod.streams.cut for pod in self.pods if pod.streams)

    @property
    def why_not(self) -> tuple[str, ...]:
        return tuple(f"{pod.name}: {pod.why_not}" for pod in self.pods if pod.why_not)
