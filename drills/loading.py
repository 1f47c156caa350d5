"""Scenario and service files: reading them with every error at once, writing them, describing them.

What is wrong is raised as InvalidFiles, whose problems read `FILE:LINE:COLUMN: what is wrong; what to do`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..injectors import registry
from ..injectors.base import Injector
from .engine_profile import EngineProfile
from .language import documents, schema, writing
from .language.documents import Wanted
from .language.explaining import KeyInWords, explanation, keys_in_words
from .language.faults import Kinds, inject_parameters
from .language.names import instead_of_kind
from .language.nodes import MappingNode, node_of
from .language.problems import START, InvalidFiles, Problem, Report
from .scenario import Scenario
from .service import Service

__all__ = [
    "InvalidFiles",
    "KeyInWords",
    "Problem",
    "decode_injector",
    "dump_scenario",
    "dump_service",
    "engine_profile",
    "explain",
    "json_schema",
    "keys_in_words",
    "load_files",
    "load_scenario",
    "load_service",
]


def load_scenario(path: Path, settings: Sequence[str] = (), kinds: Kinds | None = None) -> Scenario:
    """A scenario file. `settings` are `PATH=VALUE`, as given by `--set`; `kinds` are those of the registry by default."""
    return cast(Scenario, _loaded([path], kinds, settings, "scenario")[0])


def load_service(path: Path) -> Service:
    """A service file. Its relative paths start at its folder; in the value they are absolute."""
    return cast(Service, _loaded([path], {}, (), "service")[0])


def load_files(paths: Sequence[Path], kinds: Kinds | None = None) -> tuple[Scenario | Service | EngineProfile, ...]:
    """Files of any kind, each told by its `kind`. Raises InvalidFiles with all errors of all of them."""
    return _loaded(paths, kinds, (), None)


def engine_profile(name: str) -> EngineProfile:
    """The shipped profile of a serving engine, by its name (engine_profile.ENGINE_NAMES)."""
    return documents.profile(name)


def _loaded(paths: Sequence[Path], kinds: Kinds | None, settings: Sequence[str], wanted: Wanted | None) -> tuple[Any, ...]:
    known = registry() if kinds is None else kinds
    values: list[Any] = []
    problems: list[Problem] = []
    for path in paths:
        report = Report(str(path), documents.settings_paths(settings))
        values.append(documents.read(path, report, known, settings, wanted))
        problems.extend(report.sorted())
    if problems:
        raise InvalidFiles(tuple(problems))
    return tuple(values)


def decode_injector(kind: str, parameters: Mapping[str, Any], kinds: Kinds | None = None) -> Injector:
    """The injector of a kind with parameters as a scenario writes them (and as a journal keeps them)."""
    known = registry() if kinds is None else kinds
    report = Report(f"parameters of {kind}")
    injector = known.get(kind)
    if injector is None:
        report.add(START, f"unknown kind of fault `{kind}`", instead_of_kind(kind, known))
    else:
        node = node_of(dict(parameters), 1, 1)
        assert isinstance(node, MappingNode)
        value = inject_parameters(injector, node, report)
    if report.problems:
        raise InvalidFiles(report.sorted())
    return cast(Injector, value)


def dump_scenario(scenario: Scenario) -> str:
    """YAML that `load_scenario` reads as an equal value."""
    return writing.dump(scenario)


def dump_service(service: Service) -> str:
    """YAML that `load_service` reads as an equal value from any folder; logins in URLs are left out."""
    return writing.dump(service)


def json_schema(which: Wanted, kinds: Kinds | None = None) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of files of that kind."""
    return schema.document_schema(which, registry() if kinds is None else kinds)


def explain(path: str, kinds: Kinds | None = None) -> str:
    """What one field is: `faults[].at`, `objectives.rto`, `service:process.components[].port`, `replica-kill.target.count`.

    Raises InvalidFiles for a path that does not exist.
    """
    report = Report(path)
    text = explanation(path, registry() if kinds is None else kinds, report)
    if report.problems:
        raise InvalidFiles(report.sorted())
    return text
