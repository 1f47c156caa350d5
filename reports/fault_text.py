"""A kind of fault for people: what it does, what a pass proves, what it needs, how it is proven and undone, and its keys."""

import json
from textwrap import wrap

from ..drills.loading import KeyInWords, keys_in_words
from ..injectors.base import Injector, Privilege

WIDTH = 110
LABEL = 13


def fault_text(injector: type[Injector]) -> str:
    """One page of plain text."""
    keys = keys_in_words(injector)
    lines = [f"{injector.kind}: {injector.summary}", ""]
    for label, text in facts_of(injector).items():
        lines += _labelled(f"  {label:<{LABEL}} ", text)
    own = [key for key in keys if key.own]
    lines += ["", "Its own keys:" if own else "It has no keys of its own.", *_keys(own)]
    lines += ["", "Keys of every fault:", *_keys([key for key in keys if not key.own])]
    return "\n".join([*lines, "", "Example:", f"  - {example_of(injector)}"])


def facts_of(injector: type[Injector]) -> dict[str, str]:
    """What the class knows of itself, by a label."""
    ladder = " < ".join(rung.name.lower() for rung in Privilege)
    facts = {
        "a pass shows": injector.certifies,
        "hits": f"targets of role {injector.default_role}, unless `target` says otherwise",
        **{f"on {platform}": injector.done_by.get(platform, "yes") for platform in sorted(injector.platforms)},
        "privilege": f"{injector.privilege.name.lower()} ({ladder})",
        "lasts": _lasts(injector),
        "bites": injector.bites_when,
        "proven by": injector.proven_by,
        "undone by": injector.undone_by,
    }
    return {label: text for label, text in facts.items() if text}


def _lasts(injector: type[Injector]) -> str:
    if injector.instant:
        return "over the moment it is injected; there is nothing to hold"
    if injector.longest is not None:
        return f"for as long as `for` says, at most {injector.longest.total_seconds() / 60:g} min, whatever dies; nobody can end it before"
    return "until `for` is over, or to the end of the drill; ends by itself at its `deadline`, or when blackstart dies"


def _labelled(label: str, text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False)


def _keys(keys: list[KeyInWords]) -> list[str]:
    lines = []
    for key in keys:
        lines += _labelled(f"  {key.key:<{LABEL}} ", key.doc or key.key)
        lines += _labelled(f"  {'':<{LABEL}} ", f"= {key.type}; {key.default}")
    return lines


def example_of(injector: type[Injector]) -> str:
    """An entry of `faults` as a scenario would write it; JSON is YAML."""
    held = {} if injector.instant else {"for": "30s"}
    entry = {"kind": injector.kind, "at": "0s", **held, **injector.example}
    return (
        "{" + ", ".join(f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in entry.items()) + "}"
    )
