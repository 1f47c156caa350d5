"""Faults that are load: long-context-flood, traffic-surge. Clients of blackstart's own ask the service at its own endpoint, all at once.

An agent on this machine holds the clients: they end with it, at its deadline, or when it is told. That the service has them is told by
the service alone: what each replica says of requests under way, compared with what it said before.
"""

import re
import time
import urllib.request
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import Annotated, Any, ClassVar, NamedTuple

from .artefacts import refuse_elsewhere
from .base import Differs, Evidence, FaultError, Injector, NotYet, Privilege, Refusal, Undo
from .compute import no_agent_left
from .lifecycle import end_agent
from .means import CLIENTS, Means
from .platforms.base import Platform, Target
from .values import JSON

METRICS = "the service's own metrics"
LOOKS, LOOK_EVERY_S = 8, 0.2  # one look may fall on a moment when nothing is under way, or much
ANSWER_S = 2.0
LEAST_RISE = 0.125  # of the clients: the others are refused by a service that sheds load, or are on their way
WORDS_OF_ANSWER = 64
LIMIT_S = 30.0  # for an answer; then a client gives up and asks again
PAUSE_S = 1.0  # after a refusal, as a client that backs off has it


class Served(NamedTuple):
    """What only the service file knows: where users ask, for which model, and what the engine calls requests under way (gauges) and
    the tokens of all prompts (counters).
    """

    url: str | None
    protocol: str
    model: str | None
    metrics_path: str | None = None
    under_way: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


class LoadFault(Injector):
    """So many clients at once. Subclasses say what each of them asks."""

    done_by: ClassVar[Means] = CLIENTS
    proven_by: ClassVar[str] = (
        "the service's own metrics: more requests than before are running or waiting, or (where it sheds load) more tokens are asked"
    )
    undone_by: ClassVar[str] = (
        "the agent and all its clients end, by the process table; the service says that no more requests are under way than before"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"process"})
    privilege: ClassVar[Privilege] = Privilege.API
    clients: int
    served: Served | None

    @abstractmethod
    def words(self) -> int:
        """How long a question is."""

    def with_service(self, served: Served) -> "LoadFault":
        """The same fault, knowing whom to ask."""
        return replace(self, served=served)  # type: ignore[type-var]  # subclasses are dataclasses

    def hits(self, chosen: tuple[Target, ...], everything: tuple[Target, ...]) -> tuple[Target, ...]:
        """Whatever stands behind the endpoint."""
        roles = {target.role for target in chosen}
        return tuple(target for target in everything if target.role in roles)

    def plan(self, targets: tuple[Target, ...], platform: Platform) -> Undo:
        refuse_elsewhere(self, platform)
        served = self.served
        if served is None or served.url is None or served.protocol != "openai":
            raise Refusal(
                f"not injecting: {self.kind} asks at `endpoint.url` by protocol openai, and the service file says neither"
            )
        urls = [str(target.details["url"]) for target in targets if target.details.get("url")]
        if not served.under_way or not served.metrics_path or len(urls) < len(targets):
            raise Refusal(
                f"not injecting: nobody would tell what {self.kind} comes to; say `engine` in the service file, one whose profile names its "
                "metrics, and where each replica answers (`port` or `url`)"
            )
        names = {"names": list(served.under_way), "counters": list(served.asked)}
        prior: JSON = {"metrics": [url.rstrip("/") + served.metrics_path for url in urls], **names}
        try:
            before = looked(prior)
        except OSError as error:
            raise Refusal(f"not injecting: {error}") from error
        return Undo(targets, {**prior, "before": before._asdict(), "url": served.url, "model": served.model})

    def inject(self, undo: Undo, platform: Platform) -> None:
        url = str(undo.prior["url"]).rstrip("/") + "/v1/completions"
        question = {"url": url, "model": undo.prior["model"], "words": self.words(), "answer": WORDS_OF_ANSWER}
        request = {**question, "clients": self.clients, "limit_s": LIMIT_S, "pause_s": PAUSE_S}
        platform.agent_begin(undo.fault, undo.targets[0], "send-load", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        """More is under way, the least of some looks against the most of those before: what comes and goes by itself proves nothing. Or
        more than twice as much is asked as before, and a whole question more: a service that sheds load has little under way.
        """
        del platform
        now, before = _again(undo, NotYet)
        waiting = min(now.under_way) >= max(before.under_way) + max(1.0, LEAST_RISE * self.clients)
        asking = bool(undo.prior["counters"]) and now.asked_per_s >= 2 * before.asked_per_s + self.words()
        if not waiting and not asking:
            raise NotYet(f"{_told(now, before)}; {self.clients} clients more ask it")
        return Evidence(METRICS, _told(now, before), {"before": before._asdict(), "now": now._asdict()})

    def recover(self, undo: Undo, platform: Platform) -> None:
        end_agent(undo, undo.targets[0], platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        """By the process table nobody asks any more; what the clients had asked may still be computed for a while."""
        no_agent_left(undo, platform)
        now, before = _again(undo, Differs)
        if min(now.under_way) > max(before.under_way):
            raise Differs(f"still {_told(now, before)}")
        return Evidence(METRICS, _told(now, before), {"before": before._asdict(), "now": now._asdict()})


def _again(undo: Undo, otherwise: type[FaultError]) -> "tuple[Seen, Seen]":
    """What the service says now, and what it said before."""
    try:
        return looked(undo.prior), Seen(**undo.prior["before"])
    except OSError as error:
        raise otherwise(str(error)) from error


def _told(now: "Seen", before: "Seen") -> str:
    return (
        f"{min(now.under_way):g} to {max(now.under_way):g} requests are under way by the service's word (before at most "
        f"{max(before.under_way):g}), {now.asked_per_s:.0f} asked in a second (before {before.asked_per_s:.0f})"
    )


class Seen(NamedTuple):
    """What all replicas together said in some looks: requests under way in each, and how much was asked in a second meanwhile."""

    under_way: list[float]
    asked_per_s: float


def looked(prior: Mapping[str, Any]) -> Seen:
    """Raises OSError where a replica does not tell."""
    counts, asked = [], []
    for number in range(LOOKS):
        time.sleep(LOOK_EVERY_S if number else 0.0)
        texts = [metrics_of(url) for url in prior["metrics"]]
        counts.append(sum(told(text, prior["names"]) for text in texts))
        asked.append((time.monotonic(), sum(told(text, prior["counters"]) for text in texts) if prior["counters"] else 0.0))
    return Seen(counts, (asked[-1][1] - asked[0][1]) / (asked[-1][0] - asked[0][0]))


def metrics_of(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310 - checked when the service file was read
            return str(answer.read().decode("utf-8", "replace"))
    except (OSError, HTTPException) as error:
        raise OSError(f"{url} does not tell what is under way: {error}") from error


def told(text: str, names: Iterable[str]) -> float:
    """The sum of all values under these names in Prometheus' text format. Raises OSError where there are none."""
    pattern = "|".join(map(re.escape, names))
    values = re.findall(rf"^(?:{pattern})(?:\{{[^}}]*\}})? ([0-9.eE+-]+)", text, re.MULTILINE)
    if not values:
        raise OSError(f"the service's metrics tell nothing of {', '.join(names)}")
    return sum(map(float, values))


@dataclass(frozen=True)
class LongContextFlood(LoadFault):
    """Questions that fill the cache of keys and values: each is new, so that nothing kept of earlier ones answers it."""

    clients: Annotated[int, "how many ask at once, each again as soon as it is answered", range(1, 1025)] = 32
    prompt: Annotated[int, "words of each question", range(1, 1_000_001)] = 2000
    served: Served | None = field(default=None, metadata={"yaml": False})

    kind: ClassVar[str] = "long-context-flood"
    summary: ClassVar[str] = "clients ask the service very long questions, many at once"
    certifies: ClassVar[str] = (
        "that ordinary users are served while others fill the service with long questions, up to that many; not that the service bears "
        "more of them, nor other kinds of load"
    )

    def words(self) -> int:
        return self.prompt


@dataclass(frozen=True)
class TrafficSurge(LoadFault):
    """Short questions, more than there usually are."""

    clients: Annotated[int, "how many ask at once, each again as soon as it is answered", range(1, 1025)] = 64
    served: Served | None = field(default=None, metadata={"yaml": False})

    kind: ClassVar[str] = "traffic-surge"
    summary: ClassVar[str] = "many more clients than usual ask the service short questions at once"
    certifies: ClassVar[str] = (
        "that ordinary users are served during a surge of that many clients, and after it; not that the service bears a larger one"
    )

    def words(self) -> int:
        return 8
