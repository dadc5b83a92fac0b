"""Whether the files and folders that a command names are there: looked at before PyTorch is loaded for seconds.

What is said is `translate.missing`'s, as by the code that would open them. Addresses and globs are left to that.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

from translate.errors import TranslateError, UsageError
from translate.missing import (
    no_checkpoint,
    no_images,
    no_model,
    no_recipe,
    no_release,
    no_run,
    no_sources,
    none_to_resume,
    none_to_score,
)
from translate.places import RECIPE_FILE, shipped_recipes

NEEDED: dict[str, dict[str, Callable[[Any], TranslateError]]] = {  # by command: which of its parameters must be there
    "train": {"recipe": no_recipe, "start": no_model},
    "train --resume": {"run": none_to_resume, "start": no_model},
    "plan": {"recipe": no_recipe},
    "plan --convert": {"recipe": lambda name: no_model(Path(name))},
    "convert": {"model": no_model, "source": no_sources},
    "sample": {"model": no_model},
    "serve": {"models": no_model},
    "evaluate": {"what": none_to_score},
    "evaluate --against": {"what": no_images, "against": no_images, "source": no_images},
    "report": {"run": no_run},
    "compare": {"runs": no_run},
    "import": {"file": no_checkpoint},
    "export": {"model": no_model},
    "export-pth": {"model": no_model},
    "publish": {"model": no_release},
    "data check": {"folder": lambda path: no_recipe(str(path))},
    "data align": {"folder": no_images},
    "adapt make": {"recipe": no_recipe, "models": no_model},
    "adapt evaluate": {"recipe": no_recipe},
}


def refuse_missing(command: str, values: Mapping[str, Any]) -> None:
    """Raise the error of a command, such as `data check`, where it is given what must be there and is not."""
    if command == "train" and values.get("resume") and values.get("recipe") is None:
        command = "train --resume"
    if command == "plan" and values.get("convert") is not None:
        command = "plan --convert"
    if command == "evaluate" and not (values.get("against") is values.get("source") is None):
        command = "evaluate --against"
    shipped = {each.stem for each in shipped_recipes()}
    for name, error in NEEDED.get(command, {}).items():
        given = values.get(name)
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is None or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", str(value)) or re.search(r"[*?\[]", str(value)):
                continue
            takes_shipped = name == "recipe" or command == "data check"
            if not is_there(Path(value)) and not (takes_shipped and str(value) in shipped):
                raise error(value)
    if command == "train":
        refuse_run(str(values.get("recipe") or ""), shipped)


def refuse_run(recipe: str, shipped: Set[str]) -> None:
    """Raise `UsageError` where the recipe to train is a run. A shipped recipe's name means that, whatever lies here."""
    if recipe and recipe not in shipped and (Path(recipe) / RECIPE_FILE).is_file():
        raise UsageError("is a run, and no recipe", Path(recipe), "to go on with it: translate train --resume "
                         f"--run {shlex.quote(recipe)}")


def is_there(path: Path) -> bool:
    """Return whether a file or folder is there; RUN/best, which is no folder, where the run is."""
    return path.exists() or (path.name == "best" and path.parent.exists())
