"""Commands that touch nothing: what is in files, what ships, what a service can bear."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..drills.language.documents import CLASSES
from ..drills.language.names import instead_of_kind
from ..drills.loading import InvalidFiles, explain, json_schema, load_files, load_scenario, load_service
from ..drills.refusal import Refused
from ..drills.verdict import ExitCode
from ..injectors import registry
from ..scenarios import shipped, shipped_text
from .console import say, tell

CALLED = {cls: name for name, cls in CLASSES.items()}


def validate(files: Sequence[Path]) -> ExitCode:
    """Read everything; say so when it is right."""
    try:
        read = load_files(files)
    except InvalidFiles as invalid:
        for problem in invalid.problems:
            say(str(problem))
        tell(f"{len(invalid.problems)} problems; nothing was touched")
        return ExitCode.USAGE
    for path, value in zip(files, read, strict=True):
        say(f"{path}: {CALLED[type(value)]} {value.name} is valid")
    return ExitCode.PASSED


def doctor(service_file: Path) -> ExitCode:
    """Per fault kind: possible, or what is missing."""
    from ..drills.doctor import examine

    lines = examine(load_service(service_file), os.environ)
    for line in lines:
        say(str(line))
    return ExitCode.PASSED if all(line.fine for line in lines if line.needed) else ExitCode.USAGE


def init(folder: Path, url: str | None, workload: str | None, namespace: str, container: str | None = None) -> ExitCode:
    """Write a service profile and a first scenario."""
    if sum(map(bool, (url, workload, container))) != 1:
        raise Refused(
            ["say where the service is: one of --from-url http://HOST:PORT, --from-cluster KIND/NAME and --from-docker CONTAINER"]
        )
    if url:
        from ..drills.discovery import write_files

        written = write_files(folder, url)
    elif workload:
        from ..drills.cluster_discovery import write_cluster_files

        written = write_cluster_files(folder, workload, namespace, os.environ)
    else:
        from ..drills.docker_discovery import write_docker_files

        written = write_docker_files(folder, container or "", os.environ)
    for path in written.paths:
        say(f"wrote {path}")
    for warning in written.warnings:
        tell(f"warning: {warning}")
    tell(f"Look at them, then: blackstart plan {folder / 'scenario.yaml'} --service {folder / 'service.yaml'}")
    return ExitCode.PASSED


def scenarios(name: str | None, copy: Path | None) -> ExitCode:
    """List, show or copy what ships."""
    found = shipped()
    if name is not None and name not in found:
        tell(f"no shipped scenario is called {name}; there are: {', '.join(found)}")
        return ExitCode.USAGE
    names = [name] if name else list(found)
    if copy:
        copy.mkdir(parents=True, exist_ok=True)
        there = [str(copy / f"{each}.yaml") for each in names if (copy / f"{each}.yaml").exists()]
        if there:
            raise Refused([f"{', '.join(there)} is there already; nothing was written"])
        for each in names:
            (copy / f"{each}.yaml").write_text(_shown(each), encoding="utf-8")
            say(f"wrote {copy / f'{each}.yaml'}")
    elif name:
        say(_shown(name))
    else:
        for each in names:
            say(f"{each:<28} {load_scenario(found[each]).title}")
    return ExitCode.PASSED


def _shown(name: str) -> str:
    """A shipped scenario's file, after what it needs."""
    from ..reports.fault_pages import with_needs

    return with_needs(load_scenario(shipped()[name]), shipped_text(name))


def faults(kind: str | None) -> ExitCode:
    """List the kinds, or tell all about one."""
    kinds = registry()
    if kind is None:
        for name, injector in kinds.items():
            say(f"{name:<20} {injector.summary}")
        return ExitCode.PASSED
    if kind not in kinds:
        raise Refused([f"no kind of fault is called {kind}; {instead_of_kind(kind, kinds)}"])
    from ..reports.fault_text import fault_text

    say(fault_text(kinds[kind]))
    return ExitCode.PASSED


def schema(which: str, path: str | None) -> ExitCode:
    """A JSON Schema, or one field."""
    if path:
        say(explain(path))
    elif which == "result":
        from ..reports.result import result_schema

        say(json.dumps(result_schema(), indent=1))
    elif which in {"scenario", "service"}:
        say(json.dumps(json_schema("scenario" if which == "scenario" else "service"), indent=1))
    else:
        tell(f"there is no schema {which}; there are scenario, service and result")
        return ExitCode.USAGE
    return ExitCode.PASSED
