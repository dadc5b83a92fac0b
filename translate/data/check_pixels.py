"""What a check of a data set counts over all images of a side: transparency, the range of values, missing data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from translate.images.pictures import Picture
from translate.images.reading import ImageConfig
from translate.images.transparency import hidden_colours, is_transparent
from translate.images.values import Range

FULL_RANGES = {"uint8": (0, 255), "uint16": (0, 65535), "float32": (-1, 1)}
USED_PARTS = {"uint8": 0.1, "uint16": 0.5, "float32": 0.5}  # as much or less is said: 15 bits of 16, [0, 1] of [-1, 1]
Said = tuple[Path | None, Literal["note", "warning"], str, str | None]  # a file or all, a severity, what, advice



class PartUsed(NamedTuple):
    """How small a part of their type's range all values fill."""

    words: str
    proposed: Range  # what they most likely fill


@dataclass
class PixelCount:
    """What has been seen of the images of one side. `name` is what its recipe calls it, such as data.image_a."""

    config: ImageConfig
    name: str
    num: int = 0
    transparent: list[Path] = field(default_factory=list)
    hidden: dict[tuple[float, ...], Path] = field(default_factory=dict)  # each colour, and the first file that hides it
    lowest: float = math.inf  # of all values
    highest: float = -math.inf
    dtypes: set[np.dtype] = field(default_factory=set)
    outside: list[Path] = field(default_factory=list)  # with values beyond the range of the recipe
    windows: dict[tuple[float, float], Path] = field(default_factory=dict)  # that files have, and the first of each
    lacking: list[Path] = field(default_factory=list)  # with pixels that have no data

    def look_at(self, picture: Picture) -> None:
        """Count one image, as its file has it."""
        self.num += 1
        self.look_at_values(picture)
        if is_transparent(picture.alpha):
            self.transparent.append(picture.path)
            for colour in hidden_colours(picture.pixels, picture.alpha):
                self.hidden.setdefault(colour, picture.path)

    def look_at_values(self, picture: Picture) -> None:
        """Count the values of an image, but for pixels without data."""
        if picture.unknown is not None:
            self.lacking.append(picture.path)
        known = picture.pixels if picture.unknown is None else picture.pixels[~picture.unknown]
        if not known.size:
            return
        low, high = float(known.min()), float(known.max())
        self.dtypes.add(known.dtype)
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        values = self.config.value_range
        if values is None and picture.range is not None:
            self.windows.setdefault(picture.range, picture.path)
        if values is not None and (low < values[0] or high > values[1]):
            self.outside.append(picture.path)

    def add(self, other: PixelCount) -> None:
        """Count what another process has seen of the values of the same images; twice is as once."""
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.dtypes |= other.dtypes
        self.windows = other.windows | self.windows
        self.outside, self.lacking = (sorted({*mine, *theirs}) for mine, theirs in (
            (self.outside, other.outside), (self.lacking, other.lacking)))

    def said(self) -> Iterator[Said]:
        """Yield what is to be known of all images together."""
        yield from self._transparency()
        yield from self._range()
        if self.lacking:
            yield (self.lacking[0], "note", f"has pixels without data, as {len(self.lacking)} of {self.num} images of "
                   f"{self.name} have", "they are black to the networks, and left out of losses and scores")

    def _range(self) -> Iterator[Said]:
        """Tell where values use a part of what stands for [-1, 1], or lie outside of it."""
        if self.outside:
            yield (self.outside[0], "warning", f"has values outside of the range of the recipe, as {len(self.outside)} "
                   f"of {self.num} images of {self.name} have: all together reach from {self.lowest:g} to "
                   f"{self.highest:g}", "they become its ends")
        if self.windows:
            (low, high), path = next(iter(self.windows.items()))
            others = f", as others by {len(self.windows) - 1} others" if len(self.windows) > 1 else ""
            yield (path, "warning" if others else "note", f"is shown by its own window, from {low:g} to {high:g}"
                   f"{others}", f"set {self.name}.range or {self.name}.window: a value is then as bright in all images")
            return
        if (part := self.part_used()) is not None:
            low, high = part.proposed
            yield (None, "warning", f"the values of all images of {self.name} {part.words}",
                   f"if that is all they can hold, set {self.name}.range: [{low:g}, {high:g}]")

    def part_used(self) -> PartUsed | None:
        """Return which part of the range of their type all values fill; None where it is no small one, or is named."""
        if self.config.value_range is not None or self.windows or len(self.dtypes) != 1 or self.lowest >= self.highest:
            return None
        (dtype,) = self.dtypes
        full = FULL_RANGES.get(dtype.name)
        if full is None:  # what has no range of its own is refused without one
            return None
        used = (self.highest - self.lowest) / (full[1] - full[0])
        if used > USED_PARTS[dtype.name]:
            return None
        whole_bits = (0.0, 2.0 ** max(1, math.ceil(math.log2(self.highest + 1))) - 1) if dtype.kind == "u" else None
        return PartUsed(f"lie between {self.lowest:g} and {self.highest:g}: {used:.0%} of the range of {dtype.name} "
                        f"({full[0]:g} to {full[1]:g})",
                        whole_bits or ((0, 1) if self.lowest >= 0 else (self.lowest, self.highest)))

    def _transparency(self) -> Iterator[Said]:
        """Tell how many images are transparent, and whether what they hide differs."""
        if not self.transparent or self.config.channels in (2, 4):  # alpha is one of its channels
            return
        what = f"is transparent, as {len(self.transparent)} of {self.num} images of {self.name} are"
        differ = len(self.hidden) > 1
        hiding = "the colours that transparent parts hide"
        if differ:
            colour, path = list(self.hidden.items())[1]  # another than in the file that the line begins with
            hiding += f", which differ ({shown(colour)} in {path.name}),"
        if self.config.background is not None:
            yield (self.transparent[0], "note", f"{what}: shown on {self.config.background}"
                   + (f"; {hiding} are not trained on" if differ else ""), f"{self.name}.background chooses")
            return
        yield (self.transparent[0], "warning" if differ else "note",
               f"{what}: {hiding} are trained on",
               f"set {self.name}.background to white, black or [red, green, blue]")


def shown(colour: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in colour) + ")"
