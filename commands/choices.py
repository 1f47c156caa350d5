"""Words that options of the command line take."""

from enum import StrEnum


class Format(StrEnum):
    """How stored runs are rendered."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    JUNIT = "junit"
    MARKDOWN = "markdown"


class RunFormat(StrEnum):
    """What `run` prints on stdout."""

    TEXT = "text"
    JSON = "json"
