"""The places that a recipe names: absolute where a run keeps it, none of them in what is given away.

A relative place means another folder wherever one stands, and the folder of that name there may hold other images. So a
run writes down where its images lie. Cards stay names: their folders are told by what was downloaded. A release says
nothing of places, which are nobody else's concern. Runs of earlier versions may hold relative places; they are taken
from where one stands, and `relative_places` says which folders those are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from translate.errors import DataError, NoData, visible
from translate.places import RECIPE_FILE
from translate.recipe import Recipe
from translate.runs.hub import is_address
from translate.runs.manifest import MANIFEST
from translate.schema import validate, write_yaml

NEEDED_TO_TRAIN = ("data.folder", "data.a", "data.b")
PLACEHOLDER = "your-images"  # stands in the recipe of an imported model for a folder that nobody has named
LEFT_OUT = "left out of the release: "  # what stands there in the place of a path, before the name of its field


def absolute(recipe: Recipe) -> Recipe:
    """Return a recipe whose places mean the same wherever one stands; links in them stay."""
    return _changed(recipe, lambda field, path: path.expanduser().absolute())


def without_places(recipe: Recipe) -> Recipe:
    """Return what a release says: the same recipe, which names no place."""
    return _changed(recipe, lambda field, path: Path(f"{LEFT_OUT}{field.rpartition('.')[2]}"))


def comparable(saved: Recipe, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both as plain documents in which equal places are equal: however they are written, and moved ones.

    A place of the saved recipe that is not there any more may have moved to where the other one says.
    """
    places = places_of(recipe)

    def now(field: str, path: Path) -> Path:
        there = _real(path)
        new = _real(places[field]) if field in places else there
        return new if new.exists() and not there.exists() else there

    return _document(saved, now), _document(recipe, lambda field, path: _real(path))


def places_of(recipe: Recipe) -> dict[str, Path]:
    """Return the places in a recipe, by field: data.folder, adapt.source.folder."""
    return dict(_paths(recipe.model_dump(), ""))


def relative_places(recipe: Recipe) -> str:
    """Return, in words, the relative places of a recipe's data, as earlier versions have saved them; else nothing."""
    return ", ".join(f"{visible(path)}, which here is {visible(path.absolute())}"
                     for field, path in places_of(recipe).items()
                     if field.startswith("data.") and not path.expanduser().is_absolute())


def refuse_moved(recipe: Recipe, folder: Path, fields: Sequence[str] = NEEDED_TO_TRAIN) -> None:
    """Raise `NoData` naming the places of a recipe's data that are gone; the recipe lies in `folder`."""
    data = {field: path for field, path in places_of(recipe).items() if field in fields}
    otherwise = "evaluate the run, or convert images and score what comes out: translate evaluate OUT --against REAL"
    if any(str(path).startswith(LEFT_OUT) or path.name == PLACEHOLDER for path in data.values()):
        raise NoData("a release does not say where the images lie that it was trained on", folder, otherwise)
    gone = [f"{visible(path)} ({field})" for field, path in data.items() if not path.expanduser().exists()]
    if gone:
        raise NoData(f"not there any more: {', '.join(gone)}", folder / RECIPE_FILE,
                     otherwise if (folder / MANIFEST).is_file() else "write into this file where it lies now")


@contextmanager
def naming_moved_places(recipe: Recipe, folder: Path) -> Iterator[None]:
    """Where the block finds no images, say which places of the recipe in `folder` are gone: see `refuse_moved`.

    An advice that names the recipe names that one: the file that it was once read from does not count any more.
    """
    try:
        yield
    except DataError as error:
        refuse_moved(recipe, folder, [field for field in places_of(recipe) if field.startswith("data.")])
        error.recipe = str(folder / RECIPE_FILE)
        raise


def text_for_others(recipe: Recipe) -> str:
    """Return a recipe as YAML in which places end with their own name and begin with nothing: …/photos."""
    return write_yaml(_document(recipe, lambda field, path: Path("…", path.name)))


def _changed(recipe: Recipe, change: Callable[[str, Path], Path]) -> Recipe:
    """Return a recipe in which each place is what `change` makes of its field and path."""
    return validate(Recipe, _document(recipe, change), recipe.name)


def _document(recipe: Recipe, change: Callable[[str, Path], Path]) -> dict[str, Any]:
    """Return a recipe as a plain document, in which each place is what `change` makes of its field and path."""
    def walk(value: Any, field: str) -> Any:
        if isinstance(value, Path):
            return str(value if is_address(value) else change(field, value))
        if isinstance(value, dict):
            return {key: walk(each, f"{field}.{key}" if field else str(key)) for key, each in value.items()}
        return [walk(each, field) for each in value] if isinstance(value, list | tuple) else value

    return dict(walk(recipe.model_dump(), ""))


def _paths(value: Any, field: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path) and not is_address(value):
        yield field, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _paths(each, f"{field}.{key}" if field else str(key))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path.expanduser()))
