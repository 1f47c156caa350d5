"""What a service file says about a service made of local processes (`platform: process`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated


@dataclass(frozen=True)
class Component:
    """One process (with its descendants) of the service, found by exactly one of port, pid_file and command_line."""

    name: Annotated[str, "its name in selectors and reports"]
    role: Annotated[str, "what it is to the service: replica, gateway, store, standby, supervisor, ..."]
    port: Annotated[int | None, "found by the TCP port that it (or a descendant) listens on"] = None
    pid_file: Annotated[Path | None, "found by the file that holds its pid"] = None
    command_line: Annotated[str | None, "found by a regular expression on its command line"] = None
    start: Annotated[tuple[str, ...], "the command that starts it in the foreground, where blackstart is to start it"] = ()
    directory: Annotated[Path | None, "the folder to start it in"] = None
    environment: Annotated[dict[str, str], "variables added to the environment of `start`"] = field(default_factory=dict)
    supervised: Annotated[bool, "something else starts it again when it ends"] = False
    url: Annotated[
        str | None,
        "where it answers by itself, past the gateway; http://127.0.0.1:PORT when it has a port. A worker of role prefill or decode is asked "
        "only where this is written: not every engine's answers by itself",
    ] = None


@dataclass(frozen=True)
class Link:
    """A path between two components with a link proxy in it."""

    name: Annotated[str, "its name in reports"]
    from_: Annotated[str, "the side that connects: a component's name, or `client`"]
    to: Annotated[str, "the side that is connected to: a component's name"]
    listen: Annotated[int, "the port of the link proxy that stands in this path"]


@dataclass(frozen=True)
class ProcessSpec:
    """`process: {port: N}` is short for one replica that listens there."""

    components: Annotated[tuple[Component, ...], "what the service is made of"] = ()
    inside: Annotated[dict[str, str], "roles below a component: descendants whose command line matches"] = field(
        default_factory=dict
    )
    links: Annotated[tuple[Link, ...], "paths with a link proxy in them"] = ()
    port: Annotated[int | None, "short for one replica on this port"] = None
