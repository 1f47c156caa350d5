"""All kinds of faults and all scenarios that ship, as pages of Markdown: one for each family of faults, one of the scenarios, an index.

Every word of them is from the classes, their modules and the scenarios: what `blackstart faults KIND` shows, by the same functions.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from textwrap import wrap

from ..drills.loading import KeyInWords, keys_in_words
from ..drills.scenario import Fault, Scenario
from ..drills.service import STREAMED
from ..injectors.base import Injector, Privilege
from .fault_text import example_of, facts_of

WIDTH = 110
INDEX, SCENARIOS = "README.md", "scenarios.md"
WRITTEN = "<!-- Written by `make docs` from the classes and the scenarios: change those. -->"
# Title -> the modules of injectors/ that belong together; a page's name follows from its title.
FAMILIES = {
    "Lifecycle": ("lifecycle",),
    "Nodes and workloads": ("nodes", "workload"),
    "Network": ("network", "inline"),
    "Compute": ("compute",),
    "Load": ("load",),
    "Accelerators": ("gpu", "gpu_trouble", "gpu_lost", "gpu_health"),
    "Model artefacts": ("model_files", "model_revisions"),
    "Storage and caches": ("storage", "caches"),
    "Commands": ("command",),
}

Kinds = Mapping[str, type[Injector]]


def pages(kinds: Kinds, scenarios: Sequence[Scenario]) -> dict[str, str]:
    """File name -> text. Raises KeyError for a kind whose module belongs to no family."""
    known = {module for modules in FAMILIES.values() for module in modules}
    if lost := sorted(kind for kind, injector in kinds.items() if _module(injector) not in known):
        raise KeyError(f"no family has the module of {', '.join(lost)}; name it in FAMILIES")
    families = {title: _of(kinds, modules) for title, modules in FAMILIES.items()}
    written = {page_of(title): _family(title, found, scenarios) for title, found in families.items()}
    return {**written, SCENARIOS: _scenarios(kinds, scenarios), INDEX: _index(families, scenarios)}


def page_of(title: str) -> str:
    return f"{title.lower().replace(' ', '-')}.md"


def _module(injector: type[Injector]) -> str:
    return injector.__module__.rpartition(".")[2]


def _of(kinds: Kinds, modules: Sequence[str]) -> Kinds:
    return {kind: injector for kind, injector in kinds.items() if _module(injector) in modules}


def _family(title: str, kinds: Kinds, scenarios: Sequence[Scenario]) -> str:
    modules = dict.fromkeys(injector.__module__ for injector in kinds.values())
    intro = [(sys.modules[name].__doc__ or "").strip() for name in sorted(modules)]
    common = [key for key in keys_in_words(next(iter(kinds.values()))) if not key.own]
    parts = [f"# {title}", WRITTEN, *intro, *(_kind(injector, scenarios) for injector in kinds.values())]
    return "\n\n".join([*parts, "## Keys of every fault", _keys(common)]) + "\n"


def _kind(injector: type[Injector], scenarios: Sequence[Scenario]) -> str:
    said = " ".join((injector.__dict__.get("__doc__") or "").split())
    told = "" if said.startswith(f"{injector.__name__}(") else said  # what dataclasses write where the class says nothing
    own = [key for key in keys_in_words(injector) if key.own]
    used = [_link(each.name) for each in scenarios if any(fault.kind == injector.kind for fault in each.faults)]
    facts = {**facts_of(injector), "scenarios": ", ".join(used) or "none that ships"}
    parts = [f"## {injector.kind}", f"{_sentence(injector.summary)} {told}".strip()]
    parts.append("\n".join(f"- **{label}**: {_line(text)}" for label, text in facts.items()))
    parts.append(_keys(own) if own else "It has no keys of its own.")
    return "\n\n".join([*parts, f"```yaml\nfaults:\n  - {example_of(injector)}\n```"])


def _keys(keys: Sequence[KeyInWords]) -> str:
    rows = [f"| `{key.key}` | {_cell(key.doc or key.key)} | {_cell(_type(key))} | {_cell(key.default)} |" for key in keys]
    return "\n".join(["| key | what it is | type | default |", "|---|---|---|---|", *rows])


def _type(key: KeyInWords) -> str:
    return f"{key.type} ({key.units})" if key.units else key.type


def _scenarios(kinds: Kinds, scenarios: Sequence[Scenario]) -> str:
    parts = ["# Scenarios that ship", WRITTEN]
    parts.append(
        "`blackstart scenarios NAME` shows one, `blackstart scenarios --copy DIR` copies them, `blackstart demo NAME` tries one."
    )
    return "\n\n".join([*parts, *(_scenario(kinds, each) for each in scenarios)]) + "\n"


def _scenario(kinds: Kinds, scenario: Scenario) -> str:
    parts = [f"## {scenario.name}", _sentence(scenario.title), _line(scenario.certifies)]
    goals = {name: _goal(value) for name, value in asdict(scenario.objectives).items() if value is not None}
    facts = {
        "rehearses": "; ".join(scenario.rehearses),
        "injects": ", ".join(_fault(kinds, fault) for fault in scenario.faults),
        "needs": "; ".join(needs(scenario)),
        "objectives": ", ".join(f"{name} {goal}" for name, goal in goals.items()),
    }
    return "\n\n".join([*parts, "\n".join(f"- **{label}**: {_line(text)}" for label, text in facts.items())])


def needs(scenario: Scenario) -> list[str]:
    """What must be there for it to be drilled, as far as its faults and objectives tell."""
    platforms = frozenset.intersection(*(fault.injector.means_on for fault in scenario.faults))
    rungs = {platform: max(fault.injector.privilege_on(platform) for fault in scenario.faults) for platform in sorted(platforms)}
    told = [f"platform {' or '.join(_rung(name, rung) for name, rung in rungs.items())}"]
    told += sorted({f"targets of role {fault.target.role or fault.injector.default_role}" for fault in scenario.faults})
    told += sorted(
        {f"processes of role {role} inside them" for fault in scenario.faults if (role := fault.parameters.get("role"))}
    )
    told += ["golden questions"] if scenario.steady_state.golden == "all" or scenario.objectives.quality_loss is not None else []
    by_streams = scenario.objectives.streams_cut is not None or scenario.objectives.stream_gap is not None
    told += [f"protocol {STREAMED}, which streams"] if by_streams else []
    told += ["a ledger of acknowledged writes"] if scenario.objectives.rpo is not None else []
    told += sorted({word for fault in scenario.faults if (word := fault.injector.depends_on)})
    return told


def with_needs(scenario: Scenario, text: str) -> str:
    """The text of its file after what it needs, as comments, so that it stays a scenario."""
    lines = wrap(f"Needs: {'; '.join(needs(scenario))}.", WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines) + text


def _rung(platform: str, rung: Privilege) -> str:
    return f"{platform} (privilege {rung.name.lower()})"


def _fault(kinds: Kinds, fault: Fault) -> str:
    title = next(title for title, modules in FAMILIES.items() if _module(kinds[fault.kind]) in modules)
    return f"[{fault.kind}]({page_of(title)}#{fault.kind})"


def _goal(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    return f"{value['relation']} {value['limit']:.4g}" if isinstance(value, dict) else str(value)


def _index(families: Mapping[str, Kinds], scenarios: Sequence[Scenario]) -> str:
    parts = ["# Faults and scenarios", WRITTEN]
    for title, kinds in families.items():
        rows = [f"- [{kind}]({page_of(title)}#{kind}): {_line(injector.summary)}" for kind, injector in kinds.items()]
        parts += [f"## [{title}]({page_of(title)})", "\n".join(rows)]
    rows = [f"- {_link(each.name)}: {_line(each.title)}" for each in scenarios]
    return "\n\n".join([*parts, f"## [Scenarios that ship]({SCENARIOS})", "\n".join(rows)]) + "\n"


def _link(name: str) -> str:
    return f"[{name}]({SCENARIOS}#{name})"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{_line(text)[1:]}."


def _line(text: str) -> str:
    """Text in one line, with what Markdown would take for an HTML tag made harmless."""
    return re.sub(r"<(?=[A-Za-z/!])", "&lt;", " ".join(text.split()))


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
