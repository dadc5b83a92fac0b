"""The real image that is most like a drawn one: if they are nearly the same, it was learnt by heart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.data.samples import Samples
from translate.data.scale import Fitting

SIDE = 32  # px: images are compared by copies of at most this size
MOST_COMPARED = 50_000  # of the training images, evenly spaced


class Nearest(NamedTuple):
    """The real image (C, H, W) that is nearest, its file's name, and the mean squared difference of small copies."""

    image: Tensor
    name: str
    distance: float


def nearest(images: Sequence[Tensor], samples: Samples, fitting: Fitting) -> list[Nearest]:
    """Return for each image (C, H, W) the training image that is nearest to it, as `fitting` shows them.

    Raises `ImageError` for one that cannot be read.
    """
    wanted = torch.stack([small(image) for image in images])
    best = torch.full((len(images),), torch.inf)
    which = torch.zeros(len(images), dtype=torch.long)
    for index in range(0, len(samples), max(1, -(-len(samples) // MOST_COMPARED))):
        real = small(samples.whole(index, fitting.resize, fitting.crop).b)
        distances = (wanted - real).square().mean(1)
        closer = distances < best
        best, which = torch.where(closer, distances, best), torch.where(closer, index, which)
    return [Nearest(samples.whole(index, fitting.resize, fitting.crop).b, samples.files_b[index].name, float(distance))
            for index, distance in zip(which.tolist(), best, strict=True)]


def small(image: Tensor) -> Tensor:
    """Return the mean colours of at most `SIDE` rows and columns of an image (C, H, W), flat."""
    height, width = (min(side, SIDE) for side in image.shape[1:])
    return F.adaptive_avg_pool2d(image, (height, width)).flatten()
