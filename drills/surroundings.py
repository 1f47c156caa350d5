"""What stands behind an address of this machine, as far as the kernel and command lines tell: servers, link proxies, relatives."""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..injectors.platforms.listening import HIDDEN, listeners
from ..injectors.platforms.process_find import OWN_PROGRAMS
from ..injectors.platforms.process_table import Table, command_line, snapshot

EVERY_PORT = range(1, 65536)
PASS_ON = {  # programs that answer in the name of others, by the name they are started with
    *("nginx", "haproxy", "envoy", "traefik", "caddy", "apache2", "httpd"),
    *("docker-proxy", "rootlessport", "slirp4netns", "kubectl", "ssh", "sshd", "socat"),
}


@dataclass(frozen=True)
class Server:
    """A process that listens. `command` is its command line; None where it belongs to somebody else and cannot be read."""

    port: int
    pid: int
    command: str | None

    @property
    def program(self) -> str:
        words = (self.command or "").split()
        return Path(words[0].rstrip(":")).name if words else ""

    @property
    def passes_on(self) -> bool:
        return self.program in PASS_ON

    def names(self, port: int) -> bool:
        """Whether an address with that port stands on its command line."""
        return bool(re.search(rf":{port}\b", self.command or ""))

    def like(self, other: "Server") -> bool:
        """Whether both are started alike but for numbers: peers, and neither stands in front of the other."""
        return re.sub(r"\d+", "", self.command or "") == re.sub(r"\d+", "", other.command or "")


@dataclass(frozen=True)
class Proxy:
    """One of blackstart's own link proxies: never a part of the service, only a path to one."""

    name: str
    listen: int
    to_host: str
    to_port: int

    @classmethod
    def of(cls, port: int, command: str) -> Self | None:
        """What its command line says; None for any other program."""
        name, to = re.search(r" --name (\S+)", command), re.search(r" --to (\S+):(\d+)", command)
        if not (name and to and "proxy.py" in command and OWN_PROGRAMS.search(command)):
            return None
        return cls(name[1], port, to[1].strip("[]"), int(to[2]))


@dataclass(frozen=True)
class Surroundings:
    """All that listens on this machine, by port."""

    servers: Mapping[int, Server]
    proxies: Mapping[int, Proxy]
    parents: Mapping[int, int]

    @classmethod
    def now(cls) -> Self:
        table, servers, proxies = snapshot(), {}, {}
        for port, pids in listeners(EVERY_PORT).items():
            pid = _oldest(pids, table)
            command = command_line(pid) if pid != HIDDEN else None
            proxy = Proxy.of(port, command or "")
            if proxy:
                proxies[port] = proxy
            else:
                servers[port] = Server(port, pid, command)
        return cls(servers, proxies, {pid: process.parent for pid, process in table.items()})

    def behind(self, port: int) -> int:
        """The port of the server at the end of the link proxies that begin at this port."""
        seen: set[int] = set()
        while port in self.proxies and port not in seen:
            seen.add(port)
            port = self.proxies[port].to_port
        return port

    def named_by(self, server: Server) -> set[int]:
        """Ports of servers that stand on its command line as addresses, itself or by their link proxies."""
        return {self.behind(int(port)) for port in re.findall(r":(\d{2,5})\b", server.command or "")} - {server.port}

    def relatives(self, server: Server) -> tuple[Server, ...]:
        """Servers that it names on its command line, or that the same process has started; init's children are no relatives."""
        parent = self.parents.get(server.pid, 0)
        born = {port for port, other in self.servers.items() if parent > 1 and self.parents.get(other.pid) == parent}
        return tuple(self.servers[port] for port in sorted((self.named_by(server) | born) & self.servers.keys() - {server.port}))


def _oldest(pids: Iterable[int], table: Table) -> int:
    """Of processes that share a socket the one that the others come from, as far as pids tell."""
    known = sorted(pid for pid in pids if pid in table)
    return known[0] if known else HIDDEN


def is_here(host: str) -> bool:
    """Whether that name is an address of this machine."""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return any(_is_own(address) for address in addresses)


def _is_own(address: str) -> bool:
    """A loopback address, or one that a socket can be bound to here."""
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind((address, 0))
    except OSError:
        return False
    return True
