"""The translators of an adaptation: their recipes, the network of their consistency loss, their training."""

from __future__ import annotations

from pathlib import Path

import torch

from translate import files
from translate.adapt.examples import Examples
from translate.adapt.matching import MATCHED
from translate.adapt.result_cache import MADE_FROM, TaskRecord, read_record, write_record
from translate.adapt.task_training import cached_task
from translate.data.labelled import Labelled
from translate.data.loading import workers_for
from translate.errors import RECIPE_PLACEHOLDER, DocumentError, Mistake, RecipeError, RunError, Stopped
from translate.networks.task_networks import RECORD, read_task
from translate.places import RECIPE_FILE
from translate.recipe import Adaptation, Recipe, differences
from translate.runs.folder import load_saved, read_status, refuse_changes
from translate.schema import validate
from translate.training.loop import Reporter, train

SEED_OF_TASK = 1_000_033  # far from those of runs and of tables
CONSISTENCY = "consistency.json"


def adaptation_of(recipe: Recipe) -> Adaptation:
    """Return what a recipe says of adaptation. Raises `RecipeError` where it says nothing."""
    if recipe.adapt is None:
        raise RecipeError(Mistake("adapt", "missing", "it says where labelled source images and the target are "
                                  "(docs/domain-adaptation.md)", source=recipe.name))
    return recipe.adapt


def numbered(name: str, number: int) -> str:
    """Return the name of what belongs to variant `number`, from 0: `set`, `set-2`, `set-3`."""
    return name if number == 0 else f"{name}-{number + 1}"


def source_examples(recipe: Recipe, source: Labelled) -> Examples:
    """Return all source images, as a task network sees them."""
    adapt = adaptation_of(recipe)
    return Examples.of(adapt.source, source, recipe.data.image_a, adapt.task.resize)


def translators_recipe(recipe: Recipe, home: Path, number: int) -> Recipe:
    """Return what variant `number` is trained from: a seed of its own, and the consistency loss if asked for."""
    matched = None if adaptation_of(recipe).match is None else (home / MATCHED).resolve()
    return recipe.with_consistency((home / "task").resolve(), recipe.seed + number, matched)


def trained_translator(recipe: Recipe, source: Labelled, home: Path, number: int, report: Reporter, where: torch.device,
                       may_train: bool) -> Path:
    """Return the folder of the run of variant `number`, after training what is left of it.

    Raises `RunError` where it was begun with another recipe, or is not finished and must not be trained (`may_train`),
    and `Stopped` after a signal.
    """
    folder, chosen = home / numbered("translator", number), translators_recipe(recipe, home, number)
    begun = (folder / RECIPE_FILE).is_file()
    if begun:
        saved = saved_recipe(folder, chosen)

    # What must be there before it can be trained, or trained on.
    finished = begun and is_finished(folder, chosen)
    if not finished and not may_train:
        raise RunError("the translator is not trained yet, and a shard does not train", folder, "run `translate adapt "
                       f"make {RECIPE_PLACEHOLDER}` without --shard first, or name one with --model")
    if not finished:
        prepare_consistency(recipe, source, home, report, where)

    # Its task network is named where it lies now: OUT may have been moved.
    if begun:
        with files.as_disk_errors(folder):
            files.write_bytes(folder / RECIPE_FILE, saved.dump_yaml().encode())
    if not finished:
        try:
            train(chosen, folder, report, resume=begun)
        except Stopped:
            raise Stopped("stopped by a signal; everything is saved", folder, "the same command goes on") from None

    for line in notes_on_consistency(recipe, home):
        report.say(line)
    return folder


def is_finished(folder: Path, chosen: Recipe) -> bool:
    """Return whether a translator's training is over. The recipe may have gained stages since."""
    try:
        status = read_status(folder)
    except DocumentError:  # a resume goes on from its checkpoints, and says how it ended
        return False
    return status.get("state") == "finished" and status["of"] == chosen.num_images


def saved_recipe(folder: Path, chosen: Recipe) -> Recipe:
    """Return the recipe that a translator was begun with. Raises `RunError` where it is not `chosen`, but for stages.

    Its task network and matched images are named where they lie now, as OUT may have been moved; whether that is the
    network that it began with, `consistency.json` tells by its content.
    """
    document, now = load_saved(folder).dump(), chosen.dump()
    wanted = now["translator"].get("semantic")
    if wanted is not None and document["translator"].get("semantic") is not None:
        document["translator"]["semantic"]["task"] = wanted["task"]
    there, here = (Path(each["data"].get("a") or "") for each in (document, now))
    if there.name == here.name == MATCHED:
        document["data"]["a"] = str(here)
    saved = validate(Recipe, document, str(folder / RECIPE_FILE))
    refuse_changes(saved, chosen, folder, "take the changes back, or let `translate adapt make` begin anew in another "
                                          f"folder (--out); {folder} may be removed as well, and is then trained anew")
    return saved


def prepare_consistency(recipe: Recipe, source: Labelled, home: Path, report: Reporter, where: torch.device) -> None:
    """Train the task network of the consistency loss, where there is one.

    Once a translator has begun with one, that one is kept whatever the recipe says: a translator that was trained with
    two of them could not be reproduced from any recipe. Raises `RunError` where it is not there any more.
    """
    adapt, task = adaptation_of(recipe), home / "task"
    if adapt.semantic is None:
        return
    begun = next((path.parent for path in sorted(home.glob(f"translator*/{RECIPE_FILE}"))), None)
    if begun is None:
        cached_task(task, adapt.task, source_examples(recipe, source), SEED_OF_TASK, where,
                    workers_for(recipe.workers, where),
                    lambda done, total: report.progress(done, total, "task network", {}))

    found = None if read_task(task) is None else read_record(task / RECORD, TaskRecord)
    known = read_record(home / CONSISTENCY, TaskRecord)
    if found is None or (begun is not None and known is not None and found["sha256"] != known["sha256"]):
        raise RunError(f"is not the task network that {begun} began with ({CONSISTENCY}), and going on would mix the "
                       "two", task, f"put it back, or remove {begun} to train it anew")
    if found != known:
        write_record(home / CONSISTENCY, found)


def notes_on_consistency(recipe: Recipe, home: Path) -> list[str]:
    """Return a line on the settings that were changed too late for the consistency loss, where there are any."""
    known = read_record(home / CONSISTENCY, TaskRecord)
    if adaptation_of(recipe).semantic is None or known is None:
        return []
    changed = list(differences(known[MADE_FROM].get("training", {}), adaptation_of(recipe).task.model_dump(mode="json"),
                               "adapt.task"))
    return [f"the consistency loss keeps the task network that the translator began with; these changes reach the "
            f"judge and the table alone: {', '.join(changed)}"] if changed else []
