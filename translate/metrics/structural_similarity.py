"""SSIM (Wang et al. 2004: 11×11 Gaussian window, σ 1.5, mirrored borders) and MS-SSIM (Wang et al. 2003) of a pair.

They are torchmetrics' numbers, to rounding, in less time: the window is laid along one side and then along the other,
the numbers of a pixel lie beside each other while it is, and both scores share the finest scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE, SIGMA = 11, 1.5  # px, of the window
BORDER = SIDE // 2  # px, whose windows are mirrored in part
BRIGHTNESS, CONTRAST = 0.01**2, 0.03**2  # C1 and C2, of intensities from 0 to 1
SHARES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, from the finest one on
MIN_SIDE_SSIM = SIDE
MIN_SIDE_MS_SSIM = 176  # px; the coarsest of its five scales is then as large as the window


@dataclass(frozen=True)
class Windows:
    """What the windows around each pixel of a pair say, (1, C, H, W) each: its SSIM, and that without brightness."""

    ssim: Tensor
    contrast: Tensor


def windows(image: Tensor, truth: Tensor) -> Windows:
    """Compare the windows of a (1, C, H, W) pair in [-1, 1] with sides of at least `MIN_SIDE_SSIM`."""
    # Intensities from 0 to 1: SSIM compares brightnesses by their ratio, for which black must be 0
    x, y = (F.pad((each + 1) / 2, (BORDER,) * 4, mode="reflect") for each in (image, truth))

    # Means within windows: a convolution of each channel by itself is five times as fast where channels lie innermost
    moments = torch.cat([x, y, x * x, y * y, x * y], 1).contiguous(memory_format=torch.channels_last)
    distances = torch.arange(SIDE, device=x.device, dtype=x.dtype) - BORDER
    line = torch.exp(-(distances / SIGMA).square() / 2)
    num = moments.shape[1]
    line = (line / line.sum()).expand(num, 1, 1, SIDE)
    along = F.conv2d(moments, line, groups=num)
    means = F.conv2d(along, line.transpose(2, 3), groups=num).contiguous()
    mean_x, mean_y, of_xx, of_yy, of_xy = means.chunk(5, 1)

    # The formula. Variances are rounded as the covariance is, and not cut off at 0: equal images have exactly 1.
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    variances = (of_xx - mean_x.square()) + (of_yy - mean_y.square())
    contrast = (2 * (of_xy - product) + CONTRAST) / (variances + CONTRAST)
    return Windows((2 * product + BRIGHTNESS) / (squares + BRIGHTNESS) * contrast, contrast)


def ssim(image: Tensor, truth: Tensor) -> float:
    """Return the SSIM of a (1, C, H, W) pair in [-1, 1] with sides of at least `MIN_SIDE_SSIM`."""
    return windows(image, truth).ssim.mean().item()


def ms_ssim(image: Tensor, truth: Tensor, finest: Windows | None = None) -> float:
    """Return the MS-SSIM of a (1, C, H, W) pair in [-1, 1] with sides of at least `MIN_SIDE_MS_SSIM`.

    `finest` are the pair's own windows, where they are known. A negative term counts as 0, and mirrored windows count
    at the coarsest scale alone, as in torchmetrics.
    """
    inside = slice(BORDER, -BORDER)
    found = 1.0
    for scale, share in enumerate(SHARES):
        if scale:
            image, truth = F.avg_pool2d(image, 2), F.avg_pool2d(truth, 2)
        seen = windows(image, truth) if scale or finest is None else finest
        term = seen.ssim if scale == len(SHARES) - 1 else seen.contrast[..., inside, inside]
        found *= term.mean().clamp(min=0).item() ** share  # NaN stays NaN
    return found
