"""docs/ says what the classes and the scenarios say now."""

import re

import pytest
from blackstart.drills.loading import decode_injector, keys_in_words, load_scenario
from blackstart.injectors import registry
from blackstart.reports.fault_pages import FAMILIES, INDEX, SCENARIOS, needs, page_of, pages
from blackstart.scenarios import shipped
from blackstart.tests.docs import FOLDER, current
from blackstart.tests.drills.expected import EXPECTED

PAGES = current()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_committed_page_is_what_would_be_written_now(name: str) -> None:
    page = FOLDER / name
    assert page.exists(), f"docs/{name} is missing: run `make docs`"
    assert page.read_text(encoding="utf-8") == PAGES[name], f"docs/{name} is not what the classes say now: run `make docs`"


def test_no_page_is_left_over() -> None:
    assert {path.name for path in FOLDER.glob("*.md")} == set(PAGES), "run `make docs`"


@pytest.mark.parametrize("kind", sorted(registry()))
def test_every_kind_has_its_section(kind: str) -> None:
    injector = registry()[kind]
    (page,) = [text for name, text in PAGES.items() if name != SCENARIOS and f"\n## {kind}\n" in text]
    section = page.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    for fact in (injector.certifies, injector.proven_by, injector.undone_by):
        assert " ".join(fact.split()) in section.replace("&lt;", "<")
    for platform in injector.platforms:
        assert f"- **on {platform}**: {injector.done_by[platform]}" in section
    for key in keys_in_words(injector):
        assert (f"| `{key.key}` |" in section) is key.own
    using = {name for name, path in shipped().items() if any(fault.kind == kind for fault in load_scenario(path).faults)}
    assert set(re.findall(r"scenarios\.md#([a-z-]+)\)", section)) == using


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_scenario_has_its_section(name: str) -> None:
    section = PAGES[SCENARIOS].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    scenario = load_scenario(shipped()[name])
    for text in (*scenario.rehearses, scenario.certifies, *needs(scenario)):
        assert " ".join(text.split()) in section


def platforms_of(name: str) -> set[str]:
    """Those that its page says it needs."""
    section = PAGES[SCENARIOS].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    (needed,) = re.findall(r"^- \*\*needs\*\*: platform ([^;]+)", section, re.MULTILINE)
    return set(re.findall(r"(\w+) \(privilege", needed))


def test_a_page_names_the_platforms_that_the_readme_names() -> None:
    """By words that people wrote, not by the function that writes the page."""
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## Drills that ship")[2].partition("\n\n`blackstart scenarios`")[0]
    said = dict(re.findall(r"([a-z-]+) \(((?:Kubernetes|Docker|processes)(?:, (?:Kubernetes|Docker))*)\)", table))
    assert {"api-server-unreachable", "control-plane-and-dns-down", "gpu-node-drain", "kv-cache-exhaustion"} <= set(said)
    for name, platforms in said.items():
        assert platforms_of(name) == {{"processes": "process"}.get(each, each.lower()) for each in platforms.split(", ")}, name


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_page_names_the_platforms_on_which_the_demo_is_drilled(name: str) -> None:
    assert set(EXPECTED[name].on) <= platforms_of(name)


@pytest.mark.parametrize(
    ("peer", "platforms"),
    [
        ("kubernetes.default.svc:443", {"kubernetes"}),
        ("kubernetes.default.svc.cluster.local:443", {"kubernetes"}),
        ("hub.example:443", {"docker", "kubernetes"}),
        ("hub.svc:443", {"docker", "kubernetes"}),
        ("store", {"docker", "kubernetes", "process"}),
    ],
)
def test_only_a_cluster_has_the_names_of_its_services(peer: str, platforms: set[str]) -> None:
    assert decode_injector("network-partition", {"peers": ["gateway", peer]}).means_on == platforms


def test_every_link_leads_to_a_heading() -> None:
    headings = {name: set(re.findall(r"^## ([a-z0-9-]+)$", text, re.MULTILINE)) for name, text in PAGES.items()}
    links = [link for text in PAGES.values() for link in re.findall(r"\]\(([a-z-]+\.md)(?:#([a-z0-9-]+))?\)", text)]
    assert len(links) > len(registry()) + len(shipped())
    assert all(name in PAGES and (not anchor or anchor in headings[name]) for name, anchor in links)
    assert {name for name, _ in links} == set(PAGES) - {INDEX}


def test_a_kind_without_a_family_is_named() -> None:
    class Foreign(registry()["replica-kill"]):  # type: ignore[misc]
        pass

    with pytest.raises(KeyError, match="no family has the module of foreign"):
        pages({"foreign": Foreign}, [])


def test_a_family_is_a_page() -> None:
    assert {page_of(title) for title in FAMILIES} == set(PAGES) - {SCENARIOS, INDEX}
