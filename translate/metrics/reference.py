"""Prediction against truth, for pairs of images (N, C, H, W) in [-1, 1].

PSNR, SSIM (Wang et al. 2004: 11×11 Gaussian window, σ 1.5, mirrored borders) and MS-SSIM (Wang et al. 2003) are
torchmetrics'. Each image is scored by itself and the scores are averaged, so that images may differ in size. LPIPS:
`perceptual.py`.
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
SMALLEST_MS_SSIM = 176  # px: at the coarsest of its five scales, still the window


def score(image: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR (dB), L1, gradient error, SSIM and MS-SSIM of one (1, C, H, W) pair.

    SSIM needs sides of 11 px, MS-SSIM of 176, and a gradient error a truth that is not flat; without, they are left
    out. Equal images have a PSNR of infinity. Raises `DataError` for values that are not finite or not in [-1, 1].
    """
    image, truth = image.float(), truth.float()
    check_pair(image, truth)
    scores = {
        "psnr": peak_signal_noise_ratio(image, truth, data_range=2.0).item(),
        "l1": (image - truth).abs().mean().item(),
    }
    if min(image.shape[-2:]) > 1 and mean_gradient(truth) > 0:
        scores["gradient_error"] = gradient_error(image, truth).item()
    if min(image.shape[-2:]) >= SMALLEST_SSIM:
        scores["ssim"] = ssim(image, truth)
    if min(image.shape[-2:]) >= SMALLEST_MS_SSIM:
        scores["ms_ssim"] = ms_ssim(image, truth)
    return scores


def ssim(image: Tensor, truth: Tensor) -> float:
    """SSIM of a (1, C, H, W) pair with sides of at least `SMALLEST_SSIM`."""
    return float(structural_similarity_index_measure(*_intensities(image, truth), data_range=1.0))  # type: ignore[arg-type]


def ms_ssim(image: Tensor, truth: Tensor) -> float:
    """MS-SSIM of a (1, C, H, W) pair with sides of at least `SMALLEST_MS_SSIM`."""
    return float(multiscale_structural_similarity_index_measure(*_intensities(image, truth), data_range=1.0))


def _intensities(image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """[-1, 1] → [0, 1]: SSIM compares the ratio of brightnesses, which needs black to be 0."""
    return (image + 1) / 2, (truth + 1) / 2


def gradient_error(image: Tensor, truth: Tensor) -> Tensor:
    """|mean |∇image| − mean |∇truth|| / mean |∇truth|: 0 when the image is as sharp as the truth, 1 when it is flat.

    It asks how much detail there is and not where: a blurred image scores badly although its PSNR may be the best.
    """
    return (mean_gradient(image) - mean_gradient(truth)).abs() / mean_gradient(truth)


def mean_gradient(image: Tensor) -> Tensor:
    """The mean length of the forward-difference gradient."""
    down = image[..., 1:, :-1] - image[..., :-1, :-1]
    right = image[..., :-1, 1:] - image[..., :-1, :-1]
    return (down.square() + right.square()).sqrt().mean()
