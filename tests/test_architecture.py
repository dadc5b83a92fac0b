"""The house stays as the README draws it: floors, no cycles, one place that prints, a tree that is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "translate"
BOLTS = ["errors", "mistakes", "schema", "files", "signals", "sizes", "places", "precision", "optimizers"]
FLOORS = [  # a module imports from lower floors, or from its own folder; wings of one floor never import each other
    BOLTS,  # the ground: they may lean on each other
    ["networks", "images"],
    ["data", "tiling"],
    ["losses", "cards"],
    ["translators", "metrics"],
    ["recipe"],
    ["runs"],
    ["convert", "evaluation"],
    ["report"],
    ["training"],
    ["adapt"],
    ["cli"],
    ["__main__"],
]
WITHOUT_ACCELERATE = {"networks", "losses", "translators", "data", "metrics", "images", "cards"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The file or folder of the package's root that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, package: str) -> set[str]:
    """The modules of `package` that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a thing comes from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return {name for name in found if name == package or name.startswith(f"{package}.")}


def test_every_module_imports_lower_floors_only() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    broken = []
    for path in modules():
        here = room(path)
        if here == "__init__":
            continue
        assert here in floor, f"{here} stands on no floor: give it one in FLOORS"
        for name in imports(path, "translate"):
            there = [*name.split("."), ""][1]
            if there == here or there not in floor or {here, there} <= set(BOLTS):
                continue
            if floor[there] >= floor[here]:
                broken.append(f"{path.relative_to(ROOT)} (floor {floor[here]}) imports {there} (floor {floor[there]})")
    assert not broken, "\n".join(broken)


def test_no_module_takes_part_in_a_cycle() -> None:
    names = {str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
             for path in modules()}
    graph = {name: {other for other in imports(path, "translate") if other in names and other != name
                    and not name.startswith(f"{other}.")} for name, path in names.items()}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join([*trail[trail.index(name):], name])
        for other in sorted(graph[name]) if name not in done else ():
            visit(other, (*trail, name))
        done.add(name)

    done: set[str] = set()
    for name in graph:
        visit(name, ())


def test_only_the_command_line_prints_or_exits() -> None:
    for path in modules():
        if room(path) in ("cli", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "sys.exit", "exit", "os._exit"), f"{path}:{node.lineno}: {called}()"


def test_networks_losses_and_translators_know_nothing_of_accelerate() -> None:
    for path in modules():
        if room(path) in WITHOUT_ACCELERATE:
            assert not imports(path, "accelerate"), path


def test_recipes_and_datasets_hold_no_python() -> None:
    """A package named `datasets` would shadow another library's."""
    assert not list((ROOT / "datasets").rglob("*.py")) and not list((ROOT / "recipes").rglob("*.py"))


def test_the_readmes_tree_is_the_real_tree() -> None:
    """One line a file of the package; folders, with their files."""
    readme = (ROOT / "README.md").read_text()
    block = readme[readme.index("\ntranslate/\n"):]
    block = block[:block.index("```")]
    drawn, folder = set(), ""
    for line in block.splitlines():
        entry = re.match(r"( +)(\S+)", line)
        if not entry:
            continue
        indent, name = len(entry[1]), entry[2]
        if indent == 2:
            folder = name if name.endswith("/") else ""
        if indent in (2, 4) and not name.endswith("/"):
            drawn.add(f"{folder if indent == 4 else ''}{name}")
    real = {str(path.relative_to(PACKAGE)) for path in modules()
            if path.name != "__init__.py" or path.parent == PACKAGE}
    assert drawn == real, f"not in the README: {sorted(real - drawn)}; only there: {sorted(drawn - real)}"


def test_every_top_level_entry_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in {line.split("/")[0] for line in tracked.splitlines()} - {".gitignore", "README.md"}:
        assert name in readme, f"README.md does not say what {name} is"


def test_no_file_has_a_name_that_says_nothing() -> None:
    for path in modules():
        assert path.stem not in ("util", "utils", "misc", "common", "base", "helpers", "manager"), path


@pytest.mark.parametrize("statement", ["import translate", "import translate.cli"])
def test_the_command_line_starts_without_torch(statement: str) -> None:
    """`translate --help` must not take seconds."""
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
