"""Which one-file program does what an agent is asked for."""

from pathlib import Path

INJECTORS = Path(__file__).resolve().parent.parent
OTHERS = {"mutate-file": "file_agent.py"}  # every other verb is of agent.py


def program(verb: str) -> Path:
    return INJECTORS / OTHERS.get(verb, "agent.py")
