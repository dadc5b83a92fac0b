"""Losses that compare an image with the one it should be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_matching(features: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """Σᵢ mean |Dᵢ(fake) − Dᵢ(real)| over a discriminator's layers (Wang et al. 2018, section 3.2)."""
    return torch.stack([l1_loss(found, real) for found, real in zip(features, truth, strict=True)]).sum()


def l1_loss(image: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of two images in [-1, 1], computed in at least float32 (Isola et al. 2017, eq. 3)."""
    dtype = torch.promote_types(image.dtype, torch.float32)
    return F.l1_loss(image.to(dtype), truth.to(dtype))
