"""When a training scores its held-out images, and how many pixels are looked at for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from translate.images.resampling import HeightWidth
from translate.recipe import Recipe

MAX_EVALUATIONS = 100  # of a run whose cadence is auto
# Of such a run: evaluations take 5 % of the time where a pixel takes as long in them as in a step, usually far less.
PIXELS_TRAINED_PER_PIXEL_EVALUATED = 20
# How long scoring takes for a pixel, as a share of what a step takes for one: for plans, before there is a network. Of
# one it is measured (`translate.evaluation.prices`), as no share is right: 0.035 to 0.06 of CycleGANs (ResNets of width
# 8 to 32), 0.09 to 0.38 of pix2pix (U-Nets of width 16 to 64), of images of 600×800 px with and without a truth
# (tools/evaluation_cost.py --networks; fp32, one thread of an AMD EPYC, torch 2.14.1, 2026-12-01).
PIXEL_SCORED = 0.1


@dataclass(frozen=True)
class Schedule:
    """The evaluations of a training.

    cadence      training images between two of them
    share        of the time of the training that they take together, about
    areas        by stage, the areas in px² of the sizes that an image is scored in
    num_sources  images that one of them translates
    num_once     that a process looks at besides, in its first one at the stage's size: real images, and sources as
                 they are
    alike        by stage, the first stage that shows images at the same size
    """

    cadence: int
    share: float
    areas: tuple[tuple[float, ...], ...]
    num_sources: int
    num_once: int
    alike: tuple[int, ...]

    @classmethod
    def of(cls, recipe: Recipe, shapes: Sequence[HeightWidth], num_sources: int, num_once: int) -> Schedule:
        """Plan the evaluations of a recipe.

        shapes       the own sizes of the sources, px
        num_sources  how many are translated
        num_once     how many images are looked at once for each size that they are shown in
        """
        own = next(iter(shapes), (1, 1))  # of files that do not say it, whoever scores them will
        fittings = [recipe.fitting(stage) for stage in recipe.stages]
        sizes = [(fitting.shape_of(own), *([own] if fitting.rescales(shapes) else [])) for fitting in fittings]
        areas = [tuple(float(math.prod(size)) for size in each) for each in sizes]

        # A pixel of the run's mean evaluation beside one of its mean step.
        shares = [stage.images / recipe.num_images for stage in recipe.stages]
        evaluated = num_sources * sum(share * sum(each) for share, each in zip(shares, areas, strict=True))
        trained = sum(share * math.prod(stage.size) for share, stage in zip(shares, recipe.stages, strict=True))
        auto = math.ceil(max(PIXELS_TRAINED_PER_PIXEL_EVALUATED * evaluated / trained,
                             recipe.num_images / MAX_EVALUATIONS))
        cadence = recipe.every.evaluate if isinstance(recipe.every.evaluate, int) else auto
        scored = sum(num * num_sources * sum(areas[number]) for number, num in _numbers_ahead(recipe, cadence, 0))
        return cls(cadence, PIXEL_SCORED * scored / (trained * recipe.num_images), tuple(areas), num_sources, num_once,
                   tuple(fittings.index(fitting) for fitting in fittings))

    def in_words(self, num_images: int) -> str:
        """Return when images are scored in a training of so many."""
        return "at the end" + f" and every {self.cadence:,} images" * (self.cadence < num_images)

    def ahead(self, recipe: Recipe, done: int, looked: Collection[int] = ()) -> Iterator[tuple[int, int, int]]:
        """Yield each stage that is scored after `done` images of the run, and how many images are looked at for it.

        These are images that are translated, and such that are looked at once.
        `looked`: the sizes (of `alike`) at which this process has looked at what is looked at once.
        """
        known = set(looked)
        for number, num in _numbers_ahead(recipe, self.cadence, done):
            is_first = self.alike[number] not in known
            known.add(self.alike[number])
            yield number, num * self.num_sources, self.num_once * is_first


def _numbers_ahead(recipe: Recipe, cadence: int, done: int) -> Iterator[tuple[int, int]]:
    """Yield each stage that is scored after `done` images of the run, and how often: at most once a step."""
    begin = 0
    for number, stage in enumerate(recipe.stages):
        end = begin + stage.images
        seen = min(max(done, begin), end)
        if stage.batch_size >= cadence:
            num = (end - seen) // stage.batch_size
        else:
            num = end // cadence - seen // cadence
            num += end == recipe.num_images and end % cadence > 0 and seen < end
        if num:
            yield number, num
        begin = end
