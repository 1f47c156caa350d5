"""Text from a service, a cluster or a file, made fit to be shown: it was written by others and is never trusted."""

import re

# C0 and C1 controls but tab and newline, bidirectional overrides, surrogates and non-characters: they move cursors, colour
# terminals, reorder a line under the reader's eyes, or may not stand in XML at all.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~>])")

_FIGURE = re.compile(r"(?<=\d) (?=(?:s|ms|min)\b|%|\[)|(?<=[≤≥>±<]) (?=\d)|(?<=\d,) (?=[\d.]+\])")


def printable(text: str, limit: int | None = None) -> str:
    """The text with what cannot be shown replaced by U+FFFD; longer than `limit` characters, it ends in an ellipsis."""
    cleaned = _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))
    if limit is not None and len(cleaned) > limit:
        return cleaned[: limit - 1] + "…"
    return cleaned


def one_line(text: str, limit: int | None = None) -> str:
    """As `printable`, with all white space folded into single spaces."""
    return printable(" ".join(text.split()), limit)


def in_markdown(text: str, limit: int | None = None) -> str:
    """One line that GitHub and GitLab show as it stands: no markup, no HTML, nobody mentioned, no issue linked."""
    escaped = _MARKDOWN.sub(r"\\\1", one_line(text, limit).replace("&", "&amp;").replace("<", "&lt;"))
    return escaped.replace("@", "@\u200b").replace("://", ":\u200b//")


def in_code(text: str, limit: int | None = None) -> str:
    """A Markdown code span; a backtick inside becomes an apostrophe, a bar is escaped for tables."""
    return "`" + one_line(text, limit).replace("`", "'").replace("|", "\\|") + "`"


def together(text: str) -> str:
    """A figure and its unit stay on one line: `31.5 s` breaks neither before the `s` nor inside its bounds."""
    return _FIGURE.sub("\u00a0", text)
