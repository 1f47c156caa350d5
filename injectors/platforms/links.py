"""Link proxies on this machine: finding them, putting rules on them, and looking through them from outside.

Each link of the service file has one `injectors/proxy.py` in it, controlled by a socket in the runtime folder. A rule lasts
while the control connection that set it is open; this object holds those connections, so that the death of this process ends
every rule at once. `link_probe` is the second source: an ordinary client's connection through the link.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..values import JSON
from .base import PlatformError, Target, Unavailable, Unsupported
from .link_probe import probe
from .process_spec import Link

CONTROL_LIMIT_S = 5.0


def runtime_folder(environment: Mapping[str, str]) -> Path:
    """Where the proxies' control sockets are; the same rule as in proxy.py."""
    if folder := environment.get("BLACKSTART_RUNTIME_DIR"):
        return Path(folder)
    if base := environment.get("XDG_RUNTIME_DIR"):
        return Path(base) / "blackstart"
    return Path(f"/tmp/blackstart-{os.getuid()}")  # noqa: S108 - the proxy serves only from a private folder


@dataclass
class Control:
    """One control connection to a proxy."""

    link: str
    path: Path
    channel: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))

    def __post_init__(self) -> None:
        self.channel.settimeout(CONTROL_LIMIT_S)
        try:
            self.channel.connect(str(self.path))
        except OSError as error:
            self.channel.close()
            raise Unavailable(
                f"the link proxy of {self.link} does not answer at {self.path}: {error.strerror or error}"
            ) from error

    def ask(self, **request: object) -> JSON:
        """The proxy's answer. Raises Unavailable without one, PlatformError when it says no."""
        said = b""
        try:
            self.channel.sendall(json.dumps(request).encode() + b"\n")
            while not said.endswith(b"\n"):
                some = self.channel.recv(65536)
                if not some:
                    raise Unavailable(f"the link proxy of {self.link} went away")
                said += some
        except OSError as error:
            raise Unavailable(f"the link proxy of {self.link} does not answer: {error.strerror or error}") from error
        answer: JSON = json.loads(said)
        if not answer.pop("ok"):
            raise PlatformError(f"the link proxy of {self.link} refused: {answer['why']}")
        return answer

    def close(self) -> None:
        self.channel.close()


class LinkControl:
    """The links of one service. `runtime` is the folder of the control sockets; `roles` gives the role of each component."""

    def __init__(self, spec_links: tuple[Link, ...], runtime: Path, roles: Mapping[str, str] = MappingProxyType({})) -> None:
        self.by_name = {link.name: link for link in spec_links}
        self.runtime = runtime
        self.roles = roles
        self._held: dict[tuple[str, str], Control] = {}

    def links(self, targets: tuple[Target, ...], peers: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the links with a target at one end and, at the other, one of the peers: a component's name, a role, or
        `client`; without peers, anybody. Raises Unsupported where one of the peers, or without peers one of the targets, has none.
        """
        names = {target.name.partition("/")[0] for target in targets}
        ends = [(link.name, near, far) for link in self.by_name.values() for near, far in _both_ways(link) if near in names]
        joined = [each for each in ends if not peers or {each[2], self.roles.get(each[2])} & {*peers}]
        met = {word for _, _, far in joined for word in (far, self.roles.get(far))}
        unmet = [peer for peer in peers if peer not in met]
        known = {word for link in self.by_name.values() for end in (link.from_, link.to) for word in (end, self.roles.get(end))}
        unknown = [peer for peer in unmet if peer not in {*known, *self.roles, *self.roles.values()}]
        there = ", ".join(f"{name} ({role})" for name, role in self.roles.items())
        hint = f"; nothing is called {', '.join(unknown)} or has that role: there is {there}, and `client`" if unknown else ""
        untouched = sorted(names - {near for _, near, _ in joined})
        if unmet or untouched:
            raise Unsupported(
                f"no link proxy stands between {', '.join(untouched or sorted(names))} and {', '.join(unmet or peers) or 'anybody'}; declare it "
                f"under process.links ({{name, from, to, listen}}) and start injectors/proxy.py there{hint}"
            )
        return tuple(dict.fromkeys(name for name, _, _ in joined))

    def link_begin(self, fault: str, link: str, rule: JSON, deadline_s: float) -> JSON:
        """Put one rule on a link and hold it; returns the proxy's record of it.

        `towards` (component names) in the rule turns its direction round where the link leads away from them: in a scenario
        `to` means to the fault's target, in the proxy to the side that is connected to.
        """
        rule = dict(rule)
        towards = rule.pop("towards", ())
        rule.pop("standing", None)  # they always fall silent here
        ends = self._link(link)
        if rule.get("direction") in {"to", "from"} and ends.from_ in towards and ends.to not in towards:
            rule["direction"] = "from" if rule["direction"] == "to" else "to"
        control = self._control(link)
        try:
            record = control.ask(do="set", fault=fault, rule=rule, deadline_s=deadline_s)
        except PlatformError:
            control.close()
            raise
        self._held[fault, link] = control
        return record

    def link_end(self, fault: str, link: str) -> JSON:
        """Take the rule away; `cleared` says whether it was there. A proxy that is gone took its rules with it."""
        held = self._held.pop((fault, link), None)
        try:
            control = self._control(link)
        except Unavailable as error:
            return {"fault": fault, "cleared": False, "proxy": str(error)}
        else:
            try:
                return control.ask(do="clear", fault=fault)
            finally:
                control.close()
        finally:
            if held:
                held.close()

    def link_rules(self, link: str) -> list[JSON]:
        """The rules in force, each {fault, rule, left_s, connections, bytes_held, ...}. Raises Unavailable without a proxy."""
        control = self._control(link)
        try:
            rules: list[JSON] = control.ask(do="list")["rules"]
        finally:
            control.close()
        return rules

    def link_probe(self, link: str, limit_s: float, want: int = 0) -> JSON:
        """What an ordinary client meets on this link; see link_probe.py."""
        return probe("127.0.0.1", self._link(link).listen, limit_s, want)

    def close(self) -> None:
        """Let go of every rule that is still held."""
        for control in self._held.values():
            control.close()
        self._held.clear()

    def _link(self, name: str) -> Link:
        if name not in self.by_name:
            raise Unsupported(f"the service file has no link {name}; it has {', '.join(self.by_name) or 'none'}")
        return self.by_name[name]

    def _control(self, link: str) -> Control:
        return Control(link, self.runtime / f"link-{self._link(link).listen}.sock")


def _both_ways(link: Link) -> tuple[tuple[str, str], tuple[str, str]]:
    return (link.to, link.from_), (link.from_, link.to)
