"""At what scale a stage of a training shows images, and so what scale a network knows.

A filter that has learnt what a window looks like in an image of 128 px meets another thing at 256. So what a stage has
shown (`Scale`) goes with the weights, and images are shown in the same way (`Fitting`) wherever the network is looked
at: held-out scores, samples, the probe, reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

from pydantic import Field

from translate.data.samples import Samples
from translate.errors import ImageError
from translate.foreign import Count, Number, Shape
from translate.images.resampling import HeightWidth, target_shape

TOLERANCE = 4 / 3  # two scales that differ by no more than a third count as one
ENLARGED = 1.15  # times its own size: beyond that an image that is shown so is said to be enlarged
AS_TRAINED = "--resize trained --size input"  # what `convert` is to be told where images were loaded at another size
MOST_MEASURED = 1_000  # files of a side whose headers are read, evenly spaced, to know the sizes of all


@dataclass(frozen=True)
class Fitting:
    """How a stage fits images: to a short side of `resize` px (None: their own), and large enough for its `crop`."""

    resize: int | None = None
    crop: HeightWidth = (1, 1)

    def shape_of(self, shape: HeightWidth) -> HeightWidth:
        """Return the (height, width) at which an image of `shape` is shown."""
        return target_shape(shape, self.resize, self.crop)

    def rescales(self, shapes: Iterable[HeightWidth]) -> bool:
        """Return whether any image of these shapes is shown at another scale than its own, by more than a third."""
        return any(differ(min(self.shape_of(shape)), min(shape)) for shape in shapes)


OWN_SIZE = Fitting()


class ScaleState(Shape):
    """A `Scale`, as a checkpoint or a release holds it."""

    sides: Annotated[list[Count], Field(min_length=2, max_length=2)]
    factors: Annotated[list[Number], Field(min_length=2, max_length=2)] | None


@dataclass(frozen=True)
class Scale:
    """What a network has been shown of images.

    sides    the smallest and the largest short side, px, at which they were shown
    factors  the smallest and the largest number that their own sides were multiplied by; None where it is not known
    fixed    a pixel has one length in all images, those that were shown and others: their sides say nothing of scale
    """

    sides: tuple[int, int]
    factors: tuple[float, float] | None = None
    fixed: bool = False

    @property
    def is_own(self) -> bool:
        """Whether images were shown at their own size, give or take a third."""
        return self.factors is not None and not any(differ(factor, 1) for factor in self.factors)

    @classmethod
    def of(cls, shapes: Sequence[HeightWidth], fitting: Fitting) -> Scale | None:
        """Return what `fitting` shows of images of these own `shapes`; None where there are none."""
        if not shapes:
            return None
        sides = [(min(fitting.shape_of(shape)), min(shape)) for shape in shapes]
        shown, factors = [side for side, _ in sides], [side / own for side, own in sides]
        return cls((min(shown), max(shown)), (min(factors), max(factors)))

    @classmethod
    def load(cls, saved: ScaleState) -> Scale:
        """Return what `dump` has saved."""
        (low, high), factors = saved.sides, saved.factors
        return cls((low, high), None if factors is None else (factors[0], factors[1]))

    def dump(self) -> ScaleState:
        """Return it as a checkpoint holds it."""
        return ScaleState(sides=list(self.sides), factors=self.factors and list(self.factors))

    @property
    def convert_options(self) -> str:
        """Return what `convert` is to be told, so that images of any size are translated at this scale: nothing where
        they were shown at their own."""
        return "" if self.fixed or self.is_own else AS_TRAINED

    def knows(self, side: int) -> bool:
        """Return whether a short side of `side` px lies in the range, or no more than a third outside it."""
        return self.fixed or not differ(side, self.nearest(side))

    def nearest(self, side: int) -> int:
        """Return the short side in the range that is nearest to `side`, px."""
        return min(max(side, self.sides[0]), self.sides[1])

    def __str__(self) -> str:
        factors = "" if self.factors is None else f" ({factors_in_words(self.factors)})"
        fixed = ", where a pixel has one length whatever the size" if self.fixed else ""
        return f"{sides_in_words(self.sides)}{factors}{fixed}"


class Shapes:
    """The own sizes of a split's images, by what their files say of themselves; a file that says nothing is left out.
    """

    def __init__(self, samples: Samples):
        self.samples = samples
        self.a = measured(thinned(samples.files_a), samples.shape_in)
        self.b = (self.a if samples.files_b == samples.files_a
                  else measured(thinned(samples.files_b), samples.shape_in))

    def scales(self, fitting: Fitting) -> dict[str, ScaleState]:
        """Return {a, b: `Scale.dump()`} of what `fitting` shows of either side; a side that is not known is missing."""
        found = {"a": Scale.of(self.a, fitting), "b": Scale.of(self.b, fitting)}
        return {side: scale.dump() for side, scale in found.items() if scale is not None}

    def enlarged(self, fittings: Sequence[Fitting]) -> list[str]:
        """Return a line for each side of which the `fittings` of a training's stages show images enlarged.

        It is of the stage that enlarges them most. By a few per cent does not count: a shipped recipe crops 256 of 286.
        """
        lines = []
        for side, shapes in (("A", self.a), ("B", self.b if self.b is not self.a else [])):
            found = [(min(fitting.shape_of(shape)) / min(shape), number, shape)
                     for number, fitting in enumerate(fittings) for shape in shapes]
            most, number, (height, width) = max(found, default=(0.0, 0, (0, 0)))
            if most > ENLARGED:
                fitting = fittings[number]
                num = sum(min(fitting.shape_of(shape)) > ENLARGED * min(shape) for shape in shapes)
                wanted = f"crops of {fitting.crop[1]}×{fitting.crop[0]} px" + (
                    f" from images at a short side of {fitting.resize} px" if fitting.resize else "")
                lines.append(f"stage {number + 1} wants {wanted}, and {num} of {len(shapes)} images of {side} have "
                             f"fewer: they are enlarged, at most {most:.2g} times ({width}×{height} px). A smaller "
                             "resolution keeps to what they hold")
        return lines


def thinned(files: Sequence[Path]) -> Sequence[Path]:
    """Return at most `MOST_MEASURED` of the files, evenly spaced."""
    return files[::max(1, math.ceil(len(files) / MOST_MEASURED))]


def measured(files: Iterable[Path], shape_in: Callable[[Path], HeightWidth]) -> list[HeightWidth]:
    """Return the own (height, width) of the image in each of the files, as `shape_in` tells it by their headers.

    Files that do not say it are left out.
    """
    shapes = []
    for path in files:
        try:
            shapes.append(shape_in(path))
        except ImageError:  # a training that meets it says so
            continue
    return shapes


def differ(one: float, other: float) -> bool:
    """Return whether two scales differ by more than a third."""
    return max(one, other) > TOLERANCE * min(one, other)


def typical_side(shapes: Iterable[HeightWidth]) -> int:
    """Return the median short side, px; 0 where there are no images."""
    sides = [min(shape) for shape in shapes]
    return round(median(sides)) if sides else 0


def sides_of(shapes: Iterable[HeightWidth]) -> tuple[int, int]:
    """Return the smallest and the largest short side of at least one image, px."""
    sides = [min(shape) for shape in shapes]
    return min(sides), max(sides)


def scales_in_words(scales: dict[str, ScaleState]) -> str:
    """Say what `Shapes.scales` returns, in one line."""
    words = {side.upper(): str(Scale.load(saved)) for side, saved in scales.items()}
    if len(set(words.values())) > 1:
        return "; ".join(f"{side}: {text}" for side, text in words.items())
    return next(iter(words.values()), "a size that their files do not tell")


def sides_in_words(sides: tuple[int, int]) -> str:
    """Say a range of short sides, such as: a short side of 128 px."""
    low, high = sides
    return f"a short side of {low} px" if low == high else f"short sides of {low} to {high} px"


def factors_in_words(factors: tuple[float, float]) -> str:
    """Say what images were multiplied by, such as: shrunk to 50% of their own size."""
    low, high = (f"{float(f'{100 * factor:.2g}'):g}%" for factor in factors)
    if low == high == "100%":
        return "their own size"
    how = "shrunk" if factors[1] <= 1 else "enlarged" if factors[0] >= 1 else "resized"
    return f"{how} to {low if low == high else f'{low} to {high}'} of their own size"
