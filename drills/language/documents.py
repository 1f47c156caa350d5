"""A whole file: which kind of document it is, what it says, and whether it fits together."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from ...injectors.platforms.process_spec import Component
from ..engine_profile import (
    ENGINE_NAMES,
    Behaviour,
    Drain,
    EngineMetrics,
    EngineProfile,
    EngineRole,
    HealthEndpoint,
    Loading,
    Recognition,
    Trait,
    profile_file,
)
from ..scenario import Fault, Scenario
from ..service import Service
from . import engine_checks, scenario_checks, service_checks
from .decoding import BAD, Check, Decoder
from .engine_defaults import completed
from .faults import FaultReader, Kinds
from .names import nearest
from .nodes import MappingNode, Node, ScalarNode, SequenceNode, describe
from .overrides import apply, path_of
from .problems import InvalidFiles, Report, Unreadable, shown
from .reading import read_bytes, tree
from .shapes import Choice, Field, Many, Record, Shape, record, unwrapped

API_VERSION: Final = "blackstart/v1"
Wanted = Literal["scenario", "service", "engine profile"]
CLASSES: Final[dict[Wanted, type]] = {"scenario": Scenario, "service": Service, "engine profile": EngineProfile}
_CLASSES: Final[dict[str, type]] = {cls.__name__: cls for cls in CLASSES.values()}
_CALLED: Final = {"Scenario": "a scenario", "Service": "a service", "EngineProfile": "an engine profile"}
_GIVEN: Final = {
    "Scenario": "give it as the scenario",
    "Service": "give it with `--service`",
    "EngineProfile": "a service file names it: `engine: NAME`",
}
_LOGIN = re.compile(r"://[^/\s?#@]+@")


@cache
def document(cls: type) -> Record:
    """The shape of a file: the class's own keys, and the two that say what the file is."""
    version = Field("apiVersion", "apiVersion", Choice((API_VERSION,)), "of this format", True, None)
    kind = Field("kind", "kind", Choice((cls.__name__,)), "what this file is", True, None)
    return Record(cls, {"apiVersion": version, "kind": kind, **record(cls).fields})


@cache
def belongings(cls: type) -> dict[str, str]:
    """Where a key belongs that has only one place in a document: by key, the path of what it stands in."""
    places: dict[str, set[str]] = {}
    for path, key in _keys(record(cls), ""):
        places.setdefault(key, set()).add(path)
    return {key: paths.pop() for key, paths in places.items() if len(paths) == 1 and paths != {""}}


def _keys(shape: Shape, path: str) -> Iterator[tuple[str, str]]:
    shape = unwrapped(shape)
    if isinstance(shape, Many):
        yield from _keys(shape.inner, f"{path}[]")
    elif isinstance(shape, Record):
        for key, field in shape.fields.items():
            yield path, key
            yield from _keys(field.shape, f"{path}.{key}" if path else key)


@cache
def profile(name: str) -> EngineProfile:
    """The shipped profile of a serving engine. Raises InvalidFiles where that file is damaged."""
    report = Report(str(profile_file(name)))
    value = read(profile_file(name), report, {}, wanted="engine profile")
    if value is BAD:
        raise InvalidFiles(report.sorted())
    assert isinstance(value, EngineProfile)
    return value


def read(path: Path, report: Report, kinds: Kinds, settings: Sequence[str] = (), wanted: Wanted | None = None) -> Any:
    """The Scenario, Service or EngineProfile of a file, or BAD; what is wrong is in the report. `wanted`: any other kind is wrong, too."""
    try:
        root = tree(read_bytes(path, report), report)
        if not isinstance(root, MappingNode):
            raise report.fail(root, f"the file is {describe(root)}, not a mapping", f"start it with `apiVersion: {API_VERSION}`")
        cls = _kind(root, report, wanted)
    except Unreadable:
        return BAD
    root = apply(root, tuple(settings), report)
    _logins(root, report)
    try:
        value = _decoded(root, cls, path, report, kinds)
    except Unreadable:
        return BAD
    return BAD if report.problems else value


def settings_paths(settings: Sequence[str]) -> tuple[str, ...]:
    return tuple(path_of(setting) for setting in settings)


def _kind(root: MappingNode, report: Report, wanted: Wanted | None) -> type:
    """Which class the file is for. Where `kind` does not tell, its keys do, so that the rest can be checked, too."""
    kind = root.get("kind")
    word = kind.text if isinstance(kind, ScalarNode) else ""
    if word in _CLASSES:
        if wanted and _CLASSES[word] is not CLASSES[wanted]:
            asked = _CALLED[CLASSES[wanted].__name__]
            raise report.fail(root.place("kind"), f"{asked} file is wanted, this is {_CALLED[word]} file", _GIVEN[word])
        return _CLASSES[word]
    if wanted:
        return CLASSES[wanted]
    mine = {name: len(root.entries.keys() & record(cls).fields.keys()) for name, cls in _CLASSES.items()}
    likely = nearest(word, _CLASSES) or max(mine, key=lambda name: mine[name])
    if not mine[likely] or (word and not nearest(word, _CLASSES)):
        todo = "write `kind: Scenario` or `kind: Service`"
        what = f"`kind` cannot be {shown(word)}" if word else "neither a scenario nor a service file"
        raise report.fail(root.place("kind"), what, todo)
    return _CLASSES[likely]


def _decoded(root: MappingNode, cls: type, path: Path, report: Report, kinds: Kinds) -> Any:
    faults = FaultReader(kinds)
    checks: Mapping[type, Check] = {
        **scenario_checks.CHECKS,
        **service_checks.checks(),
        EngineProfile: engine_checks.check_profile,
        EngineRole: engine_checks.check_role,
        Recognition: engine_checks.check_recognition,
        Trait: engine_checks.check_trait,
        HealthEndpoint: engine_checks.check_health,
        **dict.fromkeys((EngineMetrics, Drain, Loading, Behaviour), engine_checks.check_source),
        Scenario: scenario_checks.ScenarioCheck(faults.found),
    }
    decoder = Decoder(report, checks, {Fault: faults})
    decoder.elsewhere = belongings(cls)
    folder = path.absolute().parent
    if cls is Service:
        decoder.base = folder
        engine = root.get("engine")
        if isinstance(engine, ScalarNode) and engine.text in ENGINE_NAMES:
            root = completed(root, profile(engine.text))
    shape, label = document(cls), cls.__name__.lower()
    decoder.unknown_keys(root, shape.fields, label)
    values = decoder.fields(shape, root, label)
    header = (values.pop("apiVersion"), values.pop("kind"))
    value = decoder.built(record(cls), values, root)
    if value is BAD or BAD in header:
        return BAD
    if isinstance(value, Scenario):
        return replace(value, faults=tuple(sorted(value.faults, key=lambda fault: fault.at)))
    return _rooted(value, folder) if isinstance(value, Service) else value


def _rooted(service: Service, folder: Path) -> Service:
    """The service with nothing left that depends on where its file lies: its copy in a run's folder means the same."""
    process, model = service.process, service.model
    if process is not None:
        components = process.components
        if process.port is not None:
            components = (Component("replica-0", "replica", port=process.port),)
        components = tuple(
            replace(component, directory=folder) if component.start and component.directory is None else component
            for component in components
        )
        process = replace(process, components=components, port=None)
    if model is not None and service.platform == "process":
        model = replace(model, path=str(folder / model.path))
    return replace(service, process=process, model=model, folder=folder)


def _logins(root: Node, report: Report) -> None:
    """No file holds secrets; a user or password in a URL is the one that slips in."""
    seen: set[int] = set()
    rest = [root]
    while rest:
        node = rest.pop()
        if isinstance(node, ScalarNode):
            if "@" in node.text and _LOGIN.search(node.text):
                report.add(node, "a user or password in a URL", "files hold no secrets; remove what stands before the `@`")
        elif id(node) not in seen:  # anchors share nodes
            seen.add(id(node))
            rest.extend(node.items if isinstance(node, SequenceNode) else [value for _, value in node.entries.values()])
