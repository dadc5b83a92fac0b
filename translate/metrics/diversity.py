"""How alike the images of one set are: the mean MS-SSIM of pairs of them (Odena et al. 2017, section 4.2).

1 means that all are the same image: collapse. Compare with the same number of real images; a translator of varied
inputs should not make its outputs more alike than these. Where the images are too small for MS-SSIM it is SSIM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from translate.errors import DataError
from translate.metrics.checks import check_image
from translate.metrics.intervals import Estimate, mean
from translate.metrics.reference import SMALLEST_MS_SSIM, SMALLEST_SSIM, ms_ssim, ssim

MOST_IMAGES = 64  # evenly spread: each costs two comparisons
LARGEST = 192  # px, the side that larger images are shrunk to: enough for the five scales of MS-SSIM
NEIGHBOURS = 2  # each image is compared with this many that come after it, around the end


def thumbnail(image: Tensor, largest: int = LARGEST) -> Tensor:
    """(C, H, W) in [-1, 1], shrunk to sides of at most `largest` px, on the CPU."""
    check_image(image)
    size = [min(side, largest) for side in image.shape[-2:]]
    return _resized(image.float().cpu(), (size[0], size[1]))


def similarity(thumbnails: Sequence[Tensor]) -> Estimate:
    """The mean (MS-)SSIM of pairs of images, all brought to the smallest height and width among them.

    Raises `DataError` for fewer than two images, or sides below 11 px.
    """
    step = -(-len(thumbnails) // MOST_IMAGES)
    thumbnails = thumbnails[::step]
    if len(thumbnails) < 2:
        raise DataError(f"how alike images are needs two of them, not {len(thumbnails)}")
    size = min(each.shape[1] for each in thumbnails), min(each.shape[2] for each in thumbnails)
    if min(size) < SMALLEST_SSIM:
        raise DataError(f"images of {size[1]}×{size[0]} px are too small for SSIM; {SMALLEST_SSIM} px are needed")
    small = [_resized(each, size)[None] for each in thumbnails]
    compare = ms_ssim if min(size) >= SMALLEST_MS_SSIM else ssim
    steps = range(1, 1 + min(NEIGHBOURS, len(small) - 1))

    def likeness(number: int) -> float:
        others = [small[(number + step) % len(small)] for step in steps]
        return sum(compare(small[number], other) for other in others) / len(others)

    return mean([likeness(number) for number in range(len(small))])


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0].clamp(-1, 1)
