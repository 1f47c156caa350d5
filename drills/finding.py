"""One line of what `doctor` finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the examination. `fine` None: what decides it is not known here. `needed`: without it no drill can run at all."""

    subject: str
    fine: bool | None
    text: str
    needed: bool = False

    def __str__(self) -> str:
        word = "?" if self.fine is None else "yes" if self.fine else "no"
        return f"{word:<4} {self.subject:<20} {self.text}"
