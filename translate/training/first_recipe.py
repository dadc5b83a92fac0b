"""The first recipe for a folder of images: what they are decides it, and the planner makes it fit a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from translate.data.headers import look_at, short_side, unequal
from translate.data.passed_over import PassedOver
from translate.data.recognising import Kind, how_read, read_as, refuse_unclear
from translate.errors import DataError, DoesNotFit, ImageError
from translate.places import data_root
from translate.recipe import Recipe
from translate.sizes import format_bytes
from translate.training.plan import Prediction, choose
from translate.training.recipe_draft import Draft, NoiseDraft
from translate.training.recipe_plan import PlannedGPU, gpu_to_plan_for, hours_here

DEFAULT_GPU = "8GB"  # where none is named, and none is there
LEAST_PIXELS = 16


@dataclass(frozen=True)
class FirstRecipe:
    """A recipe as text, and the same read; `lines` say what was seen of the images, and what of it needs a person."""

    text: str
    recipe: Recipe
    lines: list[str]


def first_recipe(folder: Path, file: Path, gpu: str | None = None, kind: Kind | None = None,
                 direction: Literal["ab", "ba"] = "ab",
                 on_progress: Callable[[int, int, str], object] = lambda done, total, what: None) -> FirstRecipe:
    """Look at a folder of images, and return a recipe for it that fits a GPU.

    folder       of images, in any layout that `data check` knows
    file         where the recipe will lie; its name becomes the recipe's
    gpu          the size of the GPU, such as 8GB, or its name; None: the one there is, else DEFAULT_GPU
    kind         what the folder holds; None: what it seems to hold
    direction    `ba`: what the folder calls B goes in, and A comes out
    on_progress  told before each look and prediction

    Raises `DataError` for a folder that nothing can be trained on as it is, `DoesNotFit` for a GPU that no recipe would
    fit, `UsageError` for a `gpu` that is neither.
    """
    # What there is: the images, by what their files say, and the memory.
    planned, card = _planned(gpu)
    on_progress(0, 1, "looking at the images")
    layout = read_as(folder.absolute(), kind)
    if kind is None:
        refuse_unclear(layout, folder.absolute())
    try:
        samples = layout.build("train", data_root())
        if direction == "ba":
            layout = layout.other_way()
            samples = layout.build("train", data_root())
        sides = look_at(samples)
    except ImageError as error:
        raise DataError.of(error) from None
    if layout.paired and (fault := unequal(sides)):
        raise DataError(fault, folder, "the images of a pair need one size: export them anew, or leave these pairs out")
    if (short := short_side(sides)) < LEAST_PIXELS:
        raise DataError(f"holds images of {short} px on their short side; a training needs {LEAST_PIXELS}",
                        sides[0].files[0].parent, "use larger images")

    # The largest crop that the images have and the card takes, and stages up to it.
    draft = (Draft if layout.has_sources else NoiseDraft)(layout, sides, file.stem, short, gpu=card)
    crop = most = draft.largest_crop()
    while True:
        on_progress(0, 1, f"planning {crop} px")
        recipe, predicted = draft.recipe(draft.stages(crop)), list[Prediction]()
        for stage in reversed(recipe.stages):  # the largest first: where it does not fit, no other need be predicted
            found = choose(recipe, stage, planned.budget, "fp16", speed=planned.speed)
            if found is None:
                break
            predicted.insert(0, found)
        else:
            break
        if stage.batch_size > 1:
            draft.batches = False
        else:
            crop = draft.smaller_crop(crop)
        if crop < min(LEAST_PIXELS * 4, most):
            raise DoesNotFit(f"no training of these networks fits a GPU of {card} ({format_bytes(planned.budget or 0)} "
                             "usable)", advice="name a larger one with --gpu")
    on_progress(1, 1, "")
    draft.notes += how_read(layout, samples) if kind is None else []
    draft.notes += [passed_over.in_words] if (passed_over := PassedOver.below(folder)) else []
    here = "" if gpu is not None else hours_here(recipe)
    lines = [draft.heading(), *draft.looked(), *draft.said(crop)]
    if here:
        lines.append(f"{here}. The recipe is planned for a GPU of {card}; name yours with --gpu")
    return FirstRecipe(draft.text(file, recipe, predicted, planned, gpu, here), recipe, lines)


def _planned(gpu: str | None) -> tuple[PlannedGPU, str]:
    """Return the GPU that is planned for, and the size of its memory in words."""
    if gpu is None and not torch.cuda.is_available():
        gpu = DEFAULT_GPU
    planned = gpu_to_plan_for(gpu, "fp16")
    return planned, planned.memory or f"{torch.cuda.mem_get_info()[1] / 1e9:.0f}GB"
