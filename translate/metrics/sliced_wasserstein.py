"""Sliced Wasserstein distance between two sets of images (Karras et al. 2018, section 5 and appendix): do they agree in
the statistics of small patches, at every scale?

Each image becomes a Laplacian pyramid, from its own size down to 16 px. Of each level patches of 7×7 px are taken, as
descriptors whose channels get mean 0 and deviation 1 over the set, and compared by the mean Wasserstein-1 distance of
their projections on random directions. Coarse levels are about large structures, the finest about pixels and noise. It
needs no network and no weights.

Here each image gives as many patches as all others, at places that are a function of its values, so that the distance
does not depend on the order of the images or on how many processes took them. Values are for as many images: of fewer,
the distance is larger, also between two halves of one set.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from translate.errors import DataError
from translate.metrics.features import FeatureNetwork

PATCH = 7  # px, of a side of a descriptor
PATCHES = 64  # of each image and level; 128 in the paper, of 16,384 images
SMALLEST_LEVEL = 16  # px, of the short side of the coarsest level
DIRECTIONS = 512
TIMES = 1000.0  # distances are reported times this, as the paper's tables have them
SEED = 0
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)  # the filter between two levels, on either axis


class PyramidPatches(FeatureNetwork):
    """Takes descriptors of an image, as a feature network takes features."""

    name = "patches"
    title = "patches of a Laplacian pyramid"

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Return descriptors (patches, C·49) of each level of an image (C, H, W), under the level's short side.

        Of an image whose short side is below 16 px there are none.
        """
        found = {}
        for level in laplacian_pyramid(image.float().cpu()):
            places = np.random.default_rng(zlib.crc32(np.ascontiguousarray(level.numpy()).tobytes()))
            rows, columns = (places.integers(0, side - PATCH + 1, PATCHES) for side in level.shape[1:])
            windows = level.unfold(1, PATCH, 1).unfold(2, PATCH, 1)  # (C, H − 6, W − 6, 7, 7)
            found[name_of(min(level.shape[1:]))] = windows[:, rows, columns].transpose(0, 1).flatten(1).contiguous()
        return found


def name_of(side: int) -> str:
    """Return what descriptors of a level are called whose short side is so many px."""
    return f"patches {side}"


def levels_of(features: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the levels among the features of an image."""
    return [name for name in features if name.startswith("patches ")]


def laplacian_pyramid(image: Tensor) -> list[Tensor]:
    """Return the levels of an image (C, H, W), finest first: what each holds beyond the next, and last the coarsest.

    There are as many as have a short side of `SMALLEST_LEVEL` px or more; of a smaller image none.
    """
    if min(image.shape[1:]) < SMALLEST_LEVEL:
        return []
    levels = []
    while min(image.shape[1:]) // 2 >= SMALLEST_LEVEL:
        coarser = blurred(image)[:, ::2, ::2]
        spread = torch.zeros_like(image)
        spread[:, ::2, ::2] = coarser
        levels.append(image - 4 * blurred(spread))
        image = coarser
    return [*levels, image]


def blurred(image: Tensor) -> Tensor:
    """Return an image (C, H, W) filtered by the binomial (1, 4, 6, 4, 1)/16 on either axis, mirrored at its edges."""
    taps = torch.tensor(BINOMIAL, dtype=image.dtype)
    kernel = (taps[:, None] * taps / taps.sum() ** 2).expand(len(image), 1, -1, -1)
    padded = F.pad(image[None], (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, kernel, groups=len(image))[0]


def sliced_wasserstein(x: Sequence[Mapping[str, Tensor]], y: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return the distance of two sets, times 1000, at each level by its name.

    x, y    what `PyramidPatches` gave of each image; of the larger set as many, evenly spaced, as the smaller has

    Raises `DataError` for an empty set, and for images of different sizes.
    """
    num = min(len(x), len(y))
    if not num:
        raise DataError("sets are compared of one image or more")
    x, y = ([each[len(each) * number // num] for number in range(num)] for each in (x, y))
    names = levels_of(x[0])
    if any(levels_of(each) != names for each in (*x, *y)):
        raise DataError("images of different sizes have different levels",
                        advice="compare images of one size for their patches' distance")
    return {name: TIMES * distance(*(torch.cat([each[name] for each in side]) for side in (x, y))) for name in names}


def distance(x: Tensor, y: Tensor) -> float:
    """Return the mean Wasserstein-1 distance of two sets of descriptors (N, C·49) each, along random directions."""
    x, y = standardised(x), standardised(y)
    directions = np.random.default_rng(SEED).normal(size=(x.shape[1], DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    total = 0.0
    for part in torch.from_numpy(directions).to(x.dtype).split(32, dim=1):  # few at once: there are many descriptors
        total += float(((x @ part).sort(0).values - (y @ part).sort(0).values).abs().mean(0).sum())
    return total / DIRECTIONS


def standardised(descriptors: Tensor) -> Tensor:
    """Return descriptors (N, C·49) with mean 0 and deviation 1 of each channel over the set.

    A channel without any deviation stays at 0.
    """
    apart = descriptors.view(len(descriptors), -1, PATCH * PATCH)
    apart = apart - apart.mean((0, 2), keepdim=True)
    deviation = apart.square().mean((0, 2), keepdim=True).sqrt()
    return (apart / deviation.clamp(min=1e-8)).flatten(1)
