"""From a YAML file, or the name of a shipped one, to a recipe.

The reader refuses what YAML allows and a person never means: duplicate keys, aliases, tags. Fields are overridden from
the command line as `stages.0.images=2000`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from translate.errors import Mistake, RecipeError
from translate.missing import no_recipe
from translate.mistakes import as_written, shown
from translate.places import shipped_recipes
from translate.recipe.recipe import Recipe
from translate.schema import read_document, read_yaml, validate


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply `a.b=c` overrides, validate. Raises `RecipeError` with all mistakes."""
    if not path.exists():
        raise no_recipe(str(path))
    document = read_document(path, "")
    written = copy.deepcopy(document)
    for override in overrides:
        apply_override(document, override)
    paths = [override.partition("=")[0] for override in overrides]
    return validate(Recipe, document, lambda where: _source(where, path, written, paths))


def _source(where: str, file: Path, written: dict[str, Any], overrides: Sequence[str]) -> str:
    """Return what to edit for a mistake at `where`: the file, or an override of that field or of one around it.

    Name both if an override changed part of the field, or which kind of thing it is.
    """
    around = [path for path in overrides if f"{where}.".startswith(f"{path}.")]
    inside = [path for path in overrides if path.startswith(f"{where}.")
              or (path.endswith(".kind") and where.startswith(path.removesuffix("kind")))]
    if around or (inside and not _holds(written, where)):
        return f"--set {(around or inside)[-1]}"
    return f"{file} with --set {inside[-1]}" if inside else str(file)


def _holds(document: Any, where: str) -> bool:
    for step in where.split("."):
        if isinstance(document, list) and step.isdigit() and int(step) < len(document):
            document = document[int(step)]
        elif isinstance(document, dict) and step in document:
            document = document[step]
        else:
            return False
    return True


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given as a path or by the name of a shipped one. Raises `RecipeError`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    shipped = {path.stem: path for path in shipped_recipes()}
    if name in shipped:
        return shipped[name]
    if path.exists():
        what = "a folder" if path.is_dir() else "no recipe"
        raise RecipeError(Mistake(name, f"is {what}", "a recipe is a YAML file (.yaml, .yml), or the name of a shipped "
                                              "one"))
    raise no_recipe(name)


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Yield `path: old → new` for every field in which two recipe documents differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{where}.{number}")
    elif old != new:
        yield f"{where}: {as_written(old)} → {as_written(new)}"


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set `a.b.0.c=value` in a plain document; the value is read as YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(Mistake(f"--set {override}", "expected field.path=value, such as stages.0.images=2000"))
    value = read_yaml(text, f"--set {path}")

    # Down the path, through mappings and lists. What is not there yet begins as an empty mapping.
    place: Any = document
    *parents, last = path.split(".")
    for depth, step in enumerate([*parents, last]):
        where = ".".join([*parents, last][: depth + 1])
        if isinstance(place, list):
            if not step.isdigit() or int(step) >= len(place):
                raise RecipeError(Mistake(where, f"there are {len(place)} entries, numbered from 0",
                                          source=f"--set {override}"))
            index: Any = int(step)
        elif isinstance(place, dict):
            index = step
        else:
            raise RecipeError(Mistake(where, f"{shown(place)} has no fields", source=f"--set {override}"))
        if depth == len(parents):
            place[index] = value
            return
        if isinstance(place, dict) and not isinstance(place.get(index), dict | list):
            place[index] = {}
        place = place[index]


def default_run(recipe: Recipe) -> Path:
    """Return where a run goes when nobody says: `runs/<name>`, or below `DIPTYCH_RUNS`."""
    return Path(os.environ.get("DIPTYCH_RUNS", "runs")) / recipe.name


def default_adaptation(recipe: Recipe) -> Path:
    """Return where an adaptation goes when nobody says: beside the runs, `<name>-adapt`."""
    return default_run(recipe).with_name(f"{recipe.name}-adapt")
