"""A finished (or died) run, read back from its folder: what every report is a function of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .measure.load_values import LoadGiven
from .measure.values import Measurement, Probe, ReadBack, Write
from .scenario import Scenario
from .service import Service
from .verdict import Judgement


@dataclass(frozen=True)
class InjectedFault:
    """One fault as the journal tells it. Moments are (lo, hi) pairs on the drill's clock, None where they never came."""

    index: int
    kind: str
    targets: tuple[Mapping[str, Any], ...]  # Target.to_json of each
    certifies: str
    bites: str
    injecting_s: float | None
    effective: tuple[float, float] | None
    evidence: Mapping[str, Any] | None  # Evidence.to_json
    recovering_s: float | None
    undone: tuple[float, float] | None
    undo_verified: bool
    undo_evidence: Mapping[str, Any] | None
    undo_problem: str = ""
    undo: Mapping[str, Any] | None = None  # Undo.to_json; None: it never came to an injection
    problem: str = ""  # why it was not effective
    lapsed: str = ""  # why it was no longer proven when it was to be undone
    replaced: tuple[str, ...] = ()  # names of targets that the undo put another process in place of
    fallen: tuple[str, ...] = ()  # names of targets that did not stand at the drill's end, though the fault was undone
    still: Mapping[str, Any] | None = None  # Evidence.to_json right before its undo
    undo_revives: bool = False  # of a kill: nothing but the undo starts its targets again


@dataclass(frozen=True)
class Record:
    """One line of the journal."""

    seq: int
    t_s: float
    wall: str
    event: str
    fields: Mapping[str, Any]
    digest: str  # of this line, as the next one's `prev`


@dataclass(frozen=True)
class FinishedRun:
    """All that is known of a run. `probes` are sorted by `intended_s`."""

    folder: Path
    run: str
    scenario: Scenario
    scenario_text: str
    scenario_digest: str
    service: Service
    plan: Mapping[str, Any]  # plan.json
    journal: tuple[Record, ...]
    journal_intact: bool
    faults: tuple[InjectedFault, ...]
    probes: tuple[Probe, ...]
    writes: tuple[Write, ...]
    read_back: tuple[ReadBack, ...]
    measurement: Measurement
    judgement: Judgement
    started_wall: str  # ISO 8601 with zone
    ended_s: float
    hardware: str  # none, real, opencl-cpu, simulated
    environment: Mapping[str, str]
    load: LoadGiven | None = None  # where several pods gave it
