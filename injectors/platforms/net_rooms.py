"""What net_agent.py is asked in a container that shares its target's network, and which ends a path between containers has."""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from ..values import JSON
from .abilities import NAMES, outside
from .base import PlatformError, Target, Unsupported
from .exec_agents import Doors, W, source

ANYBODY: Final = "anybody"
OVER: Final = "/tmp/blackstart-over"  # noqa: S108 - in the container's own file system
# Who keeps such a container up. It does not end by a signal to its first process: where that is shared, it is the target's own.
SLEEP: Final = (
    "import os,signal,sys,time\nsignal.signal(15,lambda *_:sys.exit(0))\nend=time.monotonic()+float(sys.argv[1])\n"
    f"while time.monotonic()<end and not os.path.exists({OVER!r}): time.sleep(0.2)"
)


def request_of(rule: JSON, peers: Sequence[str], but: Sequence[str], container: str) -> tuple[str, JSON]:
    """The verb of net_agent.py that does it, and its request: names are kept from the target, what peers and target send each other is
    cut, or what they open to each other goes through a proxy; but for what is `but`'s.
    """
    if rule["type"] == "names":
        return "names", {"container": container}
    between = {"peers": list(peers), "but": list(but), "ports": [], "container": container}
    if rule["type"] == "partition":
        return "cut", {**between, "direction": rule["direction"]}
    return "proxy", {**between, "rule": rule, "sides": ["in", "out"], "program": source("proxy.py").decode()}


def asked(doors: Doors[W], where: W, verb: str, fault: str | None) -> JSON:
    """What net_agent.py says there, of a verb that holds nothing."""
    request = "-" if fault is None else json.dumps({"fault": fault})
    code, said, errors = doors.run(where, source("net_agent.py"), [verb, request])
    if code:
        raise PlatformError(f"{where}: {(said.decode() or errors).strip()[-300:]}")
    answer: JSON = json.loads(said)
    return answer


def counted(doors: Doors[W], where: W, fault: str, rule: JSON) -> JSON | None:
    """The rule with how often it was met, where it is in force; by what nft counts there. Of names only answers that were dropped count."""
    found = asked(doors, where, "count", fault)
    if not found["there"]:
        return None
    met = {name: way["packets"] for name, way in found["counters"].items() if rule["type"] != "names" or name == "to"}
    return {"fault": fault, "rule": rule, "connections": sum(met.values())}


def ends_of(link: str, everything: Sequence[Target]) -> tuple[Target, list[Target]]:
    """The target of a link (`llm-0--gateway,store`, `llm-0--anybody`, `llm-0--hub.example:443`), and its peers as they stand now, as far
    as they are of the service; of `anybody` all others.
    """
    name, _, words = link.rpartition("--")
    target = next((each for each in everything if each.name == name), None)
    if target is None:
        raise PlatformError(f"{name} is gone, and nothing stands in its place")
    peers = words.split(",")
    others = [each for each in everything if each.name != name]
    if words in {ANYBODY, NAMES}:
        return target, others
    for peer in peers:
        if not outside([peer]) and not any(peer in {each.name, each.role} for each in others):
            there = ", ".join(f"{each.name} ({each.role})" for each in others)
            raise Unsupported(
                f"nothing is called {peer} or has that role; beside {name} there is {there or 'nothing'}; what is no part of the "
                "service is named HOST:PORT"
            )
    return target, [each for each in others if {each.name, each.role} & set(peers)]


def outside_of(link: str) -> list[tuple[str, int]]:
    """Host and port of the peers of a link that are no part of the service."""
    return outside(link.rpartition("--")[2].split(","))


def addresses_outside(doors: Doors[W], where: W, hosts: Iterable[str]) -> list[str]:
    """All addresses of these hosts as they are known inside the target. Raises Unsupported for one that has none there."""
    found: list[str] = []
    for host in dict.fromkeys(hosts):
        if "--" in host:
            raise Unsupported(f"{host}: `--` divides a target from its peers; name an address of it instead")
        _, said, _ = doors.run(where, source("platforms/link_probe.py"), [json.dumps({"host": host})])
        addresses = json.loads(said or b"[]")
        if not addresses:
            raise Unsupported(f"{host} has no address inside {where}, so no connection to it could be cut")
        found += addresses
    return found


def best_seen(seen: Sequence[JSON]) -> JSON:
    """Of what was met from several peers: the one that fares best counts, since a target is cut off only where all are."""
    return next((each for each in seen if each["outcome"] != "silent"), seen[0])
