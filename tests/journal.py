"""What a drill's journal tells of its moments."""

import json
from pathlib import Path
from typing import Any


def fields(folder: Path, event: str) -> dict[str, Any]:
    """The first record of that event."""
    records = map(json.loads, (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines())
    return next(record for record in records if record["event"] == event)


def moment(folder: Path, event: str) -> float:
    """When it was written for the first time, in seconds on the drill's clock."""
    return float(fields(folder, event)["t_s"])


def held_s(folder: Path) -> float:
    """For how long the drill's only fault can have been in effect, at most."""
    return moment(folder, "undo-verified") - moment(folder, "injecting")
