"""A whole recipe planned for a CUDA GPU: what `translate plan` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from translate.data.samples import Samples
from translate.data.scale import Shapes
from translate.errors import TranslateError
from translate.networks.memory import GLOSSES, PLANS
from translate.places import data_root
from translate.precision import Format, choose_precision
from translate.recipe import Recipe
from translate.sizes import format_bytes, format_duration, format_speed, num_bytes
from translate.training.gpus import size_and_gpu
from translate.training.hours import FASTER_LOADING, Loading, loading_of, scoring_share
from translate.training.plan import (
    USABLE,
    OnProgress,
    Prediction,
    StagePlan,
    budget_of,
    plan_recipe,
    predict,
    usable_bytes,
    with_consistency,
)
from translate.training.speeds import Speed, assumed, measured, published


@dataclass(frozen=True)
class PlannedGPU:
    """The GPU that is planned for."""

    budget: int | None  # bytes that predictions may fill; None: no GPU was named, and there is none
    memory: str | None  # its size, as it was named
    speed: Speed
    whose: str  # speed that is, in words


@dataclass(frozen=True)
class RecipePlan:
    """What every stage of a recipe needs under every memory plan."""

    recipe: str
    precision: Format
    with_consistency: bool  # with the network of the consistency loss, as `translate adapt make` trains it
    stages: list[StagePlan]
    gpu: PlannedGPU
    loading: list[Loading]  # of each stage's images
    scoring_share: float | None = None  # that scoring takes of the time of the steps; None: it is not known
    enlarged: tuple[str, ...] = ()  # what its stages enlarge of the images, where they are here to be looked at

    @property
    def misfits(self) -> list[str]:
        """A line for each stage that does not fit, with what to change."""
        return [f"stage {stage.number + 1} does not fit: {stage.advice}" for stage in self.stages
                if stage.chosen is None]

    def hours(self, stage: StagePlan, prediction: Prediction) -> float:
        """Return how long a stage takes under a plan."""
        return stage.hours(prediction, self.loading[stage.number])

    @property
    def scoring_hours(self) -> float | None:
        """How long the evaluations of held-out images take together, about; None where that is not known."""
        steps = sum(stage.stage.images * stage.chosen.seconds for stage in self.stages if stage.chosen is not None)
        return None if self.scoring_share is None else self.scoring_share * steps / 3600

    @property
    def times(self) -> list[str]:
        """Lines on how long the training takes, by which numbers, and whether it waits for images."""
        # The whole of it, under the plans that are taken.
        chosen = [(stage, stage.chosen) for stage in self.stages if stage.chosen is not None]
        num_images = sum(stage.stage.images for stage, _ in chosen)
        total = sum(self.hours(stage, found) for stage, found in chosen) + (self.scoring_hours or 0.0)
        whole = "in all" if len(chosen) == len(self.stages) else "the stages that fit"
        scoring = "scoring not counted" if self.scoring_hours is None else (
            f"{format_duration(3600 * self.scoring_hours)} of it scoring")
        lines = [f"{whole}: about {format_duration(3600 * total)} for {num_images:,} images, {scoring}; "
                 f"{self.gpu.whose}"] if chosen else []

        # The loading of images.
        if all(each.seconds is None for each in self.loading):
            return [*lines, "loading images is not counted: they are not here to be tried"] if chosen else lines
        waits = [f"stage {stage.number + 1} loads {format_speed(1 / seconds)}, and its steps could take "
                 f"{format_speed(1 / found.seconds)}" for stage, found in chosen
                 if self.loading[stage.number].holds_up(found.seconds)
                 and (seconds := self.loading[stage.number].seconds)]
        if waits:
            lines.append("held up by loading images (decoding, resizing), as fast as this machine does it: "
                         f"{'; '.join(waits)}. {FASTER_LOADING}")
        return lines

    @property
    def usable(self) -> str:
        """What predictions may fill, in words, and of what that is a share."""
        size = self.gpu.memory
        share = "of what is free" if size is None else f"of {size} ({format_bytes(num_bytes(size))})"
        return f"{format_bytes(self.gpu.budget or 0)} usable: {USABLE:.0%} {share}"

    @property
    def glosses(self) -> list[str]:
        """A line on what each chosen memory plan does."""
        chosen = dict.fromkeys(stage.chosen.plan.name for stage in self.stages if stage.chosen is not None)
        return [f"{name}: {GLOSSES[name]}" for name in chosen]

    def as_json(self) -> dict[str, Any]:
        """Return the document of `translate plan --json`."""
        return {"recipe": self.recipe, "device": "cuda", "precision": self.precision, "usable_bytes": self.gpu.budget,
                "speed": {"of": self.gpu.speed.of, "is_measured": self.gpu.speed.is_measured},
                "hours": sum(self.hours(stage, stage.chosen) for stage in self.stages if stage.chosen is not None),
                "scoring_hours": self.scoring_hours, "consistency": self.with_consistency,
                "stages": [stage.as_json(self.gpu.budget, loading)
                           for stage, loading in zip(self.stages, self.loading, strict=True)]}


def plan_for_gpu(recipe: Recipe, gpu: str | None = None, precision: str | None = None,
                 on_progress: OnProgress = lambda done, total, what: None) -> RecipePlan:
    """Predict every stage of `recipe` on a CUDA GPU.

    gpu         its name, such as "RTX 4090", the size of its memory, such as "8GB", or both, such as "V100 16GB"; None:
                the GPU there is, if there is one
    precision   a number format; None: the recipe's; "auto" is planned as fp16
    on_progress told before each prediction, and at the end

    Raises `UsageError` for a size that is none, a GPU that is not known, and a format that it has not.
    """
    asked = precision or recipe.precision
    planned_format: Format = "fp16" if asked == "auto" else asked  # type: ignore[assignment]
    planned_gpu = gpu_to_plan_for(gpu, planned_format)

    # The predictions, and what the images say where they are here.
    samples = samples_of(recipe)
    loading = [Loading() if samples is None else loading_of(samples, recipe, stage) for stage in recipe.stages]
    with with_consistency(recipe) as planned:
        stages = plan_recipe(planned, planned_gpu.budget, planned_format, on_progress=on_progress,
                             speed=planned_gpu.speed)
        return RecipePlan(recipe.name, planned_format, planned is not recipe, stages, planned_gpu, loading,
                          scoring_share(recipe), tuple(enlarged_by(recipe, samples)))


def hours_here(recipe: Recipe) -> str:
    """Say how long the steps of a recipe take on the CPU of a machine without a GPU; nothing where there is one."""
    if torch.cuda.is_available():
        return ""
    cpu = torch.device("cpu")
    precision = choose_precision("auto" if recipe.precision == "fp16" else recipe.precision, cpu)
    speed = measured(cpu, precision)
    seconds = sum(stage.images * predict(recipe, stage, PLANS["split"], precision, "cpu", speed=speed).seconds
                  for stage in recipe.stages)
    return (f"no GPU is here; on this machine's CPU the steps alone, without loading and scoring, take about "
            f"{format_duration(seconds)} (memory plan split; {speed.of})")


def gpu_to_plan_for(gpu: str | None, precision: Format) -> PlannedGPU:
    """Return the GPU that is meant by its name or the size of its memory; None: the one there is, if there is one.

    Raises `UsageError`.
    """
    # Its memory.
    memory, named = (None, None) if gpu is None else size_and_gpu(gpu)
    device = torch.device("cuda") if torch.cuda.is_available() else None
    if memory is not None:
        budget: int | None = budget_of(memory)
    else:
        budget = usable_bytes(device) if device else None

    # Its speed: by its name, else that of the GPU there is, else of one that has as much memory.
    if named is not None or device is not None:
        speed = published(named, precision) if named else measured(device, precision)  # type: ignore[arg-type]
        return PlannedGPU(budget, memory, speed, speed.of)
    speed = assumed("cuda", precision, num_bytes(memory) if memory else None)
    whose = f"at the speed of the {speed.of}; --gpu with a name, such as \"RTX 4090\", gives that of another"
    return PlannedGPU(budget, memory, speed, whose)


def samples_of(recipe: Recipe) -> Samples | None:
    """Return what a recipe trains on; None where it is not here."""
    try:
        return recipe.data.build("train", data_root())
    except TranslateError:
        return None


def enlarged_by(recipe: Recipe, samples: Samples | None) -> list[str]:
    """Return a line for each side whose images a recipe enlarges, by their headers."""
    return [] if samples is None else Shapes(samples).enlarged([recipe.fitting(stage) for stage in recipe.stages])
