"""Prediction against truth, for pairs of images (N, C, H, W) in [-1, 1].

PSNR and SSIM are torchmetrics' (Wang et al. 2004: 11×11 Gaussian window, σ 1.5), over the data range 2. Each image
is scored by itself and the scores are averaged, so that images may differ in size.
"""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

SMALLEST_MS_SSIM = 161  # px: five scales of an 11 px window (Wang et al. 2003)


def score(image: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR (dB), SSIM, L1, gradient error, and MS-SSIM where both sides reach 161 px, of one (1, C, H, W) pair."""
    image, truth = image.float(), truth.float()
    scores = {
        "psnr": peak_signal_noise_ratio(image, truth, data_range=2.0).item(),
        "ssim": float(structural_similarity_index_measure(image, truth, data_range=2.0)),  # type: ignore[arg-type]
        "l1": (image - truth).abs().mean().item(),
        "gradient_error": gradient_error(image, truth).item(),
    }
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
