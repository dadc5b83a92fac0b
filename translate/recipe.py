"""Recipes: one YAML file says everything about a training, and every mistake in it is named at once.

The reader refuses what YAML allows and a person never means: duplicate keys, aliases, tags. Fields are overridden from
the command line as `stages.0.images=2000`.
"""

from __future__ import annotations

import copy
import difflib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic
import yaml
from pydantic import Field

from translate.data import DataConfig
from translate.data.labelled_layouts import LabelledLayout
from translate.data.scale import Fitting
from translate.data.transforms import Augmentation
from translate.errors import Mistake, RecipeError
from translate.mistakes import Mistakes, as_written, shown
from translate.networks.growing import level_problems
from translate.networks.memory import AutoMemory, MemoryConfig
from translate.networks.tasks import TaskNetworkConfig
from translate.optimizers import Constant, Optimizers, Schedule
from translate.places import shipped_recipes
from translate.schema import Config, Name, Size, read_document, read_yaml, validate
from translate.translators import TranslatorConfig
from translate.translators.stabilisers import Side

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Stage(Config):
    """A stretch of the training at one resolution. One image is one (a, b) sample."""

    resolution: Size = 256  # px: a square, or [height, width]
    images: int = Field(ge=1, le=10**12)
    batch_size: int = Field(1, ge=1, le=1_000_000)  # global: over all processes and micro-batches
    micro_batch: int | None = Field(None, ge=1, le=1_000_000)  # samples a process holds at once; null: all of its share
    # short side to load at in this stage; null: as `data.resize` says
    resize: int | None = Field(None, ge=1, le=100_000)
    lr: Schedule = Constant()  # {kind: constant, factor: 0.5}: half of the optimizers'
    # number of added levels; each doubles the resolution (docs/high-resolution.md). As in the stage before, or one more
    levels: int = Field(0, ge=0, le=8)
    fade: bool = False  # the newest level fades in over this stage's images; what it replaces is gone in the next
    # true: of the generators the newest level is trained alone in this stage; trunk: all but their trunk is
    freeze: bool | Literal["trunk"] = False
    memory: AutoMemory | None = None  # null: the recipe's

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution, self.resolution)

    @property
    def level(self) -> str:
        """The newest level, and what is frozen, in words with commas before them; nothing where there is none."""
        how = f"{' fading in' * self.fade}{' alone' * (self.freeze is True)}"
        return f", level {self.levels}{how}" * (self.levels > 0) + ", the trunk frozen" * (self.freeze == "trunk")


class Cadence(Config):
    """How often, in images."""

    log: int = Field(100, ge=1, le=10**12)
    probe: int = Field(200, ge=1, le=10**12)  # a look at what the generators make of a few held-out images, in numbers
    sample: int | None = Field(2_000, ge=1, le=10**12)  # a grid of pictures; null: only at the end
    checkpoint: int = Field(10_000, ge=1, le=10**12)
    evaluate: int | Literal["auto"] | None = "auto"  # held-out scores; auto: as often as 5 % of the time allows, where
    # there is a test set; null: never

    @pydantic.field_validator("evaluate")
    @classmethod
    def _at_least_one(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and not 1 <= value <= 10**12:
            raise ValueError(f"{value} is not a number of images; use 1 to 1,000,000,000,000, auto or null")
        return value


class Evaluation(Config):
    """What held-out scores decide: which checkpoint is the best, and whether it is time to stop."""

    # auto: SSIM where the truth of test images is known, else the kernel distance to real ones
    metric: Literal["auto", "psnr", "ssim", "ms_ssim", "l1", "gradient_error", "kernel_distance"] = "auto"
    images: int = Field(64, ge=2, le=10**12)  # most test images that are scored, evenly spread: enough for a curve
    # evaluations without a better one after which the training ends, and its release is the best; null: never
    patience: int | None = Field(None, ge=1, le=10**12)


class Downstream(Config):
    """How a task network is trained: every one of a table alike, whatever it is trained on."""

    network: TaskNetworkConfig
    resolution: Size = 256  # px: crops, a square or [height, width]
    resize: int | None = Field(None, ge=1, le=100_000)  # short side to load at; null keeps the size
    images: int = Field(100_000, ge=1, le=10**12)  # seen in training, over all epochs
    batch_size: int = Field(8, ge=1, le=1_000_000)
    lr: float = Field(1e-3, gt=0, le=1e9)  # of AdamW; falls to 0 along a cosine
    weight_decay: float = Field(1e-2, ge=0, le=1e9)
    augment: tuple[Augmentation, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution, self.resolution)


class SemanticWeights(Config):
    """The consistency loss that `translate adapt make` adds to a CycleGAN, with a network that it trains first."""

    weight: float = Field(1.0, ge=0, le=1e9)  # of A → B
    # of B → A; 1 in the paper, for a network that is right about most images of B
    back: float = Field(0.0, ge=0, le=1e9)


class Adaptation(Config):
    """Domain adaptation: labelled images of A become labelled images that look like B, and are put to the test."""

    source: LabelledLayout  # labelled images of A
    target: LabelledLayout  # images of B: test labels for the table, training labels for its oracle
    task: Downstream
    semantic: SemanticWeights | None = SemanticWeights()  # null: without; only CycleGANs have it
    variants: int = Field(1, ge=1, le=1000)  # translators to train, from as many seeds; each makes a set
    reject: float | None = Field(None, gt=0, lt=1)  # leave out images of which a larger share changes; null: none
    seeds: int = Field(5, ge=1, le=1000)  # of downstream trainings; seed i takes set i modulo `variants`

    @pydantic.model_validator(mode="after")
    def _one_task(self) -> Adaptation:
        if self.source.per_pixel != self.target.per_pixel:
            raise ValueError("source and target: one has label maps and the other a class for each image")
        if self.source.num_classes != self.target.num_classes:
            raise ValueError(f"source and target: {self.source.num_classes} and {self.target.num_classes} classes; "
                             "they need the same")
        if self.task.network.per_pixel != self.source.per_pixel:
            raise ValueError(f"task.network: {self.task.network.kind} names "
                             f"{'every pixel' if self.task.network.per_pixel else 'the image as a whole'}, and the "
                             f"labels of {self.source.kind} do not")
        return self


Sign = Literal["not_finite", "constant", "saturated", "copy", "lost", "blind", "won", "fooled", "vanished", "exploded"]


class GuardConfig(Config):
    """What is done about a training that is lost; docs/training.md tells the signs. Judged at every `every.probe`."""

    # images that a sign must last; smaller: earlier, but more false alarms
    patience: int = Field(2_000, ge=1, le=10**12)
    # steps in a row that may be left out because their numbers are not finite
    skips: int = Field(10, ge=0, le=1_000_000)
    # returns to the newest healthy checkpoint, each with other data, before the run is given up; 0: at the first sign
    rollbacks: int = Field(3, ge=0, le=1000)
    ignore: tuple[Sign, ...] = ()  # signs that mean nothing here


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
    workers: int = Field(2, ge=0, le=256)  # processes that load images; the data stream does not depend on it
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    adapt: Adaptation | None = None  # for `translate adapt`

    may_change: ClassVar[tuple[str, ...]] = ("every", "evaluate", "guard", "keep_checkpoints", "workers", "trackers",
                                             "memory", "adapt")

    @pydantic.model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        problems = [*self.translator.problems(self.data), *self._adaptation_problems(), *self._stage_problems(),
                    *self._level_problems(), *self._evaluation_problems()]
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
                yield Mistake(f"{here}.resolution", f"{min(stage.size)} px is less than the {least} px that the "
                              f"discriminator can judge{levels}",
                              "use more px, or a translator.discriminator with fewer layers or scales")
            if stage.images % stage.batch_size:
                rounded = math.ceil(stage.images / stage.batch_size) * stage.batch_size
                yield Mistake(f"{here}.images", f"{stage.images} is no multiple of batch_size {stage.batch_size}",
                              f"use {rounded}")
            if stage.micro_batch is not None and stage.batch_size % stage.micro_batch:
                yield Mistake(f"{here}.micro_batch", f"{stage.micro_batch} does not divide batch_size "
                              f"{stage.batch_size}")

    def _level_problems(self) -> Iterator[Mistake]:
        if self.translator.grows:
            yield from self.translator.generator.level_problems(self.stages, begun=self.start is not None)
        else:
            yield from level_problems(self.stages, unable=f"translator.kind: {self.translator.kind}")

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
        """Return the smallest side, in px, that the discriminator can judge in a stage."""
        return self.translator.discriminator.smallest_side(stage.levels)

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

    def with_consistency(self, task: Path, seed: int) -> Recipe:
        """Return what `translate adapt make` trains: the translator from `seed`.

        Where there is `adapt.semantic`, it has the loss that asks the network in the folder `task`.
        """
        document = self.dump() | {"adapt": None, "seed": seed}
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
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply `a.b=c` overrides, validate. Raises `RecipeError` with all mistakes."""
    document = read_document(path, "" if path.exists() else _shipped_advice(path.stem))
    written = copy.deepcopy(document)
    for override in overrides:
        apply_override(document, override)
    paths = [override.partition("=")[0] for override in overrides]
    return validate(Recipe, document, lambda where: _source(where, path, written, paths))


def _source(where: str, file: Path, written: dict[str, Any], overrides: Sequence[str]) -> str:
    """Return what to edit for a mistake at `where`: the file, or an override of that field or of one around it.

    Name both if an override changed part of the field, or which kind of thing it is.
    """
    around = [path for path in overrides if f"{where}.".startswith(f"{path}.")]
    inside = [path for path in overrides if path.startswith(f"{where}.")
              or (path.endswith(".kind") and where.startswith(path.removesuffix("kind")))]
    if around or (inside and not _holds(written, where)):
        return f"--set {(around or inside)[-1]}"
    return f"{file} with --set {inside[-1]}" if inside else str(file)


def _holds(document: Any, where: str) -> bool:
    for step in where.split("."):
        if isinstance(document, list) and step.isdigit() and int(step) < len(document):
            document = document[int(step)]
        elif isinstance(document, dict) and step in document:
            document = document[step]
        else:
            return False
    return True


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given as a path or by the name of a shipped one. Raises `RecipeError`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    shipped = {path.stem: path for path in shipped_recipes()}
    if name in shipped:
        return shipped[name]
    if path.exists():
        what = "a folder" if path.is_dir() else "no recipe"
        raise RecipeError(Mistake(name, f"is {what}", "a recipe is a YAML file (.yaml, .yml), or the name of a shipped "
                                              "one"))
    raise RecipeError(Mistake(name, "no such file or folder, and no shipped recipe", _shipped_advice(path.name)))


def _shipped_advice(name: str) -> str:
    names = [path.stem for path in shipped_recipes()]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return (f"did you mean {', '.join(close)}? " if close else "") + "`translate recipes` lists what is shipped"


def describe(path: Path) -> str:
    """Return what a recipe is for: its first comment line."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ").rstrip(".")


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Yield `path: old → new` for every field in which two recipe documents differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{where}.{number}")
    elif old != new:
        yield f"{where}: {as_written(old)} → {as_written(new)}"


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set `a.b.0.c=value` in a plain document; the value is read as YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(Mistake(f"--set {override}", "expected field.path=value, such as stages.0.images=2000"))
    value = read_yaml(text, f"--set {path}")

    # Down the path, through mappings and lists. What is not there yet begins as an empty mapping.
    place: Any = document
    *parents, last = path.split(".")
    for depth, step in enumerate([*parents, last]):
        where = ".".join([*parents, last][: depth + 1])
        if isinstance(place, list):
            if not step.isdigit() or int(step) >= len(place):
                raise RecipeError(Mistake(where, f"there are {len(place)} entries, numbered from 0",
                                          source=f"--set {override}"))
            index: Any = int(step)
        elif isinstance(place, dict):
            index = step
        else:
            raise RecipeError(Mistake(where, f"{shown(place)} has no fields", source=f"--set {override}"))
        if depth == len(parents):
            place[index] = value
            return
        if isinstance(place, dict) and not isinstance(place.get(index), dict | list):
            place[index] = {}
        place = place[index]


def default_run(recipe: Recipe) -> Path:
    """Return where a run goes when nobody says: `runs/<name>`, or below `DIPTYCH_RUNS`."""
    return Path(os.environ.get("DIPTYCH_RUNS", "runs")) / recipe.name


def default_adaptation(recipe: Recipe) -> Path:
    """Return where an adaptation goes when nobody says: beside the runs, `<name>-adapt`."""
    return default_run(recipe).with_name(f"{recipe.name}-adapt")
