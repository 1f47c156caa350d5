"""The nearest valid name for one that is not."""

import difflib
from collections.abc import Collection

from ...injectors.values import first_of
from .synonyms import KEYS, KINDS, NO_COUNTERPART

LONGEST_NAME = 64  # difflib is quadratic; a longer key is no misspelling
MOST_LISTED = 16


def _folded(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_").strip("_")


def nearest(name: str, valid: Collection[str]) -> str | None:
    """The one that differs in case, hyphens or a few letters; None where nothing is near."""
    if len(name) > LONGEST_NAME:
        return None
    bare = {_folded(word).replace("_", ""): word for word in valid}
    folded = _folded(name).replace("_", "")
    close = difflib.get_close_matches(folded, bare, n=1, cutoff=0.7)
    return bare[close[0]] if close else None


def listed(valid: Collection[str]) -> str:
    return first_of((f"`{word}`" for word in sorted(valid)), MOST_LISTED)


def instead_of_key(  # noqa: PLR0911 - one answer for each kind of mistake
    key: str, known: Collection[str], present: Collection[str], elsewhere: dict[str, str]
) -> str:
    """What to do about an unknown key: `known` ones, those `present` here, and where those belong that are `elsewhere`."""
    valid = [name for name in known if name not in present]
    word = _folded(key)
    exact = next((name for name in valid if _folded(name).replace("_", "") == word.replace("_", "")), None)
    if exact:
        return f"write `{exact}`"
    synonyms = [name for name in KEYS.get(word, ()) if name in known]
    if any(name in valid for name in synonyms):
        return f"write `{next(name for name in synonyms if name in valid)}`"
    if key in elsewhere:
        return f"it belongs under `{elsewhere[key]}`"
    if word in NO_COUNTERPART:
        return NO_COUNTERPART[word]
    if synonyms:
        return f"that is `{synonyms[0]}`, which is here already; leave it out"
    near = nearest(key, valid) or nearest(key, known)
    if near:
        return f"did you mean `{near}`?"
    return f"known here: {listed(valid)}" if valid else "leave it out"


def instead_of_kind(kind: str, valid: Collection[str]) -> str:
    """What to do about an unknown kind of fault."""
    word = _folded(kind).replace("_", "-")
    known = KINDS.get(word) or KINDS.get(word.replace("-", "_"))
    if word in valid or known in valid:
        return f"write `{word if word in valid else known}`"
    near = nearest(kind, valid)
    if near:
        return f"did you mean `{near}`?"
    return f"known kinds: {listed(valid)}" if valid else "no kinds of fault are installed"
