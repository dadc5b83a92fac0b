"""SSIM (Wang et al. 2004: 11×11 Gaussian window, σ 1.5, mirrored borders) and MS-SSIM (Wang et al. 2003) of a pair.

They are torchmetrics' numbers, to rounding, in less time: the window is laid along one side and then along the other
(`translate.losses.structural`), and both scores share the finest scale.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from translate.losses.structural import SIDE, Windows, compared

BORDER = SIDE // 2  # px, whose windows are mirrored in part
SHARES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, from the finest one on
MIN_SIDE_SSIM = SIDE
MIN_SIDE_MS_SSIM = 176  # px; the coarsest of its five scales is then as large as the window


def windows(image: Tensor, truth: Tensor) -> Windows:
    """Compare the windows of a (1, C, H, W) pair in [-1, 1] with sides of at least `MIN_SIDE_SSIM`."""
    # Intensities from 0 to 1: SSIM compares brightnesses by their ratio, for which black must be 0
    x, y = (F.pad((each + 1) / 2, (BORDER,) * 4, mode="reflect") for each in (image, truth))
    return compared(x, y)


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
