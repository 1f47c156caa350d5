"""What `doctor` says of the serving engine: whether it is the one that was named, its processes, its health, its metrics."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlsplit

from ..injectors.platforms.base import WORKERS, Platform, PlatformError, Target
from .asking import heard
from .engine_profile import EngineMetrics, EngineProfile
from .finding import Finding
from .loading import engine_profile
from .recognition import ANSWER_S, Recognised, recognised
from .service import Service


def about_engine(service: Service, platform: Platform, everything: Sequence[Target]) -> Iterator[Finding]:
    """Nothing for a service whose engine is neither named nor known."""
    replicas = [each for each in everything if each.role in WORKERS]
    commands: tuple[str, ...] = ()
    with suppress(PlatformError):  # nobody may look inside, or there is nothing to look with
        commands = platform.commands(replicas[0]) if replicas else ()
    url = None if service.probe.beside else service.endpoint.url
    found = recognised(url.rstrip("/") if url else None, commands)
    if service.engine is None and found is None:
        return
    profile = found.profile if service.engine is None and found else engine_profile(str(service.engine))
    yield _engine(service, profile, found, looked=bool(url or commands))
    if service.engine is not None and replicas:
        yield from (_role(role, platform, replicas[0]) for role in profile.roles)
    yield from _health(service, profile)
    yield from _metrics(profile, replicas[0] if replicas else None)
    yield Finding("draining", fine=True, text=f"{profile.drain.does} ({profile.drain.source})")
    yield Finding("loading", fine=True, text=f"{profile.model.load}: {profile.model.does} ({profile.model.source})")
    for each in profile.behaviour:
        yield Finding("known", fine=True, text=f"{each.when}: {each.does} ({each.source})")


def _engine(service: Service, profile: EngineProfile, found: Recognised | None, *, looked: bool) -> Finding:
    named = f"{profile.title}, as of {profile.version}"
    if service.engine is None and found:
        return Finding(
            "engine", fine=True, text=f"{named}, known {found.by}; `engine: {profile.name}` supplies what is known of it"
        )
    if found is None and not looked:
        return Finding("engine", fine=None, text=f"{named}: neither its answers nor its processes can be seen from here")
    if found is None:
        return Finding("engine", fine=False, text=f"{named}: nothing that answers or runs there looks like it")
    if found.profile.name != profile.name:
        return Finding("engine", fine=False, text=f"{profile.name} is named, and it looks like {found.profile.name} {found.by}")
    return Finding("engine", fine=True, text=f"{named}, known {found.by}")


def _metrics(profile: EngineProfile, replica: Target | None) -> Iterator[Finding]:
    """What the profile says is told there, and whether the first replica tells it."""
    told = profile.metrics
    kinds = {"running": told.running, "waiting": told.queued, "cache": told.cache}
    names = [name for each in kinds.values() for name in each]
    if not told.path or not names:
        return
    where = f"{told.path} on port {told.port}" if told.port else told.path
    needed = f", with {told.needs}" if told.needs else ""
    known = "; ".join(f"{kind}: {', '.join(each)}" for kind, each in kinds.items() if each)
    own = replica.details.get("url") if replica else None
    fine, seen = _told(_at(own, told), names) if own else (None, "no replica is known that could be asked")
    yield Finding("metrics", fine, f"{where}{needed}: {known}; {seen} ({told.source})")


def _at(url: str, told: EngineMetrics) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    place = f"{parts.scheme}://{host}:{told.port}" if told.port else url.rstrip("/")
    return f"{place}{told.path}"


def _told(url: str, names: Sequence[str]) -> tuple[bool | None, str]:
    """Another port than the engine's own may be somebody else's, or closed to us: only an answer says what is not there."""
    try:
        answer = heard(url, ANSWER_S)
    except OSError as error:
        return None, f"{url} cannot be asked: {getattr(error, 'reason', error)}"
    if answer.status != HTTPStatus.OK:
        return (False if answer.status == HTTPStatus.NOT_FOUND else None), f"{url} answers {answer.status}"
    there = [name for name in names if _is_told(name, answer.text)]
    missing = [name for name in names if name not in there]
    if not there:
        return False, f"{url} tells none of them"
    return True, f"{url} tells {', '.join(there)}" + (f", and not {', '.join(missing)}" if missing else "")


def _is_told(name: str, text: str) -> bool:
    """In Prometheus' format, where a histogram's name has endings, and one without any value yet has its type alone."""
    return re.search(rf"^(# TYPE )?{re.escape(name)}(_bucket|_count|_sum)?[ {{]", text, re.MULTILINE) is not None


def _role(role: str, platform: Platform, replica: Target) -> Finding:
    try:
        inside = platform.inside(replica, role)
    except PlatformError as error:
        return Finding("role", fine=False, text=f"{role}: {error}")
    names = ", ".join(f"{each.name} ({each.identity})" for each in inside)
    return Finding("role", bool(inside), f"{role}: {names or f'no process of {replica.name} has such a command line'}")


def _health(service: Service, profile: EngineProfile) -> Iterator[Finding]:
    model = service.endpoint.model
    for path in service.health:
        if known := profile.endpoint_of(path, model):
            yield Finding("health", fine=True, text=f"{path} {known.checks}; it does not notice {known.misses} ({known.source})")
    for path in profile.health_paths(model):
        if path not in service.health:
            yield Finding("health", fine=False, text=f"{path} is not among `health`, so nobody sees whether it is honest")
