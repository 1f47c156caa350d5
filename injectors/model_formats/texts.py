"""Tokenizers and chat templates: which files they are, and where in a file a template lies."""

import posixpath
import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]

from .folders import Files
from .layout import HEADER_LIMIT, Text, Unreadable

# What any of the usual tokenizers is read from: without all of them none can be made.
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_KEYS = ("tokenizer_config.json", "chat_template.json")
KEY = re.compile(r'"chat_template"\s*:\s*(?:\[\s*\{[^{}"]*(?:"name"\s*:\s*"[^"]*"\s*,\s*)?"template"\s*:\s*)?"')
# Those of other families: markers that the model was not trained on, roles and the prompt for an answer lost.
OTHERS = (
    "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}",
    "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}",
)
SHORT = "{{ messages[0]['content'] }}"


def vocabularies(files: Files, folder: str) -> list[str]:
    """Paths of all that a tokenizer could be made from. Raises Unreadable where there is none."""
    there = files.listing(folder or ".")
    found = [posixpath.join(folder, name) for name in VOCABULARIES if there.get(name) is not None]
    if not found:
        raise Unreadable(f"{folder or '.'} holds no tokenizer; looked for {', '.join(VOCABULARIES)}")
    return found


def templates(files: Files, folder: str) -> Iterator[tuple[str, Text]]:
    """(path, template) of every chat template in a folder: all must go wrong, since loaders differ in which they prefer."""
    there = files.listing(folder or ".")
    for name in (TEMPLATE_FILE, *TEMPLATE_KEYS):
        if there.get(name) is None:
            continue
        path = posixpath.join(folder, name)
        source = files.source(path)
        if source.size > HEADER_LIMIT:
            raise Unreadable(f"{path} has {source.size} bytes; at most {HEADER_LIMIT} are read")
        raw = source.read(0, source.size)
        found = Text(0, len(raw), raw.decode("utf-8", "replace")) if name == TEMPLATE_FILE else in_json(raw)
        if found and found.length:
            yield path, found


def in_json(raw: bytes) -> Text | None:
    """The template in a tokenizer's JSON, the first where it lists several. A quote inside a text is escaped, so a key is a key."""
    content = raw.decode("utf-8", "surrogateescape")
    key = KEY.search(content)
    if key is None:
        return None
    try:
        value, end = scanstring(content, key.end())
    except ValueError:
        raise Unreadable("its chat template does not end; the file is damaged already") from None
    offset = len(content[: key.end()].encode("utf-8", "surrogateescape"))
    length = len(content[key.end() : end - 1].encode("utf-8", "surrogateescape"))
    return Text(offset, length, value, escaped=True)


def wrong(template: Text) -> str:
    """A template of another family that fits into its place. Raises Unreadable where none does."""
    foreign = [other for other in OTHERS if ("[INST]" in other) != ("[INST]" in template.value)]
    for other in (*foreign, SHORT):
        if len(other) <= template.length and other != template.value.rstrip():
            return other
    raise Unreadable(f"its chat template has {template.length} bytes, in which no other fits")
