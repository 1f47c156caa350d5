"""A Docker engine of our own, where root and Debian's docker.io are there; with the base image of ../shared/kube."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blackstart.injectors.platforms.base import PlatformError
from blackstart.injectors.platforms.docker_api import DockerApi, at
from blackstart.injectors.platforms.docker_helpers import present
from blackstart.tests.command import until
from blackstart.tests.docker import nvidia_runtime
from blackstart.tests.docker.nvidia_runtime import RUN

IMAGE = "devkube/python:3.11"
ARCHIVE = Path(__file__).parents[3] / "shared" / "kube" / "python.tar.zst"
STATE = Path("/var/lib/blackstart-docker")
SOCKET = RUN / "docker.sock"
PROGRAMS = ("dockerd", "containerd", "runc", "iptables", "zstd")
MARKS = ("DOCKER", "docker0", "10.213.")  # in rules of the firewall that are dockerd's
BUILT_IN = frozenset({"bridge", "host", "none"})  # networks
STARTED_S, STOPPED_S = 60, 60
STORAGE = ("overlay2", "vfs")  # the first that this machine's file system takes


def missing() -> str:
    """Why no engine can be started here; empty: one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        return "a Docker engine needs root"
    if absent:
        return f"a Docker engine needs {', '.join(absent)} (apt-get install docker.io zstd)"
    if others := set(running()) - {own()}:
        return f"another Docker engine runs on this machine (pid {others.pop()}), and two would share its firewall"
    return "" if ARCHIVE.exists() else f"{ARCHIVE} is missing"


def running() -> list[int]:
    """Every dockerd."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if path.read_text(encoding="utf-8").strip() == "dockerd":
                found.append(int(path.parent.name))
    return found


def own() -> int:
    """The pid of the one that we started, 0 without one."""
    with suppress(OSError, ValueError):
        return int((RUN / "dockerd.pid").read_text(encoding="ascii"))
    return 0


class Engine:
    """dockerd, started and stopped by us; or one that an earlier session left, which is taken over."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.log = RUN / "dockerd.log"
        self.storage = STORAGE[0]

    def start(self) -> None:
        """Returns once it answers."""
        for self.storage in STORAGE:
            if self.answers() or self._tried():
                return
        raise AssertionError(f"dockerd does not start: {self.words()}")

    def _tried(self) -> bool:
        RUN.mkdir(parents=True, exist_ok=True)
        command = ["dockerd", "--data-root", STATE, "--exec-root", RUN / "exec", "--pidfile", RUN / "dockerd.pid"]
        command += ["--host", f"unix://{SOCKET}", "--storage-driver", self.storage, "--bip", "10.213.0.1/24"]
        command += ["--default-address-pool", "base=10.213.128.0/17,size=24", "--ip6tables=false"]
        command += ["--add-runtime", f"nvidia={_nvidia()}"]
        with self.log.open("ab") as log:
            process = self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("dockerd to answer or to end", lambda: self.answers() or process.poll() is not None, STARTED_S)
        return process.poll() is None

    def answers(self) -> bool:
        with suppress(PlatformError):
            self.api().close()
            return True
        return False

    def api(self) -> DockerApi:
        return DockerApi.opened({"DOCKER_HOST": f"unix://{SOCKET}"})

    def stop(self) -> None:
        """In order; containers end with it."""
        if (pid := own()) in running():
            os.kill(pid, signal.SIGTERM)
            until("dockerd to end", lambda: self.ended(pid), STOPPED_S)
        self.process = None

    def ended(self, pid: int) -> bool:
        return self.process.poll() is not None if self.process else not Path(f"/proc/{pid}").exists()

    def load(self) -> None:
        """The base image, once."""
        api = self.api()
        try:
            present(api, IMAGE)
        except PlatformError:
            with subprocess.Popen(["zstd", "-dcq", str(ARCHIVE)], stdout=subprocess.PIPE) as unpacked:
                subprocess.run(
                    ["docker", "--host", f"unix://{SOCKET}", "load"], stdin=unpacked.stdout, check=True, capture_output=True
                )
        finally:
            api.close()

    def empty(self) -> None:
        """Without what a killed test run left; its images stay."""
        api = self.api()
        try:
            for container in api.get("/containers/json", all=1):
                api.delete(at("containers", container["Id"]), force="true", v="true")
            for network in api.get("/networks"):
                if network["Name"] not in BUILT_IN:
                    api.delete(at("networks", network["Id"]))
            for volume in api.get("/volumes")["Volumes"] or []:
                api.delete(at("volumes", volume["Name"]))
        finally:
            api.close()

    def words(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else "it said nothing"


def _nvidia() -> Path:
    """The runtime that stands in for NVIDIA's, as a program of its own."""
    path = RUN / "nvidia-runtime"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {nvidia_runtime.__file__} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def swept() -> None:
    """dockerd leaves a mount, its bridge and its rules in the firewall of this machine, which others' tests share."""
    subprocess.run(["umount", str(RUN / "exec" / "netns" / "default")], capture_output=True, check=False)
    subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
    for table in ("filter", "nat"):
        listed = subprocess.run(["iptables", "-t", table, "-S"], capture_output=True, text=True, check=True).stdout.splitlines()
        ours = [shlex.split(line)[1:] for line in listed if line.startswith("-A ") and any(mark in line for mark in MARKS)]
        chains = [line.split()[1] for line in listed if line.startswith("-N DOCKER")]
        for rule in ours:
            subprocess.run(["iptables", "-t", table, "-D", *rule], capture_output=True, check=False)
        for chain in chains:
            subprocess.run(["iptables", "-t", table, "-X", chain], capture_output=True, check=False)


@contextmanager
def forwarding() -> Iterator[None]:
    """dockerd may have this machine forward packets, and then drops all that it does not know; afterwards it is as it was."""
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    before = forward.read_text(encoding="ascii")
    policy = subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True, check=True).stdout.split()[2]
    try:
        yield
    finally:
        forward.write_text(before, encoding="ascii")
        subprocess.run(["iptables", "-P", "FORWARD", policy], capture_output=True, check=True)


@contextmanager
def started() -> Iterator[Engine]:
    """One that was there before stays, unless it was started anew meanwhile."""
    engine = Engine()
    found = engine.answers()
    with forwarding():
        try:
            engine.start()
            engine.load()
            if not found:
                engine.empty()
            yield engine
        finally:
            if not found or engine.process:
                engine.stop()
                swept()
