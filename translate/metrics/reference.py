"""Scores of an image against its truth: PSNR, L1, gradient error, SSIM, MS-SSIM.

Each image is scored by itself and the scores are averaged, so that images may differ in size. SSIM and MS-SSIM are in
`structural_similarity.py`, LPIPS is in `perceptual.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.images.tensors import unknown_pixels
from translate.metrics.checks import check_pair
from translate.metrics.structural_similarity import BORDER, MIN_SIDE_MS_SSIM, MIN_SIDE_SSIM, ms_ssim, windows


def score(image: Tensor, truth: Tensor) -> dict[str, float]:
    """Return PSNR (dB), L1, gradient error, SSIM and MS-SSIM of an image and its truth, (1, C, H, W) in [-1, 1] each.

    Left out are SSIM of images with sides below 11 px, MS-SSIM below 176 px, and the gradient error of a flat truth.
    The PSNR of equal images is infinite. Pixels of which one of them has no data do not count, and of images with such
    pixels there is no MS-SSIM. Raises `DataError` for values that are not finite or not in [-1, 1].
    """
    image, truth = image.float(), truth.float()
    check_pair(image, truth)
    known = ~(unknown_pixels(image) | unknown_pixels(truth))
    if not known.all():
        return score_known(image, truth, known)
    scores = of_differences(image - truth)
    if min(image.shape[-2:]) > 1 and mean_gradient(truth) > 0:
        scores["gradient_error"] = gradient_error(image, truth).item()
    if min(image.shape[-2:]) >= MIN_SIDE_SSIM:
        seen = windows(image, truth)
        scores["ssim"] = seen.ssim.mean().item()
        if min(image.shape[-2:]) >= MIN_SIDE_MS_SSIM:
            scores["ms_ssim"] = ms_ssim(image, truth, seen)
    return scores


def score_known(image: Tensor, truth: Tensor, known: Tensor) -> dict[str, float]:
    """Return the scores of `score` over the pixels that are `known` (1, 1, H, W): none where there are none.

    The gradient and SSIM count where all of the pixels that they look at are known.
    """
    # Pixel by pixel.
    image, differences = torch.where(known, image, truth), (image - truth).expand_as(truth)[known.expand_as(truth)]
    if not len(differences):
        return {}
    scores = of_differences(differences)

    # A pixel with those below and beside it, and windows of SSIM, whose mirrored borders lie inside the image.
    if min(image.shape[-2:]) > 1:
        corners = (known[..., :-1, :-1] & known[..., 1:, :-1] & known[..., :-1, 1:]).expand(-1, image.shape[1], -1, -1)
        found, expected = (gradients(each)[corners].mean().item() for each in (image, truth))
        if expected > 0:
            scores["gradient_error"] = abs(found - expected) / expected
    if min(image.shape[-2:]) >= MIN_SIDE_SSIM:
        whole = F.max_pool2d(1 - known.float(), MIN_SIDE_SSIM, 1, BORDER) == 0
        if whole.any():
            everywhere = windows(image, truth).ssim
            scores["ssim"] = everywhere[whole.expand_as(everywhere)].mean().item()
    return scores


def of_differences(differences: Tensor) -> dict[str, float]:
    """Return PSNR and L1 of the differences of an image in [-1, 1] from its truth."""
    squared = differences.square().mean().item()
    return {"psnr": 10 * math.log10(2.0**2 / squared) if squared else math.inf,
            "l1": differences.abs().mean().item()}


def gradient_error(image: Tensor, truth: Tensor) -> Tensor:
    """Return |mean |∇image| − mean |∇truth|| / mean |∇truth|: 0 of an image as sharp as the truth, 1 of a flat one.

    It measures how much detail there is and not where: a blurred image scores badly even where its PSNR is the best.
    """
    return (mean_gradient(image) - mean_gradient(truth)).abs() / mean_gradient(truth)


def mean_gradient(image: Tensor) -> Tensor:
    """Return the mean length of the forward-difference gradient, over pixels and channels."""
    return gradients(image).mean()


def gradients(image: Tensor) -> Tensor:
    """Return the length of the forward-difference gradient of each pixel: (N, C, H − 1, W − 1)."""
    down = image[..., 1:, :-1] - image[..., :-1, :-1]
    right = image[..., :-1, 1:] - image[..., :-1, :-1]
    return (down.square() + right.square()).sqrt()
