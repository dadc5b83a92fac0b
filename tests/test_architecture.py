"""The house stays as it is drawn: floors, no cycles, one place that prints, trees that are true."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.networks import members
from translate.data import DataConfig
from translate.losses import Objective, Penalty
from translate.losses.objectives import Verdict
from translate.networks import DiscriminatorConfig, GeneratorConfig
from translate.training.step_on_meta import without_collections
from translate.translators import TranslatorConfig

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "translate"
BOLTS = ["errors", "missing", "mistakes", "schema", "files", "foreign", "sizes", "places", "precision", "optimizers",
         "agreement", "host"]  # and one wing that they use
FLOORS = [  # a module imports from lower floors, or from its own folder; wings of one floor never import each other
    BOLTS,  # the ground: they may lean on each other
    ["networks", "images", "html", "cluster"],
    ["data", "tiling"],
    ["losses", "cards"],
    ["translators", "metrics"],
    ["recipe"],
    ["runs"],
    ["sampling"],
    ["convert", "evaluation", "interop", "pairs"],
    ["serve"],
    ["report"],
    ["training", "publish"],
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
    return {name for name in imported(path) if name == package or name.startswith(f"{package}.")}


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a file's syntax tree that a test can ask about, parsed once for all tests.

    Without garbage collection parsing takes a third of the time: it would go through all trees again and again.
    """
    with without_collections():
        return [node for node in ast.walk(ast.parse(path.read_text())) if node._fields]


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """The trees are not kept beyond the tests of this file: they are a quarter of a million objects."""
    yield
    nodes.cache_clear()


@functools.cache
def imported(path: Path) -> set[str]:
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a thing comes from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def called(node: ast.Call) -> str:
    """The function's name, as far as it has at most one dot; `ast.unparse` would take seconds for all calls."""
    function = node.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return f"{function.value.id}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


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
        for node in nodes(path):
            if isinstance(node, ast.Call):
                assert called(node) not in ("print", "sys.exit", "exit", "os._exit"), f"{path}:{node.lineno}"


def test_networks_losses_and_translators_know_nothing_of_accelerate() -> None:
    for path in modules():
        if room(path) in WITHOUT_ACCELERATE:
            assert not imports(path, "accelerate"), path


def test_recipes_and_datasets_hold_no_python() -> None:
    """A package named `datasets` would shadow another library's."""
    assert not list((ROOT / "datasets").rglob("*.py")) and not list((ROOT / "recipes").rglob("*.py"))


def test_the_floors_of_the_house_are_those_that_are_held() -> None:
    page = (ROOT / "docs" / "house.md").read_text()
    drawn = page.split("```floors\n")[1].split("\n```")[0].splitlines()
    assert drawn[0] == "host  and the bolts" and [line.split() for line in drawn[1:]] == FLOORS[1:-1]


def test_the_tree_of_the_house_is_the_real_tree() -> None:
    """One line a file of the package; folders, with their files."""
    page = (ROOT / "docs" / "house.md").read_text()
    block = page[page.index("\ntranslate/\n"):]
    block = block[:block.index("```")]
    drawn, folders = set(), list[str]()
    for line in block.splitlines():
        entry = re.match(r"( +)(\S+)", line)
        if not entry or len(entry[1]) > 2 * len(folders) + 2:  # a line that goes on with what the one before says
            continue
        folders, name = folders[:len(entry[1]) // 2 - 1], entry[2]
        if name.endswith("/"):
            folders.append(name)
        else:
            drawn.add("".join([*folders, name]))
    real = {str(path.relative_to(PACKAGE)) for path in modules()
            if path.name != "__init__.py" or path.parent == PACKAGE}
    assert drawn == real, f"not in docs/house.md: {sorted(real - drawn)}; only there: {sorted(drawn - real)}"


def test_every_objective_and_penalty_is_on_its_page_and_what_each_objectives_scores_mean_is_said() -> None:
    def kinds(union: object) -> set[str]:
        return {member.model_fields["kind"].default for member in members(union)}

    tables = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "objectives.md").read_text(), re.MULTILINE))
    assert kinds(Objective) | kinds(Penalty) <= tables
    lines = (ROOT / "docs" / "training.md").read_text().splitlines()
    game = next(line for line in lines if line.startswith("| `game`"))
    for kind in kinds(Objective):
        assert f"`{kind}`" in game and kind in (Verdict.__doc__ or ""), kind


def test_what_a_wing_holds_lies_in_files_with_names() -> None:
    """The tree has no line for an `__init__.py`: a newcomer would not find what is written there."""
    for path in PACKAGE.glob("*/**/__init__.py"):
        module = nodes(path)[0]
        assert isinstance(module, ast.Module)
        defined = [node.name for node in module.body
                   if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name != "__getattr__"]
        assert not defined, f"{path.relative_to(ROOT)} defines {defined}"


def test_the_readme_names_every_wing_as_the_house_does() -> None:
    def wings(page: str) -> dict[str, str]:
        return dict(re.findall(r"^  (\w+)/ +(.*)$", (ROOT / page).read_text(), re.MULTILINE))

    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file() or any(path.glob("*.css"))}
    assert wings("README.md") == wings("docs/house.md") and set(wings("README.md")) == folders


def test_every_top_level_entry_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in {line.split("/")[0] for line in tracked.splitlines()} - {".gitignore", "README.md"}:
        assert name in readme, f"README.md does not say what {name} is"


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    """One that grows past 400 lines is usually two rooms."""
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    assert not {name: lines for name, lines in long.items() if lines > 400}


def names_in(node: ast.AST) -> set[str]:
    """The names and the last parts of dotted names in an expression: of `a.B | C`, B and C among others."""
    return {part.id if isinstance(part, ast.Name) else part.attr for part in ast.walk(node)
            if isinstance(part, ast.Name | ast.Attribute)}


def asks_for_kind(node: ast.AST) -> bool:
    """`anything.kind`, or `getattr(anything, "kind")`; numpy's types have a kind as well."""
    return (isinstance(node, ast.Attribute) and node.attr == "kind" and "dtype" not in ast.unparse(node.value)) or (
        isinstance(node, ast.Call) and called(node) == "getattr" and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant) and node.args[1].value == "kind")


def questions(node: ast.AST, strangers: set[str]) -> bool:
    """Whether it asks of what kind something is: by a name in words, or by a class among `strangers`."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        words = any(isinstance(part, ast.Constant) and isinstance(part.value, str)
                    for side in sides for part in ast.walk(side) if not asks_for_kind(side))
        of_type = any(isinstance(side, ast.Call) and called(side) == "type" for side in sides)
        return (words and any(asks_for_kind(side) for side in sides)) or (
            of_type and any(names_in(side) & strangers for side in sides))
    if isinstance(node, ast.Match):
        return asks_for_kind(node.subject)
    if isinstance(node, ast.MatchClass):
        return bool(names_in(node.cls) & strangers)
    if isinstance(node, ast.Call) and called(node) in ("isinstance", "issubclass"):
        asked = node.args[0]
        of_objective = getattr(asked, "attr", getattr(asked, "id", "")) == "objective"
        return of_objective or bool(names_in(node.args[1]) & strangers)
    return False


def test_only_the_owner_asks_of_what_kind_a_part_is() -> None:
    """To add a member to a union is one class and one name: what others must know of it, it says itself."""
    owners = {member.__name__: Path(inspect.getfile(member)) for union in (
        Objective, Penalty, TranslatorConfig, GeneratorConfig, DiscriminatorConfig, DataConfig)
        for member in members(union)}
    found = []
    for path in modules():
        strangers = {name for name, owner in owners.items() if owner != path}
        found += [f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node).splitlines()[0]}"
                  for node in nodes(path) if questions(node, strangers)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("code", "forbidden"), [
    ('x.kind == "cut"', True), ('"cut" != getattr(x, "kind")', True), ('x.kind in ("cut", "pix2pix")', True),
    ("isinstance(x, Stranger)", True), ("isinstance(self.objective, Any)", True),
    ("isinstance(x.y, int | a.Stranger)", True), ("type(x) is Stranger", True),
    ("match x.kind:\n case _: pass", True), ("match x:\n case Stranger(): pass", True),
    ("x.kind == y.kind", False), ('x.dtype.kind == "u"', False), ('x.mind == "cut"', False),
    ("isinstance(x, Own)", False), ("type(x) is Own", False)])
def test_such_a_question_is_seen(code: str, forbidden: bool) -> None:
    assert any(questions(node, {"Stranger"}) for node in ast.walk(ast.parse(code))) == forbidden


def test_no_file_has_a_name_that_says_nothing() -> None:
    for path in modules():
        assert path.stem not in ("util", "utils", "misc", "common", "base", "helpers", "manager"), path


@pytest.mark.parametrize(("imported", "missing"), [
    ("translate, translate.cli.app as app; app.training.recipes()", "torch"),
    ("translate.images.decoder_process, translate.data.labels", "torch")])
def test_a_command_starts_without_the_libraries_that_it_may_never_need(imported: str, missing: str) -> None:
    """The list of recipes waited for torch. What conversions and trainings wait for: tests/test_host_program.py."""
    code = f"import {imported}; import sys; sys.exit(' '.join(set('{missing}'.split()) & sys.modules.keys()))"
    started = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not started.stderr.strip()
