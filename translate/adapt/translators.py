"""The translators of an adaptation: their recipes, the network of their consistency loss, their training."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from translate import files
from translate.adapt.examples import Examples
from translate.adapt.tasks import kept_task
from translate.data.labelled import Labelled
from translate.errors import Mistake, RecipeError, RunError, Stopped
from translate.networks.tasks import read_task
from translate.recipe import Adaptation, Recipe, differences, load_recipe
from translate.runs.folder import RECIPE, STATUS, refuse_changes
from translate.schema import validate
from translate.training.loop import Reporter, train

SEED_OF_TASK = 1_000_033  # far from those of runs and of tables
CONSISTENCY = "consistency.json"


def adaptation_of(recipe: Recipe) -> Adaptation:
    """Raises `RecipeError` where the recipe does not say what to adapt."""
    if recipe.adapt is None:
        raise RecipeError(Mistake("adapt", "missing", "it says where labelled source images and the target are "
                                  "(docs/domain-adaptation.md)", source=recipe.name))
    return recipe.adapt


def numbered(name: str, number: int) -> str:
    """What belongs to variant `number`, from 0."""
    return name if number == 0 else f"{name}-{number + 1}"


def source_examples(recipe: Recipe, source: Labelled) -> Examples:
    """All source images, as a task network sees them."""
    adapt = adaptation_of(recipe)
    return Examples.of(adapt.source, source, recipe.data.image_a, adapt.task.resize)


def translators_recipe(recipe: Recipe, home: Path, number: int) -> Recipe:
    """What variant `number` is trained from: another seed, and the consistency loss if asked for."""
    return recipe.with_consistency((home / "task").resolve(), recipe.seed + number)


def trained_translator(recipe: Recipe, source: Labelled, home: Path, number: int, report: Reporter, where: torch.device,
                       may_train: bool) -> Path:
    """The run of variant `number`: as it is if finished, else trained on, with the consistency loss if asked for."""
    folder, chosen = home / numbered("translator", number), translators_recipe(recipe, home, number)
    begun = (folder / RECIPE).is_file()
    if begun:
        saved = saved_here(folder, chosen)
        refuse_other(saved, chosen, folder)
    finished = begun and is_finished(folder, chosen)
    if not finished and not may_train:
        raise RunError(f"{folder}: the translator is not trained yet, and a shard does not train; run `translate adapt "
                       "make RECIPE` without --shard first, or name one with --model")
    if not finished:
        prepare_consistency(recipe, source, home, report, where)
    if begun:
        with files.naming_disk_faults(folder):
            files.write_bytes(folder / RECIPE, saved.dump_yaml().encode())
    if not finished:
        try:
            train(chosen, folder, report, resume=begun, tell_recipe=False)
        except Stopped:
            raise Stopped(f"{folder}: stopped by a signal; everything is saved, and the same command goes on") from None
    for line in notes_on_consistency(recipe, home):
        report.say(line)
    return folder


def is_finished(folder: Path, chosen: Recipe) -> bool:
    """Whether a translator's training is over. The recipe may have gained stages since."""
    status = json.loads((folder / STATUS).read_text()) if (folder / STATUS).is_file() else {}
    return status.get("state") == "finished" and status["of"] == chosen.num_images


def saved_here(folder: Path, chosen: Recipe) -> Recipe:
    """The recipe that a translator was begun with, its task network where it lies now: OUT may have been moved.

    Whether that is the network it began with, `consistency.json` tells by its content.
    """
    document, wanted = load_recipe(folder / RECIPE).dump(), chosen.dump()["translator"].get("semantic")
    if wanted is not None and document["translator"].get("semantic") is not None:
        document["translator"]["semantic"]["task"] = wanted["task"]
    return validate(Recipe, document, str(folder / RECIPE))


def refuse_other(saved: Recipe, chosen: Recipe, folder: Path) -> None:
    """Raise `RunError` where a translator was begun with another recipe."""
    refuse_changes(saved, chosen, folder, "take the changes back, or let `translate adapt make` begin anew in another "
                                          f"folder (--out); {folder} may be removed as well, and is then trained anew")


def prepare_consistency(recipe: Recipe, source: Labelled, home: Path, report: Reporter, where: torch.device) -> None:
    """Train the network of the consistency loss, where there is one. Once a translator has begun with one, that one is
    kept: what is trained with two of them belongs to no recipe. Raises `RunError` where it is not there any more.
    """
    adapt, task = adaptation_of(recipe), home / "task"
    if adapt.semantic is None:
        return
    begun = next((path.parent for path in sorted(home.glob(f"translator*/{RECIPE}"))), None)
    if begun is None:
        kept_task(task, adapt.task, source_examples(recipe, source), SEED_OF_TASK, where, recipe.workers,
                  lambda done, total: report.progress(done, total, "task network", {}))
    found, known = read_task(task), began_with(home)
    if found is None or (begun is not None and known is not None and found["sha256"] != known["sha256"]):
        raise RunError(f"{task}: is not the task network that {begun} began with ({CONSISTENCY}), and going on would "
                       f"mix the two; put it back, or remove {begun} to train it anew")
    if found != known:
        with files.naming_disk_faults(home):
            files.write_json(home / CONSISTENCY, found)


def began_with(home: Path) -> dict[str, Any] | None:
    """The record of the task network that the translators of a folder have begun with; None where none is known."""
    with suppress(OSError, ValueError):
        return json.loads((home / CONSISTENCY).read_bytes())
    return None


def notes_on_consistency(recipe: Recipe, home: Path) -> list[str]:
    """Where the recipe's settings are no longer those of the task network that a translator was trained with."""
    known = began_with(home)
    if adaptation_of(recipe).semantic is None or known is None:
        return []
    changed = list(differences(known["about"]["training"], adaptation_of(recipe).task.model_dump(mode="json"),
                               "adapt.task"))
    return [f"the consistency loss has kept the task network that the translator began with; for the judge and the "
            f"table alone: {', '.join(changed)}"] if changed else []
