"""A whole recipe planned for a CUDA GPU: what `translate plan` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from translate.data.scale import Shapes
from translate.errors import TranslateError
from translate.networks.memory import GLOSSES
from translate.places import data_root
from translate.precision import Format
from translate.recipe import Recipe
from translate.sizes import format_bytes, num_bytes
from translate.training.plan import (
    USABLE,
    OnProgress,
    StagePlan,
    budget_of,
    plan_recipe,
    usable_bytes,
    with_consistency,
)


@dataclass(frozen=True)
class RecipePlan:
    """What every stage of a recipe needs under every memory plan."""

    recipe: str
    precision: Format
    budget: int | None  # bytes that predictions may fill; None: no GPU was named, and there is none
    with_consistency: bool  # with the network of the consistency loss, as `translate adapt make` trains it
    stages: list[StagePlan]
    gpu_memory: str | None = None  # the size of the GPU, as it was named
    enlarged: tuple[str, ...] = ()  # what its stages enlarge of the images, where they are here to be looked at

    @property
    def misfits(self) -> list[str]:
        """A line for each stage that does not fit, with what to change."""
        return [f"stage {stage.number + 1} does not fit: {stage.advice}" for stage in self.stages
                if stage.chosen is None]

    @property
    def usable(self) -> str:
        """What predictions may fill, in words, and of what that is a share."""
        share = "of what is free" if self.gpu_memory is None else (
            f"of {self.gpu_memory} = {format_bytes(num_bytes(self.gpu_memory))}")
        return f"{format_bytes(self.budget or 0)} usable: {USABLE:.0%} {share}"

    @property
    def glosses(self) -> list[str]:
        """A line on what each chosen memory plan does."""
        chosen = dict.fromkeys(stage.chosen.plan.name for stage in self.stages if stage.chosen is not None)
        return [f"{name}: {GLOSSES[name]}" for name in chosen]

    def as_json(self) -> dict[str, Any]:
        """Return the document of `translate plan --json`."""
        return {"recipe": self.recipe, "device": "cuda", "precision": self.precision, "usable_bytes": self.budget,
                "consistency": self.with_consistency, "stages": [stage.as_json(self.budget) for stage in self.stages]}


def plan_for_gpu(recipe: Recipe, gpu_memory: str | None = None, precision: str | None = None,
                  on_progress: OnProgress = lambda done, total, what: None) -> RecipePlan:
    """Predict every stage of `recipe` on a CUDA GPU.

    gpu_memory  its size, such as "8GB"; None: that of the GPU there is, if there is one
    precision   a number format; None: the recipe's; "auto" is planned as fp16
    on_progress told before each prediction, and at the end

    Raises `UsageError` for a `gpu_memory` that is no size.
    """
    asked = precision or recipe.precision
    planned_format: Format = "fp16" if asked == "auto" else asked  # type: ignore[assignment]
    if gpu_memory is not None:
        budget: int | None = budget_of(gpu_memory)
    else:
        budget = usable_bytes(torch.device("cuda")) if torch.cuda.is_available() else None

    with with_consistency(recipe) as planned:
        return RecipePlan(recipe.name, planned_format, budget, planned is not recipe,
                          plan_recipe(planned, budget, planned_format, on_progress=on_progress), gpu_memory,
                          tuple(enlarged_by(recipe)))


def enlarged_by(recipe: Recipe) -> list[str]:
    """Return a line for each side whose images a recipe enlarges, by their headers; none where they are not here."""
    try:
        samples = recipe.data.build("train", data_root())
    except TranslateError:
        return []
    return Shapes(samples).enlarged([recipe.fitting(stage) for stage in recipe.stages])
