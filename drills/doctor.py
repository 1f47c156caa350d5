"""doctor: can this machine and these rights drill that service? Every injector is asked to plan; nothing is changed."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping

from ..injectors import registry
from ..injectors.base import FaultError, Injector
from ..injectors.platforms import open_platform
from ..injectors.platforms.base import Means, Platform, PlatformError, Target
from .engine_findings import about_engine
from .finding import Finding
from .loading import InvalidFiles, decode_injector
from .measure.lanes import ProbingError, light_url
from .plan import choose
from .refusal import Refused
from .resolving import resolve
from .scenario import Selector
from .service import Service
from .state import left_on, state_folder
from .watched import addressed, measured_from

ANSWER_S = 5.0


def examine(service: Service, environment: Mapping[str, str]) -> tuple[Finding, ...]:
    """What works and what is missing, the general things first, then each kind of fault."""
    findings = [_state(service, environment)]
    try:
        with open_platform(service.where(), state_folder(environment), environment) as platform:
            findings.append(Finding("place", fine=True, text=platform.place))
            objections = platform.objections()
            findings += [Finding("place", fine=False, text=why, needed=True) for why in objections]
            beside = service.probe.beside
            always = platform.denied(Means(inside=False, ends=False, beside=beside))
            findings += [Finding("rights", fine=False, text=why, needed=True) for why in always]
            changes: frozenset[str] = frozenset({"evict", "helper"}).union(*(each.changes for each in registry().values()))
            most = Means(inside=True, ends=True, changes=changes, beside=beside)
            sometimes = [why for why in platform.denied(most) if why not in always]
            findings += [Finding("rights", fine=False, text=why) for why in sometimes]
            findings.append(_answers(addressed(service, platform)))
            everything = platform.find()
            there = ", ".join(f"{target.name} ({target.role}, {target.identity})" for target in everything)
            findings.append(Finding("targets", bool(everything), there or "nothing of the service is running", needed=True))
            findings += _questions(service)
            findings += about_engine(addressed(service, platform), platform, everything)
            findings += _kinds(service, platform, everything, protected=bool(objections))
    except (PlatformError, Refused) as error:
        findings.append(Finding("targets", fine=False, text=str(error), needed=True))
    return tuple(findings)


def _answers(service: Service) -> Finding:
    if service.probe.beside:
        return Finding(
            "endpoint", fine=None, text=f"{service.endpoint.url} is asked from {measured_from(service)}; a drill tells"
        )
    try:
        url = light_url(service)
    except ProbingError as error:
        return Finding("endpoint", fine=False, text=str(error), needed=True)
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310 - the scheme was checked when the URL was read
            return Finding("endpoint", fine=True, text=f"{url} answers {answer.status}", needed=True)
    except urllib.error.HTTPError as error:
        return Finding("endpoint", fine=True, text=f"{url} answers {error.code}", needed=True)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Finding("endpoint", fine=False, text=f"{url} does not answer: {error}", needed=True)


def _questions(service: Service) -> list[Finding]:
    """Of protocol kserve-v2: what its servers say of a model without a question is no inference."""
    if service.endpoint.protocol != "kserve-v2" or service.golden:
        return []
    return [
        Finding("golden", fine=False, text="no question: a drill asks whether the model is ready, and never for an inference")
    ]


def _state(service: Service, environment: Mapping[str, str]) -> Finding:
    left = left_on(state_folder(environment), service)
    text = (
        f"runs that may have left something: {', '.join(left)}; run: blackstart recover --all"
        if left
        else "no run has left anything"
    )
    return Finding("clean", not left, text, needed=True)


def _kinds(service: Service, platform: Platform, everything: tuple[Target, ...], *, protected: bool) -> Iterator[Finding]:
    """`protected`: nothing of ours may be started there, not even to look."""
    for kind, injector_type in registry().items():
        if platform.name not in injector_type.platforms:
            yield Finding(kind, fine=False, text=f"not on platform {platform.name}")
            continue
        if protected and injector_type.looks_from_beside:
            yield Finding(kind, fine=None, text="nothing may be started there to look; `blackstart plan` tells once it may")
            continue
        try:
            victims, _ = choose(Selector(), _usual(injector_type.default_role, everything), everything, 0)
            yield _asked(injector_type, victims, service, platform)
        except (FaultError, PlatformError) as error:
            yield Finding(kind, fine=False, text=str(error).removeprefix("not injecting: "))


def _usual(role: str, everything: tuple[Target, ...]) -> str:
    """The role of a fault's usual victim: in a service without replicas users are sent to decode workers, which a scenario has to name."""
    there = {target.role for target in everything}
    return "decode" if role == "replica" and role not in there and "decode" in there else role


def _asked(injector_type: type[Injector], victims: tuple[Target, ...], service: Service, platform: Platform) -> Finding:
    """What `plan` says with the kind's example parameters. Raises FaultError or PlatformError with what is missing."""
    kind, depends_on = injector_type.kind, injector_type.depends_on
    try:
        injector = decode_injector(kind, injector_type.example)
    except InvalidFiles:  # a kind that needs parameters and gives no example
        depends_on = depends_on or "its parameters"
    if depends_on:
        return Finding(kind, fine=None, text=f"depends on {depends_on}; `blackstart plan` tells")
    undo = resolve(injector, service).plan(victims, platform)
    privilege, way = injector.privilege_of(undo, service.platform).name.lower(), injector.way(undo)
    given = f", {', '.join(f'{key}: {value}' for key, value in injector_type.example.items())}" if injector_type.example else ""
    return Finding(
        kind,
        fine=True,
        text=f"with privilege {privilege}, e.g. on {victims[0].name}{given}" + (f"; {way}" if way else ""),
    )
