"""Drawing elements as text, with everything that is not drawing escaped on the way in."""

from collections.abc import Mapping
from html import escape

from .cleaning import printable


class Drawing(str):
    """Finished markup: it was escaped when it was made, and passes unchanged."""

    __slots__ = ()

    def __html__(self) -> str:
        """How jinja2's autoescape knows finished markup."""
        return str(self)


def tag(name: str, attributes: Mapping[str, str | float], *children: str) -> Drawing:
    """One element. A child that is no Drawing is text and is escaped; numbers are rounded to hundredths."""
    written = "".join(f' {key}="{_value(value)}"' for key, value in attributes.items())
    if not children:
        return Drawing(f"<{name}{written}/>")
    inner = "".join(child if isinstance(child, Drawing) else escape(printable(child)) for child in children)
    return Drawing(f"<{name}{written}>{inner}</{name}>")


def group(kind: str, *children: str) -> Drawing:
    """Elements of one class, on lines of their own."""
    return tag("g", {"class": kind}, Drawing("\n".join(children))) if children else Drawing("")


def percent(value: float) -> str:
    """A horizontal place or length: all of them are parts of the width, so that a drawing fits any screen."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return escape(printable(value))
    return f"{value:.2f}".rstrip("0").rstrip(".")
