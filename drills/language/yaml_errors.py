"""What libyaml's complaints mean to the person who wrote the file."""

from typing import Any

from .problems import START, Place, shown

_QUOTE = "put the text in quotes"
# By a part of libyaml's `problem` (yaml/libyaml 0.2.5 and newer, src/scanner.c and src/parser.c): what is wrong, what to do.
_MEANINGS = (
    ("mapping values are not allowed", "a `:` where no key can stand", f"{_QUOTE} if it holds `: `, else check the indentation"),
    ("block sequence entries are not allowed", "a `- ` where no list can start", "put it on a line of its own, indented"),
    ("indentation space is expected", "a tab indents this line", "indent with spaces"),
    ("violates indentation", "a tab indents this line", "indent with spaces"),
    ("found unexpected end of stream", "a quote is opened and never closed", "close it"),
    ("',' or ']'", "a list opened by `[` is not closed", "close it with `]`, or put a `,` before the next item"),
    ("',' or '}'", "a mapping opened by `{` is not closed", "close it with `}`, or put a `,` before the next key"),
    ("unknown escape character", "an unknown escape in double quotes", r"write `\\` for a backslash, or use single quotes"),
    ("comment or line break", "`>` and `|` start a block of text", 'put a comparison in quotes, e.g. ">= 99%"'),
    ("did not find expected key", "this line does not fit the lines above", "indent it as its neighbours are"),
    (
        "did not find expected '-'",
        "this line does not fit the list above",
        "start it with `- `, or indent it as its neighbours are",
    ),
    ("could not find expected ':'", "a key without `:`", "write `key: value`"),
    ("incompatible YAML document", "files are YAML 1.2", "remove the %YAML line"),
    ("expected node content", "a value is missing here", "write one, or leave the key out"),
    ("maximum nesting depth", "too many levels deep", "flatten it"),  # newer ones notice it before any level is read
    ("<document start>", "something follows the end of the mapping", "keep one mapping in a file"),
)


def explained(error: Any, text: str) -> tuple[Place, str, str]:
    """Place, what is wrong and what to do, for an error of PyYAML about this text."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return START, f"is not YAML ({shown(str(error))})", "check it with a YAML editor"
    problem = str(error.problem)
    place = Place(mark.line + 1, mark.column + 1)
    if "cannot start any token" in problem:
        return (place, *_stray(text[mark.index : mark.index + 1]))
    if error.context_mark is not None and (mark.index >= len(text.rstrip()) or "expected ':'" in problem):
        # Noticed at the end, or a line later; the cause is where the thing began.
        place = Place(error.context_mark.line + 1, error.context_mark.column + 1)
    for part, what, todo in _MEANINGS:
        if part in problem:
            return place, what, todo
    return place, f"is not YAML: {problem}", "check it with a YAML editor"


def _stray(character: str) -> tuple[str, str]:
    if character == "\t":
        return "a tab indents this line", "indent with spaces"
    return f"a value cannot start with {shown(character)}", 'put it in quotes, e.g. ">= 99%"'
