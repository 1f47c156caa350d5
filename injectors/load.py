"""Faults that are load: long-context-flood, traffic-surge. Clients of blackstart's own ask the service at its own endpoint, all at once.

An agent on this machine holds the clients: they end with it, at its deadline, or when it is told. That the service has them is told by
the service: what each replica says of requests under way, compared with what it said before. That they are ours is told by what the
clients were answered, which the agent counts: others' traffic alone proves nothing.
"""

import re
import time
import urllib.request
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.client import HTTPException
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from .artefacts import refuse_elsewhere
from .base import Evidence, Injector, NotYet, Privilege, Refusal, Undo
from .compute import no_agent_left
from .lifecycle import end_agent
from .means import CLIENTS, Means
from .platforms.base import Platform, Target
from .values import JSON

METRICS = "the service's own metrics"
LOOKS, LOOK_EVERY_S = 8, 0.2  # one look may fall on a moment when nothing is under way, or much
ANSWER_S = 2.0
LEAST_RISE = 0.125  # of the clients: the others are refused by a service that sheds load, or are on their way
LEAST_ASKED = 0.5  # of the words that were answered: an engine may count a question before or after it is answered
TAKEN, SHED = "200", ("429", "503")  # what a service answers that has had the question
STALE_S = 5.0  # clients that nobody has heard of for so long are gone, or hang
WORDS_OF_ANSWER = 64
LIMIT_S = 30.0  # for an answer; then a client gives up and asks again
PAUSE_S = 1.0  # after a refusal, as a client that backs off has it


class Served(NamedTuple):
    """What only the service file knows: the URL that is asked for completions, for which model, and what the engine calls requests
    under way (gauges) and the tokens of all prompts (counters).
    """

    url: str | None
    protocol: str
    model: str | None
    metrics_path: str | None = None
    under_way: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


@runtime_checkable
class Counting(Protocol):
    """The ability of a platform to read what an agent has counted, past its process."""

    def agent_seen(self, fault: str, target: Target) -> JSON | None:
        """What the agent of that fault last wrote down, with `t` (its clock's seconds) and `age_s`; None: nothing."""


class LoadFault(Injector):
    """So many clients at once. Subclasses say what each of them asks."""

    done_by: ClassVar[Means] = CLIENTS
    proven_by: ClassVar[str] = (
        "the service's own metrics: more requests than before are running or waiting, or (where it sheds load) more tokens are asked; and "
        "its clients were answered with 200, 429 or 503"
    )
    undone_by: ClassVar[str] = (
        "the agent and all its clients end, by the process table; what the service says is under way then is told, and judged by the "
        "objectives"
    )
    platforms: ClassVar[frozenset[str]] = frozenset({"process"})
    privilege: ClassVar[Privilege] = Privilege.API
    patience: ClassVar[timedelta] = timedelta(seconds=LIMIT_S + 10)  # the first answer of a service that is slow counts, too
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
        asked = {"url": undo.prior["url"], "model": undo.prior["model"]}
        question = {**asked, "words": self.words(), "answer": WORDS_OF_ANSWER}
        request = {**question, "clients": self.clients, "limit_s": LIMIT_S, "pause_s": PAUSE_S}
        platform.agent_begin(undo.fault, undo.targets[0], "send-load", request, undo.deadline_s)

    def verify(self, undo: Undo, platform: Platform) -> Evidence:
        """More is under way, the least of some looks against the most of those before: what comes and goes by itself proves nothing. Or
        more than twice as much is asked as before, and what the clients were answered besides, at least a whole question: a service that
        sheds load has little under way. And some of the clients reached it.
        """
        earlier = _counted(undo, platform)
        try:
            now, before = looked(undo.prior), Seen(**undo.prior["before"])
        except OSError as error:
            raise NotYet(str(error)) from error
        got = Got.since(earlier, _counted(undo, platform))
        waiting = min(now.under_way) >= max(before.under_way) + max(1.0, LEAST_RISE * self.clients)
        more_per_s = self.words() * max(1.0, LEAST_ASKED * got.taken_per_s)
        asking = TAKEN in got.answers and bool(undo.prior["counters"]) and now.asked_per_s >= 2 * before.asked_per_s + more_per_s
        said = f"{_told(now, before)}; {self.clients} clients {got.told()}"
        if not got.reached or not (waiting or asking):
            raise NotYet(said)
        return Evidence(METRICS, said, {"before": before._asdict(), "now": now._asdict(), "clients": got._asdict()})

    def recover(self, undo: Undo, platform: Platform) -> None:
        end_agent(undo, undo.targets[0], platform)

    def verify_recovered(self, undo: Undo, platform: Platform) -> Evidence:
        """By the process table nobody asks any more. What is still computed of what the clients had asked, and whether the service bore
        it at all, is no fault of ours left behind: it is said, and the objectives judge it.
        """
        gone, before = no_agent_left(undo, platform), Seen(**undo.prior["before"])
        try:
            now = looked(undo.prior)
        except OSError as error:
            return replace(gone, detail=f"{gone.detail}; {error}", facts={"before": before._asdict(), "not_told": str(error)})
        still = "still " if min(now.under_way) > max(before.under_way) else ""
        facts = {"before": before._asdict(), "now": now._asdict()}
        return replace(gone, detail=f"{gone.detail}; {still}{_told(now, before)}", facts=facts)


class Got(NamedTuple):
    """What the clients got since they began: how often each status, or the name of an error. `taken_per_s`: how many questions in a
    second were answered while the service was looked at. `age_s`: how old that is; None where they have not been heard of.
    """

    answers: Mapping[str, int]
    taken_per_s: float
    age_s: float | None

    @classmethod
    def since(cls, earlier: JSON | None, now: JSON | None) -> "Got":
        if now is None:
            return cls({}, 0.0, None)
        over_s = now["t"] - earlier["t"] if earlier else 0.0
        taken = now["answers"].get(TAKEN, 0) - earlier["answers"].get(TAKEN, 0) if earlier else 0
        return cls(now["answers"], taken / over_s if over_s > 0 else 0.0, now["age_s"])

    @property
    def reached(self) -> bool:
        """Whether the service has had a question of ours, and the clients are still there."""
        return self.age_s is not None and self.age_s <= STALE_S and any(status in self.answers for status in (TAKEN, *SHED))

    def told(self) -> str:
        """What follows on `32 clients`."""
        if self.age_s is None or self.age_s > STALE_S:
            return "have not been heard of" + (f" for {self.age_s:.0f} s" if self.age_s else "")
        return "got " + (", ".join(f"{what} ({times} times)" for what, times in self.answers.items()) or "no answer yet")


def _counted(undo: Undo, platform: Platform) -> JSON | None:
    if not isinstance(platform, Counting):
        raise Refusal(f"not injecting: platform {platform.name} cannot read what clients were answered")
    return platform.agent_seen(undo.fault, undo.targets[0])


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
    """The sum of all values under these names in Prometheus' text format. Raises OSError where there are none, or no numbers."""
    pattern = "|".join(map(re.escape, names))
    values = re.findall(rf"^(?:{pattern})(?:\{{[^}}]*\}})? ([0-9.eE+-]+)", text, re.MULTILINE)
    if not values:
        raise OSError(f"the service's metrics tell nothing of {', '.join(names)}")
    try:
        return sum(map(float, values))
    except ValueError as error:
        raise OSError(f"the service's metrics tell no number of {', '.join(names)}: {error}") from error


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
