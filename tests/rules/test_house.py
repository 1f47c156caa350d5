"""The rules of the house (ARCHITECTURE.md), held over the syntax trees and the wheel."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from blackstart.drills.loading import decode_injector
from blackstart.injectors import registry
from blackstart.scenarios import shipped

ROOT = Path(__file__).parents[2]
ROOMS = ("commands", "drills", "injectors", "scenarios", "reports")
# One file each, because each is piped whole into another container or process; their docstrings say so.
PROGRAMS = {
    "injectors/agent.py",
    "injectors/file_agent.py",
    "injectors/gpu_agent.py",
    "injectors/net_agent.py",
    "injectors/platforms/object_guard.py",
    "injectors/proxy.py",
    "drills/measure/prober.py",
    "scenarios/demo/service.py",
}
ALLOWED = {
    "cli": {"commands"},
    "commands": {"drills", "injectors", "scenarios", "reports"},
    "reports": {"drills", "injectors"},
    "drills": {"injectors"},
    "injectors": set(),
    "scenarios": set(),
}
HEAVY = {
    "kubernetes": {"injectors"},
    "docker": {"injectors"},
    "jinja2": {"reports"},
    "rich": {"reports"},
    "typer": {"cli"},
    "yaml": {"drills"},
}
LINES_OF_FILE, LINES_OF_FUNCTION, LINES_OF_INJECTOR = 300, 40, 120


def sources() -> list[Path]:
    return sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> list[tuple[str, ...]]:
    """Every import as a dotted path from the package's root; others as they are named."""
    found = []
    here = path.relative_to(ROOT).with_suffix("").parts
    package = here[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [("", *alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                found.append(("", *(node.module or "").split(".")))
            else:
                base = package[: len(package) - node.level + 1]
                module = tuple((node.module or "").split(".")) if node.module else ()
                found += [(*base, *module)] if module else [(*base, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for target in imports(path):
        if target[0] == "" or not target or target[0] == room or target[0] == "__init__":
            continue
        if target[0] in ALLOWED:
            assert target[0] in ALLOWED.get(room, set(ALLOWED)), f"{name_of(path)} imports {'.'.join(target)}"
    if path.parent.name == "platforms":
        assert all(
            target[:2] in {("injectors", "platforms"), ("injectors", "values")} or target[0] == "" for target in imports(path)
        )


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_heavy_modules_stay_in_their_rooms(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for target in imports(path):
        if target[0] == "" and target[1] in HEAVY:
            assert room in HEAVY[target[1]], f"{name_of(path)} imports {target[1]}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    program = name_of(path) in PROGRAMS
    if not program:
        assert text.count("\n") <= LINES_OF_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno + 1 <= LINES_OF_FUNCTION, f"{name_of(path)}:{node.name}"


def test_every_program_gives_the_reason_for_its_size() -> None:
    for name in PROGRAMS:
        assert "one file" in (ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8"))) or "").lower(), name


@pytest.mark.parametrize("kind", sorted(registry()))
def test_names_follow_from_the_kind(kind: str) -> None:
    injector = registry()[kind]
    assert injector.__name__ == "".join(part.capitalize() for part in kind.split("-"))
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind)
    source = Path(sys.modules[injector.__module__].__file__ or "")
    node = next(n for n in ast.walk(ast.parse(source.read_text())) if isinstance(n, ast.ClassDef) and n.name == injector.__name__)
    assert (node.end_lineno or 0) - node.lineno < LINES_OF_INJECTOR


def test_every_kind_has_words_for_people() -> None:
    for kind, injector in registry().items():
        assert len(injector.summary) > 20, kind
        assert len(injector.certifies) > 40, kind
        assert min(len(injector.proven_by), len(injector.undone_by)) > 20, kind
        assert decode_injector(kind, injector.example), kind


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from blackstart.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'kubernetes', 'docker', 'jinja2', 'pydantic', 'rich', 'asyncio', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "recover" in done.stdout


def test_no_file_is_forgotten_in_the_wheel(tmp_path: Path) -> None:
    """Every module and data file of the tree is in the wheel, and nothing else."""
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name.removeprefix("blackstart/") for name in zipfile.ZipFile(wheel).namelist() if name.startswith("blackstart/")}
    outside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(("blackstart/", "blackstart-"))}
    shippable = {
        name
        for name in listed
        if (name.split("/")[0] in ROOMS or name.endswith((".py", "py.typed"))) and not name.startswith("tests/")
    }
    kept_out = {"scenarios/demo/train.py"} & set()
    assert outside == set()
    assert inside == {name for name in shippable if (ROOT / name).is_file()} - kept_out


def test_scenarios_are_named_after_their_files() -> None:
    for name, path in shipped().items():
        assert f"\nname: {name}\n" in path.read_text(encoding="utf-8")


def test_nothing_unfinished_is_left() -> None:
    words = re.compile("TO" + "DO|FIX" + "ME|X" + "XX|NotImplemented" + "Error")
    for path in sources():
        assert not words.search(path.read_text(encoding="utf-8")), name_of(path)
