"""The real image that is most like a drawn one: if they are nearly the same, it was learnt by heart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.data.samples import Samples
from translate.data.scale import Fitting
from translate.errors import DataError, ImageError

SIDE = 32  # px: images are compared by copies of at most this size
MOST_COMPARED = 50_000  # of the training images, evenly spaced


class Nearest(NamedTuple):
    """The real image (C, H, W) that is nearest, its file's name, and the mean squared difference of small copies."""

    image: Tensor
    name: str
    distance: float


def nearest(images: Sequence[Tensor], samples: Samples, fitting: Fitting,
            on_progress: Callable[[int, int], object] = lambda done, total: None) -> tuple[list[Nearest], int]:
    """Return for each image (C, H, W) the training image that is nearest to it, as `fitting` shows them.

    Those that cannot be read are left out; the second value counts them. Raises `DataError` where that is all.
    """
    wanted = torch.stack([small(image) for image in images])
    best = torch.full((len(images),), torch.inf)
    which = torch.zeros(len(images), dtype=torch.long)
    compared = range(0, len(samples), max(1, -(-len(samples) // MOST_COMPARED)))
    fault, unreadable = None, 0
    for done, index in enumerate(compared, 1):
        try:
            distances = (wanted - small(samples.whole(index, fitting.resize, fitting.crop).b)).square().mean(1)
        except ImageError as error:
            fault, unreadable = error, unreadable + 1
        else:
            closer = distances < best
            best, which = torch.where(closer, distances, best), torch.where(closer, index, which)
        on_progress(done, len(compared))
    if fault is not None and unreadable == len(compared):
        raise DataError.of(fault, "none of the training images can be read")
    return [Nearest(samples.whole(index, fitting.resize, fitting.crop).b, samples.files_b[index].name, float(distance))
            for index, distance in zip(which.tolist(), best, strict=True)], unreadable


def small(image: Tensor) -> Tensor:
    """Return the mean colours of at most `SIDE` rows and columns of an image (C, H, W), flat."""
    return pooled(image).flatten()


def pooled(image: Tensor) -> Tensor:
    """Return a copy of an image (C, H, W) of at most `SIDE` rows and columns, which hold mean colours."""
    height, width = (min(side, SIDE) for side in image.shape[1:])
    return F.adaptive_avg_pool2d(image, (height, width))
