"""Losses that compare an image with the one it should be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.precision import at_least_float32


def feature_matching(features: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """Return Σᵢ mean |Dᵢ(fake) − Dᵢ(real)| over a discriminator's layers (Wang et al. 2018, section 3.2)."""
    return torch.stack([l1_loss(found, real) for found, real in zip(features, truth, strict=True)]).sum()


def weighted_l1(image: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Return the mean absolute difference of two images where `weights` (N, 1, H, W) are not 0, times these.

    Each sample counts alike, however many pixels of it are weighted; one without any is 0.
    """
    image = at_least_float32(image)
    weights = weights.to(image.dtype)
    distance = ((image - truth.to(image.dtype)).abs().mean(1, keepdim=True) * weights).flatten(1).sum(1)
    return (distance / (weights != 0).flatten(1).sum(1).clamp(min=1)).mean()


def l1_loss(image: Tensor, truth: Tensor) -> Tensor:
    """Return the mean absolute difference of two images in [-1, 1], in at least float32 (Isola et al. 2017, eq. 3)."""
    image = at_least_float32(image)
    return F.l1_loss(image, truth.to(image.dtype))
