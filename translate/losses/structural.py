"""SSIM of images, window by window (Wang et al. 2004), and a loss of it: what a generator learns structures by.

Where a truth cannot be foretold, the mean absolute difference is least for an image without contrast. SSIM compares the
contrast of windows and how they go with each other: of the images that agree with the truth as well, it is highest for
one of the truth's own contrast. Zhao et al. 2017 train by both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.networks.normalised import is_on_cpu
from translate.precision import at_least_float32

SIDE, SIGMA = 11, 1.5  # px, of the Gaussian window
BRIGHTNESS, CONTRAST = 0.01**2, 0.03**2  # C1 and C2, of intensities from 0 to 1
SCALES = 4  # of the loss, at most: windows of 11 px to 88


@dataclass(frozen=True)
class Windows:
    """What windows say of images and their truths, (N, C, H, W) each: their SSIM, and that without brightness."""

    ssim: Tensor
    contrast: Tensor


def compared(images: Tensor, truths: Tensor) -> Windows:
    """Compare all windows that lie within images (N, C, H, W) of intensities from 0 to 1, in the format they are in.

    The result has `SIDE` − 1 rows and columns less. Both sides must be at least `SIDE`.
    """
    # Means within windows: along one side and then the other, and channel by channel, which is five times as fast on a
    # CPU where channels lie innermost, as they do from here on (one channel lies both ways, five do not). A card would
    # give that layout to cuDNN, which may multiply in TF32: of its 10 bits E[x²] − E[x]² leaves little beside
    # `CONTRAST`. What lies in torch's usual layout goes to torch's own kernels.
    layout = torch.channels_last if is_on_cpu(images) else torch.contiguous_format
    images, truths = (each.contiguous(memory_format=layout) for each in (images, truths))
    moments = torch.cat([images, truths, images * images, truths * truths, images * truths], 1)
    moments = moments.contiguous(memory_format=layout)
    distances = torch.arange(SIDE, device=images.device, dtype=images.dtype) - SIDE // 2
    line = torch.exp(-(distances / SIGMA).square() / 2)
    num = moments.shape[1]
    line = (line / line.sum()).expand(num, 1, 1, SIDE)
    along = F.conv2d(moments, line, groups=num)
    means = F.conv2d(along, line.transpose(2, 3), groups=num)
    mean_x, mean_y, of_xx, of_yy, of_xy = means.chunk(5, 1)

    # The formula. Variances are rounded as the covariance is, and not cut off at 0: equal images have exactly 1.
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    variances = (of_xx - mean_x.square()) + (of_yy - mean_y.square())
    contrast = (2 * (of_xy - product) + CONTRAST) / (variances + CONTRAST)
    return Windows((2 * product + BRIGHTNESS) / (squares + BRIGHTNESS) * contrast, contrast)


def structural_distance(images: Tensor, truths: Tensor) -> Tensor:
    """Return 1 − SSIM of images (N, C, H, W) in [-1, 1], the mean over their windows and over scales: 0 to 2.

    The scales are the images as they are, at half their size, at a quarter and at an eighth: those with sides of at
    least `SIDE`, which the first must have. In at least float32; autocast must be off.
    """
    x, y = ((at_least_float32(each) + 1) / 2 for each in (images, truths))
    distances = [1 - compared(x, y).ssim.mean()]
    while len(distances) < SCALES and min(x.shape[-2:]) >= 2 * SIDE:
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        distances.append(1 - compared(x, y).ssim.mean())
    return torch.stack(distances).mean()
