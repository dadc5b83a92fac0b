"""Prediction against truth, for pairs of images (N, C, H, W) in [-1, 1].

PSNR and SSIM are torchmetrics' (Wang et al. 2004: 11×11 Gaussian window, σ 1.5,
mirrored borders), over the data range 2. Each image is scored by itself and the scores are averaged, so that images
may differ in size. LPIPS: `perceptual.py`.
"""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from translate.metrics.checks import check_pair

SMALLEST_SSIM = 11  # px: its window
SMALLEST_MS_SSIM = 161  # px: five scales of an 11 px window (Wang et al. 2003)


def score(image: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR (dB), L1, gradient error, SSIM and MS-SSIM of one (1, C, H, W) pair.

    SSIM needs sides of 11 px, MS-SSIM of 161; below, they are left out. Equal images have
    a PSNR of infinity. Raises `DataError` for values that are not finite or not in [-1, 1].
    """
    image, truth = image.float(), truth.float()
    check_pair(image, truth)
    scores = {
        "psnr": peak_signal_noise_ratio(image, truth, data_range=2.0).item(),
        "l1": (image - truth).abs().mean().item(),
        "gradient_error": gradient_error(image, truth).item(),
    }
    if min(image.shape[-2:]) >= SMALLEST_SSIM:
        scores["ssim"] = float(structural_similarity_index_measure(image, truth, data_range=2.0))  # type: ignore[arg-type]
    if min(image.shape[-2:]) >= SMALLEST_MS_SSIM:
        scores["ms_ssim"] = multiscale_structural_similarity_index_measure(image, truth, data_range=2.0).item()
    return scores


def gradient_error(image: Tensor, truth: Tensor) -> Tensor:
    """|mean |∇image| − mean |∇truth|| / mean |∇truth|: 0 when the image is as sharp as the truth, 1 when it is flat.

    It asks how much detail there is and not where: a blurred image scores badly although its PSNR may be the best.
    """
    return (mean_gradient(image) - mean_gradient(truth)).abs() / mean_gradient(truth).clamp_min(1e-12)


def mean_gradient(image: Tensor) -> Tensor:
    """The mean length of the forward-difference gradient."""
    down = image[..., 1:, :-1] - image[..., :-1, :-1]
    right = image[..., :-1, 1:] - image[..., :-1, :-1]
    return (down.square() + right.square()).sqrt().mean()
