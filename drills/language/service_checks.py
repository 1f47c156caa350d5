"""What must fit together in a service file, beyond the type of each value."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from ...injectors.platforms.docker_spec import DockerSpec, Part
from ...injectors.platforms.kubernetes_spec import KubernetesSpec, Workload
from ...injectors.platforms.process_spec import Component, Link, ProcessSpec
from ..service import PORTS, Endpoint, InnerRole, LedgerRoutes, Model, Probe, Service
from .decoding import Check
from .nodes import MappingNode, Node, ScalarNode, SequenceNode
from .platform_checks import check_docker, check_part, check_probe_place, check_role, check_workload
from .problems import Report, shown
from .scenario_checks import NAME, check_duplicates, check_name
from .tensor_checks import check_tensors, check_tolerance

Values = Mapping[str, Any]

_POINTED = re.compile(r"/[^\s#]*#(?:/[^\s/]*)+")
_ROUTE = re.compile(r"(?:GET|POST|PUT|PATCH|DELETE) /\S*")
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|CREDENTIALS?)$", re.IGNORECASE
)
_SECRET_OPTION = re.compile(r"--?(?:api-key|token|hf-token|password|secret)(=.+)?$", re.IGNORECASE)
_FOUND_BY = ("port", "pid_file", "command_line")
MOST_PATTERN_CHARACTERS = 20_000
CLIENT: Final = "client"  # the side of a link that is no component

# Which keys of a golden question belong to which protocol; the first is needed.
_GOLDEN = {
    "openai": ("prompt", "max_tokens", "text"),
    "http": ("request", "body", "json", "status", "tolerance"),
    "kserve-v2": ("inputs", "outputs", "tolerance"),
}


def check_url(url: str, place: Node, report: Report) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        report.add(place, f"{shown(url)} is no http(s) URL", "write e.g. `http://127.0.0.1:8000`")


class _Patterns:
    """Regular expressions of one file. To compile one takes time, so that there is an end to how many are tried."""

    def __init__(self) -> None:
        self.left = MOST_PATTERN_CHARACTERS

    def check(self, text: Any, place: Node, report: Report) -> None:
        if not isinstance(text, str):
            return
        self.left -= len(text)
        if self.left < 0:
            what = f"more than {MOST_PATTERN_CHARACTERS} characters of regular expressions in one file"
            raise report.fail(place, what, "write shorter ones")
        try:
            re.compile(text)
        except (re.error, RecursionError, OverflowError) as error:
            report.add(place, f"{shown(text)} is no regular expression ({error})", "escape special characters with a backslash")

    def component(self, values: Values, node: MappingNode, report: Report) -> None:
        check_component(values, node, report)
        self.check(values.get("command_line"), node.place("command_line"), report)

    def process(self, values: Values, node: MappingNode, report: Report) -> None:
        check_process(values, node, report)
        inside = node.get("inside")
        for role, (_, value) in inside.entries.items() if isinstance(inside, MappingNode) else ():
            self.check(values.get("inside", {}).get(role), value, report)

    def role(self, values: Values, node: MappingNode, report: Report) -> None:
        self.check(values.get("command_line"), node.place("command_line"), report)


def _port(values: Values, node: MappingNode, report: Report, key: str) -> None:
    port = values.get(key)
    if port is not None and port not in PORTS:
        report.add(node.place(key), f"`{key}` is {port}, out of range", "write 1 to 65535")


def check_endpoint(values: Values, node: MappingNode, report: Report) -> None:
    if values.get("url") is not None:
        check_url(values["url"], node.place("url"), report)
    if not values.get("path", "/").startswith("/"):
        report.add(node.place("path"), "`path` does not start with `/`", f"write `/{values['path'][:40]}`")


def check_component(values: Values, node: MappingNode, report: Report) -> None:
    given = [key for key in _FOUND_BY if node.get(key) is not None]
    if len(given) != 1:
        what = f"found by {' and '.join(f'`{key}`' for key in given)}" if given else "nothing says how it is found"
        report.add(node.place(given[1]) if given else node, what, "give exactly one of `port`, `pid_file` and `command_line`")
    name = values.get("name")
    if name is not None and (not NAME.fullmatch(name) or name == CLIENT):
        report.add(
            node.place("name"), f"{shown(name)} cannot be a component's name", "use [a-z0-9-], at most 63, and not `client`"
        )
    check_role(values.get("role"), node.place("role"), report)
    if values.get("role") == "":
        report.add(node.place("role"), "`role` is empty", "write `replica`, `gateway`, `store`, ...")
    _port(values, node, report, "port")
    if values.get("url") is not None:
        check_url(values["url"], node.place("url"), report)
    _secrets(node, report)


def _secrets(node: MappingNode, report: Report) -> None:
    todo = "set it where blackstart is started; what it starts inherits it"
    environment, start = node.get("environment"), node.get("start")
    if isinstance(environment, MappingNode):
        for name, (key, _) in environment.entries.items():
            if _SECRET_NAME.search(name):
                report.add(key, f"{shown(name)} looks like a secret", todo)
    if isinstance(start, SequenceNode):
        for item in start.items:
            if isinstance(item, ScalarNode) and _SECRET_OPTION.match(item.text):
                report.add(
                    item, f"{shown(item.text.partition('=')[0])} hands over a secret", "give it by the environment instead"
                )


def check_link(values: Values, node: MappingNode, report: Report) -> None:
    _port(values, node, report, "listen")


def check_process(values: Values, node: MappingNode, report: Report) -> None:
    _port(values, node, report, "port")
    if node.get("port") is not None and node.get("components") is not None:
        report.add(node.place("port"), "`port` beside `components`", "`port` alone is short for one replica; keep one of the two")
    elif node.get("port") is None and values.get("components") == ():
        report.add(node, "a service of no components", "add `components:`, or `port: N` for one replica")
    _names_and_ports(node, report)


def _names_and_ports(node: MappingNode, report: Report) -> None:
    """What components and links call each other; read from the tree, so that one bad component does not hide the rest."""
    components, links = _items(node, "components"), _items(node, "links")
    names = [(item.text, item) for item in _scalars(components, "name")]
    check_duplicates(report, names)
    check_duplicates(report, [(item.text, item) for item in _scalars(links, "name")])
    ports = _scalars(components, "port") + _scalars(links, "listen")
    check_duplicates(report, [(f"port {item.text}", item) for item in ports])
    known = {name for name, _ in names} if components else {"replica-0"}
    there = ", ".join(f"`{name}`" for name in sorted(known))
    for link in links:
        for key, valid, instead in (("from", known | {CLIENT}, f"write {there} or `client`"), ("to", known, f"write {there}")):
            for item in _scalars([link], key):
                if item.text not in valid:
                    report.add(item, f"no component is called {shown(item.text)}", instead)
        ends = [item.text for key in ("from", "to") for item in _scalars([link], key)]
        if len(ends) == 2 and ends[0] == ends[1] in known:
            report.add(link.place("to"), "a link from a component to itself", "name the other side")


def _scalars(mappings: list[MappingNode], key: str) -> list[ScalarNode]:
    return [item for mapping in mappings if isinstance(item := mapping.get(key), ScalarNode)]


def _items(node: MappingNode, key: str) -> list[MappingNode]:
    items = node.get(key)
    return [item for item in items.items if isinstance(item, MappingNode)] if isinstance(items, SequenceNode) else []


def check_probe(values: Values, node: MappingNode, report: Report) -> None:
    if values.get("rate") == 0:
        report.add(node.place("rate"), "`rate` is 0/s: nothing would be seen", "write e.g. `20/s`, or leave it out")
    image = values.get("image")
    if image is not None and "@" not in image:
        _, _, tag = image.rpartition("/")[2].partition(":")
        if tag in {"", "latest"}:
            report.add(
                node.place("image"), f"the image {shown(image)} is not pinned", "name a tag other than `latest`, or a digest"
            )


def check_model(values: Values, node: MappingNode, report: Report) -> None:
    if values.get("path") == "":
        report.add(node.place("path"), "`path` is empty", "write where a replica finds its model, or leave `model` out")
    served = values.get("served")
    if served is not None and not _POINTED.fullmatch(served):
        report.add(node.place("served"), f"{shown(served)} is no path with a pointer", "write e.g. `/v1/models#/data/0/digest`")


def check_ledger(values: Values, node: MappingNode, report: Report) -> None:
    for key in ("write", "read"):
        _route(values.get(key), node.place(key), report)
    read = values.get("read")
    if read is not None and "{id}" not in read:
        report.add(node.place("read"), "`read` has no `{id}`", 'write where the id goes, e.g. "GET /v1/feedback/{id}"')


def _route(route: str | None, place: Node, report: Report) -> None:
    if route is not None and not _ROUTE.fullmatch(route):
        report.add(place, f"{shown(route)} is no request", 'write a method and a path, e.g. "POST /predict"')


class ServiceCheck:
    """The whole service."""

    def __call__(self, values: Values, node: MappingNode, report: Report) -> None:
        check_name(values, node, report)
        self._platform(values, node, report)
        self._health(node, report)
        endpoint, golden = values.get("endpoint"), node.get("golden")
        protocol = endpoint.protocol if isinstance(endpoint, Endpoint) else None
        if isinstance(endpoint, Endpoint) and protocol == "kserve-v2" and not endpoint.model and isinstance(golden, SequenceNode):
            place = node.place("endpoint")
            report.add(
                place, "golden questions of `kserve-v2` without a model", "add `model:`: they are asked at /v2/models/MODEL/infer"
            )
        if protocol and isinstance(golden, SequenceNode):
            for item in golden.items:
                if isinstance(item, MappingNode):
                    _golden(item, protocol, report)

    @staticmethod
    def _platform(values: Values, node: MappingNode, report: Report) -> None:
        platform, endpoint, place = values.get("platform"), values.get("endpoint"), node.place("endpoint")
        if platform is None:
            return
        if node.get(platform) is None:
            report.add(
                node.place("platform"), f"`platform` is `{platform}`, but there is no block `{platform}:`", f"add `{platform}:`"
            )
        for other in {"kubernetes", "docker", "process"} - {platform}:
            if node.get(other) is not None:
                report.add(
                    node.place(other), f"a block `{other}:`, but `platform` is `{platform}`", "remove it, or change `platform`"
                )
        if isinstance(endpoint, Endpoint) and endpoint.url is None:
            if platform != "kubernetes":
                report.add(place, "`url` is missing in `endpoint`", 'add e.g. `url: "http://127.0.0.1:8000"`')
            elif endpoint.service is None or endpoint.port is None:
                report.add(
                    place, "`endpoint` names neither a service with its port nor a URL", "add `service:` and `port:`, or `url:`"
                )
        check_probe_place(platform, values.get("probe"), node, report)

    @staticmethod
    def _health(node: MappingNode, report: Report) -> None:
        health = node.get("health")
        for item in health.items if isinstance(health, SequenceNode) else []:
            if isinstance(item, ScalarNode) and not item.text.startswith("/"):
                report.add(item, f"{shown(item.text)} is no path", "start it with `/`, e.g. `/health`")


def _golden(node: MappingNode, protocol: str, report: Report) -> None:
    mine = _GOLDEN[protocol]
    known = {key for keys in _GOLDEN.values() for key in keys}
    for key, (place, _) in node.entries.items():
        if key in known and key not in mine:
            words = ", ".join(f"`{word}`" for word in mine)
            report.add(place, f"`{key}` does not fit protocol `{protocol}`", f"it takes {words}")
    if mine[0] not in node.entries:
        report.add(node, f"`{mine[0]}` is missing: the protocol is `{protocol}`", f"add `{mine[0]}:`")
    request = node.get("request")
    if isinstance(request, ScalarNode) and protocol == "http":
        _route(request.text, request, report)
    check_tolerance(node, report)
    if protocol == "kserve-v2":
        check_tensors(node, report)


def checks() -> dict[type, Check]:
    """The checks for one file, by the class of the record that they look at."""
    patterns = _Patterns()
    return {
        Endpoint: check_endpoint,
        Component: patterns.component,
        Link: check_link,
        ProcessSpec: patterns.process,
        KubernetesSpec: check_workload,
        Workload: check_workload,
        DockerSpec: check_docker,
        Part: check_part,
        InnerRole: patterns.role,
        Probe: check_probe,
        Model: check_model,
        LedgerRoutes: check_ledger,
        Service: ServiceCheck(),
    }
