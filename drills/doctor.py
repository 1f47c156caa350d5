"""doctor: can this machine and these rights drill that service? Every injector is asked to plan; nothing is changed."""

import dataclasses
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..injectors import registry
from ..injectors.base import FaultError, Injector
from ..injectors.platforms import open_platform
from ..injectors.platforms.base import Platform, PlatformError, Target
from .plan import choose, resolve
from .scenario import Selector
from .service import Service
from .state import left_on, state_folder

ANSWER_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the examination. `needed`: without it no drill can run at all."""

    subject: str
    fine: bool
    text: str
    needed: bool = False

    def __str__(self) -> str:
        return f"{'yes' if self.fine else 'no ':<4} {self.subject:<20} {self.text}"


def examine(service: Service, environment: Mapping[str, str]) -> tuple[Finding, ...]:
    """What works and what is missing, the general things first, then each kind of fault."""
    findings = [_answers(service), _state(service, environment)]
    try:
        with open_platform(service.where(), state_folder(environment), environment) as platform:
            everything = platform.find()
            there = ", ".join(f"{target.name} ({target.role}, {target.identity})" for target in everything)
            findings.append(Finding("targets", bool(everything), there or "nothing of the service is running", needed=True))
            findings += _kinds(service, platform, everything)
    except PlatformError as error:
        findings.append(Finding("targets", fine=False, text=str(error), needed=True))
    return tuple(findings)


def _answers(service: Service) -> Finding:
    url = service.endpoint.url or ""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310 - the scheme was checked when the URL was read
            return Finding("endpoint", fine=True, text=f"{url} answers {answer.status}", needed=True)
    except urllib.error.HTTPError as error:
        return Finding("endpoint", fine=True, text=f"{url} answers {error.code}", needed=True)
    except (OSError, ValueError) as error:
        return Finding("endpoint", fine=False, text=f"{url} does not answer: {error}", needed=True)


def _state(service: Service, environment: Mapping[str, str]) -> Finding:
    left = left_on(state_folder(environment), service)
    text = (
        f"runs that may have left something: {', '.join(left)}; run: blackstart recover --all"
        if left
        else "no run has left anything"
    )
    return Finding("clean", not left, text, needed=True)


def _kinds(service: Service, platform: Platform, everything: tuple[Target, ...]) -> Iterator[Finding]:
    for kind, injector_type in registry().items():
        if platform.name not in injector_type.platforms:
            yield Finding(kind, fine=False, text=f"not on platform {platform.name}")
            continue
        injector = _with_defaults(injector_type)
        if injector is None:
            yield Finding(kind, fine=True, text="depends on its parameters; `blackstart plan` tells")
            continue
        try:
            victims, _ = choose(Selector(), injector.default_role, everything, 0)
            resolve(injector, service).plan(victims, platform)
        except (FaultError, PlatformError) as error:
            yield Finding(kind, fine=False, text=str(error).removeprefix("not injecting: "))
        else:
            yield Finding(kind, fine=True, text=f"with privilege {injector.privilege.name.lower()}, e.g. on {victims[0].name}")


def _with_defaults(injector_type: type[Injector]) -> Injector | None:
    fields = dataclasses.fields(injector_type)  # type: ignore[arg-type]  # every injector is a dataclass; the base is not
    if any(field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING for field in fields):
        return None
    return injector_type()
