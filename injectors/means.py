"""What brings faults about on each platform, in words for people: what kinds of faults say of themselves in `done_by`."""

from collections.abc import Mapping

Means = Mapping[str, str]  # by the platform's name

AGENT: Means = {
    "process": "an agent, a process of its own beside the target",
    "kubernetes": "an agent that is piped into the pod's container by `exec`",
    "docker": "an agent that is piped into the container by the engine's `exec`",
}
GPU_AGENT: Means = {
    **AGENT,
    "kubernetes": f"{AGENT['kubernetes']}; where none can work in that, in a pod of ours on its node that is given the same GPU",
    "docker": f"{AGENT['docker']}; where none can work in that, in a container of ours beside it that is given the same GPU",
}
OF_FILES: Means = {
    **AGENT,
    "kubernetes": f"{AGENT['kubernetes']}; of slow-read in a pod of ours on its node that has the same claims (privilege helper)",
    "docker": f"{AGENT['docker']}; of slow-read in a container of ours beside it that has the same volumes (privilege helper)",
}
HOLD: Means = {
    **AGENT,
    "docker": f"{AGENT['docker']}; without a `role` the engine pauses the container, and an agent on its machine holds that",
}
KILL: Means = {
    "process": "SIGKILL to its process and all that belong to it, which an agent stops first so that none can react",
    "kubernetes": "the pod is deleted without a grace period, or evicted by the Eviction API",
    "docker": "a signal to the container's first process where this machine sees it; else the engine's `kill`, and a start at once",
}
SIGNAL: Means = {
    "process": "SIGKILL to these processes",
    "kubernetes": "SIGKILL to these processes, by a program that is piped into the pod's container by `exec`",
    "docker": "SIGKILL to these processes, from this machine where it sees them, else by a program in the container",
}
RESTART: Means = {
    "process": "SIGTERM to the main process, after a time SIGKILL to what is left of it, then a start",
    "kubernetes": "the pod is deleted with its own grace period, and its controller makes another one",
    "docker": "the engine's `restart`: the container's stop signal, its time limit, SIGKILL, a start",
}
LINK: Means = {"process": "a rule of the link proxy that stands in the path (`process.links`)"}
_WALL = "a firewall (nft) in the target's network, in a container of ours that shares it"
CUT: Means = {
    **LINK,
    "kubernetes": "a NetworkPolicy; for one `direction` or `standing` a firewall (nft) in the pod's own network",
    "docker": _WALL,
}
NO_NAMES: Means = {"kubernetes": "a NetworkPolicy that lets all pass but port 53", "docker": _WALL}
IN_PATH: Means = {
    **LINK,
    "kubernetes": "a proxy in the pod's own network, put there by an ephemeral container with NET_ADMIN",
    "docker": "a proxy in the target's network, in a container of ours that shares it",
}
PATCH: Means = {"kubernetes": "a patch of the object by blackstart, beside a guard (a Job) that would put it back"}
DRAIN: Means = {"kubernetes": f"{PATCH['kubernetes']}; then the Eviction API"}
CUT_NODE: Means = {"kubernetes": "a firewall (nft) in the node's own network, put up by a pod of ours there"}
CLIENTS: Means = {"process": "an agent on this machine, whose clients ask at the service's own endpoint"}
OWN: Means = {"process": "your `inject` command"}
SHIMMED: Means = {
    "process": "a library before CUDA's driver, with which the service was started (LD_AUDIT); an agent sets until when it fails"
}
XID_TOLD: Means = {
    "process": "an agent: a line in the kernel's log (/dev/kmsg), a sample in DCGM's cache (dcgmi test --inject), or both"
}
