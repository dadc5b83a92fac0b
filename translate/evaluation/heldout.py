"""The held-out images of a recipe, and how well a translator does on them while it trains.

An evaluation leaves in `metrics.jsonl` a line of `kind: evaluation`:

    images       the number of training images seen so far
    stage        the stage, from 0
    <score>      its value, under the names of `translate.metrics.observations.MEASURES`; null where it is not finite
    intervals    {score: [low, high]}: the 95 % bootstrap interval over the held-out images, where there is one
    num_held_out how many held-out images were translated: without those that cannot be read (`data.on_unreadable`)
    side         their typical short side as they were shown, px: as the stage shows images, but whole
    own_side     the same of the images in their own size
    own_size     {score: value} of the images in their own size; only where the two differ by more than a third
    decided_by   the score that says which checkpoint is best; null where none can
    best         {images, metric, value, num_images, side} of the best checkpoint so far, this one included; null where
                 there is none yet
    since_best   evaluations since the best: 0 where this is it
    seconds      how long it took
    verdict      what the deciding score amounts to beside the untouched input, in words; empty where that is not known

The best checkpoint lies among the others, `checkpoints/<images>`, and is never rotated away; `status.json` names it as
`best` too.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from translate.agreement import by_main_process
from translate.data import test_pairs
from translate.data.hashing import stable_hash
from translate.data.loading import CHECK_ALL, OR_SKIP, check_share
from translate.data.samples import Sample, Samples
from translate.data.scale import OWN_SIZE, Fitting, measured, typical_side
from translate.data.stream import TRUTH_ADVICE
from translate.errors import DataError, ImageError, TranslateError
from translate.evaluation.in_words import ENOUGH_FOR_ANY, UNBIASED, verdict
from translate.evaluation.schedule import Schedule
from translate.images.resampling import HeightWidth
from translate.images.tensors import hide_unknown
from translate.metrics import diversity
from translate.metrics.features import FeatureNetwork, MobileNet, features_folder, find_mobilenet
from translate.metrics.intervals import Estimate
from translate.metrics.modes import ClassNamer
from translate.metrics.observations import Observed, floor, observe, summarise
from translate.metrics.sliced_wasserstein import SMALLEST_LEVEL, PyramidPatches
from translate.metrics.structural_similarity import MIN_SIDE_MS_SSIM, MIN_SIDE_SSIM
from translate.networks.eval_mode import evaluating
from translate.places import data_root
from translate.precision import Format, autocast
from translate.recipe import Recipe
from translate.tiling.where_it_fits import apply_where_it_fits
from translate.translators import Direction, Translator

T = TypeVar("T")
MIN_SIDE = {"ssim": MIN_SIDE_SSIM, "ms_ssim": MIN_SIDE_MS_SSIM, "gradient_error": 2,
            "sliced_wasserstein": SMALLEST_LEVEL}  # px
# Called with the number of a held-out image, its source, its translation, and its truth where that is known
OnTranslated = Callable[[int, Tensor, Tensor, Tensor | None], None]
NEEDS_TRUTH = ("psnr", "ssim", "ms_ssim", "l1", "gradient_error")


class HeldOut:
    """The test images of a recipe's data, whole, in their own size: at most `most` sources and reals, evenly spaced.

    `shown` gives the same at another size. `paired`: real i is the truth of source i. Of unpaired data it is where the
    recipe says so (`data.truth`). Raises `DataError` where there is no test split, or it says so and the names of its
    images do not pair.
    """

    def __init__(self, recipe: Recipe, root: Path, direction: Direction = "ab", most: int | None = None):
        self.paired = recipe.data.truth_is_known
        samples = test_pairs(recipe.data, root).samples if self.paired else recipe.data.build("test", root)
        self.samples: Samples = samples
        self.direction: Direction = direction
        files = self._in_direction(samples.files_a, samples.files_b)
        self.sources, self.reals = (evenly_spaced(len(side), most) for side in files)
        self.names = [files[0][number].name for number in self.sources]  # of the files that the sources come from
        # The own sizes of the sources, as far as their files say it
        self.shapes: list[HeightWidth] = measured([files[0][number] for number in self.sources],
                                                  self.samples.shape_in)
        self.num_files = len({*(files[0][number] for number in self.sources),
                              *(files[1][number] for number in self.reals)})
        self.fitting = OWN_SIZE

    def shown(self, fitting: Fitting) -> HeldOut:
        """Return the same images at the size that `fitting` gives them, as a stage of a training shows them."""
        other = copy.copy(self)
        other.fitting = fitting
        return other

    @property
    def side(self) -> int:
        """The typical short side of the sources as they are shown, px."""
        return typical_side(map(self.fitting.shape_of, self.shapes))

    def source(self, position: int) -> Tensor:
        """Return what goes into the generator, (C, H, W) in [-1, 1]. Raises `ImageError`."""
        sample = self._whole(self.sources[position])
        return self._in_direction(sample.a, sample.b)[0]

    def real(self, position: int) -> Tensor:
        """Return an image of the side that comes out, (C, H, W) in [-1, 1]. Raises `ImageError`."""
        sample = self._whole(self.reals[position])
        return self._in_direction(sample.a, sample.b)[1]

    def pair(self, position: int) -> tuple[Tensor, Tensor | None]:
        """Return a source and its truth, None where that is not known. Raises `ImageError`."""
        if not self.paired:
            return self.source(position), None
        sample = self._whole(self.sources[position])
        return self._in_direction(sample.a, sample.b)

    def key(self, position: int) -> int:
        """Return the number that names a source, from which chance is drawn for it."""
        return stable_hash("whole", self.sources[position])

    def _whole(self, index: int) -> Sample:
        return self.samples.whole(index, self.fitting.resize, self.fitting.crop)

    def _in_direction(self, a: T, b: T) -> tuple[T, T]:
        """Return what is translated, and what it is translated to."""
        return (a, b) if self.direction == "ab" else (b, a)


class Scored(NamedTuple):
    """The scores of held-out images as they were shown; `own_size` is empty where that is about their own size."""

    shown: dict[str, Estimate]
    num_images: int  # how many were translated
    side: int  # their typical short side, px
    own_size: dict[str, Estimate]
    missing: str  # why there are no scores at their own size, where there should be; else empty
    verdict: str = ""  # what the deciding score amounts to, in words; empty where nothing is known to compare it with


class Evaluator:
    """Scores a translator A → B on the held-out images. All processes share the work and get the same result."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, precision: Format,
                 tell: Callable[[str], object] = lambda line: None):
        """Raises `DataError` where there is nothing to score on, or the score that is to decide cannot be had, and
        `CheckpointError` where the classifier cannot.

        `tell` is told of each held-out file that cannot be read, once, where `data.on_unreadable` is skip.
        """
        self.accelerator, self.precision, self.tell = accelerator, precision, tell
        self.unreadable: set[str] = set()
        self.held_out = HeldOut(recipe, data_root(), most=recipe.evaluate.images)
        weights = find_mobilenet() if recipe.data.channels_b in (1, 3) else None
        self.has_sources, self.channels_a = recipe.translator.needs_sources, recipe.data.channels_a
        self.networks: list[FeatureNetwork] = [] if weights is None else [MobileNet(weights, accelerator.device)]
        if not self.has_sources:
            self.networks.append(PyramidPatches())
        self.metric = self._deciding(recipe.evaluate.metric, recipe.fitting(recipe.stages[-1]))
        if recipe.evaluate.classifier is not None:  # what is found of classes decides nothing
            self.networks.append(ClassNamer(recipe.evaluate.classifier, recipe.data.channels_b, recipe.stages[-1].size,
                                            accelerator.device))
        self._reals: dict[Fitting, dict[int, Observed]] = {}  # by their number
        # What the untouched input would score: where it could be an output
        self.comparable = (recipe.data.channels_a == recipe.data.channels_b and recipe.data.labelling is None
                           and self.has_sources)
        self.schedule = Schedule.of(recipe, self.held_out.shapes, len(self.held_out.sources), bool(self.networks) * len(
            self.held_out.reals) + self.comparable * len(self.held_out.sources))
        self._sources: dict[Fitting, dict[int, Observed]] = {}
        self._beside: dict[Fitting, tuple[dict[str, Estimate], dict[str, Estimate]]] = {}  # their scores, and the floor
        self._looked: Callable[[], object] = lambda: None

    def __call__(self, translator: Translator, fitting: Fitting,
                 on_translated: OnTranslated | None = None,
                 on_progress: Callable[[int, int], object] = lambda done, total: None) -> Scored:
        """Score the averaged generator where there is one. Random states and the networks stay as they are.

        fitting        how the stage shows images; where that is another scale than their own, by more than a third,
                       they are scored in their own size as well
        on_translated  is shown every image of the former, in the process that translates it
        on_progress    is told how many of how many images are looked at, at the start and after each; in each process
                       of its share

        Raises `TranslateError` in every process when one of them cannot read or translate an image; where the recipe
        says `on_unreadable: skip`, when too many cannot be read.
        """
        # How much there is to look at: real ones of a size once in a training
        shown, sizes = self.held_out.shown(fitting), self._sizes(fitting)
        looks = self.num_looks(fitting)
        looks += sum(size not in self._reals for size in sizes) * len(self.held_out.reals) * bool(self.networks)
        looks += sum(size not in self._sources for size in sizes) * len(self.held_out.sources) * self.comparable
        done = itertools.count(self.accelerator.num_processes, self.accelerator.num_processes)
        self._looked = lambda: on_progress(min(next(done), looks), looks)
        on_progress(0, looks)

        scores, num_images = self._score(translator, shown, on_translated)
        own_size: dict[str, Estimate] = {}
        missing = ""
        if len(sizes) > 1:
            try:
                own_size, _ = self._score(translator, self.held_out, None)
            except TranslateError as error:  # large images may need more memory than there is
                missing = str(error)
        return Scored(scores, num_images, shown.side, own_size, missing, self._verdict(scores, shown))

    def num_looks(self, fitting: Fitting) -> int:
        """Return how many images every evaluation looks at; the first one of a size looks at the real ones, too."""
        return len(self._sizes(fitting)) * len(self.held_out.sources)

    def _sizes(self, fitting: Fitting) -> list[Fitting]:
        """Return in which sizes images are scored."""
        return [fitting, *([OWN_SIZE] if fitting.rescales(self.held_out.shapes) else [])]

    def _verdict(self, scores: dict[str, Estimate], held_out: HeldOut) -> str:
        """Say what the deciding score of images as they are shown amounts to, beside that of their sources."""
        rough = self.metric in UNBIASED and len(held_out.sources) < ENOUGH_FOR_ANY  # two images would be luck
        if rough or not self.comparable or not self.accelerator.is_main_process:
            return ""
        if held_out.fitting not in self._beside:
            sources, reals = self._together(self._sources[held_out.fitting], held_out)
            self._beside[held_out.fitting] = summarise(sources, reals, paired=held_out.paired), floor(reals)
        return verdict(self.metric, scores, *self._beside[held_out.fitting])

    @torch.no_grad()
    def _score(self, translator: Translator, held_out: HeldOut,
               on_translated: OnTranslated | None) -> tuple[dict[str, Estimate], int]:
        """Return the scores of held-out images as they are shown, and of how many they are."""
        # Real images and sources are looked at once in a training, translations every time
        if self.networks and held_out.fitting not in self._reals:
            self._reals[held_out.fitting] = self._shared(len(held_out.reals), lambda number: observe(
                held_out.real(number), None, self.networks, small=None))
        if self.comparable and held_out.fitting not in self._sources:
            self._sources[held_out.fitting] = self._shared(len(held_out.sources), lambda number: observe(
                *held_out.pair(number), self.networks, small=None))
        generator = translator.generator("ab")
        with evaluating(generator):
            fakes = self._shared(len(held_out.sources),
                                 lambda number: self._observe(translator, generator, held_out, number, on_translated))

        scores = by_main_process(
            lambda: summarise(*self._together(fakes, held_out), paired=held_out.paired), self.accelerator)
        return scores, len(fakes)

    def _together(self, images: dict[int, Observed], held_out: HeldOut) -> tuple[list[Observed], list[Observed]]:
        """Return images and the real ones, each in their order; of pairs those of which both could be read."""
        reals = self._reals.get(held_out.fitting, {})
        if held_out.paired and reals:
            both = images.keys() & reals.keys()
            images, reals = ({number: each for number, each in side.items() if number in both}
                             for side in (images, reals))
        return [each for _, each in sorted(images.items())], [each for _, each in sorted(reals.items())]

    def _observe(self, translator: Translator, generator: nn.Module, held_out: HeldOut, number: int,
                 on_translated: OnTranslated | None) -> Observed:
        """Translate held-out image `number`, and keep of it what scores need."""
        source, truth = held_out.pair(number)
        given = translator.inputs(source[None], [held_out.key(number)])[0]
        fake = translate_whole(generator, given, self.accelerator.device, self.precision)
        if on_translated is not None:
            on_translated(number, source, fake, truth)
        small = diversity.THUMBNAIL_SIDE if number in diversity.compared(len(held_out.sources)) else None
        return observe(fake, None if truth is None else truth.to(fake.device), self.networks, small=small)

    def _shared(self, num: int, observe_one: Callable[[int], Observed]) -> dict[int, Observed]:
        """Return what `observe_one` returns for 0 … num − 1, each called in one process, without what is skipped.

        Raises in all processes the `TranslateError` of one that cannot read a test image, and `TranslateError` where
        one has too little memory for it.
        """
        # This process's share. An error waits: the others would wait for this share for ever.
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        seen: dict[int, Observed] = {}
        unreadable: list[ImageError] = []
        fault: TranslateError | None = None
        try:
            for number in range(rank, num, world):
                try:
                    seen[number] = observe_one(number)
                except ImageError as error:
                    if not self.held_out.samples.loading.skips_unreadable:
                        raise
                    unreadable.append(error)
                self._looked()
        except TranslateError as error:
            fault = error
        except (RuntimeError, MemoryError) as error:
            fault = TranslateError(str(error) or "out of memory")

        # The shares of all
        shares = gather_object([(seen, unreadable, fault)])
        faults = [fault for _, _, fault in shares if fault is not None]
        if faults:
            raise faults[0]
        for each in (each for _, skipped, _ in shares for each in skipped):
            self._count(each)
        return {number: observed for seen, _, _ in shares for number, observed in seen.items()}

    def _count(self, error: ImageError) -> None:
        """Count a held-out file that cannot be read. Raises `DataError` where there are too many."""
        if str(error.path) not in self.unreadable:
            self.unreadable.add(str(error.path))
            so_far = f"{len(self.unreadable):,} of {self.held_out.num_files:,} files so far"
            self.tell(f"a held-out image cannot be read, and the others are scored without it ({so_far}): "
                      f"{error.path}: {error.what}")
        check_share(self.unreadable, self.held_out.num_files, error.path)

    def _deciding(self, metric: str, fitting: Fitting) -> str:
        """Return the score that says what is best.

        Raises `DataError` for one that cannot be computed here, of images as `fitting` shows them at the end.
        """
        names = {network.title for network in self.networks}
        if metric == "auto" and names == {PyramidPatches.title}:
            metric = "sliced_wasserstein"
        elif metric == "auto":
            metric = "ssim" if self.held_out.paired else "kernel_distance"

        # What it compares by: a network's features, or a truth
        if metric == "sliced_wasserstein" and PyramidPatches.title not in names:
            raise DataError("the sliced Wasserstein distance is taken of images that are drawn from noise",
                            "evaluate.metric", "use auto, or kernel_distance")
        if metric == "kernel_distance" and not names - {PyramidPatches.title}:
            truth = "" if self.held_out.paired else "the truth of the test images is not known, and "
            raise DataError(f"{truth}the kernel distance needs the weights of MobileNetV2 in {features_folder()} and "
                            "images of 1 or 3 channels", advice="run: translate data features"
                            + ("" if self.held_out.paired else f"; {TRUTH_ADVICE}"))
        if metric in NEEDS_TRUTH and not self.held_out.paired:
            raise DataError(f"{metric} needs the truth of the test images, which is known of paired data, and where "
                            "data.truth says so", "evaluate.metric", f"use kernel_distance; {TRUTH_ADVICE}")

        # Enough images, large enough
        if metric == "kernel_distance" and min(len(self.held_out.sources), len(self.held_out.reals)) < 2:
            raise DataError("the kernel distance compares sets, from two test images on each side, and there is one",
                            advice="add test images, or use another score")
        side = min(self._first(fitting).shape[1:])
        if side < MIN_SIDE.get(metric, 1):
            raise DataError(f"{metric} needs test images with sides of {MIN_SIDE[metric]} px, and the first has "
                            f"{side} as the last stage shows it", "evaluate.metric", "use another score")
        return metric

    def _first(self, fitting: Fitting) -> Tensor:
        """Return the first source, or real image, that can be read, as `fitting` shows it.

        Raises `DataError` where none can.
        """
        shown = self.held_out.shown(fitting)
        for number in range(len(shown.sources)):
            try:
                return shown.source(number) if self.has_sources else shown.real(number)
            except ImageError as error:
                skips = shown.samples.loading.skips_unreadable
                if not skips or number == len(shown.sources) - 1:
                    raise DataError.of(error, CHECK_ALL if skips else OR_SKIP) from None
        raise AssertionError("a test split without images")


@torch.no_grad()
def translate_whole(generator: nn.Module, source: Tensor, device: torch.device, precision: Format) -> Tensor:
    """Translate an image (C, H, W) to (C', H, W) float32, on the device; both in [-1, 1].

    What is not known of the source is not known of the translation. Raises `DoesNotFit` on a CPU with too little
    memory.
    """
    with autocast(device, precision):
        fake = apply_where_it_fits(generator, source[None].to(device))[0].float()
    return hide_unknown(fake, source.to(device))


def evenly_spaced(num: int, most: int | None) -> Sequence[int]:
    """Return at most `most` of the numbers 0 … num − 1, evenly spaced; all of them for None."""
    return range(num) if most is None or most >= num else [index * num // most for index in range(most)]
