"""What a platform answers whose services live on this machine alone: there are no rights to ask for, and nobody else to remember."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..values import JSON
from .base import Means, Milestone, Unsupported
from .outposts import Outposts


class AloneHere:
    """The lock and the records of this machine's state folder are all that is needed."""

    @property
    def context(self) -> str | None:
        return None

    @property
    def place(self) -> str:
        return "processes of this machine"

    def remarks(self) -> list[str]:
        return []

    @property
    def outposts(self) -> Outposts | None:
        """Whatever runs on this machine is beside the service."""
        return None

    def objections(self) -> list[str]:
        return []

    def denied(self, means: Means) -> list[str]:
        """What may be signalled shows when it is planned."""
        del means
        return []

    def role(self, name: str, means: Means) -> JSON:
        del name, means
        raise Unsupported("processes know no roles: what may be drilled is what this user may signal")

    def address(self, service: str, port: int) -> str:
        raise Unsupported(f"service {service}, port {port}: processes have no services by name; give endpoint.url")

    def milestones(self) -> tuple[Milestone, ...]:
        """Nobody keeps a record of what becomes of processes."""
        return ()

    def unseen(self) -> list[str]:
        return []

    def hold(self, holder: str, patience_s: float, dead: str = "") -> None:
        """The lock of this machine holds it."""

    def left_by(self) -> list[str]:
        return []

    def lost(self) -> str:
        return ""

    def vanished(self) -> str:
        return ""

    def fingerprint(self) -> str:
        return ""

    def remembered(self, run: str) -> Mapping[str, str]:
        del run
        return {}

    def remember(self, run: str, files: Sequence[Path]) -> None:
        """The run's own folder lies where the service lives."""

    def abandon(self, run: str) -> None:
        """Its record is the run's folder."""

    def sweep(self, run: str) -> None:
        """Runs are carried out by this machine's own processes."""

    def forget(self, run: str) -> None:
        """Nothing was written elsewhere."""
