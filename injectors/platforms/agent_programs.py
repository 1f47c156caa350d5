"""Which one-file program does what an agent is asked for, and how its process is known from others."""

import json
from pathlib import Path

INJECTORS = Path(__file__).resolve().parent.parent
OTHERS = {
    "mutate-file": "file_agent.py",
    "cut": "net_agent.py",
    "names": "net_agent.py",
    "proxy": "net_agent.py",
    "saturate-gpu": "gpu_agent.py",
    "fill-gpu": "gpu_agent.py",
    "limit-gpu": "gpu_agent.py",
    "lose-gpu": "gpu_agent.py",
    "log-xid": "gpu_agent.py",
}  # the rest: agent.py
PREPARING = "preparing"  # the event by which an agent says that it still reads and copies, and has changed nothing yet


def program(verb: str) -> Path:
    return INJECTORS / OTHERS.get(verb, "agent.py")


def keeps(record: str) -> str:
    """What stands in the command line of the agent that keeps its undo record there, and of its children, and of nothing else."""
    return f'"state": {json.dumps(record)}'
