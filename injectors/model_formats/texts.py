"""Tokenizers and chat templates: which files they are, and where in a file a template lies."""

import posixpath
import re
from collections.abc import Iterator, Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]

from ..values import JSON
from .folders import Files
from .layout import HEADER_LIMIT, Source, Text, Unreadable

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
TEMPLATES = "additional_chat_templates"  # a folder, of those that have names: one for callers with tools, one for documents
KEY = re.compile(r'"chat_template"\s*:\s*(?=["\[])')
COLON = re.compile(r"\s*:")
ENTRY = 2  # brackets that are open where an entry of a list tells its name and its template
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


def templates(files: Files, folder: str) -> dict[str, list[Text]]:
    """Path -> every chat template there: all must go wrong, since loaders differ in which they prefer, and callers in which they ask for."""
    there = files.listing(folder or ".")
    paths = [posixpath.join(folder, name) for name in (TEMPLATE_FILE, *TEMPLATE_KEYS) if there.get(name) is not None]
    if TEMPLATES in there and there[TEMPLATES] is None:
        inside = posixpath.join(folder, TEMPLATES)
        paths += [posixpath.join(inside, name) for name in sorted(files.listing(inside)) if name.endswith(".jinja")]
    found = {path: [text for text in _in_file(path, files.source(path)) if text.length] for path in paths}
    return {path: each for path, each in found.items() if each}


def _in_file(path: str, source: Source) -> list[Text]:
    if source.size > HEADER_LIMIT:
        raise Unreadable(f"{path} has {source.size} bytes; at most {HEADER_LIMIT} are read")
    raw = source.read(0, source.size)
    return in_json(raw) if path.endswith(".json") else [Text(0, len(raw), raw.decode("utf-8", "replace"))]


def in_json(raw: bytes) -> list[Text]:
    """The template in a tokenizer's JSON, or all that it lists. A quote inside a text is escaped, so a key is a key."""
    content = raw.decode("utf-8", "surrogateescape")
    key = KEY.search(content)
    if key is None:
        return []
    try:
        found = list(_given(content, key.end()))
    except ValueError:
        raise Unreadable("its chat templates cannot be read to their end; the file is damaged already") from None
    placed = []
    for start, value, end in found:
        offset, length = (len(part.encode("utf-8", "surrogateescape")) for part in (content[:start], content[start : end - 1]))
        placed.append(Text(offset, length, value, escaped=True))
    return placed


def _given(content: str, position: int) -> Iterator[tuple[int, str, int]]:
    """(start, template, end) of the text that begins there, or of each in a list of objects. Raises ValueError where that does not end."""
    if content[position] == '"':
        value, end = scanstring(content, position + 1)
        yield position + 1, value, end
        return
    name, depth = "", 0
    while position < len(content):
        if content[position] == '"':
            value, end = scanstring(content, position + 1)
            if depth == ENTRY and COLON.match(content, end):
                name = value
            elif depth == ENTRY and name == "template":
                yield position + 1, value, end
            position = end
            continue
        depth += (content[position] in "[{") - (content[position] in "]}")
        position += 1
        if not depth:
            return
    raise ValueError


def replaced(found: Sequence[Text]) -> JSON:
    """What file_agent.py does to the templates of a file. Raises Unreadable."""
    return {"op": "fill", "places": [[text.offset, text.length, wrong(text)] for text in found]}


def wrong(template: Text) -> str:
    """A template of another family that fits into its place. Raises Unreadable where none does."""
    foreign = [other for other in OTHERS if ("[INST]" in other) != ("[INST]" in template.value)]
    for other in (*foreign, SHORT):
        if len(other) <= template.length and other != template.value.rstrip():
            return other
    raise Unreadable(f"its chat template has {template.length} bytes, in which no other fits")
