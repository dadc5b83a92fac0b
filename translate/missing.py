"""What is said of a file or folder that is not there, each thing once.

Said by the code that would open it, and before that by the command line, which looks before PyTorch is loaded.
"""

from __future__ import annotations

import difflib
from contextlib import suppress
from pathlib import Path

from translate.errors import CheckpointError, DataError, Mistake, NoData, RecipeError, RunError, UsageError, visible
from translate.places import shipped_alike


def no_recipe(name: str) -> RecipeError:
    """Of what is no file, no folder and no name of a shipped recipe."""
    path = Path(name)
    is_file = path.suffix in (".yaml", ".yml")
    what = "No such file or directory" if is_file else "no such file or folder, and no shipped recipe"
    alike = shipped_alike(path.stem if is_file else path.name)
    # A name may be meant for what lies here or for what is shipped: with an ending it is a file's, first of all.
    local = _advice(path) if is_file or not alike else None
    guess = local or (f"did you mean {', '.join(alike)}?" if alike else None)
    advice = "`translate recipes` lists what is shipped"
    return RecipeError(Mistake(name, what, advice if guess is None else f"{guess} {advice}"))


def no_model(path: Path) -> UsageError:
    """Of a run or a release that is to translate or to draw."""
    return UsageError("no such folder", path, _advice(path, "a model is a run (runs/<name>), its best checkpoint "
                                                            "(runs/<name>/best) or the folder of a release"))


def no_release(path: Path) -> UsageError:
    """Of a release, or a run with one, that is to be given away."""
    return UsageError("no such folder", path, _advice(path, "name a run that has ended, or a release"))


def no_run(path: Path) -> RunError:
    """Of a run that is to be shown."""
    return RunError("no such folder", path, _advice(path, "name a run, such as runs/<name>"))


def none_to_resume(path: Path) -> RunError:
    """Of a run that is to go on."""
    return RunError("there is no run here to resume", path, _advice(path, "to start one, name a recipe and leave out "
                                                                          "--resume"))


def none_to_score(path: Path) -> UsageError:
    """Of what is to be scored by itself, be it there or not."""
    return UsageError("neither a run nor a release" if path.exists() else "no such folder", path,
                      _advice(path, "give a run or a release; for a folder of images, add --against FOLDER, or "
                                    "--source FOLDER to see whether they lie on what they were made from"))


def no_images(path: Path) -> NoData:
    """Of a folder of images."""
    return NoData("no such folder", path, _advice(path))


def no_sources(path: Path) -> DataError:
    """Of an image, or a folder of them, to convert."""
    return DataError("no such file or folder", path, _advice(path))


def no_checkpoint(path: Path) -> CheckpointError:
    """Of a file of weights that another project has written."""
    return CheckpointError("no such file", path, _advice(path))


def _advice(path: Path, other: str | None = None) -> str | None:
    """Return which path that is there may have been meant, where one is spelt alike, and then `other`."""
    path = Path(path)
    there = next((parent for parent in path.parents if parent.is_dir()), path.parent)
    missing, *rest = path.relative_to(there).parts or [""]
    with suppress(OSError):
        names = [each.name for each in there.iterdir()]
        for close in difflib.get_close_matches(missing, names, n=1, cutoff=0.6):
            meant = there.joinpath(close, *rest)
            if meant.exists() or (rest[-1:] == ["best"] and meant.parent.is_dir()):
                return f"did you mean {visible(meant)}?" + (f" {other}" if other else "")
    return other
