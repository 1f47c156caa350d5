"""Containers of a service as targets with names that outlive the containers.

A container that starts again keeps its ID and its name; one that Compose makes anew has another ID under the same number. So a
target's name is a slot (`llm-1` of a Compose service, else the container's own name), and its identity the ID with the moment of its
start: what ran before a restart is gone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..values import JSON
from .base import PlatformError, Target
from .docker_api import DockerApi, at
from .docker_exec import Room
from .docker_helpers import OURS
from .docker_spec import DockerSpec, Part

COMPOSE = "com.docker.compose."
ANY_HOST = {"", "0.0.0.0"}  # noqa: S104 - what it is published at
RESTARTS = {"always", "unless-stopped", "on-failure"}


def short(number: str) -> str:
    """An ID as the engine itself shows it to people and takes it from them."""
    return number[:12]


def identity_of(container: JSON) -> str:
    return f"container:{short(container['Id'])}@{container['State']['StartedAt']}"


def parts_of(identity: str) -> tuple[str, str]:
    """Short ID and start of a target's identity, also of a process inside a container."""
    number, _, start = identity.removeprefix("container:").partition("/pid:")[0].partition("@")
    return number, start


def runs(container: JSON) -> bool:
    """A paused one runs; one that is about to start again does not."""
    return bool(container["State"]["Running"] and not container["State"]["Restarting"])


def room_of(container: JSON) -> Room:
    return Room(container["Id"], name_of(container))


def name_of(container: JSON) -> str:
    return str(container["Name"]).lstrip("/")


def restarts_itself(container: JSON) -> bool:
    """Whether the engine starts it again when it dies by itself."""
    policy = container["HostConfig"].get("RestartPolicy") or {}
    limit = int(policy.get("MaximumRetryCount") or 0)
    return policy.get("Name") in RESTARTS and not (limit and container["RestartCount"] >= limit)


def addresses_of(container: JSON) -> list[str]:
    """Of both families, on every network that it is on."""
    networks = (container["NetworkSettings"].get("Networks") or {}).values()
    return [each[key] for each in networks for key in ("IPAddress", "GlobalIPv6Address") if each.get(key)]


def networks_of(container: JSON) -> list[str]:
    return list(container["NetworkSettings"].get("Networks") or {})


def port_of(container: JSON, port: int | None) -> int | None:
    """That one, or the first TCP port that it exposes."""
    exposed = sorted(
        int(each.partition("/")[0]) for each in container["Config"].get("ExposedPorts") or {} if each.endswith("/tcp")
    )
    return port or (exposed[0] if exposed else None)


def published(container: JSON, port: int | None, engine: str) -> list[str]:
    """URLs at which that TCP port of it (None: any) can be reached from other machines than the engine's, or there."""
    found, here = [], urlsplit(engine).hostname or "127.0.0.1"
    for named, bindings in sorted((container["NetworkSettings"].get("Ports") or {}).items()):
        if named.endswith("/tcp") and port in {None, int(named.removesuffix("/tcp"))}:
            hosts = [(str(each["HostIp"]), each["HostPort"]) for each in bindings or [] if ":" not in each["HostIp"]]
            found += [f"http://{here if host in ANY_HOST else host}:{number}" for host, number in hosts]
    return found


@dataclass
class Finder:
    """Looks at the engine. `reaches` says whether a container's own address can be reached from where is measured."""

    api: DockerApi
    spec: DockerSpec
    reaches: Callable[[JSON], bool]

    def all(self) -> tuple[Target, ...]:
        """A target for every container that runs."""
        return tuple(
            self._target(name, part, container)
            for part in self.spec.parts()
            for name, container in self._newest(part).items()
            if runs(container)
        )

    def one(self, name: str) -> Target | None:
        return next((target for target in self.all() if target.name == name), None)

    def container(self, name: str) -> JSON | None:
        """What stands in that slot, whether it runs or not."""
        return next((found[name] for part in self.spec.parts() if name in (found := self._newest(part))), None)

    def port(self, name: str) -> int | None:
        """Where what stands in that slot answers by itself."""
        return next((port_of(container, part.port) for slot, part, container in self.everything() if slot == name), None)

    def very(self, target: Target) -> JSON | None:
        """The very container that is meant, while it runs; None: it is gone, or was started anew."""
        number, start = parts_of(target.identity)
        found = self.api.there(at("containers", number, "json"))
        return found if found and runs(found) and found["State"]["StartedAt"] == start else None

    def everything(self) -> list[tuple[str, Part, JSON]]:
        """Slot, part and container, also of those that do not run."""
        return [(name, part, container) for part in self.spec.parts() for name, container in self._newest(part).items()]

    def _newest(self, part: Part) -> Mapping[str, JSON]:
        """Slot -> the container in it: one that runs before one that does not, then the latest."""
        slots: dict[str, JSON] = {}
        for listed in self._listed(part):
            container = self.api.there(at("containers", listed["Id"], "json"))
            if container is None:
                continue
            name = _slot(part, container)
            rival = slots.get(name)
            if rival is None or (runs(rival), rival["Created"]) < (runs(container), container["Created"]):
                slots[name] = container
        return dict(sorted(slots.items()))

    def _listed(self, part: Part) -> list[JSON]:
        """Without our own, which have the labels of their image as well, and Compose labels what it builds."""
        filters: dict[str, list[str]] = {}
        if part.compose:
            filters["label"] = [f"{COMPOSE}project={part.compose.project}", f"{COMPOSE}service={part.compose.service}"]
        elif part.label:
            filters["label"] = [part.label]
        else:
            filters["name"] = [f"^/{name}$" for name in part.containers]
        found: list[JSON] = self.api.get("/containers/json", all=1, filters=filters)
        return [each for each in found if OURS not in each["Labels"] and each["Labels"].get(f"{COMPOSE}oneoff") != "True"]

    def _target(self, name: str, part: Part, container: JSON) -> Target:
        health = (container["State"].get("Health") or {}).get("Status")
        details = {
            "container": name_of(container),
            "image": container["Config"]["Image"],
            "networks": networks_of(container),
            "url": self.url(part, container),
            "ready": health in {None, "none", "healthy"},
        }
        return Target(identity_of(container), name, part.role, details)

    def url(self, part: Part, container: JSON) -> str | None:
        """Where it answers by itself: at its own address, or where only that can be reached, at the port that it publishes."""
        port, addresses = port_of(container, part.port), addresses_of(container)
        if port is None:
            return None
        if addresses and self.reaches(container):
            host = addresses[0]
            return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return next(iter(published(container, port, self.api.host)), None)


def _slot(part: Part, container: JSON) -> str:
    labels = container["Config"].get("Labels") or {}
    number = labels.get(f"{COMPOSE}container-number")
    return f"{part.compose.service}-{number}" if part.compose and number else name_of(container)


def mount_of(container: JSON, path: str) -> JSON | None:
    """The mount that holds a path of a container; None: its own layer does."""
    tmpfs = [{"Destination": folder, "Type": "tmpfs", "RW": True} for folder in container["HostConfig"].get("Tmpfs") or {}]
    every = [*(container.get("Mounts") or []), *tmpfs]
    holding = [each for each in every if f"{path}/".startswith(f"{each['Destination'].rstrip('/')}/")]
    return max(holding, key=lambda each: len(each["Destination"]), default=None)


def volume_of(container: JSON, path: str) -> JSON:
    """What holds a path of a container: `id`, equal for two containers that see the same; `outlives` a restart; `unfit`: why no
    model file there may be changed, empty: it may, and `only_read`: for nothing but its mount; `apart`: a file system of its own, which the engine does not say of a volume.
    """
    own = f"container {container['Id']}"
    if (mount := mount_of(container, path)) is None:
        return {
            "id": own,
            "outlives": True,
            "apart": False,
            "unfit": "lies in the container's own layer over its image; put it on a volume or a bind mount",
        }
    folder = mount["Destination"]
    unfit = "" if mount["RW"] else f"lies on a mount that {name_of(container)} may only read ({folder})"
    if mount["Type"] == "tmpfs":
        return {"id": own, "outlives": False, "apart": True, "unfit": unfit, "only_read": not mount["RW"]}
    inside = path[len(folder.rstrip("/")) :]
    source = f"volume {mount['Name']} " if mount["Type"] == "volume" else f"host {mount['Source'].rstrip('/')}"
    return {"id": f"{source}{inside}", "outlives": True, "apart": False, "unfit": unfit, "only_read": not mount["RW"]}


def standing(finder: Finder, target: Target) -> JSON:
    """The very container, where without it nothing can be done. Raises PlatformError when it is gone."""
    found = finder.very(target)
    if found is None:
        raise PlatformError(f"{target.name} ({target.identity}) is gone")
    return found
