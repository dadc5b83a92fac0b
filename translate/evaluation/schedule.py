"""When a training scores its held-out images, and how many pixels are looked at for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from translate.images.resampling import HeightWidth
from translate.recipe import Recipe

MAX_EVALUATIONS = 100  # of a run whose cadence is auto
PIXELS_TRAINED_PER_PIXEL_EVALUATED = 20  # of such a run, so that evaluations take far less than 5 % of the time
# Scoring a pixel is one network forward and the features of the scores, and takes such a part of what a step takes for
# one: a CycleGAN of width 8 at 64 px a tenth; of a wider network less.
PIXEL_SCORED = 0.1


@dataclass(frozen=True)
class Schedule:
    """The evaluations of a training.

    cadence  training images between two of them
    share    of the time of the training that they take together, about
    pixels   that one of them looks at, by stage
    once     how many more the first one of a stage looks at: real images, and sources as they are
    """

    cadence: int
    share: float
    pixels: tuple[float, ...]
    once: tuple[float, ...]

    @classmethod
    def of(cls, recipe: Recipe, shapes: Sequence[HeightWidth], num_sources: int, num_once: int) -> Schedule:
        """Plan the evaluations of a recipe.

        shapes       the own sizes of the sources, px
        num_sources  how many are translated
        num_once     how many images are looked at once for each size that they are shown in
        """
        own = next(iter(shapes), (1, 1))  # of files that do not say it, whoever scores them will
        fittings = [recipe.fitting(stage) for stage in recipe.stages]
        areas = [math.prod(fitting.shape_of(own)) + math.prod(own) * fitting.rescales(shapes) for fitting in fittings]

        # A pixel of the run's mean evaluation beside one of its mean step.
        shares = [stage.images / recipe.num_images for stage in recipe.stages]
        evaluated = num_sources * sum(share * area for share, area in zip(shares, areas, strict=True))
        trained = sum(share * math.prod(stage.size) for share, stage in zip(shares, recipe.stages, strict=True))
        auto = math.ceil(max(PIXELS_TRAINED_PER_PIXEL_EVALUATED * evaluated / trained,
                             recipe.num_images / MAX_EVALUATIONS))
        cadence = recipe.every.evaluate if isinstance(recipe.every.evaluate, int) else auto
        share = PIXEL_SCORED * math.ceil(recipe.num_images / cadence) * evaluated / (trained * recipe.num_images)
        is_new = [fitting not in fittings[:number] for number, fitting in enumerate(fittings)]
        return cls(cadence, share, tuple(num_sources * area for area in areas),
                   tuple(num_once * area * new for area, new in zip(areas, is_new, strict=True)))

    def ahead(self, recipe: Recipe, done: int) -> Iterator[tuple[int, float]]:
        """Yield the stage and the pixels of each evaluation that follows after `done` images of the run."""
        begin = 0
        for number, stage in enumerate(recipe.stages):
            end = begin + stage.images
            seen = max(done, begin)
            num = max(end // self.cadence - seen // self.cadence, 0)
            if end == recipe.num_images and end % self.cadence and done < end:
                num += 1
            if num:
                had_one = seen // self.cadence > begin // self.cadence
                yield number, num * self.pixels[number] + self.once[number] * (not had_one)
            begin = end
