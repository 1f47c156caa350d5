"""From typed values back to YAML that reads as an equal value."""

import re
from functools import cache
from typing import Any

import yaml

from ..scenario import Fault, Scenario
from ..service import Service
from .documents import API_VERSION
from .faults import parameters_of
from .nodes import NotANumber, core
from .quantities import Quantity
from .shapes import Field, File, Many, Maybe, Record, Shape, Table, record

_LOGIN = re.compile(r"(://)[^/\s?#@]+@")
_EASY = re.compile(r"[A-Za-z0-9_./<>=%+ -]*")


def dump(value: Scenario | Service) -> str:
    """YAML with everything that differs from its default; no user or password is left in a URL."""
    cls: type = type(value)
    content = {"apiVersion": API_VERSION, "kind": cls.__name__, **_written(record(cls), value)}
    if isinstance(value, Service) and value.engine:
        _settled(content, value)
    return str(yaml.dump(content, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=100, default_flow_style=False))


def _settled(content: dict[str, Any], service: Service) -> None:
    """Write out also what is a default and left to the engine's profile otherwise."""
    content["endpoint"]["protocol"] = service.endpoint.protocol
    content["health"] = list(service.health)
    if service.model is not None:
        content["model"]["load"] = service.model.load


def written(value: Any) -> dict[str, Any]:
    """A part of a file, e.g. its objectives, as a file would write it: what differs from its default."""
    cls: type = type(value)
    return _record(record(cls), value)


def written_default(field: Field) -> Any:
    """A field's default as a file would write it; None where there is none."""
    return None if field.default is None else _written(field.shape, field.default)


def _written(shape: Shape, value: Any) -> Any:  # noqa: PLR0911 - one answer for each shape
    if value is None:
        return None
    if isinstance(value, Fault):
        return _fault(value)
    if isinstance(shape, Maybe):
        return _written(shape.inner, value)
    if isinstance(shape, Record):
        return _record(shape, value)
    if isinstance(shape, Many):
        return [_written(shape.inner, item) for item in value]
    if isinstance(shape, Table):
        return {key: _written(shape.inner, item) for key, item in value.items()}
    if isinstance(shape, Quantity):
        return shape.show(value)
    return _clean(str(value) if isinstance(shape, File) else value)


def _record(shape: Record, value: Any) -> dict[str, Any]:
    written = {}
    for key, field in shape.fields.items():
        item = getattr(value, field.name)
        if field.required or item != field.default:
            written[key] = _written(field.shape, item)
    return written


def _fault(fault: Fault) -> dict[str, Any]:
    parameters = fault.parameters or _record(parameters_of(type(fault.injector)), fault.injector)
    return {**_record(record(Fault), fault), **_clean(parameters)}


def _clean(value: Any) -> Any:
    """A JSON value without logins in URLs."""
    if isinstance(value, str):
        return _LOGIN.sub(r"\1", value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return value


@cache
def _dumper() -> Any:
    """PyYAML's writer, with text in double quotes wherever YAML 1.2 or 1.1 might see more in it than text."""

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            del data
            return True

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if _is_plain(value) else '"')

    Dumper.add_representer(str, text)
    return Dumper


def _is_plain(value: str) -> bool:
    try:
        return bool(_EASY.fullmatch(value)) and isinstance(core(value), str)
    except NotANumber:
        return False
