"""What containers of ours on Docker and pods of ours have in common: what keeps one up for as long as an agent in it holds a fault, and no
longer; and the words by which NVIDIA's runtime gives it GPUs.
"""

from typing import Final

from .base import Unsupported

# Its argument: seconds, after which it ends in any case; one in which no agent ever has left a record ends after a minute.
SLEEP: Final = (
    "import glob,signal,sys,time\nsignal.signal(15,lambda *_:sys.exit(0))\nbegan=time.monotonic();seen=False\n"
    "while time.monotonic()<began+(float(sys.argv[1]) if seen else 60):\n time.sleep(0.2)\n"
    " there=bool(glob.glob('/tmp/blackstart-*.json')+glob.glob('/dev/shm/blackstart-*.json'))\n"
    " if seen and not there:\n  time.sleep(3)\n  break\n seen=seen or there"  # whoever undid it has not said so yet
)


VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"  # UUIDs or indices of GPUs that NVIDIA's runtime lets a container have, or ALL
ALL: Final = "all"
CUDA_VISIBLE, CUDA_ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"  # CUDA's own: a narrower choice among those
CAPABILITIES: Final = "NVIDIA_DRIVER_CAPABILITIES"
NEEDED: Final = ("compute", "utility")  # of the driver's capabilities: CUDA and NVML
MOST: Final = "helper"  # the rung of privilege that a container or pod of ours takes, and the highest


def run_of(fault: str) -> str:
    """The run that a fault belongs to."""
    return fault.rpartition(".")[0] or fault


def given(device: str) -> dict[str, str]:
    """The variables by which a container asks for that GPU (a UUID, or ALL)."""
    return {VISIBLE: device, CAPABILITIES: ",".join(NEEDED)}


def refuse_below(privilege: str) -> None:
    """Raises Unsupported where so much privilege is not enough for a container or pod of ours: before one looks for a plan."""
    if privilege != MOST:
        raise Unsupported(
            f"that takes the privilege {MOST}, and {privilege} is the most that is allowed (--max-privilege, protect.privilege)"
        )
