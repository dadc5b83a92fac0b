"""A run or release that draws images from noise: sample `number` of a seed is always the same image.

Its latent is a function of seed and number (`translate.translators.from_noise`), and images are computed one at a
time: the fastest way to multiply matrices depends on the size of a batch, and rounds otherwise. So the bits of an image
do not depend on how many are drawn, by how many processes, or in which order.
"""

from __future__ import annotations

import csv
import functools
import operator
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from translate.data.conditioned import one_hot
from translate.errors import DataError, UsageError, visible
from translate.networks.latent.latents import Distribution
from translate.places import data_root
from translate.precision import autocast, choose_device, choose_precision
from translate.recipe import Recipe
from translate.runs.folder import load_saved
from translate.runs.release import Release, find_weights, load_generator
from translate.translators.from_noise import FromNoiseConfig

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Sampler:
    """A generator from noise, on its device. `classes` are the names of what it draws, none where it knows none."""

    def __init__(self, release: Release, recipe: Recipe, device: str = "auto", precision: Precision = "auto"):
        """Raises `UsageError` for a device or format that is not there."""
        self.release, self.recipe = release, recipe
        self.config = cast(FromNoiseConfig, recipe.translator)
        self.device = choose_device(device)
        if precision == "auto" and release.image_out.bits != 8:
            precision = "fp32"
        self.precision = choose_precision(precision, self.device)
        self.generator = release.generator.to(self.device)
        self.num_classes = recipe.data.num_classes if self.config.sees_conditions else 0
        self.vector_size = recipe.data.vector_size if self.config.sees_conditions else 0

    @classmethod
    def load(cls, path: Path, device: str = "auto", precision: Precision = "auto") -> Sampler:
        """Read a run, `RUN/best` or a release. Raises `UsageError` for one that translates images, too."""
        recipe = load_saved(find_weights(path).folder)
        if recipe.translator.needs_sources:
            raise UsageError("translates images and draws none from noise", path,
                             f"use: translate convert IN OUT --model {shlex.quote(visible(path))}")
        return cls(load_generator(path), recipe, device, precision)

    @property
    def num_values(self) -> int:
        """How many values the first categorical code has, whose one-hot form codes begin with; 0: there is none."""
        return self.config.num_values

    @property
    def distribution(self) -> Distribution:
        """What its latents are drawn from."""
        return self.config.generator.distribution

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """What its classes are called: numbers where only its data say it, and they are not here."""
        if not self.num_classes:
            return ()
        try:
            return self.recipe.data.class_names(data_root())
        except DataError:
            return tuple(map(str, range(self.num_classes)))

    def classes_of(self, words: str | None) -> list[int]:
        """Return the numbers of classes as a command line gives them, "3,7" or "cat,dog"; of none, all of them.

        A word is a class's name, else its number; a name with a comma in it stands in double quotes. Raises
        `UsageError` for a class that is none, and for a model without classes.
        """
        if words is None:
            return self.numbers_of(range(self.num_classes))
        names = set(self.class_names)
        parts = [part.strip() for part in next(csv.reader([words], skipinitialspace=True), [""])]
        return self.numbers_of([int(part) if part not in names and part.isascii() and part.isdigit() and len(part) < 9
                                else part for part in parts], "--classes")

    def numbers_of(self, classes: Iterable[int | str], what: str = "classes") -> list[int]:
        """Return the numbers of classes, each by its number or its name. Raises `UsageError` as `classes_of`."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        found = []
        for each in classes:
            if not self.num_classes:
                raise UsageError(f"{what} {each}: this model draws images under no class", self.release.name)
            number = numbers.get(each) if isinstance(each, str) else operator.index(each)
            if number is None or not 0 <= number < self.num_classes:
                some = ", ".join(self.class_names[:20]) + ", …" * (self.num_classes > 20)
                raise UsageError(f"{what}: {each!r} is none of its {self.num_classes} classes, {some}",
                                 self.release.name)
            found.append(number)
        return found

    def condition(self, number: int | None, vector: Tensor | None = None) -> Tensor:
        """Return what an image of class `number` beside a `vector` (vector_size,) is drawn under, (channels_a, 1, 1).

        Raises `UsageError` where the model needs a vector and there is none, or of another size.
        """
        parts = [one_hot(number or 0, self.num_classes)] if self.num_classes else []
        if self.vector_size:
            if vector is None or vector.shape != (self.vector_size,):
                had = "there is none" if vector is None else f"this one has {vector.numel()}"
                raise UsageError(f"draws each image beside a vector of {self.vector_size} numbers, and {had}",
                                 self.release.name, "give them by --vectors FILE.npz (docs/sampling.md)")
            parts.append(vector.float()[:, None, None])
        return torch.cat(parts) if parts else torch.zeros(0, 1, 1)

    def latents(self, numbers: Sequence[int], seed: int, truncation: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the latents (N, D) and codes (N, K) of samples by their numbers. Raises `UsageError`."""
        if truncation is not None and not 0 < truncation <= 1e6:
            raise UsageError(f"--truncation {truncation}: expected a number above 0, such as 0.7")
        return self.config.draw(numbers, seed, truncation)

    @torch.no_grad()
    def images(self, latents: Tensor, codes: Tensor, conditions: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the image (C, H, W) of each latent, float32 in [-1, 1] on the CPU.

        latents, codes   (N, D) and (N, K), as `latents` gives them
        conditions       what each is drawn under, (channels_a, 1, 1)
        """
        for latent, code, condition in zip(latents, codes, conditions, strict=True):
            given = self.config.joined(latent[None], code[None], condition[None])
            with autocast(self.device, self.precision):
                image = self.generator(given.to(self.device))
            yield image[0].float().clamp(-1, 1).cpu()

    def sample(self, numbers: Sequence[int], seed: int = 0, classes: Sequence[int | None] | None = None,
               truncation: float | None = None, vectors: Sequence[Tensor] | None = None) -> Iterator[Tensor]:
        """Yield samples by their numbers, (C, H, W) float32 in [-1, 1] on the CPU.

        classes      the class of each; None: sample i is of class i modulo their number
        truncation   ψ; None: latents as they were in training
        vectors      the vector beside each, for a model that needs them
        """
        if classes is None:
            classes = [number % self.num_classes if self.num_classes else None for number in numbers]
        beside: Sequence[Tensor | None] = vectors or [None] * len(numbers)
        conditions = [self.condition(*each) for each in zip(classes, beside, strict=True)]
        yield from self.images(*self.latents(numbers, seed, truncation), conditions)
