"""`blackstart faults KIND`: everything that the class knows stands on its page, and the example on it can be used."""

from pathlib import Path

import pytest
from blackstart.drills.loading import keys_in_words, load_scenario
from blackstart.injectors import registry
from blackstart.reports.fault_text import fault_text

KINDS = registry()


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_page_tells_what_a_fault_does_proves_needs_and_undoes(kind: str) -> None:
    injector = KINDS[kind]
    page = squeezed(fault_text(injector))
    for fact in (injector.summary, injector.certifies, injector.proven_by, injector.undone_by, injector.bites_when):
        assert squeezed(fact) in page
    for platform in injector.platforms:
        assert squeezed(f"on {platform} {injector.done_by[platform]}") in page
    assert f"privilege {injector.privilege.name.lower()} (" in page
    assert ("there is nothing to hold" in page) is injector.instant
    for key in keys_in_words(injector):
        assert squeezed(f"{key.key} {key.doc} = {key.type}; {key.default}") in page
    assert max(map(len, fault_text(injector).partition("Example:")[0].splitlines())) <= 110


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_example_of_a_page_can_be_used(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    example = fault_text(KINDS[kind]).partition("Example:")[2]
    path.write_text(
        f"apiVersion: blackstart/v1\nkind: Scenario\nname: example\nobjectives: {{rto: 60s}}\nfaults:{example}\n",
        encoding="utf-8",
    )
    (fault,) = load_scenario(path).faults
    assert fault.kind == kind


def test_keys_are_told_with_type_and_default() -> None:
    words = {key.key: key for key in keys_in_words(KINDS["cpu-stress"])}
    assert (words["share"].type, words["share"].default, words["share"].own) == ("a share, e.g. 80%", "default 100%", True)
    assert (words["kind"].default, words["kind"].own) == ("needed", False)
    assert words["target"].type == "a mapping of role, names, count, share"
