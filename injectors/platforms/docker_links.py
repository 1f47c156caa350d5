"""The ways between containers, and theirs to the resolver of names, broken from inside the target's own network (docker_inline.py)."""

import json

from ..values import JSON
from .abilities import NAMES
from .base import PlatformError, Target, Unsupported
from .docker_api import DockerApi
from .docker_exec import Room, RoomDoors
from .docker_find import Finder, addresses_of, name_of, networks_of, room_of, standing
from .docker_helpers import OURS
from .docker_inline import InlineRooms, Way
from .exec_agents import source
from .link_probe import CONNECT_LIMIT_S
from .net_rooms import ANYBODY, addresses_outside, best_seen, ends_of, outside_of

SLACK_S = 10.0
DEFAULT_BRIDGE = "bridge"  # of all networks the one without a resolver of container names


class RoomLinks:
    """A link is a target with the peers that it is cut off from: `llm-1--gateway,store`, or `llm-1--anybody`."""

    api: DockerApi
    finder: Finder
    inline: InlineRooms
    rules_are_the_path: bool = False  # an agent that was killed leaves its rule to the kernel's time limit

    def links(self, targets: tuple[Target, ...], peers: tuple[str, ...], rule: JSON) -> tuple[str, ...]:
        self.inline.refuse(rule)
        found = []
        for target in targets:
            link = f"{target.name}--{','.join(peers) or ANYBODY}"
            _, others = ends_of(link, self.finder.all())
            self._refuse_shared(target)
            if rule["type"] == "names":
                self._known(target, others)
            elif not others and not outside_of(link):
                raise Unsupported(f"nothing but {target.name} is there to prove from that its network is broken")
            else:
                for each in others:
                    self._address(target, each)
                self._outside(target, link)
            found.append(link)
        return tuple(found)

    def link_begin(self, fault: str, link: str, rule: JSON, deadline_s: float) -> JSON:
        target, others = ends_of(link, self.finder.all())
        everybody = link.endswith((f"--{ANYBODY}", f"--{NAMES}"))
        peers = [] if everybody else [address for each in others for address in addresses_of(standing(self.finder, each))]
        peers += self._outside(target, link)
        told = {key: rule[key] for key in rule if key != "towards"}
        return self.inline.begin(fault, target, Way(link, told, peers), deadline_s)

    def link_end(self, fault: str, link: str, rule: JSON) -> JSON:
        """From what is there: it is told by its name, so that nothing needs to be remembered."""
        del rule
        name = link.rpartition("--")[0]
        return self.inline.end(fault, self.finder.one(name) or Target("", name, ""))

    def link_rules(self, link: str) -> list[JSON]:
        name = link.rpartition("--")[0]
        target = self.finder.one(name)
        return self.inline.rules(target) if target else []

    def link_probe(self, link: str, limit_s: float, want: int = 0) -> JSON:
        """What a client inside a peer meets on its way to the target, or one inside the target that asks for a name."""
        target, others = ends_of(link, self.finder.all())
        if link.endswith(f"--{NAMES}"):
            name, other = self._known(target, others)
            return self._probed(link, target, {"name": name, "other": other, "limit_s": limit_s})
        told: JSON = {"limit_s": limit_s, "want": want}
        problems, seen = [], [self._to_outside(link, target, way, told) for way in outside_of(link)]
        for each in others:
            try:
                host, port = self._address(target, each)
                seen.append(self._probed(link, each, {"host": host, "port": port, **told}))
            except Unsupported as error:  # no python3 there, or no way
                problems.append(str(error))
        if not seen:
            raise Unsupported(f"from nowhere can it be proven that {target.name} is cut off: {'; '.join(problems)}")
        return best_seen(seen)

    def _outside(self, target: Target, link: str) -> list[str]:
        """Addresses of the peers that are no part of the service, as the target knows them."""
        return addresses_outside(RoomDoors(self.api), self._room(target), [host for host, _ in outside_of(link)])

    def _to_outside(self, link: str, target: Target, way: tuple[str, int], told: JSON) -> JSON:
        """From inside the target: nobody else is on both ends."""
        return self._probed(link, target, {"host": way[0], "port": way[1], **told})

    def _probed(self, link: str, inside: Target, request: JSON) -> JSON:
        """Silence counts once it was met twice; and where the way is cut, before there was a connection: a slow answer is no cut."""
        where, limit_s = self._room(inside), CONNECT_LIMIT_S + request["limit_s"] + SLACK_S
        seen: JSON = {}
        for _ in range(2):
            program, words = source("platforms/link_probe.py"), [json.dumps(request)]
            _, said, errors = RoomDoors(self.api).run(where, program, words, limit_s)
            if not said:
                raise PlatformError(f"a connection from {where}: {errors.strip()[-300:]}")
            seen = {**json.loads(said), "from": inside.name}
            if seen["outcome"] != "silent":
                break
        if seen["outcome"] == "silent" and seen.get("connected"):
            cut = any(rule["rule"]["type"] == "partition" for rule in self.link_rules(link))
            seen["outcome"] = "slow" if cut else "silent"
        return seen

    def _room(self, target: Target) -> Room:
        return room_of(standing(self.finder, target))

    def _known(self, target: Target, others: list[Target]) -> tuple[str, str]:
        """A name that the target's resolver knows, and where it can connect to without one. Raises Unsupported."""
        own = standing(self.finder, target)
        common = [network for network in networks_of(own) if network not in {DEFAULT_BRIDGE, "host", "none"}]
        if not common:
            raise Unsupported(
                f"{target.name} is on no network of its own, so the engine resolves no names for it that could be asked for; "
                "make one: docker network create"
            )
        for each in others:
            there = standing(self.finder, each)
            if set(common) & set(networks_of(there)):
                host, port = self._address(each, target)
                return name_of(there), f"{host}:{port}"
        return name_of(own), ""

    def _refuse_shared(self, target: Target) -> None:
        container = standing(self.finder, target)
        mode = str(container["HostConfig"].get("NetworkMode") or "")
        if mode == "host" or mode.startswith("container:"):
            whose = "the engine's machine" if mode == "host" else "another container"
            raise Unsupported(f"{target.name} lives in the network of {whose}, where a rule would hit others as well")
        if guests := _guests(container, self.api.get("/containers/json")):
            raise Unsupported(f"a rule in the network of {target.name} would also hit who shares it: {', '.join(guests)}")

    def _address(self, target: Target, seen_from: Target) -> tuple[str, int]:
        """Where the target answers on a network that both are on."""
        container, other = standing(self.finder, target), standing(self.finder, seen_from)
        networks, theirs = container["NetworkSettings"].get("Networks") or {}, networks_of(other)
        hosts = [str(each["IPAddress"]) for name, each in networks.items() if name in theirs and each.get("IPAddress")]
        port = self.finder.port(target.name)
        if port is None:
            raise Unsupported(f"{target.name} exposes no port, so no connection to it can be tried; name it: `port`")
        if not hosts:
            raise Unsupported(
                f"{seen_from.name} and {target.name} are on no network together in which {target.name} has an IPv4 address"
            )
        return hosts[0], port


def _guests(container: JSON, running: list[JSON]) -> list[str]:
    """Who shares the container's network, but for our own; an engine takes a name or the beginning of an ID for a container."""
    found = []
    for each in running:
        mode, _, host = str(each["HostConfig"].get("NetworkMode") or "").partition(":")
        meant = host and (host == name_of(container) or container["Id"].startswith(host))
        if mode == "container" and meant and OURS not in each["Labels"]:
            found.append(str(each["Names"][0]).lstrip("/"))
    return found
