"""What `doctor` says of the serving engine: whether it is the one that was named, its processes, what its health endpoints miss."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from ..injectors.platforms.base import WORKERS, Platform, PlatformError, Target
from .engine_profile import EngineProfile
from .finding import Finding
from .loading import engine_profile
from .recognition import Recognised, recognised
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
    yield from _metrics(profile)
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


def _metrics(profile: EngineProfile) -> Iterator[Finding]:
    told = profile.metrics
    kinds = (("running", told.running), ("waiting", told.queued), ("cache", told.cache))
    names = "; ".join(f"{kind}: {', '.join(each)}" for kind, each in kinds if each)
    if told.path and names:
        where = f"{told.path} on port {told.port}" if told.port else told.path
        needed = f", with {told.needs}" if told.needs else ""
        yield Finding("metrics", fine=True, text=f"{where}{needed}: {names} ({told.source})")


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
