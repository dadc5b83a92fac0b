"""What is to be drawn, image by image. Each is planned when it is its turn: a million of them take no memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from translate.data.conditioned import ConditionedSamples, read_vectors
from translate.errors import UsageError
from translate.places import data_root
from translate.sampling.latents import between, parse_sum, where_latents_lie
from translate.sampling.output_folder import class_folders
from translate.sampling.sampler import Sampler

DEFAULT_NUM, DEFAULT_ROWS = 64, 8  # images, or rows of a grid's columns and of ways from one sample to another
MOST_IMAGES = 10_000_000
MOST_ON_SHEET = 400
NOTHING_LEFT = 1e-5  # of the length of a latent: sums that are shorter are rounding


@dataclass(frozen=True)
class Wanted:
    """What is to be drawn.

    num           images; with `grid` latents, with `interpolate` ways; None: 64 or 8 of them
    classes       names or numbers, "0,1,2", those with a comma in quotes; None: all. Sample i is of the i-th of them,
                  and so on from the first again
    truncation    ψ; None: latents as they were in training
    grid          each latent under each class; of a model without classes, under each value of its first code
    interpolate   images from one sample to the next, both included: from 0 to 1, from 2 to 3, …
    arithmetic    a sum of samples by their numbers, "7,12,3 - 5,9 + 1"
    vectors       a vectors.npz for a model that draws beside vectors; None: those of its data's test images, each
                  with its image's class
    """

    num: int | None = None
    seed: int = 0
    classes: str | None = None
    truncation: float | None = None
    grid: bool = False
    interpolate: int | None = None
    arithmetic: str | None = None
    vectors: Path | None = None


class Cell(NamedTuple):
    """What an image is drawn from and under: latent (D,), code (K,), condition (channels_a, 1, 1)."""

    latent: Tensor
    code: Tensor
    condition: Tensor


@dataclass(frozen=True)
class DrawPlan:
    """Images by their numbers, 0 … num − 1.

    name      what the file of one is called, without suffix; below the folder of all
    cell      what it is drawn from and under
    row       of the sheet that it stands in
    repeats   those whose file an earlier one is as well
    """

    num: int
    name: Callable[[int], str]
    cell: Callable[[int], Cell]
    row: Callable[[int], int]
    repeats: frozenset[int] = frozenset()


def planned(sampler: Sampler, wanted: Wanted) -> DrawPlan:
    """Return what is to be drawn.

    Raises `UsageError` for words that do not fit together or the model, `DataError` for vectors that do not.
    """
    ways = [name for name, given in (("--grid", wanted.grid), ("--interpolate", wanted.interpolate is not None),
                                     ("--arithmetic", wanted.arithmetic is not None)) if given]
    if len(ways) > 1:
        raise UsageError(f"{' and '.join(ways)}: one of them at a time")
    num = wanted.num if wanted.num is not None else DEFAULT_ROWS if ways else DEFAULT_NUM
    if not 1 <= num <= MOST_IMAGES:
        raise UsageError(f"--num {num}: expected 1 to {MOST_IMAGES:,}")
    if wanted.num is not None and wanted.arithmetic is not None:
        raise UsageError("--num: --arithmetic says by itself which samples it takes", advice="leave --num out")
    if wanted.interpolate is not None and wanted.interpolate < 2:
        raise UsageError(f"--interpolate {wanted.interpolate}: from one sample to the next are 2 images or more")

    under = _Under(sampler, wanted)
    if wanted.grid and not (under.classes or sampler.num_values):
        raise UsageError("--grid: shows the classes of a model, or the values of its first categorical code, and this "
                         "one has neither", sampler.release.name)
    plan = (_sum(sampler, wanted, under) if wanted.arithmetic is not None
            else _ways(sampler, wanted, num, wanted.interpolate, under) if wanted.interpolate is not None
            else _grid(sampler, wanted, num, under) if wanted.grid else _plain(sampler, wanted, num, under))
    if plan.num > MOST_IMAGES:
        raise UsageError(f"{ways[0]}: {plan.num:,} images in all; expected at most {MOST_IMAGES:,}",
                         advice="give a smaller --num")
    plan.cell(0)  # says what does not fit the model before anything is written
    return plan


class _Under:
    """What samples are drawn under: classes in turn, and vectors in turn.

    Vectors of the model's data stand beside the classes of their images: of a bird that the class is not, a sentence
    would ask for what no training has shown.
    """

    def __init__(self, sampler: Sampler, wanted: Wanted):
        self.sampler = sampler
        self.classes = sampler.classes_of(wanted.classes)
        self.folders = class_folders(sampler.class_names) if self.classes else []
        self.vectors: Tensor | None = None
        self.samples: ConditionedSamples | None = None
        self.of_class: dict[int | None, list[int]] = {}  # the test images of each; under None those of all
        if wanted.vectors is not None and not sampler.vector_size:
            raise UsageError("--vectors: this model draws images beside none", sampler.release.name)
        if wanted.vectors is not None:
            self.vectors = torch.from_numpy(read_vectors(wanted.vectors)[1])
        elif sampler.vector_size:
            self._take_test_images(asked=wanted.grid or wanted.classes is not None)

    def _take_test_images(self, *, asked: bool) -> None:
        """Take the test images of its classes; `asked`: each class must have some."""
        self.samples = cast(ConditionedSamples, self.sampler.recipe.data.build("test", data_root()))
        of_images: Sequence[int | None] = self.samples.classes or [None] * len(self.samples)
        fitting = [index for index, each in enumerate(of_images) if each is None or each in self.classes]
        self.of_class[None] = fitting
        for index in fitting:
            if of_images[index] is not None:
                self.of_class.setdefault(of_images[index], []).append(index)
        without = [self.sampler.class_names[each] for each in self.classes if each not in self.of_class]
        if not fitting or (without and asked):
            raise UsageError(f"has no test images, whose vectors to draw beside, of {', '.join(without[:5]) or 'any'}",
                             self.sampler.release.name, "give --vectors FILE.npz, or other --classes")

    def class_at(self, turn: int) -> int | None:
        """Return the class whose turn it is; of a model without classes none."""
        if not self.classes:
            return None
        if self.samples is not None:
            return self._class_of(self.of_class[None][turn % len(self.of_class[None])])
        return self.classes[turn % len(self.classes)]

    def _class_of(self, index: int) -> int:
        assert self.samples is not None and self.samples.classes is not None
        return self.samples.classes[index]

    def at(self, turn: int, number: int) -> Tensor:
        """Return the condition (channels_a, 1, 1) of the class whose turn it is, beside the vector of a sample."""
        if self.samples is not None:
            return self.samples.condition(self.of_class[None][turn % len(self.of_class[None])])
        return self.sampler.condition(self.class_at(turn), self._vector(number))

    def within(self, number_of_class: int, number: int) -> Tensor:
        """Return the condition of one class, beside the vector of a sample."""
        if self.samples is not None:
            indexes = self.of_class[number_of_class]
            return self.samples.condition(indexes[number % len(indexes)])
        return self.sampler.condition(number_of_class, self._vector(number))

    def _vector(self, number: int) -> Tensor | None:
        return None if self.vectors is None else self.vectors[number % len(self.vectors)]

    def name(self, turn: int, name: str) -> str:
        """Return the name of a file in the folder of the class whose turn it is."""
        number = self.class_at(turn)
        return name if number is None else f"{self.folders[number]}/{name}"


def _plain(sampler: Sampler, wanted: Wanted, num: int, under: _Under) -> DrawPlan:
    """Return samples by their numbers; on the sheet they fill a square."""
    columns = math.ceil(math.sqrt(min(num, MOST_ON_SHEET)))

    def cell(number: int) -> Cell:
        return Cell(*_latent(sampler, wanted, number), under.at(number, number))

    return DrawPlan(num, lambda number: under.name(number, f"{number:08d}"), cell, lambda number: number // columns)


def _grid(sampler: Sampler, wanted: Wanted, num: int, under: _Under) -> DrawPlan:
    """Return a row for each class, or value of the first code, and a column for each latent."""
    values = torch.eye(sampler.num_values)

    def name(number: int) -> str:
        row, column = divmod(number, num)
        folder = under.folders[under.classes[row]] if under.classes else f"value_{row}"
        return f"{folder}/{column:08d}"

    def cell(number: int) -> Cell:
        row, column = divmod(number, num)
        latent, code = _latent(sampler, wanted, column)
        if under.classes:
            return Cell(latent, code, under.within(under.classes[row], column))
        return Cell(latent, torch.cat([values[row], code[len(values):]]), under.at(0, column))

    return DrawPlan(num * (len(under.classes) or len(values)), name, cell, lambda number: number // num)


def _ways(sampler: Sampler, wanted: Wanted, num: int, steps: int, under: _Under) -> DrawPlan:
    """Return `num` ways, each from sample 2k to sample 2k + 1 in `steps` images under one class."""
    def name(number: int) -> str:
        way, step = divmod(number, steps)
        return under.name(way, f"{2 * way:08d}-{2 * way + 1:08d}_{step:03d}")

    def cell(number: int) -> Cell:
        way, step = divmod(number, steps)
        (start, code), (end, _) = (_latent(sampler, wanted, each) for each in (2 * way, 2 * way + 1))
        return Cell(between(start, end, step / (steps - 1), sampler.distribution), code, under.at(way, 2 * way))

    return DrawPlan(num * steps, name, cell, lambda number: number // steps)


def _sum(sampler: Sampler, wanted: Wanted, under: _Under) -> DrawPlan:
    """Return a row for each term of a sum, its samples and their mean, and one for the result.

    All are drawn under one class and code, those of the first sample. Means and sums are brought to where latents lie.
    """
    terms = parse_sum(wanted.arithmetic or "")
    num = sum(len(term.numbers) + 1 for term in terms) + 1
    if num > MOST_ON_SHEET:
        raise UsageError(f"--arithmetic: takes {num} images with its means; expected at most {MOST_ON_SHEET}")
    first = terms[0].numbers[0]
    _, code = _latent(sampler, wanted, first)
    rows: list[list[tuple[str, Tensor]]] = []
    result = torch.zeros(())
    for number, term in enumerate(terms, 1):
        latents = [_latent(sampler, wanted, each)[0] for each in term.numbers]
        mean = torch.stack(latents).mean(0)
        result = result + term.sign * mean
        rows.append([*((f"{each:08d}", latent) for each, latent in zip(term.numbers, latents, strict=True)),
                     (f"mean_{number}", where_latents_lie(mean, sampler.distribution))])
    if result.norm() < NOTHING_LEFT * math.sqrt(len(result)):
        raise UsageError(f"--arithmetic {wanted.arithmetic!r}: its terms take each other away, and nothing is left to "
                         "draw")
    rows.append([("result", where_latents_lie(result, sampler.distribution))])

    # A sample may stand in several rows; its file is one.
    cells = [(row, under.name(first, name), latent) for row, each in enumerate(rows) for name, latent in each]
    names = [name for _, name, _ in cells]
    condition = under.at(first, first)
    return DrawPlan(num, lambda number: names[number], lambda number: Cell(cells[number][2], code, condition),
                lambda number: cells[number][0],
                frozenset(number for number, name in enumerate(names) if names.index(name) < number))


def _latent(sampler: Sampler, wanted: Wanted, number: int) -> tuple[Tensor, Tensor]:
    """Return the latent (D,) and code (K,) of a sample."""
    latents, codes = sampler.latents([number], wanted.seed, wanted.truncation)
    return latents[0], codes[0]
