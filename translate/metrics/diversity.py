"""How alike the images of one set are: the mean MS-SSIM of pairs of them (Odena et al. 2017, section 4.2).

1 means that all images are the same: the generator has collapsed. Compare with the same number of real images: outputs
for varied inputs should not be more alike than these. Images too small for MS-SSIM are compared by SSIM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from translate.errors import DataError
from translate.metrics.checks import check_image
from translate.metrics.intervals import Estimate, mean
from translate.metrics.structural_similarity import MIN_SIDE_MS_SSIM, MIN_SIDE_SSIM, ms_ssim, ssim

MAX_IMAGES = 64  # that are compared, evenly spread over the set
THUMBNAIL_SIDE = 192  # px; larger images are shrunk to it, which is enough for the five scales of MS-SSIM
NUM_COMPARED = 2  # images that each is compared with: those that follow it, and after the last one the first


def thumbnail(image: Tensor, largest: int = THUMBNAIL_SIDE) -> Tensor:
    """Return an image (C, H, W) in [-1, 1] shrunk to sides of at most `largest` px, on the CPU."""
    check_image(image)
    size = [min(side, largest) for side in image.shape[-2:]]
    return resized(image.float().cpu(), (size[0], size[1]))


def compared(num: int) -> range:
    """Return the numbers of those of `num` images that are compared: at most `MAX_IMAGES`, evenly spread."""
    return range(0, num, max(1, -(-num // MAX_IMAGES)))


def similarity(thumbnails: Sequence[Tensor]) -> Estimate:
    """Return the mean (MS-)SSIM of pairs of images, after all are resized to the smallest height and width among them.

    Raises `DataError` for fewer than two images, or sides below 11 px.
    """
    # Choose the images, evenly spread, and resize them.
    thumbnails = [thumbnails[number] for number in compared(len(thumbnails))]
    if len(thumbnails) < 2:
        raise DataError(f"to tell how alike images are takes two of them, and there is {len(thumbnails)}")
    size = min(each.shape[1] for each in thumbnails), min(each.shape[2] for each in thumbnails)
    if min(size) < MIN_SIDE_SSIM:
        raise DataError(f"images of {size[1]}×{size[0]} px are too small for SSIM; {MIN_SIDE_SSIM} px are needed")
    small = [resized(each, size)[None] for each in thumbnails]

    # Compare each with those that follow it.
    compare = ms_ssim if min(size) >= MIN_SIDE_MS_SSIM else ssim
    steps = range(1, 1 + min(NUM_COMPARED, len(small) - 1))

    def likeness(number: int) -> float:
        others = [small[(number + step) % len(small)] for step in steps]
        return sum(compare(small[number], other) for other in others) / len(others)

    return mean([likeness(number) for number in range(len(small))])


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an image (C, H, W) in [-1, 1] at another (height, width), without aliasing."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0].clamp(-1, 1)
