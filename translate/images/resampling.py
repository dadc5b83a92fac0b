"""Images brought to another size, whole or a few rows at a time with the same result.

Along each axis a new pixel is a weighted sum of neighbouring old ones: when it shrinks, of those it covers, by the area
of each that it covers, so that nothing aliases; when it grows, of four, by Keys' cubic kernel (1981, a = −0.75), the
border pixels repeated. This is what OpenCV's INTER_AREA and INTER_CUBIC do, with which training loads images, to
within a rounding; OpenCV itself gives the rows of a strip other weights than those of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

HeightWidth = tuple[int, int]  # px
CUBIC = -0.75  # the slope of Keys' kernel at 1, as in OpenCV
ROWS_AT_ONCE = 64  # rows, old ones and new ones, that are floats in memory at once


@dataclass(frozen=True)
class Axis:
    """How the pixels of one axis are made: `places` (new, taps) of old pixels, and their `weights` (new, taps)."""

    places: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, old: int, new: int) -> Axis:
        """Return how an axis of `old` pixels becomes one of `new`."""
        ratio = old / new
        pixels = np.arange(new, dtype=np.float64)
        if old == new:
            return cls(np.arange(new)[:, None], np.ones((new, 1), np.float32))

        # Shrinking: the share of each new pixel that an old one takes
        if new < old:
            start, stop = pixels * ratio, (pixels + 1) * ratio
            places = np.floor(start)[:, None] + np.arange(math.ceil(ratio) + 1)
            covered = np.minimum(places + 1, stop[:, None]) - np.maximum(places, start[:, None])
            weights = np.clip(covered, 0, None) / ratio

        # Growing: the kernel at the distances of the four nearest
        else:
            centre = (pixels + 0.5) * ratio - 0.5
            places = np.floor(centre)[:, None] + np.arange(-1, 3)
            weights = kernel(np.abs(places - centre[:, None]))
        return cls(np.clip(places, 0, old - 1).astype(np.intp), weights.astype(np.float32))

    def part(self, start: int, stop: int) -> tuple[Axis, int, int]:
        """Return the axis of the new pixels [start, stop) alone, and the old ones [first, last) that they are made of.

        Its places count from the first of these.
        """
        first, last = int(self.places[start, 0]), int(self.places[stop - 1].max()) + 1
        return Axis(self.places[start:stop] - first, self.weights[start:stop]), first, last

    def apply(self, array: np.ndarray, axis: int) -> np.ndarray:
        """Return an array (rows, columns, C), float32, with the axis of this number made anew.

        The sum of a pixel is always taken in the same order, whatever is made beside it.
        """
        shape = [-1 if number == axis else 1 for number in range(array.ndim)]
        made: np.ndarray | None = None
        for place, weight in zip(self.places.T, self.weights.T, strict=True):
            part = array.take(place, axis).astype(np.float32)
            part *= weight.reshape(shape)
            if array.dtype.kind == "f":  # a pixel without data (NaN) is in no sum that it has no share in
                part[np.broadcast_to(weight.reshape(shape) == 0, part.shape)] = 0
            made = part if made is None else np.add(made, part, out=made)
        assert made is not None, "an axis has at least one tap"
        return made


def target_shape(shape: tuple[int, int], resize: int | None, crop: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """Return the (height, width) an image of `shape` is loaded at: its short side becomes `resize` (None: as it is).

    Where a `crop` would not fit, the image becomes just large enough for it. Proportions are kept.
    """
    height, width = shape
    scale = 1.0 if resize is None else resize / min(height, width)
    scale = max(scale, crop[0] / height, crop[1] / width)
    return max(round(height * scale), crop[0]), max(round(width * scale), crop[1])


def scaled_shape(shape: HeightWidth, sides: tuple[int, int] | None) -> HeightWidth:
    """Return the (height, width) of an image whose short side is brought into a range, by as little as can be.

    None: it stays as it is.
    """
    return shape if sides is None else target_shape(shape, min(max(min(shape), sides[0]), sides[1]))


class Resampling:
    """Brings images of one (height, width) to another. Rows of the old image go in as (rows, W, C) of any type."""

    def __init__(self, old: HeightWidth, new: HeightWidth):
        self.old, self.new = old, new
        self.rows_axis, self.columns_axis = Axis.of(old[0], new[0]), Axis.of(old[1], new[1])

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """Return which old rows [first, last) the new rows [start, stop) are made of."""
        _, first, last = self.rows_axis.part(start, stop)
        return first, last

    def made_of(self, num_rows: int) -> int:
        """Return how many new rows, from the top, can be made of so many old ones."""
        return int(np.searchsorted(self.rows_axis.places.max(1), num_rows))

    def rows(self, read: Callable[[int, int], np.ndarray], start: int, stop: int) -> np.ndarray:
        """Return the new rows [start, stop), of the type that `read` returns: (stop − start, W', C).

        `read(first, last)` returns old rows (last − first, W, C). Few rows, old or new, are in memory at once as
        floats.
        """
        step = max(1, int(ROWS_AT_ONCE * min(self.new[0] / self.old[0], 1.0)))
        made = []
        for top in range(start, stop, step):
            axis, first, last = self.rows_axis.part(top, min(top + step, stop))
            old = read(first, last)
            made.append(as_type(axis.apply(self.columns_axis.apply(old, 1), 0), old.dtype))
        return np.concatenate(made)

    def whole(self, array: np.ndarray) -> np.ndarray:
        """Return a whole image (H, W, C) or (H, W) at the new size, in its own type."""
        planes = array if array.ndim == 3 else array[..., None]
        made = self.rows(lambda first, last: planes[first:last], 0, self.new[0])
        return made if array.ndim == 3 else made[..., 0]


def kernel(distance: np.ndarray) -> np.ndarray:
    """Return Keys' cubic kernel at distances of 0 to 2."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def as_type(samples: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Return samples as integers of `dtype`, rounded to nearest, or as floats in [-1, 1]: the kernel overshoots."""
    if np.dtype(dtype).kind == "f":
        return np.clip(samples, -1, 1).astype(dtype)
    return np.clip(np.rint(samples), 0, np.iinfo(dtype).max).astype(dtype)
