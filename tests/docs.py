"""`make docs`: writes docs/, a page for each family of faults and one of the scenarios, from the classes and the scenarios."""

from pathlib import Path

from blackstart.drills.loading import load_scenario
from blackstart.injectors import registry
from blackstart.reports.fault_pages import pages
from blackstart.scenarios import shipped

FOLDER = Path(__file__).parents[1] / "docs"


def current() -> dict[str, str]:
    """File name -> text, of all that ships. What another distribution has installed here is left out."""
    ours = {kind: injector for kind, injector in registry().items() if injector.__module__.startswith("blackstart.")}
    return pages(ours, [load_scenario(path) for path in shipped().values()])


def main() -> None:
    wanted = current()
    for old in FOLDER.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
