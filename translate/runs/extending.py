"""A run that is to see more images than its recipe says, and what to say of one that has seen them all."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

from translate.errors import DocumentError, UsageError, visible
from translate.missing import none_to_resume
from translate.places import RECIPE_FILE
from translate.recipe import Recipe, Stage
from translate.runs.folder import load_saved, read_status, refuse_changes
from translate.schema import validate


def more_images(text: str) -> int:
    """Return the number in `--images +50_000`. Raises `UsageError` for anything else."""
    found = re.fullmatch(r"\+\s*([0-9][0-9_,]{0,15})", text, re.ASCII)
    number = int(re.sub("[_,]", "", found[1])) if found else 0
    if number < 1:
        raise UsageError(f"--images {visible(text)}: say how many more the run is to see, as in --images +50_000")
    return number


def going_on(run: Path, recipe: Recipe, more: int | None, is_runs_own: bool) -> tuple[Recipe, str]:
    """Return the recipe by which a run is resumed, and what to say of it first, if anything.

    run          the folder; none need be there, unless it is to see more
    recipe       what it is resumed by
    more         so many images more than it has been trained for (`--images`); None: as many as `recipe` says
    is_runs_own  `recipe` is the run's own, and no file that may say by now how many images another run is to see

    Raises `RunError` where there is no run that could see more, and for a recipe that is not the run's.
    """
    if more is not None:
        if not (run / RECIPE_FILE).is_file():
            raise none_to_resume(run)
        if not is_runs_own:
            saved = load_saved(run)
            recipe = with_images_of(saved, recipe)
            refuse_changes(saved, recipe, run)
        return extended(recipe, more)
    ended = nothing_left(run, recipe)
    if ended:
        refuse_changes(load_saved(run), recipe, run)
    return recipe, ended


def extended(recipe: Recipe, num: int) -> tuple[Recipe, str]:
    """Return the recipe of a run with `num` more images, rounded up to whole batches, and in words what that changes.

    The last stage gets them, where nothing in it depends on how many it has. Else a stage is added, which is like it.
    """
    *others, last = recipe.stages
    num = math.ceil(num / last.batch_size) * last.batch_size
    if last.lr.depends_on_images or last.fade:
        more = Stage.model_validate(last.model_dump() | {"images": num, "fade": False, "lr": last.lr.again()})
        stages = [*recipe.stages, more]
        what = f"a stage of {num:,} images is added, like the last one; learning rate: {more.lr}"
    else:
        stages = [*others, last.model_copy(update={"images": last.images + num})]
        what = f"the last stage gets {num:,} images more, {last.images + num:,} in all"
    document = recipe.dump() | {"stages": [stage.model_dump(mode="json") for stage in stages]}
    return validate(Recipe, document, "--images"), what


def with_images_of(saved: Recipe, recipe: Recipe) -> Recipe:
    """Return a recipe whose stages see as many images as those of a run, with the stages that only the run has."""
    stages = [stage.model_copy(update={"images": other.images})
              for stage, other in zip(recipe.stages, saved.stages, strict=False)]
    num = len(stages)
    return recipe.model_copy(update={"stages": (*stages, *recipe.stages[num:], *saved.stages[num:])})


def nothing_left(run: Path, recipe: Recipe) -> str:
    """Say of a run that has finished how it can go on; nothing of one that has images left."""
    try:
        status = read_status(run)
    except DocumentError:
        return ""
    if status.get("state") != "finished" or recipe.num_images > status["of"]:
        return ""
    place = shlex.quote(visible(run))
    if status["images"] < status["of"]:
        return (f"this run has ended early: {visible(status['message'])}. It goes on with: translate train --resume "
                f"--run {place} --set evaluate.patience=null")
    return (f"this run has seen all of its {status['images']:,} images. To add some: translate train --resume --run "
            f"{place} --images +{max(recipe.num_images // 4, recipe.stages[-1].batch_size):_}")
