"""Where prepared data sets, the cards and recipes that are shipped, the recipe of a run, and the user's cache lie."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

RECIPE_FILE = "recipe.yaml"  # in the folder of a run: what it trains


def data_root() -> Path:
    """Return the folder of prepared data sets: the one `DIPTYCH_DATA` names, or else `data` in the current one."""
    return Path(os.environ.get("DIPTYCH_DATA") or "data")


def cache_folder() -> Path:
    """Return the folder of what need not be found out twice on this machine: what `DIPTYCH_CACHE` names, or else
    `diptych` in the user's cache."""
    users = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("DIPTYCH_CACHE") or Path(users) / "diptych")


def card_files() -> list[Path]:
    """List the YAML files of the cards, sorted by name."""
    return _shipped("datasets")


def shipped_recipes() -> list[Path]:
    """List the YAML files of the shipped recipes, sorted by name."""
    return _shipped("recipes")


def shipped_alike(name: str) -> list[str]:
    """List the names of at most three shipped recipes that are spelt like this one."""
    return difflib.get_close_matches(name, [path.stem for path in shipped_recipes()], n=3, cutoff=0.6)


def purpose_of(recipe: Path) -> str:
    """Return what a shipped recipe says that it is for: its opening comment up to a line that ends a sentence."""
    lines: list[str] = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        lines.append(line.lstrip("# "))
        if line.endswith("."):
            break
    return " ".join(lines).rstrip(".")


def _shipped(folder: str) -> list[Path]:
    # An installed package carries them inside; beside it, a folder `datasets` is another library's.
    package = Path(__file__).parent
    shipped = package / "shipped" / folder
    return sorted((shipped if shipped.is_dir() else package.parent / folder).glob("*.yaml"))
