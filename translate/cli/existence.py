"""Whether the files and folders that a command names are there: looked at before PyTorch is loaded for seconds.

What is said here is what the command itself would say later. Addresses and globs are left to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from translate.errors import DataError, Mistake, RecipeError, UsageError
from translate.places import MODEL_ADVICE, shipped_advice, shipped_recipes


def refuse_recipe(value: str) -> None:
    """Raise `RecipeError` for what is no file, no folder and no name of a shipped recipe."""
    path = Path(value)
    if not path.exists() and value not in {each.stem for each in shipped_recipes()}:
        is_file = path.suffix in (".yaml", ".yml")
        what = "No such file or directory" if is_file else "no such file or folder, and no shipped recipe"
        raise RecipeError(Mistake(value, what, shipped_advice(path.stem if is_file else path.name)))


def refuse_model(value: Path) -> None:
    """Raise `UsageError` for a model that is not there."""
    if not is_there(value):
        raise UsageError("no such folder", value, MODEL_ADVICE)


def refuse_path(value: Path) -> None:
    """Raise `DataError` for a file or folder that is not there."""
    if not is_there(value):
        raise DataError("no such file or folder", value)


def is_there(value: Path) -> bool:
    """Return whether a file or folder is there; RUN/best, which is no folder, where the run is."""
    return value.exists() or (value.name == "best" and value.parent.exists())


NEEDED: dict[str, dict[str, Callable[[Any], None]]] = {  # by command: which of its parameters must be there
    "train": {"recipe": refuse_recipe},
    "plan": {"recipe": refuse_recipe},
    "convert": {"model": refuse_model, "source": refuse_path},
    "sample": {"model": refuse_model},
    "evaluate": {"what": refuse_path, "against": refuse_path, "source": refuse_path},
    "report": {"run": refuse_path},
    "import": {"file": refuse_path},
    "export": {"model": refuse_model},
    "export-pth": {"model": refuse_model},
    "data check": {"folder": lambda value: refuse_recipe(str(value))},
    "data align": {"folder": refuse_path},
}


def refuse_missing(command: str, values: Mapping[str, Any]) -> None:
    """Raise `UsageError` where a command, such as `data check`, is given what must be there and is not."""
    for name, refuse in NEEDED.get(command, {}).items():
        value = values.get(name)
        if value is None or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", str(value)) or re.search(r"[*?\[]", str(value)):
            continue
        refuse(value)
