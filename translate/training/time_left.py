"""How long a training will still take: as predicted, times how much longer than predicted it has taken so far.

The mean speed so far says little where stages differ in size: the last one often takes most of the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from translate.evaluation.prices import PIXELS, Prices
from translate.evaluation.schedule import PIXEL_SCORED, Schedule
from translate.recipe import Recipe
from translate.training.hours import Pace

STEPS_OF_BEFORE = 5  # the steps of a stage that count for as much as what the stage before it has shown


class TimeLeft:
    """The seconds that are left of a training: of its steps, and of the evaluations of held-out images that follow."""

    def __init__(self, recipe: Recipe, schedule: Schedule | None):
        """`schedule` is that of the evaluations; None: there are none."""
        self.recipe, self.schedule = recipe, schedule
        self._stage, self._paces = 0, dict[int, Pace]()
        self._before: float | None = None  # measured by predicted time of the stages before
        self._measured = self._predicted = 0.0  # seconds of this stage's steps, but the first
        self._last: tuple[float, int] | None = None  # when a step ended, and how many images the stage had seen
        self._scored = 0.0  # seconds of all evaluations that are counted
        self._scoring_since: tuple[float, int] | None = None  # when an evaluation began that is not counted, its stage
        self._prices = PIXELS
        self._ratio: float | None = None  # seconds of the last evaluation, by what it was to take by these prices
        self._looked = set[int]()  # sizes (`Schedule.alike`) at which this process has scored
        self._went_back = False  # and the stage that it led to has not begun

    def begin_stage(self, number: int, paces: Sequence[Pace]) -> None:
        """Begin stage `number`, or go on with it; `paces` are predicted, of it and of those that follow."""
        self._before, self._stage = self.factor, number
        self._paces = dict(enumerate(paces, number))
        self._measured = self._predicted = 0.0
        self._last, self._went_back = None, False

    def expect(self, prices: Callable[[], Prices | None]) -> None:
        """Take evaluations to take what `prices` returns, until one has been measured; None: that is not known."""
        if self._ratio is None:
            self._prices = prices() or PIXELS

    def went_back(self) -> None:
        """Tell of no time left until the stage begins to which the training went back."""
        self._last, self._went_back = None, True

    def clock(self) -> float:
        """Return the time in seconds of a clock that stands still while an evaluation is counted: that of the steps."""
        return (time.monotonic() if self._scoring_since is None else self._scoring_since[0]) - self._scored

    def scoring_began(self, stage: int) -> None:
        """Count the time from here on as that of an evaluation, with all that is done because of it."""
        self._scoring_since = time.monotonic(), stage

    def scoring_ended(self, failed: bool = False) -> None:
        """Count the evaluation that began, if one did. One that `failed` says nothing of what others will take."""
        if self._scoring_since is None:
            return
        (then, stage), self._scoring_since = self._scoring_since, None
        seconds = time.monotonic() - then
        self._scored += seconds
        if failed or self.schedule is None:
            return
        size = self.schedule.alike[stage]
        num_once = self.schedule.num_once * (size not in self._looked)
        self._looked.add(size)
        self._ratio = seconds / self._prices.seconds(self.schedule.areas[stage], self.schedule.num_sources, num_once)

    def advanced(self, stage_images: int) -> None:
        """Count a step, after which the stage has seen so many images, and an evaluation that it led to.

        The first step is not counted: it starts up much.
        """
        self.scoring_ended()
        now = self.clock()
        if self._last is not None:
            then, images = self._last
            self._measured += now - then
            self._predicted += (stage_images - images) * self._paces[self._stage].seconds
        self._last = now, stage_images

    @property
    def factor(self) -> float | None:
        """Return how many times as long as predicted steps take; None before there are any."""
        measured, predicted = self._measured, self._predicted
        if self._before is not None:
            stage = self.recipe.stages[self._stage]
            weight = STEPS_OF_BEFORE * stage.batch_size * self._paces[self._stage].seconds
            measured, predicted = measured + self._before * weight, predicted + weight
        return measured / predicted if predicted > 0 else None

    def seconds(self, images: int, stage_images: int) -> float | None:
        """Return the seconds left after `images` of the run, `stage_images` of the stage; None: nothing is known yet.
        """
        factor = self.factor
        if factor is None or self._went_back:
            return None
        steps = sum(self.recipe.stages[number].images * pace.seconds for number, pace in self._paces.items())
        steps -= stage_images * self._paces[self._stage].seconds
        return factor * steps + self._scoring_ahead(images, factor)

    def _scoring_ahead(self, images: int, factor: float) -> float:
        """Return the seconds of the evaluations that follow: by the last one; before there is one, as expected.

        Where nothing is known of them, by the steps.
        """
        if self.schedule is None:
            return 0.0
        total = 0.0
        for number, num_translated, num_once in self.schedule.ahead(self.recipe, images, self._looked):
            ratio = self._ratio or 1.0
            if self._ratio is None and self._prices is PIXELS:
                step_pixel = self._paces[number].step_seconds / math.prod(self.recipe.stages[number].size)
                ratio = factor * PIXEL_SCORED * step_pixel
            total += ratio * self._prices.seconds(self.schedule.areas[number], num_translated, num_once)
        return total
