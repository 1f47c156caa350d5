"""What a person asked for cannot be done; nothing was touched."""

from collections.abc import Sequence


class Refused(Exception):
    """`reasons` are whole sentences, each beginning with what is not done."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)
