"""What a drill's journal tells of its moments."""

import json
from pathlib import Path


def moment(folder: Path, event: str) -> float:
    """When it was written for the first time, in seconds on the drill's clock."""
    records = map(json.loads, (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines())
    return next(float(record["t_s"]) for record in records if record["event"] == event)


def held_s(folder: Path) -> float:
    """For how long the drill's only fault can have been in effect, at most."""
    return moment(folder, "undo-verified") - moment(folder, "injecting")
