"""The service profile (`service.yaml`): where a model service lives, how it is asked, what may not be harmed."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from ..injectors.platforms import Where
from ..injectors.platforms.docker_spec import DockerSpec
from ..injectors.platforms.kubernetes_spec import KubernetesSpec
from ..injectors.platforms.process_spec import ProcessSpec
from ..injectors.values import Rate
from .engine_profile import EngineName

Ladder = Literal["api", "exec", "ephemeral", "helper"]  # of Privilege, lowest first
LADDER: tuple[str, ...] = get_args(Ladder)
PORTS = range(1, 65536)
ANY_NUMBER = range(2**63)
STREAMED = "openai"  # the protocol in which answers come piece by piece


@dataclass(frozen=True)
class Endpoint:
    """Where users of the service knock."""

    url: Annotated[str | None, "base URL, as a client of the service would use it"] = None
    service: Annotated[str | None, "Kubernetes Service name"] = None
    port: Annotated[int | None, "port of that Service", PORTS] = None
    protocol: Annotated[Literal["openai", "kserve-v2", "http"], "how a question is asked"] = "http"
    model: Annotated[str | None, "the model that is asked for"] = None
    path: Annotated[str, "for protocol http: the path that is asked by the light lanes"] = "/"


@dataclass(frozen=True)
class Probe:
    """How hard the service is probed, and from where: from a pod of its own beside it, what users inside the cluster see."""

    from_: Annotated[
        Literal["here", "in-cluster", "in-network"],
        "where the prober runs: with this command; in a pod of its own (a Job) in the service's namespace; on Docker in a container of its "
        "own on the service's network",
    ] = "here"
    rate: Annotated[Rate | None, "of the fresh lane; by default 100 probes within the RTO, 10/s to 50/s"] = None
    image: Annotated[
        str | None,
        "any image with python3 (3.8 or newer), for what a drill runs beside the service: a prober, the guard of what it changes, an "
        "agent in a target's network (with nft)",
    ] = None

    @property
    def beside(self) -> bool:
        """Whether it runs beside the service."""
        return self.from_ != "here"


@dataclass(frozen=True)
class Model:
    """The model artefact that replicas read."""

    path: Annotated[str, "a file or folder as a replica sees it; {name} stands for the replica's name"]
    load: Annotated[
        Literal["mmap", "at-start"], "read through a mapping (a change bites now) or copied at start, mapped or not (on restart)"
    ] = "at-start"
    manifest: Annotated[
        str | None, "what `blackstart manifest` wrote of the revision that every replica must have, for the digest lane"
    ] = None
    served: Annotated[
        str | None,
        "where a replica says which revision it serves, for the digest lane: a path and a JSON Pointer (RFC 6901) into the answer, e.g. "
        "`/v1/models#/data/0/digest`",
    ] = None


@dataclass(frozen=True)
class Golden:
    """A fixed question whose answer must not change. `text` left out: recorded before the drill."""

    prompt: Annotated[str | None, "protocol openai: the prompt"] = None
    max_tokens: Annotated[int, "protocol openai: how much to answer", range(1, 2**31)] = 16
    text: Annotated[str | None, "protocol openai: how the answer begins"] = None
    request: Annotated[str | None, "protocol http: `METHOD /path`"] = None
    body: Annotated[Any, "protocol http: JSON sent as the body"] = None
    json: Annotated[Any, "protocol http: what the JSON answer must contain"] = None
    status: Annotated[int, "protocol http: the status that is right", range(100, 600)] = 200
    inputs: Annotated[tuple[Any, ...], "protocol kserve-v2: input tensors, each with name, shape, datatype and data"] = ()
    outputs: Annotated[
        tuple[Any, ...],
        "protocol kserve-v2: output tensors that must come back, each with name and data, and with shape and tolerance of its own; left out: "
        "recorded before the drill",
    ] = ()
    tolerance: Annotated[float, "how far a number may be off"] = 0.0


@dataclass(frozen=True)
class LedgerRoutes:
    """How acknowledged writes are made and read back, for data loss. `{id}` stands for the write's id."""

    write: Annotated[str, "`METHOD /path` that stores a JSON body with `id` and `text`; 200 or 201 acknowledges it"]
    read: Annotated[str, "`METHOD /path` that returns the body of one id; 404 says that it is not there"]


@dataclass(frozen=True)
class SuccessRule:
    """Parts of the success rule that this server never fulfils, switched off with a reason in the report."""

    finish_reason: Annotated[bool, "a terminal finish_reason is demanded"] = True
    done: Annotated[bool, "a stream must end with [DONE]"] = True
    text: Annotated[bool, "delivered text must not be empty"] = True
    model: Annotated[bool, "the answer names the model that was asked for"] = True


@dataclass(frozen=True)
class Protect:
    """What no drill may harm."""

    namespaces: Annotated[tuple[str, ...], "Kubernetes namespaces that are never touched"] = ("kube-system",)
    min_healthy: Annotated[int, "replicas, prefill and decode workers that a drill must leave untouched, of each", ANY_NUMBER] = 0
    opt_in: Annotated[str | None, "a label `KEY=VALUE` that a workload must carry to be drilled"] = None
    privilege: Annotated[Ladder, "the most that a fault may take"] = "helper"


@dataclass(frozen=True)
class InnerRole:
    """A role inside a pod or container."""

    command_line: Annotated[str, "found by a regular expression on the command line"]


@dataclass(frozen=True)
class Service:
    """A whole service.yaml."""

    name: Annotated[str, "[a-z0-9-], at most 63 characters"]
    platform: Annotated[Literal["kubernetes", "docker", "process"], "where the service lives"]
    endpoint: Annotated[Endpoint, "where and how the service is asked"]
    engine: Annotated[
        EngineName | None,
        "the serving engine: its profile supplies what is left out of `endpoint.protocol`, `health`, `roles` (`process.inside`) and "
        "`model.load`; `blackstart doctor` tells what its health endpoints do not notice",
    ] = None
    process: Annotated[ProcessSpec | None, "for platform process: its components"] = None
    kubernetes: Annotated[KubernetesSpec | None, "for platform kubernetes: where in the cluster"] = None
    docker: Annotated[DockerSpec | None, "for platform docker: which containers"] = None
    probe: Annotated[Probe, "how it is probed"] = field(default_factory=Probe)
    model: Annotated[Model | None, "the model artefact"] = None
    roles: Annotated[dict[str, InnerRole], "processes inside a pod or container, by command line"] = field(default_factory=dict)
    health: Annotated[tuple[str, ...], "the service's own health endpoints, watched for honesty"] = ()
    golden: Annotated[tuple[Golden, ...], "fixed questions whose answers must not change"] = ()
    ledger: Annotated[LedgerRoutes | None, "acknowledged writes, for data loss"] = None
    success: Annotated[SuccessRule, "parts of the success rule to switch off"] = field(default_factory=SuccessRule)
    protect: Annotated[Protect, "what no drill may harm"] = field(default_factory=Protect)
    demo: Annotated[bool, "started by `blackstart demo`: nothing is asked before a drill"] = False
    folder: Path = field(default=Path(), metadata={"yaml": False}, compare=False)  # of the file: relative paths start here

    def where(self) -> Where:
        """What its platform's adapter needs to know."""
        inside = {role: inner.command_line for role, inner in self.roles.items()}
        protected, image = self.protect.namespaces, self.probe.image
        return Where(
            self.platform,
            self.folder,
            inside,
            protected,
            self.process,
            self.kubernetes,
            image,
            self.protect.opt_in,
            self.docker,
            self.probe.beside,
            self.protect.privilege,
        )

    def limited(self, privilege: str | None) -> "Service":
        """With no more privilege than that, nor than the file allows."""
        if privilege is None:
            return self
        lower = min(self.protect.privilege, privilege, key=LADDER.index)
        return replace(self, protect=replace(self.protect, privilege=cast(Ladder, lower)))
