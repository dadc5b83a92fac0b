"""Everything about a training, and the mistakes that only the parts together show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field

from translate.data import DataConfig
from translate.data.scale import Fitting
from translate.errors import Mistake
from translate.mistakes import Mistakes
from translate.networks.memory import AutoMemory, MemoryConfig
from translate.optimizers import Optimizers
from translate.places import data_root
from translate.recipe.adaptation import Adaptation
from translate.recipe.stages import Stage
from translate.recipe.watching import Cadence, Evaluation, GuardConfig
from translate.schema import Config, Name, validate, write_yaml
from translate.translators import TranslatorConfig
from translate.translators.stabilisers import Side

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Recipe(Config):
    """Everything about a training."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**31)
    precision: Precision = "auto"
    data: DataConfig
    translator: TranslatorConfig
    start: Path | None = None  # a run, RUN/best, a release or another project's checkpoint: begin with its weights
    optimizer: Optimizers = Optimizers()
    memory: AutoMemory = "auto"  # or {plan: …, strips: …}
    stages: tuple[Stage, ...] = Field(min_length=1)
    every: Cadence = Cadence()
    evaluate: Evaluation = Evaluation()
    guard: GuardConfig | None = GuardConfig()  # null: nobody watches
    keep_checkpoints: int = Field(2, ge=2, le=1_000_000)
    # processes that load images, of each process that trains; auto: by its cores. The data stream does not depend on it
    workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    adapt: Adaptation | None = None  # for `translate adapt`

    may_change: ClassVar[tuple[str, ...]] = ("every", "evaluate", "guard", "keep_checkpoints", "workers", "trackers",
                                             "memory", "adapt")

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        problems = [*self.translator.problems(self.data), *self._adaptation_problems(), *self._stage_problems(),
                    *self.translator.level_problems(self.stages, begun=self.start is not None),
                    *self._evaluation_problems()]
        if problems:
            raise Mistakes(problems)
        return self

    def _adaptation_problems(self) -> Iterator[Mistake]:
        if self.adapt is None:
            return
        a, b = self.data.channels_a, self.data.channels_b
        if a != b or self.data.labelling is not None:
            yield Mistake("adapt", f"one task network sees images of A and of B, and data.kind {self.data.kind} has "
                          f"{a} and {b} channels", "they need as many")
        if self.adapt.semantic is not None and not self.translator.stays_consistent:
            yield Mistake("adapt.semantic", f"is a loss of a CycleGAN, and translator.kind is {self.translator.kind}",
                          "set it to null")
        if self.adapt.match is None:
            return
        if self.data.paired or self.data.protects:
            yield Mistake("adapt.match", "changes all pixels of A, and data has "
                          f"{'pairs' if self.data.paired else 'protected regions'}", "set it to null")
        bits_a, bits_b = self.data.loading.image_a.bits, self.data.image_b.bits
        if (bits_a, bits_b) != (8, 8) or a not in (1, 3):
            yield Mistake("adapt.match", "knows images of 8 bits with 1 or 3 channels, and data.image_a and image_b "
                          f"have {bits_a} and {bits_b} bits, {a} channels", "set it to null")
        if self.needs_test_images:
            yield Mistake("adapt.match", "changes training images alone, and every.evaluate asks for test images",
                          "set every.evaluate to null")

    def _stage_problems(self) -> Iterator[Mistake]:
        for number, stage in enumerate(self.stages):
            here = f"stages.{number}"
            resize = stage.resize or self.data.resize
            if resize is not None and resize < min(stage.size):
                yield Mistake(f"{here}.resolution", f"a crop of {min(stage.size)} px is larger than the {resize} px "
                              "that images are resized to", f"raise {here}.resize")
            least = self.smallest_side(stage)
            if min(stage.size) < least:
                levels = f" with {stage.levels} levels, each of which doubles it" if stage.levels else ""
                why = f"discriminator can judge{levels}"
                advice = "a translator.discriminator with fewer layers or scales"
                if least > self.translator.discriminator.smallest_side(stage.levels):
                    why, advice = "windows of translator.weights.ssim have", "set that to 0"
                yield Mistake(f"{here}.resolution", f"{min(stage.size)} px is less than the {least} px that the {why}",
                              f"use more px, or {advice}")
            if stage.images % stage.batch_size:
                rounded = math.ceil(stage.images / stage.batch_size) * stage.batch_size
                yield Mistake(f"{here}.images", f"{stage.images} is no multiple of batch_size {stage.batch_size}",
                              f"use {rounded}")
            if (size := stage.micro_batch or stage.batch_size) < self.translator.least_samples:
                what = "micro_batch" if stage.micro_batch else "batch_size"
                yield Mistake(f"{here}.{what}", f"{size} sample is no batch, which batch norm without an area and a "
                              "discriminator that compares samples need",
                              f"use {self.translator.least_samples} or more")
            if stage.micro_batch is not None and stage.batch_size % stage.micro_batch:
                yield Mistake(f"{here}.micro_batch", f"{stage.micro_batch} does not divide batch_size "
                              f"{stage.batch_size}")
            before = self.stages[number - 1].levels if number else None
            if stage.hold_statistics and not self.translator.generator.has_batch_norm:
                yield Mistake(f"{here}.hold_statistics", "translator.generator has no batch norm", "leave it out")
            elif stage.hold_statistics and before is None and self.start is None:
                yield Mistake(f"{here}.hold_statistics", "no statistics have been counted before the first stage",
                              "set it in a later one")
            elif stage.hold_statistics and (stage.fade if before is None else stage.levels > before):
                yield Mistake(f"{here}.hold_statistics", "no statistics of the level that this stage adds have been "
                              "counted", "set it in a later one, of as many levels")

    def _evaluation_problems(self) -> Iterator[Mistake]:
        if self.evaluate.patience is not None and self.every.evaluate is None:
            yield Mistake("evaluate.patience", "counts evaluations, and every.evaluate is null",
                          "set that to a number or auto")

    @property
    def complete_from(self) -> int:
        """Images after which the networks have all the levels they will have; until then test images at their full
        size are no measure of them."""
        return sum(stage.images for stage in self.stages if stage.levels < self.stages[-1].levels)

    def smallest_side(self, stage: Stage) -> int:
        """Return the smallest side, in px, that the discriminator can judge in a stage, and that losses can compare."""
        return max(self.translator.discriminator.smallest_side(stage.levels), self.translator.least_side)

    def fitting(self, stage: Stage) -> Fitting:
        """Return how a stage fits images to a size."""
        return Fitting(stage.resize or self.data.resize, stage.size)

    def memory_of(self, stage: Stage) -> MemoryConfig | None:
        """Return the memory plan that is named for a stage; None: one that fits is chosen."""
        named = stage.memory or self.memory
        return None if named == "auto" else named

    @property
    def needs_test_images(self) -> bool:
        """Whether a training is refused where there is nothing to score on; else it says so, and goes on."""
        return self.every.evaluate is not None and (self.every.evaluate != "auto" or self.evaluate.metric != "auto"
                                                    or self.evaluate.patience is not None)

    def with_consistency(self, task: Path, seed: int, images_a: Path | None = None) -> Recipe:
        """Return what `translate adapt make` trains: the translator from `seed`.

        Where there is `adapt.semantic`, it has the loss that asks the network in the folder `task`. `images_a` is the
        folder of other images of A (`adapt.match`). Raises `DataError` where those of B are not there.
        """
        document = self.dump() | {"adapt": None, "seed": seed}
        if images_a is not None:
            document["data"] = self.data.with_images_a(images_a, data_root()).model_dump(mode="json")
        if self.adapt is not None and self.adapt.semantic is not None:
            document["translator"]["semantic"] = self.adapt.semantic.model_dump() | {"task": str(task)}
        return validate(Recipe, document, self.name)

    def with_first(self, first: Side) -> Recipe:
        """Return the same recipe with `first` as the side that is trained first in a step."""
        pace = self.translator.pace.model_copy(update={"first": first})
        return self.model_copy(update={"translator": self.translator.model_copy(update={"pace": pace})})

    @property
    def num_images(self) -> int:
        """How many images the whole training sees."""
        return sum(stage.images for stage in self.stages)

    def dump(self) -> dict[str, Any]:
        """Return the plain document this recipe would be read from, with every default spelled out."""
        return self.model_dump(mode="json")

    def dump_yaml(self) -> str:
        """Return the same as YAML text."""
        return write_yaml(self.dump())
