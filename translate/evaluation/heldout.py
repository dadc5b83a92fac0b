"""The held-out images of a recipe, and how well a translator does on them while it trains.

What one evaluation leaves in `metrics.jsonl`, as a line of `kind: evaluation`:

    images       the number of training images seen so far
    stage        the stage, from 0
    <score>      its value, under the names of `translate.metrics.observations.MEASURES`; null where it is not finite
    intervals    {score: [low, high]}: the 95 % bootstrap interval over the held-out images, where there is one
    num_held_out how many held-out images were translated
    decided_by   the score that says which checkpoint is best; null where none can
    best         {images, metric, value, num_images} of the best checkpoint so far, this one included; null before
    since_best   evaluations since then: 0 where this one is the best
    seconds      how long it took

The best checkpoint lies among the others, `checkpoints/<images>`, and is never rotated away; `status.json` names it as
`best` too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from translate.data import test_pairs
from translate.data.samples import Samples
from translate.errors import DataError, TranslateError
from translate.metrics.features import FeatureNetwork, MobileNet, find_mobilenet
from translate.metrics.intervals import Estimate
from translate.metrics.observations import Observed, observe, summarise
from translate.metrics.reference import MIN_SIDE_MS_SSIM, MIN_SIDE_SSIM
from translate.places import data_root
from translate.precision import Format, autocast
from translate.recipe import Recipe
from translate.translators import Direction, Translator

PIXELS_TRAINED_PER_PIXEL_EVALUATED = 20  # so that evaluations take some 5 % of the time of a training, or less
MOST_EVALUATIONS = 100  # of a run whose cadence is auto
SMALL = 64  # px: how alike outputs are is told from copies of this size while training
# called with the number of a held-out image, its source, its translation, and its truth where that is known
Look = Callable[[int, Tensor, Tensor, Tensor | None], None]
SMALLEST = {"ssim": MIN_SIDE_SSIM, "ms_ssim": MIN_SIDE_MS_SSIM, "gradient_error": 2}  # px a side
NEEDS_TRUTH = ("psnr", "ssim", "ms_ssim", "l1", "gradient_error")


class HeldOut:
    """The test images of a recipe's data, at their full size: at most `most` sources and reals, evenly spread.

    `paired`: real i is the truth of source i. Of unpaired data it is where the test folders pair by name. Raises
    `DataError` where there is no test split.
    """

    def __init__(self, recipe: Recipe, root: Path, direction: Direction = "ab", most: int | None = None):
        samples = recipe.data.build("test", root)
        if not samples.paired:
            with suppress(DataError):  # the folders do not pair: no truth is known
                samples = test_pairs(recipe.data, root).samples
        self.samples: Samples = samples
        self.paired = samples.paired
        self.direction: Direction = direction
        files = (samples.files_a, samples.files_b) if direction == "ab" else (samples.files_b, samples.files_a)
        self.sources, self.reals = (spread(len(side), most) for side in files)

    def source(self, position: int) -> Tensor:
        """What goes into the generator, (C, H, W) in [-1, 1]. Raises `ImageError`."""
        sample = self.samples.whole(self.sources[position])
        return sample.a if self.direction == "ab" else sample.b

    def real(self, position: int) -> Tensor:
        """An image of the side that comes out, (C, H, W) in [-1, 1]. Raises `ImageError`."""
        sample = self.samples.whole(self.reals[position])
        return sample.b if self.direction == "ab" else sample.a

    def pair(self, position: int) -> tuple[Tensor, Tensor | None]:
        """A source and its truth, None where that is not known."""
        if not self.paired:
            return self.source(position), None
        sample = self.samples.whole(self.sources[position])
        return (sample.a, sample.b) if self.direction == "ab" else (sample.b, sample.a)


class Evaluator:
    """Scores a translator A → B on the held-out images; all processes share the work and get the same result."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, precision: Format):
        """Raises `DataError` where there is nothing to score on, or the score that is to decide cannot be had."""
        self.accelerator, self.precision = accelerator, precision
        root = data_root()
        self.held_out = HeldOut(recipe, root, most=recipe.evaluate.images)
        weights = find_mobilenet(root) if recipe.data.channels_b in (1, 3) else None
        self.networks: list[FeatureNetwork] = [] if weights is None else [MobileNet(weights, accelerator.device)]
        self.metric = self._deciding(recipe.evaluate.metric, root)
        self.cadence = self._cadence(recipe)
        self._reals: list[Observed] = []

    @torch.no_grad()
    def __call__(self, translator: Translator, look: Look | None = None) -> dict[str, Estimate]:
        """The scores of the averaged generator where there is one. Random states and the networks stay as they are.

        `look` is shown every image, in the process that translates it.

        Raises `TranslateError` in every process when one of them cannot read or translate an image.
        """
        if self.networks and not self._reals:
            self._reals = self._shared(len(self.held_out.reals), lambda number: observe(
                self.held_out.real(number), None, self.networks, small=None))
        generator = translator.generator("ab")
        training = generator.training
        generator.eval()
        try:
            fakes = self._shared(len(self.held_out.sources), lambda number: self._observe(generator, number, look))
        finally:
            generator.train(training)
        scores: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                scores = [summarise(fakes, self._reals, paired=self.held_out.paired)]
            except TranslateError as error:  # the others wait, and must hear of it
                scores = [error]
        broadcast_object_list(scores)
        if isinstance(scores[0], TranslateError):
            raise scores[0]
        return dict(scores[0])

    def _observe(self, generator: nn.Module, number: int, look: Look | None) -> Observed:
        source, truth = self.held_out.pair(number)
        fake = translate_whole(generator, source, self.accelerator.device, self.precision)
        if look is not None:
            look(number, source, fake, truth)
        return observe(fake, None if truth is None else truth.to(fake.device), self.networks, small=SMALL)

    def _shared(self, num: int, look: Callable[[int], Observed]) -> list[Observed]:
        """What `look` keeps of 0 … num − 1, in this order, each seen by one process."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        seen: list[tuple[int, Observed]] = []
        fault = None
        try:
            seen = [(number, look(number)) for number in range(rank, num, world)]
        except (TranslateError, RuntimeError) as error:  # a rotten test image, or one too large for the device
            fault = str(error)
        shares = gather_object([(seen, fault)])
        faults = [fault for _, fault in shares if fault is not None]
        if faults:
            raise TranslateError(faults[0])
        return [observed for _, observed in sorted((each for seen, _ in shares for each in seen),
                                                   key=lambda each: each[0])]

    def _deciding(self, metric: str, root: Path) -> str:
        """The score that says what is best. Raises `DataError` for one that cannot be computed here."""
        if metric == "auto":
            metric = "ssim" if self.held_out.paired else "kernel_distance"
        if metric == "kernel_distance" and not self.networks:
            truth = "" if self.held_out.paired else "the truth of the test images is not known, and "
            raise DataError(f"{truth}the kernel distance needs the weights of MobileNetV2 in {root / 'features'} and "
                            "images of 1 or 3 channels; run: translate data features")
        if metric in NEEDS_TRUTH and not self.held_out.paired:
            raise DataError(f"evaluate.metric: {metric} needs the truth of the test images, which is known where the "
                            "two test folders pair by name; use kernel_distance")
        if metric == "kernel_distance" and min(len(self.held_out.sources), len(self.held_out.reals)) < 2:
            raise DataError("the kernel distance compares sets, from two test images on each side, and there is one")
        side = min(self.held_out.source(0).shape[1:])
        if side < SMALLEST.get(metric, 1):
            raise DataError(f"evaluate.metric: {metric} needs test images with sides of {SMALLEST[metric]} px, and the "
                            f"first has {side}; use another score")
        return metric

    def _cadence(self, recipe: Recipe) -> int:
        """Training images between two evaluations."""
        if isinstance(recipe.every.evaluate, int):
            return recipe.every.evaluate
        evaluated = len(self.held_out.sources) * self.held_out.source(0)[0].numel()
        trained = sum(stage.images * math.prod(stage.size) for stage in recipe.stages) / recipe.num_images
        return math.ceil(max(PIXELS_TRAINED_PER_PIXEL_EVALUATED * evaluated / trained,
                             recipe.num_images / MOST_EVALUATIONS))


@torch.no_grad()
def translate_whole(generator: nn.Module, source: Tensor, device: torch.device, precision: Format) -> Tensor:
    """(C, H, W) → (C', H, W) float32, on the device; both in [-1, 1]."""
    with autocast(device, precision):
        return generator(source[None].to(device))[0].float()


def spread(num: int, most: int | None) -> Sequence[int]:
    """At most `most` of the numbers 0 … num − 1, evenly spread; all of them for None."""
    return range(num) if most is None or most >= num else [index * num // most for index in range(most)]
